//! What API keys have used, as the admin route shows it.

use serde::Serialize;
use utoipa::ToSchema;

/// The answer of `GET /admin/keys`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KeyList {
    /// The object's kind, always `list`.
    pub object: &'static str,
    /// The keys that have a name in the file of keys. The keys themselves are never shown.
    pub data: Vec<KeyUsage>,
}

/// A key with its limits and what it has used.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct KeyUsage {
    /// The key's name in its file, which is also the label of its metrics.
    pub name: String,
    /// Whether the admin routes are open to it.
    pub admin: bool,
    /// Requests of it that may run at once.
    pub max_running: usize,
    /// Requests of it that may wait.
    pub max_waiting: usize,
    /// Tokens that it may use within a minute; `null`: as many as it can.
    pub tokens_per_minute: Option<u64>,
    /// The largest search budget that it may ask for; `null`: the server's.
    pub max_search_budget: Option<usize>,
    /// The models and adapters that it may use; `null`: all of them.
    pub models: Option<Vec<String>>,
    /// Tokens of prompts that it has used since the server started.
    pub prompt_tokens: u64,
    /// Generated tokens that it has used since then.
    pub generated_tokens: u64,
    /// Tokens of both kinds within the last minute, to a second.
    pub tokens_last_minute: u64,
}
