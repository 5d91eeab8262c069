//! Any OpenAI-compatible server as an engine: requests go out as streams, and dropping a reply closes its connection.
//!
//! Siblings are one request with `n`, or several where the server ignores it. Several replies then read one response: whichever
//! is polled drives it for all of them, and dropping the last one closes the connection; no task runs in between. Tokens are
//! counted by pieces of text until the usage at the end corrects them. JSON schemas are passed on, and regular expressions to
//! servers that have a field for them. Other grammars are passed to none, so verdicts and refinements are read as they come, and a
//! refinement that does not match what the answer must be is requested again. Labels are read from the first token's `top_logprobs`, until an answer shows that the
//! server gives none.

mod body;
pub mod dialect;
mod events;
mod failure;
pub mod fleet;
mod health;
mod labels;
mod models;
mod siblings;
mod stream;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::try_join_all;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Response};

pub use self::dialect::Siblings;
use self::dialect::{Adapters, Dialect, recognise};
use self::failure::{Failure, Kind, asked_pause, is_busy, refusal};
use self::health::Health;
use self::models::{choose, keyed, models};
use self::siblings::{Source, Step};
use self::stream::{Expected, source};
use super::reasoning::{Form, split_chunks};
use super::{
    Capabilities, Chunk, ConstraintSupport, Engine, EngineError, Input, LabelRequest, LabelScores, LabelSupport,
    ModelInfo, Namespace, PromptTokens, Reply, Request, TraceContext, WireSeed, derive_seed,
};
use crate::chat::TemplateKwargs;

/// Tokens of a context where neither the server nor the settings say.
const CONTEXT: usize = 8_192;
/// How often a request is sent that the server is too busy for, before it gives up.
const TRIES: u32 = 4;
/// The pause between the first two tries; it doubles.
const PAUSE: Duration = Duration::from_millis(250);

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
    /// The fields that it knows; `None`: recognised by what it says of itself.
    pub dialect: Option<Dialect>,
    /// How the text of its replies marks reasoning; `None` where the server takes it out itself.
    pub reasoning: Option<Form>,
    /// Whether `<think>` at the beginning of a reply's text marks reasoning where nothing says how replies mark it. The server is
    /// not asked to turn off what it may not know.
    pub surmises: bool,
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
    dialect: Dialect,
    reasoning: Option<Form>,
    template_kwargs: TemplateKwargs,
    /// Whether the model is known to think, so that its server knows how to turn that off. Servers of other models may refuse a
    /// request with `chat_template_kwargs`.
    thinks: Arc<AtomicBool>,
    info: ModelInfo,
    /// Whether an answer has shown that the server gives no log-probabilities.
    lists_nothing: AtomicBool,
    health: Health,
}

/// How one call is made.
#[derive(Clone, Copy, Debug)]
struct Asking<'a> {
    /// The adapter that answers, in place of the bare model.
    adapter: Option<&'a str>,
    /// How often it is sent while the server is too busy for it.
    tries: u32,
}

/// How the only server is asked: no other one could answer.
const ALONE: Asking<'static> = Asking { adapter: None, tries: TRIES };

impl UpstreamEngine {
    /// Asks the server for its models and settles on one.
    ///
    /// # Errors
    /// The server cannot be reached, refuses the key, or does not serve the model; or it serves several and none is named.
    pub async fn connect(config: UpstreamConfig) -> Result<Self, EngineError> {
        let base = base(&config.url)?;
        let asking = client()?;
        let cards = models(&asking, &base, config.key.as_deref()).await?;
        let card = choose(cards, config.model.as_deref(), &base)?;
        let dialect = match config.dialect {
            Some(dialect) => dialect,
            None => recognise(&asking, &base, config.key.as_deref(), &card).await,
        };
        let context = config.context.or(card.max_model_len).unwrap_or(CONTEXT);
        let info = ModelInfo::new(card.id, context, 0);
        // A client of its own: connections that the question left behind belong to the caller's runtime.
        let UpstreamConfig { key, siblings, reasoning, surmises, template_kwargs, .. } = config;
        let siblings = dialect.siblings(siblings);
        let thinks = Arc::new(AtomicBool::new(reasoning.is_some()));
        let reasoning = reasoning.or(surmises.then_some(Form::Think));
        let (client, lists_nothing, health) = (client()?, AtomicBool::new(false), Health::new()?);
        Ok(Self {
            client,
            base,
            key,
            siblings,
            dialect,
            reasoning,
            template_kwargs,
            thinks,
            info,
            lists_nothing,
            health,
        })
    }

    /// One request's replies.
    async fn ask(&self, request: &Request) -> Result<Vec<Reply>, EngineError> {
        let source = self.open(request, ALONE).await.map_err(|failure| failure.error)?;
        Ok(self.replies(source, request))
    }

