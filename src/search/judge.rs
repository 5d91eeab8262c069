//! Judging one response: votes of the refiner, rules, or both.

use super::call::{Draw, Halt, Search};
use super::config::{Judge, Mode, SearchConfig};
use super::tree::{Node, Votes};
use crate::engine::grammar;
use crate::engine::{Constraint, Purpose, Request, Sampling};
use crate::prompts::Verdict;
use crate::verify::Check;

/// Rounds of votes before a tie, or a round without a valid vote, counts as undecidable. In `paper` mode a round is one
/// call of the reference: if a vote of it fails, the round does not count and is one of these tries.
const ROUNDS: usize = 3;

/// What is found of one response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Yes votes / valid votes, or the share of checks that hold; `None` when every round of votes was a tie or invalid.
    pub value: Option<f64>,
    /// The last round of votes.
    pub votes: Votes,
    /// Whether the response passes.
    pub accepted: bool,
    /// The first critique that agrees with the decision, which is the majority's at a threshold of one half. Undecided:
    /// the last round's first that says no, or else its first.
    pub critique: String,
    /// Votes that were not asked for, since they could not change the decision.
    pub unasked: usize,
}

impl Search<'_> {
    /// Judges `response` as the answer to the task's conversation.
    pub async fn judge(&self, response: &str, seed: u64) -> Result<Judgement, Halt> {
        if self.config.judge == Judge::Model {
            return self.by_votes(response, seed).await;
        }
        let failed = self.failed_rules(response);
        match self.config.judge {
            Judge::Rules => Ok(self.by_rules(&failed)),
            _ if failed.is_empty() => self.by_votes(response, seed).await,
            _ => self.overruled(&failed, response, seed).await,
        }
    }

    /// What the rules that `response` breaks ask for. A JSON schema counts as a rule: decoding follows it, but a reply may be
    /// cut off.
    fn failed_rules(&self, response: &str) -> Vec<String> {
        let failed = self.task.checks.iter().filter(|check| !check.strict(response)).map(Check::describe);
        let schema = self.task.constraint.as_ref().filter(|c| matches!(c, Constraint::JsonSchema(_)));
        let broken = schema.is_some_and(|schema| !grammar::matches(schema, response));
        let rule = "answer with one complete JSON value that matches the schema, and nothing else";
        failed.chain(broken.then(|| rule.into())).collect()
    }

    fn by_rules(&self, failed: &[String]) -> Judgement {
        let json = usize::from(matches!(self.task.constraint, Some(Constraint::JsonSchema(_))));
        let votes = Votes { yes: self.task.checks.len() + json - failed.len(), no: failed.len(), invalid: 0 };
        Judgement {
            value: Some(votes.value().unwrap_or(1.0)),
            votes,
            accepted: failed.is_empty(),
            critique: self.models.templates.rule_critique(failed, None),
            unasked: 0,
        }
    }

    /// A failed rule decides alone. The model is still asked once, for what it says of the response.
    async fn overruled(&self, failed: &[String], response: &str, seed: u64) -> Result<Judgement, Halt> {
        let replies = self.votes(response, Draw::Vote.seed(seed, 0), 1).await?;
        let spoken = replies.first().and_then(|reply| reply.as_deref().ok());
        let critique = self.models.templates.rule_critique(failed, spoken);
        Ok(Judgement { value: Some(0.0), votes: Votes { no: 1, ..Votes::default() }, critique, ..Judgement::default() })
    }

    async fn by_votes(&self, response: &str, seed: u64) -> Result<Judgement, Halt> {
        let mut ballot = Ballot::default();
        let mut failure = None;
        for round in 0..ROUNDS {
            ballot = Ballot::default();
            let mut broken = false;
            while let Some(samples) = wanted(ballot.votes, self.config).filter(|_| !broken) {
                let draw = round * self.config.votes + ballot.votes.total();
                let replies = match self.votes(response, Draw::Vote.seed(seed, draw), samples).await {
                    Err(Halt::Failed(error)) if self.tries_again(&error) => vec![Err(error)],
                    replies => replies?,
                };
                for reply in replies {
                    match reply {
                        Ok(critique) => ballot.count(self.models.templates.parse_verdict(&critique), critique),
                        Err(error) => {
                            broken |= self.tries_again(&error);
                            ballot.votes.invalid += 1;
                            failure = Some(error);
                        }
                    }
                }
            }
            if !broken && ballot.votes.yes != ballot.votes.no {
                return Ok(ballot.decide(self.config));
            }
        }
        match failure {
            Some(error) => Err(Halt::Failed(error)),
            None => Ok(ballot.decide(self.config)),
        }
    }

    /// Asks for the votes on `node` that were saved; they change its value, never the decision.
    pub async fn settle_node(&self, node: &Node, seed: u64) -> Result<Votes, Halt> {
        let mut votes = node.votes;
        let all = votes.total() + node.unasked;
        while votes.total() < all {
            let seed = Draw::Settle.seed(seed, votes.total());
            for reply in self.votes(&node.response, seed, all - votes.total()).await? {
                votes.add(reply.ok().and_then(|critique| self.models.templates.parse_verdict(&critique)));
            }
        }
        Ok(votes)
    }

    async fn votes(
        &self,
        response: &str,
        seed: u64,
        samples: usize,
    ) -> Result<Vec<Result<String, crate::engine::EngineError>>, Halt> {
        let (refiner, templates) = (self.models.refiner, self.models.templates);
        let request = Request {
            samples,
            sampling: Sampling { temperature: self.config.judge_temperature, seed, ..Sampling::default() },
            max_tokens: Some(self.config.judge_tokens),
            constraint: refiner.constrains().then(|| templates.verdict_constraint()),
            ..Request::chat(Purpose::Judge, templates.judge(&self.task.messages, response))
        };
        let replies = self.call(refiner, request).await?;
        Ok(replies.into_iter().map(|reply| reply.map(|spoken| spoken.text)).collect())
    }
}

