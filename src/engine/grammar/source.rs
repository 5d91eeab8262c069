//! A constraint as it is compiled and compared: its kind and its text.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;

use crate::constraint::{Constraint, Spaces, with_spaces};
use crate::engine::Namespace;

/// What a grammar is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    kind: Kind,
    text: Arc<str>,
    /// The namespace of its callers: the time of a request would otherwise tell a caller which constraints others have sent.
    namespace: Namespace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Regex,
    JsonSchema,
    Lark,
}

impl Source {
    /// The source of a constraint on texts whose JSON may hold `spaces`, for the callers of one namespace.
    pub fn new(constraint: &Constraint, spaces: Spaces, namespace: Namespace) -> Self {
        let (kind, text) = match constraint {
            Constraint::Regex(regex) => (Kind::Regex, regex.as_str().into()),
            Constraint::JsonSchema(schema) => (Kind::JsonSchema, with_spaces(schema, spaces).to_string().into()),
            Constraint::Lark(grammar) | Constraint::Calls { lark: grammar, .. } => {
                (Kind::Lark, grammar.as_str().into())
            }
        };
        Self { kind, text, namespace }
    }

    /// Bytes of its text.
    pub fn len(&self) -> usize {
        self.text.len()
    }

    /// The grammar as the compiler takes it.
    ///
    /// # Errors
    /// The schema is nested deeper than a parser goes.
    pub fn grammar(&self) -> Result<TopLevelGrammar, serde_json::Error> {
        Ok(match self.kind {
            Kind::Regex => TopLevelGrammar::from_regex(&self.text),
            Kind::JsonSchema => TopLevelGrammar::from_json_schema(serde_json::from_str(&self.text)?),
            Kind::Lark => TopLevelGrammar::from_lark(self.text.to_string()),
        })
    }
}
