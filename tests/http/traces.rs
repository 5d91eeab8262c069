//! Traces, as a collector receives them over its socket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use serde_json::{Value, json};
use spar::engine::fake::FakeEngine;
use spar::engine::upstream::{UpstreamConfig, UpstreamEngine};
use spar::engine::{EngineError, Request};
use tokio::net::TcpListener;

use super::harness::{Events, Server, improving, recording, says, with, writes};

const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A collector that takes OTLP over HTTP and keeps what it receives.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Seen>>>,
}

/// A span, as tests look at it.
#[derive(Clone, Debug)]
struct Seen {
    id: String,
    parent: String,
    trace: String,
    name: String,
    kind: i32,
    start: u64,
    end: u64,
    attributes: HashMap<String, Value>,
}

impl Seen {
    fn new(span: Span) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let attributes = span
            .attributes
            .into_iter()
            .map(|attribute| (attribute.key, json_of(attribute.value.unwrap().value.unwrap())));
        Self {
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            trace: hex(&span.trace_id),
            name: span.name,
            kind: span.kind,
            start: span.start_time_unix_nano,
            end: span.end_time_unix_nano,
            attributes: attributes.collect(),
        }
    }

    fn says(&self, name: &str) -> &Value {
        self.attributes.get(name).unwrap_or(&Value::Null)
    }
}

fn json_of(value: AnyValue) -> Value {
    match value {
        AnyValue::StringValue(text) => text.into(),
        AnyValue::BoolValue(truth) => truth.into(),
        AnyValue::IntValue(number) => number.into(),
        AnyValue::DoubleValue(number) => number.into(),
        AnyValue::ArrayValue(list) => list.values.into_iter().map(|value| json_of(value.value.unwrap())).collect(),
        other => panic!("{other:?}"),
    }
}

async fn receive(State(spans): State<Arc<Mutex<Vec<Seen>>>>, headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let batch = ExportTraceServiceRequest::decode(body).unwrap();
    let resources = batch.resource_spans.into_iter();
    let new = resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).map(Seen::new);
    spans.lock().unwrap().extend(new);
    ([("content-type", "application/x-protobuf")], Bytes::new())
}

impl Collector {
    async fn start() -> Self {
        let spans: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let app = Router::new().route("/v1/traces", post(receive)).with_state(Arc::clone(&spans));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, spans }
    }

    /// Everything that this server recorded, in the order of the beginnings.
    async fn spans(&self, server: &Server) -> Vec<Seen> {
        let traces = server.traces();
        tokio::task::spawn_blocking(move || traces.stop()).await.unwrap();
        let mut spans = self.spans.lock().unwrap().clone();
        spans.sort_by_key(|span| span.start);
        spans
    }
}

/// The names of the spans above `span`, from the root on.
fn path(spans: &[Seen], span: &Seen) -> Vec<String> {
    let mut names = vec![span.name.clone()];
    let mut above = span;
    while let Some(parent) = spans.iter().find(|other| other.id == above.parent) {
        names.insert(0, parent.name.clone());
        above = parent;
    }
    names
}

