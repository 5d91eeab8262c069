//! A server on port 0, and what to say to it.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use clap::Parser;
use futures::stream;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use spar::config::{EngineArgs, EngineKind, Secrets, ServeArgs, Settings};
use spar::engine::fake::FakeEngine;
use spar::engine::generation::{Generation, Generations, Pinned};
use spar::engine::load::{Loaded, load};
use spar::engine::metered::Metered;
use spar::engine::upstream::fleet::{Fleet, FleetEngine};
use spar::engine::{Chunk, Engine, EngineError, Input, ModelInfo, Purpose, Reply, Request};
use spar::http::{AppState, Served, Traffic, serve};
use spar::prompts::Templates;
use spar::swap::{Started, start};
use spar::telemetry::metrics;
use spar::telemetry::traces::Traces;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

#[derive(Parser)]
struct Typed {
    #[command(flatten)]
    args: ServeArgs,
}

/// The flags as a server reads them. Most tests script critiques: without another wish searches go breadth first, by votes
/// and without rules.
fn typed(flags: &[&str]) -> Typed {
    let scripted =
        [("--judging", "votes"), ("--search-strategy", "bfs"), ("--checks", "off"), ("--try-judge", "false")];
    let missing = scripted.iter().filter(|(flag, _)| !flags.contains(flag)).flat_map(|(flag, value)| [*flag, *value]);
    Typed::try_parse_from(["spar"].into_iter().chain(missing).chain(flags.iter().copied())).unwrap()
}

/// What computes a server's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// [`improving`].
    Script,
    /// The embedded model on this engine.
    Engine(EngineKind),
}

/// Every engine of this build that computes.
pub const ENGINES: &[EngineKind] =
    if cfg!(feature = "mistral") { &[EngineKind::Native, EngineKind::Mistral] } else { &[EngineKind::Native] };

/// The embedded model, loaded once for all tests, since they do not change it.
fn embedded(engine: EngineKind) -> Generations {
    static LOADED: [OnceLock<Loaded>; 2] = [const { OnceLock::new() }; 2];
    let args = EngineArgs { engine, ..EngineArgs::default() };
    let loaded = LOADED[usize::from(engine == EngineKind::Mistral)].get_or_init(|| load(&args, None).unwrap());
    let pinned = loaded.generations.pin();
    Generations::new(pinned.actor, pinned.refiner)
}

