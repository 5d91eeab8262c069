//! Prompts of one's own: with the checks that the file names, or with those that are found in the prompt's words.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Checks;
use crate::verify::Check;
use crate::verify::data::{DataError, Prompt, read};

/// Marks a prompt without any instruction that a rule can check.
const NOTHING_TO_CHECK: &str = "no instruction that a rule can check";

/// A line of the file. In addition to `prompt` it may have a `key`, and either `checks` or IFEval's two lists.
#[derive(Deserialize)]
struct Line {
    key: Option<Value>,
    prompt: String,
    checks: Option<Vec<Spec>>,
    instruction_id_list: Option<Vec<String>>,
    kwargs: Option<Vec<Map<String, Value>>>,
}

#[derive(Deserialize)]
struct Spec {
    id: String,
    #[serde(default)]
    kwargs: Map<String, Value>,
}

/// Reads `prompt` of every line, and its checks. A line without checks has those that its words state; a prompt in which none is found
/// counts in tokens and seconds but not in scores.
///
/// # Errors
/// Names the file and the line of broken JSON, a missing prompt, or an unknown or unusable check.
pub fn read_own_prompts(path: &Path) -> Result<Vec<Prompt>, DataError> {
    let lines = read::<Line>(path)?;
    let prompt = |(index, line): (usize, &Line)| line.to_prompt(index).map_err(|message| lines.error(index, message));
    lines.items.iter().enumerate().map(prompt).collect()
}

/// The instruction id of a check, and its arguments.
type Rule = (String, Map<String, Value>);

impl Line {
    fn to_prompt(&self, index: usize) -> Result<Prompt, String> {
        let specs = self.specs()?;
        let key = self.key.clone().unwrap_or_else(|| (index + 1).into());
        let mut prompt = Prompt { key, prompt: self.prompt.clone(), checks: Vec::new(), unchecked: Vec::new() };
        prompt.checks = match specs {
            Some(specs) => {
                let check = |(id, kwargs): (String, _)| Check::new(&id, kwargs).map_err(|error| error.message);
                specs.into_iter().map(check).collect::<Result<_, _>>()?
            }
            None => Checks::Auto.rules_for(&prompt),
        };
        if prompt.checks.is_empty() {
            prompt.unchecked.push(NOTHING_TO_CHECK.into());
        }
        Ok(prompt)
    }

    /// The checks that the line names; `None` if it names none.
    fn specs(&self) -> Result<Option<Vec<Rule>>, String> {
        match (&self.checks, &self.instruction_id_list, &self.kwargs) {
            (Some(checks), None, None) => {
                Ok(Some(checks.iter().map(|spec| (spec.id.clone(), spec.kwargs.clone())).collect()))
            }
            (None, Some(ids), Some(kwargs)) if ids.len() == kwargs.len() => {
                Ok(Some(ids.iter().cloned().zip(kwargs.iter().cloned()).collect()))
            }
            (None, None, None) => Ok(None),
            (Some(_), ..) => Err("give either `checks` or `instruction_id_list` with `kwargs`, not both".into()),
            _ => Err("`instruction_id_list` and `kwargs` must be equally long".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn read(line: &str) -> Result<Prompt, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(line.as_bytes()).unwrap();
        read_own_prompts(file.path()).map(|mut prompts| prompts.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn checks_are_named_or_found_or_there_are_none() {
        for (line, key, checks) in [
            (r#"{"prompt": "Say it. Do not use any commas."}"#, Value::from(1), vec!["punctuation:no_comma"]),
            (r#"{"key": "a", "prompt": "Say it."}"#, Value::from("a"), vec![]),
            (r#"{"prompt": "Say it. Do not use any commas.", "checks": []}"#, Value::from(1), vec![]),
            (
                r#"{"prompt": "Say it.", "checks": [{"id": "startend:quotation"}]}"#,
                Value::from(1),
                vec!["startend:quotation"],
            ),
            (
                r#"{"prompt": "Say it.", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}"#,
                Value::from(1),
                vec!["startend:quotation"],
            ),
        ] {
            let prompt = read(line).unwrap();
            let ids: Vec<&str> = prompt.checks.iter().map(|check| check.id.as_str()).collect();
            assert_eq!((prompt.key, &ids), (key, &checks), "{line}");
            assert_eq!(prompt.unchecked.is_empty(), !checks.is_empty(), "{line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (line, expected) in [
            (r#"{"text": "x"}"#, ":1: missing field `prompt`"),
            (r#"{"prompt": "x", "checks": [{"id": "no:such"}]}"#, ":1: unknown instruction id `no:such`"),
            (r#"{"prompt": "x", "checks": [], "kwargs": []}"#, "not both"),
            (r#"{"prompt": "x", "instruction_id_list": ["a:b"], "kwargs": []}"#, "equally long"),
            (r#"{"prompt": "x", "kwargs": []}"#, "equally long"),
        ] {
            let message = read(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        }
    }
}
