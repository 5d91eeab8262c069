//! A prompt's responses with their truth by rules: the model's own ones, repaired ones and near misses.

use rand::SeedableRng;
use rand::seq::SliceRandom;
use spar::verify::Check;

use super::damage::damage;
use super::repair::repair;
use super::{Draws, Material};
use crate::report::similarity;

/// How a response came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Made {
    /// The model wrote it.
    Own,
    /// It is the right response at this position after an edit that breaks one rule.
    Damaged(usize),
    /// It is the wrong response at this position after edits by rule, which these clauses describe.
    Repaired(usize, Vec<String>),
}

/// A response with the truth about each rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The text of the response.
    pub text: String,
    /// Whether each rule holds strictly, in the order of the prompt's rules.
    pub holds: Vec<bool>,
    /// How it came about.
    pub made: Made,
}

impl Judged {
    fn new(checks: &[Check], text: String, made: Made) -> Self {
        Self { holds: checks.iter().map(|check| check.strict(&text)).collect(), text, made }
    }

    /// Whether every rule holds.
    #[must_use]
    pub fn right(&self) -> bool {
        self.holds.iter().all(|holds| *holds)
    }

    /// Whether the model wrote it.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.made == Made::Own
    }
}

/// A refinement of the wrong response at `draft`, the right response at `target`, and clauses that say what is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refinement {
    /// The position of the wrong response.
    pub draft: usize,
    /// The position of the right response.
    pub target: usize,
    /// What is done, as clauses that follow "I".
    pub notes: Vec<String>,
}

/// A prompt with its rules and responses.
#[derive(Clone, Debug)]
pub struct Case {
    /// The text of the prompt.
    pub prompt: String,
    /// The rules of the prompt.
    pub checks: Vec<Check>,
    /// The responses. Positions in [`Made`] and [`Refinement`] refer to them.
    pub responses: Vec<Judged>,
}

/// A target must have this share of the draft's words, unless a rule asks for fewer. It keeps out answers that follow the rules and say
/// nothing.
const LEAST_LENGTH: f64 = 0.5;
/// The similarity that another response of the model needs to be a refinement rather than a new answer.
const LEAST_SIMILARITY: f64 = 0.25;

impl Case {
    /// Judges the model's `own` responses and adds at most `edits` repaired ones and `edits` near misses. The seed determines all edits.
    #[must_use]
    pub fn new(prompt: &str, checks: Vec<Check>, own: &[String], edits: usize, seed: u64) -> Self {
        let mut draws = Draws::seed_from_u64(seed);
        let mut responses: Vec<Judged> = Vec::new();
        for text in own {
            if !responses.iter().any(|known| known.text == *text) {
                responses.push(Judged::new(&checks, text.clone(), Made::Own));
            }
        }
        let texts: Vec<&str> = own.iter().map(String::as_str).collect();
        let wrong: Vec<usize> = (0..responses.len()).filter(|&i| !responses[i].right()).collect();
        let mut repaired = 0;
        for of in wrong {
            if repaired == edits {
                break;
            }
            if let Some(found) = repair(&checks, &responses[of].text, Material { others: &texts }, &mut draws) {
                responses.push(Judged::new(&checks, found.response, Made::Repaired(of, found.notes)));
                repaired += 1;
            }
        }
        let mut right: Vec<usize> = (0..responses.len()).filter(|&i| responses[i].right()).collect();
        right.shuffle(&mut draws);
        let mut places: Vec<(usize, usize)> =
            right.into_iter().flat_map(|of| (0..checks.len()).map(move |broken| (of, broken))).collect();
        places.shuffle(&mut draws);
        let mut damaged = vec![0_usize; checks.len()];
        for (of, broken) in places {
            // Every rule is broken about as often as any other.
            if damaged.iter().sum::<usize>() == edits || damaged[broken] > edits / checks.len() {
                continue;
            }
            let text = responses[of].text.clone();
            let near = damage(&checks, broken, &text, Material { others: &texts }, &mut draws);
            if let Some(near) = near.filter(|near| responses.iter().all(|known| known.text != *near)) {
                responses.push(Judged::new(&checks, near, Made::Damaged(of)));
                damaged[broken] += 1;
            }
        }
        Self { prompt: prompt.to_owned(), checks, responses }
    }

