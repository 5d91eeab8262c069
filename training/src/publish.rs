//! Publishes trained weights to a running server: swaps them in with the admin routes, watches the server, and rolls back if it gets worse.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stages::write_json;

/// The `[publish]` section of a recipe. The admin key is read from the environment variable SPAR_ADMIN_KEY.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    /// The server's URL, such as http://127.0.0.1:8080.
    pub url: String,
    /// Seconds for which new weights are watched before the next step.
    #[serde(default = "ten")]
    pub watch: f64,
    /// Share of requests that may fail with a server error during that time.
    #[serde(default = "one_in_a_hundred")]
    pub max_error_rate: f64,
}

fn ten() -> f64 {
    10.0
}

fn one_in_a_hundred() -> f64 {
    0.01
}

/// Weights to swap in, and the role they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weights {
    /// `actor`, `refiner` or `both`.
    pub role: String,
    /// A model's directory.
    pub model: Option<PathBuf>,
    /// An adapter's directory.
    pub adapter: Option<PathBuf>,
    /// The generation that must be live.
    pub expected: Option<String>,
    /// Whether everything except the switch is done.
    pub dry_run: bool,
}

/// The result of publishing weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// The live pair, in the server's notation.
    pub generation: Value,
    /// Milliseconds from the request to the switch.
    pub elapsed_ms: f64,
    /// Why the weights were rolled back, if they were.
    pub rolled_back: Option<String>,
}

/// Publishes the models that a round has accepted, one role after the other, and writes the results to `file`. If the file exists already,
/// its results are returned instead.
///
/// # Errors
/// Fails if the server cannot be reached or refuses a model; the message says why.
pub async fn publish_round(publish: &Publish, models: &[(&str, &Path)], file: &Path) -> Result<Vec<Published>> {
    if let Ok(text) = std::fs::read_to_string(file) {
        return serde_json::from_str(&text).with_context(|| format!("reading {}", file.display()));
    }
    let admin = Admin::new(&publish.url)?;
    let mut published = Vec::new();
    for (role, model) in models {
        let weights = Weights { role: (*role).to_owned(), model: Some((*model).to_owned()), ..Weights::default() };
        let done = admin.publish(publish, &weights).await.with_context(|| format!("publishing {}", model.display()))?;
        tracing::info!(role, generation = %done.generation, elapsed_ms = done.elapsed_ms, rolled_back = ?done.rolled_back, "published");
        published.push(done);
    }
    write_json(file, &published)?;
    Ok(published)
}

/// A client of a server's admin routes.
pub struct Admin {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Admin {
    /// Connects to a server with the key in SPAR_ADMIN_KEY.
    ///
    /// # Errors
    /// Fails if the variable is not set.
    pub fn new(url: &str) -> Result<Self> {
        let key = std::env::var("SPAR_ADMIN_KEY").context("set SPAR_ADMIN_KEY to the server's admin key")?;
        Self::with_key(url, key)
    }

