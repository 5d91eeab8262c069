//! A running server, as commands talk to it: its address, the key, the model.

use std::time::Duration;

use anyhow::Context;
use eventsource_stream::{Event, EventStreamError, Eventsource};
use futures::Stream;
use reqwest::{Client, RequestBuilder};
use serde_json::Value;

/// A server that answers for one model.
pub(super) struct Remote {
    client: Client,
    url: String,
    key: Option<String>,
    /// The model that is asked for.
    pub model: String,
}

impl Remote {
    /// Asks the server for its models. `model` chooses one; otherwise the first is taken. SPAR_API_KEY is the key.
    ///
    /// # Errors
    /// Fails if the server cannot be reached, refuses the key, or serves no model.
    pub async fn connect(url: &str, model: Option<&str>) -> anyhow::Result<Self> {
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        let key = std::env::var("SPAR_API_KEY").ok().filter(|key| !key.is_empty());
        let client = Client::builder().connect_timeout(Duration::from_secs(10)).build()?;
        let mut remote = Self { client, url, key, model: String::new() };
        let listed = remote.keyed(remote.client.get(format!("{}/v1/models", remote.url))).send().await;
        let listed =
            listed.with_context(|| format!("--url {} cannot be reached; is a server running there?", remote.url))?;
        let listed: Value = checked(listed).await?.json().await.context("the list of models cannot be read")?;
        let first = listed["data"][0]["id"].as_str();
        let chosen = model.or(first).with_context(|| format!("--url {} serves no model", remote.url))?;
        remote.model = chosen.to_owned();
        Ok(remote)
    }

    /// Sends a chat completion whose answer is streamed, and gives its events.
    ///
    /// # Errors
    /// Fails with the server's own message if it refuses.
    pub async fn stream(
        &self,
        body: &Value,
    ) -> anyhow::Result<impl Stream<Item = Result<Event, EventStreamError<reqwest::Error>>> + use<>> {
        let request = self.client.post(format!("{}/v1/chat/completions", self.url)).json(body);
        let response = self.keyed(request).send().await.with_context(|| format!("{} cannot be reached", self.url))?;
        Ok(checked(response).await?.bytes_stream().eventsource())
    }

    fn keyed(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }
}

/// The response if it is a success, and otherwise the server's message.
async fn checked(response: reqwest::Response) -> anyhow::Result<reqwest::Response> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let text = response.text().await.unwrap_or_default();
    let message =
        serde_json::from_str::<Value>(&text).ok().and_then(|body| body["error"]["message"].as_str().map(str::to_owned));
    let remedy = if status.as_u16() == 401 { "; set SPAR_API_KEY to one of the server's keys" } else { "" };
    anyhow::bail!("the server answered {status}: {}{remedy}", message.unwrap_or(text))
}
