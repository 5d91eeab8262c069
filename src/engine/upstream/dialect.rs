//! What servers call the same things: constraints, adapters, and what they cannot do. Facts are from the servers' documentation:
//! vLLM (`structured_outputs`, before 0.11 `guided_*`), SGLang (`regex`, `lora_path`), llama.cpp (`json_schema`), TGI
//! (`response_format` with `value`).

use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};

use super::models::{Card, keyed};
use crate::engine::{Constraint, EngineError};

/// How the server is asked for several replies to one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Siblings {
    /// One request with `n`, so that the server can share the prompt.
    #[default]
    Choices,
    /// A request for each, for servers that do not honour `n`.
    Requests,
}

/// How long a question to recognise a server is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The fields that a server knows beyond OpenAI's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's own fields only.
    OpenAi,
    /// The fields of this server.
    Spar,
    /// The fields of vLLM.
    Vllm(VllmFields),
    /// The fields of SGLang.
    Sglang,
    /// The fields of llama.cpp's server.
    LlamaCpp,
    /// The fields of Hugging Face's text-generation-inference.
    Tgi,
}

/// vLLM's names for constraints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VllmFields {
    /// `structured_outputs`, since version 0.11.
    StructuredOutputs,
    /// `guided_regex` and its siblings, which version 0.12 has removed.
    Guided,
}

/// Where a server puts an adapter's name, and how it loads one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Adapters {
    /// The adapter is a model of its own name.
    AsModel,
    /// The adapter is named by the field `lora_path`.
    AsField,
    /// None can be loaded while the server runs.
    None,
}

impl Dialect {
    /// Its name in settings, logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Spar => "spar",
            Self::Vllm(_) => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llamacpp",
            Self::Tgi => "tgi",
        }
    }

    /// Whether the server knows vLLM's own fields: it keeps prefixes apart by `cache_salt`, and honours rules on tokens.
    pub(super) fn is_extended(self) -> bool {
        matches!(self, Self::Spar | Self::Vllm(_))
    }

    /// Whether a regular expression can be asked for.
    pub(super) fn takes_regex(self) -> bool {
        matches!(self, Self::Vllm(_) | Self::Sglang | Self::Tgi)
    }

    /// How siblings can be asked for, where the settings ask for `n`.
    pub(super) fn siblings(self, asked: Siblings) -> Siblings {
        match self {
            // TGI gives one choice whatever `n` says, and so did llama.cpp for long.
            Self::LlamaCpp | Self::Tgi => Siblings::Requests,
            _ => asked,
        }
    }

    pub(super) fn adapters(self) -> Adapters {
        match self {
            Self::Vllm(_) => Adapters::AsModel,
            Self::Sglang => Adapters::AsField,
            Self::Spar | Self::OpenAi | Self::LlamaCpp | Self::Tgi => Adapters::None,
        }
    }

    /// Puts the constraint of a reply into its request.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for what the server has no field for.
    pub(super) fn constrain(self, body: &mut Value, constraint: &Constraint) -> Result<(), EngineError> {
        match (self, constraint) {
            (Self::Tgi, Constraint::JsonSchema(schema)) => {
                body["response_format"] = json!({"type": "json", "value": schema});
            }
            // llama.cpp reads `response_format` in chats only.
            (Self::LlamaCpp, Constraint::JsonSchema(schema)) if body.get("messages").is_none() => {
                body["json_schema"] = schema.clone();
            }
            (_, Constraint::JsonSchema(schema)) => body["response_format"] = response_format(schema),
            (Self::Vllm(VllmFields::StructuredOutputs), Constraint::Regex(regex)) => {
                body["structured_outputs"] = json!({"regex": regex});
            }
            (Self::Vllm(VllmFields::Guided), Constraint::Regex(regex)) => body["guided_regex"] = json!(regex),
            (Self::Sglang, Constraint::Regex(regex)) => body["regex"] = json!(regex),
            (Self::Tgi, Constraint::Regex(regex)) => body["response_format"] = json!({"type": "regex", "value": regex}),
            (dialect, _) => {
                let takes = match dialect.takes_regex() {
                    true => "JSON schemas and regular expressions only, no grammar",
                    false => "JSON schemas only, no other constraint",
                };
                return Err(EngineError::Unsupported(format!("an upstream takes {takes}")));
            }
        }
        Ok(())
    }

    /// Takes out what the server would refuse, though it means nothing.
    pub(super) fn adjust(self, body: &mut Value) {
        // TGI is greedy unless it is given a temperature, and refuses 0.
        if self == Self::Tgi
            && body["temperature"] == json!(0.0)
            && let Some(body) = body.as_object_mut()
        {
            body.shift_remove("temperature");
        }
    }
}

fn response_format(schema: &Value) -> Value {
    match *schema == json!({"type": "object"}) {
        true => json!({"type": "json_object"}),
        false => json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": true}}),
    }
}

