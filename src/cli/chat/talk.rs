//! A conversation with a server: what was said, and how the next answer is asked for.

use std::time::Instant;

use anyhow::{Context, ensure};
use futures::StreamExt;
use serde_json::{Value, json};

use super::screen::Screen;
use super::tree::{Node, Tree};
use crate::cli::remote::Remote;

/// How answers are asked for.
#[derive(Clone, Debug)]
pub(super) struct Wishes {
    /// Refinements per answer; 0 answers plainly.
    pub search: usize,
    /// The standing instructions, if any.
    pub system: Option<String>,
    /// The temperature of answers; otherwise the model's own.
    pub temperature: Option<f64>,
    /// Tokens of an answer at most.
    pub max_tokens: Option<usize>,
    /// The seed of the first answer; each later one has the next.
    pub seed: Option<i64>,
}

/// A conversation with one model.
pub(super) struct Talk {
    remote: Remote,
    /// How answers are asked for.
    pub wishes: Wishes,
    turns: Vec<Value>,
    asked: i64,
    /// The tree of the last search.
    pub tree: Tree,
    report: Option<Value>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The answer is complete.
    Whole,
    /// The user stopped the answer.
    Stopped,
}

/// What a stream has said so far.
#[derive(Default)]
struct Heard {
    text: String,
    tokens: Option<u64>,
}

impl Talk {
    /// A conversation that has not begun.
    pub fn new(remote: Remote, wishes: Wishes) -> Self {
        Self { remote, wishes, turns: Vec::new(), asked: 0, tree: Tree::default(), report: None }
    }

    /// The model that answers.
    pub fn model(&self) -> &str {
        &self.remote.model
    }

    /// Forgets everything that was said.
    pub fn clear(&mut self) {
        self.turns.clear();
        (self.tree, self.report) = (Tree::default(), None);
    }

    /// Removes the last question with its answer and returns it.
    pub fn take_question(&mut self) -> Option<String> {
        let at = self.turns.iter().rposition(|turn| turn["role"] == "user")?;
        let question = self.turns[at]["content"].as_str().unwrap_or_default().to_owned();
        self.turns.truncate(at);
        Some(question)
    }

    /// Asks, and shows the answer while it comes. A question whose answer was stopped or failed stays for [`Talk::take_question`], but a
    /// later one takes its place.
    ///
    /// # Errors
    /// Fails if the server refuses, fails or leaves.
    pub async fn ask(&mut self, question: &str, screen: &mut Screen) -> anyhow::Result<Ended> {
        if self.turns.last().is_some_and(|turn| turn["role"] == "user") {
            self.turns.pop();
        }
        self.turns.push(json!({"role": "user", "content": question}));
        (self.tree, self.report) = (Tree::default(), None);
        let began = Instant::now();
        let body = self.body();
        self.asked += 1;
        let mut heard = Heard::default();
        let ended = {
            let listen = self.listen(&body, &mut heard, screen);
            tokio::select! {
                listened = listen => listened.map(|()| Ended::Whole),
                stopped = tokio::signal::ctrl_c() => stopped.map(|()| Ended::Stopped).context("Ctrl-C cannot be caught"),
            }
        };
        let ended = screen.end_answer().map_err(anyhow::Error::from).and(ended)?;
        if ended == Ended::Whole {
            self.turns.push(json!({"role": "assistant", "content": heard.text}));
            self.tree.best = self.report.as_ref().and_then(|report| usize::try_from(report["best"].as_u64()?).ok());
            screen.status(&self.summary(&heard, began.elapsed().as_secs_f64()))?;
        }
        Ok(ended)
    }

    /// The conversation and the last search as JSON.
    pub fn saved(&self) -> Value {
        json!({"model": self.remote.model, "messages": self.messages(), "search": self.report})
    }

    fn messages(&self) -> Vec<Value> {
        let system = self.wishes.system.iter().map(|text| json!({"role": "system", "content": text}));
        system.chain(self.turns.iter().cloned()).collect()
    }

    fn body(&self) -> Value {
        let mut body = json!({
            "model": self.remote.model, "messages": self.messages(),
            "stream": true, "stream_options": {"include_usage": true},
        });
        let Wishes { search, temperature, max_tokens, seed, .. } = &self.wishes;
        if *search > 0 {
            body["search_budget"] = json!(search);
            body["search"] = json!({"events": true, "trace": "full"});
        }
        let seed = seed.map(|seed| seed.saturating_add(self.asked));
        for (name, value) in
            [("temperature", json!(temperature)), ("max_tokens", json!(max_tokens)), ("seed", json!(seed))]
        {
            if !value.is_null() {
                body[name] = value;
            }
        }
        body
    }

    async fn listen(&mut self, body: &Value, heard: &mut Heard, screen: &mut Screen) -> anyhow::Result<()> {
        let mut events = std::pin::pin!(self.remote.stream(body).await?);
        while let Some(event) = events.next().await {
            let data = event.context("the stream broke off")?.data;
            if data == "[DONE]" {
                return Ok(());
            }
            let chunk: Value = serde_json::from_str(&data).with_context(|| format!("unexpected event: {data}"))?;
            if let Some(error) = chunk.get("error") {
                anyhow::bail!("the answer failed: {}", error["message"].as_str().unwrap_or(&data));
            }
            if let Ok(node) = serde_json::from_value::<Node>(chunk["search_node"].clone()) {
                self.tree.put(node);
                screen.grow(&self.tree)?;
            }
            let delta = &chunk["choices"][0]["delta"];
            if let Some(thought) = delta["reasoning_content"].as_str() {
                screen.thought(thought)?;
            }
            if let Some(text) = delta["content"].as_str().filter(|text| !text.is_empty()) {
                heard.text.push_str(text);
                screen.text(text)?;
            }
            if chunk["search"].is_object() {
                self.report = Some(chunk["search"].clone());
            }
            heard.tokens = chunk["usage"]["completion_tokens"].as_u64().or(heard.tokens);
        }
        ensure!(false, "the server ended the stream before the answer was complete");
        Ok(())
    }

    /// What the answer took, and how its search ended.
    fn summary(&self, heard: &Heard, seconds: f64) -> String {
        let mut parts = Vec::new();
        if let Some(report) = &self.report {
            parts.push(report["stop_reason"].as_str().unwrap_or("searched").replace('_', " "));
            parts.extend(report["value"].as_f64().map(|value| format!("value {value:.2}")));
            parts.extend(report["nodes"].as_u64().map(|nodes| format!("{nodes} refinements")));
        }
        parts.extend(heard.tokens.map(|tokens| format!("{tokens} tokens")));
        parts.push(format!("{seconds:.1} s"));
        parts.join(" · ")
    }
}