impl Votes {
    fn add(&mut self, verdict: Option<Verdict>) {
        match verdict {
            Some(Verdict::Yes) => self.yes += 1,
            Some(Verdict::No) => self.no += 1,
            None => self.invalid += 1,
        }
    }
}

/// The votes of a round, and the first critique of each kind.
#[derive(Default)]
struct Ballot {
    votes: Votes,
    first_yes: Option<String>,
    first_no: Option<String>,
    first_invalid: Option<String>,
}

impl Ballot {
    fn count(&mut self, verdict: Option<Verdict>, critique: String) {
        self.votes.add(verdict);
        let first = match verdict {
            Some(Verdict::Yes) => &mut self.first_yes,
            Some(Verdict::No) => &mut self.first_no,
            None => &mut self.first_invalid,
        };
        first.get_or_insert(critique);
    }

    fn decide(self, config: &SearchConfig) -> Judgement {
        let Self { votes, first_yes, first_no, first_invalid } = self;
        let value = if votes.yes == votes.no { None } else { votes.value() };
        let accepted = value.is_some_and(|value| value > config.threshold);
        let critique = if accepted { first_yes.or(first_no) } else { first_no.or(first_yes) };
        Judgement {
            value,
            votes,
            accepted,
            critique: critique.or(first_invalid).unwrap_or_default(),
            unasked: config.votes.saturating_sub(votes.total()),
        }
    }
}

/// How many votes to ask for next: in `paper` mode the whole round at once; in `eager` mode the fewest that could make
/// the outcome certain, so that what is asked for depends on the votes alone and never on which arrives first.
fn wanted(votes: Votes, config: &SearchConfig) -> Option<usize> {
    let left = config.votes.saturating_sub(votes.total());
    let certain = |votes| certain(votes, config);
    if left == 0 || (config.mode == Mode::Eager && certain(votes)) {
        return None;
    }
    if config.mode == Mode::Paper {
        return Some(left);
    }
    let unanimous =
        |more| certain(Votes { yes: votes.yes + more, ..votes }) || certain(Votes { no: votes.no + more, ..votes });
    (1..=left).find(|more| unanimous(*more)).or(Some(left))
}

