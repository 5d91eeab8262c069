//! Any OpenAI-compatible server as an engine: requests go out as streams, and dropping a reply closes its connection.
//!
//! Siblings are one request with `n`, or several where the server ignores it. Several replies then read one response: whichever
//! is polled drives it for all of them, and dropping the last one closes the connection; no task runs in between. Tokens are
//! counted by pieces of text until the usage at the end corrects them. JSON schemas are passed on. Other grammars are not
//! part of OpenAI's API, so verdicts and refinements are read as they come, and a refinement that does not match what the
//! answer must be is requested again. Labels are read from the first token's `top_logprobs`, until an answer shows that the
//! server gives none.

mod body;
mod events;
mod failure;
mod health;
mod labels;
mod siblings;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use eventsource_stream::Eventsource;
use futures::future::try_join_all;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;

use super::reasoning::{Form, split_chunks};
use super::{
    Chunk, Engine, EngineError, Input, LabelRequest, LabelScores, LabelSupport, ModelInfo, Namespace, PromptTokens,
    Reply, Request, TraceContext, WireSeed, derive_seed,
};
use crate::chat::TemplateKwargs;
use events::Reader;
use failure::{is_busy, refused, unreachable};
use health::Health;
use siblings::{Source, Step};

/// Tokens of a context where neither the server nor the settings say.
const CONTEXT: usize = 8_192;
/// How often a request is sent that the server is too busy for, before it gives up.
const TRIES: u32 = 4;
/// The pause between the first two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

/// How the server is asked for several replies to one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Siblings {
    /// One request with `n`, so that the server can share the prompt.
    #[default]
    Choices,
    /// A request for each, for servers that do not honour `n`.
    Requests,
}

/// Which server, and what it does not say of itself.
#[derive(Clone, Debug, Default)]
pub struct UpstreamConfig {
    /// The base URL, such as `http://127.0.0.1:8000/v1`; without a path, `/v1` is meant.
    pub url: String,
    /// The model to ask for; `None` where the server has one.
    pub model: Option<String>,
    /// Sent as a bearer token.
    pub key: Option<String>,
    /// Tokens of prompt and reply together; `None`: what the server says, or else 8,192.
    pub context: Option<usize>,
    /// How siblings are asked for.
    pub siblings: Siblings,
    /// How the text of its replies marks reasoning; `None` where the server takes it out itself.
    pub reasoning: Option<Form>,
    /// Variables of its chat template where a chat does not set them.
    pub template_kwargs: TemplateKwargs,
}

/// A model behind an OpenAI-compatible server. Of constraints it honours JSON schemas. Its replies carry no token ids: the wire
/// has none, so they are 0.
pub struct UpstreamEngine {
    client: Client,
    base: String,
    key: Option<String>,
    siblings: Siblings,
    reasoning: Option<Form>,
    template_kwargs: TemplateKwargs,
    /// Whether the model is known to think, so that its server knows how to turn that off. Servers of other models may refuse a
    /// request with `chat_template_kwargs`.
    thinks: Arc<AtomicBool>,
    info: ModelInfo,
    /// Whether an answer has shown that the server gives no log-probabilities.
    lists_nothing: AtomicBool,
    /// Whether the server knows vLLM's own fields: it keeps prefixes apart by `cache_salt`, and honours rules on tokens.
    extended: bool,
    health: Health,
}

#[derive(Deserialize)]
struct Models {
    data: Vec<Card>,
}

#[derive(Deserialize)]
struct Card {
    id: String,
    max_model_len: Option<usize>,
    owned_by: Option<String>,
}

impl Card {
    /// Whether its server knows vLLM's own fields: vLLM itself, and this server.
    fn is_extended(&self) -> bool {
        matches!(self.owned_by.as_deref(), Some("vllm" | "spar"))
    }
}

impl UpstreamEngine {
    /// Asks the server for its models and settles on one.
    ///
    /// # Errors
    /// The server cannot be reached, refuses the key, or does not serve the model; or it serves several and none is named.
    pub async fn connect(config: UpstreamConfig) -> Result<Self, EngineError> {
        let base = base(&config.url)?;
        let cards = models(&client()?, &base, config.key.as_deref()).await?;
        let card = choose(cards, config.model.as_deref(), &base)?;
        let (context, extended) = (config.context.or(card.max_model_len).unwrap_or(CONTEXT), card.is_extended());
        let info = ModelInfo { name: card.id, context, vocabulary: 0 };
        // A client of its own: connections that the question left behind belong to the caller's runtime.
        let UpstreamConfig { key, siblings, reasoning, template_kwargs, .. } = config;
        let thinks = Arc::new(AtomicBool::new(reasoning.is_some()));
        let (client, lists_nothing) = (client()?, AtomicBool::new(false));
        let health = Health::new()?;
        Ok(Self {
            client,
            base,
            key,
            siblings,
            reasoning,
            template_kwargs,
            thinks,
            info,
            lists_nothing,
            extended,
            health,
        })
    }

