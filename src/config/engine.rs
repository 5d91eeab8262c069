//! Which models are served, and by what.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Deserialize;

use super::error::{ConfigError, require};
use super::units::{bytes, duration};
use crate::chat::{RESERVED, TemplateKwargs};
use crate::engine::grammar::memory::DEFAULT_BYTES;
use crate::engine::native::{self, NativeConfig};
use crate::engine::reasoning::Form;
use crate::engine::tools::Format as ToolFormat;
use crate::engine::upstream::Siblings;
use crate::engine::upstream::dialect::{Dialect, VllmFields};
use crate::engine::upstream::fleet::Patience;

/// An adapter that requests name as their model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoraModule {
    /// The name that requests use.
    pub name: String,
    /// The adapter's directory.
    pub path: PathBuf,
}

/// Reads an adapter as `NAME=DIR`.
fn lora_module(text: &str) -> Result<LoraModule, String> {
    let (name, path) = text.split_once('=').ok_or_else(|| format!("expected NAME=DIR, got {text:?}"))?;
    check_adapter_name(name)?;
    match path.is_empty() {
        true => Err(format!("expected NAME=DIR, got {text:?} without a directory")),
        false => Ok(LoraModule { name: name.into(), path: path.into() }),
    }
}

/// Checks a name that requests may have for an adapter.
///
/// # Errors
/// A sentence that says what a name is.
pub fn check_adapter_name(name: &str) -> Result<(), String> {
    let usual = |c: char| c.is_ascii_alphanumeric() || "._-/".contains(c);
    match (1..=128).contains(&name.len()) && name.chars().all(usual) {
        true => Ok(()),
        false => Err(format!("an adapter's name must be 1 to 128 letters, digits and any of ._-/, got {name:?}")),
    }
}

/// Which models are served, and by what.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Model")]
pub struct EngineArgs {
    /// Directory with a Hugging Face checkpoint, GGUF file, or the name of a model on the hub: org/name, org/name:Q4_K_M for one of
    /// its GGUF files, org/name@revision; absent: the embedded model
    #[arg(long, env = "SPAR_MODEL", value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// A separate refiner, named as --model; absent: the model's own
    #[arg(long, env = "SPAR_REFINER", value_name = "MODEL")]
    pub refiner: Option<PathBuf>,
    /// Directory with a PEFT LoRA adapter of the actor, on the model; the refiner does not use it
    #[arg(long, env = "SPAR_ADAPTER", value_name = "DIR")]
    pub adapter: Option<PathBuf>,
    /// Directory with a PEFT LoRA adapter of the refiner, on --refiner if given, else on the model that would judge without it
    #[arg(long, env = "SPAR_REFINER_ADAPTER", value_name = "DIR")]
    pub refiner_adapter: Option<PathBuf>,
    /// PEFT LoRA adapters of the actor with names of their own, as NAME=DIR and separated by commas: a request that names one as its
    /// `model` is answered with it, others without. Native engine only
    #[arg(long, env = "SPAR_LORA_MODULES", value_name = "NAME=DIR", value_delimiter = ',', value_parser = lora_module)]
    pub lora_modules: Vec<LoraModule>,
    /// File with judge and refine templates; absent: the spar.json of the refiner's adapter, else of the refiner, else the general ones
    #[arg(long, env = "SPAR_TEMPLATES", value_name = "FILE")]
    pub templates: Option<PathBuf>,
    /// Fetch nothing: a model that is named as on the hub must be in the local Hugging Face cache. HF_HUB_OFFLINE=1 says the same
    #[arg(long, env = "SPAR_OFFLINE")]
    pub offline: bool,
    /// Name that clients use; absent: the model's own, of a directory or file the last part of its path
    #[arg(long, env = "SPAR_SERVED_NAME", value_name = "NAME")]
    pub served_name: Option<String>,
    /// How tokens are drawn where a request does not say
    #[arg(long, env = "SPAR_GENERATION_CONFIG", value_name = "BY", value_enum, default_value_t)]
    pub generation_config: GenerationBy,
    /// What runs the model
    #[arg(long, env = "SPAR_ENGINE", value_enum, default_value_t = EngineKind::Auto)]
    pub engine: EngineKind,
    #[command(flatten)]
    #[doc = "How the model thinks before it answers."]
    pub thinking: ThinkingArgs,
    #[command(flatten)]
    #[doc = "How much memory constraints take."]
    pub grammars: GrammarArgs,
    #[command(flatten)]
    #[doc = "How the native engine computes."]
    pub native: NativeArgs,
    #[command(flatten)]
    #[doc = "Which server, where the engine is one."]
    pub upstream: UpstreamArgs,
}

