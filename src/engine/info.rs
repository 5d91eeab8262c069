//! What is known of a loaded model without calling it.

use std::sync::{Arc, LazyLock};

use tokenizers::Tokenizer;

use super::model_dir::ModelDir;
use super::{EngineError, LabelSupport, Sampling, tools};
use crate::chat::Chat;

/// The model's plain distribution.
static PLAIN: LazyLock<Sampling> = LazyLock::new(Sampling::default);

/// What a loaded model is.
#[derive(Clone, Default)]
pub struct ModelInfo {
    /// The name that clients use.
    pub name: String,
    /// Tokens of prompt and reply together.
    pub context: usize,
    /// Entries of the vocabulary.
    pub vocabulary: usize,
    /// The opened directory or file, where the model is in this process.
    pub dir: Option<Arc<ModelDir>>,
}

impl ModelInfo {
    /// A model that is not in this process: `context` tokens of prompt and reply together, `vocabulary` entries or 0.
    pub fn new(name: impl Into<String>, context: usize, vocabulary: usize) -> Self {
        Self { name: name.into(), context, vocabulary, dir: None }
    }

    /// The model of an opened directory.
    pub fn of(dir: Arc<ModelDir>) -> Self {
        let (name, config) = (dir.name(), &dir.config);
        Self { name, context: config.context, vocabulary: config.vocabulary, dir: Some(dir) }
    }

    /// The tokenizer, where it is known.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.dir.as_ref().map(|dir| &dir.tokenizer)
    }

    /// Bytes of text that fit into the context at most, whatever they say; `None` where that is not known.
    pub fn most_bytes(&self) -> Option<usize> {
        self.dir.as_ref()?.most_bytes()
    }

    /// The text that a chat becomes before it is tokenized, ending where the assistant begins to speak.
    ///
    /// # Errors
    /// [`EngineError::Prompt`] where the template refuses the chat, [`EngineError::Unsupported`] where no template is known.
    pub fn render(&self, chat: &Chat) -> Result<String, EngineError> {
        let unknown = || EngineError::Unsupported("this model's engine has no chat template".into());
        self.dir.as_ref().ok_or_else(unknown)?.render(chat)
    }

    /// How tokens are drawn where a request does not say.
    pub fn default_sampling(&self) -> &Sampling {
        self.dir.as_ref().map_or(&PLAIN, |dir| &dir.sampling)
    }

    /// How the model writes calls of functions.
    pub fn tool_format(&self) -> tools::Format {
        self.dir.as_ref().map_or_else(tools::Format::default, |dir| dir.tool_format)
    }
}

/// What an engine can do. A request beyond it is refused as unsupported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Which constraints on a reply are honoured.
    pub constraints: ConstraintSupport,
    /// Whether [`Sampling::rules`], and chats that do not end where the assistant begins to speak, are honoured.
    pub token_rules: bool,
    /// Whether a given text's log-probabilities can be had: [`super::Engine::score`].
    pub scores: bool,
    /// Which questions [`super::Engine::read_labels`] answers.
    pub labels: LabelSupport,
    /// Whether [`super::Engine::embed`] gives vectors.
    pub embeds: bool,
}

impl Capabilities {
    /// Whether every kind of constraint is honoured.
    pub fn constrains_everything(&self) -> bool {
        self.constraints == ConstraintSupport::Everything
    }

    /// Whether regular expressions are honoured.
    pub fn constrains_regex(&self) -> bool {
        self.constraints >= ConstraintSupport::Regular
    }

    /// Whether at least JSON schemas of an answer are honoured.
    pub fn constrains_json(&self) -> bool {
        self.constraints >= ConstraintSupport::Json
    }
}

/// Which constraints a model honours; each kind includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConstraintSupport {
    /// No constraint is honoured.
    #[default]
    Nothing,
    /// JSON schemas of an answer are honoured.
    Json,
    /// JSON schemas and regular expressions are honoured.
    Regular,
    /// Every kind of constraint is honoured.
    Everything,
}
