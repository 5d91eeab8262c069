//! Settings: what was typed (flags and environment), and what was checked.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use secrecy::{ExposeSecret, SecretString};

use crate::engine::native::NativeConfig;
use crate::kernels::packed::Format;
use crate::search::SearchConfig;

/// Everything that the server is told.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    #[command(flatten)]
    #[doc = "Which models."]
    pub engine: EngineArgs,
    #[command(flatten)]
    #[doc = "How it serves."]
    pub http: HttpArgs,
    #[command(flatten)]
    #[doc = "How it searches."]
    pub search: SearchArgs,
    #[command(flatten)]
    #[doc = "How its weights are swapped."]
    pub swap: SwapArgs,
    #[command(flatten)]
    #[doc = "What of its traffic is kept."]
    pub traffic: TrafficArgs,
}

/// Which models are served, and by what.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Model")]
pub struct EngineArgs {
    /// Directory with a Hugging Face checkpoint; absent: the embedded model
    #[arg(long, env = "SPAR_MODEL", value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Directory with a separate refiner's checkpoint; absent: the model's own
    #[arg(long, env = "SPAR_REFINER", value_name = "DIR")]
    pub refiner: Option<PathBuf>,
    /// Directory with a PEFT LoRA adapter of the actor, on the model; it changes nothing of the refiner
    #[arg(long, env = "SPAR_ADAPTER", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Directory with a PEFT LoRA adapter of the refiner, on --refiner if given, else on the model that would judge without it
    #[arg(long, env = "SPAR_REFINER_ADAPTER", value_name = "DIR")]
    pub refiner_adapter: Option<PathBuf>,
    /// File with judge and refine templates; absent: the refiner's spar.json, else the general ones
    #[arg(long, env = "SPAR_TEMPLATES", value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Name that clients use; absent: the directory's name
    #[arg(long, env = "SPAR_SERVED_NAME", value_name = "NAME")]
    pub served_name: Option<String>,
    /// What runs the model
    #[arg(long, env = "SPAR_ENGINE", value_enum, default_value_t = EngineKind::Auto)]
    pub engine: EngineKind,
    #[command(flatten)]
    #[doc = "How the native engine computes."]
    pub native: NativeArgs,
    #[command(flatten)]
    #[doc = "Which server, where the engine is one."]
    pub upstream: UpstreamArgs,
}

/// How much of the machine the native engine uses.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Native engine")]
pub struct NativeArgs {
    /// Bytes of keys and values that are kept for later prompts, per model
    #[arg(long, env = "SPAR_KV_CACHE_BYTES", value_name = "BYTES", default_value_t = NativeConfig::default().cache_bytes)]
    pub kv_cache_bytes: usize,
    /// Threads that compute; absent: one per processor
    #[arg(long, env = "SPAR_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Replies that are computed at the same time
    #[arg(long, env = "SPAR_MAX_REPLIES", value_name = "N", default_value_t = NativeConfig::default().max_replies)]
    pub max_replies: usize,
    /// How the weights are kept in memory
    #[arg(long, env = "SPAR_QUANTIZE", value_enum, default_value_t = Quantize::None)]
    pub quantize: Quantize,
}

/// How weights are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    /// As the checkpoint has them
    None,
    /// In 8 bits, with a scale for each 32 of a row
    Q8,
}

impl Default for NativeArgs {
    fn default() -> Self {
        let NativeConfig { cache_bytes, max_replies, .. } = NativeConfig::default();
        Self { kv_cache_bytes: cache_bytes, threads: None, max_replies, quantize: Quantize::None }
    }
}

impl NativeArgs {
    /// The engine's settings.
    pub fn config(&self) -> NativeConfig {
        let default = NativeConfig::default();
        let threads = self.threads.unwrap_or(default.threads);
        let weights = match self.quantize {
            Quantize::None => default.weights,
            Quantize::Q8 => Format::Q8,
        };
        NativeConfig { threads, max_replies: self.max_replies, cache_bytes: self.kv_cache_bytes, weights, ..default }
    }
}

