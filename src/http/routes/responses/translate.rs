//! A request of the Responses API as a chat completion.

use serde_json::{Map, Value};

use super::items;
use crate::http::conversation::{Translated, one_answer};
use crate::http::error::ApiError;
use crate::http::job::metadata;
use crate::http::job::names::Names;
use crate::openai::responses::{
    ChosenTools, ReasoningSettings, ResponsesRequest, ResponsesTool, ResponsesToolChoice, TextFormat, TextSettings,
};
use crate::openai::{
    ChatRequest, FunctionSpec, JsonSchemaFormat, NamedTool, ResponseFormat, ToolChoice, ToolName, ToolSpec,
};

/// The fields that the Responses API calls otherwise than chat completions do.
pub const NAMES: Names = &[
    ("messages", "input"),
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
    (".function.", "."),
];

/// What OpenAI's clients may ask to be included.
const INCLUDED: &[&str] = &[
    LOGPROBS,
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
];
const LOGPROBS: &str = "message.output_text.logprobs";

/// What a response repeats of its request.
pub struct Repeated {
    pub instructions: Option<String>,
    pub max_output_tokens: Option<i64>,
    pub parallel_tool_calls: bool,
    pub reasoning: ReasoningSettings,
    pub text: TextSettings,
    pub tool_choice: ResponsesToolChoice,
    pub tools: Vec<ResponsesTool>,
    pub top_logprobs: i64,
    pub user: Option<String>,
    pub metadata: Map<String, Value>,
}

/// The chat completion that `asked` stands for.
///
/// # Errors
/// Names the field that asks for something that is not served, or that cannot be read.
pub fn translate(asked: ResponsesRequest) -> Result<Translated<Repeated>, ApiError> {
    stateless(&asked)?;
    let (search_budget, search) = metadata::search(asked.metadata.as_ref(), asked.search_budget, asked.search)?;
    let included = asked.include.unwrap_or_default();
    if let Some(unknown) = included.iter().find(|value| !INCLUDED.contains(&value.as_str())) {
        let message = format!("`include` must hold nothing but {}, got {unknown:?}", INCLUDED.join(", "));
        return Err(ApiError::invalid("include", message));
    }
    let top_logprobs = asked.top_logprobs.unwrap_or(0);
    let tools = asked.tools.unwrap_or_default();
    let specs: Vec<ToolSpec> = tools.iter().enumerate().map(spec).collect::<Result<_, _>>()?;
    let (specs, tool_choice) = chosen(specs, asked.tool_choice.as_ref())?;
    let text = asked.text.unwrap_or_default();
    let reasoning = asked.reasoning.unwrap_or_default();
    let metadata = asked.metadata.unwrap_or_default();
    let chat = ChatRequest {
        messages: items::turns(asked.instructions.as_deref(), asked.input)?,
        max_completion_tokens: asked.max_output_tokens,
        logprobs: (top_logprobs != 0 || included.iter().any(|value| value == LOGPROBS)).then_some(true),
        top_logprobs: Some(top_logprobs).filter(|top| *top != 0),
        chat_template_kwargs: asked.chat_template_kwargs,
        reasoning_effort: reasoning.effort.clone(),
        response_format: text.format.clone().map(format),
        structured_outputs: asked.structured_outputs,
        search_budget,
        search,
        tools: Some(specs).filter(|specs| !specs.is_empty()),
        tool_choice,
        parallel_tool_calls: asked.parallel_tool_calls,
        drawing: asked.drawing,
        ..ChatRequest::default()
    };
    let bytes = asked.instructions.as_ref().map_or(0, String::len);
    let rest = Repeated {
        instructions: asked.instructions,
        max_output_tokens: asked.max_output_tokens,
        parallel_tool_calls: asked.parallel_tool_calls.unwrap_or(true),
        reasoning,
        text: TextSettings { format: Some(text.format.unwrap_or_else(any_text)), ..text },
        tool_choice: asked.tool_choice.unwrap_or_else(|| ResponsesToolChoice::Word("auto".into())),
        tools,
        top_logprobs,
        user: chat.drawing.user.clone(),
        metadata,
    };
    Ok(Translated { chat, rest, bytes })
}