    /// The nearest good target of each wrong response: the response that was damaged, the repaired one, or another one of the model's own
    /// that is similar.
    #[must_use]
    pub fn refinements(&self) -> Vec<Refinement> {
        let wrong = (0..self.responses.len()).filter(|&i| !self.responses[i].right());
        wrong.filter_map(|draft| self.refinement(draft)).collect()
    }

    fn refinement(&self, draft: usize) -> Option<Refinement> {
        let from = &self.responses[draft];
        let candidate = |(target, to): (usize, &Judged)| {
            let (notes, related) = match (&from.made, &to.made) {
                (Made::Damaged(of), _) if *of == target => (Vec::new(), true),
                (_, Made::Repaired(of, notes)) if *of == draft => (notes.clone(), true),
                (Made::Own, Made::Own) => (Vec::new(), false),
                _ => return None,
            };
            let near = similarity(&from.text, &to.text);
            let good = to.right() && self.says_enough(from, to) && (related || near >= LEAST_SIMILARITY);
            good.then_some((near, Refinement { draft, target, notes }))
        };
        let found = self.responses.iter().enumerate().filter_map(candidate);
        found.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, refinement)| refinement)
    }

    fn says_enough(&self, from: &Judged, to: &Judged) -> bool {
        let words = |text: &str| text.split_whitespace().count() as f64;
        let shortened = self.checks.iter().zip(&from.holds).any(|(check, holds)| {
            !holds && matches!(super::count::bound(check), Some(super::count::Bound::LessThan(_)))
        });
        shortened || words(&to.text) >= LEAST_LENGTH * words(&from.text)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A rule with its arguments.
    pub(crate) fn check(id: &str, kwargs: Value) -> Check {
        let Value::Object(kwargs) = kwargs else { panic!("{kwargs}") };
        Check::new(id, kwargs).unwrap()
    }

    /// A case with right and wrong responses of every origin.
    pub(crate) fn case() -> Case {
        let checks = vec![
            check("punctuation:no_comma", json!({})),
            check("startend:end_checker", json!({"end_phrase": "Good night."})),
        ];
        let own = [
            "The quiet river waits for the old town and its people. Good night.",
            "The quiet river waits, and the old town sleeps. Good night.",
            "The quiet river waits for the old town and its people.",
            "The quiet river waits for the old town and its people.",
        ];
        Case::new("Write about a river.", checks, &own.map(str::to_owned), 3, 7)
    }

    #[test]
    fn responses_are_judged_and_near_misses_break_one_rule() {
        let case = case();
        let own: Vec<_> = case.responses.iter().filter(|response| response.is_own()).collect();
        assert_eq!(own.iter().map(|response| response.right()).collect::<Vec<_>>(), [true, false, false]);
        for response in &case.responses {
            match &response.made {
                Made::Own => {}
                Made::Damaged(of) => {
                    assert!(case.responses[*of].right());
                    assert_eq!(response.holds.iter().filter(|holds| !**holds).count(), 1, "{response:?}");
                }
                Made::Repaired(of, notes) => {
                    assert!(response.right() && !case.responses[*of].right() && !notes.is_empty(), "{response:?}");
                }
            }
        }
        let count = |is: fn(&Made) -> bool| case.responses.iter().filter(|response| is(&response.made)).count();
        assert_eq!(count(|made| matches!(made, Made::Repaired(..))), 2);
        assert_eq!(count(|made| matches!(made, Made::Damaged(_))), 3);
        assert_eq!(case.responses, self::case().responses, "the seed decides");
    }

    #[test]
    fn the_nearest_good_response_is_the_target() {
        let case = case();
        let refinements = case.refinements();
        assert_eq!(refinements.len(), case.responses.iter().filter(|response| !response.right()).count());
        for Refinement { draft, target, .. } in &refinements {
            let (from, to) = (&case.responses[*draft], &case.responses[*target]);
            assert!(!from.right() && to.right(), "{from:?} {to:?}");
            assert!(similarity(&from.text, &to.text) > 0.6, "{from:?} {to:?}");
        }
        let checks = vec![check("keywords:existence", json!({"keywords": ["lantern"]}))];
        let own = ["A whole sentence about a river and a town.", "lantern"].map(str::to_owned);
        let short = Case::new("Write.", checks, &own, 2, 1);
        let wrong: Vec<_> = short.refinements().into_iter().filter(|r| short.responses[r.draft].is_own()).collect();
        assert_eq!(wrong, [], "a response that says nothing is no target");
    }
}
