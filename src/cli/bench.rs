//! `spar bench`: loads a running server with plain and searching clients, and reports the latency of both; or, with `--budgets`, compares
//! greedy answers with searched ones on prompts of one's own.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use eventsource_stream::Eventsource;
use futures::future::join_all;
use futures::{Stream, StreamExt};
use reqwest::Client;
use serde_json::{Value, json};

use super::eval::own::{self, Own};
use super::output::print;
use crate::config::EngineArgs;
use crate::eval::own::read_own_prompts;

/// The server to load, and the load.
#[derive(clap::Args, Clone, Debug)]
pub struct BenchArgs {
    /// URL of a running server; SPAR_API_KEY is sent as its key
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", conflicts_with_all = ["model", "refiner"])]
    url: String,
    /// Clients that send plain requests and read the stream, one request after the other
    #[arg(long, value_name = "N", default_value_t = 1)]
    clients: usize,
    /// Clients that search continuously
    #[arg(long, value_name = "N", default_value_t = 0)]
    searches: usize,
    /// Node budget of the searching clients
    #[arg(long, value_name = "N", default_value_t = 16)]
    budget: usize,
    /// Seconds of load
    #[arg(long, value_name = "N", default_value_t = 10)]
    seconds: u64,
    /// Maximum tokens of an answer; default: the rest of the context
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Prompts as JSONL, one object with a `prompt` per line, used in turn; default: one short question. With --budgets an object may also
    /// have `checks` (a list of `id` and `kwargs`) or IFEval's fields; otherwise the checks are found in the prompt's words
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Compare greedy answers with searches of these budgets on the prompts of --data, instead of loading the server; --clients is then the
    /// number of prompts at a time. --model compares with a model in this process
    #[arg(
        long, value_name = "N,…", value_delimiter = ',', requires = "data", conflicts_with_all = ["searches", "budget", "seconds"]
    )]
    budgets: Vec<usize>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: EngineArgs,
}

/// The measurements of one kind of client.
#[derive(Default)]
struct Seen {
    requests: usize,
    tokens: usize,
    first_token: Vec<f64>,
    between_tokens: Vec<f64>,
    whole: Vec<f64>,
}

impl Seen {
    fn add(mut self, other: Self) -> Self {
        self.requests += other.requests;
        self.tokens += other.tokens;
        self.first_token.extend(other.first_token);
        self.between_tokens.extend(other.between_tokens);
        self.whole.extend(other.whole);
        self
    }

    fn report(&mut self, elapsed: f64) -> Value {
        let mut quantiles = |values: fn(&mut Self) -> &mut Vec<f64>| {
            let values = values(self);
            values.sort_by(f64::total_cmp);
            let at =
                |share: f64| values.get(((values.len() as f64 * share) as usize).min(values.len().saturating_sub(1)));
            let ms = |share| at(share).map(|seconds| (seconds * 1e5).round() / 100.0);
            json!({"n": values.len(), "p50_ms": ms(0.5), "p95_ms": ms(0.95), "p99_ms": ms(0.99), "max_ms": ms(1.0)})
        };
        let (first, between) = (quantiles(|seen| &mut seen.first_token), quantiles(|seen| &mut seen.between_tokens));
        let whole = quantiles(|seen| &mut seen.whole);
        json!({
            "requests": self.requests, "tokens": self.tokens, "tokens_per_second": (self.tokens as f64 / elapsed).round(),
            "time_to_first_token": first, "inter_token_latency": between, "request": whole,
        })
    }
}

struct Load<'a> {
    args: &'a BenchArgs,
    client: Client,
    url: String,
    key: Option<String>,
    model: String,
    prompts: Vec<String>,
    until: Instant,
}

/// Loads the server and prints the measurements.
///
/// # Errors
/// Fails if the server cannot be reached or refuses a request.
pub fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if let Some(data) = args.data.clone().filter(|_| !args.budgets.is_empty()) {
        let local = args.engine.model.is_some();
        return own::run(Own {
            data,
            budgets: args.budgets.clone(),
            url: (!local).then(|| args.url.clone()),
            engine: args.engine.clone(),
            max_tokens: args.max_tokens,
            parallel: args.clients.max(1),
            json: args.json,
        });
    }
    ensure!(args.engine.model.is_none(), "--model needs --budgets: the load is put on a running server, see --url");
    ensure!(args.clients + args.searches >= 1, "--clients and --searches are both 0: there is nothing to do");
    ensure!((1..=600).contains(&args.seconds), "--seconds must be between 1 and 600, got {}", args.seconds);
    let prompts = match &args.data {
        Some(path) => read_own_prompts(path)?.into_iter().map(|case| case.prompt).collect(),
        None => vec!["Describe the river. Write at least 9 words. Avoid commas.".to_owned()],
    };
    let runtime = tokio::runtime::Runtime::new().context("the runtime cannot start")?;
    let report = runtime.block_on(load(args, prompts))?;
    Ok(print(&if args.json { format!("{report:#}\n") } else { table(&report) })?)
}

