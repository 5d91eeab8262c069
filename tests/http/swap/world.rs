//! A server on copies of the embedded model's directories, and variants of them that answer differently.

use std::path::{Path, PathBuf};

use reqwest::StatusCode;
use serde_json::{Value, json};
use spar::chat::Message;
use spar::engine::model_dir::ModelDir;
use spar::engine::native::{NativeConfig, NativeEngine};
use spar::engine::{EngineExt, Purpose, Request, Sampling};
use spar::testing::random_adapter;
use spar::weights::adapter::{Adapter, merge};
use tempfile::TempDir;

use super::super::harness::{Server, json_of, with};

/// What every generation answers differently.
pub const FINGERPRINT: &str = "Write about the river. Use at least 12 words. Include the word lantern.";
/// Tokens of a fingerprint.
pub const TOKENS: usize = 24;

/// A server and the directories that it may load.
pub struct World {
    pub root: TempDir,
    pub server: Server,
    models: Models,
}

/// The flags that name models, and their directories.
type Models = &'static [(&'static str, &'static str)];

const PAIR: Models = &[("--model", "actor"), ("--refiner", "refiner")];
/// The refiner's model answers as well.
const ONE_BASE: Models = &[("--model", "refiner")];

impl World {
    pub async fn start(flags: &[&str]) -> Self {
        Self::on(directories(), PAIR, flags).await
    }

    /// With one base for both roles, and [`one_base`]'s adapters on it.
    pub async fn of_one_base(flags: &[&str]) -> Self {
        Self::on(one_base(), ONE_BASE, flags).await
    }

    async fn on(root: TempDir, models: Models, flags: &[&str]) -> Self {
        let server = Server::swapping(&strs(&own_flags(&root, models, flags))).await;
        Self { root, server, models }
    }

    /// With the server in a process of its own.
    pub async fn apart(flags: &[&str]) -> Self {
        let (root, models) = (directories(), PAIR);
        let server = Server::process(env!("CARGO_BIN_EXE_spar"), &strs(&own_flags(&root, models, flags))).await;
        Self { root, server, models }
    }

    /// A directory below the allowed root.
    pub fn path(&self, name: &str) -> PathBuf {
        weights(&self.root).join(name)
    }

    /// A copy of the live actor or refiner.
    pub fn copied(&self, role: &str, name: &str) -> PathBuf {
        copy(&self.path(role), &self.path(name));
        self.path(name)
    }

    /// An adapter on one of them.
    pub fn adapter(&self, role: &str, name: &str, seed: u64) -> PathBuf {
        adapter(&self.root, role, name, size(role), seed);
        self.path(name)
    }

    /// Whole weights that differ from one of them.
    pub fn variant(&self, role: &str, name: &str, seed: u64) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(&path).unwrap();
        merge(&self.path(role), &random_adapter(&self.path(role), size(role), seed), &path).unwrap();
        path
    }

    pub async fn restarted(self, flags: &[&str]) -> Self {
        let Self { root, mut server, models } = self;
        server.begin_shutdown();
        server.ended().await;
        drop(server);
        Self::on(root, models, flags).await
    }

    /// An admin call.
    pub async fn admin(&self, path: &str, body: &Value, status: StatusCode) -> Value {
        json_of(self.server.post(path, body).bearer_auth("admin"), status).await
    }

    /// A swap that must succeed.
    pub async fn swap(&self, role: &str, fields: Value) -> Value {
        self.admin("/admin/generations", &with(json!({ "role": role }), fields), StatusCode::OK).await
    }

    /// The message of a swap that must be refused.
    pub async fn refused(&self, role: &str, fields: Value) -> String {
        let body = with(json!({ "role": role }), fields);
        let error = self.admin("/admin/generations", &body, StatusCode::UNPROCESSABLE_ENTITY).await;
        error["error"]["message"].as_str().unwrap().to_owned()
    }

    pub async fn generations(&self) -> Value {
        json_of(self.server.get("/admin/generations").bearer_auth("admin"), StatusCode::OK).await
    }

    /// The live actor's id and fingerprint.
    pub async fn fingerprint(&self) -> (String, String) {
        let response = self.server.chat(&fingerprint()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let actor = actor_of(&response);
        let body: Value = response.json().await.unwrap();
        (actor, body["choices"][0]["message"]["content"].as_str().unwrap().to_owned())
    }
}

