//! Decisions on the wire: typed questions about an input, in the shape of OpenAI's Decisions API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Content;

/// The body of `POST /v1/decisions`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DecisionRequest {
    /// What the questions are about: a text, or a list of user messages.
    pub input: DecisionInput,
    /// The questions, 1 to 128; they are answered one by one.
    pub questions: Vec<DecisionQuestion>,
    /// A served model's name; absent: the served model.
    pub model: Option<String>,
    /// Who asks; not used.
    pub safety_identifier: Option<String>,
}

/// What questions are about.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of user messages")]
pub enum DecisionInput {
    /// One text as the input.
    Text(String),
    /// User messages, whose texts are read one after the other.
    Messages(Vec<DecisionMessage>),
}

/// One message of an input.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DecisionMessage {
    /// The role, which is always `user`.
    #[schema(pattern = "^user$")]
    pub role: String,
    /// The message's text, or parts of type `input_text`.
    pub content: Content,
}

/// A question about the input.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DecisionQuestion {
    /// `predicate` asks whether something is true, `choice` which of several values is right, `score` which level of a scale.
    #[serde(rename = "type")]
    #[schema(pattern = "^(predicate|choice|score)$")]
    pub kind: String,
    /// Names the answer.
    pub name: Option<String>,
    /// What is asked: for a predicate the statement that is true or not.
    pub instructions: String,
    /// The values of a choice, 2 to 26, each once.
    pub choices: Option<Vec<DecisionChoice>>,
    /// The levels of a score from the lowest to the highest, 2 to 10.
    pub levels: Option<Vec<DecisionLevel>>,
}

/// A value that may be chosen.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DecisionChoice {
    /// The value: a text, or true or false.
    pub value: ChoiceValue,
    /// When it is right.
    pub description: Option<String>,
}

/// A text, or true or false; `"true"` and `true` are different values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string, true or false")]
pub enum ChoiceValue {
    /// A text as the value.
    Text(String),
    /// True or false.
    Flag(bool),
}

/// A level of a scale.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DecisionLevel {
    /// What the level is called.
    pub label: String,
    /// When it is right.
    pub description: Option<String>,
}

/// The answers to all questions.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DecisionResponse {
    /// The model as it was asked for.
    pub model: String,
    /// The answers, in the order of the questions.
    pub answers: Vec<DecisionAnswer>,
    /// Tokens of all questions.
    pub usage: DecisionUsage,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum DecisionAnswer {
    /// How likely the statement is true.
    Predicate {
        /// The question's name.
        name: Option<String>,
        /// The probability that it is true.
        probability: f64,
    },
    /// Which value is right.
    Choice {
        /// The question's name.
        name: Option<String>,
        /// The likeliest value.
        choice: ChoiceValue,
        /// The probability of this value.
        confidence: f64,
        /// The probabilities of all values, in their order; they add up to 1.
        probabilities: Vec<ChoiceProbability>,
    },
    /// Where on the scale it is.
    Score {
        /// The question's name.
        name: Option<String>,
        /// The expected level: the mean of the levels' numbers, weighed with their probabilities.
        score: f64,
        /// The probability of the likeliest level.
        confidence: f64,
        /// The probabilities of all levels, in their order; they add up to 1.
        probabilities: Vec<LevelProbability>,
    },
}

/// The probability of a value.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ChoiceProbability {
    /// The value of the choice.
    pub value: ChoiceValue,
    /// The probability of the value.
    pub probability: f64,
}

/// The probability of a level.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LevelProbability {
    /// The level's number, from 0 for the lowest one.
    pub value: usize,
    /// What the level is called.
    pub label: String,
    /// The probability of the level.
    pub probability: f64,
}

/// Tokens of decisions, in the words of OpenAI's newer routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct DecisionUsage {
    /// Tokens of all questions.
    pub input_tokens: usize,
    /// Parts of `input_tokens`.
    pub input_tokens_details: DecisionInputDetails,
    /// Always 0: nothing is generated.
    pub output_tokens: usize,
    /// Parts of `output_tokens`.
    pub output_tokens_details: DecisionOutputDetails,
    /// The number of all tokens, which equals `input_tokens`.
    pub total_tokens: usize,
}

/// Parts of the questions' tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct DecisionInputDetails {
    /// Reused rather than computed.
    pub cached_tokens: usize,
    /// Always 0: keeping prefixes costs nothing.
    pub cache_write_tokens: usize,
}

/// Parts of the generated tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct DecisionOutputDetails {
    /// Reasoning tokens, which are always 0.
    pub reasoning_tokens: usize,
}
