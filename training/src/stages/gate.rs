//! The gate after a round: its actor and its refiner are accepted only if they are not worse on the validation prompts.

use serde::{Deserialize, Serialize};
use spar::eval::stats::Estimate;

use super::scores::{Scores, Summary};
use crate::recipe::iterate::Gate;

/// Scores with the old and with the new model on the same prompts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The score with the old model.
    pub before: f64,
    /// The score with the new model.
    pub after: f64,
    /// The new score minus the old one, by prompt.
    pub difference: Estimate,
}

/// The findings and the decision of the gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Greedy responses of the new actor compared with the old one's; `None` if no actor was trained.
    pub actor: Option<Comparison>,
    /// Whether the new actor is accepted.
    pub actor_accepted: bool,
    /// Answers of the search with the new refiner compared with the old one's, from drafts of the accepted actor.
    pub refiner: Option<Comparison>,
    /// The judge's balanced accuracy with the old and with the new refiner.
    pub judge: Option<(f64, f64)>,
    /// Whether the new refiner is accepted.
    pub refiner_accepted: bool,
    /// Scores of the accepted models on the validation prompts.
    pub scores: Summary,
}

/// Whether a new actor is accepted: its greedy responses must follow their prompts at least as often, within the tolerance.
#[must_use]
pub fn actor(gate: &Gate, before: &Scores, after: &Scores) -> (Comparison, bool) {
    let (greedy, _) = before.compare(after);
    let found =
        Comparison { before: before.summary().greedy.mean, after: after.summary().greedy.mean, difference: greedy };
    (found, !gate.enabled || greedy.mean >= -gate.tolerance)
}

/// Whether a new refiner is accepted: neither the search's answers nor the judge's balanced accuracy may get worse.
#[must_use]
pub fn refiner(gate: &Gate, before: &Scores, after: &Scores) -> (Comparison, (f64, f64), bool) {
    let (_, search) = before.compare(after);
    let (old, new) = (before.summary(), after.summary());
    let found = Comparison { before: old.search.mean, after: new.search.mean, difference: search };
    let holds = search.mean >= -gate.tolerance && new.judge >= old.judge - gate.tolerance;
    (found, (old.judge, new.judge), !gate.enabled || holds)
}

#[cfg(test)]
mod tests {
    use spar::eval::JudgeScore;

    use super::*;

    fn scores(greedy: [f64; 4], search: [f64; 4], right: usize) -> Scores {
        let judge =
            JudgeScore { true_yes: right, false_no: 10 - right, true_no: 8, false_yes: 2, ..JudgeScore::default() };
        Scores { greedy: greedy.into(), search: search.into(), refine_once: vec![1.0], judge, length: 9.0 }
    }

    #[test]
    fn what_is_worse_is_not_accepted() {
        let old = scores([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], 8);
        let gate = Gate::default();
        let cases = [
            (scores([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 0.0], 8), true, true),
            (scores([0.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], 9), true, true),
            (scores([0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], 9), false, false),
            (scores([1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], 7), true, false),
        ];
        for (i, (new, actor_holds, refiner_holds)) in cases.into_iter().enumerate() {
            assert_eq!(actor(&gate, &old, &new).1, actor_holds, "{i}");
            assert_eq!(refiner(&gate, &old, &new).2, refiner_holds, "{i}");
            assert!(actor(&Gate { enabled: false, ..gate.clone() }, &old, &new).1);
        }
        let worse = scores([0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0], 8);
        assert!(actor(&Gate { tolerance: 0.25, ..gate }, &old, &worse).1);
    }
}