/// A running server; dropping it ends it.
pub struct Server {
    pub url: String,
    pub under: Under,
    pub client: reqwest::Client,
    /// The process that it runs in.
    pub pid: u32,
    /// Where it is in this process.
    state: Option<Arc<AppState>>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Server {
    /// Serves `engine` as both roles.
    pub async fn start(engine: impl Engine + 'static, flags: &[&str]) -> Self {
        Self::with_keys(engine, flags, None).await
    }

    /// As [`Server::start`], where callers must show one of these keys.
    pub async fn with_keys(engine: impl Engine + 'static, flags: &[&str], keys: Option<&str>) -> Self {
        let engine: Arc<dyn Engine> = Arc::new(Metered(Arc::new(engine)));
        Self::of_generation(Generation::new("g-1", engine, Arc::new(Templates::general())), flags, keys).await
    }

    /// In front of a fleet.
    pub async fn at_fleet(fleet: &Arc<Fleet>, flags: &[&str]) -> Self {
        let engine: Arc<dyn Engine> = Arc::new(Metered(Arc::new(FleetEngine::new(fleet, None, None).unwrap())));
        let generation = Generation::new("g-1", engine, Arc::new(Templates::general())).at_fleet(Arc::clone(fleet));
        Self::of_generation(generation, flags, None).await
    }

    async fn of_generation(generation: Generation, flags: &[&str], keys: Option<&str>) -> Self {
        let served = Served::new("fake".into(), Generations::single(Arc::new(generation)));
        Self::serving(served, flags, keys).await
    }

    /// A server of [`improving`], and one of the embedded model for each engine: what needs no script holds for all of them.
    pub async fn each(flags: &[&str]) -> Vec<Self> {
        let mut servers = vec![Self::start(improving(), flags).await];
        servers.extend(Self::of_each_engine(flags).await);
        servers
    }

    /// A server of the embedded model on the native engine, where callers must show one of these keys.
    pub async fn native(flags: &[&str], keys: Option<&str>) -> Self {
        Self::serving(Served::new("fake".into(), embedded(EngineKind::Native)), flags, keys).await
    }

    /// A server of the embedded model for each engine.
    pub async fn of_each_engine(flags: &[&str]) -> Vec<Self> {
        let mut servers = Vec::new();
        for &engine in ENGINES {
            let mut server = Self::serving(Served::new("fake".into(), embedded(engine)), flags, None).await;
            server.under = Under::Engine(engine);
            servers.push(server);
        }
        servers
    }

    /// Serves what is loaded.
    pub async fn serving(served: Served, flags: &[&str], keys: Option<&str>) -> Self {
        let typed = typed(flags);
        let settings = Settings::check(typed.args, Secrets { api_keys: keys, admin_key: None }).unwrap();
        let traffic = Traffic::new(&settings.traffic).unwrap();
        let mut state = AppState::new(settings, served, metrics::install());
        state.traffic = traffic.map(Arc::new);
        state.traces = Traces::start(&state.settings.http.traces).unwrap();
        Self::running(state).await
    }

    /// Serves what the flags name; its weights can be swapped with the admin key `admin`.
    pub async fn swapping(flags: &[&str]) -> Self {
        Self::started(flags, Some("admin")).await
    }

    /// Serves what the flags name.
    pub async fn started(flags: &[&str], admin_key: Option<&str>) -> Self {
        let typed = typed(flags);
        let settings = Settings::check(typed.args, Secrets { api_keys: None, admin_key }).unwrap();
        let metrics = metrics::install();
        let Started { name, generations, swapper, .. } = start(&settings).await.unwrap();
        let served = Served::new(name, generations);
        let mut state = AppState::new(settings, served, metrics);
        state.swapper = swapper;
        Self::running(state).await
    }

    async fn running(state: AppState) -> Self {
        let state = Arc::new(state);
        let shared = Some(Arc::clone(&state));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (shutdown, stopped) = oneshot::channel::<()>();
        let stop = async move {
            // A dropped sender is a stop as well.
            drop(stopped.await);
        };
        let task = tokio::spawn(serve(listener, state, stop));
        let (under, pid, shutdown) = (Under::Script, std::process::id(), Some(shutdown));
        Self { url, under, client: client(), pid, state: shared, shutdown, task }
    }

    /// As [`Server::swapping`], by `program` in a process of its own, in which no client lives.
    pub async fn process(program: &str, flags: &[&str]) -> Self {
        let mut command = Command::new(program);
        command.args(["--port", "0"]).args(flags).env("SPAR_ADMIN_KEY", "admin").env("SPAR_LOG", "warn");
        let mut process = Process(command.stdout(Stdio::piped()).spawn().unwrap());
        let lines = BufReader::new(process.0.stdout.take().unwrap()).lines();
        let (says, said) = oneshot::channel();
        std::thread::spawn(move || {
            let mut says = Some(says);
            // To its end, so that the server can always write.
            for line in lines.map_while(Result::ok) {
                if let Some((_, url)) = line.strip_prefix("serving ").and_then(|rest| rest.split_once(" on ")) {
                    says.take().unwrap().send(url.to_owned()).unwrap();
                }
            }
        });
        let url = within_seconds(30, said).await.expect("the server says where it is");
        let pid = process.0.id();
        let task = tokio::spawn(async move {
            let _until_dropped = process;
            std::future::pending().await
        });
        Self { url, under: Under::Script, client: client(), pid, state: None, shutdown: None, task }
    }

    /// Waits until the canary is answered, so that every later call is a request's.
    pub async fn ready(&self) {
        let ready = async {
            while self.get("/readyz").send().await.unwrap().status() != StatusCode::OK {
                tokio::task::yield_now().await;
            }
        };
        within_seconds(10, ready).await;
    }

    /// Where a server in this process records its spans.
    pub fn traces(&self) -> Traces {
        self.state.as_ref().unwrap().traces.clone()
    }

    /// The live pair of a server in this process.
    pub fn pinned(&self) -> Pinned {
        self.state.as_ref().unwrap().served.pin()
    }

    /// Requests that wait for their turn at a server in this process; in metrics those of all servers are counted together.
    pub fn waiting(&self) -> usize {
        self.state.as_ref().unwrap().gate.waiting()
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.url))
    }

    pub fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.url)).json(body)
    }

    pub fn chat(&self, body: &Value) -> RequestBuilder {
        self.post("/v1/chat/completions", body)
    }

    /// A chat answer that must be there.
    pub async fn answer(&self, body: &Value) -> Value {
        json_of(self.chat(body), StatusCode::OK).await
    }

    /// A streamed answer: comments and data lines until its end.
    pub async fn stream(&self, body: &Value) -> Events {
        let response = self.chat(body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Events::read(&response.text().await.unwrap())
    }

    pub async fn metrics(&self) -> String {
        self.get("/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// Asks the server to stop.
    pub fn begin_shutdown(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Waits for its end.
    pub async fn ended(&mut self) {
        within_seconds(10, &mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

/// The lines of a stream.
#[derive(Debug)]
pub struct Events {
    pub comments: usize,
    pub chunks: Vec<Value>,
    pub done: bool,
}

impl Events {
    pub fn read(text: &str) -> Self {
        let mut events = Self { comments: 0, chunks: Vec::new(), done: false };
        for line in text.lines().filter(|line| !line.is_empty()) {
            assert!(!events.done, "after [DONE]: {line}");
            if line.starts_with(':') {
                events.comments += 1;
            } else if line == "data: [DONE]" {
                events.done = true;
            } else {
                events.chunks.push(serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap());
            }
        }
        events
    }

    /// The text of a choice.
    pub fn text(&self, index: usize) -> String {
        let deltas = self.chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap());
        deltas.filter(|c| c["index"] == index).filter_map(|c| c["delta"]["content"].as_str()).collect()
    }
}

/// The named events of a stream, which must end as they should: each with its name as its `type`.
pub async fn named_events(request: RequestBuilder) -> Vec<Value> {
    let response = request.send().await.unwrap();
    let (status, kind) = (response.status(), response.headers()["content-type"].clone());
    let text = response.text().await.unwrap();
    assert_eq!((status, kind.to_str().unwrap()), (StatusCode::OK, "text/event-stream"), "{text}");
    let mut events = Vec::new();
    for block in text.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':')) {
        let (name, data) = block.split_once('\n').unwrap_or_else(|| panic!("no event: {block}"));
        let event: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), event["type"].as_str(), "{block}");
        events.push(event);
    }
    events
}

/// Sends and reads JSON with the expected status.
pub async fn json_of(request: RequestBuilder, status: StatusCode) -> Value {
    let response = request.send().await.unwrap();
    let got = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(got, status, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// A future that must end soon.
pub async fn within_seconds<T>(seconds: u64, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(seconds), future).await.expect("it must end soon")
}

/// A condition that must come true soon.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        let mut often = tokio::time::interval(Duration::from_millis(2));
        while !holds() {
            often.tick().await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), waiting).await.is_ok(), "{what}");
}