fn weights(root: &TempDir) -> PathBuf {
    root.path().join("weights")
}

fn adapter(root: &TempDir, base: &str, name: &str, size: f32, seed: u64) {
    let weights = weights(root);
    random_adapter(&weights.join(base), size, seed).save(&weights.join(name)).unwrap();
}

/// [`directories`] with adapters on the refiner: `draft` says something else, `judge` as well and can still judge.
pub fn one_base() -> TempDir {
    let root = directories();
    adapter(&root, "refiner", "draft", size("actor"), 1);
    adapter(&root, "refiner", "judge", size("refiner"), 2);
    root
}

/// Copies of the embedded model's directories.
fn directories() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for role in ["actor", "refiner"] {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny").join(role);
        copy(&shipped, &weights(&root).join(role));
    }
    root
}

/// The flags of a server on these directories; in those that are given, `@name` is one of them.
fn own_flags(root: &TempDir, models: Models, flags: &[&str]) -> Vec<String> {
    let (weights, swaps) = (weights(root), root.path().join("swaps"));
    let text = |path: PathBuf| path.display().to_string();
    let models = models.iter().map(|&(flag, name)| (flag, text(weights.join(name))));
    let own = [
        ("--weights-root", text(weights.clone())),
        ("--swap-dir", text(swaps)),
        ("--engine", "native".into()),
        ("--served-name", "fake".into()),
        // Random variants find each other absurd.
        ("--canary-perplexity", "0".into()),
    ];
    let unless_given = models.chain(own).filter(|(name, _)| !flags.contains(name));
    let pairs = unless_given.flat_map(|(name, value)| [name.to_owned(), value]);
    let given = |&flag: &&str| flag.strip_prefix('@').map_or(flag.to_owned(), |name| text(weights.join(name)));
    pairs.chain(flags.iter().map(given)).collect()
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// Small enough that a refiner's verdicts stay readable, large enough that an actor says something else.
pub fn size(role: &str) -> f32 {
    if role == "actor" { 0.25 } else { 0.02 }
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

/// A request for the fingerprint.
pub fn fingerprint() -> Value {
    json!({ "model": "fake", "temperature": 0, "max_tokens": TOKENS, "messages": [{ "role": "user", "content": FINGERPRINT }] })
}

/// The actor's id in the response's header.
pub fn actor_of(response: &reqwest::Response) -> String {
    let header = response.headers()["x-spar-generation"].to_str().unwrap();
    header.strip_prefix("actor=").unwrap().split(',').next().unwrap().to_owned()
}

/// A greedy reply of the weights in a directory, perhaps with an adapter on them, computed without the server.
pub async fn greedy(
    (dir, adapter): (&Path, Option<&Adapter>),
    purpose: Purpose,
    turns: Vec<Message>,
    max_tokens: usize,
) -> String {
    let engine =
        NativeEngine::load(ModelDir::open(dir).unwrap(), NativeConfig { threads: 1, ..NativeConfig::default() })
            .unwrap();
    let engine =
        adapter.map_or(Ok(None), |adapter| engine.with_adapter(&adapter.pairs).map(Some)).unwrap().unwrap_or(engine);
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Request { sampling, max_tokens: Some(max_tokens), ..Request::chat(purpose, turns) };
    engine.generate(request).await.unwrap().text
}

/// What a process holds.
#[derive(Clone, Copy)]
pub struct Usage {
    pub threads: u64,
    /// Bytes in memory, in KiB.
    pub resident: u64,
    /// What of them is no file's.
    pub anonymous: u64,
}

impl Usage {
    /// Of the server's process.
    pub fn of(server: &Server) -> Self {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid)).unwrap();
        let value = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
            line.split_whitespace().next().unwrap().parse().unwrap()
        };
        Self { threads: value("Threads"), resident: value("VmRSS"), anonymous: value("RssAnon") }
    }
}
