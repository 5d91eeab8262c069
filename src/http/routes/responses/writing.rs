//! A response while it grows: parts of the answer become items, and every change an event.

use serde_json::Value;
use uuid::Uuid;

use super::translate::Repeated;
use crate::engine::{FinishReason, TokenLogprobs};
use crate::http::answer::part::Part;
use crate::http::answer::said::{Said, Teller};
use crate::http::conversation::About;
use crate::http::error::ApiError;
use crate::http::job::tools;
use crate::http::served::now;
use crate::openai::responses::{
    IncompleteDetails, OutputItem, OutputPart, ResponsesAnswer, ResponsesEvent, ResponsesFailure, ResponsesStatus,
};
use crate::openai::{ChatLogprobs, SearchReport, TokenEntry, ToolCallEntry, Usage};

/// A response while it grows.
pub struct Writing {
    answer: ResponsesAnswer,
    teller: Teller,
    logprobs: bool,
    begun: bool,
    /// Whether the last item of the answer may still grow.
    open: bool,
    finish: FinishReason,
}

impl Writing {
    /// A response without items yet.
    pub fn new(about: &About, repeated: Repeated) -> Self {
        let answer = ResponsesAnswer {
            id: id("resp"),
            object: "response",
            created_at: now(),
            completed_at: None,
            status: ResponsesStatus::InProgress,
            background: false,
            error: None,
            incomplete_details: None,
            instructions: repeated.instructions,
            max_output_tokens: repeated.max_output_tokens,
            max_tool_calls: None,
            model: about.model.clone(),
            output: Vec::new(),
            parallel_tool_calls: repeated.parallel_tool_calls,
            previous_response_id: None,
            reasoning: repeated.reasoning,
            service_tier: "default",
            store: false,
            temperature: about.sampling.temperature,
            text: repeated.text,
            tool_choice: repeated.tool_choice,
            tools: repeated.tools,
            top_logprobs: repeated.top_logprobs,
            top_p: about.sampling.top_p,
            truncation: "disabled",
            usage: None,
            user: repeated.user,
            metadata: repeated.metadata,
            search: None,
        };
        let teller = Teller::new(about.offer.as_ref());
        Self { answer, teller, logprobs: about.logprobs, begun: false, open: false, finish: FinishReason::Stop }
    }

    /// The first events, the first time.
    pub fn beginning(&mut self) -> Vec<ResponsesEvent> {
        if std::mem::replace(&mut self.begun, true) {
            return Vec::new();
        }
        let response = || Box::new(self.answer.clone());
        vec![ResponsesEvent::Created { response: response() }, ResponsesEvent::InProgress { response: response() }]
    }

    /// What a part of the answer changes.
    pub fn part(&mut self, part: Part) -> Vec<ResponsesEvent> {
        match part {
            // Conversations are not echoed.
            Part::Alive | Part::Echo { .. } => Vec::new(),
            Part::Progress(progress) => vec![ResponsesEvent::SearchProgress(progress)],
            Part::Delta { text, reasoning, logprobs, .. } => {
                let said = self.teller.push(text, reasoning, logprobs);
                self.take(said)
            }
            Part::Finished { reason, .. } => {
                let said = self.teller.finish(reason);
                let mut events = self.take(said);
                if self.answer.output.is_empty() {
                    self.begin_message(&mut events);
                }
                self.finish = reason;
                self.close(self.status(), &mut events);
                events
            }
            Part::Done { usage, searches } => vec![self.end(usage, searches)],
        }
    }

    /// The whole response, if it is complete.
    pub fn whole(self) -> Option<ResponsesAnswer> {
        (self.answer.status != ResponsesStatus::InProgress).then_some(self.answer)
    }

    /// The events of an error that ends the response.
    pub fn failed(&mut self, error: &ApiError) -> Vec<ResponsesEvent> {
        let mut events = self.beginning();
        let detail = error.body().error;
        self.close(ResponsesStatus::Incomplete, &mut events);
        self.answer.status = ResponsesStatus::Failed;
        self.answer.error = Some(ResponsesFailure { code: error.code_of_response(), message: detail.message.clone() });
        events.push(ResponsesEvent::Error { code: detail.code, message: detail.message, param: detail.param });
        events.push(ResponsesEvent::Failed { response: Box::new(self.answer.clone()) });
        events
    }

    fn status(&self) -> ResponsesStatus {
        match self.finish {
            FinishReason::Length => ResponsesStatus::Incomplete,
            FinishReason::Stop | FinishReason::StopString(_) | FinishReason::StopToken(_) => ResponsesStatus::Completed,
        }
    }

    fn end(&mut self, usage: Usage, searches: Vec<SearchReport>) -> ResponsesEvent {
        self.answer.status = self.status();
        self.answer.usage = Some(usage.into());
        self.answer.search = searches.into_iter().next();
        if self.answer.status == ResponsesStatus::Incomplete {
            self.answer.incomplete_details = Some(IncompleteDetails { reason: "max_output_tokens" });
            return ResponsesEvent::Incomplete { response: Box::new(self.answer.clone()) };
        }
        self.answer.completed_at = Some(now());
        ResponsesEvent::Completed { response: Box::new(self.answer.clone()) }
    }

    fn take(&mut self, said: Vec<Said>) -> Vec<ResponsesEvent> {
        let mut events = Vec::new();
        for said in said {
            match said {
                Said::Reasoning(text) => self.think(text, &mut events),
                Said::Text { text, logprobs } => self.say(text, &logprobs, &mut events),
                Said::Call(call) => self.call(tools::entry(call), &mut events),
            }
        }
        events
    }

