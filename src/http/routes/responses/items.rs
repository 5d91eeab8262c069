//! Items of the Responses API as turns of a chat.

use crate::http::error::ApiError;
use crate::openai::responses::{InputItem, ItemContent, ItemPart, ResponsesInput};
use crate::openai::{ChatMessage, Content, FunctionCall, ToolCallEntry};

/// The turns of a conversation: the instructions first, then the items in their order. Reasoning, text and calls that
/// follow each other are one turn of the assistant.
///
/// # Errors
/// Names the item and its field.
pub fn turns(instructions: Option<&str>, input: ResponsesInput) -> Result<Vec<ChatMessage>, ApiError> {
    let mut turns = Turns::default();
    if let Some(text) = instructions.filter(|text| !text.is_empty()) {
        turns.done.push(message("system", text.to_owned()));
    }
    match input {
        ResponsesInput::Text(text) => turns.done.push(message("user", text)),
        ResponsesInput::Items(items) if items.is_empty() => {
            return Err(ApiError::invalid("input", "`input` must hold at least one item"));
        }
        ResponsesInput::Items(items) => {
            for (index, item) in items.into_iter().enumerate() {
                turns.add(item, &Place(format!("input[{index}]")))?;
            }
        }
    }
    turns.close();
    Ok(turns.done)
}

#[derive(Default)]
struct Turns {
    done: Vec<ChatMessage>,
    /// A turn of the assistant to which items may still belong.
    open: Option<ChatMessage>,
}

/// Where an item stands in the request.
struct Place(String);

impl Place {
    fn invalid(&self, field: &str, message: &str) -> ApiError {
        let param = format!("{}.{field}", self.0);
        ApiError::invalid(&param, format!("`{param}` {message}"))
    }

    fn required<T>(&self, field: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| self.invalid(field, "is missing"))
    }
}

impl Turns {
    fn add(&mut self, item: InputItem, place: &Place) -> Result<(), ApiError> {
        match item.kind.as_deref() {
            None | Some("message") => self.message(item, place),
            Some("reasoning") => {
                let text = match (item.content, item.summary) {
                    (Some(content), _) => text(content, "content", place)?,
                    (None, Some(summary)) => text(ItemContent::Parts(summary), "summary", place)?,
                    (None, None) => String::new(),
                };
                self.think(text);
                Ok(())
            }
            Some("function_call") => {
                let id = place.required("call_id", item.call_id)?;
                let name = place.required("name", item.name)?;
                let arguments = place.required("arguments", item.arguments)?;
                let call = ToolCallEntry { id, kind: "function".into(), function: FunctionCall { name, arguments } };
                self.assistant().tool_calls.get_or_insert_default().push(call);
                Ok(())
            }
            Some("function_call_output") => {
                self.close();
                let id = place.required("call_id", item.call_id)?;
                let output = text(place.required("output", item.output)?, "output", place)?;
                self.done.push(ChatMessage { tool_call_id: Some(id), name: item.name, ..message("tool", output) });
                Ok(())
            }
            Some("item_reference") => Err(place.invalid(
                "type",
                "refers to an item of an earlier response, of which none is kept; send the item itself",
            )),
            Some(other) => {
                let served = "message, function_call, function_call_output or reasoning";
                Err(place.invalid("type", &format!("must be {served}, got {other:?}")))
            }
        }
    }

    fn message(&mut self, item: InputItem, place: &Place) -> Result<(), ApiError> {
        let role = place.required("role", item.role)?;
        let content = text(place.required("content", item.content)?, "content", place)?;
        match role.as_str() {
            "assistant" => {
                let fits = |turn: &ChatMessage| turn.content.is_none() && turn.tool_calls.is_none();
                if !self.open.as_ref().is_some_and(fits) {
                    self.close();
                }
                self.assistant().content = Some(Content::Text(content));
            }
            "system" | "developer" => {
                self.close();
                // Many templates take one system's turn, at the beginning.
                match self.done.as_mut_slice() {
                    [ChatMessage { role, content: Some(Content::Text(before)), .. }] if role == "system" => {
                        *before = format!("{before}\n\n{content}");
                    }
                    _ => self.done.push(message("system", content)),
                }
            }
            "user" => {
                self.close();
                self.done.push(message("user", content));
            }
            other => {
                return Err(
                    place.invalid("role", &format!("must be system, developer, user or assistant, got {other:?}"))
                );
            }
        }
        Ok(())
    }

    /// Reasoning comes before what was said and called after it.
    fn think(&mut self, text: String) {
        if self.open.as_ref().is_some_and(|turn| turn.content.is_some() || turn.tool_calls.is_some()) {
            self.close();
        }
        if !text.is_empty() {
            self.assistant().reasoning_content.get_or_insert_default().push_str(&text);
        }
    }

    fn assistant(&mut self) -> &mut ChatMessage {
        self.open.get_or_insert_with(|| ChatMessage { content: None, ..message("assistant", String::new()) })
    }

