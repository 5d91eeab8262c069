//! An answer of the Messages API while it grows: parts of the answer become blocks, and every change an event.

use serde_json::{Map, Value};
use uuid::Uuid;

use super::translate::Thinking;
use crate::anthropic::{
    AnswerBlock, BlockDelta, MessagesAnswer, MessagesEvent, MessagesStop, MessagesUsage, Ping, StopDelta,
};
use crate::engine::FinishReason;
use crate::http::answer::part::Part;
use crate::http::answer::said::{Said, Teller};
use crate::http::conversation::About;
use crate::http::job::tools;
use crate::openai::{SearchReport, ToolCallEntry, Usage};

/// An answer while it grows.
pub struct Writing {
    answer: MessagesAnswer,
    teller: Teller,
    thinking: Thinking,
    stop: Vec<String>,
    begun: bool,
    /// Whether the last block may still grow.
    open: bool,
    /// Whether all of it has come.
    complete: bool,
}

impl Writing {
    /// An answer without blocks yet.
    pub fn new(about: About, thinking: Thinking) -> Self {
        let answer = MessagesAnswer {
            id: format!("msg_{}", Uuid::new_v4().simple()),
            kind: "message",
            role: "assistant",
            model: about.model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: MessagesUsage::default(),
            search: None,
        };
        let teller = Teller::new(about.offer.as_ref());
        Self { answer, teller, thinking, stop: about.stop, begun: false, open: false, complete: false }
    }

    /// The first event, the first time.
    pub fn beginning(&mut self) -> Vec<MessagesEvent> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        vec![MessagesEvent::MessageStart { message: Box::new(self.answer.clone()) }]
    }

    /// What a part of the answer changes.
    pub fn part(&mut self, part: Part) -> Vec<MessagesEvent> {
        match part {
            Part::Alive => vec![MessagesEvent::Ping(Ping { progress: None })],
            Part::Progress(progress) => vec![MessagesEvent::Ping(Ping { progress: Some(progress) })],
            // Conversations are not echoed.
            Part::Echo { .. } => Vec::new(),
            Part::Delta { text, reasoning, logprobs, .. } => {
                let said = self.teller.push(text, reasoning, logprobs);
                self.take(said)
            }
            Part::Finished { reason, .. } => {
                let said = self.teller.finish(reason);
                let mut events = self.take(said);
                self.close(&mut events);
                self.stopped(reason);
                events
            }
            Part::Done { usage, searches } => self.end(usage, searches),
        }
    }

    /// The whole answer, if it is complete.
    pub fn whole(self) -> Option<MessagesAnswer> {
        self.complete.then_some(self.answer)
    }

    fn stopped(&mut self, reason: FinishReason) {
        self.answer.stop_reason = Some(match reason {
            FinishReason::Length => MessagesStop::MaxTokens,
            _ if self.teller.calls() > 0 => MessagesStop::ToolUse,
            FinishReason::StopString(_) => MessagesStop::StopSequence,
            FinishReason::Stop | FinishReason::StopToken(_) => MessagesStop::EndTurn,
        });
        if let (FinishReason::StopString(index), Some(MessagesStop::StopSequence)) = (reason, self.answer.stop_reason) {
            self.answer.stop_sequence = self.stop.get(index).cloned();
        }
    }

    fn end(&mut self, usage: Usage, searches: Vec<SearchReport>) -> Vec<MessagesEvent> {
        self.answer.usage = usage.into();
        self.answer.search = searches.into_iter().next();
        self.complete = true;
        let delta = StopDelta {
            stop_reason: self.answer.stop_reason.unwrap_or(MessagesStop::EndTurn),
            stop_sequence: self.answer.stop_sequence.clone(),
        };
        let search = self.answer.search.clone().map(Box::new);
        vec![MessagesEvent::MessageDelta { delta, usage: self.answer.usage, search }, MessagesEvent::MessageStop {}]
    }

    fn take(&mut self, said: Vec<Said>) -> Vec<MessagesEvent> {
        let mut events = Vec::new();
        for said in said {
            match said {
                Said::Reasoning(text) => self.think(text, &mut events),
                Said::Text { text, .. } if text.is_empty() => {}
                Said::Text { text, .. } => self.say(text, &mut events),
                Said::Call(call) => self.call(tools::entry(call), &mut events),
            }
        }
        events
    }

    fn think(&mut self, delta: String, events: &mut Vec<MessagesEvent>) {
        if !(self.open && matches!(self.answer.content.last(), Some(AnswerBlock::Thinking { .. }))) {
            self.close(events);
            self.add(AnswerBlock::Thinking { thinking: String::new(), signature: String::new() }, events);
        }
        if self.thinking == Thinking::Omitted {
            return;
        }
        if let Some(AnswerBlock::Thinking { thinking, .. }) = self.answer.content.last_mut() {
            thinking.push_str(&delta);
        }
        events.push(self.delta(BlockDelta::ThinkingDelta { thinking: delta }));
    }

    fn say(&mut self, delta: String, events: &mut Vec<MessagesEvent>) {
        if !(self.open && matches!(self.answer.content.last(), Some(AnswerBlock::Text { .. }))) {
            self.close(events);
            self.add(AnswerBlock::Text { text: String::new() }, events);
        }
        if let Some(AnswerBlock::Text { text }) = self.answer.content.last_mut() {
            text.push_str(&delta);
        }
        events.push(self.delta(BlockDelta::TextDelta { text: delta }));
    }

    fn call(&mut self, entry: ToolCallEntry, events: &mut Vec<MessagesEvent>) {
        self.close(events);
        let (id, name) = (entry.id, entry.function.name);
        self.add(AnswerBlock::ToolUse { id, name, input: Map::new() }, events);
        let whole = object(entry.function.arguments);
        let partial_json = Value::Object(whole.clone()).to_string();
        if let Some(AnswerBlock::ToolUse { input, .. }) = self.answer.content.last_mut() {
            *input = whole;
        }
        events.push(self.delta(BlockDelta::InputJsonDelta { partial_json }));
        self.close(events);
    }

    /// Begins a block.
    fn add(&mut self, block: AnswerBlock, events: &mut Vec<MessagesEvent>) {
        let index = self.answer.content.len();
        events.push(MessagesEvent::ContentBlockStart { index, content_block: block.clone() });
        self.answer.content.push(block);
        self.open = true;
    }

    /// Ends the last block, if it is open.
    fn close(&mut self, events: &mut Vec<MessagesEvent>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        if let Some(AnswerBlock::Thinking { signature, .. }) = self.answer.content.last() {
            events.push(self.delta(BlockDelta::SignatureDelta { signature: signature.clone() }));
        }
        events.push(MessagesEvent::ContentBlockStop { index: self.last() });
    }

    fn delta(&self, delta: BlockDelta) -> MessagesEvent {
        MessagesEvent::ContentBlockDelta { index: self.last(), delta }
    }

    fn last(&self) -> usize {
        self.answer.content.len().saturating_sub(1)
    }
}

/// The input of a call. A model that is not constrained may write arguments that are no object; the caller sees them as text.
fn object(arguments: String) -> Map<String, Value> {
    serde_json::from_str(&arguments).unwrap_or_else(|_| Map::from_iter([("arguments".to_owned(), arguments.into())]))
}
