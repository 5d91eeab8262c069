//! Functions that a model may call: how they are offered, how each family of models writes a call, and how a call is read
//! from what the model says.
//!
//! A reply travels through the engines and through a search as the text that the model wrote. It becomes a call where an
//! answer is shown ([`Reader`]), and where a search judges it ([`Offer::faults`]).

pub mod format;
mod grammar;
mod reader;
mod turns;

use serde_json::{Map, Value, json};

pub use format::Format;
pub use reader::{Piece, Reader, read};
pub use turns::{as_plain_turns, as_template_turns};

use super::{Constraint, FinishReason, Namespace, grammar as matching};

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// The function's name.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// JSON schema of its arguments, which are an object.
    pub parameters: Value,
}

impl Tool {
    /// The tool as chat templates and OpenAI's wire write it.
    pub fn to_wire(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".into(), self.name.as_str().into());
        if let Some(description) = &self.description {
            function.insert("description".into(), description.as_str().into());
        }
        function.insert("parameters".into(), self.parameters.clone());
        json!({"type": "function", "function": function})
    }
}

/// Whether a reply has to be a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The model decides.
    #[default]
    Auto,
    /// It has to call at least one function.
    Required,
    /// It has to call the function of this name.
    Named(String),
}

/// The functions of one request, and how the model may use them.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// The functions: at least one, and their names differ.
    pub tools: Vec<Tool>,
    /// Whether a reply has to be a call.
    pub choice: Choice,
    /// Whether one reply may hold several calls.
    pub parallel: bool,
    /// How the model writes a call.
    pub format: Format,
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The function's name.
    pub name: String,
    /// Its arguments as JSON text, which is an object wherever an engine constrained the reply.
    pub arguments: String,
}

impl Offer {
    /// The tool called `name`.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.name == name)
    }

    /// The functions that may be called: the named one, or all of them.
    fn callable(&self) -> impl Iterator<Item = &Tool> {
        let named = match &self.choice {
            Choice::Named(name) => Some(name.as_str()),
            Choice::Auto | Choice::Required => None,
        };
        self.tools.iter().filter(move |tool| named.is_none_or(|name| tool.name == name))
    }

    /// The grammar of a reply that is an answer or well-formed calls. `answer` is what an answer has to match, if anything.
    pub fn constraint(&self, answer: Option<&Constraint>) -> Constraint {
        Constraint::Calls { lark: grammar::lark(self, answer), optional: self.choice == Choice::Auto }
    }

    /// Whether `reply` calls nothing and need not.
    pub fn is_plain_answer(&self, reply: &str) -> bool {
        let (text, calls) = read(self, reply, FinishReason::Stop);
        self.choice == Choice::Auto && calls.is_empty() && !self.breaks_off(reply) && !self.opens_a_call(&text)
    }

    /// Whether `reply` ends in the middle of a call.
    fn breaks_off(&self, reply: &str) -> bool {
        let mut reader = Reader::new(self);
        reader.push(reply);
        reader.is_within_call()
    }

    /// Whether `text`, which is what is left of a reply when its calls were read, opens a call that cannot be read.
    fn opens_a_call(&self, text: &str) -> bool {
        let begins = |rest: &str| {
            let rest = rest.trim_start();
            self.format == Format::MistralArguments || rest.starts_with(['{', '[']) || rest.starts_with("<function")
        };
        self.format.marks().open.iter().any(|mark| text.split_once(mark).is_some_and(|(_, rest)| begins(rest)))
    }

    /// What is wrong with `reply` as calls of these functions, each as one clause; nothing where it is a plain answer and
    /// may be one. `namespace` is that of the caller.
    pub async fn faults(&self, reply: &str, namespace: Namespace) -> Vec<String> {
        let (text, calls) = read(self, reply, FinishReason::Stop);
        let mut faults = Vec::new();
        if self.breaks_off(reply) {
            faults.push("write the call to its end".into());
        } else if self.opens_a_call(&text) {
            faults.push("write the call in its form, with arguments that are valid JSON".into());
        }
        if calls.is_empty() && self.choice != Choice::Auto {
            let names: Vec<_> = self.callable().map(|tool| tool.name.as_str()).collect();
            faults.push(format!("call one of these functions: {}", names.join(", ")));
        }
        if calls.len() > 1 && !self.parallel {
            faults.push("call one function only".into());
        }
        for Call { name, arguments } in &calls {
            match self.callable().find(|tool| tool.name == *name) {
                None => faults.push(format!("call a function that exists, not `{name}`")),
                Some(tool) => {
                    let schema = Constraint::JsonSchema(tool.parameters.clone());
                    // Where it cannot be checked now, the engine's grammar is trusted.
                    if matching::matches(&schema, namespace, arguments).await == Ok(false) {
                        faults.push(format!("give `{name}` arguments that match its schema"));
                    }
                }
            }
        }
        faults
    }
}

#[cfg(test)]
pub(crate) mod tests;
