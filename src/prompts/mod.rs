//! What a judge and a refiner are told, and how their answers are read: together they are one contract.

use std::path::Path;

use minijinja::Environment;
use serde::{Deserialize, Serialize};

use crate::chat::{Message, Role};

/// What a critique comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The response follows every instruction.
    Yes,
    /// It misses at least one.
    No,
}

/// A parsed answer of the refiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refinement {
    /// What it says it will change.
    pub reflection: String,
    /// The corrected response.
    pub response: String,
}

/// The texts as a checkpoint's `spar.json` carries them. Templates are minijinja over `messages` (the conversation so
/// far), `prompt` (its last user turn), `response` and, in `refine`, `critique`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateText {
    /// Recorded in traces; changes with any of the texts.
    pub version: String,
    /// The user turn that asks for a critique.
    pub judge: String,
    /// The user turn that follows the critique and asks for the refinement.
    pub refine: String,
    /// Precedes the verdict.
    pub verdict: String,
    /// Precedes the refined response.
    pub start: String,
    /// Follows the refined response.
    pub end: String,
}

/// Compiled [`TemplateText`].
#[derive(Clone, Debug)]
pub struct Templates {
    /// The texts.
    pub text: TemplateText,
    environment: Environment<'static>,
}

/// A template file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("prompt templates in {path}: {reason}")]
pub struct TemplateError {
    /// The file, or `built in`.
    pub path: String,
    /// What is wrong, and where.
    pub reason: String,
}

impl Templates {
    /// The general English templates, for instruction-tuned models.
    pub fn general() -> Self {
        todo!("the search owner writes prompts/*.txt")
    }

    /// Compiles `text`; a trial rendering must hold the response and the critique.
    ///
    /// # Errors
    /// Names `path` and what is wrong.
    pub fn new(text: TemplateText, path: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        let fail = |reason: minijinja::Error| TemplateError { path: path.into(), reason: format!("{reason:#}") };
        environment.add_template_owned("judge", text.judge.clone()).map_err(fail)?;
        environment.add_template_owned("refine", text.refine.clone()).map_err(fail)?;
        Ok(Self { text, environment })
    }

    /// Reads `spar.json`.
    ///
    /// # Errors
    /// Names the file and what is wrong.
    pub fn from_file(path: &Path) -> Result<Self, TemplateError> {
        let fail = |reason: String| TemplateError { path: path.display().to_string(), reason };
        let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
        let text = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        Self::new(text, &path.display().to_string())
    }

    /// The conversation that asks for a critique of `response` as the answer to `conversation`.
    pub fn judge(&self, conversation: &[Message], response: &str) -> Vec<Message> {
        vec![Message::user(self.render("judge", conversation, response, ""))]
    }

    /// The conversation that asks for a refinement: the judge's turn, its critique, the request to refine.
    pub fn refine(&self, conversation: &[Message], response: &str, critique: &str) -> Vec<Message> {
        let mut turns = self.judge(conversation, response);
        turns.push(Message::assistant(critique));
        turns.push(Message::user(self.render("refine", conversation, response, critique)));
        turns
    }

    /// The first Yes or No after the verdict marker; `None` is an invalid vote.
    pub fn parse_verdict(&self, critique: &str) -> Option<Verdict> {
        let _ = critique;
        todo!("the search owner")
    }

    /// The text between the start and end markers; `None` if they are not there.
    pub fn parse_refinement(&self, reply: &str) -> Option<Refinement> {
        let _ = reply;
        todo!("the search owner")
    }

    fn render(&self, name: &str, messages: &[Message], response: &str, critique: &str) -> String {
        let prompt = messages.iter().rev().find(|m| m.role == Role::User).map_or("", |m| m.content.as_str());
        self.environment
            .get_template(name)
            .and_then(|t| t.render(minijinja::context! { messages, prompt, response, critique }))
            .expect("templates were rendered once when they were compiled")
    }
}
