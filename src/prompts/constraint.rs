//! The judge's and the refiner's answers as grammars, for engines that constrain decoding.

use super::Templates;
use crate::engine::Constraint;

/// Everything up to and including `marker`, which may not occur earlier.
fn up_to(rule: &str, marker: &str) -> String {
    format!("{rule}[lazy]: /(.|\\n)*/ {}\n", quoted(marker))
}

/// A Lark string literal; JSON's escapes are Lark's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Templates {
    /// A critique that ends in a readable verdict.
    pub fn verdict_constraint(&self) -> Constraint {
        let head = up_to("head", &self.text.verdict);
        Constraint::Lark(format!("start: head VERDICT\n{head}VERDICT: \":\"? \" \"? (\"Yes\" | \"No\")\n"))
    }

    /// A reflection and then the markers around a response, which matches `response` where that is stated.
    /// `None` where the response's own constraint is a whole grammar, which cannot be nested.
    pub fn refinement_constraint(&self, response: Option<&Constraint>) -> Option<Constraint> {
        let head = up_to("head", &self.text.start);
        let end = quoted(&self.text.end);
        let body = match response {
            None => {
                return Some(Constraint::Lark(format!("start: head tail\n{head}{}", up_to("tail", &self.text.end))));
            }
            Some(Constraint::JsonSchema(schema)) => format!("body: %json {schema}\n"),
            Some(Constraint::Regex(regex)) => format!("body: /{}/\n", regex.replace('/', "\\/")),
            Some(Constraint::Lark(_)) => return None,
        };
        Some(Constraint::Lark(format!("start: head \"\\n\" body \"\\n\" {end}\n{head}{body}")))
    }
}