/// Which server answers where the engine is `upstream`. Its key comes from the environment, as SPAR_UPSTREAM_KEY.
#[derive(Args, Clone, Debug, Default)]
pub struct UpstreamArgs {
    /// OpenAI-compatible server to ask, such as http://127.0.0.1:8000/v1; its key is taken from SPAR_UPSTREAM_KEY
    #[arg(long, env = "SPAR_UPSTREAM_URL", value_name = "URL")]
    pub upstream_url: Option<String>,
    /// Model to ask it for; absent: the one that it serves
    #[arg(long, env = "SPAR_UPSTREAM_MODEL", value_name = "NAME")]
    pub upstream_model: Option<String>,
    /// Tokens of its context; absent: what it says, else 8192
    #[arg(long, env = "SPAR_UPSTREAM_CONTEXT", value_name = "N")]
    pub upstream_context: Option<usize>,
    /// How it is asked for votes and branches of one prompt: by `n`, or by a request for each
    #[arg(long, env = "SPAR_UPSTREAM_SIBLINGS", value_name = "HOW", value_enum, default_value_t)]
    pub upstream_siblings: SiblingsBy,
}

/// How an upstream is asked for several replies to one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum SiblingsBy {
    /// One request with `n`
    #[default]
    N,
    /// A request for each, for servers that ignore `n`
    Requests,
}

/// What runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The native engine where it knows the architecture, else mistral.rs
    #[default]
    Auto,
    /// mistral.rs: every architecture it knows, and CUDA
    Mistral,
    /// The native engine: Llama-family models on the CPU
    Native,
    /// Any OpenAI-compatible server, named by --upstream-url
    Upstream,
    /// Scripted replies without a model
    #[value(hide = true)]
    Fake,
}

impl EngineArgs {
    /// Checks what must agree.
    ///
    /// # Errors
    /// Names both flags.
    pub fn check(&self) -> Result<(), ConfigError> {
        let upstream = self.engine == EngineKind::Upstream;
        require(upstream || self.upstream.upstream_url.is_none(), || "--upstream-url needs --engine upstream".into())?;
        require(upstream || self.upstream.upstream_model.is_none(), || {
            "--upstream-model needs --engine upstream".into()
        })?;
        require(!upstream || self.upstream.upstream_url.is_some(), || "--engine upstream needs --upstream-url".into())?;
        require(!upstream || self.model.is_none(), || {
            "--engine upstream takes the model from the server: use --upstream-model instead of --model".into()
        })?;
        let fake = self.engine == EngineKind::Fake;
        let adapters = [("--adapter", &self.adapter), ("--refiner-adapter", &self.refiner_adapter)];
        for (flag, _) in adapters.into_iter().filter(|(_, adapter)| fake && adapter.is_some()) {
            require(false, || format!("{flag} needs a model, and --engine fake has none"))?;
        }
        require(!upstream || self.adapter.is_none(), || {
            "--adapter needs a model of this server's own: --engine upstream takes models and adapters from the server"
                .into()
        })?;
        require(!upstream || self.refiner_adapter.is_none() || self.refiner.is_some(), || {
            "--refiner-adapter needs --refiner where --engine is upstream".into()
        })?;
        require(self.upstream.upstream_context != Some(0), || "--upstream-context must be at least 1, got 0".into())
    }
}

