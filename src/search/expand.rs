//! Makes candidates: refinements of a node, or further drafts.

use super::call::{Draw, FinishedReply, Halt, Search};
use super::config::{Judge, Mode, Strategy};
use super::score::tokens_of;
use super::session::Guidance;
use super::tree::Node;
use crate::chat::Chat;
use crate::engine::grammar;
use crate::engine::{
    Completion, Constraint, EngineError, FinishReason, Input, Origin, Purpose, Request, Sampling, TokenLogprobs,
    TokenRules,
};
use crate::prompts::Refinement;
use crate::verify::{Check, guide};

/// Draws per child before it is given up: three times three, as in the reference. In `paper` mode a failed call counts as a draw, as in the
/// reference. In `eager` mode it ends the child, or the whole group if their shared request fails.
const DRAWS: usize = 9;
/// Maximum number of draws per refinement in `eager` mode. The strategy `auto` counts every draw as an attempt of its own.
const EAGER_DRAWS: usize = 3;
/// Tokens for the refiner's reflection before the response.
const REFLECTION_ROOM: usize = 192;
/// Tokens of a refinement in addition to those of the response it refines.
const SPARE_ROOM: usize = 64;

/// Tokens that a word of a refinement usually takes at most. It bounds the words after which a rule's pattern must have matched.
const TOKENS_PER_WORD: usize = 2;

/// The form in which a refinement is requested and its reply is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A reflection on a critique, then the response between markers.
    Reflected,
    /// The response alone. Used if the failed instructions are known, or if the refiner cannot write the other form.
    Rewritten,
}

/// The response to refine, with the length and the end of its reply.
#[derive(Clone, Copy)]
pub(super) struct Refined<'a> {
    pub node: &'a Node,
    pub tokens: usize,
    pub finish: FinishReason,
}

/// A response before it is judged.
#[derive(Debug)]
pub(super) struct Candidate {
    pub response: String,
    /// What the refiner wrote before the response.
    pub reflection: String,
    /// Tokens of the response alone.
    pub tokens: usize,
    pub finish: FinishReason,
    pub logprobs: Vec<TokenLogprobs>,
    /// The model's reasoning before the response.
    pub reasoning: String,
}

impl From<Completion> for Candidate {
    fn from(draft: Completion) -> Self {
        Self {
            response: draft.text,
            reflection: String::new(),
            tokens: draft.tokens.saturating_sub(draft.reasoning.tokens),
            finish: draft.finish,
            logprobs: draft.logprobs,
            reasoning: draft.reasoning.text,
        }
    }
}

/// Candidates in the order of their draws; `None` if no reply could be read.
pub(super) type Candidates = Vec<Result<Option<Candidate>, EngineError>>;

