//! Measures how well found checks agree with the checks that a file of prompts states.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::{FoundCheck, find_checks};
use crate::chat::Message;
use crate::verify::Check;
use crate::verify::data::Prompt;

/// One requirement of a check. Different phrasings of a requirement are the same item: a check of several words is one item per word, `at
/// least once` means that a word occurs, and a range is two bounds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Item {
    /// The instruction id.
    pub id: String,
    /// The arguments, in a canonical form.
    pub arguments: String,
}

/// The numbers of items of one kind that were stated, found, and both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Checks that the file states.
    pub stated: usize,
    /// Checks that were found in the prompts' words.
    pub found: usize,
    /// Checks that were stated and found.
    pub right: usize,
}

/// A prompt whose found and stated items differ.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// The prompt's key.
    pub key: Value,
    /// Items that were found but not stated, with the words they were found in.
    pub wrong: Vec<(Item, String)>,
    /// Items that were stated but not found.
    pub missed: Vec<Item>,
}

/// The agreement over all prompts of a file.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Agreement {
    /// The number of prompts.
    pub prompts: usize,
    /// The number of prompts whose items all agree.
    pub exact: usize,
    /// Tallies by instruction id.
    pub kinds: BTreeMap<String, Tally>,
    /// The prompts whose items do not all agree.
    pub differences: Vec<Difference>,
}

impl Agreement {
    /// Finds the checks of every prompt, each as a conversation of one turn.
    pub fn measure(prompts: &[Prompt]) -> Self {
        let mut agreement = Self { prompts: prompts.len(), ..Self::default() };
        for prompt in prompts {
            let found = find_checks(&[Message::user(&prompt.prompt)]);
            agreement.add(prompt, &found);
        }
        agreement
    }

    fn add(&mut self, prompt: &Prompt, found: &[FoundCheck]) {
        let stated: BTreeSet<Item> = prompt.checks.iter().flat_map(items).collect();
        let found: BTreeMap<Item, &str> = found
            .iter()
            .flat_map(|found| items(&found.check).into_iter().map(|item| (item, found.words.as_str())))
            .collect();
        for item in &stated {
            let tally = self.kinds.entry(item.id.clone()).or_default();
            tally.stated += 1;
            tally.right += usize::from(found.contains_key(item));
        }
        for item in found.keys() {
            self.kinds.entry(item.id.clone()).or_default().found += 1;
        }
        let wrong: Vec<(Item, String)> = found
            .iter()
            .filter(|(item, _)| !stated.contains(item))
            .map(|(item, words)| (item.clone(), (*words).to_string()))
            .collect();
        let missed: Vec<Item> = stated.into_iter().filter(|item| !found.contains_key(item)).collect();
        if wrong.is_empty() && missed.is_empty() {
            self.exact += 1;
        } else {
            self.differences.push(Difference { key: prompt.key.clone(), wrong, missed });
        }
    }

    /// The sum over all kinds.
    pub fn total(&self) -> Tally {
        self.kinds.values().fold(Tally::default(), |sum, tally| Tally {
            stated: sum.stated + tally.stated,
            found: sum.found + tally.found,
            right: sum.right + tally.right,
        })
    }
}

/// Splits `check` into its requirements.
pub fn items(check: &Check) -> Vec<Item> {
    let item = |id: &str, arguments: String| Item { id: id.to_string(), arguments };
    let word = |key: &str| check.kwargs.get(key).and_then(Value::as_str).map(str::to_lowercase).unwrap_or_default();
    let words = |key: &str| -> Vec<Item> {
        let list = check.kwargs.get(key).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(|word| item(&check.id, word.to_lowercase())).collect()
    };
    let number = |key: &str| check.kwargs.get(key).and_then(as_integer);
    match check.id.as_str() {
        "keywords:existence" => words("keywords"),
        "keywords:forbidden_words" => words("forbidden_words"),
        "keywords:frequency" if word("relation") == "at least" && number("frequency") == Some(1) => {
            vec![item("keywords:existence", word("keyword"))]
        }
        "count:word_count_range" => {
            let bound = |relation: &str, count: i64| {
                item("length_constraints:number_words", format!("num_words {count} relation {relation}"))
            };
            let (least, most) = (number("min_words").unwrap_or_default(), number("max_words").unwrap_or_default());
            vec![bound("at least", least), bound("less than", most + 1)]
        }
        // The rule has five words, which must occur once, twice, three, five and seven times.
        "count:keywords_multiple" => [1, 2, 3, 5, 7]
            .into_iter()
            .zip(1..)
            .flat_map(|(times, nth)| {
                let keyword = word(&format!("keyword{nth}"));
                let bound = |relation: &str, frequency: i64| {
                    item("keywords:frequency", format!("frequency {frequency} keyword {keyword} relation {relation}"))
                };
                let least =
                    if times == 1 { item("keywords:existence", keyword.clone()) } else { bound("at least", times) };
                [least, bound("less than", times + 1)]
            })
            .collect(),
        id => {
            let sorted: BTreeMap<&String, &Value> = check.kwargs.iter().collect();
            let written = sorted.into_iter().map(|(key, value)| format!("{key} {}", canonical(key, value)));
            vec![item(id, written.collect::<Vec<_>>().join(" "))]
        }
    }
}

