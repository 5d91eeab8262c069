//! Chunks of an OpenAI stream become ours. The stream gives the number of tokens only at its end and for all choices together:
//! until then a piece of text counts as one token, and the last chunk of a choice brings what is missing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::failure::{self, Failure, Kind};
use super::siblings::Step;
use crate::chat::{CalledFunction, Message, ToolCall};
use crate::engine::reasoning::Reasoning;
use crate::engine::{Chunk, EngineError, FinishReason, PromptTokens, TokenLogprobs, TokenProb};

#[derive(Deserialize)]
struct WireChunk {
    #[serde(default)]
    choices: Vec<WireChoice>,
    #[serde(default, deserialize_with = "if_readable")]
    usage: Option<WireUsage>,
    error: Option<Value>,
}

/// A count that cannot be read is none: it does not spoil the answer that it counts.
fn if_readable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WireUsage>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

#[derive(Deserialize)]
struct WireChoice {
    #[serde(default)]
    index: usize,
    /// The delta of a chat.
    #[serde(default)]
    delta: WireDelta,
    /// The text of a text completion.
    text: Option<String>,
    logprobs: Option<WireLogprobs>,
    finish_reason: Option<String>,
}

#[derive(Default, Deserialize)]
struct WireDelta {
    content: Option<String>,
    /// The field of DeepSeek, SGLang, llama.cpp and older vLLM.
    reasoning_content: Option<String>,
    /// The field of OpenRouter and newer vLLM.
    reasoning: Option<String>,
    #[serde(default)]
    tool_calls: Option<Vec<WireCall>>,
}

/// A part of a call: its name comes with the first, and the arguments piece by piece.
#[derive(Deserialize)]
struct WireCall {
    #[serde(default)]
    index: usize,
    #[serde(default)]
    function: WireFunction,
}

#[derive(Default, Deserialize)]
struct WireFunction {
    name: Option<String>,
    arguments: Option<String>,
}

#[derive(Deserialize)]
struct WireLogprobs {
    /// The entries of a chat.
    content: Option<Vec<WireEntry>>,
    /// The tokens of a text completion, with the two fields below.
    #[serde(default)]
    tokens: Vec<String>,
    #[serde(default)]
    token_logprobs: Vec<Option<f32>>,
    #[serde(default)]
    top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
}

#[derive(Deserialize)]
struct WireEntry {
    #[serde(flatten)]
    token: WireToken,
    #[serde(default)]
    top_logprobs: Vec<WireToken>,
}

#[derive(Deserialize)]
struct WireToken {
    token: String,
    logprob: f32,
    bytes: Option<Vec<u8>>,
}

#[derive(Deserialize)]
struct WireUsage {
    #[serde(default)]
    prompt_tokens: usize,
    #[serde(default)]
    completion_tokens: usize,
    prompt_tokens_details: Option<WirePromptDetails>,
    completion_tokens_details: Option<WireCompletionDetails>,
}

#[derive(Deserialize)]
struct WireCompletionDetails {
    reasoning_tokens: Option<usize>,
}

#[derive(Deserialize)]
struct WirePromptDetails {
    cached_tokens: Option<usize>,
}

/// A response while it is read.
pub(super) struct Reader {
    choices: Vec<Choice>,
    usage: Option<WireUsage>,
    /// Tokens of all choices together at most; a count above it is not believed.
    most: usize,
    /// Set where reasoning is seen.
    thinks: Arc<AtomicBool>,
}

#[derive(Clone, Default)]
struct Choice {
    seen: bool,
    tokens: usize,
    /// How many of `tokens` are reasoning.
    reasoning: usize,
    /// Reasoning has come, and no text after it.
    thinking: bool,
    /// The calls so far, by their index.
    calls: BTreeMap<usize, CalledFunction>,
    finish: Option<FinishReason>,
}

impl Reader {
    /// A reader of `samples` choices, which have `most` tokens together at most.
    pub fn new(samples: usize, most: usize, thinks: Arc<AtomicBool>) -> Self {
        Self { choices: vec![Choice::default(); samples], usage: None, most, thinks }
    }

    /// What one event adds. Finishes wait for the usage, which comes after all of them.
    pub fn read(&mut self, data: &str) -> Result<Vec<Step>, Failure> {
        let unreadable = |error| {
            let reason = format!("the upstream sent an event that is no chunk: {error}");
            Failure::new(Kind::Unreadable, EngineError::Upstream(reason))
        };
        let chunk: WireChunk = serde_json::from_str(data).map_err(unreadable)?;
        if let Some(error) = chunk.error {
            return Err(failed(&error));
        }
        // Some servers send the error itself, without a field around it.
        if chunk.choices.is_empty() && chunk.usage.is_none() {
            let value: Value = serde_json::from_str(data).map_err(unreadable)?;
            if value["object"] == "error" || value["type"] == "error" || value["message"].is_string() {
                return Err(failed(&value));
            }
        }
        self.usage = chunk.usage.or(self.usage.take());
        Ok(chunk.choices.into_iter().filter_map(|choice| self.choice(choice)).collect())
    }

