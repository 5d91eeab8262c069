//! How tokens are drawn where a request does not say: by vLLM's rule, as `generation_config.json` says.

use std::ops::RangeInclusive;

use super::{ModelDir, ModelError};
use crate::engine::Sampling;

/// How to serve a model whose file has a wrong number.
const REMEDY: &str = "correct it, or start with --generation-config none";

impl ModelDir {
    /// The sampling that the model's `generation_config.json` asks for; fields that it does not have change nothing. Its
    /// `do_sample` and `max_new_tokens` are not read: a request says how long a reply may be.
    ///
    /// # Errors
    /// Names a field whose number cannot be used.
    pub fn recommended(&self) -> Result<Sampling, ModelError> {
        let plain = Sampling::default();
        let wrong = |name: &str, reason: String| {
            let mut file = self.path.clone();
            if file.is_dir() {
                file.push("generation_config.json");
            }
            ModelError::Broken { file, reason: format!("`{name}` {reason}; {REMEDY}") }
        };
        let number = |name: &str, range: RangeInclusive<f64>, absent: f32| match &self.config.generation[name] {
            serde_json::Value::Null => Ok(absent),
            value => match value.as_f64().filter(|number| range.contains(number)) {
                Some(number) => Ok(number as f32),
                None => Err(wrong(name, format!("is {value}, not a number from {} to {}", range.start(), range.end()))),
            },
        };
        let top_k = match &self.config.generation["top_k"] {
            serde_json::Value::Null => None,
            // Either means all tokens.
            value if [Some(0), Some(-1)].contains(&value.as_i64()) => None,
            value => match value.as_u64().and_then(|count| usize::try_from(count).ok()) {
                Some(count) => Some(count),
                None => return Err(wrong("top_k", format!("is {value}, not a number of tokens"))),
            },
        };
        Ok(Sampling {
            temperature: number("temperature", 0.0..=2.0, plain.temperature)?,
            // The likeliest token alone has at least this mass, so 0 leaves it and nothing else.
            top_p: number("top_p", 0.0..=1.0, plain.top_p)?.max(f32::MIN_POSITIVE),
            top_k,
            min_p: number("min_p", 0.0..=1.0, plain.min_p)?,
            repetition_penalty: number("repetition_penalty", Sampling::REPETITION_PENALTY, plain.repetition_penalty)?,
            ..plain
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{TinyModel, write_json, write_model};

    fn recommended(generation: Value) -> Result<Sampling, ModelError> {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path(), &TinyModel::default());
        write_json(dir.path(), "generation_config.json", &generation);
        ModelDir::open(dir.path()).unwrap().recommended()
    }

    #[test]
    fn what_the_file_says_is_the_default_and_the_rest_is_plain() {
        let plain = Sampling::default();
        let all = json!({ "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1 });
        let expected = Sampling {
            temperature: 0.6,
            top_p: 0.9,
            top_k: Some(20),
            min_p: 0.05,
            repetition_penalty: 1.1,
            ..plain.clone()
        };
        let table = [
            (all, expected),
            (json!({}), plain.clone()),
            (json!({ "temperature": null, "top_k": null }), plain.clone()),
            (json!({ "top_k": 0, "do_sample": false, "max_new_tokens": 7, "eos_token_id": 1 }), plain.clone()),
            (json!({ "temperature": 0 }), Sampling { temperature: 0.0, ..plain }),
        ];
        for (generation, expected) in table {
            assert_eq!(recommended(generation.clone()).unwrap(), expected, "{generation}");
        }
    }

    #[test]
    fn numbers_that_cannot_be_used_are_named_with_a_way_out() {
        let table = [
            (json!({ "temperature": 3 }), "`temperature` is 3, not a number from 0 to 2"),
            (json!({ "top_p": "x" }), "`top_p` is \"x\""),
            (json!({ "top_k": 0.5 }), "`top_k` is 0.5"),
            (json!({ "repetition_penalty": 0 }), "`repetition_penalty` is 0"),
        ];
        for (generation, expected) in table {
            let message = recommended(generation).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("--generation-config none"), "{message}");
            assert!(message.contains("generation_config.json"), "{message}");
        }
    }
}
