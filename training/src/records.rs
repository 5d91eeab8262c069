//! The lines of the files between stages, and a reader for JSON-lines files from other sources.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use spar::chat::Message;
use spar::search::{Node, Votes};
use spar::verify::Check;
use spar::verify::data::Prompt;

/// How lines that cannot be used are handled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BadLines {
    /// A bad line ends the stage.
    #[default]
    Stop,
    /// A bad line is skipped and counted.
    Skip,
}

/// The usable lines of a file, and the problems of the others.
#[derive(Clone, Debug)]
pub struct Lines<T> {
    /// The usable lines, in order.
    pub items: Vec<T>,
    /// One text `file:line: problem` per skipped line, without the file's directory.
    pub skipped: Vec<String>,
}

/// Reads JSON lines and converts each with `check`. Blank lines are skipped.
///
/// # Errors
/// Fails if the file cannot be read or, unless bad lines are skipped, at the first bad line, with its file, its number and the problem.
pub fn read<T: DeserializeOwned, U>(path: &Path, bad: BadLines, check: impl Fn(T) -> Result<U>) -> Result<Lines<U>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut lines = Lines { items: Vec::new(), skipped: Vec::new() };
    // Some editors begin a file with a byte order mark.
    let text = text.trim_start_matches('\u{feff}');
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let parsed = serde_json::from_str(line)
            .map_err(|error| anyhow::anyhow!("{}", error.to_string().replace(" at line 1 column ", " at column ")));
        match (parsed.and_then(&check), bad) {
            (Ok(item), _) => lines.items.push(item),
            (Err(error), BadLines::Stop) => bail!("{}:{}: {error:#}", path.display(), i + 1),
            (Err(error), BadLines::Skip) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                tracing::warn!("{}:{}: {error:#}; skipped", path.display(), i + 1);
                lines.skipped.push(format!("{name}:{}: {error:#}", i + 1));
            }
        }
    }
    Ok(lines)
}

/// A prompt, with the instructions that a response can be checked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    /// A key that names the prompt.
    #[serde(default)]
    pub key: Value,
    /// The text for the model.
    pub prompt: String,
    /// IFEval's instruction ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instruction_id_list: Vec<String>,
    /// The instructions' arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kwargs: Vec<Map<String, Value>>,
}

impl Asked {
    /// The rules by which a response is checked; empty if there are none.
    ///
    /// # Errors
    /// Names the instruction and the problem.
    pub fn checks(&self) -> Result<Vec<Check>> {
        let (ids, kwargs) = (&self.instruction_id_list, &self.kwargs);
        ensure!(
            ids.len() == kwargs.len(),
            "`instruction_id_list` and `kwargs` must be equally long, got {} and {}",
            ids.len(),
            kwargs.len()
        );
        let made = ids.iter().zip(kwargs).map(|(id, kwargs)| Check::new(id, kwargs.clone()));
        made.collect::<Result<_, _>>().map_err(|error| anyhow::anyhow!("{error}"))
    }

    /// Converts the prompt for an evaluation.
    ///
    /// # Errors
    /// Fails like [`Asked::checks`].
    pub fn to_prompt(&self) -> Result<Prompt> {
        Ok(Prompt { key: self.key.clone(), prompt: self.prompt.clone(), checks: self.checks()?, unchecked: Vec::new() })
    }

    fn checked(self) -> Result<Self> {
        ensure!(!self.prompt.trim().is_empty(), "`prompt` is empty");
        self.checks()?;
        Ok(self)
    }
}

/// Reads a file of prompts.
///
/// # Errors
/// Fails like [`read`], and if no usable line is left.
pub fn read_prompts(path: &Path, bad: BadLines) -> Result<Lines<Asked>> {
    let lines = read(path, bad, Asked::checked)?;
    ensure!(!lines.items.is_empty(), "{}: no prompts", path.display());
    Ok(lines)
}

/// A judged draft.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Draft {
    /// The actor's response.
    pub response: String,
    /// Whether the response was cut off.
    pub cut: bool,
    /// The votes on the response.
    pub votes: Votes,
    /// The share of yes among the valid votes; `None` for a tie.
    pub value: Option<f64>,
    /// Whether the response was accepted.
    pub accepted: bool,
    /// The first critique that agrees with the decision.
    pub critique: String,
    /// Whether the response follows the rules, if there are rules.
    pub right: Option<bool>,
}

/// A line of `samples.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// The prompt that was asked.
    #[serde(flatten)]
    pub asked: Asked,
    /// The drafts of the prompt.
    pub drafts: Vec<Draft>,
}

/// A judged response of a search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeNode {
    /// The node from which it was refined.
    pub parent: Option<usize>,
    /// Refinements since the draft.
    pub depth: usize,
    /// The response's text.
    pub response: String,
    /// What the refiner wrote before the response.
    pub reflection: String,
    /// The first critique that agrees with the decision.
    pub critique: String,
    /// The votes on the response.
    pub votes: Votes,
    /// The share of yes among the valid votes.
    pub value: Option<f64>,
    /// Whether the response was accepted.
    pub accepted: bool,
    /// Whether the response follows the rules, if there are rules.
    pub right: Option<bool>,
}