pub fn says(text: &str) -> Value {
    json!({"model": "fake", "messages": [{"role": "user", "content": text}]})
}

/// Asks for something that the embedded model knows how to write, for a few tokens of it.
pub fn writes() -> Value {
    let text = "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern \
                somewhere.";
    with(says(text), json!({"max_tokens": 24}))
}

/// `base` with more fields.
pub fn with(mut base: Value, fields: Value) -> Value {
    let more = fields.as_object().unwrap().clone();
    base.as_object_mut().unwrap().extend(more);
    base
}

/// What a request asks, as one text.
pub fn asked(request: &Request) -> String {
    match &request.input {
        Input::Chat(turns) => turns.last().map(|turn| turn.content.clone()).unwrap_or_default(),
        Input::Text(text) => text.clone(),
        Input::Tokens(ids) => format!("{ids:?}"),
    }
}

/// Drafts `a first draft`, which is judged wrong, and refines it to `the refined text`, which is judged right.
pub fn improving() -> FakeEngine {
    let text = Templates::general().text;
    FakeEngine::new(move |request, sibling| {
        Ok(match request.purpose {
            Purpose::Answer if sibling > 0 => format!("draft number {sibling}"),
            Purpose::Answer => "a first draft".into(),
            Purpose::Judge if asked(request).contains("the refined text") => format!("Good.\n{} Yes", text.verdict),
            Purpose::Judge => format!("Bad.\n{} No", text.verdict),
            Purpose::Refine => format!("I change it. {}the refined text{}", text.start, text.end),
        })
    })
}

/// Answers at once, but for what contains the word `hang`: there it takes minutes from word to word.
pub fn hanging() -> FakeEngine {
    let pace = |request: &Request, _: usize| Duration::from_secs(if asked(request).contains("hang") { 600 } else { 0 });
    FakeEngine::new(|_, _| Ok("one two".into())).paced(pace)
}

/// Says a few words and then fails.
pub struct Breaking(ModelInfo);

/// An engine that fails in the midst of every reply.
pub fn breaking() -> Breaking {
    Breaking(ModelInfo::new("breaking", 99, 0))
}

#[async_trait]
impl Engine for Breaking {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let word = |text: &str| Ok(Chunk { text: text.into(), tokens: 1, ..Chunk::default() });
        let chunks = || [word("half "), word("of "), Err(EngineError::Crashed("on purpose".into()))];
        let reply = |_| Reply { prompt_tokens: 1, cached_tokens: 0, chunks: Box::pin(stream::iter(chunks())) };
        Ok((0..request.samples).map(reply).collect())
    }

    fn info(&self) -> &ModelInfo {
        &self.0
    }
}

/// As [`improving`], and remembers every request.
pub fn recording() -> (FakeEngine, Arc<Mutex<Vec<Request>>>) {
    let seen: Arc<Mutex<Vec<Request>>> = Arc::default();
    let log = Arc::clone(&seen);
    let engine = FakeEngine::new(move |request, _| {
        log.lock().unwrap().push(request.clone());
        Ok("noted".into())
    });
    (engine, seen)
}