/// The dialect of the server at `base`, which serves the model of `card`.
pub(super) async fn recognise(client: &Client, base: &str, key: Option<&str>, card: &Card) -> Dialect {
    let root = base.strip_suffix("/v1").unwrap_or(base);
    match card.owned_by.as_deref() {
        Some("spar") => Dialect::Spar,
        Some("sglang") => Dialect::Sglang,
        Some("llamacpp") => Dialect::LlamaCpp,
        Some("vllm") => {
            let version = ask(client, &format!("{root}/version"), key).await;
            Dialect::Vllm(vllm_fields(version.as_ref().and_then(|answer| answer["version"].as_str())))
        }
        _ => match ask(client, &format!("{root}/info"), key).await {
            Some(info) if info["model_id"].is_string() && info["max_concurrent_requests"].is_number() => Dialect::Tgi,
            _ => Dialect::OpenAi,
        },
    }
}

/// The names that a version of vLLM knows; one that cannot be read is a build of today.
fn vllm_fields(version: Option<&str>) -> VllmFields {
    let minor = version.and_then(|version| version.strip_prefix("0.")?.split('.').next()?.parse::<u32>().ok());
    match minor {
        Some(minor) if minor < 11 => VllmFields::Guided,
        _ => VllmFields::StructuredOutputs,
    }
}

/// A small JSON answer, where there is one.
async fn ask(client: &Client, url: &str, key: Option<&str>) -> Option<Value> {
    let response = keyed(client.get(url), key).timeout(PATIENCE).send().await.ok()?;
    if response.status().is_success() { response.json().await.ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_has_its_fields() {
        let schema = || Constraint::JsonSchema(json!({"type": "array"}));
        let regex = || Constraint::Regex("a|b".into());
        let format = json!({"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "array"}, "strict": true}});
        let openai = json!({"response_format": format});
        let table = [
            (Dialect::OpenAi, schema(), Some(openai.clone())),
            (Dialect::Spar, schema(), Some(openai.clone())),
            (Dialect::Vllm(VllmFields::Guided), schema(), Some(openai.clone())),
            (Dialect::Sglang, schema(), Some(openai.clone())),
            (Dialect::LlamaCpp, schema(), Some(json!({"json_schema": {"type": "array"}}))),
            (Dialect::Tgi, schema(), Some(json!({"response_format": {"type": "json", "value": {"type": "array"}}}))),
            (Dialect::OpenAi, regex(), None),
            (Dialect::Spar, regex(), None),
            (Dialect::LlamaCpp, regex(), None),
            (Dialect::Vllm(VllmFields::Guided), regex(), Some(json!({"guided_regex": "a|b"}))),
            (
                Dialect::Vllm(VllmFields::StructuredOutputs),
                regex(),
                Some(json!({"structured_outputs": {"regex": "a|b"}})),
            ),
            (Dialect::Sglang, regex(), Some(json!({"regex": "a|b"}))),
            (Dialect::Tgi, regex(), Some(json!({"response_format": {"type": "regex", "value": "a|b"}}))),
            (Dialect::Sglang, Constraint::Lark("start: \"a\"".into()), None),
        ];
        for (dialect, constraint, expected) in table {
            let mut body = json!({});
            match (dialect.constrain(&mut body, &constraint), expected) {
                (Ok(()), Some(expected)) => assert_eq!(body, expected, "{dialect:?}"),
                (Err(EngineError::Unsupported(reason)), None) => assert!(reason.contains("only"), "{reason}"),
                (found, expected) => panic!("{dialect:?}: {found:?}, expected {expected:?}"),
            }
            assert_eq!(dialect.takes_regex() && matches!(constraint, Constraint::Regex(_)), {
                matches!(constraint, Constraint::Regex(_)) && body != json!({})
            });
        }
    }

    #[test]
    fn versions_of_vllm_know_different_fields() {
        for (version, expected) in [
            (Some("0.10.2"), VllmFields::Guided),
            (Some("0.8.5.post1"), VllmFields::Guided),
            (Some("0.11.0"), VllmFields::StructuredOutputs),
            (Some("1.0.0"), VllmFields::StructuredOutputs),
            (Some("nightly"), VllmFields::StructuredOutputs),
            (None, VllmFields::StructuredOutputs),
        ] {
            assert_eq!(vllm_fields(version), expected, "{version:?}");
        }
    }

    #[test]
    fn a_temperature_of_zero_is_left_out_where_it_is_refused() {
        for (dialect, kept) in [(Dialect::Tgi, false), (Dialect::OpenAi, true)] {
            let mut body = json!({"temperature": 0.0, "seed": 1});
            dialect.adjust(&mut body);
            assert_eq!(body.get("temperature").is_some(), kept);
        }
    }
}