impl TreeNode {
    /// Converts a node of a search.
    #[must_use]
    pub fn new(node: &Node, right: Option<bool>) -> Self {
        Self {
            parent: node.parent.map(|id| id.0),
            depth: node.depth,
            response: node.response.clone(),
            reflection: node.reflection.clone(),
            critique: node.critique.clone(),
            votes: node.votes,
            value: node.value,
            accepted: node.accepted,
            right,
        }
    }
}

/// A line of `trees.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Searched {
    /// The prompt that was asked.
    #[serde(flatten)]
    pub asked: Asked,
    /// The nodes, starting with the failing draft.
    pub nodes: Vec<TreeNode>,
    /// The index of the answer.
    pub best: usize,
    /// Whether the answer was accepted. The cost of the search is not recorded, since the length of cancelled replies depends on timing.
    pub accepted: bool,
}

/// A line of `dpo.jsonl`: conversational preference data in TRL's format, and the same texts as plain strings for LLaMA-Factory.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairLine {
    /// The conversation before the two replies.
    pub prompt: Vec<Message>,
    /// The better reply.
    pub chosen: Vec<Message>,
    /// The worse reply.
    pub rejected: Vec<Message>,
    /// The last user turn's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instruction: String,
    /// The better reply's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chosen_text: String,
    /// The worse reply's text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rejected_text: String,
}

impl PairLine {
    /// A pair of replies to one prompt.
    #[must_use]
    pub fn new(prompt: &str, chosen: &str, rejected: &str) -> Self {
        Self {
            prompt: vec![Message::user(prompt)],
            chosen: vec![Message::assistant(chosen)],
            rejected: vec![Message::assistant(rejected)],
            instruction: prompt.into(),
            chosen_text: chosen.into(),
            rejected_text: rejected.into(),
        }
    }

    /// # Errors
    /// Describes what is wrong with the pair.
    pub fn check(&self) -> Result<()> {
        ensure!(!self.prompt.is_empty(), "`prompt` has no turns");
        for (name, turns) in [("chosen", &self.chosen), ("rejected", &self.rejected)] {
            let [turn] = turns.as_slice() else { bail!("`{name}` must be one assistant turn, got {}", turns.len()) };
            ensure!(turn.role == spar::chat::Role::Assistant, "`{name}` must be an assistant turn");
            ensure!(!turn.content.trim().is_empty(), "`{name}` is empty");
        }
        ensure!(self.chosen != self.rejected, "`chosen` and `rejected` are the same");
        Ok(())
    }
}

/// A line of `sft.jsonl`: a chat in the format of TRL and LLaMA-Factory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatLine {
    /// The turns of the chat.
    pub messages: Vec<Message>,
    /// The kind of turn that the chat teaches, for counting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::{self, Fields};

    fn file(lines: &[&str]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), lines.join("\n")).unwrap();
        file
    }

    const GOOD: &str = r#"{"prompt": [{"role": "user", "content": "a"}], "chosen": [{"role": "assistant", "content": "b"}], "rejected": [{"role": "assistant", "content": "c"}]}"#;

    #[test]
    fn a_bad_line_is_named_and_skipped_only_where_that_is_asked_for() {
        let replaced = |from: &str, to: &str| GOOD.replace(from, to);
        let cases = [
            ("{".to_owned(), "EOF while parsing an object"),
            (r#"{"prompt": []}"#.to_owned(), "missing field `chosen`"),
            (replaced(r#""content": "b""#, r#""content": " ""#), "`chosen` is empty"),
            (replaced(r#""content": "c""#, r#""content": "b""#), "are the same"),
            (replaced(r#"[{"role": "user", "content": "a"}]"#, "[]"), "`prompt` has no turns"),
        ];
        let check = |fields: Fields| -> Result<PairLine> {
            let line = formats::pair(&fields)?;
            line.check()?;
            Ok(line)
        };
        for (bad, expected) in cases {
            let file = file(&[GOOD, "", &bad]);
            let message = format!("{:#}", read(file.path(), BadLines::Stop, check).unwrap_err());
            assert!(message.contains(":3: ") && message.contains(expected), "{message}");
            let lines = read(file.path(), BadLines::Skip, check).unwrap();
            assert_eq!((lines.items.len(), lines.skipped.len()), (1, 1));
            assert!(lines.skipped[0].contains(":3: ") && lines.skipped[0].contains(expected), "{:?}", lines.skipped);
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        let lines = read_prompts(file(&["\u{feff}{\"prompt\": \"Say hello.\"}"]).path(), BadLines::Stop).unwrap();
        assert_eq!(lines.items[0].prompt, "Say hello.");
    }

    #[test]
    fn prompts_may_have_rules_and_rules_are_checked() {
        let plain = r#"{"prompt": "Say hello."}"#;
        let ruled =
            r#"{"key": 7, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}"#;
        let lines = read_prompts(file(&[plain, ruled]).path(), BadLines::Stop).unwrap();
        assert_eq!(lines.items[1].checks().unwrap().len(), 1);
        let wrong = ruled.replace("no_comma", "no_colon");
        let message = format!("{:#}", read_prompts(file(&[plain, &wrong]).path(), BadLines::Stop).unwrap_err());
        assert!(message.contains(":2: unknown instruction id"), "{message}");
    }
}