/// Refuses what needs an earlier response or several answers.
fn stateless(asked: &ResponsesRequest) -> Result<(), ApiError> {
    if asked.store == Some(true) {
        let message = "`store` must be false: this server keeps no responses";
        return Err(ApiError::invalid("store", message));
    }
    if asked.previous_response_id.is_some() {
        let message = "`previous_response_id` is not supported, since no response is kept; send the whole conversation in `input`";
        return Err(ApiError::invalid("previous_response_id", message));
    }
    if let Some(other) = asked.truncation.as_deref().filter(|word| !["auto", "disabled"].contains(word)) {
        let message = format!("`truncation` must be auto or disabled, got {other:?}");
        return Err(ApiError::invalid("truncation", message));
    }
    one_answer(asked.drawing.n)
}

fn any_text() -> TextFormat {
    TextFormat { kind: "text".into(), name: None, description: None, schema: None, strict: None }
}

fn format(format: TextFormat) -> ResponseFormat {
    let json_schema = (format.kind == "json_schema").then_some(JsonSchemaFormat {
        name: format.name,
        schema: format.schema.clone(),
        strict: format.strict,
    });
    // Next to any other type it is refused, or honoured, as a chat completion's.
    let schema = format.schema.filter(|_| json_schema.is_none());
    ResponseFormat { kind: format.kind, json_schema, schema }
}

fn spec((index, tool): (usize, &ResponsesTool)) -> Result<ToolSpec, ApiError> {
    if tool.kind != "function" {
        let param = format!("tools[{index}].type");
        let message =
            format!("`{param}` must be function, since this server runs no tools itself, got {:?}", tool.kind);
        return Err(ApiError::invalid(&param, message));
    }
    let function = FunctionSpec {
        name: tool.name.clone(),
        description: tool.description.clone(),
        parameters: tool.parameters.clone(),
        strict: tool.strict,
    };
    Ok(ToolSpec { kind: "function".into(), function })
}