/// How the model marks its reasoning and its calls of functions.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Model")]
pub struct ThinkingArgs {
    /// How replies mark their reasoning, which is then no part of the answer
    #[arg(long, env = "SPAR_REASONING", value_name = "FORM", value_enum, default_value_t)]
    pub reasoning: ReasoningBy,
    /// Variables of the chat template as a JSON object, such as {"enable_thinking": false}; a request's own come before them
    #[arg(long, env = "SPAR_CHAT_TEMPLATE_KWARGS", value_name = "JSON", value_parser = template_kwargs)]
    pub chat_template_kwargs: Option<TemplateKwargs>,
    /// How the model writes calls of functions: hermes, llama, mistral, mistral-args, qwen-coder, granite or nemotron; absent: as
    /// its chat template or its tokenizer says
    #[arg(long, env = "SPAR_TOOL_CALLS", value_name = "FORM")]
    pub tool_calls: Option<ToolFormat>,
}

/// How tokens are drawn where a request does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum GenerationBy {
    /// The model's generation_config.json says it: temperature, top_p, top_k, min_p and repetition_penalty
    #[default]
    Auto,
    /// The model's plain distribution, at temperature 1 without any limit
    None,
}

/// How replies mark their reasoning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReasoningBy {
    /// The form that the chat template or the tokenizer shows; of an upstream's text, `<think>...</think>` at its beginning
    #[default]
    Auto,
    /// No form: a mark is part of the answer
    Off,
    /// The marks `<think>...</think>`
    Think,
    /// The marks `[THINK]...[/THINK]`
    Magistral,
    /// "Here is my thought process:" and "Here is my response:"
    Granite,
}

impl ThinkingArgs {
    /// The form of replies, where the model's own files say `found`.
    pub fn form(&self, found: Option<Form>) -> Option<Form> {
        match self.reasoning {
            ReasoningBy::Auto => found,
            ReasoningBy::Off => None,
            ReasoningBy::Think => Some(Form::Think),
            ReasoningBy::Magistral => Some(Form::Magistral),
            ReasoningBy::Granite => Some(Form::Granite),
        }
    }

    /// Whether an upstream's text is looked at for marks that nothing has announced.
    pub fn surmises(&self) -> bool {
        self.reasoning == ReasoningBy::Auto
    }

    /// Variables of the chat template where a request does not set them.
    pub fn kwargs(&self) -> TemplateKwargs {
        self.chat_template_kwargs.clone().unwrap_or_default()
    }
}

/// Reads a JSON object of variables that a template does not have by itself.
fn template_kwargs(text: &str) -> Result<TemplateKwargs, String> {
    let kwargs: TemplateKwargs =
        serde_json::from_str(text).map_err(|error| format!("expected a JSON object, got {text:?}: {error}"))?;
    match kwargs.keys().find(|name| RESERVED.contains(&name.as_str())) {
        Some(name) => Err(format!("`{name}` is set by the server for every chat; leave it out")),
        None => Ok(kwargs),
    }
}

/// How much of the machine the native engine uses.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Native engine")]
pub struct NativeArgs {
    /// Bytes of keys and values that are kept for later prompts, per model, such as 1G (1,024³ bytes); unless given, at most an eighth of the memory that the
    /// machine or its container allows. On CUDA running replies' are among them, and one
    /// reply of the whole context always has room
    #[arg(long, env = "SPAR_KV_CACHE_BYTES", value_name = "BYTES", default_value_t = NativeConfig::default().cache_bytes, value_parser = bytes::<usize>)]
    pub kv_cache_bytes: usize,
    /// Threads that compute; absent: one per processor
    #[arg(long, env = "SPAR_THREADS", value_name = "N")]
    pub threads: Option<usize>,
    /// Replies that are computed at the same time
    #[arg(long, env = "SPAR_MAX_REPLIES", value_name = "N", default_value_t = NativeConfig::default().max_replies)]
    pub max_replies: usize,
    /// Tokens that a refinement copies from its prompt at once, at most, to be checked in one step; 0 copies none. Replies
    /// are the same; on CUDA nothing is copied
    #[arg(long, env = "SPAR_SPECULATE", value_name = "N", default_value_t = NativeConfig::default().speculate)]
    pub speculate: usize,
    /// How the weights are kept in memory
    #[arg(long, env = "SPAR_QUANTIZE", value_enum, default_value_t = Quantize::None)]
    pub quantize: Quantize,
}