/// How requests are taken and answered.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Server")]
pub struct HttpArgs {
    /// Address to listen on
    #[arg(long, env = "SPAR_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env = "SPAR_PORT", default_value_t = 8080)]
    pub port: u16,
    /// Requests that are answered at the same time
    #[arg(long, env = "SPAR_MAX_RUNNING", value_name = "N", default_value_t = 64)]
    pub max_running: usize,
    /// Requests that may wait for their turn; more are refused with 429
    #[arg(long, env = "SPAR_MAX_WAITING", value_name = "N", default_value_t = 256)]
    pub max_waiting: usize,
    /// Time for one request, waiting included (such as 500ms, 30s, 10m); a search answers with its best so far
    #[arg(long, env = "SPAR_REQUEST_TIMEOUT", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub request_timeout: Duration,
    /// Time that running requests have after SIGTERM
    #[arg(long, env = "SPAR_SHUTDOWN_GRACE", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub shutdown_grace: Duration,
    /// Time between signs of life in a stream while a search runs, at most 1s
    #[arg(long, env = "SPAR_HEARTBEAT", value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub heartbeat: Duration,
    /// Bytes of a request body at most
    #[arg(long, env = "SPAR_MAX_BODY", value_name = "BYTES", default_value_t = 4 << 20)]
    pub max_body: usize,
    /// Answers per request (`n`) at most
    #[arg(long, env = "SPAR_MAX_CHOICES", value_name = "N", default_value_t = 16)]
    pub max_choices: usize,
    /// Finished searches kept for GET /v1/searches/{id}; 0 keeps none
    #[arg(long, env = "SPAR_KEPT_SEARCHES", value_name = "N", default_value_t = 256)]
    pub kept_searches: usize,
    /// Origins that browsers may call from, separated by commas; `*` is any
    #[arg(long, env = "SPAR_CORS_ORIGINS", value_name = "ORIGINS", value_delimiter = ',')]
    pub cors_origins: Vec<String>,
    /// File with one API key per line; keys may also be in the environment, as SPAR_API_KEYS with commas
    #[arg(long, env = "SPAR_API_KEYS_FILE", value_name = "FILE")]
    pub api_keys_file: Option<PathBuf>,
    /// What is logged: a level, or filters such as spar=debug
    #[arg(long, env = "SPAR_LOG", value_name = "FILTER", default_value = "info")]
    pub log: String,
    /// How it is logged
    #[arg(long, env = "SPAR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// The shape of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// For machines
    Json,
}

/// A search's defaults and caps.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Search")]
pub struct SearchArgs {
    /// Nodes where a request asks for a search without a budget
    #[arg(long, env = "SPAR_SEARCH_BUDGET", value_name = "N", default_value_t = SearchConfig::default().budget)]
    pub search_budget: usize,
    /// Nodes that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_BUDGET", value_name = "N", default_value_t = 64)]
    pub max_search_budget: usize,
    /// Generated tokens of a search that names no limit
    #[arg(long, env = "SPAR_SEARCH_TOKENS", value_name = "N", default_value_t = 20_000)]
    pub search_tokens: usize,
    /// Generated tokens that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_TOKENS", value_name = "N", default_value_t = 200_000)]
    pub max_search_tokens: usize,
    /// Model calls of a search that names no limit
    #[arg(long, env = "SPAR_SEARCH_CALLS", value_name = "N", default_value_t = 200)]
    pub search_calls: usize,
    /// Model calls that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_CALLS", value_name = "N", default_value_t = 2_000)]
    pub max_search_calls: usize,
    /// Time of a search that names no deadline
    #[arg(long, env = "SPAR_SEARCH_DEADLINE", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub search_deadline: Duration,
    /// Deadline that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_DEADLINE", value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub max_search_deadline: Duration,
    /// Model calls of one search at a time
    #[arg(long, env = "SPAR_SEARCH_PARALLEL", value_name = "N", default_value_t = SearchConfig::default().parallel)]
    pub search_parallel: usize,
    /// Tokens of one critique
    #[arg(long, env = "SPAR_JUDGE_TOKENS", value_name = "N", default_value_t = SearchConfig::default().judge_tokens)]
    pub judge_tokens: usize,
    /// Tokens of one refinement
    #[arg(long, env = "SPAR_REFINE_TOKENS", value_name = "N", default_value_t = SearchConfig::default().refine_tokens)]
    pub refine_tokens: usize,
    /// Temperature of votes
    #[arg(long, env = "SPAR_JUDGE_TEMPERATURE", value_name = "T", default_value_t = SearchConfig::default().judge_temperature)]
    pub judge_temperature: f32,
    /// Temperature of refinements
    #[arg(long, env = "SPAR_REFINE_TEMPERATURE", value_name = "T", default_value_t = SearchConfig::default().refine_temperature)]
    pub refine_temperature: f32,
}

impl SearchArgs {
    /// What a search does where its request says nothing.
    pub fn defaults(&self) -> SearchConfig {
        SearchConfig {
            budget: self.search_budget,
            max_tokens: Some(self.search_tokens),
            max_calls: Some(self.search_calls),
            deadline: Some(self.search_deadline),
            parallel: self.search_parallel,
            judge_tokens: self.judge_tokens,
            refine_tokens: self.refine_tokens,
            judge_temperature: self.judge_temperature,
            refine_temperature: self.refine_temperature,
            ..SearchConfig::default()
        }
    }
}

