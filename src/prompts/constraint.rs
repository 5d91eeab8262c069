//! Grammars for the answers of judge and refiner, for engines that constrain decoding.

use super::Templates;
use crate::constraint::{Constraint, lark_regex, lark_schema};

/// A grammar rule for all text up to and including `marker`, which must not occur earlier.
fn up_to(rule: &str, marker: &str) -> String {
    format!("{rule}[lazy]: /(.|\\n)*/ {}\n", quoted(marker))
}

/// Quotes `text` as a Lark string literal, whose escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Templates {
    /// The grammar of a critique that ends in a readable verdict.
    pub fn verdict_constraint(&self) -> Constraint {
        let head = up_to("head", &self.text.verdict);
        Constraint::Lark(format!("start: head VERDICT\n{head}VERDICT: \":\"? \" \"? (\"Yes\" | \"No\")\n"))
    }

    /// The grammar of a reflection, followed by a response between the markers that matches `response` if that is given. Returns `None` if
    /// the response's own constraint is a whole grammar, which cannot be nested.
    pub fn refinement_constraint(&self, response: Option<&Constraint>) -> Option<Constraint> {
        let head = up_to("head", &self.text.start);
        let end = quoted(&self.text.end);
        let body = match response {
            None => {
                return Some(Constraint::Lark(format!("start: head tail\n{head}{}", up_to("tail", &self.text.end))));
            }
            Some(Constraint::JsonSchema(schema)) => format!("body: {}\n", lark_schema(schema)),
            Some(Constraint::Regex(regex)) => format!("body: {}\n", lark_regex(regex)),
            Some(Constraint::Lark(_) | Constraint::Calls { .. }) => return None,
        };
        Some(Constraint::Lark(format!("start: head \"\\n\" body \"\\n\" {end}\n{head}{body}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::grammar::{Grammars, TokenText};

    /// Checks how many bytes of `text` are allowed, and whether the reply is complete after them.
    fn check(constraint: &Constraint, text: &str, expected: (usize, bool)) {
        let vocabulary = (0..=255u8).map(|byte| TokenText::Bytes(vec![byte]));
        let grammars = Grammars::new(vocabulary.chain([TokenText::Special("<end>".into())]), &[256]).unwrap();
        let mut matcher = grammars.matcher(constraint).unwrap();
        let (mut taken, mut complete) = (0, false);
        for byte in text.bytes() {
            let allowed = matcher.allowed().unwrap();
            if complete || allowed[usize::from(byte) / 32] >> (byte % 32) & 1 == 0 {
                break;
            }
            complete = matcher.accept(byte.into()).unwrap().unwrap();
            taken += 1;
        }
        assert_eq!((taken, complete), expected, "{text:?}");
    }

    #[test]
    fn replies_end_with_what_is_read_from_them() {
        let templates = Templates::general();
        let verdict = templates.verdict_constraint();
        check(&verdict, "Well.\nFinal Judgement: Yes, and more", (26, true));
        check(&verdict, "Final Judgement: maybe", (17, false));
        check(&verdict, "no verdict", (10, false));
        let free = templates.refinement_constraint(None).unwrap();
        check(&free, "Fix. [[start]]\na [[b]]\n[[end]] more", (30, true));
        let schema = serde_json::json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]});
        let json = templates.refinement_constraint(Some(&Constraint::JsonSchema(schema))).unwrap();
        check(&json, "Fix. [[start]]\n{\"a\": 1}\n[[end]] more", (31, true));
        check(&json, "[[start]]\n{\"a\": x", (16, false));
        let digits = templates.refinement_constraint(Some(&Constraint::Regex("[0-9]+/".into()))).unwrap();
        check(&digits, "[[start]]\n12/\n[[end]]", (21, true));
        assert_eq!(templates.refinement_constraint(Some(&verdict)), None);
    }
}
