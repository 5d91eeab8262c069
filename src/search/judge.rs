//! Judging one response: rules decide about their own instructions, the refiner about the rest.

use tokio::time::Instant;

use super::call::{Halt, Search};
use super::config::{Judge, Judging, Mode};
use super::judgement::Judgement;
use super::tree::Votes;
use super::votes::first_votes;
use crate::engine::{Constraint, EngineError, LabelSupport, grammar};
use crate::verify::Check;

impl Search<'_> {
    /// Judges `response` as the answer to the task's conversation.
    pub async fn judge(&self, response: &str, seed: u64) -> Result<Judgement, Halt> {
        let began = Instant::now();
        let judged = self.rules_then_model(response, seed).await;
        self.session.clock.judged(began.elapsed());
        judged
    }

    async fn rules_then_model(&self, response: &str, seed: u64) -> Result<Judgement, Halt> {
        let failed = match self.config.judge {
            // A malformed call is wrong, even if only the model judges.
            Judge::Model => self.broken_call(response).await.into_iter().collect(),
            Judge::Rules | Judge::Both => self.failed_rules(response).await,
        };
        let asks_model = self.config.judge != Judge::Rules && !self.rules_decide_alone();
        if !asks_model {
            return Ok(self.by_rules(failed, 0));
        }
        if !failed.is_empty() {
            return match self.config.mode {
                Mode::Paper => self.judge_by_failed_rules(&failed, response, seed).await,
                // The response fails whatever the refiner would say about the rest.
                Mode::Eager => Ok(self.by_rules(failed, 1)),
            };
        }
        if self.is_outside() {
            return Ok(Judgement::default());
        }
        let judgement = match self.judging() {
            Judging::Votes => self.by_votes(response, seed).await?,
            Judging::Score | Judging::Cascade => self.by_score(response, seed).await?,
        };
        if judgement.value.is_some() {
            self.session.found_readable();
        } else if self.rules_decide_alone() {
            return Ok(self.by_rules(Vec::new(), 0));
        }
        Ok(self.with_rules(judgement))
    }

    /// Whether the refiner is not asked because its verdicts could not be read, or because it does not know the conversation's words,
    /// while there are rules to judge by.
    fn rules_decide_alone(&self) -> bool {
        let cannot_judge = self.session.is_unreadable() || self.config.judge == Judge::Both && self.is_outside();
        self.config.mode == Mode::Eager && cannot_judge && self.rules() > 0
    }

    /// Whether the conversation lies outside of what the refiner was trained to judge. `paper` mode asks it nevertheless, as the reference
    /// does.
    pub fn is_outside(&self) -> bool {
        let (refiner, text) = (self.models.refiner, &self.models.templates.text);
        let covered = || text.domain.covers(refiner.info().tokenizer().map(AsRef::as_ref), &self.task.messages);
        self.config.mode == Mode::Eager && *self.session.outside.get_or_init(|| !covered())
    }

    /// How the refiner judges in this search. `paper` mode counts votes, and so does every search whose model cannot read labels.
    pub fn judging(&self) -> Judging {
        if self.config.mode == Mode::Paper {
            return Judging::Votes;
        }
        let templates = self.models.templates;
        // A checkpoint without a question for an immediate verdict was not trained to decide without a critique.
        let critical = templates.text.calibration.is_some() || !templates.scores();
        let wanted = self.config.judging.unwrap_or(if critical { Judging::Cascade } else { Judging::Score });
        match self.models.refiner.capabilities().labels {
            // Sampled one-word answers replace probabilities if the checkpoint has the question for them.
            LabelSupport::Nothing | LabelSupport::Prompts if !templates.scores() => Judging::Votes,
            _ => wanted,
        }
    }

    /// How many replies one judgement runs concurrently.
    pub fn judged_side_by_side(&self) -> usize {
        match (self.config.judge, self.judging()) {
            (Judge::Rules, _) | (_, Judging::Score | Judging::Cascade) => 1,
            (_, Judging::Votes) => first_votes(self.config),
        }
    }

    /// What is wrong with the calls in `response`, as one clause.
    async fn broken_call(&self, response: &str) -> Option<String> {
        let faults = self.task.offer.as_ref()?.faults(response, self.task.namespace).await;
        (!faults.is_empty()).then(|| faults.join("; "))
    }

    /// The number of rules of the task. A JSON schema counts as one, and so do the functions that may be called.
    pub fn rules(&self) -> usize {
        let schema = matches!(self.task.constraint, Some(Constraint::JsonSchema(_)));
        self.task.checks.len() + usize::from(schema) + usize::from(self.task.offer.is_some())
    }

    /// Describes the rules that `response` breaks. A JSON schema counts as a rule: decoding follows it, but a reply may be cut off.
    async fn failed_rules(&self, response: &str) -> Vec<String> {
        let failed = self.task.checks.iter().filter(|check| !check.strict(response)).map(Check::describe);
        let schema = self.task.constraint.as_ref().filter(|c| matches!(c, Constraint::JsonSchema(_)));
        let broken = match schema {
            None => false,
            Some(schema) => match grammar::matches(schema, self.task.namespace, response).await {
                Ok(matches) => !matches,
                // Decoding followed the schema, so if it cannot be checked now, it is assumed to hold.
                Err(error) => !matches!(error, EngineError::Unavailable(_)),
            },
        };
        let rule = "answer with one complete JSON value that matches the schema, and nothing else";
        failed.chain(broken.then(|| rule.into())).chain(self.broken_call(response).await).collect()
    }

    /// The judgement by rules alone; `unasked` instructions of the refiner count as failing.
    fn by_rules(&self, failed: Vec<String>, unasked: usize) -> Judgement {
        let held = self.rules() - failed.len();
        let all = self.rules() + unasked;
        Judgement {
            value: Some(if all == 0 { 1.0 } else { held as f64 / all as f64 }),
            votes: Votes { yes: held, no: failed.len(), invalid: 0 },
            accepted: failed.is_empty(),
            held,
            critique: self.models.templates.rule_critique(&failed, None),
            failed,
            ..Judgement::default()
        }
    }

    /// The refiner's judgement of a response whose rules all hold.
    fn with_rules(&self, judgement: Judgement) -> Judgement {
        let rules = if self.config.judge == Judge::Both && self.config.mode == Mode::Eager { self.rules() } else { 0 };
        if rules == 0 {
            return judgement;
        }
        let asked = judgement.items.len().max(1);
        let value = judgement.value.map(|value| (rules as f64 + value * asked as f64) / (rules + asked) as f64);
        Judgement { value, held: rules + judgement.held, ..judgement }
    }

    /// A failed rule decides alone. The model is still asked once, for its critique.
    async fn judge_by_failed_rules(&self, failed: &[String], response: &str, seed: u64) -> Result<Judgement, Halt> {
        let spoken = self.write_critique(response, seed).await?;
        let critique = self.models.templates.rule_critique(failed, spoken.as_deref());
        Ok(Judgement { value: Some(0.0), votes: Votes { no: 1, ..Votes::default() }, critique, ..Judgement::default() })
    }
}
