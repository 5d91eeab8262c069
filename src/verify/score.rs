//! The four scores of IFEval and IFBench over many responses, in total and by instruction type.
//!
//! An instruction that cannot be checked has no verdict and is in no score. Its prompt is excluded from both scores by prompt, whatever the
//! verdicts on its other instructions; those count in the scores by instruction.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;

use super::data::Prompt;
use super::kwargs::plural;

/// The verdicts on one response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdicts {
    /// The prompt's key.
    pub key: Value,
    /// The ids of the checked instructions.
    #[serde(skip)]
    pub ids: Vec<String>,
    /// The strict verdict of each checked instruction.
    pub strict: Vec<bool>,
    /// The loose verdict of each checked instruction.
    pub loose: Vec<bool>,
    /// The ids of the instructions that cannot be checked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<String>,
}

impl Verdicts {
    /// Checks one response.
    pub fn check(prompt: &Prompt, response: &str) -> Self {
        let strict: Vec<bool> = prompt.checks.iter().map(|check| check.strict(response)).collect();
        let loose = prompt.checks.iter().zip(&strict).map(|(check, strict)| *strict || check.loose(response)).collect();
        Self {
            key: prompt.key.clone(),
            ids: prompt.checks.iter().map(|check| check.id.clone()).collect(),
            strict,
            loose,
            unchecked: prompt.unchecked.clone(),
        }
    }
}

/// A number of correct items among all items. In JSON it is the fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// The number of correct items.
    pub right: usize,
    /// The number of all items.
    pub all: usize,
}

impl Share {
    /// The share from 0 to 1, which is 0 if there are no items.
    pub fn fraction(self) -> f64 {
        if self.all == 0 { 0.0 } else { self.right as f64 / self.all as f64 }
    }

    fn add(&mut self, is_right: bool) {
        self.right += usize::from(is_right);
        self.all += 1;
    }
}

impl Serialize for Share {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.fraction())
    }
}

/// The two scores of one instruction id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TypeScore {
    /// The number of instructions.
    pub count: usize,
    /// The instructions that pass the strict check.
    pub strict: Share,
    /// The instructions that pass the loose check.
    pub loose: Share,
}

/// The scores of a whole file. Its JSON form is the output of `spar verify --json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Prompts whose instructions all pass the strict check.
    pub prompt_strict: Share,
    /// Prompts whose instructions all pass the loose check.
    pub prompt_loose: Share,
    /// Instructions that pass the strict check.
    pub instruction_strict: Share,
    /// Instructions that pass the loose check.
    pub instruction_loose: Share,
    /// Scores by instruction id.
    pub per_type: BTreeMap<String, TypeScore>,
    /// The number of instructions that were not checked, by id.
    pub unchecked: BTreeMap<String, usize>,
    /// The keys of the prompts without a response, which are in no score.
    pub missing: Vec<Value>,
    /// Every verdict, in the prompts' order.
    pub results: Vec<Verdicts>,
}

impl Report {
    /// Adds up the verdicts. `missing` are the keys of the prompts without a response.
    pub fn new(results: Vec<Verdicts>, missing: Vec<Value>) -> Self {
        let mut report = Self {
            prompt_strict: Share::default(),
            prompt_loose: Share::default(),
            instruction_strict: Share::default(),
            instruction_loose: Share::default(),
            per_type: BTreeMap::new(),
            unchecked: BTreeMap::new(),
            missing,
            results: Vec::new(),
        };
        for result in &results {
            if result.unchecked.is_empty() {
                report.prompt_strict.add(result.strict.iter().all(|right| *right));
                report.prompt_loose.add(result.loose.iter().all(|right| *right));
            }
            for id in &result.unchecked {
                *report.unchecked.entry(id.clone()).or_default() += 1;
            }
            for ((id, strict), loose) in result.ids.iter().zip(&result.strict).zip(&result.loose) {
                report.instruction_strict.add(*strict);
                report.instruction_loose.add(*loose);
                let score = report.per_type.entry(id.clone()).or_default();
                score.count += 1;
                score.strict.add(*strict);
                score.loose.add(*loose);
            }
        }
        Self { results, ..report }
    }

    /// Describes what is not in the scores, and why.
    fn left_out(&self) -> String {
        const NAMED: usize = 20;
        let mut text = String::new();
        if !self.missing.is_empty() {
            let (missing, all) = (self.missing.len(), self.missing.len() + self.results.len());
            let mut keys: Vec<String> = self.missing.iter().take(NAMED).map(key_of).collect();
            if missing > NAMED {
                keys.push(format!("and {} more", missing - NAMED));
            }
            text += &format!("without a response, in no score: {missing} of {all} prompts: {}\n", keys.join(", "));
        }
        if !self.unchecked.is_empty() {
            let prompts = self.results.iter().filter(|result| !result.unchecked.is_empty()).count();
            let ids: Vec<String> = self.unchecked.iter().map(|(id, count)| format!("{count} {id}")).collect();
            text += &format!(
                "not checked: {}; not in the scores by prompt: {prompts} prompt{} with them\n",
                ids.join(", "),
                plural(prompts)
            );
        }
        text
    }

