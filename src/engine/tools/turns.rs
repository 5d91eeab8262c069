//! Turns that call functions, and their results, as chat templates take them.

use serde_json::{Map, Value, json};

use crate::chat::{Message, Role};

/// The turns for a template that knows functions: arguments are objects, not JSON text.
pub fn as_template_turns(messages: &[Message]) -> Vec<Value> {
    messages.iter().map(template_turn).collect()
}

fn template_turn(message: &Message) -> Value {
    let mut turn = json!(message);
    if let Some(calls) = turn.get_mut("tool_calls").and_then(Value::as_array_mut) {
        for (written, call) in calls.iter_mut().zip(&message.tool_calls) {
            if let Ok(arguments) = serde_json::from_str::<Map<String, Value>>(&call.function.arguments) {
                written["function"]["arguments"] = Value::Object(arguments);
            }
        }
    }
    turn
}

/// The turns for a template that knows no functions: they are described in the system's turn, and calls and results are
/// text, all in the format of Hermes.
pub fn as_plain_turns(messages: &[Message], tools: &[Value]) -> Vec<Message> {
    let mut turns: Vec<Message> = Vec::with_capacity(messages.len() + 1);
    if !tools.is_empty() {
        turns.push(Message::new(Role::System, describe(tools)));
    }
    for message in messages {
        match message.role {
            Role::System if turns.len() == 1 && turns[0].role == Role::System => {
                turns[0].content = format!("{}\n\n{}", message.content, turns[0].content);
            }
            Role::Tool => {
                let result = format!("<tool_response>\n{}\n</tool_response>", message.content);
                // Results of parallel calls are one turn: templates want turns to alternate.
                match turns
                    .last_mut()
                    .filter(|last| last.role == Role::User && last.content.starts_with("<tool_response>"))
                {
                    Some(last) => last.content = format!("{}\n{result}", last.content),
                    None => turns.push(Message::user(result)),
                }
            }
            _ => {
                turns.push(Message { content: message.content_with_calls(), tool_calls: Vec::new(), ..message.clone() })
            }
        }
    }
    turns
}

fn describe(tools: &[Value]) -> String {
    let list: Vec<_> = tools.iter().map(Value::to_string).collect();
    format!(
        "You can call functions. Their signatures, one JSON object a line:\n<tools>\n{}\n</tools>\nTo call one, write its name and \
         arguments as a JSON object between marks, and nothing else:\n<tool_call>\n{{\"name\": \"NAME\", \"arguments\": {{}}}}\n\
         </tool_call>\nIts result then comes between <tool_response> and </tool_response>.",
        list.join("\n")
    )
}