    fn close(&mut self) {
        let Some(mut turn) = self.open.take() else { return };
        // Reasoning that nothing follows is a turn without an answer.
        if turn.content.is_none() && turn.tool_calls.is_none() {
            turn.content = Some(Content::Text(String::new()));
        }
        self.done.push(turn);
    }
}

fn message(role: &str, content: String) -> ChatMessage {
    ChatMessage {
        role: role.into(),
        content: Some(Content::Text(content)),
        reasoning_content: None,
        tool_calls: None,
        tool_call_id: None,
        name: None,
    }
}

fn text(content: ItemContent, field: &str, place: &Place) -> Result<String, ApiError> {
    let parts = match content {
        ItemContent::Text(text) => return Ok(text),
        ItemContent::Parts(parts) => parts,
    };
    let part = |(index, part): (usize, ItemPart)| {
        let at = format!("{field}[{index}]");
        match part.kind.as_str() {
            "input_text" | "output_text" | "text" | "reasoning_text" | "summary_text" => {
                place.required(&format!("{at}.text"), part.text)
            }
            "refusal" => place.required(&format!("{at}.refusal"), part.refusal),
            other => Err(place.invalid(&at, &format!("is of type {other:?}; only text is served here"))),
        }
    };
    let texts: Vec<String> = parts.into_iter().enumerate().map(part).collect::<Result<_, _>>()?;
    Ok(texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(instructions: Option<&str>, input: Value) -> Result<Value, String> {
        let turns = turns(instructions, serde_json::from_value(input).unwrap());
        let known = |turn: &ChatMessage| {
            let all = json!(turn).as_object().unwrap().clone();
            Value::Object(all.into_iter().filter(|(_, value)| !value.is_null()).collect())
        };
        match turns {
            Ok(turns) => Ok(turns.iter().map(known).collect()),
            Err(ApiError::Invalid { param, .. }) => Err(param.unwrap()),
            Err(other) => panic!("{other:?}"),
        }
    }

    #[test]
    fn items_become_turns() {
        let said = |role: &str, text: &str| json!({"role": role, "content": text});
        let call =
            |id: &str| json!({"type": "function_call", "id": "fc_1", "call_id": id, "name": "add", "arguments": "{}"});
        let called = |id: &str| json!({"id": id, "type": "function", "function": {"name": "add", "arguments": "{}"}});
        for (instructions, input, expected) in [
            (None, json!("hi"), json!([said("user", "hi")])),
            (Some("be brief"), json!("hi"), json!([said("system", "be brief"), said("user", "hi")])),
            (
                Some("be brief"),
                json!([{"role": "developer", "content": "in French"}, said("user", "hi"), said("system", "now")]),
                json!([said("system", "be brief\n\nin French"), said("user", "hi"), said("system", "now")]),
            ),
            (
                None,
                json!([{"type": "message", "role": "user", "content": [
                    {"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}]),
                json!([said("user", "a\nb")]),
            ),
            (
                None,
                json!([
                    said("user", "q"),
                    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
                    {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
                     "content": [{"type": "output_text", "text": "let me", "annotations": []}]},
                    call("a"), call("b"),
                    {"type": "function_call_output", "call_id": "a", "output": "1"},
                    {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
                    said("assistant", "one"), said("assistant", "two"),
                ]),
                json!([
                    said("user", "q"),
                    {"role": "assistant", "content": "let me", "reasoning_content": "hm", "tool_calls": [called("a"), called("b")]},
                    {"role": "tool", "content": "1", "tool_call_id": "a"},
                    {"role": "tool", "content": "2", "tool_call_id": "b"},
                    said("assistant", "one"), said("assistant", "two"),
                ]),
            ),
            (
                None,
                json!([
                    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "in short"}]}, call("a"),
                    {"type": "reasoning", "summary": [], "encrypted_content": "x"},
                    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
                ]),
                json!([
                    {"role": "assistant", "reasoning_content": "in short", "tool_calls": [called("a")]},
                    said("assistant", "no"),
                ]),
            ),
        ] {
            assert_eq!(read(instructions, input.clone()), Ok(expected), "{input}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (item, expected) in [
            (json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}), "input[0].content[0]"),
            (json!({"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}), "input[0].content[0]"),
            (json!({"role": "user", "content": [{"type": "input_text"}]}), "input[0].content[0].text"),
            (json!({"role": "user"}), "input[0].content"),
            (json!({"content": "x"}), "input[0].role"),
            (json!({"role": "tool", "content": "x"}), "input[0].role"),
            (json!({"type": "item_reference", "id": "x"}), "input[0].type"),
            (json!({"type": "web_search_call", "id": "x"}), "input[0].type"),
            (json!({"type": "function_call", "call_id": "a", "name": "b"}), "input[0].arguments"),
            (json!({"type": "function_call", "name": "b", "arguments": "{}"}), "input[0].call_id"),
            (json!({"type": "function_call_output", "call_id": "a"}), "input[0].output"),
            (
                json!({"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image"}]}),
                "input[0].output[0]",
            ),
        ] {
            assert_eq!(read(None, json!([item])), Err(expected.into()), "{item}");
        }
        assert_eq!(read(None, json!([])), Err("input".into()));
    }
}