/// How weights are kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Quantize {
    /// The checkpoint's own type
    None,
    /// 8 bits, with a scale for each 32 numbers of a row
    Q8,
    /// 4 bits, with a scale for each 32 numbers of a row; embedding and output matrix in 8 bits
    Q4,
}

impl Default for NativeArgs {
    fn default() -> Self {
        let NativeConfig { cache_bytes, max_replies, speculate, .. } = NativeConfig::default();
        Self { kv_cache_bytes: cache_bytes, threads: None, max_replies, speculate, quantize: Quantize::None }
    }
}

impl NativeArgs {
    /// The engine's settings.
    pub fn config(&self) -> NativeConfig {
        let default = NativeConfig::default();
        let threads = self.threads.unwrap_or(default.threads);
        let quantize = match self.quantize {
            Quantize::None => native::Quantize::None,
            Quantize::Q8 => native::Quantize::Q8,
            Quantize::Q4 => native::Quantize::Q4,
        };
        let Self { kv_cache_bytes: cache_bytes, max_replies, speculate, .. } = *self;
        NativeConfig { threads, max_replies, cache_bytes, speculate, quantize, ..default }
    }
}

/// How much memory constraints take.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct GrammarArgs {
    /// Bytes that the compiled grammars of all models take at most: those that running replies follow, and those that are
    /// kept for later requests with the same constraint
    #[arg(long, env = "SPAR_GRAMMAR_BYTES", value_name = "BYTES", default_value_t = DEFAULT_BYTES, value_parser = bytes::<usize>)]
    pub grammar_bytes: usize,
}

impl Default for GrammarArgs {
    fn default() -> Self {
        Self { grammar_bytes: DEFAULT_BYTES }
    }
}

/// Which server answers where the engine is `upstream`. Its key comes from the environment, as SPAR_UPSTREAM_KEY.
#[derive(Args, Clone, Debug)]
pub struct UpstreamArgs {
    /// OpenAI-compatible server to ask, such as http://127.0.0.1:8000/v1; its key is taken from SPAR_UPSTREAM_KEY. Given more than
    /// once, or with commas in the variable, the servers are a fleet that answers as one
    #[arg(long, env = "SPAR_UPSTREAM_URL", value_name = "URL", value_delimiter = ',')]
    pub upstream_url: Vec<String>,
    /// File of more servers in TOML: tables `[[upstreams]]` with url, name, key_file, key_env, weight, max_in_flight, role, dialect, model,
    /// context and siblings. It is read again when it changes
    #[arg(long, env = "SPAR_UPSTREAMS", value_name = "FILE")]
    pub upstreams: Option<PathBuf>,
    /// The fields that it knows beyond OpenAI's; a fleet's file may say another one for each server
    #[arg(long, env = "SPAR_UPSTREAM_DIALECT", value_name = "DIALECT", value_enum, default_value_t)]
    pub upstream_dialect: DialectBy,
    /// A call of a fleet that hears nothing for this long is lost, and sent to another server
    #[arg(long, env = "SPAR_UPSTREAM_SILENCE", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub upstream_silence: Duration,
    /// A call of a fleet that has no answer after this time is sent to a second server as well; absent: never
    #[arg(long, env = "SPAR_UPSTREAM_HEDGE", value_name = "TIME", value_parser = duration)]
    pub upstream_hedge: Option<Duration>,
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

impl Default for UpstreamArgs {
    fn default() -> Self {
        Self {
            upstream_url: Vec::new(),
            upstreams: None,
            upstream_dialect: DialectBy::Auto,
            upstream_silence: Patience::default().silence,
            upstream_hedge: None,
            upstream_model: None,
            upstream_context: None,
            upstream_siblings: SiblingsBy::N,
        }
    }
}

/// The fields that an upstream knows beyond OpenAI's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DialectBy {
    /// Recognised by what the server says of itself when it is connected
    #[default]
    Auto,
    /// OpenAI's own fields only
    Openai,
    /// The names of vLLM, in version 0.11 and later
    Vllm,
    /// The names that SGLang has for them
    Sglang,
    /// The names of llama.cpp's server
    Llamacpp,
    /// The names of Hugging Face's text-generation-inference
    Tgi,
}

