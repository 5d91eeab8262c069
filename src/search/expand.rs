//! Making candidates: refinements of a node, or further drafts.

use super::call::{Draw, Halt, Search, Spoken};
use super::tree::Node;
use crate::engine::grammar;
use crate::engine::{Completion, EngineError, FinishReason, Input, Purpose, Request, Sampling, TokenLogprobs};

/// Draws per child before it is given up, as in the reference: three times three. In `paper` mode, again as in the
/// reference, a draw whose call fails is one of them; in `eager` mode it ends the child, or the group where its request fails.
const DRAWS: usize = 9;

/// A response before it is judged.
#[derive(Debug)]
pub(super) struct Candidate {
    pub response: String,
    /// What the refiner said before it.
    pub reflection: String,
    /// Tokens of the response itself.
    pub tokens: usize,
    pub finish: FinishReason,
    pub logprobs: Vec<TokenLogprobs>,
}

impl From<Completion> for Candidate {
    fn from(draft: Completion) -> Self {
        Self {
            response: draft.text,
            reflection: String::new(),
            tokens: draft.tokens,
            finish: draft.finish,
            logprobs: draft.logprobs,
        }
    }
}

/// Candidates in their order; `None` where no reply could be read.
pub(super) type Candidates = Vec<Result<Option<Candidate>, EngineError>>;

impl Search<'_> {
    /// `children` refinements of `node`. The replies are read in the order of their draws: each child takes the first
    /// readable one that is left, exactly as if the children were made one after the other.
    pub async fn refinements(&self, node: &Node, children: usize, seed: u64) -> Result<Candidates, Halt> {
        let mut found = Candidates::new();
        let (mut drawn, mut unread) = (0, 0);
        while found.len() < children {
            let request = self.refine_request(node, children - found.len(), Draw::Refinement.seed(seed, drawn));
            let replies = match self.call(self.models.refiner, request).await {
                Err(Halt::Failed(error)) if self.tries_again(&error) => vec![Err(error)],
                replies => replies?,
            };
            for reply in replies {
                drawn += 1;
                match reply.map(|spoken| self.read(spoken)) {
                    Ok(None) if unread + 1 < DRAWS => unread += 1,
                    Err(error) if unread + 1 < DRAWS && self.tries_again(&error) => unread += 1,
                    settled => {
                        unread = 0;
                        found.push(settled);
                    }
                }
            }
        }
        Ok(found)
    }

    /// `count` further drafts; a greedy task's drafts are drawn at the refiner's temperature, or they would be equal.
    pub async fn drafts(&self, count: usize, seed: u64) -> Result<Candidates, Halt> {
        let mut sampling = Sampling { seed, ..self.task.sampling.clone() };
        if sampling.temperature == 0.0 {
            sampling.temperature = self.config.refine_temperature;
        }
        let replies = self.call(self.models.actor, self.draft_request(sampling, count)).await?;
        Ok(replies.into_iter().map(|reply| reply.map(|spoken| Some(Completion::from(spoken).into()))).collect())
    }

    /// A request for `samples` drafts.
    pub fn draft_request(&self, sampling: Sampling, samples: usize) -> Request {
        Request {
            purpose: Purpose::Answer,
            input: Input::Chat(self.task.messages.clone()),
            sampling,
            samples,
            max_tokens: self.task.max_tokens,
            stop: self.task.stop.clone(),
            logprobs: self.task.logprobs,
            constraint: self.task.constraint.clone(),
        }
    }

    fn refine_request(&self, node: &Node, samples: usize, seed: u64) -> Request {
        let (refiner, templates) = (self.models.refiner, self.models.templates);
        let sampling = Sampling {
            temperature: self.config.refine_temperature,
            seed,
            logit_bias: self.task.sampling.logit_bias.clone(),
            // Not the repetition penalty: it counts the prompt, which holds the response that is to be kept.
            frequency_penalty: self.task.sampling.frequency_penalty,
            presence_penalty: self.task.sampling.presence_penalty,
            ..Sampling::default()
        };
        let messages = templates.refine(&self.task.messages, &node.response, &node.critique);
        let constraint =
            if refiner.constrains() { templates.refinement_constraint(self.task.constraint.as_ref()) } else { None };
        Request {
            samples,
            sampling,
            max_tokens: Some(self.config.refine_tokens),
            logprobs: self.task.logprobs,
            constraint,
            ..Request::chat(Purpose::Refine, messages)
        }
    }

    /// The refined response, ended at the task's stop strings; `None` if there is none, if it is longer than an answer may be,
    /// or if it does not match what an answer must.
    fn read(&self, mut spoken: Spoken) -> Option<Candidate> {
        let refinement = self.models.templates.parse_refinement(&spoken.text)?;
        let mut response = refinement.response;
        if let Some(end) = self.task.stop.iter().filter_map(|stop| response.find(stop.as_str())).min() {
            response.truncate(end);
        }
        let (start, end) = (refinement.offset, refinement.offset + response.len());
        let tokens = spoken.tokens_within(start, end);
        // An engine that does not constrain may have said anything.
        let free = self.task.constraint.as_ref().filter(|_| !self.models.refiner.constrains());
        if free.is_some_and(|constraint| !grammar::matches(constraint, &response)) {
            return None;
        }
        if response.is_empty() || self.task.max_tokens.is_some_and(|most| tokens > most) {
            return None;
        }
        let logprobs = spoken.logprobs_within(start, end);
        Some(Candidate { response, reflection: refinement.reflection, tokens, finish: FinishReason::Stop, logprobs })
    }
}

impl From<Spoken> for Completion {
    fn from(spoken: Spoken) -> Self {
        Self {
            text: spoken.text,
            prompt_tokens: spoken.prompt_tokens,
            cached_tokens: spoken.cached_tokens,
            tokens: spoken.tokens,
            logprobs: spoken.logprobs,
            finish: spoken.finish,
        }
    }
}
