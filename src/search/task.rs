//! What a search is given: the question with its limits and rules, and the models.

use std::sync::Arc;

use crate::chat::{Message, TemplateOptions};
use crate::engine::tools::Offer;
use crate::engine::{Constraint, Engine, Namespace, Sampling};
use crate::prompts::Templates;
use crate::verify::Check;

/// The question that a search answers, with its limits and rules.
#[derive(Clone, Debug)]
pub struct Task {
    /// The conversation, ending in a user turn.
    pub messages: Vec<Message>,
    /// Variables of the draft's chat template.
    pub template: TemplateOptions,
    /// How the draft is sampled. The seed determines the whole search.
    pub sampling: Sampling,
    /// Maximum number of tokens of one draft.
    pub max_tokens: Option<usize>,
    /// Strings that end a draft.
    pub stop: Vec<String>,
    /// Number of alternatives per token whose logprobs are returned.
    pub logprobs: Option<usize>,
    /// A constraint that drafts and refined responses must match.
    pub constraint: Option<Constraint>,
    /// Rules that a response must follow, found in the conversation or given by name.
    pub checks: Vec<Check>,
    /// Functions that a response may call.
    pub offer: Option<Arc<Offer>>,
    /// The namespace of the grammars that check what an engine does not follow itself.
    pub namespace: Namespace,
}

impl Task {
    /// A task that answers `messages` from the model's plain distribution, without limits or rules.
    pub fn chat(messages: Vec<Message>) -> Self {
        Self {
            messages,
            template: TemplateOptions::default(),
            sampling: Sampling::default(),
            max_tokens: None,
            stop: Vec::new(),
            logprobs: None,
            constraint: None,
            checks: Vec::new(),
            offer: None,
            namespace: Namespace::SHARED,
        }
    }
}

/// The models of one search, pinned from its start to its end.
#[derive(Clone, Copy)]
pub struct Models<'a> {
    /// The model that drafts.
    pub actor: &'a dyn Engine,
    /// The model that judges and refines.
    pub refiner: &'a dyn Engine,
    /// The refiner's templates.
    pub templates: &'a Templates,
}
