//! Well-formed but extreme requests, many at a time, at a server of its own process with small limits: it answers each of them as
//! it documents, stays well, and gives its memory back.

mod admin;
mod corpus;
mod numbers;
mod properties;
mod raw;
mod schemas;
mod searches;
mod seeded;
mod talk;
mod texts;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

use crate::http::harness::{Server, json_of, says, with};
use corpus::{Case, corpus};

/// Requests in flight at a time.
const AT_ONCE: usize = 16;

/// Small, so that a run is short: every limit is reached by some case.
const LIMITS: &str = "--max-running 4 --max-waiting 12 --request-timeout 2s --max-body 1000000 --max-choices 4 \
                      --max-search-budget 8 --search-budget 4 --max-search-deadline 1s --search-deadline 1s \
                      --kept-searches 8 --kv-cache-bytes 16000000 --grammar-bytes 16777216 \
                      --log error";

/// Beyond its time, a request may wait for this until it is refused.
const MARGIN: Duration = Duration::from_secs(20);

/// What the process may hold more after the run than before it, caches aside.
const KEPT_KIB: u64 = 64 * 1024;

/// What its caches may hold: two of prefixes, grammars, searches, and the words that tokenizers remember.
const CACHES_KIB: u64 = 192 * 1024;

#[test]
fn the_corpus_is_large_and_no_case_occurs_twice() {
    let cases = corpus();
    assert!(cases.len() >= 300, "{}", cases.len());
    let mut names = HashSet::new();
    let mut requests = HashSet::new();
    for case in &cases {
        assert!(names.insert(&case.name), "two cases are called {}", case.name);
        assert!(requests.insert((&case.method, &case.path, &case.body)), "{} is a copy of another case", case.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_stays_well_under_extreme_requests() {
    let (roots, swaps) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (root, swap_dir) = (roots.path().to_str().unwrap(), swaps.path().to_str().unwrap());
    let flags: Vec<&str> = LIMITS.split_whitespace().chain(["--weights-root", root, "--swap-dir", swap_dir]).collect();
    let program = std::env::var("SPAR_EXTREME_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_spar").into());
    let server = Server::process(&program, &flags).await;
    server.ready().await;
    let documented = Documented::of(&server).await;
    // What a first request makes is not counted. On a busy machine its time may be over before it is answered.
    for fields in [json!({"n": 4}), json!({"search_budget": 2}), json!({"response_format": {"type": "json_object"}})] {
        let body = with(says("Write about the river."), with(fields, json!({"model": null, "max_tokens": 32})));
        server.chat(&body).send().await.unwrap().bytes().await.unwrap();
    }
    let before = resident_kib(server.pid);

    let over = Arc::new(AtomicBool::new(false));
    let watched = tokio::spawn(watch_health(server.url.clone(), Arc::clone(&over)));
    let sent = requests();
    let started = Instant::now();
    let answers = stream::iter(sent).map(|case| answer(&server, case)).buffer_unordered(AT_ONCE);
    let answers: Vec<(Case, Result<Answer, String>)> = answers.collect().await;
    over.store(true, Ordering::Release);
    let watched = watched.await.unwrap();
    let took = started.elapsed();

    let mut faults = Vec::new();
    let mut statuses = BTreeMap::<u16, usize>::new();
    for (case, answer) in &answers {
        match answer {
            Ok(answer) => {
                *statuses.entry(answer.status.as_u16()).or_default() += 1;
                faults.extend(documented.fault(case, answer).map(|fault| format!("{}: {fault}", case.name)));
            }
            Err(error) => faults.push(format!("{}: {error}", case.name)),
        }
    }
    let slowest =
        answers.iter().filter_map(|(case, answer)| answer.as_ref().ok().map(|answer| (answer.took, &case.name))).max();
    let silence = watched.as_ref().copied().unwrap_or_default();
    faults.extend(watched.err());
    println!(
        "{} requests in {took:.1?}: {statuses:?}; /healthz silent for {silence:?} at most; slowest {slowest:?}",
        answers.len()
    );
    let worked = answers
        .iter()
        .filter(|(_, answer)| answer.as_ref().is_ok_and(|answer| answer.status != StatusCode::REQUEST_TIMEOUT))
        .count();
    // In the order in which they ended: where the server itself ends, the first ones are its last requests.
    let first: Vec<&str> = faults.iter().take(100).map(String::as_str).collect();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), first.join("\n"));
    let some_alone = std::env::var_os("SPAR_EXTREME_ONLY").is_some();
    assert!(some_alone || worked * 2 > answers.len(), "most requests must be worked on: {statuses:?}");
    assert!(silence <= longest_silence(), "/healthz was silent for {silence:?}");
    let most = before + KEPT_KIB + CACHES_KIB;
    let after = settled_kib(server.pid, most).await;
    println!("resident: {before} KiB before, {after} KiB after");
    assert!(after <= most, "{before} KiB before, {after} KiB after");
    json_of(server.get("/readyz"), StatusCode::OK).await;
}

/// What came back.
struct Answer {
    status: StatusCode,
    kind: String,
    text: String,
    took: Duration,
}