impl Search<'_> {
    /// Makes `children` refinements of one response. The replies are read in the order of their draws, and each child takes the first
    /// readable one that is left, exactly as if the children were made one after the other.
    pub async fn refinements(&self, refined: Refined<'_>, children: usize, seed: u64) -> Result<Candidates, Halt> {
        let draws = match (self.config.mode, self.config.strategy) {
            (Mode::Paper, _) => DRAWS,
            (Mode::Eager, Strategy::Auto) => 1,
            (Mode::Eager, _) => EAGER_DRAWS,
        };
        let (node, room) = (refined.node, self.refinement_room(refined));
        let form = self.form(node);
        let mut found = Candidates::new();
        let (mut drawn, mut unread) = (0, 0);
        while found.len() < children {
            let seed = Draw::Refinement.seed(seed, drawn);
            let request = self.refine_request(node, form, room, Sampling { seed, ..self.refine_sampling() });
            let request = Request { samples: children - found.len(), ..request };
            let replies = match self.call(self.models.refiner, request).await {
                Err(Halt::Failed(error)) if self.tries_again(&error) => vec![Err(error)],
                // The patterns of many rules may be too large together, or no slot to compile them may be free.
                Err(Halt::Failed(EngineError::Constraint(_) | EngineError::Unavailable(_)))
                    if self.guide(room).is_some() =>
                {
                    self.session.give_up_guide();
                    continue;
                }
                replies => replies?,
            };
            for reply in replies {
                drawn += 1;
                // The patterns of many rules may also be too expensive to follow while decoding.
                let read = match reply {
                    Err(EngineError::Constraint(_)) if form == Form::Rewritten && self.guide(room).is_some() => {
                        self.session.give_up_guide();
                        unread += 1;
                        continue;
                    }
                    Ok(spoken) => Ok(self.read_refinement(form, spoken, refined.finish).await),
                    Err(error) => Err(error),
                };
                if let (Form::Reflected, Ok(candidate)) = (form, &read) {
                    self.session.tried_reflection(candidate.is_some());
                }
                match read {
                    Ok(None) if unread + 1 < draws => unread += 1,
                    Err(error) if unread + 1 < draws && self.tries_again(&error) => unread += 1,
                    settled => {
                        unread = 0;
                        found.push(settled);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether `node` can only be refined after a critique that has not been written yet.
    pub fn needs_critique(&self, node: &Node) -> bool {
        self.form(node) == Form::Reflected && node.critique.is_empty() && self.config.mode == Mode::Eager
    }

    fn form(&self, node: &Node) -> Form {
        let rewrites = self.config.mode == Mode::Eager && self.models.templates.text.rewrite.is_some();
        let known = !node.failed.is_empty() || self.session.reflections_fail();
        if rewrites && known { Form::Rewritten } else { Form::Reflected }
    }

    /// Room for a refinement: about the length of the response, or more if an instruction asks for more. `paper` mode has a fixed room.
    fn refinement_room(&self, Refined { node, tokens, .. }: Refined<'_>) -> usize {
        if self.config.mode == Mode::Paper {
            return self.config.refine_tokens;
        }
        let length = tokens.max(tokens_of(&node.response));
        let asked = self.task.checks.iter().map(Check::room).max().unwrap_or(0);
        let reflection = if self.form(node) == Form::Reflected { REFLECTION_ROOM } else { 0 };
        let most = self.task.max_tokens.map_or(usize::MAX, |most| most + reflection);
        (asked.max(length + length / 4) + SPARE_ROOM + reflection).min(self.config.refine_tokens).min(most)
    }

    /// Makes `count` further drafts. The drafts of a greedy task are sampled at the refiner's temperature, since they would be equal
    /// otherwise.
    pub async fn drafts(&self, count: usize, seed: u64) -> Result<Candidates, Halt> {
        let mut sampling = Sampling { seed, ..self.task.sampling.clone() };
        if sampling.temperature == 0.0 {
            sampling.temperature = self.config.refine_temperature;
        }
        let replies = self.call(self.models.actor, self.draft_request(sampling, count)).await?;
        Ok(replies.into_iter().map(|reply| reply.map(|spoken| Some(Completion::from(spoken).into()))).collect())
    }

    /// Builds a request for `samples` drafts.
    pub fn draft_request(&self, sampling: Sampling, samples: usize) -> Request {
        Request {
            purpose: Purpose::Answer,
            input: Input::Chat(Chat { messages: self.task.messages.clone(), options: self.task.template.clone() }),
            sampling,
            samples,
            max_tokens: self.task.max_tokens,
            stop: self.task.stop.clone(),
            logprobs: self.task.logprobs,
            constraint: self.task.constraint.clone(),
            origin: Origin::default(),
        }
    }

    fn refine_sampling(&self) -> Sampling {
        Sampling {
            temperature: self.config.refine_temperature,
            logit_bias: self.task.sampling.logit_bias.clone(),
            // The repetition penalty is left out: it counts the prompt, which contains the response that should be kept.
            frequency_penalty: self.task.sampling.frequency_penalty,
            presence_penalty: self.task.sampling.presence_penalty,
            rules: TokenRules { bad_words: self.task.sampling.rules.bad_words.clone(), ..TokenRules::default() },
            ..Sampling::default()
        }
    }

    fn refine_request(&self, node: &Node, form: Form, room: usize, sampling: Sampling) -> Request {
        let (refiner, templates) = (self.models.refiner, self.models.templates);
        let rewritten = match form {
            Form::Rewritten => templates.rewrite(&self.task.messages, &node.response, &node.failed),
            Form::Reflected => None,
        };
        let asked = self.task.constraint.as_ref();
        let (messages, constraint) = match rewritten {
            Some(messages) => {
                let plain = self.task.offer.as_ref().is_some_and(|offer| offer.is_plain_answer(&node.response));
                // An answer without calls is refined into an answer without calls.
                let guide = || self.guide(room);
                let constraint = if plain { guide().or_else(|| asked.cloned()) } else { asked.cloned().or_else(guide) };
                (messages, constraint)
            }
            None => {
                let messages = templates.refine(&self.task.messages, &node.response, &node.critique);
                (messages, templates.refinement_constraint(asked))
            }
        };
        let mut refinement = Chat::without_thinking(messages);
        refinement.options.tools = self.task.template.tools.clone();
        Request {
            sampling,
            input: Input::Chat(refinement),
            max_tokens: Some(room),
            logprobs: self.task.logprobs,
            constraint: constraint.filter(|_| refiner.capabilities().constrains_everything()),
            ..Request::chat(Purpose::Refine, Vec::new())
        }
    }

    /// The grammar of the rules that have patterns. A refinement is decoded under it, since the refiner knows what the draft missed.
    fn guide(&self, room: usize) -> Option<Constraint> {
        let guided = self.config.guided && self.config.judge != Judge::Model;
        let words = match self.session.guidance() {
            Guidance::Bounded => Some(room / TOKENS_PER_WORD),
            Guidance::Unbounded => None,
            Guidance::None => return None,
        };
        guided.then(|| guide(&self.task.checks, words)).flatten().map(Constraint::Lark)
    }

    /// The refined response, cut at the task's stop strings. Returns `None` if there is no response, if it loops, is cut off, is longer
    /// than an answer may be, or does not match the task's constraint. `before` is the finish reason of the refined response: if the limit
    /// of an answer cut off that response, it may cut off the refinement as well.
    async fn read_refinement(&self, form: Form, mut spoken: FinishedReply, before: FinishReason) -> Option<Candidate> {
        let cut = spoken.finish == FinishReason::Length;
        let at_limit = self.task.max_tokens.is_some_and(|most| spoken.tokens >= most);
        let refinement = match form {
            _ if spoken.looped => return None,
            Form::Reflected => self.models.templates.parse_refinement(&spoken.text)?,
            Form::Rewritten if cut && !(at_limit && before == FinishReason::Length) => return None,
            Form::Rewritten => {
                let offset = spoken.text.len() - spoken.text.trim_start().len();
                Refinement { reflection: String::new(), response: spoken.text.trim().to_owned(), offset }
            }
        };
        let mut response = refinement.response;
        let found = |(index, stop): (usize, &String)| Some((response.find(stop.as_str())?, index));
        let stopped = self.task.stop.iter().enumerate().filter_map(found).min();
        if let Some((end, _)) = stopped {
            response.truncate(end);
        }
        let (start, end) = (refinement.offset, refinement.offset + response.len());
        let tokens = spoken.tokens_within(start, end);
        // An engine that does not constrain may have said anything, and a reflection is not held to a whole grammar.
        let held = |asked: &&Constraint| {
            self.models.refiner.capabilities().constrains_everything()
                && !(form == Form::Reflected && matches!(asked, Constraint::Lark(_)))
        };
        let free = self.task.constraint.as_ref().filter(|asked| !held(asked));
        if let Some(constraint) = free
            && !grammar::matches(constraint, self.task.namespace, &response).await.unwrap_or(false)
        {
            return None;
        }
        if response.is_empty() || self.task.max_tokens.is_some_and(|most| tokens > most) {
            return None;
        }
        let logprobs = spoken.logprobs_within(start, end);
        let (reflection, reasoning) = (refinement.reflection, spoken.reasoning.text);
        let finish = match stopped {
            Some((_, index)) => FinishReason::StopString(index),
            None if form == Form::Rewritten && cut => FinishReason::Length,
            None => FinishReason::Stop,
        };
        Some(Candidate { response, reflection, tokens, finish, logprobs, reasoning })
    }
}

impl From<FinishedReply> for Completion {
    fn from(spoken: FinishedReply) -> Self {
        Self {
            text: spoken.text,
            reasoning: spoken.reasoning,
            prompt_tokens: spoken.prompt_tokens,
            cached_tokens: spoken.cached_tokens,
            tokens: spoken.tokens,
            logprobs: spoken.logprobs,
            finish: spoken.finish,
        }
    }
}