/// How weights are swapped while the server runs. Only whoever has the admin key may.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Swapping weights")]
pub struct SwapArgs {
    /// Directories below which weights may be named, separated by commas
    #[arg(long = "weights-root", env = "SPAR_WEIGHTS_ROOTS", value_name = "DIR", value_delimiter = ',')]
    pub weights_roots: Vec<PathBuf>,
    /// File with the admin key; it may also be in the environment, as SPAR_ADMIN_KEY. Without a key nothing can be swapped
    #[arg(long, env = "SPAR_ADMIN_KEY_FILE", value_name = "FILE")]
    pub admin_key_file: Option<PathBuf>,
    /// Directory for copied and merged weights and for what was published last; absent: by port, in the user's cache
    #[arg(long, env = "SPAR_SWAP_DIR", value_name = "DIR")]
    pub swap_dir: Option<PathBuf>,
    /// Bytes of weights kept there; what is live and what was live before it stay in any case
    #[arg(long, env = "SPAR_SWAP_DIR_BYTES", value_name = "BYTES", default_value_t = 64 << 30)]
    pub swap_dir_bytes: u64,
    /// Generations in memory at most, at least 2: live ones, and old ones that still answer
    #[arg(long, env = "SPAR_MAX_GENERATIONS", value_name = "N", default_value_t = 6)]
    pub max_generations: usize,
    /// Bytes of memory for new weights beside the live ones; absent: what is free. Where they do not fit, requests wait
    #[arg(long, env = "SPAR_SWAP_MEMORY", value_name = "BYTES")]
    pub swap_memory: Option<u64>,
    /// Time that running requests have to end where old and new weights do not fit together
    #[arg(long, env = "SPAR_SWAP_DRAIN", value_name = "TIME", default_value = "60s", value_parser = duration)]
    pub swap_drain: Duration,
    /// Prompts in IFEval's JSONL format that new actors must answer as they ask; absent: any answer will do
    #[arg(long, env = "SPAR_CANARY", value_name = "FILE")]
    pub canary: Option<PathBuf>,
    /// Perplexity of new weights on what they and the live ones say, at most; 0 allows any
    #[arg(long, env = "SPAR_CANARY_PERPLEXITY", value_name = "P", default_value_t = 100.0)]
    pub canary_perplexity: f64,
}

/// Which searches are kept as training data: none, unless a directory is named.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Keeping traffic")]
pub struct TrafficArgs {
    /// Directory for accepted searches as training data, for `spar-train build --from-traffic`; absent: nothing is kept
    #[arg(long, env = "SPAR_TRAFFIC_DIR", value_name = "DIR")]
    pub traffic_dir: Option<PathBuf>,
    /// File of `pattern<TAB>replacement` lines that take identities out; absent: addresses, URLs, accounts and long numbers
    #[arg(long, env = "SPAR_TRAFFIC_FILTER", value_name = "FILE")]
    pub traffic_filter: Option<PathBuf>,
    /// Bytes kept at most; the oldest go
    #[arg(long, env = "SPAR_TRAFFIC_BYTES", value_name = "BYTES", default_value_t = 256 << 20)]
    pub traffic_bytes: u64,
    /// Age at which what was kept goes (such as 43200m)
    #[arg(long, env = "SPAR_TRAFFIC_AGE", value_name = "TIME", default_value = "43200m", value_parser = duration)]
    pub traffic_age: Duration,
}

/// What comes from the environment and is never shown.
#[derive(Clone, Copy, Default)]
pub struct Secrets<'a> {
    /// SPAR_API_KEYS: separated by commas.
    pub api_keys: Option<&'a str>,
    /// SPAR_ADMIN_KEY.
    pub admin_key: Option<&'a str>,
}

/// Checked settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which models.
    pub engine: EngineArgs,
    /// How it serves.
    pub http: HttpArgs,
    /// How it searches.
    pub search: SearchArgs,
    /// How weights are swapped.
    pub swap: SwapArgs,
    /// What of its traffic is kept.
    pub traffic: TrafficArgs,
    /// Keys that callers must show one of; none: everybody may call.
    pub api_keys: Vec<SecretString>,
    /// The key to the admin routes; none: nobody may call them.
    pub admin_key: Option<SecretString>,
}