    /// One request's replies.
    async fn ask(&self, request: &Request) -> Result<Vec<Reply>, EngineError> {
        let route = if matches!(request.input, Input::Chat(_)) { "chat/completions" } else { "completions" };
        let mut body = body::of(request, &self.info)?;
        if let Input::Chat(chat) = &request.input {
            body::put_template_options(&mut body, &chat.options, &self.template_kwargs, self.thinks.load(Relaxed));
        }
        let apart = request.origin.namespace != Namespace::SHARED;
        if apart && self.extended {
            body["cache_salt"] = request.origin.namespace.hex().into();
        }
        let response = self.send(&format!("{}/{route}", self.base), &body, request.origin.trace).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            return Err(EngineError::Upstream(format!(
                "the upstream answered with {kind:?} instead of an event stream"
            )));
        }
        let source = source(response, request.samples, Arc::clone(&self.thinks));
        let splitter = self.reasoning.filter(|_| matches!(request.input, Input::Chat(_))).map(|form| form.after(""));
        let split = |reply: Reply| Reply { chunks: split_chunks(reply.chunks, splitter.clone()), ..reply };
        let replies = siblings::replies(source, request.samples).into_iter().map(split);
        // Where the server does not keep callers apart, at least no count says what another one sent.
        Ok(match apart && !self.extended {
            true => replies.map(without_cached).collect(),
            false => replies.collect(),
        })
    }

    /// Sends until the server is not too busy, a few times at most.
    async fn send(
        &self,
        url: &str,
        body: &serde_json::Value,
        trace: Option<TraceContext>,
    ) -> Result<Response, EngineError> {
        let mut pause = PAUSE;
        for last in (0..TRIES).map(|tried| tried + 1 == TRIES) {
            let request = keyed(self.client.post(url).json(body), self.key.as_deref());
            let response = traced(request, trace).send().await;
            let response = response.map_err(|error| unreachable(&self.base, &error))?;
            if !is_busy(&response) || last {
                return if response.status().is_success() { Ok(response) } else { Err(refused(response).await) };
            }
            tokio::time::sleep(asked_pause(&response).unwrap_or(pause)).await;
            pause *= 2;
        }
        Err(EngineError::Unavailable("the upstream is too busy".into()))
    }
}

#[async_trait]
impl Engine for UpstreamEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        if self.siblings == Siblings::Choices || request.samples == 1 {
            return self.ask(&request).await;
        }
        let alone = (0..request.samples).map(|sibling| {
            let mut one = Request { samples: 1, ..request.clone() };
            if sibling > 0 {
                one.sampling.seed = derive_seed(one.sampling.seed, sibling as u64);
                if let WireSeed::Given(_) = one.sampling.wire_seed {
                    one.sampling.wire_seed = WireSeed::Derived;
                }
            }
            async move { self.ask(&one).await }
        });
        Ok(try_join_all(alone).await?.into_iter().flatten().collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn constrains_json(&self) -> bool {
        true
    }

    fn keeps_token_rules(&self) -> bool {
        self.extended
    }

    fn label_support(&self) -> LabelSupport {
        if self.lists_nothing.load(Relaxed) { LabelSupport::Nothing } else { LabelSupport::Prompts }
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        self.label_scores(request).await
    }

    async fn health(&self) -> Result<(), EngineError> {
        self.health.of(self).await
    }
}

/// A reply that says nothing of what its server had kept.
fn without_cached(reply: Reply) -> Reply {
    let hide = |chunk: Result<Chunk, EngineError>| {
        chunk.map(|chunk| Chunk { prompt: chunk.prompt.map(|prompt| PromptTokens { cached: 0, ..prompt }), ..chunk })
    };
    Reply { cached_tokens: 0, chunks: Box::pin(reply.chunks.map(hide)), ..reply }
}

fn client() -> Result<Client, EngineError> {
    // A server may compute on a long prompt for minutes before its first byte.
    let client = Client::builder().connect_timeout(Duration::from_secs(10)).read_timeout(Duration::from_secs(600));
    client.build().map_err(|error| EngineError::Unavailable(format!("no HTTP client: {error}")))
}

/// The address that routes are appended to.
fn base(url: &str) -> Result<String, EngineError> {
    let parsed = reqwest::Url::parse(url).ok().filter(|parsed| matches!(parsed.scheme(), "http" | "https"));
    let parsed = parsed.ok_or_else(|| {
        EngineError::Invalid(format!("the upstream's url must look like http://127.0.0.1:8000/v1, got {url:?}"))
    })?;
    let trimmed = url.trim_end_matches('/');
    Ok(if parsed.path() == "/" { format!("{trimmed}/v1") } else { trimmed.to_owned() })
}

