//! Turns of the Messages API as turns of a chat.

use crate::anthropic::{Block, Blocks, InputMessage};
use crate::http::error::ApiError;
use crate::openai::{ChatMessage, Content, ContentPart, FunctionCall, ToolCallEntry};

/// The turns of a conversation: the system's first, then the others in their order. Neighbours of one role are one turn.
///
/// # Errors
/// Names the block and its field.
pub fn turns(system: Option<Blocks>, messages: Vec<InputMessage>) -> Result<Vec<ChatMessage>, ApiError> {
    let mut turns = Vec::new();
    if let Some(blocks) = system {
        said(&mut turns, "system", texts(blocks, "system")?);
    }
    if messages.last().is_some_and(|last| last.role == "assistant") {
        let message =
            "`messages` must not end with an assistant's turn: answers are not continued from their beginning";
        return Err(ApiError::invalid("messages", message));
    }
    for (index, InputMessage { role, content }) in messages.into_iter().enumerate() {
        let at = format!("messages[{index}].content");
        match role.as_str() {
            "user" => user(&mut turns, content, &at)?,
            "assistant" => assistant(&mut turns, content, &at)?,
            "system" => said(&mut turns, "system", texts(content, &at)?),
            other => {
                let param = format!("messages[{index}].role");
                let message = format!("`{param}` must be user, assistant or system, got {other:?}");
                return Err(ApiError::invalid(&param, message));
            }
        }
    }
    Ok(turns)
}

fn user(turns: &mut Vec<ChatMessage>, content: Blocks, at: &str) -> Result<(), ApiError> {
    for (index, block) in list(content).into_iter().enumerate() {
        let at = format!("{at}[{index}]");
        match block.kind.as_str() {
            "tool_result" => {
                let id = required(block.tool_use_id, &at, "tool_use_id")?;
                let parts = block.content.map_or(Ok(Vec::new()), |blocks| texts(blocks, &format!("{at}.content")))?;
                let result: Vec<String> = parts.into_iter().filter_map(|part| part.text).collect();
                let failed = if block.is_error == Some(true) { "Error: " } else { "" };
                let content = Some(Content::Text(format!("{failed}{}", result.join("\n"))));
                turns.push(ChatMessage { tool_call_id: Some(id), content, ..turn("tool") });
            }
            _ => said(turns, "user", vec![text(block, &at)?]),
        }
    }
    Ok(())
}

fn assistant(turns: &mut Vec<ChatMessage>, content: Blocks, at: &str) -> Result<(), ApiError> {
    for (index, block) in list(content).into_iter().enumerate() {
        let at = format!("{at}[{index}]");
        match block.kind.as_str() {
            "thinking" => {
                let thought = required(block.thinking, &at, "thinking")?;
                last(turns, "assistant").reasoning_content.get_or_insert_default().push_str(&thought);
            }
            // It is encrypted for the server that wrote it.
            "redacted_thinking" => {}
            "tool_use" => {
                let id = required(block.id, &at, "id")?;
                let name = required(block.name, &at, "name")?;
                let arguments = required(block.input, &at, "input")?.0;
                if !arguments.starts_with('{') {
                    let param = format!("{at}.input");
                    return Err(ApiError::invalid(&param, format!("`{param}` must be an object")));
                }
                let call = ToolCallEntry { id, kind: "function".into(), function: FunctionCall { name, arguments } };
                last(turns, "assistant").tool_calls.get_or_insert_default().push(call);
            }
            _ => said(turns, "assistant", vec![text(block, &at)?]),
        }
    }
    // A turn that holds nothing which the model could read is an empty one.
    if let Some(ChatMessage { content: content @ None, tool_calls: None, .. }) = turns.last_mut() {
        *content = Some(Content::Text(String::new()));
    }
    Ok(())
}

/// Adds text to the last turn where it has that role, or begins one.
fn said(turns: &mut Vec<ChatMessage>, role: &str, parts: Vec<ContentPart>) {
    let turn = last(turns, role);
    match &mut turn.content {
        Some(Content::Parts(before)) => before.extend(parts),
        // What an empty turn was given.
        Some(Content::Text(_)) | None => turn.content = Some(Content::Parts(parts)),
    }
}

/// The last turn, which has that role.
fn last<'a>(turns: &'a mut Vec<ChatMessage>, role: &str) -> &'a mut ChatMessage {
    if turns.last().is_none_or(|turn| turn.role != role) {
        turns.push(turn(role));
    }
    turns.last_mut().expect("a turn is there, or was pushed")
}

fn turn(role: &str) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content: None,
        reasoning_content: None,
        tool_calls: None,
        tool_call_id: None,
        name: None,
    }
}

fn list(content: Blocks) -> Vec<Block> {
    match content {
        Blocks::Text(text) => vec![Block { kind: "text".into(), text: Some(text), ..Block::default() }],
        Blocks::List(blocks) => blocks,
    }
}

/// Blocks of which all must be text.
fn texts(content: Blocks, at: &str) -> Result<Vec<ContentPart>, ApiError> {
    list(content).into_iter().enumerate().map(|(index, block)| text(block, &format!("{at}[{index}]"))).collect()
}

