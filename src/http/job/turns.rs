//! The turns of a request and the variables of its chat template, checked.

use crate::chat::{Effort, Message, RESERVED, Role, TemplateKwargs, TemplateOptions, ToolCall};
use crate::http::error::ApiError;
use crate::openai::{ChatMessage, Content};

/// The variables of a chat's template, from the request's fields.
///
/// # Errors
/// Names the field.
pub fn template(kwargs: Option<&TemplateKwargs>, effort: Option<&str>) -> Result<TemplateOptions, ApiError> {
    let kwargs = kwargs.cloned().unwrap_or_default();
    if let Some(name) = kwargs.keys().find(|name| RESERVED.contains(&name.as_str())) {
        let param = format!("chat_template_kwargs.{name}");
        let message = format!("`{param}` is set by the server for every chat; leave it out");
        return Err(ApiError::invalid(&param, message));
    }
    let known = |word: &str| Effort::ALL.into_iter().find(|effort| effort.name() == word);
    let effort = effort.map(|word| {
        known(word).ok_or_else(|| {
            let words = Effort::ALL.map(Effort::name).join(", ");
            let message = format!("`reasoning_effort` must be one of {words}, got {word:?}");
            ApiError::invalid("reasoning_effort", message)
        })
    });
    Ok(TemplateOptions::new(kwargs, effort.transpose()?))
}

/// The turns of a request.
///
/// # Errors
/// Names the field.
pub fn conversation(messages: &[ChatMessage]) -> Result<Vec<Message>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` must hold at least one message"));
    }
    messages.iter().enumerate().map(|(index, message)| turn(index, message)).collect()
}

fn turn(index: usize, message: &ChatMessage) -> Result<Message, ApiError> {
    let role = match message.role.as_str() {
        "system" | "developer" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "tool" | "function" => Role::Tool,
        other => {
            let param = format!("messages[{index}].role");
            let text = format!("`{param}` must be system, developer, user, assistant or tool, got {other:?}");
            return Err(ApiError::invalid(param, text));
        }
    };
    let content = match &message.content {
        Some(Content::Text(text)) => text.clone(),
        Some(Content::Parts(parts)) => {
            let mut texts = Vec::with_capacity(parts.len());
            for (at, part) in parts.iter().enumerate() {
                let param = format!("messages[{index}].content[{at}]");
                match (part.kind.as_str(), &part.text) {
                    ("text", Some(text)) => texts.push(text.as_str()),
                    ("refusal", _) if role == Role::Assistant => texts.extend(part.refusal.as_deref()),
                    ("text", None) => return Err(ApiError::invalid(&param, format!("`{param}.text` is missing"))),
                    (kind, _) => {
                        let text = format!("`{param}` is of type {kind:?}; only text is served here");
                        return Err(ApiError::invalid(&param, text));
                    }
                }
            }
            texts.join("\n")
        }
        None if role == Role::Assistant && message.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty()) => {
            String::new()
        }
        None => {
            let param = format!("messages[{index}].content");
            return Err(ApiError::invalid(&param, format!("`{param}` must be a string or a list of text parts")));
        }
    };
    let reasoning = message.reasoning_content.clone().filter(|_| role == Role::Assistant);
    let calls = message.tool_calls.iter().flatten().map(ToolCall::from);
    Ok(Message {
        reasoning,
        tool_calls: calls.filter(|_| role == Role::Assistant).collect(),
        tool_call_id: message.tool_call_id.clone().filter(|_| role == Role::Tool),
        name: message.name.clone().filter(|_| role == Role::Tool),
        ..Message::new(role, content)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_is_what_an_assistant_said() {
        let turn = |role: &str| {
            let content = json!([{"type": "text", "text": "Hm."}, {"type": "refusal", "refusal": "I cannot."}]);
            let message: ChatMessage = serde_json::from_value(json!({"role": role, "content": content})).unwrap();
            conversation(&[message]).map(|turns| turns[0].content.clone()).map_err(|error| error.to_string())
        };
        assert_eq!(turn("assistant"), Ok("Hm.\nI cannot.".into()));
        assert!(turn("user").unwrap_err().contains("`messages[0].content[1]` is of type \"refusal\""));
    }
}
