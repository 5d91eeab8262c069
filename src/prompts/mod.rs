//! The texts that ask a judge and a refiner, and the parsing of their answers. Together they form one contract.

mod constraint;
pub mod decide;
mod domain;
pub mod evolve;
mod parse;
mod verdict;

use std::path::Path;

use minijinja::{UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use crate::chat::{Message, Role};
use crate::jinja::{Jinja, JinjaError};
use crate::weights::files;

pub use domain::Domain;
pub use verdict::{Calibration, READABLE, Temperatures, verdict_labels};

/// The verdict of a critique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The response follows every instruction.
    Yes,
    /// The response misses at least one instruction.
    No,
}

/// A parsed answer of the refiner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refinement {
    /// What the refiner says it will change.
    pub reflection: String,
    /// The corrected response, never empty.
    pub response: String,
    /// The byte offset in the reply at which the corrected response begins.
    pub offset: usize,
}

/// The texts of a checkpoint's `spar.json`. Templates are minijinja over `messages` (the conversation so far), `prompt` (its last user
/// turn), `response`, in `refine` also `critique`, and the markers `verdict`, `start`, `end`. A line with only a block tag leaves no blank
/// line. The optional texts serve searches that read verdicts as probabilities; a checkpoint that was not trained on them omits them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateText {
    /// The version that traces record. It changes with any of the texts.
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
    /// The user turn that follows the response in the conversation itself and asks for Yes or No without a critique. Its variable `checked`
    /// lists the instructions that rules have checked already. If it is absent, the model answers the judge's turn directly with the
    /// verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<String>,
    /// The question of `score` about the single instruction `item`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    /// The user turn that asks for the conversation's separate instructions as a JSON array. If it is absent, there is no checklist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checklist: Option<String>,
    /// The user turn that follows the response in the conversation itself, names the instructions in `failed`, and asks for the corrected
    /// response alone. If it is absent, refinements always begin with a critique and use `refine`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<String>,
    /// How this model's verdicts become probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Calibration>,
    /// The conversations that the checkpoint can judge.
    #[serde(default, skip_serializing_if = "Domain::is_any")]
    pub domain: Domain,
}

/// Templates that were compiled from a [`TemplateText`].
#[derive(Clone, Debug)]
pub struct Templates {
    /// The texts that were compiled.
    pub text: TemplateText,
    jinja: Jinja,
}

/// A template file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("prompt templates in {path}: {reason}")]
pub struct TemplateError {
    /// The path of the file, or `built in`.
    pub path: String,
    /// What is wrong, and where.
    pub reason: String,
}

const GENERAL_JUDGE: &str = include_str!("../../prompts/judge.txt");
const GENERAL_REFINE: &str = include_str!("../../prompts/refine.txt");
/// Names of the general texts in every environment. They are rendered if a checkpoint's own text raises an error.
const FALLBACK: [(&str, &str); 2] = [("judge", "general judge"), ("refine", "general refine")];
const GENERAL_SCORE: &str = include_str!("../../prompts/score.txt");
const GENERAL_ITEM: &str = include_str!("../../prompts/item.txt");
const GENERAL_CHECKLIST: &str = include_str!("../../prompts/checklist.txt");
const GENERAL_REWRITE: &str = include_str!("../../prompts/rewrite.txt");

impl Templates {
    /// The general English templates, for instruction-tuned models.
    pub fn general() -> Self {
        let text = TemplateText {
            version: "general-2".into(),
            judge: GENERAL_JUDGE.into(),
            refine: GENERAL_REFINE.into(),
            verdict: "Final Judgement".into(),
            start: "[[start]]".into(),
            end: "[[end]]".into(),
            score: Some(GENERAL_SCORE.into()),
            item: Some(GENERAL_ITEM.into()),
            checklist: Some(GENERAL_CHECKLIST.into()),
            rewrite: Some(GENERAL_REWRITE.into()),
            calibration: None,
            domain: Domain::Any,
        };
        Self::new(text, "built in").expect("a test compiles the built-in templates")
    }

    /// Compiles `text` and renders it for a few conversations. The judge's turn must contain the prompt and the response, and no template
    /// may name an unknown variable.
    ///
    /// # Errors
    /// The error names `path` and the problem.
    pub fn new(text: TemplateText, path: &str) -> Result<Self, TemplateError> {
        let fail = |reason: String| TemplateError { path: path.into(), reason };
        for (name, marker) in [("verdict", &text.verdict), ("start", &text.start), ("end", &text.end)] {
            if marker.trim().is_empty() {
                return Err(fail(format!("the marker `{name}` is empty")));
            }
        }
        let mut jinja = Jinja::new(UndefinedBehavior::Strict);
        minijinja_contrib::add_to_environment(jinja.environment());
        let sources = [
            ("judge", text.judge.clone()),
            ("refine", text.refine.clone()),
            (FALLBACK[0].1, GENERAL_JUDGE.into()),
            (FALLBACK[1].1, GENERAL_REFINE.into()),
        ];
        let optional =
            [("score", &text.score), ("item", &text.item), ("checklist", &text.checklist), ("rewrite", &text.rewrite)];
        let optional = optional.into_iter().filter_map(|(name, source)| Some((name, source.clone()?)));
        if let Some(fault) = text.calibration.as_ref().and_then(Calibration::fault) {
            return Err(fail(fault));
        }
        let built_in = [evolve::TEMPLATE, decide::TEMPLATE].map(|(name, text)| (name, text.into()));
        for (name, source) in sources.into_iter().chain(optional).chain(built_in) {
            jinja.add(name, &source).map_err(|e| fail(format!("{name}: {e}")))?;
        }
        let templates = Self { text, jinja };
        templates.try_out().map_err(fail)?;
        Ok(templates)
    }