    fn think(&mut self, delta: String, events: &mut Vec<ResponsesEvent>) {
        if !(self.open && matches!(self.answer.output.last(), Some(OutputItem::Reasoning { .. }))) {
            self.close(ResponsesStatus::Completed, events);
            let status = ResponsesStatus::InProgress;
            self.add(OutputItem::Reasoning { id: id("rs"), summary: Vec::new(), content: Vec::new(), status }, events);
            self.open_part(OutputPart::ReasoningText { text: String::new() }, events);
        }
        if let Some(OutputPart::ReasoningText { text }) = self.last_part() {
            text.push_str(&delta);
        }
        let (item_id, output_index) = self.last();
        events.push(ResponsesEvent::ReasoningDelta { item_id, output_index, content_index: 0, delta });
    }

    fn say(&mut self, delta: String, tokens: &[TokenLogprobs], events: &mut Vec<ResponsesEvent>) {
        if !(self.open && matches!(self.answer.output.last(), Some(OutputItem::Message { .. }))) {
            self.close(ResponsesStatus::Completed, events);
            self.begin_message(events);
        }
        let entries: Vec<TokenEntry> = if self.logprobs { ChatLogprobs::new(tokens).content } else { Vec::new() };
        if let Some(OutputPart::OutputText { text, logprobs, .. }) = self.last_part() {
            text.push_str(&delta);
            logprobs.extend(entries.iter().cloned());
        }
        let (item_id, output_index) = self.last();
        events.push(ResponsesEvent::TextDelta { item_id, output_index, content_index: 0, delta, logprobs: entries });
    }

    fn begin_message(&mut self, events: &mut Vec<ResponsesEvent>) {
        let status = ResponsesStatus::InProgress;
        self.add(OutputItem::Message { id: id("msg"), role: "assistant", status, content: Vec::new() }, events);
        let (annotations, logprobs) = (Vec::<Value>::new(), Vec::new());
        self.open_part(OutputPart::OutputText { text: String::new(), annotations, logprobs }, events);
    }

    fn call(&mut self, entry: ToolCallEntry, events: &mut Vec<ResponsesEvent>) {
        self.close(ResponsesStatus::Completed, events);
        let (name, whole) = (entry.function.name, entry.function.arguments);
        let item = |status, arguments| OutputItem::FunctionCall {
            id: id("fc"),
            call_id: entry.id.clone(),
            name: name.clone(),
            arguments,
            status,
        };
        self.add(item(ResponsesStatus::InProgress, String::new()), events);
        let (item_id, output_index) = self.last();
        let delta = whole.clone();
        events.push(ResponsesEvent::ArgumentsDelta { item_id: item_id.clone(), output_index, delta });
        let arguments = whole.clone();
        events.push(ResponsesEvent::ArgumentsDone { item_id, output_index, name: name.clone(), arguments });
        if let Some(OutputItem::FunctionCall { arguments, .. }) = self.answer.output.last_mut() {
            *arguments = whole;
        }
        self.close(ResponsesStatus::Completed, events);
    }

    /// Begins an item.
    fn add(&mut self, item: OutputItem, events: &mut Vec<ResponsesEvent>) {
        events.push(ResponsesEvent::ItemAdded { output_index: self.answer.output.len(), item: item.clone() });
        self.answer.output.push(item);
        self.open = true;
    }

    /// Begins the only part of the last item.
    fn open_part(&mut self, part: OutputPart, events: &mut Vec<ResponsesEvent>) {
        let (item_id, output_index) = self.last();
        events.push(ResponsesEvent::PartAdded { item_id, output_index, content_index: 0, part: part.clone() });
        match self.answer.output.last_mut() {
            Some(OutputItem::Reasoning { content, .. } | OutputItem::Message { content, .. }) => content.push(part),
            Some(OutputItem::FunctionCall { .. }) | None => {}
        }
    }

    /// Ends the last item, if it is open.
    fn close(&mut self, ended: ResponsesStatus, events: &mut Vec<ResponsesEvent>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let (item_id, output_index) = self.last();
        let content_index = 0;
        if let Some(part) = self.last_part().cloned() {
            let item_id = item_id.clone();
            events.push(match part.clone() {
                OutputPart::OutputText { text, logprobs, .. } => {
                    ResponsesEvent::TextDone { item_id, output_index, content_index, text, logprobs }
                }
                OutputPart::ReasoningText { text } => {
                    ResponsesEvent::ReasoningDone { item_id, output_index, content_index, text }
                }
            });
            let (item_id, _) = self.last();
            events.push(ResponsesEvent::PartDone { item_id, output_index, content_index, part });
        }
        if let Some(item) = self.answer.output.last_mut() {
            let (OutputItem::Reasoning { status, .. }
            | OutputItem::Message { status, .. }
            | OutputItem::FunctionCall { status, .. }) = item;
            *status = ended;
            events.push(ResponsesEvent::ItemDone { output_index, item: item.clone() });
        }
    }

    /// The id and the place of the last item.
    fn last(&self) -> (String, usize) {
        let output = &self.answer.output;
        (output.last().map(|item| item.id().to_owned()).unwrap_or_default(), output.len().saturating_sub(1))
    }

    fn last_part(&mut self) -> Option<&mut OutputPart> {
        match self.answer.output.last_mut()? {
            OutputItem::Reasoning { content, .. } | OutputItem::Message { content, .. } => content.last_mut(),
            OutputItem::FunctionCall { .. } => None,
        }
    }
}

fn id(kind: &str) -> String {
    format!("{kind}_{}", Uuid::new_v4().simple())
}
