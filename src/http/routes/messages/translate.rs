//! A request of the Messages API as a chat completion.

use serde_json::json;

use super::turns::turns;
use crate::anthropic::{MessagesPrompt, MessagesRequest, MessagesTool, MessagesToolChoice, ThinkingSettings};
use crate::http::conversation::{Translated, one_answer};
use crate::http::error::ApiError;
use crate::http::job::metadata;
use crate::http::job::names::Names;
use crate::openai::{
    ChatRequest, DrawingFields, FunctionSpec, JsonSchemaFormat, NamedTool, ResponseFormat, Stop, ToolChoice, ToolName,
    ToolSpec,
};

/// The fields that the Messages API calls otherwise than chat completions do.
pub const NAMES: Names = &[
    ("max_completion_tokens", "max_tokens"),
    ("stop", "stop_sequences"),
    ("reasoning_effort", "output_config.effort"),
    ("response_format.json_schema", "output_config.format"),
    ("response_format", "output_config.format"),
    (".function.parameters", ".input_schema"),
    (".function.", "."),
];

/// Whether the text of the thinking is part of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thinking {
    /// It is shown as it comes.
    Shown,
    /// Its block stays empty.
    Omitted,
}

/// The chat completion that `asked` stands for.
///
/// # Errors
/// Names the field that asks for something that is not served, or that cannot be read.
pub fn translate(asked: MessagesRequest) -> Result<Translated<Thinking>, ApiError> {
    one_answer(asked.drawing.n)?;
    let omitted = asked.prompt.thinking.as_ref().is_some_and(|thinking| thinking.display.as_deref() == Some("omitted"));
    let (search_budget, search) = metadata::search(asked.metadata.as_ref(), asked.search_budget, asked.search)?;
    let stop = match (asked.stop_sequences, asked.drawing.stop) {
        (Some(own), None) => Some(Stop::Many(own)),
        (None, other) => other,
        (Some(_), Some(_)) => {
            let message = "`stop` and `stop_sequences` both say where an answer ends; send one of them";
            return Err(ApiError::invalid("stop_sequences", message));
        }
    };
    let chat = ChatRequest {
        max_completion_tokens: Some(asked.max_tokens),
        search_budget,
        search,
        drawing: DrawingFields { stop, ..asked.drawing },
        ..prompt(asked.prompt)?
    };
    let rest = if omitted { Thinking::Omitted } else { Thinking::Shown };
    Ok(Translated { chat, rest, bytes: 0 })
}

/// A chat completion with this prompt.
///
/// # Errors
/// As [`translate`].
pub fn prompt(prompt: MessagesPrompt) -> Result<ChatRequest, ApiError> {
    let tools = prompt.tools.unwrap_or_default();
    let tools: Vec<ToolSpec> = tools.into_iter().enumerate().map(spec).collect::<Result<_, _>>()?;
    let output = prompt.output_config.unwrap_or_default();
    let response_format = match output.format {
        None => None,
        Some(format) if format.kind == "json_schema" => {
            let schema = Some(format.schema.ok_or_else(|| {
                ApiError::invalid("output_config.format.schema", "`output_config.format.schema` is missing")
            })?);
            let json_schema = Some(JsonSchemaFormat { name: None, schema, strict: None });
            Some(ResponseFormat { kind: format.kind, json_schema, schema: None })
        }
        Some(format) => {
            let message = format!("`output_config.format.type` must be json_schema, got {:?}", format.kind);
            return Err(ApiError::invalid("output_config.format.type", message));
        }
    };
    let parallel = prompt.tool_choice.as_ref().and_then(|choice| choice.disable_parallel_tool_use);
    let mut chat = ChatRequest {
        messages: turns(prompt.system, prompt.messages)?,
        tools: Some(tools).filter(|tools| !tools.is_empty()),
        tool_choice: prompt.tool_choice.map(tool_choice).transpose()?,
        parallel_tool_calls: parallel.map(|disabled| !disabled),
        chat_template_kwargs: prompt.chat_template_kwargs,
        reasoning_effort: output.effort,
        response_format,
        ..ChatRequest::default()
    };
    if let Some(settings) = prompt.thinking {
        think(&mut chat, &settings)?;
    }
    Ok(chat)
}

/// Turns the model's thinking on or off; variables of the template that the request names have the last word.
fn think(chat: &mut ChatRequest, settings: &ThinkingSettings) -> Result<(), ApiError> {
    match settings.kind.as_str() {
        "enabled" => {
            let kwargs = chat.chat_template_kwargs.get_or_insert_default();
            for switch in ["enable_thinking", "thinking"] {
                kwargs.entry(switch).or_insert(json!(true));
            }
        }
        "disabled" => chat.reasoning_effort = Some("none".into()),
        "adaptive" => {}
        other => {
            let message = format!("`thinking.type` must be enabled, disabled or adaptive, got {other:?}");
            return Err(ApiError::invalid("thinking.type", message));
        }
    }
    match settings.display.as_deref() {
        None | Some("summarized" | "omitted") => Ok(()),
        Some(other) => {
            let message = format!("`thinking.display` must be summarized or omitted, got {other:?}");
            Err(ApiError::invalid("thinking.display", message))
        }
    }
}