/// The functions that may be called, and whether one has to be.
fn chosen(
    mut specs: Vec<ToolSpec>,
    choice: Option<&ResponsesToolChoice>,
) -> Result<(Vec<ToolSpec>, Option<ToolChoice>), ApiError> {
    let refuse = |param: &str, message: String| Err(ApiError::invalid(param, format!("`{param}` {message}")));
    let chosen = match choice {
        None => return Ok((specs, None)),
        Some(ResponsesToolChoice::Word(word)) => return Ok((specs, Some(ToolChoice::Word(word.clone())))),
        Some(ResponsesToolChoice::Chosen(chosen)) => chosen,
    };
    match chosen {
        ChosenTools { kind, name: Some(name), .. } if kind == "function" => {
            let function = ToolName { name: name.clone() };
            Ok((specs, Some(ToolChoice::Named(NamedTool { kind: "function".into(), function }))))
        }
        ChosenTools { kind, .. } if kind == "function" => refuse("tool_choice.name", "is missing".into()),
        ChosenTools { kind, mode, tools, .. } if kind == "allowed_tools" => {
            let allowed = tools.as_deref().unwrap_or_default();
            let offered = |name: &str| specs.iter().any(|spec| spec.function.name == name);
            if let Some(index) = allowed.iter().position(|tool| tool.kind != "function" || !offered(&tool.name)) {
                return refuse(&format!("tool_choice.tools[{index}]"), "must name a function of `tools`".into());
            }
            let word = match mode.as_deref() {
                Some(word @ ("auto" | "required")) => word,
                other => {
                    let got = other.unwrap_or("nothing");
                    return refuse("tool_choice.mode", format!("must be auto or required, got {got:?}"));
                }
            };
            specs.retain(|spec| allowed.iter().any(|tool| tool.name == spec.function.name));
            Ok((specs, Some(ToolChoice::Word(word.into()))))
        }
        ChosenTools { kind, .. } => {
            refuse("tool_choice.type", format!("must be function or allowed_tools, got {kind:?}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::door::body;

    fn translated(fields: Value) -> Result<Value, String> {
        let mut body = json!({"input": "hi"});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let asked: ResponsesRequest =
            body::parse(body.to_string().as_bytes()).map_err(|error| error.body().error.param.unwrap())?;
        let chat = translate(asked).map_err(|error| error.body().error.param.unwrap())?.chat;
        Ok(json!(chat).as_object().unwrap().iter().filter(|(_, value)| !value.is_null()).fold(
            json!({}),
            |mut all, (name, value)| {
                all[name] = value.clone();
                all
            },
        ))
    }

    #[test]
    fn fields_become_those_of_a_chat_completion() {
        let tool =
            |name: &str| json!({"type": "function", "name": name, "parameters": {"type": "object"}, "strict": true});
        for (fields, expected) in [
            (json!({}), json!({})),
            (
                json!({"max_output_tokens": 9, "temperature": 0.5}),
                json!({"max_completion_tokens": 9, "temperature": 0.5}),
            ),
            (json!({"reasoning": {"effort": "low", "summary": "auto"}}), json!({"reasoning_effort": "low"})),
            (json!({"include": ["message.output_text.logprobs"]}), json!({"logprobs": true})),
            (json!({"top_logprobs": 2}), json!({"logprobs": true, "top_logprobs": 2})),
            (
                json!({"text": {"format": {"type": "json_object"}}}),
                json!({"response_format": {"type": "json_object", "json_schema": null, "schema": null}}),
            ),
            (
                json!({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}, "strict": true}}}),
                json!({"response_format": {"type": "json_schema",
                    "json_schema": {"name": "a", "schema": {"type": "object"}, "strict": true}, "schema": null}}),
            ),
            (json!({"metadata": {"search_budget": "3", "a": "b"}}), json!({"search_budget": 3})),
            (
                json!({"store": false, "previous_response_id": null, "truncation": "auto", "background": false}),
                json!({}),
            ),
            (json!({"tool_choice": "none"}), json!({"tool_choice": "none"})),
        ] {
            let mut expected = expected;
            expected["messages"] = json!([{"role": "user", "content": "hi", "reasoning_content": null, "tool_calls": null,
                "tool_call_id": null, "name": null}]);
            let given = translated(fields.clone()).unwrap();
            assert_eq!(given, expected, "{fields}");
        }
        let both = translated(json!({"tools": [tool("a"), tool("b")], "parallel_tool_calls": false,
            "tool_choice": {"type": "function", "name": "b"}}))
        .unwrap();
        assert_eq!(both["tools"][0]["function"]["name"], "a");
        assert_eq!(both["tool_choice"]["function"]["name"], "b");
        assert_eq!(both["parallel_tool_calls"], false);
        let some = translated(json!({"tools": [tool("a"), tool("b")], "tool_choice": {"type": "allowed_tools",
            "mode": "required", "tools": [{"type": "function", "name": "b"}]}}))
        .unwrap();
        assert_eq!((some["tools"].as_array().unwrap().len(), &some["tool_choice"]), (1, &json!("required")));
    }

    #[test]
    fn what_needs_state_or_other_tools_is_refused_by_name() {
        for (fields, expected) in [
            (json!({"store": true}), "store"),
            (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
            (json!({"conversation": "conv_1"}), "conversation"),
            (json!({"background": true}), "background"),
            (json!({"prompt": {"id": "p"}}), "prompt"),
            (json!({"n": 2}), "n"),
            (json!({"truncation": "middle"}), "truncation"),
            (json!({"include": ["everything"]}), "include"),
            (json!({"max_tokens": 5}), "max_tokens"),
            (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
            (json!({"tool_choice": {"type": "file_search"}}), "tool_choice.type"),
            (json!({"tool_choice": {"type": "function"}}), "tool_choice.name"),
            (
                json!({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "x"}]}}),
                "tool_choice.tools[0]",
            ),
            (json!({"tool_choice": {"type": "allowed_tools", "tools": []}}), "tool_choice.mode"),
            (json!({"metadata": {"search_budget": "x"}}), "metadata.search_budget"),
        ] {
            assert_eq!(translated(fields.clone()), Err(expected.into()), "{fields}");
        }
    }
}
