//! Judging by probabilities: the refiner is asked for Yes or No, and the probability of the answer is read. Critiques are written if that
//! probability is uncertain, or if something has to be refined.

use super::call::{Draw, FinishedReply, Halt, Search};
use super::checklist;
use super::config::Judging;
use super::judgement::Judgement;
use super::tree::Votes;
use crate::chat::Message;
use crate::engine::{
    Constraint, EngineError, Input, LabelRequest, LabelSupport, Origin, Purpose, Question, Request, Sampling,
};
use crate::prompts::{READABLE, Temperatures, Templates, Verdict, verdict_labels};

/// The distance from one half at which the probability after one critique decides; `CLEAR` is the same for the mean of several.
const CLEAR_AT_ONCE: f64 = 0.3;
const CLEAR: f64 = 0.2;
/// Tokens of a critique in addition to two for each token of the response.
const CRITIQUE_ROOM: usize = 160;
/// Tokens of a one-word answer, with room for a line break or a quotation mark before it.
const WORD_ROOM: usize = 4;

impl Search<'_> {
    /// Judges by the probability of Yes, either for each item of the checklist or for the whole prompt.
    pub async fn by_score(&self, response: &str, seed: u64) -> Result<Judgement, Halt> {
        let items = self.checklist().await?;
        if self.judging() == Judging::Cascade && self.never_decides_at_once() {
            return self.by_critiques(response, None, seed).await;
        }
        let questions = self.questions(items, response);
        let temperatures = self.calibration().score;
        let Some(found) = self.probabilities(&questions, temperatures, seed).await? else {
            self.session.found_unreadable();
            return Ok(Judgement::default());
        };
        let lowest = found.iter().copied().fold(1.0, f64::min);
        if let Some(judgement) = self.clear_judgement(&found, lowest, items) {
            return Ok(judgement);
        }
        self.by_critiques(response, Some(lowest), seed).await
    }

    /// Whether a critique is always written, whatever the score says: the calibration's band covers every probability, or the checkpoint
    /// has neither a calibration nor a question for an immediate verdict.
    fn never_decides_at_once(&self) -> bool {
        match &self.models.templates.text.calibration {
            Some(calibration) => calibration.low <= 0.0 && calibration.high >= 1.0,
            None => !self.models.templates.scores(),
        }
    }

    fn questions(&self, items: &[String], response: &str) -> Vec<Question> {
        let (templates, conversation) = (self.models.templates, &self.task.messages);
        let questions: Option<Vec<_>> =
            items.iter().map(|item| templates.score_item(conversation, response, item)).collect();
        match questions {
            Some(questions) if !questions.is_empty() => questions,
            _ => vec![templates.score(conversation, response, &self.checked())],
        }
    }

    /// The instructions that rules check already and the refiner leaves out.
    fn checked(&self) -> Vec<String> {
        match self.config.judge {
            super::Judge::Both => self.task.checks.iter().map(crate::verify::Check::describe).collect(),
            _ => Vec::new(),
        }
    }

    /// The judgement if the probabilities alone decide: always in `score`, and outside of the uncertain band in `cascade`. The value is the
    /// mean over items, so it rises with each item that is fixed. The lowest item decides, since one failed instruction fails the response.
    fn clear_judgement(&self, found: &[f64], lowest: f64, items: &[String]) -> Option<Judgement> {
        let calibration = self.calibration();
        let cascade = self.judging() == Judging::Cascade;
        if cascade && (calibration.low..calibration.high).contains(&lowest) {
            return None;
        }
        let holds = |p: f64| if cascade { p >= calibration.high } else { p > self.config.threshold };
        let failing = items.iter().zip(found).filter(|(_, p)| !holds(**p));
        Some(Judgement {
            value: Some(found.iter().sum::<f64>() / found.len() as f64),
            probability: Some(lowest),
            items: if items.is_empty() { Vec::new() } else { found.to_vec() },
            accepted: holds(lowest),
            held: found.iter().filter(|p| holds(**p)).count(),
            failed: failing.map(|(item, _)| item.clone()).collect(),
            ..Judgement::default()
        })
    }

    /// Writes critiques one after the other, up to the number of votes, and reads the probability of Yes after each, until their mean lies
    /// outside of the uncertain band.
    async fn by_critiques(&self, response: &str, before: Option<f64>, seed: u64) -> Result<Judgement, Halt> {
        let calibration = self.calibration();
        let (mut sum, mut votes) = (0.0, Votes::default());
        let (mut first_yes, mut first_no) = (None, None);
        for draw in 0..self.config.votes {
            let Some(critique) = self.write_critique(response, Draw::Vote.seed(seed, draw)).await? else { continue };
            let question = self.models.templates.verdict_of(&self.task.messages, response, &critique);
            let seed = Draw::Settle.seed(seed, draw);
            let found = self.probabilities(&[question], calibration.critique, seed).await?;
            let probability = found.map(|found| found[0]);
            let verdict = probability.map(|p| if p > 0.5 { Verdict::Yes } else { Verdict::No });
            votes.add(verdict);
            self.report_vote(votes, verdict);
            let Some(probability) = probability else { continue };
            sum += probability;
            let first = if probability > 0.5 { &mut first_yes } else { &mut first_no };
            first.get_or_insert(self.models.templates.with_verdict(&critique, probability > 0.5));
            let mean = sum / (votes.yes + votes.no) as f64;
            let enough = if votes.yes + votes.no == 1 { CLEAR_AT_ONCE } else { CLEAR };
            if (mean - 0.5).abs() >= enough {
                break;
            }
        }
        let read = votes.yes + votes.no;
        if read == 0 {
            self.session.found_unreadable();
            return Ok(Judgement { votes, probability: before, ..Judgement::default() });
        }
        let mean = sum / read as f64;
        let accepted = mean > self.config.threshold;
        let critique = if accepted { first_yes.or(first_no) } else { first_no.or(first_yes) };
        Ok(Judgement {
            value: Some(mean),
            probability: Some(mean),
            votes,
            accepted,
            held: usize::from(accepted),
            critique: critique.unwrap_or_default(),
            ..Judgement::default()
        })
    }

    /// The calibrated probability of Yes for each question; `None` if no verdict can be read from the model.
    async fn probabilities(
        &self,
        questions: &[Question],
        temperatures: Temperatures,
        seed: u64,
    ) -> Result<Option<Vec<f64>>, Halt> {
        let support = self.models.refiner.capabilities().labels;
        let begun = questions.iter().any(|question| !question.reply.is_empty());
        if support == LabelSupport::Nothing || (begun && support < LabelSupport::Replies) {
            return self.sampled_probabilities(questions, seed).await;
        }
        let labels = verdict_labels();
        let request =
            LabelRequest { purpose: Purpose::Judge, questions: questions.to_vec(), labels, origin: Origin::default() };
        let scores = match self.read(request).await {
            // This call has shown that the engine cannot read labels.
            Err(Halt::Failed(EngineError::Unsupported(_))) => return self.sampled_probabilities(questions, seed).await,
            scores => scores?,
        };
        let mut found = Vec::with_capacity(questions.len());
        for logprobs in &scores.logprobs {
            let [yes, no] = logprobs[..] else { return Ok(None) };
            let (yes, no) = (f64::from(yes), f64::from(no));
            if yes.exp() + no.exp() < READABLE {
                return Ok(None);
            }
            found.push(temperatures.probability(yes, no));
        }
        Ok(Some(found))
    }

    /// The share of Yes among sampled one-word answers, one per vote. Used if no probability can be read.
    async fn sampled_probabilities(&self, questions: &[Question], seed: u64) -> Result<Option<Vec<f64>>, Halt> {
        let mut found = Vec::with_capacity(questions.len());
        for (index, question) in questions.iter().enumerate() {
            let request = Request {
                samples: self.config.votes,
                constraint: self
                    .models
                    .refiner
                    .capabilities()
                    .constrains_regex()
                    .then(|| Constraint::Regex("Yes|No".into())),
                sampling: Sampling { seed: Draw::Settle.seed(seed, index), ..Sampling::default() },
                max_tokens: Some(WORD_ROOM),
                ..Request::chat(Purpose::Judge, self.spoken_question(question))
            };
            let mut votes = Votes::default();
            for reply in self.call(self.models.refiner, request).await? {
                let verdict = reply.ok().and_then(|spoken| first_word_verdict(&spoken.text));
                votes.add(verdict);
                self.report_vote(votes, verdict);
            }
            match votes.value() {
                Some(share) => found.push(share),
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }

    /// Turns a question into a conversation. A reply that has begun becomes a turn of its own, followed by a turn that asks for the
    /// verdict.
    fn spoken_question(&self, question: &Question) -> Vec<Message> {
        let mut turns = match &question.input {
            Input::Chat(chat) => chat.messages.clone(),
            Input::Text(text) => vec![Message::user(text)],
            // A search asks in words.
            Input::Tokens(_) => Vec::new(),
        };
        if !question.reply.is_empty() {
            turns.extend(self.models.templates.ask_verdict(&question.reply));
        }
        turns
    }

    /// Whether the judge is asked for the verdict of a critique that ends without one. True in `eager` mode, if the engine's answer can be
    /// read reliably.
    pub fn closes_critiques(&self) -> bool {
        let refiner = self.models.refiner;
        let certain =
            refiner.capabilities().constrains_everything() || refiner.capabilities().labels > LabelSupport::Nothing;
        certain && self.config.mode == super::Mode::Eager
    }

    /// The verdict of a critique that ended without one; `None` if the answer to that question cannot be read either.
    pub async fn closing_verdict(&self, response: &str, critique: &str) -> Result<Option<Verdict>, Halt> {
        let question = self.models.templates.verdict_of(&self.task.messages, response, critique);
        let found = if self.models.refiner.capabilities().labels == LabelSupport::Replies {
            self.probabilities(&[question], self.calibration().critique, 0).await?
        } else {
            let request = Request {
                sampling: Sampling { temperature: 0.0, ..Sampling::default() },
                max_tokens: Some(WORD_ROOM),
                constraint: self
                    .models
                    .refiner
                    .capabilities()
                    .constrains_regex()
                    .then(|| Constraint::Regex("Yes|No".into())),
                ..Request::chat(Purpose::Judge, self.spoken_question(&question))
            };
            let replies = self.call(self.models.refiner, request).await?;
            let verdict = replies.into_iter().next().and_then(Result::ok).and_then(|s| first_word_verdict(&s.text));
            verdict.map(|verdict| vec![f64::from(u8::from(verdict == Verdict::Yes))])
        };
        Ok(found.map(|found| if found[0] > 0.5 { Verdict::Yes } else { Verdict::No }))
    }

    /// Writes a critique of `response`, without its verdict. Returns `None` if there is none or if its call failed.
    pub async fn write_critique(&self, response: &str, seed: u64) -> Result<Option<String>, Halt> {
        let (refiner, templates) = (self.models.refiner, self.models.templates);
        let room = self.critique_room(response);
        let sampling = Sampling { temperature: self.config.judge_temperature, seed, ..Sampling::default() };
        let request = critique_request(templates, &self.task.messages, response, sampling, room);
        let spoken: Option<FinishedReply> = self.call(refiner, request).await?.into_iter().next().and_then(Result::ok);
        Ok(spoken.map(|spoken| templates.without_verdict(&spoken.text).to_owned()))
    }

    /// Room for a critique, which is less for a short response. If votes are counted, the room is fixed.
    pub fn critique_room(&self, response: &str) -> usize {
        match self.judging() {
            Judging::Votes => self.config.judge_tokens,
            Judging::Score | Judging::Cascade => self.config.judge_tokens.min(room_for_critique(response)),
        }
    }

    /// The items of the checklist that rules do not decide; empty if the whole prompt is the only item.
    async fn checklist(&self) -> Result<&[String], Halt> {
        if !self.config.checklist {
            return Ok(&[]);
        }
        if let Some(items) = self.session.checklist.get() {
            return Ok(items);
        }
        let items = self.list_instructions().await?;
        Ok(self.session.checklist.get_or_init(|| items))
    }

    async fn list_instructions(&self) -> Result<Vec<String>, Halt> {
        let refiner = self.models.refiner;
        let Some(turns) = self.models.templates.checklist(&self.task.messages) else { return Ok(Vec::new()) };
        let request = Request {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            max_tokens: Some(checklist::MAX_TOKENS),
            constraint: refiner.capabilities().constrains_everything().then(checklist::constraint),
            ..Request::chat(Purpose::Judge, turns)
        };
        let reply = self.call(refiner, request).await?.into_iter().next().and_then(Result::ok);
        let text = reply.map(|spoken| spoken.text).unwrap_or_default();
        Ok(checklist::read(&text, &self.task.messages, &self.checked()))
    }

    fn calibration(&self) -> crate::prompts::Calibration {
        self.models.templates.text.calibration.unwrap_or_default()
    }
}

/// Builds a request for one critique of `response`, which ends before its verdict.
pub fn critique_request(
    templates: &Templates,
    conversation: &[Message],
    response: &str,
    sampling: Sampling,
    room: usize,
) -> Request {
    Request {
        sampling,
        max_tokens: Some(room),
        stop: vec![templates.text.verdict.clone()],
        ..Request::chat(Purpose::Judge, templates.judge(conversation, response))
    }
}

/// Maximum tokens of a critique of `response` whose verdict is read as a probability.
pub fn room_for_critique(response: &str) -> usize {
    CRITIQUE_ROOM + 2 * tokens_of(response)
}

/// A rough number of tokens: about one for every four bytes, and at least one per word.
pub(super) fn tokens_of(text: &str) -> usize {
    (text.len() / 4).max(text.split_whitespace().count())
}

/// Yes or No as the first word of an answer, in any case.
fn first_word_verdict(text: &str) -> Option<Verdict> {
    let word = text.split(|c: char| !c.is_alphanumeric()).find(|word| !word.is_empty())?;
    match word.to_lowercase().as_str() {
        "yes" => Some(Verdict::Yes),
        "no" => Some(Verdict::No),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_of_an_answer_is_its_verdict() {
        for (text, expected) in [
            ("Yes", Some(Verdict::Yes)),
            (" no, it", Some(Verdict::No)),
            ("**YES**", Some(Verdict::Yes)),
            ("\"No\"", Some(Verdict::No)),
            ("Not quite", None),
            ("Maybe yes", None),
            ("", None),
        ] {
            assert_eq!(first_word_verdict(text), expected, "{text:?}");
        }
    }
}
