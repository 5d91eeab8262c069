//! Reads files in the JSONL format of IFEval and IFBench: prompts with their checks, and responses, which are joined by their prompts.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::text::{trim, words};
use super::{Check, UNCHECKED};

/// One line of a prompt file.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// The key as written in the file: an integer in IFEval's files, a string in IFBench's.
    pub key: Value,
    /// What the model was asked.
    pub prompt: String,
    /// The checks that its response must pass.
    pub checks: Vec<Check>,
    /// The ids of known instructions that cannot be checked. If there are any, it is unknown whether a response follows the whole prompt.
    pub unchecked: Vec<String>,
}

/// One line of a response file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Response {
    /// What the model was asked. Responses are joined with [`Prompt::prompt`] by this text.
    pub prompt: String,
    /// The model's answer.
    pub response: String,
}

/// A file that cannot be used. Lines count from 1.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file cannot be read at all.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file that cannot be read.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A line of the file is invalid.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file with the invalid line.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// The problem with the line.
        message: String,
    },
    /// The file has no lines.
    #[error("{}: no lines", path.display())]
    Empty {
        /// The file without prompts.
        path: PathBuf,
    },
}

/// The parsed lines of a file, without blank lines.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines<T> {
    path: PathBuf,
    numbers: Vec<usize>,
    /// The parsed lines, in order.
    pub items: Vec<T>,
}

impl<T> Lines<T> {
    /// Makes an error about the item at `index`.
    pub(crate) fn error(&self, index: usize, message: impl Into<String>) -> DataError {
        DataError::Line { path: self.path.clone(), line: self.numbers[index], message: message.into() }
    }
}

/// Reads `key`, `prompt`, `instruction_id_list` and `kwargs` of every line. [`UNCHECKED`] is the only accepted id without a check.
///
/// # Errors
/// Names the file and the line of broken JSON, a missing field, an unknown instruction id, or unusable arguments.
pub fn read_prompts(path: &Path) -> Result<Lines<Prompt>, DataError> {
    let lines: Lines<WirePrompt> = read(path)?;
    let mut items = Vec::with_capacity(lines.items.len());
    let mut first_with: HashMap<String, usize> = HashMap::new();
    for (index, wire) in lines.items.iter().enumerate() {
        let prompt = wire.to_prompt().map_err(|message| lines.error(index, message))?;
        if let Some(first) = first_with.insert(trim(&prompt.prompt).to_string(), index) {
            return Err(lines.error(index, format!("the same prompt as in line {}", lines.numbers[first])));
        }
        items.push(prompt);
    }
    Ok(Lines { path: lines.path, numbers: lines.numbers, items })
}

/// Reads `prompt` and `response` of every line.
///
/// # Errors
/// Names the file and the line of broken JSON or of a missing field.
pub fn read_responses(path: &Path) -> Result<Lines<Response>, DataError> {
    read(path)
}

/// The responses in the prompts' order.
#[derive(Debug)]
pub struct Joined<'a> {
    /// One response for each prompt; `None` for a prompt without one.
    pub responses: Vec<Option<&'a str>>,
    /// Positions, from 0, of prompts whose wording differs slightly between the two files.
    pub reworded: Vec<usize>,
}

/// Joins by the prompt's text without surrounding spaces. If both files have the same number of lines, a response with a slightly different
/// prompt is joined by its position, because IFEval has changed a prompt after responses to it were published.
///
/// # Errors
/// Names the file and the line of a response without its prompt, or of a second response to one prompt.
pub fn join<'a>(prompts: &Lines<Prompt>, responses: &'a Lines<Response>) -> Result<Joined<'a>, DataError> {
    let positions: HashMap<&str, usize> =
        prompts.items.iter().enumerate().map(|(position, prompt)| (trim(&prompt.prompt), position)).collect();
    let same_length = prompts.items.len() == responses.items.len();
    let is_reworded = |index: usize, text: &str| same_length && is_similar(&prompts.items[index].prompt, text);

    let mut joined: Vec<Option<usize>> = vec![None; prompts.items.len()];
    let mut reworded = Vec::new();
    for (index, response) in responses.items.iter().enumerate() {
        let position = match positions.get(trim(&response.prompt)) {
            Some(&position) => position,
            None if is_reworded(index, &response.prompt) => {
                reworded.push(index);
                index
            }
            None => {
                let message = format!("no such prompt in {}: {}", prompts.path.display(), beginning(&response.prompt));
                return Err(responses.error(index, message));
            }
        };
        if let Some(first) = joined[position].replace(index) {
            let message = format!("a second response to the prompt of line {}", responses.numbers[first]);
            return Err(responses.error(index, message));
        }
    }
    let text = |index: usize| responses.items[index].response.as_str();
    Ok(Joined { responses: joined.into_iter().map(|index| index.map(text)).collect(), reworded })
}