    /// Connects to a server with a given key.
    ///
    /// # Errors
    /// Fails if no HTTP client can be made.
    pub fn with_key(url: &str, key: String) -> Result<Self> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(1800)).build()?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), key })
    }

    /// Swaps weights and returns the server's report.
    ///
    /// # Errors
    /// Fails if the server cannot be reached or refuses; its message says why.
    pub async fn swap(&self, weights: &Weights) -> Result<Value> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let mut body = json!({ "role": weights.role, "dry_run": weights.dry_run });
        for (field, path) in [("model_path", &weights.model), ("adapter_path", &weights.adapter)] {
            if let Some(path) = path {
                body[field] = json!(absolute(path));
            }
        }
        if let Some(expected) = &weights.expected {
            body["expected_generation"] = json!(expected);
        }
        self.post("/admin/generations", &body).await
    }

    /// Rolls back to the pair before the last swap, if the live generation is `expected`.
    ///
    /// # Errors
    /// Fails like [`Admin::swap`].
    pub async fn rollback(&self, role: &str, expected: Option<&str>) -> Result<Value> {
        let mut body = json!({ "role": role });
        if let Some(expected) = expected {
            body["expected_generation"] = json!(expected);
        }
        self.post("/admin/generations/rollback", &body).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let call = self.client.post(format!("{}{path}", self.url)).bearer_auth(&self.key).json(body);
        let response = call.send().await.with_context(|| format!("asking {}", self.url))?;
        let status = response.status();
        let answer: Value = response.json().await.with_context(|| format!("{}{path} answered {status}", self.url))?;
        if status.is_success() {
            return Ok(answer);
        }
        bail!("{}{path} answered {status}: {}", self.url, answer["error"]["message"].as_str().unwrap_or_default())
    }

    /// Reads how many answers the server has given, and how many of them failed.
    async fn answers(&self) -> Result<Answers> {
        let text = self.client.get(format!("{}/metrics", self.url)).send().await?.error_for_status()?.text().await?;
        Ok(Answers::read(&text))
    }

    /// Swaps `weights` in and watches the server. Rolls back if it fails too often or is not ready.
    ///
    /// # Errors
    /// Fails if the server cannot be reached or refuses the weights, which leaves everything unchanged.
    pub async fn publish(&self, publish: &Publish, weights: &Weights) -> Result<Published> {
        ensure!((0.0..=1.0).contains(&publish.max_error_rate), "publish.max_error_rate must be between 0 and 1");
        let before = self.answers().await.context("reading the server's metrics")?;
        let report = self.swap(weights).await?;
        let elapsed_ms = report["elapsed_ms"].as_f64().unwrap_or_default();
        let mut published = Published { generation: report["generation"].clone(), elapsed_ms, rolled_back: None };
        if let Some(reason) = self.watch(publish, before).await {
            tracing::warn!(reason, "rolling back to the previous weights");
            let live = live_id(&weights.role, &published.generation);
            let back = self.rollback(&weights.role, Some(&live)).await.context("rolling back")?;
            published.generation = back["generation"].clone();
            published.rolled_back = Some(reason);
        }
        Ok(published)
    }

    /// Returns the reason for which new weights should be rolled back, if there is one.
    async fn watch(&self, publish: &Publish, before: Answers) -> Option<String> {
        let end = Instant::now() + Duration::from_secs_f64(publish.watch.max(0.0));
        loop {
            let now = match self.answers().await {
                Ok(now) => now,
                Err(error) => return Some(format!("the server's metrics cannot be read: {error}")),
            };
            let (all, failed) = (now.all.saturating_sub(before.all), now.failed.saturating_sub(before.failed));
            // With only a few requests, a failure is not yet a rate.
            if all >= 10 && failed as f64 > publish.max_error_rate * all as f64 {
                return Some(format!("{failed} of {all} requests failed"));
            }
            if Instant::now() >= end {
                let ready = self.client.get(format!("{}/readyz", self.url)).send().await;
                return match ready {
                    Ok(response) if response.status().is_success() => None,
                    Ok(response) => Some(format!("/readyz answers {}", response.status())),
                    Err(error) => Some(format!("/readyz cannot be asked: {error}")),
                };
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn live_id(role: &str, generation: &Value) -> String {
    let id = |role: &str| generation[role].as_str().unwrap_or_default().to_owned();
    match role {
        "both" if id("actor") != id("refiner") => format!("{}+{}", id("actor"), id("refiner")),
        "both" => id("actor"),
        role => id(role),
    }
}

/// Numbers of completions since the server's start that are relevant to the weights: the answered ones and those at which the model failed.
/// A request that was refused (4xx) or that waited too long (503) is not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Answers {
    all: u64,
    failed: u64,
}

impl Answers {
    fn read(metrics: &str) -> Self {
        let mut answers = Self::default();
        for line in metrics.lines().filter(|line| line.starts_with("spar_http_requests_total{route=\"/v1/c")) {
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).unwrap_or_default() as u64;
            let failed = line.contains("status=\"500\"");
            if failed || line.contains("status=\"2") {
                answers.all += count;
            }
            if failed {
                answers.failed += count;
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_and_failures_of_the_model_among_them() {
        let metrics = "spar_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 40\n\
             spar_http_requests_total{route=\"/v1/completions\",status=\"200\"} 5\n\
             spar_http_requests_total{route=\"/v1/chat/completions\",status=\"400\"} 3\n\
             spar_http_requests_total{route=\"/v1/chat/completions\",status=\"500\"} 2\n\
             spar_http_requests_total{route=\"/v1/chat/completions\",status=\"503\"} 7\n\
             spar_http_requests_total{route=\"/metrics\",status=\"500\"} 9\n";
        assert_eq!(Answers::read(metrics), Answers { all: 47, failed: 2 });
    }

    #[test]
    fn a_section_has_defaults_and_refuses_what_it_does_not_know() {
        let read = |text: &str| toml::from_str::<Publish>(text);
        let publish = read("url = 'http://h:1'").unwrap();
        assert_eq!((publish.watch, publish.max_error_rate), (10.0, 0.01));
        assert!(read("url = 'http://h:1'\nkey = 'x'").unwrap_err().to_string().contains("key"));
    }

    #[test]
    fn what_must_be_live_is_named_as_the_server_names_it() {
        let generation = json!({ "actor": "g-3", "refiner": "g-2" });
        for (role, expected) in [("actor", "g-3"), ("refiner", "g-2"), ("both", "g-3+g-2")] {
            assert_eq!(live_id(role, &generation), expected);
        }
        assert_eq!(live_id("both", &json!({ "actor": "g-4", "refiner": "g-4" })), "g-4");
    }
}
