//! Turns conversations into training examples: tokens of the prompt have little or no loss, those of the answer are learned.

use anyhow::{Result, anyhow};
use spar::chat::Message;
use spar::prompts::Templates;
use tokenizers::Tokenizer;

use crate::tokenizer::{ASSISTANT, END, USER};
use crate::tokens::Example;
use crate::world::critique::Critique;
use crate::world::{Constraint, Instance, Repair};

/// The weights of single tokens in the loss; an ordinary answer token has weight 1.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// The weight of prompt tokens.
    pub prompt: f32,
    /// The weight of decisive tokens: `Yes` and `No`, the token after a colon, with which evidence, edits and plans begin, and the token
    /// after `include` or `avoid`.
    pub verdict: f32,
}

/// Turns chats into examples.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    templates: &'a Templates,
    weights: Weights,
    user: u32,
    assistant: u32,
    end: u32,
    verdicts: Vec<u32>,
    colon: Option<u32>,
    presence: Vec<u32>,
}

impl<'a> Encoder<'a> {
    /// # Errors
    /// Fails if the tokenizer lacks the chat template's special tokens.
    pub fn new(tokenizer: &'a Tokenizer, templates: &'a Templates, weights: Weights) -> Result<Self> {
        let id = |token: &str| tokenizer.token_to_id(token).ok_or_else(|| anyhow!("the tokenizer has no {token}"));
        let verdicts = [" Yes", " No"].into_iter().flat_map(|w| encode(tokenizer, w)).collect();
        let colon = tokenizer.token_to_id(":");
        let presence = [" include", " avoid"].into_iter().flat_map(|w| encode(tokenizer, w)).collect();
        let (user, assistant, end) = (id(USER)?, id(ASSISTANT)?, id(END)?);
        Ok(Self { tokenizer, templates, weights, user, assistant, end, verdicts, colon, presence })
    }

    /// The prompt, followed by the response.
    pub fn act(&self, prompt: &str, response: &str) -> Example {
        let mut example = Example::default();
        self.push_prompt(&mut example, prompt);
        self.push_answer(&mut example, response);
        example
    }

    /// The judge's turn and its critique. With `repair`, the refiner's turn and the refinement follow.
    pub fn judge(&self, instance: &Instance, response: &str, critique: &Critique, repair: Option<&Repair>) -> Example {
        let mut example = Example::default();
        self.push_prompt(&mut example, &self.turns(instance, response, &critique.text)[0]);
        self.push_answer(&mut example, &critique.text);
        if let Some(repair) = repair {
            self.push_refinement(&mut example, &self.turns(instance, response, &critique.text)[2], repair);
        }
        example
    }

    /// The refiner's turn and the refinement after a critique it did not write itself. A search writes such a critique if rules judge; it
    /// begins with the model's own words if the model was asked as well.
    pub fn refine_by_rules(
        &self,
        instance: &Instance,
        response: &str,
        spoken: Option<&Critique>,
        repair: &Repair,
    ) -> Example {
        let checks = instance.constraints.iter().map(Constraint::check);
        let failed: Vec<String> = checks.filter(|c| !c.strict(response)).map(|c| c.describe()).collect();
        let critique = self.templates.rule_critique(&failed, spoken.map(|s| s.text.as_str()));
        let [judge, _, refine] = self.turns(instance, response, &critique);
        let mut example = Example::default();
        self.push_prompt(&mut example, &judge);
        for id in encode(self.tokenizer, &critique) {
            self.push(&mut example, id, 0.0);
        }
        self.push(&mut example, self.end, 0.0);
        self.push_refinement(&mut example, &refine, repair);
        example
    }

    fn turns(&self, instance: &Instance, response: &str, critique: &str) -> [String; 3] {
        let conversation = [Message::user(&instance.prompt)];
        let turns = self.templates.refine(&conversation, response, critique);
        std::array::from_fn(|i| turns[i].content.clone())
    }

    fn push_refinement(&self, example: &mut Example, turn: &str, repair: &Repair) {
        let text = &self.templates.text;
        self.push_prompt(example, turn);
        let reply = format!("{}\n{}\n{}\n{}", repair.reflection, text.start, repair.response, text.end);
        self.push_answer(example, &reply);
    }

    fn push_prompt(&self, example: &mut Example, text: &str) {
        let first = example.tokens.is_empty();
        self.push(example, self.user, if first { 0.0 } else { self.weights.prompt });
        for id in encode(self.tokenizer, text) {
            self.push(example, id, self.weights.prompt);
        }
        self.push(example, self.assistant, self.weights.prompt);
    }

    fn push_answer(&self, example: &mut Example, text: &str) {
        for id in encode(self.tokenizer, text) {
            let last = |n: usize| example.tokens.iter().nth_back(n).copied();
            let turning = self.verdicts.contains(&id)
                || (self.colon.is_some() && last(0) == self.colon)
                || last(1).is_some_and(|t| self.presence.contains(&t));
            let weight = if turning { self.weights.verdict } else { 1.0 };
            self.push(example, id, weight);
        }
        self.push(example, self.end, 1.0);
    }

    fn push(&self, example: &mut Example, id: u32, weight: f32) {
        example.tokens.push(id);
        example.weights.push(weight);
    }
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    // Encoding fails only for malformed tokenizers, and this one has already encoded its own corpus.
    tokenizer.encode_fast(text, false).expect("a byte-level tokenizer encodes any text").get_ids().to_vec()
}