    /// The failure that an event named `error` stands for, whatever its data is.
    pub fn error(data: &str) -> Failure {
        let value = serde_json::from_str(data).unwrap_or_else(|_| Value::String(data.to_owned()));
        failed(value.get("error").unwrap_or(&value))
    }

    fn choice(&mut self, wire: WireChoice) -> Option<Step> {
        let choice = self.choices.get_mut(wire.index)?;
        choice.seen = true;
        choice.finish = wire.finish_reason.as_deref().map(finish).or(choice.finish);
        for part in wire.delta.tool_calls.into_iter().flatten() {
            let empty = || CalledFunction { name: String::new(), arguments: String::new() };
            let call = choice.calls.entry(part.index).or_insert_with(empty);
            call.name.push_str(part.function.name.as_deref().unwrap_or_default());
            call.arguments.push_str(part.function.arguments.as_deref().unwrap_or_default());
        }
        let text = wire.delta.content.or(wire.text).unwrap_or_default();
        let thought = wire.delta.reasoning_content.or(wire.delta.reasoning).unwrap_or_default();
        let mut logprobs = wire.logprobs.map(entries).unwrap_or_default();
        let tokens = logprobs.len().max(usize::from(!(text.is_empty() && thought.is_empty())));
        choice.tokens += tokens;
        if !thought.is_empty() {
            self.thinks.store(true, Relaxed);
        }
        // A piece without any text within the reasoning is a token of its marks.
        choice.thinking = text.is_empty() && (choice.thinking || !thought.is_empty());
        let mut reasoning = Reasoning { text: thought, tokens: 0 };
        if choice.thinking {
            reasoning.tokens = tokens;
            logprobs.clear();
        }
        choice.reasoning += reasoning.tokens;
        (tokens > 0).then(|| Step::Chunk(wire.index, Chunk { text, reasoning, tokens, logprobs, ..Chunk::default() }))
    }

    /// The last chunk of every choice that has finished, and an error for those that the server never began.
    pub fn end(mut self) -> Vec<Step> {
        let counted: usize = self.choices.iter().map(|choice| choice.tokens).sum();
        let told = self.usage.as_ref().map_or(0, |usage| usage.completion_tokens.min(self.most));
        let mut missing = told.saturating_sub(counted);
        let thought = self.usage.as_ref().and_then(|usage| usage.completion_tokens_details.as_ref()?.reasoning_tokens);
        let counted: usize = self.choices.iter().map(|choice| choice.reasoning).sum();
        let mut thoughts = thought.unwrap_or(0).saturating_sub(counted);
        let prompt = self.usage.take().map(|usage| PromptTokens {
            sent: usage.prompt_tokens,
            cached: usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or(0),
        });
        let begun = self.choices.iter().filter(|choice| choice.seen).count();
        let cut = self.choices.iter().any(|choice| choice.finish.is_none());
        let whole = self.choices.iter().all(|choice| choice.finish.is_some() || !choice.seen);
        // Where those that began did not end either, the response was cut.
        if whole && begun > 0 && begun < self.choices.len() {
            let all = self.choices.len();
            let reason = format!(
                "the upstream gave {begun} of {all} choices, so it does not honour `n`; ask it with --upstream-siblings requests"
            );
            return vec![Step::Failed(Failure::new(Kind::Choices, EngineError::Unsupported(reason)))];
        }
        let mut left = begun;
        let last = |(index, choice): (usize, Choice)| {
            // Nothing says whose the uncounted tokens are: they are shared out evenly.
            let tokens = missing / left.max(1);
            let reasoning = Reasoning { text: String::new(), tokens: thoughts / left.max(1) };
            (missing, thoughts) = (missing - tokens, thoughts - reasoning.tokens);
            left = left.saturating_sub(1);
            // Calls travel as the text that a model of Hermes' family writes for them.
            let calls = choice.calls.into_values().map(|function| ToolCall::new(String::new(), function)).collect();
            let text = Message { tool_calls: calls, ..Message::assistant("") }.content_with_calls();
            choice.finish.map(|finish| {
                let finish = Some(finish);
                Step::Chunk(index, Chunk { text, reasoning, tokens, finish, prompt, ..Chunk::default() })
            })
        };
        let mut steps: Vec<Step> = self.choices.into_iter().enumerate().filter_map(last).collect();
        if cut {
            let reason = "the upstream's stream ended without a finish reason".to_owned();
            steps.push(Step::Failed(Failure::new(Kind::Cut, EngineError::Upstream(reason))));
        }
        steps
    }
}