    /// The scores by group, which is the part of an id before the colon.
    fn groups(&self) -> BTreeMap<&str, TypeScore> {
        let mut groups: BTreeMap<&str, TypeScore> = BTreeMap::new();
        for (id, score) in &self.per_type {
            let group = groups.entry(id.split(':').next().unwrap_or(id)).or_default();
            group.count += score.count;
            for (sum, part) in [(&mut group.strict, score.strict), (&mut group.loose, score.loose)] {
                sum.right += part.right;
                sum.all += part.all;
            }
        }
        groups
    }
}

/// A table for human readers.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, strict: Share, loose: Share| {
            writeln!(f, "{name:<48} {:>16} {:>16}", cell(strict), cell(loose))
        };
        writeln!(f, "{:<48} {:>16} {:>16}", "", "strict", "loose")?;
        row(f, "prompts", self.prompt_strict, self.prompt_loose)?;
        row(f, "instructions", self.instruction_strict, self.instruction_loose)?;
        writeln!(f, "{}", self.left_out())?;
        for (group, total) in self.groups() {
            row(f, group, total.strict, total.loose)?;
            for (id, score) in self.per_type.iter().filter(|(id, _)| id.split(':').next() == Some(group)) {
                row(f, &format!("  {id}"), score.strict, score.loose)?;
            }
        }
        Ok(())
    }
}

/// The key without quotation marks.
fn key_of(key: &Value) -> String {
    key.as_str().map_or_else(|| key.to_string(), str::to_owned)
}

fn cell(share: Share) -> String {
    format!("{}/{} {:6.2}%", share.right, share.all, 100.0 * share.fraction())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdicts(key: u64, all: &[(&str, bool, bool)]) -> Verdicts {
        Verdicts {
            key: json!(key),
            ids: all.iter().map(|(id, ..)| id.to_string()).collect(),
            strict: all.iter().map(|(_, strict, _)| *strict).collect(),
            loose: all.iter().map(|(.., loose)| *loose).collect(),
            unchecked: Vec::new(),
        }
    }

    #[test]
    fn a_prompt_counts_when_all_its_instructions_pass() {
        let results = vec![
            verdicts(1, &[("a:x", true, true), ("a:y", false, true)]),
            verdicts(2, &[("a:x", true, true)]),
            verdicts(3, &[("b:z", false, false)]),
            verdicts(4, &[("b:z", true, true)]),
        ];
        let report = Report::new(results, Vec::new());
        assert_eq!(
            serde_json::to_value(&report).unwrap(),
            json!({
                "prompt_strict": 0.5, "prompt_loose": 0.75, "instruction_strict": 0.6, "instruction_loose": 0.8,
                "per_type": {
                    "a:x": {"count": 2, "strict": 1.0, "loose": 1.0},
                    "a:y": {"count": 1, "strict": 0.0, "loose": 1.0},
                    "b:z": {"count": 2, "strict": 0.5, "loose": 0.5},
                },
                "unchecked": {},
                "missing": [],
                "results": [
                    {"key": 1, "strict": [true, false], "loose": [true, true]},
                    {"key": 2, "strict": [true], "loose": [true]},
                    {"key": 3, "strict": [false], "loose": [false]},
                    {"key": 4, "strict": [true], "loose": [true]},
                ],
            })
        );
        let table = report.to_string();
        for line in ["prompts 2/4  50.00% 3/4  75.00%", "a 2/3  66.67% 3/3 100.00%", "b:z 1/2  50.00% 1/2  50.00%"] {
            let has = |row: &str| row.split_whitespace().eq(line.split_whitespace());
            assert!(table.lines().any(has), "{line} in\n{table}");
        }
    }
    #[test]
    fn what_is_not_known_is_in_no_score() {
        let open = Verdicts { unchecked: vec!["b:z".into()], ..verdicts(3, &[("a:x", false, false)]) };
        let report = Report::new(vec![verdicts(1, &[("a:x", true, true)]), open], vec![json!("k7"), json!(8)]);
        assert_eq!((report.prompt_strict, report.instruction_strict), (share(1, 1), share(1, 2)));
        let table = report.to_string();
        for line in [
            "without a response, in no score: 2 of 4 prompts: k7, 8",
            "not checked: 1 b:z; not in the scores by prompt: 1 prompt with them",
        ] {
            assert!(table.contains(line), "{line} in\n{table}");
        }
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["unchecked"], &json["missing"]), (&json!({"b:z": 1}), &json!(["k7", 8])));
        assert_eq!(json["results"][1]["unchecked"], json!(["b:z"]));
    }

    fn share(right: usize, all: usize) -> Share {
        Share { right, all }
    }
}