fn purposes<'a>(spans: &'a [Seen], parent: &Seen) -> Vec<&'a str> {
    let below = spans.iter().filter(|span| span.parent == parent.id);
    below.filter_map(|span| span.says("spar.purpose").as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spans_of_a_search_are_the_tree_that_its_events_tell_of() {
    let collector = Collector::start().await;
    // Refinements stay wrong until the third, so that the tree has several nodes.
    let flags = ["--otlp-endpoint", &collector.url, "--search-strategy", "auto"];
    for server in [Server::start(improving(), &flags).await, Server::native(&flags, None).await] {
        let body = with(writes(), json!({"search_budget": 6, "seed": 2, "stream": true, "search": {"events": true}}));
        let response = server.chat(&body).header("traceparent", CALLER).send().await.unwrap();
        let events = Events::read(&response.text().await.unwrap());
        let added: HashMap<u64, Value> = events
            .chunks
            .iter()
            .filter(|chunk| chunk["search_event"] == "root_judged" || chunk["search_event"] == "node_added")
            .map(|chunk| (chunk["search_node"]["id"].as_u64().unwrap(), chunk["search_node"].clone()))
            .collect();
        let report = events.chunks.iter().find_map(|chunk| chunk.get("search")).unwrap().clone();

        let spans = collector.spans(&server).await;
        collector.spans.lock().unwrap().clear();
        let request = spans.iter().find(|span| span.name == "POST /v1/chat/completions").unwrap();
        assert_eq!((request.trace.as_str(), request.parent.as_str()), (TRACE, &CALLER[36..52]));
        assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:?}");
        let search = spans.iter().find(|span| span.name == "invoke_workflow spar.search").unwrap();
        assert_eq!(search.parent, request.id);
        for (name, field) in
            [("id", "id"), ("stop_reason", "stop_reason"), ("accepted", "accepted"), ("nodes", "nodes")]
        {
            assert_eq!(search.says(&format!("spar.search.{name}")), &report[field], "{name}");
        }

        // Each node that an event told of is a span below that of its parent, with the same verdict.
        let nodes: Vec<&Seen> = spans.iter().filter(|span| span.name.starts_with("node ")).collect();
        assert_eq!(nodes.len(), added.len(), "{nodes:?}");
        for node in &nodes {
            let told = &added[&node.says("spar.node.id").as_u64().unwrap()];
            for (name, field) in
                [("depth", "depth"), ("accepted", "accepted"), ("value", "value"), ("parent_id", "parent")]
            {
                assert_eq!(node.says(&format!("spar.node.{name}")), &told[field], "{name} of {told}");
            }
            let above = match told["parent"].as_u64() {
                Some(parent) => nodes.iter().find(|other| *other.says("spar.node.id") == parent).unwrap(),
                None => &search,
            };
            assert_eq!(node.parent, above.id);
            assert!(above.start <= node.start && node.end <= above.end, "{above:?} {node:?}");
        }

        // Each model call that the report counts is a span of its purpose, with its tokens.
        let calls: Vec<&Seen> = spans.iter().filter(|span| span.attributes.contains_key("spar.purpose")).collect();
        let tokens = |purpose: &str| -> u64 {
            let own = calls.iter().filter(|call| call.says("spar.purpose") == purpose);
            own.filter_map(|call| call.says("gen_ai.usage.output_tokens").as_u64()).sum()
        };
        for (purpose, kind) in [("draft", "answer"), ("judge", "judge"), ("refine", "refine")] {
            assert_eq!(tokens(purpose), report["tokens"][kind].as_u64().unwrap(), "{purpose}");
        }
        let root = nodes.iter().find(|node| node.name == "node 0").unwrap();
        assert_eq!(purposes(&spans, root)[0], "draft");
        for call in &calls {
            assert_eq!(call.says("gen_ai.provider.name"), "spar");
            assert!(call.says("gen_ai.request.model").is_string() && call.kind == 3, "{call:?}");
            let above = path(&spans, call);
            assert!(above.len() >= 3 && above[1] == "invoke_workflow spar.search", "{above:?}");
            assert!(!call.attributes.contains_key("gen_ai.input.messages"), "texts are recorded on request only");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_answer_is_one_call_and_its_texts_are_recorded_where_that_is_asked_for() {
    let collector = Collector::start().await;
    let server = Server::start(improving(), &["--otlp-endpoint", &collector.url, "--otlp-content"]).await;
    let body = with(says("What is it?"), json!({"n": 2, "max_tokens": 20, "temperature": 0.5, "stop": ["x"]}));
    let usage = server.answer(&body).await["usage"].clone();
    let spans = collector.spans(&server).await;
    let call = spans.iter().find(|span| span.says("spar.purpose") == "answer").unwrap();
    assert_eq!(path(&spans, call).len(), 2);
    assert!(call.name.starts_with("chat "), "{}", call.name);
    for (name, expected) in [
        ("gen_ai.operation.name", json!("chat")),
        ("gen_ai.request.temperature", json!(0.5)),
        ("gen_ai.request.max_tokens", json!(20)),
        ("gen_ai.request.choice.count", json!(2)),
        ("gen_ai.request.stop_sequences", json!(["x"])),
        ("gen_ai.usage.input_tokens", usage["prompt_tokens"].clone()),
        ("gen_ai.usage.output_tokens", usage["completion_tokens"].clone()),
        ("gen_ai.response.finish_reasons", json!(["stop", "stop"])),
    ] {
        assert_eq!(call.says(name), &expected, "{name}");
    }
    let messages = |name: &str| serde_json::from_str::<Value>(call.says(name).as_str().unwrap()).unwrap();
    let part = |text: &str| json!([{"type": "text", "content": text}]);
    assert_eq!(messages("gen_ai.input.messages"), json!([{"role": "user", "parts": part("What is it?")}]));
    let answers = messages("gen_ai.output.messages");
    assert_eq!(answers[0], json!({"role": "assistant", "parts": part("a first draft"), "finish_reason": "stop"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_and_its_request_say_so() {
    let collector = Collector::start().await;
    let engine = FakeEngine::new(|_, _| Err(EngineError::Crashed("on purpose".into())));
    let server = Server::start(engine, &["--otlp-endpoint", &collector.url]).await;
    assert_eq!(server.chat(&says("x")).send().await.unwrap().status(), 500);
    let spans = collector.spans(&server).await;
    let call = spans.iter().find(|span| span.says("spar.purpose") == "answer").unwrap();
    assert_eq!(call.says("error.type"), "crashed");
    let request = spans.iter().find(|span| span.name == "POST /v1/chat/completions").unwrap();
    assert_eq!((request.says("http.response.status_code"), request.says("error.type")), (&json!(500), &json!("500")));
}

/// Serves as an upstream and keeps the header that calls came with.
async fn upstream() -> (UpstreamEngine, Arc<Mutex<Vec<Option<String>>>>) {
    let seen: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
    let log = Arc::clone(&seen);
    let answer = move |headers: HeaderMap| {
        let log = Arc::clone(&log);
        async move {
            log.lock().unwrap().push(headers.get("traceparent").map(|value| value.to_str().unwrap().to_owned()));
            let chunk = json!({"choices": [{"index": 0, "delta": {"content": "hello"}, "finish_reason": "stop"}]});
            ([("content-type", "text/event-stream")], format!("data: {chunk}\n\ndata: [DONE]\n\n"))
        }
    };
    let models = || async { axum::Json(json!({"data": [{"id": "far"}]})) };
    let app = Router::new().route("/v1/models", axum::routing::get(models)).route("/v1/chat/completions", post(answer));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let engine = UpstreamEngine::connect(UpstreamConfig { url, ..UpstreamConfig::default() }).await.unwrap();
    (engine, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn upstreams_are_told_the_span_of_their_call_or_else_the_callers() {
    let collector = Collector::start().await;
    let ask = async |server: &Server, caller: Option<&str>| {
        let request = server.chat(&says("x"));
        let request = match caller {
            Some(caller) => request.header("traceparent", caller),
            None => request,
        };
        assert_eq!(request.send().await.unwrap().status(), 200);
    };
    let (engine, seen) = upstream().await;
    let server = Server::start(engine, &["--otlp-endpoint", &collector.url]).await;
    server.ready().await;
    seen.lock().unwrap().clear();
    ask(&server, Some(CALLER)).await;
    let told = seen.lock().unwrap().pop().unwrap().unwrap();
    let spans = collector.spans(&server).await;
    let call = spans.iter().find(|span| span.says("spar.purpose") == "answer").unwrap();
    assert_eq!(told, format!("00-{TRACE}-{}-01", call.id));

    let (engine, seen) = upstream().await;
    let server = Server::start(engine, &[]).await;
    server.ready().await;
    seen.lock().unwrap().clear();
    for (caller, expected) in [(Some(CALLER), Some(CALLER)), (Some("nonsense"), None), (None, None)] {
        ask(&server, caller).await;
        assert_eq!(seen.lock().unwrap().pop().unwrap().as_deref(), expected, "{caller:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_calls_carry_no_span() {
    let (engine, seen) = recording();
    let server = Server::start(engine, &[]).await;
    server.answer(&says("x")).await;
    let requests: Vec<Request> = seen.lock().unwrap().clone();
    assert!(requests.iter().all(|request| request.origin.trace.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_holds_no_answer_up() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let server = Server::start(improving(), &["--otlp-endpoint", &format!("http://{closed}")]).await;
    for _ in 0..3 {
        server.answer(&with(says("x"), json!({"search_budget": 2}))).await;
    }
    let traces = server.traces();
    tokio::task::spawn_blocking(move || traces.stop()).await.unwrap();
}
