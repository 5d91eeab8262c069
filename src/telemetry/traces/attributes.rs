//! What spans say of calls and nodes, under the names of OpenTelemetry's conventions for generative AI.

use opentelemetry::{Array, KeyValue, StringValue, Value};
use serde_json::json;

use crate::chat::Role;
use crate::engine::{FinishReason, Input, Purpose, Request, Sampling, Subject};
use crate::search::Node;

/// What a call is for, in the words of a trace.
pub(super) fn purpose(purpose: Purpose, subject: Subject, is_search: bool) -> &'static str {
    match purpose {
        Purpose::Answer if is_search || subject != Subject::Whole => "draft",
        Purpose::Answer => "answer",
        Purpose::Judge => "judge",
        Purpose::Refine => "refine",
    }
}

/// The operation that a reply to `input` is.
pub(super) fn operation(input: &Input) -> &'static str {
    match input {
        Input::Chat(_) => "chat",
        Input::Text(_) | Input::Tokens(_) => "text_completion",
    }
}

/// How a reply is drawn.
pub(super) fn drawing(request: &Request) -> Vec<KeyValue> {
    let Sampling { temperature, top_p, top_k, frequency_penalty, presence_penalty, seed, .. } = &request.sampling;
    let mut all = vec![
        KeyValue::new("gen_ai.request.temperature", f64::from(*temperature)),
        KeyValue::new("gen_ai.request.top_p", f64::from(*top_p)),
        KeyValue::new("gen_ai.request.seed", seed.cast_signed()),
        KeyValue::new("gen_ai.request.choice.count", integer(request.samples)),
    ];
    let penalties = [
        ("gen_ai.request.frequency_penalty", frequency_penalty),
        ("gen_ai.request.presence_penalty", presence_penalty),
    ];
    all.extend(
        penalties.into_iter().filter(|(_, by)| **by != 0.0).map(|(name, by)| KeyValue::new(name, f64::from(*by))),
    );
    all.extend(top_k.map(|top_k| KeyValue::new("gen_ai.request.top_k", integer(top_k))));
    all.extend(request.max_tokens.map(|most| KeyValue::new("gen_ai.request.max_tokens", integer(most))));
    if !request.stop.is_empty() {
        all.push(KeyValue::new("gen_ai.request.stop_sequences", strings(&request.stop)));
    }
    all
}

/// The part of a search that a call or a node belongs to.
pub(super) fn subject(subject: Subject) -> Vec<KeyValue> {
    match subject {
        Subject::Whole => Vec::new(),
        Subject::Node(id) => vec![KeyValue::new("spar.node.id", integer(id))],
        Subject::Candidate { number, parent } => {
            let parent = parent.map(|parent| KeyValue::new("spar.node.parent_id", integer(parent)));
            let number = KeyValue::new("spar.candidate.number", integer(number));
            std::iter::once(number).chain(parent).collect()
        }
    }
}

/// A node that was judged.
pub(super) fn node(id: usize, node: &Node) -> Vec<KeyValue> {
    let mut all = vec![
        KeyValue::new("spar.node.id", integer(id)),
        KeyValue::new("spar.node.depth", integer(node.depth)),
        KeyValue::new("spar.node.accepted", node.accepted),
    ];
    all.extend(node.parent.map(|parent| KeyValue::new("spar.node.parent_id", integer(parent.0))));
    all.extend(node.value.map(|value| KeyValue::new("spar.node.value", value)));
    all.extend(node.probability.map(|probability| KeyValue::new("spar.node.probability", probability)));
    if !node.failed.is_empty() {
        all.push(KeyValue::new("spar.node.failed", strings(&node.failed)));
    }
    all
}

/// What a model is given, as the conventions write messages.
pub(super) fn input_messages(input: &Input) -> String {
    let text = |role: &str, text: &str| json!({"role": role, "parts": [{"type": "text", "content": text}]});
    let messages: Vec<_> = match input {
        Input::Chat(chat) => chat.messages.iter().map(|turn| text(role(turn.role), &turn.content)).collect(),
        Input::Text(prompt) => vec![text("user", prompt)],
        Input::Tokens(ids) => vec![text("user", &format!("{} token ids", ids.len()))],
    };
    json!(messages).to_string()
}

/// A role as the conventions name it.
fn role(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

/// What a model said, as the conventions write messages.
pub(super) fn output_messages<'a>(replies: impl Iterator<Item = (&'a str, Option<FinishReason>)>) -> String {
    let message = |(text, finish): (&str, Option<FinishReason>)| json!({"role": "assistant", "parts": [{"type": "text", "content": text}], "finish_reason": finish.map_or("error", finish_reason)});
    json!(replies.map(message).collect::<Vec<_>>()).to_string()
}

/// Why a reply ended, as the conventions say it.
pub(super) fn finish_reason(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Stop | FinishReason::StopString(_) | FinishReason::StopToken(_) => "stop",
        FinishReason::Length => "length",
    }
}

/// A list of texts.
pub(super) fn strings<T: AsRef<str>>(texts: &[T]) -> Value {
    Value::Array(Array::String(texts.iter().map(|text| StringValue::from(text.as_ref().to_owned())).collect()))
}

/// A count as attributes hold it.
pub(super) fn integer(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