/// Whether at least four fifths of the words of both texts together occur in each of them.
fn is_similar(a: &str, b: &str) -> bool {
    let (a, b): (HashSet<&str>, HashSet<&str>) = (words(a).collect(), words(b).collect());
    5 * a.intersection(&b).count() >= 4 * a.union(&b).count()
}

fn beginning(text: &str) -> String {
    let start: String = text.chars().take(60).collect();
    format!("{start:?}")
}

#[derive(Deserialize)]
struct WirePrompt {
    key: Value,
    prompt: String,
    instruction_id_list: Vec<String>,
    kwargs: Vec<Map<String, Value>>,
}

impl WirePrompt {
    fn to_prompt(&self) -> Result<Prompt, String> {
        let (ids, kwargs) = (&self.instruction_id_list, &self.kwargs);
        if !(self.key.is_number() || self.key.is_string()) {
            return Err(format!("`key` must be a number or a string, got {}", self.key));
        }
        if ids.is_empty() || ids.len() != kwargs.len() {
            let (ids, kwargs) = (ids.len(), kwargs.len());
            return Err(format!(
                "`instruction_id_list` and `kwargs` must be equally long and not empty, got {ids} and {kwargs}"
            ));
        }
        let mut prompt =
            Prompt { key: self.key.clone(), prompt: self.prompt.clone(), checks: Vec::new(), unchecked: Vec::new() };
        for (id, kwargs) in ids.iter().zip(kwargs) {
            if id == UNCHECKED {
                prompt.unchecked.push(id.clone());
            } else {
                prompt.checks.push(Check::new(id, kwargs.clone()).map_err(|error| error.message)?);
            }
        }
        Ok(prompt)
    }
}

/// Reads the lines of a JSONL file.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Lines<T>, DataError> {
    let bytes = std::fs::read(path).map_err(|source| DataError::Read { path: path.to_path_buf(), source })?;
    let mut lines = Lines { path: path.to_path_buf(), numbers: Vec::new(), items: Vec::new() };
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let item = serde_json::from_slice(line).map_err(|error| DataError::Line {
            path: path.to_path_buf(),
            line: index + 1,
            message: message_of(&error),
        })?;
        lines.numbers.push(index + 1);
        lines.items.push(item);
    }
    if lines.items.is_empty() {
        return Err(DataError::Empty { path: path.to_path_buf() });
    }
    Ok(lines)
}

