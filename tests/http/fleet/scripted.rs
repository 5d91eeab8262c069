//! A server that lists a model and answers as it is told, also in ways that no server should.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use spar::engine::upstream::fleet::{Fleet, FleetConfig, Patience, ReplicaConfig};

type Script = dyn Fn(&Asked) -> Response + Send + Sync;

/// A request that arrived.
pub struct Asked {
    /// Its number, from 0.
    pub number: usize,
    pub path: String,
    pub body: Value,
}

impl Asked {
    /// The last message of a chat.
    pub fn text(&self) -> &str {
        self.body["messages"].as_array().and_then(|turns| turns.last()?["content"].as_str()).unwrap_or_default()
    }
}

/// A running scripted server; dropping it ends it.
pub struct Scripted {
    pub url: String,
    pub seen: Arc<Mutex<Vec<(String, Value)>>>,
    _stop: oneshot::Sender<()>,
}

struct Shared {
    script: Box<Script>,
    models: Mutex<Value>,
    calls: AtomicUsize,
    seen: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Scripted {
    /// A server of OpenAI's fields only.
    pub async fn start(script: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        Self::owned_by(None, script).await
    }

    /// A server that says whose it is; its script answers routes that are not of OpenAI's API as well.
    pub async fn owned_by(owner: Option<&str>, script: impl Fn(&Asked) -> Response + Send + Sync + 'static) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let models = Mutex::new(json!({"data": [{"id": "m", "owned_by": owner}]}));
        let calls = AtomicUsize::new(0);
        let shared = Arc::new(Shared { script: Box::new(script), models, calls, seen: Arc::clone(&seen) });
        let router = Router::new().fallback(answer).with_state(shared);
        // A runtime of its own: with it the server's connections end as well.
        let ((says_url, url), (stop, stopped)) = (oneshot::channel(), oneshot::channel::<()>());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                says_url.send(format!("http://{}", listener.local_addr().unwrap())).unwrap();
                tokio::select! {
                    served = axum::serve(listener, router).into_future() => served.unwrap(),
                    // A dropped sender is a stop as well.
                    _ = stopped => {}
                }
            });
        });
        Self { url: url.await.unwrap(), seen, _stop: stop }
    }

    /// The chats that arrived.
    pub fn chats(&self) -> usize {
        self.seen.lock().unwrap().iter().filter(|(path, _)| path.ends_with("/chat/completions")).count()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    if path == "/v1/models" {
        return Json(shared.models.lock().unwrap().clone()).into_response();
    }
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    shared.seen.lock().unwrap().push((path.clone(), body.clone()));
    let number = if path.ends_with("completions") { shared.calls.fetch_add(1, Ordering::SeqCst) } else { 0 };
    let response = (shared.script)(&Asked { number, path: path.clone(), body: body.clone() });
    if response.status().is_success() && path.ends_with("lora_adapter") {
        let mut models = shared.models.lock().unwrap();
        let cards = models["data"].as_array_mut().unwrap();
        match path.ends_with("/load_lora_adapter") {
            true => cards.push(json!({"id": body["lora_name"], "owned_by": "vllm", "parent": "m"})),
            false => cards.retain(|card| card["id"] != body["lora_name"]),
        }
    }
    response
}

/// A whole answer of `text` for each choice that is asked for.
pub fn says(asked: &Asked, text: &str) -> Response {
    let choices = asked.body["n"].as_u64().unwrap_or(1);
    let event = |index: u64| {
        let choice = json!({"index": index, "delta": {"content": text}, "finish_reason": "stop"});
        format!("data: {}\n\n", json!({"choices": [choice]}))
    };
    let usage = json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2 * choices}});
    events((0..choices).map(event).collect::<String>() + &format!("data: {usage}\n\ndata: [DONE]\n\n"))
}

/// As [`says`], after a time.
pub fn says_late(asked: &Asked, text: &str, after: Duration) -> Response {
    says_when(asked, text, tokio::time::sleep(after))
}

/// As [`says`], when something else is done.
pub fn says_when(asked: &Asked, text: &str, when: impl Future<Output = ()> + Send + 'static) -> Response {
    let whole = says(asked, text).into_body();
    let late = stream::once(when).filter_map(|()| async { None::<Result<Bytes, axum::Error>> });
    streamed(Body::from_stream(late.chain(whole.into_data_stream())))
}

pub fn events(text: impl Into<String>) -> Response {
    streamed(Body::from(text.into()))
}

fn streamed(body: Body) -> Response {
    ([("content-type", "text/event-stream")], body).into_response()
}

pub fn half() -> String {
    format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": "half an "}}]}))
}

/// A way to fail: what happens, the name that metrics give it, and the answer.
pub type Failing = (&'static str, &'static str, fn() -> Response);

/// Ways to fail.
pub fn failures() -> [Failing; 16] {
    [
        ("500", "failed", || (StatusCode::INTERNAL_SERVER_ERROR, "{}").into_response()),
        ("502", "failed", || (StatusCode::BAD_GATEWAY, "<html>").into_response()),
        ("404", "failed", || (StatusCode::NOT_FOUND, "{}").into_response()),
        ("503", "busy", || (StatusCode::SERVICE_UNAVAILABLE, "{}").into_response()),
        ("429 with a pause", "busy", || (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "9")]).into_response()),
        ("401", "key", || (StatusCode::UNAUTHORIZED, "{}").into_response()),
        ("no stream", "unreadable", || Json(json!({"choices": []})).into_response()),
        ("wrong JSON", "unreadable", || events("data: {\"choices\": [\n\n")),
        ("wrong JSON later", "unreadable", || events(half() + "data: <html>\n\n")),
        ("an error later", "failed", || events(half() + "data: {\"error\": {\"message\": \"oom\"}}\n\n")),
        ("nothing", "cut", || events("")),
        ("half an answer", "cut", || events(half())),
        ("half an answer, done", "cut", || events(half() + "data: [DONE]\n\n")),
        ("half a chunk and a lost connection", "cut", || {
            let parts = [Ok(Bytes::from(half() + "data: {\"cho")), Err(std::io::Error::other("as scripted"))];
            streamed(Body::from_stream(stream::iter(parts)))
        }),
        ("silence before the answer", "silent", || {
            streamed(Body::from_stream(stream::pending::<Result<Bytes, Infallible>>()))
        }),
        ("silence later", "silent", || {
            let begun = stream::iter([Ok::<_, Infallible>(Bytes::from(half()))]);
            streamed(Body::from_stream(begun.chain(stream::pending())))
        }),
    ]
}

/// Short waits for tests.
pub fn patience() -> Patience {
    Patience {
        silence: Duration::from_millis(1500),
        nobody: Duration::from_secs(2),
        probe: Duration::from_millis(20),
        ..Patience::default()
    }
}

/// A fleet of these servers.
pub async fn fleet_of(urls: &[&str], patience: Patience) -> Arc<Fleet> {
    let replicas = urls.iter().map(|url| ReplicaConfig::at(url)).collect();
    fleet_with(replicas, patience).await
}

pub async fn fleet_with(replicas: Vec<ReplicaConfig>, patience: Patience) -> Arc<Fleet> {
    Fleet::start(FleetConfig { replicas, patience, ..FleetConfig::default() }, None).await.unwrap()
}