/// The value as an integer. IFBench writes 8 as `8.0`.
fn as_integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().filter(|number| number.fract() == 0.0).map(|number| number as i64))
}

/// The canonical form of an argument. A section splitter keeps its case, all other text is lower-cased.
fn canonical(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) if key == "section_spliter" => text.trim().to_string(),
        Value::String(text) => text.trim().to_lowercase(),
        Value::Number(_) => as_integer(value).map_or_else(|| value.to_string(), |number| number.to_string()),
        other => other.to_string(),
    }
}

/// The share of `part` in `whole`, which is 1 if both are 0.
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
}

impl fmt::Display for Agreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, tally: &Tally| {
            let (precision, recall) = (share(tally.right, tally.found), share(tally.right, tally.stated));
            let missed = tally.stated - tally.right;
            let Tally { stated, found, right } = tally;
            writeln!(f, "{name:<48} {stated:>7} {found:>6} {right:>6} {missed:>7} {precision:>10.3} {recall:>7.3}")
        };
        let head = ["kind", "stated", "found", "right", "missed", "precision", "recall"];
        writeln!(
            f,
            "{:<48} {:>7} {:>6} {:>6} {:>7} {:>10} {:>7}",
            head[0], head[1], head[2], head[3], head[4], head[5], head[6]
        )?;
        for (id, tally) in &self.kinds {
            row(f, id, tally)?;
        }
        row(f, "all", &self.total())?;
        writeln!(f, "{} of {} prompts exactly right ({:.3})", self.exact, self.prompts, share(self.exact, self.prompts))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn prompt(text: &str, checks: &[(&str, Value)]) -> Prompt {
        let line = json!({
            "key": 1, "prompt": text, "instruction_id_list": checks.iter().map(|(id, _)| id).collect::<Vec<_>>(),
            "kwargs": checks.iter().map(|(_, kwargs)| kwargs).collect::<Vec<_>>(),
        });
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), line.to_string()).unwrap();
        crate::verify::data::read_prompts(file.path()).unwrap().items.remove(0)
    }

    #[test]
    fn agreement_counts_what_was_stated_found_and_right() {
        let prompts = [
            prompt(
                "Use the words sea and Blue. No commas.",
                &[("keywords:existence", json!({"keywords": ["blue", "Sea"]})), ("punctuation:no_comma", json!({}))],
            ),
            prompt(
                "Use at least 5 words.",
                &[("length_constraints:number_words", json!({"num_words": 6, "relation": "at least"}))],
            ),
        ];
        let agreement = Agreement::measure(&prompts);
        assert_eq!((agreement.prompts, agreement.exact), (2, 1));
        assert_eq!(agreement.total(), Tally { stated: 4, found: 4, right: 3 });
        assert_eq!(agreement.differences[0].wrong[0].1, "at least 5 words");
        let table = agreement.to_string();
        assert!(
            table.contains("punctuation:no_comma") && table.ends_with("1 of 2 prompts exactly right (0.500)\n"),
            "{table}"
        );
    }

    #[test]
    fn equal_requirements_are_equal_items() {
        let of = |id: &str, kwargs: Value| items(&Check::new(id, kwargs.as_object().unwrap().clone()).unwrap());
        let once = of("keywords:frequency", json!({"keyword": "Sea", "frequency": 1, "relation": "at least"}));
        assert_eq!(once, of("keywords:existence", json!({"keywords": ["sea"]})));
    }
}
