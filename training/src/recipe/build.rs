//! The `[iterate.build]` section of a recipe: which results become training data.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The kind of pairs that the actor learns from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pairing {
    /// The accepted refinement is preferred to the draft it was refined from.
    #[default]
    Refined,
    /// Another draft that was accepted is preferred to the failing draft. This is the ablation without refinement.
    Independent,
}

/// Which results become training data, and the maximum amount of each kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Build {
    /// Which pairs are made.
    pub pairing: Pairing,
    /// Maximum number of pairs.
    pub pairs: Option<usize>,
    /// Whether only pairs are used whose chosen response every vote accepts.
    pub unanimous: bool,
    /// Allowed mean difference in characters between chosen and rejected responses. Pairs with the largest differences of the dominant sign
    /// are dropped until the mean is within it. `None` keeps all pairs.
    pub length_drift: Option<f64>,
    /// Maximum number of refinement turns that led to an accepted node.
    pub refinements: usize,
    /// Maximum number of critiques that accept a tree node.
    pub tree_positive: usize,
    /// Maximum number of critiques that reject a tree node.
    pub tree_negative: usize,
    /// Maximum number of critiques that accept a draft.
    pub draft_positive: usize,
    /// Maximum number of critiques that reject a draft.
    pub draft_negative: usize,
    /// Minimum share of the votes that must agree with a critique's verdict.
    pub agreement: f64,
    /// The quality below which a chosen response is not learned, whatever its judge says.
    pub floor: Floor,
    /// Minimum number of pairs of a round, and of turns if the refiner is trained. A round with fewer ends the run with its counts; 0 lets it
    /// continue.
    pub least: usize,
}

/// The quality that a chosen response must have. Rules alone can be satisfied by useless texts, such as a lone placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Floor {
    /// Minimum length as a share of the rejected response's. It does not count where a rule limits the length.
    pub shortest: f64,
    /// Maximum length as a multiple of the rejected response's. It does not count where a rule asks for a length.
    pub longest: f64,
    /// Maximum share of runs of four words that were there before in the response.
    pub repetition: f64,
}

impl Default for Floor {
    fn default() -> Self {
        Self { shortest: 0.4, longest: 3.0, repetition: 0.3 }
    }
}

impl Default for Build {
    fn default() -> Self {
        Self {
            pairing: Pairing::Refined,
            pairs: None,
            unanimous: false,
            length_drift: None,
            refinements: 4000,
            tree_positive: 1500,
            tree_negative: 1000,
            draft_positive: 2500,
            draft_negative: 500,
            agreement: 0.5,
            floor: Floor::default(),
            least: 1,
        }
    }
}

impl Floor {
    /// Whether a chosen response is good enough to be learned. `arguments` are those of the rules that the response follows.
    #[must_use]
    pub fn holds(&self, arguments: &[Map<String, Value>], chosen: &str, rejected: &str) -> bool {
        let asks = |relation: &str| {
            // Rules on single words and letters say nothing about the length.
            let lengths =
                arguments.iter().filter(|kwargs| !kwargs.contains_key("keyword") && !kwargs.contains_key("letter"));
            lengths.flat_map(Map::values).any(|value| value.as_str() == Some(relation))
        };
        let length = |text: &str| text.chars().count().max(1) as f64;
        let ratio = length(chosen) / length(rejected);
        (ratio >= self.shortest || asks("less than"))
            && (ratio <= self.longest || asks("at least"))
            && repetition(chosen) <= self.repetition.max(repetition(rejected))
    }
}

/// The share of runs of four words that were there before.
fn repetition(text: &str) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    let runs = words.len().saturating_sub(3);
    let distinct = words.windows(4).collect::<HashSet<_>>().len();
    if runs == 0 { 0.0 } else { 1.0 - distinct as f64 / runs as f64 }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_chosen_response_must_have_length_and_variety_unless_rules_ask_otherwise() {
        let draft =
            "The harbour was quiet in the morning and the boats lay still beside the old stone wall of the town.";
        let more =
            "Later a small ferry came in, and people with baskets and bags walked along the pier to the market hall.";
        let long = format!("{draft} {more}");
        let kwargs = |value: Value| vec![value.as_object().unwrap().clone()];
        let none: Vec<Map<String, Value>> = Vec::new();
        let table = [
            ("[message]\n****[start]", none.clone(), false),
            ("The harbour was quiet and the boats lay still beside the old wall.", none.clone(), true),
            ("It was quiet.", kwargs(json!({ "num_words": 9, "relation": "less than" })), true),
            ("It was quiet.", kwargs(json!({ "keyword": "a", "frequency": 9, "relation": "less than" })), false),
            ("the boats lay still the boats lay still the boats lay still the boats lay still", none.clone(), false),
            (long.as_str(), none.clone(), true),
        ];
        for (chosen, arguments, expected) in table {
            assert_eq!(Floor::default().holds(&arguments, chosen, draft), expected, "{chosen}");
        }
        let longer = [long.as_str(); 2].join(" and then once more, differently told: ");
        assert!(!Floor { repetition: 1.0, ..Floor::default() }.holds(&none, &longer, draft));
        let at_least = kwargs(json!({ "num_sentences": 9, "relation": "at least" }));
        assert!(Floor { repetition: 1.0, ..Floor::default() }.holds(&at_least, &longer, draft));
        assert_eq!(repetition("too short"), 0.0);
    }
}