    /// Sends one request and reads its response as steps.
    async fn open(&self, request: &Request, asking: Asking<'_>) -> Result<Source, Failure> {
        let route = if matches!(request.input, Input::Chat(_)) { "chat/completions" } else { "completions" };
        let mut body = body::of(request, &self.info, self.dialect)?;
        if let Input::Chat(chat) = &request.input {
            body::put_template_options(&mut body, &chat.options, &self.template_kwargs, self.thinks.load(Relaxed));
        }
        if request.origin.namespace != Namespace::SHARED && self.dialect.is_extended() {
            body["cache_salt"] = request.origin.namespace.hex().into();
        }
        match (asking.adapter, self.dialect.adapters()) {
            (None, _) => {}
            (Some(name), Adapters::AsField) => body["lora_path"] = name.into(),
            (Some(name), _) => body["model"] = name.into(),
        }
        let response = self.send(&format!("{}/{route}", self.base), &body, asking.tries, request.origin.trace).await?;
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if !kind.starts_with("text/event-stream") {
            let reason = format!("the upstream answered with {kind:?} instead of an event stream");
            return Err(Failure::new(Kind::Unreadable, EngineError::Upstream(reason)));
        }
        let (samples, each) = (request.samples, request.max_tokens.unwrap_or(self.info.context));
        let expected = Expected { samples, most: samples.saturating_mul(each), thinks: Arc::clone(&self.thinks) };
        Ok(source(response, expected))
    }

    /// Sends a request for each sibling and reads all responses as steps of one.
    async fn open_each(&self, request: &Request, asking: Asking<'_>) -> Result<Source, Failure> {
        let alone = each(request);
        let sources = try_join_all(alone.iter().map(|one| self.open(one, asking))).await?;
        let numbered = sources.into_iter().enumerate().map(|(index, source)| {
            let step = move |step| match step {
                Step::Chunk(_, chunk) => Step::Chunk(index, chunk),
                failed @ Step::Failed(_) => failed,
            };
            source.map(step)
        });
        Ok(Box::pin(futures::stream::select_all(numbered)))
    }

    /// The replies that a response's steps make up.
    fn replies(&self, source: Source, request: &Request) -> Vec<Reply> {
        // Where the server does not keep callers apart, at least no count says what another one sent.
        let hides = request.origin.namespace != Namespace::SHARED && !self.dialect.is_extended();
        replies(source, request, self.reasoning, hides)
    }

    /// Sends until the server is not too busy, a few times at most.
    async fn send(
        &self,
        url: &str,
        body: &serde_json::Value,
        tries: u32,
        trace: Option<TraceContext>,
    ) -> Result<Response, Failure> {
        let mut pause = PAUSE;
        for last in (0..tries).map(|tried| tried + 1 == tries) {
            let request = keyed(self.client.post(url).json(body), self.key.as_deref());
            let response = models::traced(request, trace).send().await;
            let response = response.map_err(|error| Failure::unreachable(&self.base, &error))?;
            if !is_busy(&response) || last {
                return if response.status().is_success() { Ok(response) } else { Err(refusal(response).await) };
            }
            tokio::time::sleep(asked_pause(&response).unwrap_or(pause)).await;
            pause *= 2;
        }
        Err(Failure::new(Kind::Busy, EngineError::Unavailable("the upstream is too busy".into())))
    }
}

/// The replies of a response, their reasoning taken from their text where it is marked there in `form`.
fn replies(source: Source, request: &Request, form: Option<Form>, hides_cached: bool) -> Vec<Reply> {
    let splitter = form.filter(|_| matches!(request.input, Input::Chat(_))).map(|form| form.after(""));
    let split = |reply: Reply| Reply { chunks: split_chunks(reply.chunks, splitter.clone()), ..reply };
    let replies = siblings::replies(source, request.samples).into_iter().map(split);
    match hides_cached {
        true => replies.map(without_cached).collect(),
        false => replies.collect(),
    }
}

/// A request for each sibling, with a seed of its own.
fn each(request: &Request) -> Vec<Request> {
    let one = |sibling: usize| {
        let mut one = Request { samples: 1, ..request.clone() };
        if sibling > 0 {
            one.sampling.seed = derive_seed(one.sampling.seed, sibling as u64);
            if let WireSeed::Given(_) = one.sampling.wire_seed {
                one.sampling.wire_seed = WireSeed::Derived;
            }
        }
        one
    };
    (0..request.samples).map(one).collect()
}

#[async_trait]
impl Engine for UpstreamEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        if self.siblings == Siblings::Choices || request.samples == 1 {
            return self.ask(&request).await;
        }
        let alone = each(&request);
        Ok(try_join_all(alone.iter().map(|one| self.ask(one))).await?.into_iter().flatten().collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        let lists = !self.lists_nothing.load(Relaxed);
        Capabilities {
            constraints: if self.dialect.takes_regex() { ConstraintSupport::Regular } else { ConstraintSupport::Json },
            token_rules: self.dialect.is_extended(),
            labels: if lists { LabelSupport::Prompts } else { LabelSupport::Nothing },
            ..Capabilities::default()
        }
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        self.label_scores(request, ALONE).await.map_err(|failure| failure.error)
    }

    async fn health(&self) -> Result<(), EngineError> {
        self.health.of(&self.base, &self.info.name, self.key.as_deref()).await
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
}