/// Settings that cannot be used, or that do not agree.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Settings {
    /// Checks `args` and takes the keys from `secrets` and the files that `args` name.
    ///
    /// # Errors
    /// Names the flag, or both flags where two do not agree.
    pub fn check(args: ServeArgs, secrets: Secrets<'_>) -> Result<Self, ConfigError> {
        let ServeArgs { engine, http, search, swap, traffic } = args;
        engine.check()?;
        let second = Duration::from_secs(1);
        let at_least_one = [
            ("--max-running", http.max_running),
            ("--max-choices", http.max_choices),
            ("--max-body", http.max_body),
            ("--search-budget", search.search_budget),
            ("--search-tokens", search.search_tokens),
            ("--search-calls", search.search_calls),
            ("--search-parallel", search.search_parallel),
            ("--judge-tokens", search.judge_tokens),
            ("--refine-tokens", search.refine_tokens),
        ];
        for (flag, value) in at_least_one {
            require(value >= 1, || format!("{flag} must be at least 1, got {value}"))?;
        }
        for (flag, value) in
            [("--judge-temperature", search.judge_temperature), ("--refine-temperature", search.refine_temperature)]
        {
            require((0.0..=2.0).contains(&value), || format!("{flag} must be between 0 and 2, got {value}"))?;
        }
        let most = 1_000_000;
        require(http.max_running <= most, || {
            format!("--max-running must be at most {most}, got {}", http.max_running)
        })?;
        require(http.heartbeat <= second && !http.heartbeat.is_zero(), || {
            format!("--heartbeat must be above 0 and at most 1s, got {:?}", http.heartbeat)
        })?;
        require(!http.request_timeout.is_zero(), || "--request-timeout must be above 0".into())?;
        require(!search.search_deadline.is_zero(), || "--search-deadline must be above 0".into())?;
        let within = [
            ("budget", search.search_budget, search.max_search_budget),
            ("tokens", search.search_tokens, search.max_search_tokens),
            ("calls", search.search_calls, search.max_search_calls),
        ];
        for (name, default, cap) in within {
            require(default <= cap, || {
                format!("--search-{name} ({default}) must not be above --max-search-{name} ({cap})")
            })?;
        }
        require(search.search_deadline <= search.max_search_deadline, || {
            let (default, cap) = (search.search_deadline, search.max_search_deadline);
            format!("--search-deadline ({default:?}) must not be above --max-search-deadline ({cap:?})")
        })?;
        require(swap.max_generations >= 2, || {
            format!("--max-generations must be at least 2, got {}", swap.max_generations)
        })?;
        require(swap.canary_perplexity >= 0.0, || {
            format!("--canary-perplexity must not be negative, got {}", swap.canary_perplexity)
        })?;
        let api_keys = api_keys(&http, secrets.api_keys)?;
        let admin_key = admin_key(&swap, secrets.admin_key)?;
        require(admin_key.is_some() || swap.weights_roots.is_empty(), || {
            "--weights-root needs an admin key: set SPAR_ADMIN_KEY or --admin-key-file".into()
        })?;
        require(traffic.traffic_bytes >= 1 << 20, || {
            format!("--traffic-bytes must be at least 1048576, got {}", traffic.traffic_bytes)
        })?;
        Ok(Self { engine, http, search, swap, traffic, api_keys, admin_key })
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.http.host, self.http.port)
    }
}

fn require(holds: bool, message: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if holds { Ok(()) } else { Err(ConfigError(message())) }
}

fn api_keys(http: &HttpArgs, env_keys: Option<&str>) -> Result<Vec<SecretString>, ConfigError> {
    let mut text = env_keys.unwrap_or_default().replace(',', "\n");
    if let Some(path) = &http.api_keys_file {
        let file = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("--api-keys-file {}: {e}", path.display())))?;
        text.push('\n');
        text.push_str(&file);
    }
    let keys: Vec<SecretString> =
        text.lines().map(str::trim).filter(|key| !key.is_empty()).map(SecretString::from).collect();
    // A file that was meant to protect the server must not open it.
    require(http.api_keys_file.is_none() || !keys.is_empty(), || "--api-keys-file holds no key".into())?;
    require(keys.iter().all(|key| key.expose_secret().is_ascii()), || "API keys must be ASCII".into())?;
    Ok(keys)
}