fn failed(error: &Value) -> Failure {
    Failure::new(Kind::Failed, failure::in_stream(error))
}

fn finish(reason: &str) -> FinishReason {
    if reason == "length" { FinishReason::Length } else { FinishReason::Stop }
}

fn entries(wire: WireLogprobs) -> Vec<TokenLogprobs> {
    if let Some(content) = wire.content {
        return content
            .into_iter()
            .map(|entry| TokenLogprobs {
                token: token(entry.token),
                top: entry.top_logprobs.into_iter().map(token).collect(),
            })
            .collect();
    }
    let named = |token: String, logprob| WireToken { token, logprob, bytes: None };
    let mut tops = wire.top_logprobs.into_iter();
    wire.tokens
        .into_iter()
        .zip(wire.token_logprobs)
        .map(|(text, logprob)| {
            let mut top: Vec<TokenProb> = tops
                .next()
                .flatten()
                .into_iter()
                .flatten()
                .map(|(text, logprob)| token(named(text, logprob)))
                .collect();
            top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
            TokenLogprobs { token: token(named(text, logprob.unwrap_or(0.0))), top }
        })
        .collect()
}

fn token(wire: WireToken) -> TokenProb {
    let bytes = wire.bytes.unwrap_or_else(|| wire.token.into_bytes());
    TokenProb { id: 0, bytes, logprob: wire.logprob }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(samples: usize, events: &[Value]) -> Vec<Step> {
        let mut reader = Reader::new(samples, 1000, Arc::default());
        let mut steps: Vec<Step> = events.iter().flat_map(|event| reader.read(&event.to_string()).unwrap()).collect();
        steps.extend(reader.end());
        steps
    }

    fn text(index: usize, text: &str) -> Step {
        Step::Chunk(index, Chunk { text: text.into(), tokens: 1, ..Chunk::default() })
    }

    fn last(index: usize, tokens: usize, prompt: Option<PromptTokens>) -> Step {
        Step::Chunk(index, Chunk { tokens, finish: Some(FinishReason::Stop), prompt, ..Chunk::default() })
    }

    #[test]
    fn usage_corrects_the_count_at_the_end() {
        let steps = read(
            1,
            &[
                json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
                json!({"choices": [{"index": 0, "delta": {"content": "two tokens"}}], "usage": null}),
                json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
                json!({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 3,
                   "prompt_tokens_details": {"cached_tokens": 4}}}),
            ],
        );
        assert_eq!(steps, [text(0, "two tokens"), last(0, 2, Some(PromptTokens { sent: 9, cached: 4 }))]);
    }

    #[test]
    fn choices_share_what_was_not_counted() {
        let steps = read(
            2,
            &[
                json!({"choices": [{"index": 1, "delta": {"content": "b"}}, {"index": 0, "delta": {"content": "a"}}]}),
                json!({"choices": [{"index": 0, "finish_reason": "stop"}, {"index": 1, "finish_reason": "stop"}]}),
                json!({"usage": {"prompt_tokens": 1, "completion_tokens": 5}}),
            ],
        );
        let prompt = Some(PromptTokens { sent: 1, cached: 0 });
        assert_eq!(steps, [text(1, "b"), text(0, "a"), last(0, 1, prompt), last(1, 2, prompt)]);
    }

    #[test]
    fn a_server_that_ignores_n_is_found_out() {
        let steps = read(2, &[json!({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]})]);
        assert!(
            matches!(&steps[1], Step::Failed(failure) if failure.kind == Kind::Choices && failure.error.to_string().contains("1 of 2")),
            "{steps:?}"
        );
    }

    #[test]
    fn without_usage_what_was_counted_stands_and_a_cut_choice_fails() {
        let event = |finish: Value| json!({"choices": [{"index": 0, "text": "a", "finish_reason": finish}]});
        assert_eq!(read(1, &[event(json!("stop"))]), [text(0, "a"), last(0, 0, None)]);
        for samples in [1, 2] {
            let steps = read(samples, &[event(Value::Null)]);
            assert_eq!((steps.len(), &steps[0]), (2, &text(0, "a")));
            assert!(matches!(&steps[1], Step::Failed(failure) if failure.kind == Kind::Cut), "{steps:?}");
        }
    }

    #[test]
    fn logprobs_of_chats_and_of_texts_are_read() {
        let chat = json!({"choices": [{"index": 0, "delta": {"content": "é"}, "logprobs": {"content": [
            {"token": "\u{fffd}", "logprob": -0.5, "bytes": [195], "top_logprobs": [{"token": "a", "logprob": -1.0, "bytes": null}]},
            {"token": "\u{fffd}", "logprob": -0.25, "bytes": [169], "top_logprobs": []}]}}]});
        let Step::Chunk(0, chunk) = &read(1, &[chat])[0] else { panic!() };
        assert_eq!((chunk.tokens, chunk.logprobs[0].token.bytes.as_slice()), (2, &[195][..]));
        assert_eq!((chunk.logprobs[0].top[0].bytes.as_slice(), chunk.logprobs[0].top[0].logprob), (&b"a"[..], -1.0));
        let old = json!({"choices": [{"index": 0, "text": "a b", "logprobs": {"tokens": ["a", " b"],
            "token_logprobs": [null, -0.5], "top_logprobs": [null, {"x": -2.0, " b": -0.5}]}}]});
        let Step::Chunk(0, chunk) = &read(1, &[old])[0] else { panic!() };
        assert_eq!((chunk.tokens, chunk.logprobs[1].top[0].bytes.as_slice()), (2, &b" b"[..]));
    }

    #[test]
    fn reasoning_of_either_name_is_apart_from_the_text_and_counted() {
        for name in ["reasoning_content", "reasoning"] {
            let mut thought = json!({"index": 0, "delta": {"content": null},
                "logprobs": {"content": [{"token": "so", "logprob": -0.5}, {"token": " so", "logprob": -0.5}]}});
            thought["delta"][name] = json!("so so");
            let token = |text: &str| json!({"content": [{"token": text, "logprob": -0.25}]});
            let events = [
                json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}),
                json!({"choices": [thought]}),
                json!({"choices": [{"index": 0, "delta": {}, "logprobs": token("</think>")}]}),
                json!({"choices": [{"index": 0, "delta": {"content": "yes"}, "logprobs": token("yes"), "finish_reason": "stop"}]}),
                json!({"usage": {"prompt_tokens": 1, "completion_tokens": 7, "completion_tokens_details": {"reasoning_tokens": 5}}}),
            ];
            let thinks = Arc::new(AtomicBool::new(false));
            let mut reader = Reader::new(1, 1000, Arc::clone(&thinks));
            let mut steps: Vec<Step> =
                events.iter().flat_map(|event| reader.read(&event.to_string()).unwrap()).collect();
            assert!(thinks.load(Relaxed));
            steps.extend(reader.end());
            let chunks: Vec<Chunk> = steps
                .into_iter()
                .map(|step| match step {
                    Step::Chunk(0, chunk) => chunk,
                    other => panic!("{other:?}"),
                })
                .collect();
            let seen: Vec<_> = chunks
                .iter()
                .map(|c| (c.text.as_str(), c.reasoning.text.as_str(), c.tokens, c.reasoning.tokens, c.logprobs.len()))
                .collect();
            assert_eq!(seen, [("", "so so", 2, 2, 0), ("", "", 1, 1, 0), ("yes", "", 1, 0, 1), ("", "", 3, 2, 0)]);
        }
    }

    #[test]
    fn counts_that_cannot_be_right_are_not_believed() {
        let event = json!({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]});
        for (usage, tokens, prompt) in [
            (json!({"prompt_tokens": 2, "completion_tokens": 4_000_000_000u64}), 999, Some((2, 0))),
            (json!({"prompt_tokens": -2, "completion_tokens": -4}), 0, None),
            (json!({"prompt_tokens": "many"}), 0, None),
            (json!("none"), 0, None),
        ] {
            let steps = read(1, &[event.clone(), json!({"choices": [], "usage": usage})]);
            let prompt = prompt.map(|(sent, cached)| PromptTokens { sent, cached });
            assert_eq!(steps, [text(0, "a"), last(0, tokens, prompt)], "{usage}");
        }
    }

    #[test]
    fn an_error_event_is_an_error() {
        let mut reader = Reader::new(1, 1000, Arc::default());
        let sent = [
            r#"{"error": {"message": "out of memory"}}"#,
            r#"{"error": "out of memory"}"#,
            r#"{"object": "error", "message": "out of memory", "code": 500}"#,
            r#"{"message": "out of memory"}"#,
        ];
        for data in sent {
            for error in [reader.read(data).unwrap_err(), Reader::error(data)] {
                assert_eq!(error.kind, Kind::Failed, "{data}");
                assert_eq!(error.error.to_string(), "the upstream broke off: out of memory", "{data}");
            }
        }
        assert_eq!(Reader::error("out of memory").error.to_string(), "the upstream broke off: out of memory");
        assert_eq!(reader.read(r#"{"choices": []}"#), Ok(Vec::new()), "an event without anything is no error");
        assert_eq!(reader.read("<html>").unwrap_err().kind, Kind::Unreadable);
    }
}
