//! What an answer consists of.

use super::echo::PromptTokens;
use crate::engine::{FinishReason, TokenLogprobs};
use crate::openai::{ProgressFields, SearchReport, Usage};

/// A part of an answer, in the order in which it is shown.
#[derive(Clone, Debug)]
pub enum Part {
    /// Nothing to show yet, but the search is alive.
    Alive,
    /// A step of the search.
    Progress(ProgressFields),
    /// The prompt of a choice, which comes before everything else of it.
    Echo {
        /// Index of the choice.
        choice: usize,
        /// Its tokens, where they are scored.
        tokens: PromptTokens,
    },
    /// New text of a choice.
    Delta {
        /// Index of the choice.
        choice: usize,
        /// May be empty where only reasoning or logprobs are new.
        text: String,
        /// New reasoning, which is no part of the text; mostly empty.
        reasoning: String,
        /// Log-probabilities of the new tokens, where asked for.
        logprobs: Vec<TokenLogprobs>,
    },
    /// A choice is complete.
    Finished {
        /// Index of the choice.
        choice: usize,
        /// Why it ended.
        reason: FinishReason,
    },
    /// All choices are complete.
    Done {
        /// The tokens of the whole request.
        usage: Usage,
        /// The reports by choice; empty where nothing was searched.
        searches: Vec<SearchReport>,
    },
}