/// The parser's message without its line number, which is always 1 because each line is parsed alone.
fn message_of(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const FIRST: &str = r#"{"key": 1, "prompt": "Say one thing or two about the sea, and say it well.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": null}]}"#;
    const SECOND: &str =
        r#"{"key": "b", "prompt": "Say two", "instruction_id_list": ["startend:quotation"], "kwargs": [{}]}"#;

    fn file(lines: &[&str]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.join("\n").as_bytes()).unwrap();
        file
    }

    /// The error of reading and joining, without the name of the folder.
    fn failure(prompts: &[&str], responses: &[&str]) -> String {
        let (prompts, responses) = (file(prompts), file(responses));
        let attempt = || -> Result<(), DataError> {
            join(&read_prompts(prompts.path())?, &read_responses(responses.path())?)?;
            Ok(())
        };
        let message = attempt().unwrap_err().to_string();
        let message = message.replace(prompts.path().to_str().unwrap(), "P");
        message.replace(responses.path().to_str().unwrap(), "R")
    }

    #[test]
    fn responses_join_by_text_and_reworded_ones_by_position() {
        let prompts = file(&[FIRST, "", SECOND]);
        let read = read_prompts(prompts.path()).unwrap();
        let answers = file(&[
            r#"{"prompt": "Say two", "response": "2"}"#,
            r#"{"prompt": "Say one thing or two about the sea, and say it well.", "response": "1"}"#,
        ]);
        let answers = read_responses(answers.path()).unwrap();
        let joined = join(&read, &answers).unwrap();
        assert_eq!((joined.responses, joined.reworded), (vec![Some("1"), Some("2")], vec![]));

        let answers = file(&[
            r#"{"prompt": "Say one thing or two about the lake, and say it well.", "response": "1"}"#,
            r#"{"prompt": "Say two", "response": "2"}"#,
        ]);
        let answers = read_responses(answers.path()).unwrap();
        let joined = join(&read, &answers).unwrap();
        assert_eq!((joined.responses, joined.reworded), (vec![Some("1"), Some("2")], vec![0]));
    }

    #[test]
    fn prompts_without_a_response_stay_open() {
        let prompts = file(&[FIRST, SECOND]);
        let answers = file(&[r#"{"prompt": "Say two\n", "response": "2", "key": "b"}"#]);
        let (prompts, answers) = (read_prompts(prompts.path()).unwrap(), read_responses(answers.path()).unwrap());
        assert_eq!(join(&prompts, &answers).unwrap().responses, [None, Some("2")]);
    }

    #[test]
    fn both_forms_of_ifbench_are_read() {
        let published = r#"{"key": "0", "prompt": "p", "instruction_id_list": ["count:numbers", "words:start_verb"], "kwargs": [{"N": 2.0, "word": null}, {"N": null}]}"#;
        let plain = r#"{"key": 0, "prompt": "p", "instruction_id_list": ["count:numbers", "words:start_verb"], "kwargs": [{"N": 2}, {}]}"#;
        for line in [published, plain] {
            let file = file(&[line]);
            let prompt = &read_prompts(file.path()).unwrap().items[0];
            assert!(prompt.checks[0].strict("1 and 2") && !prompt.checks[0].strict("1"));
            assert_eq!((prompt.checks.len(), &prompt.unchecked[..]), (1, &["words:start_verb".to_string()][..]));
        }
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let one = r#"{"prompt": "Say one thing or two about the sea, and say it well.", "response": "1"}"#;
        let two = r#"{"prompt": "Say two", "response": "2"}"#;
        let unknown_id = r#"{"key": 3, "prompt": "x", "instruction_id_list": ["keywords:nope"], "kwargs": [{}]}"#;
        let bad_kwargs =
            r#"{"key": 3, "prompt": "x", "instruction_id_list": ["keywords:existence"], "kwargs": [{"keywords": []}]}"#;
        let uneven = r#"{"key": 3, "prompt": "x", "instruction_id_list": ["startend:quotation"], "kwargs": []}"#;
        for (prompts, responses, expected) in [
            (vec![FIRST, SECOND, unknown_id], vec![one], "P:3: unknown instruction id `keywords:nope`, known: "),
            (vec![FIRST, "", bad_kwargs], vec![one], "P:3: keywords:existence: `keywords` must be "),
            (
                vec![uneven],
                vec![one],
                "P:1: `instruction_id_list` and `kwargs` must be equally long and not empty, got 1 and 0",
            ),
            (vec![FIRST, "{"], vec![one], "P:2: EOF while parsing an object at column 1"),
            (vec![r#"{"key": 1}"#], vec![one], "P:1: missing field `prompt`"),
            (vec![FIRST, FIRST], vec![one], "P:2: the same prompt as in line 1"),
            (vec![FIRST], vec![r#"{"prompt": "Say two"}"#], "R:1: missing field `response`"),
            (vec![FIRST], vec![one, "nonsense"], "R:2: expected ident at column 2"),
            (vec![FIRST], vec![""], "R: no lines"),
            (vec![FIRST], vec![two], "R:1: no such prompt in P: \"Say two\""),
            (vec![FIRST, SECOND], vec![one, two, one], "R:3: a second response to the prompt of line 1"),
        ] {
            let message = failure(&prompts, &responses);
            assert!(message.starts_with(expected), "{message}");
        }
        let missing = read_prompts(Path::new("no/such/file.jsonl")).unwrap_err().to_string();
        assert!(missing.starts_with("no/such/file.jsonl: "), "{missing}");
    }
}