/// Whether no further vote can make a tie, move the majority, or move the value across the threshold.
fn certain(votes: Votes, config: &SearchConfig) -> bool {
    let Votes { yes, no, .. } = votes;
    let left = config.votes.saturating_sub(votes.total());
    let (lowest, highest) = (Votes { no: no + left, ..votes }, Votes { yes: yes + left, ..votes });
    let passes = |votes: Votes| votes.value().is_some_and(|value| value > config.threshold);
    yes.abs_diff(no) > left && passes(lowest) == passes(highest)
}

/// The fewest votes that can decide: how many one judgement runs side by side.
pub(super) fn first_votes(config: &SearchConfig) -> usize {
    match config.judge {
        Judge::Rules => 1,
        Judge::Model | Judge::Both => wanted(Votes::default(), config).unwrap_or(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(votes: usize, threshold: f64) -> SearchConfig {
        SearchConfig { votes, threshold, ..SearchConfig::default() }
    }

    #[test]
    fn votes_stop_when_the_outcome_is_certain() {
        // (votes, threshold), (yes, no, invalid) → how many more.
        let cases = [
            ((5, 0.5), (0, 0, 0), Some(3)),
            ((5, 0.5), (3, 0, 0), None),
            ((5, 0.5), (0, 3, 0), None),
            ((5, 0.5), (2, 1, 0), Some(1)),
            ((5, 0.5), (2, 0, 1), Some(1)),
            ((5, 0.5), (2, 0, 2), None),
            ((5, 0.5), (1, 1, 1), Some(2)),
            ((5, 0.5), (0, 0, 3), Some(2)),
            ((5, 0.5), (0, 0, 4), Some(1)),
            ((5, 0.5), (2, 2, 1), None),
            ((4, 0.5), (0, 0, 0), Some(3)),
            ((4, 0.5), (2, 0, 0), Some(1)),
            ((1, 0.5), (0, 0, 0), Some(1)),
            ((5, 0.8), (0, 0, 0), Some(3)),
            ((5, 0.8), (3, 0, 0), Some(1)),
            ((5, 0.8), (4, 1, 0), None),
            ((5, 0.0), (3, 0, 0), None),
            ((5, 0.0), (0, 3, 0), Some(1)),
        ];
        for ((votes, threshold), (yes, no, invalid), expected) in cases {
            let found = wanted(Votes { yes, no, invalid }, &config(votes, threshold));
            assert_eq!(found, expected, "{votes} votes over {threshold}: {yes} yes, {no} no, {invalid} invalid");
        }
    }

    #[test]
    fn a_certain_outcome_is_the_outcome_of_every_completion() {
        for (votes, threshold) in [(1, 0.5), (2, 0.5), (4, 0.3), (5, 0.5), (5, 0.8), (7, 0.0), (7, 0.5)] {
            let config = config(votes, threshold);
            let outcome = |v: Votes| (v.yes.cmp(&v.no), v.value().is_some_and(|x| x > threshold));
            for (yes, no, invalid) in
                (0..=votes).flat_map(|y| (0..=votes).flat_map(move |n| (0..=votes).map(move |i| (y, n, i))))
            {
                let so_far = Votes { yes, no, invalid };
                if so_far.total() > votes || !certain(so_far, &config) {
                    continue;
                }
                let left = votes - so_far.total();
                for more_yes in 0..=left {
                    for more_no in 0..=left - more_yes {
                        let rest = left - more_yes - more_no;
                        let end = Votes { yes: yes + more_yes, no: no + more_no, invalid: invalid + rest };
                        assert_eq!(outcome(end), outcome(so_far), "{so_far:?} → {end:?} over {threshold}");
                    }
                }
            }
        }
    }
}
