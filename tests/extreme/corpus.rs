//! Well-formed requests with extreme values, the same ones in every run: a case is a route, a name and a body.

use std::fmt::Write;

use reqwest::Method;
use serde_json::{Value, json};

use super::{admin, numbers, raw, schemas, searches, seeded, talk};

/// One request.
#[derive(Clone, Debug)]
pub struct Case {
    /// The group and what is extreme about it.
    pub name: String,
    /// The method.
    pub method: Method,
    /// The path as it goes over the wire.
    pub path: String,
    /// The body, which is sent as JSON.
    pub body: Vec<u8>,
}

impl Case {
    /// A request with a body.
    pub fn post(name: impl Into<String>, path: &str, body: &Value) -> Self {
        Self::raw(name, path, body.to_string())
    }

    /// A request whose body is written out.
    pub fn raw(name: impl Into<String>, path: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), method: Method::POST, path: path.into(), body: body.into() }
    }

    /// A request without a body.
    pub fn get(name: impl Into<String>, path: impl Into<String>) -> Self {
        Self { name: name.into(), method: Method::GET, path: path.into(), body: Vec::new() }
    }
}

pub const CHAT: &str = "/v1/chat/completions";
pub const TEXT: &str = "/v1/completions";
pub const CHECKS: &str = "/v1/checks";
pub const TOKENIZE: &str = "/tokenize";
pub const DETOKENIZE: &str = "/detokenize";

/// All cases.
pub fn corpus() -> Vec<Case> {
    let groups: [fn() -> Vec<Case>; 7] =
        [talk::cases, numbers::cases, searches::cases, schemas::cases, raw::cases, admin::cases, seeded::cases];
    groups.into_iter().flat_map(|cases| cases()).collect()
}

/// A short chat of `text` with more fields.
pub fn chat(text: &str, fields: &Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": text}], "max_tokens": 4, "seed": 1});
    let more = fields.as_object().cloned().unwrap_or_default();
    body.as_object_mut().expect("a chat is an object").extend(more);
    body
}

/// `count` items as one JSON list.
pub fn list(count: usize, item: impl Fn(usize) -> String) -> String {
    let mut text = String::from("[");
    for index in 0..count {
        let comma = if index == 0 { "" } else { "," };
        write!(text, "{comma}{}", item(index)).expect("a text takes every text");
    }
    text + "]"
}