fn spec((index, tool): (usize, MessagesTool)) -> Result<ToolSpec, ApiError> {
    if let Some(kind) = tool.kind.filter(|kind| kind != "custom") {
        let param = format!("tools[{index}].type");
        let message = format!("`{param}` must be custom, since this server runs no tools itself, got {kind:?}");
        return Err(ApiError::invalid(&param, message));
    }
    let function =
        FunctionSpec { name: tool.name, description: tool.description, parameters: tool.input_schema, strict: None };
    Ok(ToolSpec { kind: "function".into(), function })
}

fn tool_choice(choice: MessagesToolChoice) -> Result<ToolChoice, ApiError> {
    let word = |word: &str| Ok(ToolChoice::Word(word.into()));
    match (choice.kind.as_str(), choice.name) {
        ("auto", _) => word("auto"),
        ("any", _) => word("required"),
        ("none", _) => word("none"),
        ("tool", Some(name)) => {
            Ok(ToolChoice::Named(NamedTool { kind: "function".into(), function: ToolName { name } }))
        }
        ("tool", None) => {
            Err(ApiError::invalid("tool_choice.name", "`tool_choice.name` is missing: it names the function to call"))
        }
        (other, _) => {
            let message = format!("`tool_choice.type` must be auto, any, tool or none, got {other:?}");
            Err(ApiError::invalid("tool_choice.type", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::http::door::body;

    fn translated(fields: &Value) -> Result<Value, String> {
        let mut body = json!({"max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let named = |error: ApiError| error.body().error.param.unwrap();
        let asked: MessagesRequest = body::parse(body.to_string().as_bytes()).map_err(named)?;
        let chat = json!(translate(asked).map_err(named)?.chat);
        let sent = |(name, value): &(String, Value)| !value.is_null() && name != "messages";
        Ok(chat.as_object().unwrap().clone().into_iter().filter(sent).collect())
    }

    #[test]
    fn fields_become_those_of_a_chat_completion() {
        for (fields, expected) in [
            (json!({"temperature": 0.5, "top_k": 3, "anthropic_beta": ["x"]}), json!({"temperature": 0.5, "top_k": 3})),
            (json!({"stop_sequences": ["a", "b"]}), json!({"stop": ["a", "b"]})),
            (json!({"metadata": {"user_id": "u", "search_budget": "2"}}), json!({"search_budget": 2})),
            (json!({"thinking": {"type": "disabled"}}), json!({"reasoning_effort": "none"})),
            (
                json!({"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}}),
                json!({"reasoning_effort": "low"}),
            ),
            (
                json!({"thinking": {"type": "enabled", "budget_tokens": 1024}, "chat_template_kwargs": {"thinking": 1}}),
                json!({"chat_template_kwargs": {"thinking": 1, "enable_thinking": true}}),
            ),
            (
                json!({"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}}),
                json!({"response_format": {"type": "json_schema",
                    "json_schema": {"name": null, "schema": {"type": "object"}, "strict": null}, "schema": null}}),
            ),
            (
                json!({"tools": [{"name": "a", "description": "d", "input_schema": {"type": "object"}}],
                    "tool_choice": {"type": "any", "disable_parallel_tool_use": true}}),
                json!({"tools": [{"type": "function", "function": {"name": "a", "description": "d",
                    "parameters": {"type": "object"}, "strict": null}}], "tool_choice": "required", "parallel_tool_calls": false}),
            ),
            (
                json!({"tool_choice": {"type": "tool", "name": "a"}}),
                json!({"tool_choice": {"type": "function", "function": {"name": "a"}}}),
            ),
            (json!({"tool_choice": {"type": "none"}}), json!({"tool_choice": "none"})),
        ] {
            let mut expected = expected;
            expected["max_completion_tokens"] = json!(9);
            assert_eq!(translated(&fields), Ok(expected), "{fields}");
        }
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (fields, expected) in [
            (json!({"max_tokens": null}), "max_tokens"),
            (json!({"n": 2}), "n"),
            (json!({"stop": "a", "stop_sequences": ["b"]}), "stop_sequences"),
            (json!({"thinking": {"type": "often"}}), "thinking.type"),
            (json!({"thinking": {"type": "enabled", "display": "loud"}}), "thinking.display"),
            (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "tools[0].type"),
            (json!({"tool_choice": {"type": "some"}}), "tool_choice.type"),
            (json!({"tool_choice": {"type": "tool"}}), "tool_choice.name"),
            (json!({"output_config": {"format": {"type": "regex"}}}), "output_config.format.type"),
            (json!({"output_config": {"format": {"type": "json_schema"}}}), "output_config.format.schema"),
            (json!({"mcp_servers": [{"url": "x"}]}), "mcp_servers"),
            (json!({"container": "c"}), "container"),
            (json!({"system": 5}), "system"),
            (json!({"messages": [{"role": "user"}]}), "messages[0]"),
        ] {
            assert_eq!(translated(&fields), Err(expected.into()), "{fields}");
        }
    }
}