    /// Reads a file in the format of `spar.json`.
    ///
    /// # Errors
    /// The error names the file and the problem.
    pub fn from_file(path: &Path) -> Result<Self, TemplateError> {
        let fail = |reason: String| TemplateError { path: path.display().to_string(), reason };
        let bytes = files::read(path, files::SMALL).map_err(|e| fail(e.to_string()))?;
        let text = serde_json::from_slice(&bytes).map_err(|e| fail(e.to_string()))?;
        Self::new(text, &path.display().to_string())
    }

    /// The conversation that asks for a critique of `response` as the answer to `conversation`.
    pub fn judge(&self, conversation: &[Message], response: &str) -> Vec<Message> {
        vec![Message::user(self.render(0, &Facts { response, ..Facts::new(conversation) }))]
    }

    /// The conversation that asks for a refinement: the judge's turn, its critique, the request to refine.
    pub fn refine(&self, conversation: &[Message], response: &str, critique: &str) -> Vec<Message> {
        let mut turns = self.judge(conversation, response);
        turns.push(Message::assistant(critique));
        turns.push(Message::user(self.render(1, &Facts { response, critique, ..Facts::new(conversation) })));
        turns
    }

    /// A refiner's reply in the form that [`Templates::parse_refinement`] reads.
    pub fn refinement(&self, reflection: &str, response: &str) -> String {
        let TemplateText { start, end, .. } = &self.text;
        let gap = if reflection.is_empty() { "" } else { "\n" };
        format!("{reflection}{gap}{start}\n{response}\n{end}")
    }

    /// A critique in the judge's own format that names the broken rules. `failed` describes each of them; `spoken` is the model's critique,
    /// if it was asked for one.
    pub fn rule_critique(&self, failed: &[String], spoken: Option<&str>) -> String {
        let mut critique = match spoken.map(|text| self.without_verdict(text)) {
            Some(text) if !text.is_empty() => format!("{text}\n\n"),
            _ => String::new(),
        };
        if failed.is_empty() {
            critique.push_str("Every rule that can be checked exactly is followed.\n");
            return format!("{critique}{}: Yes", self.text.verdict);
        }
        critique.push_str("An exact check found instructions that are not followed:\n");
        for rule in failed {
            critique.push_str(&format!("- {rule}\n"));
        }
        format!("{critique}{}: No", self.text.verdict)
    }

    /// Renders one of [`FALLBACK`]'s templates. If it raises an error for this conversation, the general template with the same markers is
    /// rendered instead, so that the answer can still be read.
    fn render(&self, which: usize, facts: &Facts<'_>) -> String {
        let (name, general) = FALLBACK[which];
        self.try_render(name, facts).unwrap_or_else(|error| {
            tracing::warn!(template = name, version = self.text.version, %error, "a template failed; using the general one");
            self.try_render(general, facts).unwrap_or_else(|_| facts.response.to_owned())
        })
    }

    /// Renders an optional text. A text that raises an error for this conversation counts as absent.
    fn optional(&self, name: &str, facts: &Facts<'_>) -> Option<String> {
        if !self.jinja.has(name) {
            return None;
        }
        let failed = |error: &JinjaError| {
            tracing::warn!(template = name, version = self.text.version, %error, "a template failed");
        };
        self.try_render(name, facts).inspect_err(failed).ok()
    }

    fn try_render(&self, name: &str, facts: &Facts<'_>) -> Result<String, JinjaError> {
        let Facts { messages, response, critique, item, failed, checked } = *facts;
        let prompt = messages.iter().rev().find(|m| m.role == Role::User).map_or("", |m| m.content.as_str());
        let TemplateText { verdict, start, end, .. } = &self.text;
        let context = context! {
            messages, prompt, response, critique, item, failed, checked, verdict, start, end
        };
        self.jinja.render(name, context)
    }

    fn try_out(&self) -> Result<(), String> {
        let single = vec![Message::user("the-prompt")];
        let system = Message::new(Role::System, "the-system-turn");
        let several =
            vec![system, Message::user("earlier"), Message::assistant("the-reply"), Message::user("the-prompt")];
        let rules = ["the-rule".to_owned()];
        // Every template, with the strings that its rendered turn must contain.
        let judged: &[&str] = &["the-prompt", "the-response"];
        let templates: [(&str, &[&str]); 6] = [
            ("judge", judged),
            ("refine", &[]),
            ("score", &[]),
            ("item", &["the-item"]),
            ("checklist", &["the-prompt"]),
            ("rewrite", &["the-rule"]),
        ];
        for messages in [&single, &several] {
            let facts = Facts {
                response: "the-response",
                critique: "the-critique",
                item: "the-item",
                failed: &rules,
                checked: &rules,
                ..Facts::new(messages)
            };
            for (name, needles) in templates {
                if !self.jinja.has(name) {
                    continue;
                }
                let turn = self.try_render(name, &facts).map_err(|e| format!("{name}: {e}"))?;
                if let Some(needle) = needles.iter().find(|needle| !turn.contains(**needle)) {
                    return Err(format!("{name}: the rendered turn does not hold the {}", &needle[4..]));
                }
            }
        }
        Ok(())
    }
}

/// The variables of a template.
#[derive(Clone, Copy)]
struct Facts<'a> {
    messages: &'a [Message],
    response: &'a str,
    critique: &'a str,
    item: &'a str,
    failed: &'a [String],
    checked: &'a [String],
}

impl<'a> Facts<'a> {
    fn new(messages: &'a [Message]) -> Self {
        Self { messages, response: "", critique: "", item: "", failed: &[], checked: &[] }
    }
}

#[cfg(test)]
mod tests;