async fn answer(server: &Server, case: Case) -> (Case, Result<Answer, String>) {
    let started = Instant::now();
    let request = server.client.request(case.method.clone(), format!("{}{}", server.url, case.path));
    let request = request.header("content-type", "application/json").bearer_auth("admin").body(case.body.clone());
    let reading = async {
        let response = request.send().await.map_err(|error| format!("no answer: {error:?}"))?;
        let status = response.status();
        let kind =
            response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let text = response.text().await.map_err(|error| format!("{status}, and then: {error:?}"))?;
        Ok(Answer { status, kind, text, took: started.elapsed() })
    };
    let answer = tokio::time::timeout(Duration::from_secs(2) + MARGIN, reading).await;
    (case, answer.unwrap_or_else(|_| Err(format!("no answer after {:?}", started.elapsed()))))
}

/// What the server says that it answers with.
struct Documented(Value);

impl Documented {
    async fn of(server: &Server) -> Self {
        Self(json_of(server.get("/openapi.json"), StatusCode::OK).await)
    }

    /// Why an answer is not one that the document allows.
    fn fault(&self, case: &Case, answer: &Answer) -> Option<String> {
        let Answer { status, kind, text, .. } = answer;
        let start: String = text.chars().take(300).collect();
        if status.is_server_error() && *status != StatusCode::SERVICE_UNAVAILABLE {
            return Some(format!("{status}: {start}"));
        }
        if kind == "text/event-stream" {
            let broken = text.contains("model_failed") || !text.ends_with("data: [DONE]\n\n");
            return broken.then(|| format!("a stream that fails: {start}"));
        }
        if status.is_client_error() || status.is_server_error() {
            let body: Value = serde_json::from_str(text).unwrap_or_default();
            let whole = |name: &str| body["error"][name].as_str().is_some_and(|text| !text.is_empty());
            if !whole("code") || !whole("message") || !whole("type") {
                return Some(format!("{status} without the envelope: {start}"));
            }
        }
        let paths = self.0["paths"].as_object()?;
        let route = paths.keys().find(|route| is_of(&case.path, route))?;
        let code = status.as_str();
        let responses = &paths[route][case.method.as_str().to_ascii_lowercase()]["responses"];
        responses[code].is_null().then(|| format!("{code} is not documented for {route}: {start}"))
    }
}

/// Whether `path` belongs to `route`, whose last part may be a parameter.
fn is_of(path: &str, route: &str) -> bool {
    match route.split_once('{') {
        Some((fixed, _)) => path.strip_prefix(fixed).is_some_and(|rest| !rest.contains('/')),
        None => path == route,
    }
}

/// How long `/healthz` may be silent: a second, and ten where the code is not optimised, as in development.
fn longest_silence() -> Duration {
    let loops = (0..5).map(|_| {
        let started = Instant::now();
        let sum = (0..10_000_000_u64).fold(0, |sum, number| std::hint::black_box(sum ^ number));
        std::hint::black_box(sum);
        started.elapsed()
    });
    let optimised = loops.min().is_some_and(|fastest| fastest < Duration::from_millis(60));
    Duration::from_secs(if optimised { 1 } else { 10 })
}

/// The requests of a run: every case once, or as many requests as SPAR_EXTREME_REQUESTS says, case by case from the first again.
fn requests() -> Box<dyn Iterator<Item = Case> + Send> {
    let cases: Vec<Case> = corpus().into_iter().filter(is_sent).collect();
    match std::env::var("SPAR_EXTREME_REQUESTS").map(|count| count.parse().expect("a number of requests")) {
        Ok(count) => Box::new(cases.into_iter().cycle().take(count)),
        Err(_) => Box::new(cases.into_iter()),
    }
}

/// Whether a case is part of this run. To look into some cases alone, name parts of their names, separated by `|`, in
/// SPAR_EXTREME_ONLY, or those of others in SPAR_EXTREME_SKIP.
fn is_sent(case: &Case) -> bool {
    let listed = |variable: &str| {
        std::env::var(variable).ok().map(|parts| parts.split('|').any(|part| case.name.contains(part)))
    };
    listed("SPAR_EXTREME_ONLY").unwrap_or(true) && !listed("SPAR_EXTREME_SKIP").unwrap_or(false)
}

/// The longest time without an answer of `/healthz`, less what this process was late itself; an error once there is none.
async fn watch_health(url: String, over: Arc<AtomicBool>) -> Result<Duration, String> {
    let client = Client::builder().no_proxy().pool_max_idle_per_host(0).build().unwrap();
    let mut longest = Duration::ZERO;
    while !over.load(Ordering::Acquire) {
        let slept = Instant::now();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let late = slept.elapsed().saturating_sub(Duration::from_millis(50));
        let asked = Instant::now();
        let alive = client.get(format!("{url}/healthz")).timeout(Duration::from_secs(30)).send().await;
        if !alive.is_ok_and(|answer| answer.status() == StatusCode::OK) {
            return Err(format!("/healthz was not answered: it failed after {:?}", asked.elapsed()));
        }
        longest = longest.max(asked.elapsed().saturating_sub(late));
    }
    Ok(longest)
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the process holds once it is at most `enough`, or after a minute.
async fn settled_kib(pid: u32, enough: u64) -> u64 {
    let waiting = Instant::now();
    loop {
        let held = resident_kib(pid);
        if held <= enough || waiting.elapsed() > Duration::from_secs(60) {
            return held;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}
