//! Evaluates a running spar server: the server searches, and this process checks the answers.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::eval::{Checks, Method, Trial};
use crate::search::{Judge, SearchConfig, StopReason};
use crate::verify::data::Prompt;

/// A server that answers for one model.
pub(super) struct RunningServer {
    client: Client,
    url: String,
    key: Option<String>,
    model: String,
    /// The build, the model and the weights.
    pub identity: Value,
}

#[derive(Deserialize)]
struct Answer {
    choices: Vec<Choice>,
    usage: Usage,
    search: Option<Search>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    content: String,
}

#[derive(Deserialize)]
struct Usage {
    completion_tokens: usize,
}

#[derive(Deserialize)]
struct Search {
    accepted: bool,
    stop_reason: StopReason,
    depth: usize,
    nodes: usize,
    calls: Calls,
}

#[derive(Deserialize)]
struct Calls {
    answer: usize,
    judge: usize,
    refine: usize,
    #[serde(default)]
    score: usize,
}

impl RunningServer {
    /// Connects to the server and asks for its version and model.
    ///
    /// # Errors
    /// Fails if no server answers or if it is not a spar server.
    pub async fn connect(url: &str, key: Option<String>) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let client = Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        let response = client.get(format!("{url}/version")).send().await;
        let response = response.with_context(|| format!("--url {url} cannot be reached"))?;
        let identity: Value = response.json().await.unwrap_or_default();
        let model = identity["model"].as_str().map(str::to_owned);
        let model = model.with_context(|| {
            format!("--url {url} is no spar server (GET /version says otherwise); use --engine upstream --upstream-url")
        })?;
        Ok(Self { client, url, key, model, identity })
    }

    /// Requests one answer and checks it.
    ///
    /// # Errors
    /// Fails if the server refuses or fails.
    pub async fn trial(&self, method: &Method, index: usize, case: &Prompt) -> anyhow::Result<Trial> {
        let started = Instant::now();
        let request = self.client.post(format!("{}/v1/chat/completions", self.url));
        let response = keyed(request, self.key.as_deref()).json(&self.body(method, index, case)).send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "the server answered {status}: {text}");
        let answer: Answer = serde_json::from_str(&text).with_context(|| format!("unexpected answer: {text}"))?;
        let response = answer.choices.into_iter().next().context("an answer without a choice")?.message.content;
        let plain = Trial {
            tokens: answer.usage.completion_tokens,
            seconds: started.elapsed().as_secs_f64(),
            ..Trial::check(case, response)
        };
        Ok(match answer.search {
            None => plain,
            Some(search) => Trial {
                accepted: search.accepted,
                stop: Some(search.stop_reason),
                depth: search.depth,
                nodes: search.nodes,
                calls: search.calls.answer + search.calls.judge + search.calls.refine + search.calls.score,
                ..plain
            },
        })
    }

    fn body(&self, method: &Method, index: usize, case: &Prompt) -> Value {
        let mut body = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": case.prompt}],
            "temperature": method.sampling.temperature,
            // Seeds in the API are signed.
            "seed": method.seed(index) >> 1,
        });
        if let Some(most) = method.max_tokens {
            body["max_tokens"] = json!(most);
        }
        if let Some(config) = &method.search
            && let Some(judge) = judge_of(config.judge, case)
        {
            body["search_budget"] = json!(config.budget);
            body["search"] = options(config, judge, method.checks, case);
        }
        body
    }
}

/// The judge for a prompt. A prompt whose instructions cannot be checked has no rules, and the server refuses a search without a judge.
fn judge_of(judge: Judge, case: &Prompt) -> Option<Judge> {
    match judge {
        Judge::Rules if case.checks.is_empty() => None,
        Judge::Both if case.checks.is_empty() => Some(Judge::Model),
        judge => Some(judge),
    }
}

fn options(config: &SearchConfig, judge: Judge, checks: Checks, case: &Prompt) -> Value {
    let mut options = json!({
        "strategy": config.strategy, "mode": config.mode, "votes": config.votes, "trace": "none",
        "checklist": config.checklist,
    });
    if let Some(judging) = config.judging {
        options["judging"] = json!(judging);
    }
    let file = || case.checks.iter().map(|check| json!({"id": check.id, "kwargs": check.kwargs})).collect::<Value>();
    match (judge, checks) {
        (Judge::Model, _) => options["judge"] = json!(Judge::Model),
        (judge, Checks::File) => {
            options["judge"] = json!(judge);
            options["checks"] = file();
        }
        // The server chooses: both if it finds rules, otherwise the model.
        (_, Checks::Auto) => options["checks"] = json!("auto"),
    }
    options
}

fn keyed(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}