fn admin_key(swap: &SwapArgs, secret: Option<&str>) -> Result<Option<SecretString>, ConfigError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|e| ConfigError(format!("--admin-key-file {}: {e}", path.display())))
    };
    let file = swap.admin_key_file.as_ref().map(read).transpose()?;
    let keys = [file.as_deref(), secret].map(|key| key.map(str::trim));
    require(keys[0] != Some(""), || "--admin-key-file holds no key".into())?;
    require(keys[0].is_none() || keys[1].is_none(), || {
        "the admin key is given twice: by SPAR_ADMIN_KEY and by --admin-key-file".into()
    })?;
    let key = keys.into_iter().flatten().find(|key| !key.is_empty());
    require(key.is_none_or(|key| key.bytes().all(|byte| byte.is_ascii_graphic())), || {
        "the admin key must be one line of printable ASCII without spaces".into()
    })?;
    Ok(key.map(SecretString::from))
}

/// Reads `500ms`, `30s` or `10m`.
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let fail = || format!("expected a whole number with ms, s or m, such as 30s, got {text:?}");
    let number: u64 = digits.parse().map_err(|_| fail())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs).ok_or_else(fail),
        _ => Err(fail()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Typed {
        #[command(flatten)]
        args: ServeArgs,
    }

    fn settings(flags: &[&str], env_keys: Option<&str>) -> Result<Settings, String> {
        let typed = Typed::try_parse_from([&["spar"], flags].concat()).map_err(|e| e.to_string())?;
        let secrets = Secrets { api_keys: env_keys, admin_key: None };
        Settings::check(typed.args, secrets).map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_valid() {
        let settings = settings(&[], None).unwrap();
        assert_eq!(settings.address().to_string(), "127.0.0.1:8080");
        assert!(settings.api_keys.is_empty());
    }

    #[test]
    fn bad_settings_name_their_flags() {
        let cases: &[(&[&str], &str)] = &[
            (&["--max-running", "0"], "--max-running must be at least 1, got 0"),
            (&["--heartbeat", "2s"], "--heartbeat must be above 0 and at most 1s, got 2s"),
            (&["--search-budget", "65"], "--search-budget (65) must not be above --max-search-budget (64)"),
            (&["--search-deadline", "6m"], "--search-deadline (360s) must not be above --max-search-deadline (300s)"),
            (&["--judge-temperature", "3"], "--judge-temperature must be between 0 and 2, got 3"),
            (&["--engine", "upstream"], "--engine upstream needs --upstream-url"),
            (&["--upstream-url", "http://h"], "--upstream-url needs --engine upstream"),
            (&["--engine", "upstream", "--upstream-url", "http://h", "--model", "d"], "use --upstream-model instead"),
            (&["--engine", "fake", "--adapter", "d"], "--adapter needs a model, and --engine fake has none"),
            (&["--engine", "fake", "--refiner-adapter", "d"], "--refiner-adapter needs a model"),
            (&["--engine", "upstream", "--upstream-url", "h", "--adapter", "d"], "--adapter needs a model of this"),
            (&["--engine", "upstream", "--upstream-url", "h", "--refiner-adapter", "d"], "needs --refiner where"),
            (&["--max-generations", "1"], "--max-generations must be at least 2, got 1"),
            (&["--weights-root", "/"], "--weights-root needs an admin key"),
            (&["--request-timeout", "soon"], "expected a whole number with ms, s or m"),
        ];
        for (flags, expected) in cases {
            let message = settings(flags, None).unwrap_err();
            assert!(message.contains(expected), "{flags:?}: {message}");
        }
    }

    #[test]
    fn keys_come_from_the_environment_and_are_hidden() {
        let settings = settings(&[], Some("alpha, beta,")).unwrap();
        assert_eq!(settings.api_keys.len(), 2);
        let shown = format!("{settings:?}");
        assert!(!shown.contains("alpha") && !shown.contains("beta"), "{shown}");
    }
}