impl DialectBy {
    /// The dialect that is set, if one is.
    pub fn dialect(self) -> Option<Dialect> {
        match self {
            Self::Auto => None,
            Self::Openai => Some(Dialect::OpenAi),
            Self::Vllm => Some(Dialect::Vllm(VllmFields::StructuredOutputs)),
            Self::Sglang => Some(Dialect::Sglang),
            Self::Llamacpp => Some(Dialect::LlamaCpp),
            Self::Tgi => Some(Dialect::Tgi),
        }
    }
}

/// How an upstream is asked for several replies to one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SiblingsBy {
    /// One request with `n`
    #[default]
    N,
    /// A request for each, for servers that ignore `n`
    Requests,
}

impl SiblingsBy {
    /// The setting in the words of the engine.
    pub fn siblings(self) -> Siblings {
        match self {
            Self::N => Siblings::Choices,
            Self::Requests => Siblings::Requests,
        }
    }
}

/// What runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The native engine where it knows the architecture, else mistral.rs
    #[default]
    Auto,
    /// mistral.rs: every architecture it knows, and CUDA
    Mistral,
    /// The native engine: Llama-family models on the CPU, or on CUDA in a build for it
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
        let UpstreamArgs { upstream_url: urls, upstreams: file, upstream_hedge: hedge, .. } = &self.upstream;
        require(upstream || urls.is_empty(), || "--upstream-url needs --engine upstream".into())?;
        require(upstream || file.is_none(), || "--upstreams needs --engine upstream".into())?;
        let is_fleet = urls.len() > 1 || file.is_some();
        require(hedge.is_none() || is_fleet, || {
            "--upstream-hedge needs several servers: give --upstream-url more than once, or --upstreams".into()
        })?;
        require(hedge.is_none_or(|hedge| !hedge.is_zero()), || "--upstream-hedge must be above 0".into())?;
        require(!self.upstream.upstream_silence.is_zero(), || "--upstream-silence must be above 0".into())?;
        require(upstream || self.upstream.upstream_model.is_none(), || {
            "--upstream-model needs --engine upstream".into()
        })?;
        require(!upstream || !urls.is_empty() || file.is_some(), || {
            "--engine upstream needs --upstream-url or --upstreams".into()
        })?;
        require(!upstream || self.model.is_none(), || {
            "--engine upstream takes the model from the server: use --upstream-model instead of --model".into()
        })?;
        let (least, bytes) = (16 << 20, self.grammars.grammar_bytes);
        require(bytes >= least, || format!("--grammar-bytes must be at least {least}, got {bytes}"))?;
        let fake = self.engine == EngineKind::Fake;
        let adapters = [("--adapter", &self.adapter), ("--refiner-adapter", &self.refiner_adapter)];
        for (flag, _) in adapters.into_iter().filter(|(_, adapter)| fake && adapter.is_some()) {
            require(false, || format!("{flag} needs a model, and --engine fake has none"))?;
        }
        require(!upstream || self.adapter.is_none(), || {
            "--adapter needs a model of this server's own: --engine upstream takes models and adapters from the server"
                .into()
        })?;
        require(self.lora_modules.is_empty() || !(upstream || fake), || {
            "--lora-modules needs a model of this server's own, which --engine upstream and --engine fake do not have"
                .into()
        })?;
        require(!upstream || self.refiner_adapter.is_none() || self.refiner.is_some(), || {
            "--refiner-adapter needs --refiner where --engine is upstream".into()
        })?;
        require(self.upstream.upstream_context != Some(0), || "--upstream-context must be at least 1, got 0".into())
    }
}
