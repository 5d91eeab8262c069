//! Judging by votes: critiques are written and their verdicts are counted, as in the paper.

use super::call::{Draw, Halt, Search};
use super::config::{Mode, SearchConfig};
use super::judgement::Judgement;
use super::outcome::Progress;
use super::tree::{Node, Votes};
use crate::engine::{EngineError, Purpose, Request, Sampling};
use crate::prompts::Verdict;

/// Rounds of votes before a tie, or a round without a valid vote, counts as undecidable. In `paper` mode a round is one call of the
/// reference: a round with a failed vote is discarded, but counts as one of these attempts.
const ROUNDS: usize = 3;

impl Search<'_> {
    /// Judges by the majority of critiques.
    pub async fn by_votes(&self, response: &str, seed: u64) -> Result<Judgement, Halt> {
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
                        Ok((verdict, critique)) => {
                            ballot.count(verdict, critique);
                            self.report_vote(ballot.votes, verdict);
                        }
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
            // A judge that never states a verdict is not asked again about the same text.
            let Votes { yes, no, .. } = ballot.votes;
            if self.config.mode == Mode::Eager && yes + no == 0 && failure.is_none() {
                self.session.found_unreadable();
                if self.session.is_unreadable() {
                    break;
                }
            }
        }
        match failure {
            Some(error) => Err(Halt::Failed(error)),
            None => Ok(ballot.decide(self.config)),
        }
    }

    /// Asks for the votes on `node` that were skipped. They change its value but never the decision.
    pub async fn settle_node(&self, node: &Node, seed: u64) -> Result<Votes, Halt> {
        let mut votes = node.votes;
        let all = votes.total() + node.unasked;
        while votes.total() < all {
            let seed = Draw::Settle.seed(seed, votes.total());
            for reply in self.votes(&node.response, seed, all - votes.total()).await? {
                let verdict = reply.ok().and_then(|(verdict, _)| verdict);
                votes.add(verdict);
                self.report_vote(votes, verdict);
            }
        }
        Ok(votes)
    }

    /// Reports a vote; `votes` are the votes of its round so far.
    pub fn report_vote(&self, votes: Votes, verdict: Option<Verdict>) {
        self.session.keep_votes(votes);
        (self.session.observe)(Progress::Voted(verdict, votes));
    }

    /// Critiques of `response` with their verdicts. In `eager` mode the judge is asked for a verdict that is missing.
    async fn votes(
        &self,
        response: &str,
        seed: u64,
        samples: usize,
    ) -> Result<Vec<Result<(Option<Verdict>, String), EngineError>>, Halt> {
        let (refiner, templates) = (self.models.refiner, self.models.templates);
        let request = Request {
            samples,
            sampling: Sampling { temperature: self.config.judge_temperature, seed, ..Sampling::default() },
            max_tokens: Some(self.critique_room(response)),
            constraint: refiner.capabilities().constrains_everything().then(|| templates.verdict_constraint()),
            ..Request::chat(Purpose::Judge, templates.judge(&self.task.messages, response))
        };
        let mut votes = Vec::with_capacity(samples);
        for reply in self.call(refiner, request).await? {
            votes.push(match reply {
                Ok(spoken) => {
                    let verdict = match templates.parse_verdict(&spoken.text) {
                        None if self.closes_critiques() => self.closing_verdict(response, &spoken.text).await?,
                        verdict => verdict,
                    };
                    Ok((verdict, spoken.text))
                }
                Err(error) => Err(error),
            });
        }
        Ok(votes)
    }
}

impl Votes {
    /// Counts one more vote.
    pub(super) fn add(&mut self, verdict: Option<Verdict>) {
        match verdict {
            Some(Verdict::Yes) => self.yes += 1,
            Some(Verdict::No) => self.no += 1,
            None => self.invalid += 1,
        }
    }
}

/// The votes of a round, and the first critique with each verdict.
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
            held: usize::from(accepted),
            ..Judgement::default()
        }
    }
}

/// The number of votes to request next. In `paper` mode it is the whole round. In `eager` mode it is the fewest votes that could make the
/// outcome certain, so that the requests depend on the votes alone and never on which arrives first.
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

/// Whether no further vote can cause a tie, change the majority, or move the value across the threshold.
fn certain(votes: Votes, config: &SearchConfig) -> bool {
    let Votes { yes, no, .. } = votes;
    let left = config.votes.saturating_sub(votes.total());
    let (lowest, highest) = (Votes { no: no + left, ..votes }, Votes { yes: yes + left, ..votes });
    let passes = |votes: Votes| votes.value().is_some_and(|value| value > config.threshold);
    yes.abs_diff(no) > left && passes(lowest) == passes(highest)
}

/// The fewest votes that can decide, which is how many one judgement runs concurrently.
pub(super) fn first_votes(config: &SearchConfig) -> usize {
    wanted(Votes::default(), config).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(votes: usize, threshold: f64) -> SearchConfig {
        SearchConfig { votes, threshold, ..SearchConfig::default() }
    }

    #[test]
    fn votes_stop_when_the_outcome_is_certain() {
        // Each row: (votes, threshold), (yes, no, invalid), and how many more votes are requested.
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
