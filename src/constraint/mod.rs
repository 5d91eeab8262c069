//! What a reply's text must match.

mod schema;

use llguidance::regex_to_lark;

pub use self::schema::{OPTIONS, Spaces, check_options, with_known_formats, with_spaces};

/// What the reply's text must match from its first to its last character.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// A regular expression, anchored at both ends.
    Regex(String),
    /// A JSON schema.
    JsonSchema(serde_json::Value),
    /// A Lark grammar in llguidance's dialect.
    Lark(String),
    /// Calls of functions, as a Lark grammar.
    Calls {
        /// The grammar in Lark.
        lark: String,
        /// Whether a plain answer matches as well: it may then begin with reasoning.
        optional: bool,
    },
}

/// A regular expression as a terminal of a Lark grammar.
pub fn lark_regex(regex: &str) -> String {
    format!("/{}/", regex_to_lark(regex, ""))
}

/// A JSON schema inside of a Lark grammar, for texts that are generated.
pub fn lark_schema(schema: &serde_json::Value) -> String {
    format!("%json {}", with_spaces(schema, Spaces::Bounded))
}