fn text(block: Block, at: &str) -> Result<ContentPart, ApiError> {
    if block.kind != "text" {
        let message = format!("`{at}` is of type {:?}; only text is served here", block.kind);
        return Err(ApiError::invalid(at, message));
    }
    Ok(ContentPart { kind: block.kind, text: Some(required(block.text, at, "text")?), refusal: None })
}

fn required<T>(value: Option<T>, at: &str, field: &str) -> Result<T, ApiError> {
    value.ok_or_else(|| {
        let param = format!("{at}.{field}");
        ApiError::invalid(&param, format!("`{param}` is missing"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(system: Value, messages: Value) -> Result<Value, String> {
        let system: Option<Blocks> = serde_json::from_value(system).unwrap();
        match turns(system, serde_json::from_value(messages).unwrap()) {
            Ok(turns) => Ok(turns.iter().map(shown).collect()),
            Err(ApiError::Invalid { param, .. }) => Err(param.unwrap()),
            Err(other) => panic!("{other:?}"),
        }
    }

    /// A turn without its absent fields, and its text as one string.
    fn shown(turn: &ChatMessage) -> Value {
        let mut all = json!(turn);
        if let Some(Content::Parts(parts)) = &turn.content {
            let texts: Vec<&str> = parts.iter().filter_map(|part| part.text.as_deref()).collect();
            all["content"] = texts.join("|").into();
        }
        all.as_object().unwrap().clone().into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    #[test]
    fn blocks_become_turns() {
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let block = |text: &str| json!({"type": "text", "text": text, "cache_control": {"type": "ephemeral"}});
        for (system, messages, expected) in [
            (json!(null), json!([said("user", "hi")]), json!([said("user", "hi")])),
            (json!("brief"), json!([said("user", "hi")]), json!([said("system", "brief"), said("user", "hi")])),
            (
                json!([block("a"), block("b")]),
                json!([said("user", "hi"), {"role": "user", "content": [block("there")]}]),
                json!([said("system", "a|b"), said("user", "hi|there")]),
            ),
            (
                json!(null),
                json!([
                    said("user", "q"),
                    {"role": "assistant", "content": [
                        {"type": "thinking", "thinking": "hm", "signature": ""}, {"type": "redacted_thinking", "data": "x"}, block("let me"),
                        {"type": "tool_use", "id": "a", "name": "add", "input": {"x": [1, 2.5]}},
                        {"type": "tool_use", "id": "b", "name": "add", "input": {}}]},
                    {"role": "user", "content": [
                        {"type": "tool_result", "tool_use_id": "a", "content": "3"},
                        {"type": "tool_result", "tool_use_id": "b", "content": [block("no"), block("input")], "is_error": true},
                        block("go on")]},
                ]),
                json!([
                    said("user", "q"),
                    {"role": "assistant", "content": "let me", "reasoning_content": "hm", "tool_calls": [
                        {"id": "a", "type": "function", "function": {"name": "add", "arguments": "{\"x\":[1,2.5]}"}},
                        {"id": "b", "type": "function", "function": {"name": "add", "arguments": "{}"}}]},
                    {"role": "tool", "content": "3", "tool_call_id": "a"},
                    {"role": "tool", "content": "Error: no\ninput", "tool_call_id": "b"},
                    said("user", "go on"),
                ]),
            ),
            (
                json!(null),
                json!([said("user", "q"), {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a"}]}]),
                json!([said("user", "q"), {"role": "assistant", "content": "", "reasoning_content": "hm"},
                    {"role": "tool", "content": "", "tool_call_id": "a"}]),
            ),
        ] {
            assert_eq!(read(system, messages.clone()), Ok(expected), "{messages}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let user = |block: Value| json!([{"role": "user", "content": [block]}]);
        let assistant =
            |block: Value| json!([{"role": "assistant", "content": [block]}, {"role": "user", "content": "x"}]);
        for (messages, expected) in [
            (user(json!({"type": "image", "source": {"type": "base64", "data": "x"}})), "messages[0].content[0]"),
            (user(json!({"type": "document", "source": {}})), "messages[0].content[0]"),
            (user(json!({"type": "tool_use", "id": "a", "name": "b", "input": {}})), "messages[0].content[0]"),
            (user(json!({"type": "text"})), "messages[0].content[0].text"),
            (user(json!({"type": "tool_result"})), "messages[0].content[0].tool_use_id"),
            (
                user(json!({"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image"}]})),
                "messages[0].content[0].content[0]",
            ),
            (
                assistant(json!({"type": "tool_use", "id": "a", "name": "b", "input": [1]})),
                "messages[0].content[0].input",
            ),
            (assistant(json!({"type": "tool_use", "id": "a", "name": "b"})), "messages[0].content[0].input"),
            (assistant(json!({"type": "server_tool_use"})), "messages[0].content[0]"),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].role"),
            (json!([{"role": "user", "content": "x"}, {"role": "assistant", "content": "The"}]), "messages"),
        ] {
            assert_eq!(read(json!(null), messages.clone()), Err(expected.into()), "{messages}");
        }
        assert_eq!(read(json!([{"type": "image"}]), json!([])), Err("system[0]".into()));
    }
}
