//! Whether the upstream answers and serves the model. It is asked for its list of models, and the answer is cached.

use std::time::Duration;

use reqwest::Client;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::failure::is_limited;
use super::models::{ask_for_models, choose, listed};
use crate::engine::EngineError;

/// How long an answer is cached.
const FRESH: Duration = Duration::from_secs(2);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(700);
/// A busy server may be slow to answer. It counts as unavailable when it has answered nothing for this long.
const SILENCE: Duration = Duration::from_secs(15);

/// What is known of the server.
pub(super) struct Health {
    /// Keeps no idle connections, since these would belong to the runtime of the first caller.
    client: Client,
    /// Held while the server is asked, so that only one request is made at a time and concurrent callers share its answer.
    last: Mutex<Last>,
}

struct Last {
    asked: Option<Instant>,
    /// When the server last answered, whatever it said.
    heard: Instant,
    verdict: Result<(), EngineError>,
}

impl Health {
    pub fn new() -> Result<Self, EngineError> {
        let client = Client::builder().pool_max_idle_per_host(0).build();
        let client = client.map_err(|error| EngineError::Unavailable(format!("no HTTP client: {error}")))?;
        Ok(Self { client, last: Mutex::new(Last { asked: None, heard: Instant::now(), verdict: Ok(()) }) })
    }

    /// Asks the server at `base` for the model called `name`, unless it was asked a moment ago.
    pub async fn of(&self, base: &str, name: &str, key: Option<&str>) -> Result<(), EngineError> {
        let mut last = self.last.lock().await;
        if last.asked.is_some_and(|asked| asked.elapsed() < FRESH) {
            return last.verdict.clone();
        }
        let answer = timeout(PATIENCE, self.ask(base, name, key)).await;
        let now = Instant::now();
        match answer {
            Ok(verdict) => {
                last.heard = now;
                last.verdict = verdict;
            }
            Err(_elapsed) if now - last.heard < SILENCE => {}
            Err(_elapsed) => {
                let seconds = (now - last.heard).as_secs();
                let reason = format!("the upstream {} has not answered for {seconds} s", base);
                last.verdict = Err(EngineError::Unavailable(reason));
            }
        }
        last.asked = Some(now);
        last.verdict.clone()
    }

    async fn ask(&self, base: &str, name: &str, key: Option<&str>) -> Result<(), EngineError> {
        let response = ask_for_models(&self.client, base, key).await?;
        if is_limited(&response) {
            return Ok(());
        }
        match listed(response, base).await.and_then(|cards| choose(cards, Some(name), base)) {
            Ok(_) => Ok(()),
            Err(EngineError::Invalid(reason) | EngineError::Crashed(reason)) => Err(EngineError::Unavailable(reason)),
            Err(error) => Err(error),
        }
    }
}