fn table(report: &Value) -> String {
    let mut text = String::new();
    for kind in ["plain", "search"] {
        let seen = &report[kind];
        if seen["requests"] == 0 {
            continue;
        }
        text += &format!(
            "{kind}: {} requests, {} tokens, {} tokens/s\n",
            seen["requests"], seen["tokens"], seen["tokens_per_second"]
        );
        for what in ["time_to_first_token", "inter_token_latency", "request"] {
            let q = &seen[what];
            text += &format!(
                "  {what:<20} n {:<7} p50 {} ms, p95 {} ms, p99 {} ms, max {} ms\n",
                q["n"], q["p50_ms"], q["p95_ms"], q["p99_ms"], q["max_ms"]
            );
        }
    }
    text
}

async fn load(args: &BenchArgs, prompts: Vec<String>) -> anyhow::Result<Value> {
    let url = args.url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
    let key = std::env::var("SPAR_API_KEY").ok();
    let client = Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
    let listed = client.get(format!("{url}/v1/models")).bearer_auth(key.as_deref().unwrap_or("none")).send().await;
    let listed: Value =
        listed.with_context(|| format!("--url {url} cannot be reached"))?.error_for_status()?.json().await?;
    let model = listed["data"][0]["id"].as_str().with_context(|| format!("--url {url} serves no model"))?.to_owned();
    let until = Instant::now() + Duration::from_secs(args.seconds);
    let load = Load { args, client, url, key, model, prompts, until };
    let started = Instant::now();
    let plain = join_all((0..args.clients).map(|client| load.client(client, None)));
    let searching = join_all((0..args.searches).map(|client| load.client(client, Some(args.budget))));
    let (plain, searching) = futures::future::join(plain, searching).await;
    let elapsed = started.elapsed().as_secs_f64();
    let sum = |all: Vec<anyhow::Result<Seen>>| -> anyhow::Result<Seen> {
        all.into_iter().try_fold(Seen::default(), |sum, seen| Ok(sum.add(seen?)))
    };
    let (mut plain, mut searching) = (sum(plain)?, sum(searching)?);
    Ok(json!({"seconds": elapsed, "plain": plain.report(elapsed), "search": searching.report(elapsed)}))
}

impl Load<'_> {
    /// Sends requests until the time is up. The last answer is read to its end.
    async fn client(&self, number: usize, budget: Option<usize>) -> anyhow::Result<Seen> {
        let mut seen = Seen::default();
        let mut turn = number;
        while Instant::now() < self.until {
            let mut body = json!({
                "model": self.model, "stream": true, "stream_options": {"include_usage": true}, "seed": turn,
                "messages": [{"role": "user", "content": self.prompts[turn % self.prompts.len()]}],
            });
            if let Some(most) = self.args.max_tokens {
                body["max_tokens"] = json!(most);
            }
            if let Some(budget) = budget {
                body["search_budget"] = json!(budget);
            }
            self.answer(&body, &mut seen).await?;
            // Clients walk through the prompts from different places.
            turn += 1 + self.args.clients + self.args.searches;
        }
        Ok(seen)
    }

    async fn answer(&self, body: &Value, seen: &mut Seen) -> anyhow::Result<()> {
        let started = Instant::now();
        let request = self.client.post(format!("{}/v1/chat/completions", self.url)).json(body);
        let response = request.bearer_auth(self.key.as_deref().unwrap_or("none")).send().await?;
        let status = response.status();
        if !status.is_success() {
            anyhow::bail!("the server answered {status}: {}", response.text().await.unwrap_or_default());
        }
        self.read(response.bytes_stream().eventsource(), started, seen).await?;
        seen.requests += 1;
        seen.whole.push(started.elapsed().as_secs_f64());
        Ok(())
    }

    async fn read<E: std::error::Error + Send + Sync + 'static>(
        &self,
        events: impl Stream<Item = Result<eventsource_stream::Event, E>>,
        started: Instant,
        seen: &mut Seen,
    ) -> anyhow::Result<()> {
        let mut events = std::pin::pin!(events);
        let mut last = None;
        while let Some(event) = events.next().await {
            let data = event?.data;
            if data == "[DONE]" {
                break;
            }
            let chunk: Value = serde_json::from_str(&data)?;
            ensure!(chunk.get("error").is_none(), "the stream ended with {data}");
            seen.tokens += chunk["usage"]["completion_tokens"].as_u64().unwrap_or(0) as usize;
            if chunk["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty()) {
                let now = Instant::now();
                match last.replace(now) {
                    None => seen.first_token.push((now - started).as_secs_f64()),
                    Some(before) => seen.between_tokens.push((now - before).as_secs_f64()),
                }
            }
        }
        Ok(())
    }
}
