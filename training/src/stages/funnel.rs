//! Where the pairs of a round are lost, from prompts to training data.

use std::collections::BTreeMap;
use std::fmt;

use super::manifest::Record;

/// The counts of a round's stages in the order in which they shrink.
#[derive(Clone, Debug, PartialEq)]
pub struct Funnel {
    /// The steps that were counted.
    pub steps: Vec<Counted>,
}

/// A step with its count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// The stage that counts it.
    pub stage: &'static str,
    /// What is counted.
    pub name: &'static str,
    /// How many there are.
    pub count: u64,
}

/// A step of the funnel: stage, count and what to do if nothing is left.
type Step = (&'static str, &'static str, &'static str);

const STEPS: [Step; 13] = [
    ("sample", "prompts", ""),
    ("sample", "drafts", ""),
    (
        "sample",
        "judged",
        "no draft could be judged: the refiner does not follow its template; train it first, or let rules judge",
    ),
    (
        "sample",
        "prompts with a failing draft",
        "no draft is refused: the prompts are too easy, or the judge accepts everything; give harder prompts, more drafts \
         (iterate.sample.per_prompt), or let rules judge",
    ),
    ("search", "trees", ""),
    (
        "search",
        "nodes",
        "no refinement could be read and judged: train the refiner first, or raise iterate.search.refine_tokens",
    ),
    (
        "search",
        "accepted",
        "no refinement is accepted: raise iterate.search.budget, or train the refiner, or use independent pairs \
         (iterate.build.pairing = \"independent\")",
    ),
    ("build", "pairs found", "no search or prompt has both a refused and an accepted response"),
    ("build", "pairs agreed on", "the votes never agree: set iterate.build.unanimous = false"),
    (
        "build",
        "pairs above the floor",
        "every chosen response is much shorter or longer than its draft, or repeats itself: look at trees.jsonl, let the model judge \
         as well (iterate.search.judge = \"both\"), or change iterate.build.floor",
    ),
    ("build", "pairs balanced", "lengths drift in one direction: raise iterate.build.length_drift"),
    ("build", "pairs", "iterate.build.pairs is 0"),
    ("build", "turns", "no critique or refinement is agreed on: lower iterate.build.agreement"),
];

impl Funnel {
    /// Collects the counts of a round's stages.
    #[must_use]
    pub fn of(records: &[&Record]) -> Self {
        let stage = |record: &&Record| (record.stage.clone(), record.counts.clone());
        Self::from_counts(&records.iter().map(stage).collect())
    }

    /// Collects the counts by stage.
    #[must_use]
    pub fn from_counts(counts: &BTreeMap<String, BTreeMap<String, u64>>) -> Self {
        let counted = |&(stage, name, _): &Step| Some(Counted { stage, name, count: *counts.get(stage)?.get(name)? });
        Self { steps: STEPS.iter().filter_map(counted).collect() }
    }

    /// What to do about the first step at which nothing is left.
    #[must_use]
    pub fn advice(&self) -> Option<&'static str> {
        // Independent pairs need no refinement: what is missing on the way matters only if nothing arrives.
        let arrived = self.steps.iter().any(|step| step.name == "pairs" && step.count > 0);
        let missing = |step: &&Counted| step.count == 0 && (!arrived || step.name == "turns");
        let empty = self.steps.iter().find(missing)?;
        let advice = STEPS.iter().find(|step| (step.0, step.1) == (empty.stage, empty.name)).map(|step| step.2);
        advice.filter(|advice| !advice.is_empty())
    }
}

impl fmt::Display for Funnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Counted { name, count, .. } in &self.steps {
            writeln!(f, "  {name:30} {count:>8}")?;
        }
        match self.advice() {
            Some(advice) => write!(f, "  what to change: {advice}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_at_which_nothing_is_left_is_explained() {
        let record = |stage: &str, counts: &[(&str, u64)]| Record {
            stage: stage.into(),
            counts: counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            ..Record::default()
        };
        let sample =
            record("sample", &[("prompts", 6), ("drafts", 12), ("judged", 27), ("prompts with a failing draft", 2)]);
        let search = record("search", &[("trees", 2), ("nodes", 0), ("accepted", 0)]);
        let build = record("build", &[("pairs found", 0), ("pairs", 0), ("turns", 2)]);
        let funnel = Funnel::of(&[&sample, &search, &build]);
        let text = funnel.to_string();
        let order: Vec<usize> = ["prompts ", "drafts", "failing draft", "trees", "nodes", "pairs found"]
            .map(|name| text.find(name).unwrap())
            .into();
        assert!(order.is_sorted(), "{text}");
        assert!(text.contains("no refinement could be read and judged"), "{text}");
        assert_eq!(Funnel::of(&[&sample]).advice(), None);
    }
}