fn keyed(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

/// The request with the span that it belongs to, so that the server's spans join the caller's trace.
fn traced(request: RequestBuilder, trace: Option<TraceContext>) -> RequestBuilder {
    match trace {
        Some(trace) => request.header(TraceContext::HEADER, trace.to_string()),
        None => request,
    }
}

async fn models(client: &Client, base: &str, key: Option<&str>) -> Result<Vec<Card>, EngineError> {
    listed(ask_for_models(client, base, key).await?, base).await
}

async fn ask_for_models(client: &Client, base: &str, key: Option<&str>) -> Result<Response, EngineError> {
    let response = keyed(client.get(format!("{base}/models")), key).send().await;
    response.map_err(|error| unreachable(base, &error))
}

async fn listed(response: Response, base: &str) -> Result<Vec<Card>, EngineError> {
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    let models: Models = response.json().await.map_err(|error| {
        EngineError::Unavailable(format!("{base}/models does not list models as OpenAI does: {error}"))
    })?;
    Ok(models.data)
}

fn choose(cards: Vec<Card>, asked: Option<&str>, base: &str) -> Result<Card, EngineError> {
    // Our own servers list a preset that searches after each model.
    let plain: Vec<Card> = cards.into_iter().filter(|card| !card.id.ends_with(":search")).collect();
    let names = plain.iter().map(|card| card.id.as_str()).collect::<Vec<_>>().join(", ");
    match asked {
        Some(asked) => plain.into_iter().find(|card| card.id == asked).ok_or_else(|| {
            EngineError::Invalid(format!("{base} does not serve the model {asked:?}; it serves: {names}"))
        }),
        None if plain.len() > 1 => {
            Err(EngineError::Invalid(format!("{base} serves several models, name one of them: {names}")))
        }
        None => plain.into_iter().next().ok_or_else(|| EngineError::Unavailable(format!("{base} serves no model"))),
    }
}

/// What `Retry-After` asks for, within reason.
fn asked_pause(response: &Response) -> Option<Duration> {
    let seconds: u64 = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds.min(10)))
}

/// The bytes of a stream without the byte order mark that it may begin with, over which the parser of events would stumble.
fn without_mark<B: AsRef<[u8]>, E>(bytes: impl Stream<Item = Result<B, E>>) -> impl Stream<Item = Result<Rest<B>, E>> {
    const MARK: &[u8] = "\u{FEFF}".as_bytes();
    let mut begun = false;
    bytes.map_ok(move |bytes| {
        let marked = !begun && bytes.as_ref().starts_with(MARK);
        begun |= !bytes.as_ref().is_empty();
        Rest { bytes, from: if marked { MARK.len() } else { 0 } }
    })
}

/// Bytes without the first ones.
struct Rest<B> {
    bytes: B,
    from: usize,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Rest<B> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes.as_ref()[self.from..]
    }
}

/// The events of a response as steps of its siblings; ends after `[DONE]` or with the connection.
fn source(response: Response, samples: usize, thinks: Arc<AtomicBool>) -> Source {
    let events = without_mark(response.bytes_stream()).eventsource();
    let steps = stream::unfold((events, Some(Reader::new(samples, thinks))), |(mut events, reader)| async move {
        let mut reader = reader?;
        Some(match events.next().await {
            Some(Ok(event)) if event.data == "[DONE]" => (reader.end(), (events, None)),
            Some(Ok(event)) => match reader.read(&event.data) {
                Ok(steps) => (steps, (events, Some(reader))),
                Err(error) => (vec![Step::Failed(error)], (events, None)),
            },
            Some(Err(error)) => {
                let error = EngineError::Upstream(format!("the upstream's stream broke off: {error}"));
                (vec![Step::Failed(error)], (events, None))
            }
            None => (reader.end(), (events, None)),
        })
    });
    Box::pin(steps.flat_map(stream::iter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_a_path_means_v1() {
        for (url, expected) in [
            ("http://h:1", Some("http://h:1/v1")),
            ("http://h:1/", Some("http://h:1/v1")),
            ("https://h/v1/", Some("https://h/v1")),
            ("https://h/openai/v1", Some("https://h/openai/v1")),
            ("h:1", None),
            ("ftp://h", None),
        ] {
            assert_eq!(base(url).ok().as_deref(), expected, "{url}");
        }
    }

    #[test]
    fn one_model_is_chosen() {
        let cards = |ids: &[&str]| {
            ids.iter().map(|id| Card { id: (*id).into(), max_model_len: None, owned_by: None }).collect()
        };
        let chosen = |ids, asked| choose(cards(ids), asked, "http://h").map(|card| card.id).map_err(|e| e.to_string());
        assert_eq!(chosen(&["a", "a:search"], None), Ok("a".into()));
        assert_eq!(chosen(&["a", "b"], Some("b")), Ok("b".into()));
        assert!(chosen(&["a", "b"], None).unwrap_err().contains("name one of them: a, b"));
        assert!(chosen(&["a"], Some("c")).unwrap_err().contains("it serves: a"));
        assert!(chosen(&[], None).unwrap_err().contains("serves no model"));
    }
}
