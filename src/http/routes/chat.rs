//! `POST /v1/chat/completions`: an answer in OpenAI's first form, whole or as chunks.

use std::collections::HashMap;

use axum::Json;
use axum::response::{IntoResponse, Response};
use futures::StreamExt;

use crate::engine::tools::{Piece, Reader, read};
use crate::engine::{EngineError, FinishReason, TokenLogprobs};
use crate::http::answer::part::Part;
use crate::http::answer::search_header::{self, Running};
use crate::http::answer::sse::{comment, event, events};
use crate::http::conversation::{About, Begun, Parts, Translated, begin};
use crate::http::door::enter::Call;
use crate::http::error::ApiError;
use crate::http::job::drawing::Delivery;
use crate::http::job::tools;
use crate::http::served;
use crate::openai::{
    AnswerMessage, ChatChoice, ChatChunk, ChatLogprobs, ChatRequest, ChatResponse, ChunkChoice, Delta, ErrorBody,
    Finish, SearchReport, StopCause, ToolCallDelta, Usage, prompt_logprobs,
};

/// Answers a conversation; with `search_budget`, `search` or a `:search` model the best answer of a search.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "completions", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answer; with `stream` as server-sent events", content(
            (ChatResponse = "application/json"), (ChatChunk = "text/event-stream"),
        )),
        (status = 404, body = ErrorBody, description = "No such model: `model_not_found`"),
    ),
)]
pub async fn chat(call: Call) -> Result<Response, ApiError> {
    let begun = begin(call, &[], |chat: ChatRequest| Ok(Translated { chat, rest: (), bytes: 0 })).await?;
    let Begun { about, parts, .. } = begun;
    let generations = about.generations.clone();
    let mut response = deliver(Head::new(about), parts).await?;
    served::show_generations(&mut response, &generations);
    Ok(response)
}

async fn deliver(head: Head, parts: Parts) -> Result<Response, ApiError> {
    match head.about.delivery {
        Delivery::Whole => {
            let answer = whole(head, parts).await?;
            let several = answer.searches.clone().unwrap_or_default();
            let searches = if several.is_empty() { answer.search.clone().into_iter().collect() } else { several };
            let mut response = Json(answer).into_response();
            search_header::show_results(&mut response, &searches);
            Ok(response)
        }
        Delivery::Stream | Delivery::StreamWithUsage => {
            let (begun, readers) = (Vec::new(), HashMap::new());
            let running = Running::from(&head.about);
            let mut chunks = Chunks { head, readers, begun, finished: None };
            let mut response = events(parts, move |part| chunks.show(part)).await?;
            search_header::show_running(&mut response, &running);
            Ok(response)
        }
    }
}

/// What all chunks of an answer share.
struct Head {
    id: String,
    created: u64,
    about: About,
}

impl Head {
    fn new(about: About) -> Self {
        let id = served::answer_id("chatcmpl", about.id.as_deref());
        Self { id, created: served::now(), about }
    }

    fn logprobs(&self, tokens: &[TokenLogprobs]) -> Option<ChatLogprobs> {
        (self.about.logprobs && !tokens.is_empty()).then(|| ChatLogprobs::new(tokens))
    }
}

/// A choice while it grows.
#[derive(Default)]
struct Growing {
    text: String,
    reasoning: String,
    logprobs: Vec<TokenLogprobs>,
    finish: Option<FinishReason>,
}

async fn whole(head: Head, mut parts: Parts) -> Result<ChatResponse, ApiError> {
    let mut choices: Vec<Growing> = std::iter::repeat_with(Growing::default).take(head.about.choices).collect();
    let (mut done, mut prompt) = (None, None);
    while let Some(part) = parts.next().await {
        match part? {
            Part::Alive | Part::Progress(_) => {}
            // All choices answer the same prompt.
            Part::Echo { tokens, .. } => prompt = Some(tokens),
            Part::Delta { choice, text, reasoning, logprobs } => {
                choices[choice].text.push_str(&text);
                choices[choice].reasoning.push_str(&reasoning);
                choices[choice].logprobs.extend(logprobs);
            }
            Part::Finished { choice, reason } => choices[choice].finish = Some(reason),
            Part::Done { usage, searches } => done = Some((usage, searches)),
        }
    }
    let (usage, searches) = done.ok_or_else(|| EngineError::Crashed("the answer has no end".into()))?;
    let choice = |(index, grown): (usize, Growing)| {
        let reason = grown.finish.unwrap_or(FinishReason::Stop);
        let (text, calls) = match &head.about.offer {
            Some(offer) => read(offer, &grown.text, reason),
            None => (grown.text, Vec::new()),
        };
        ChatChoice {
            index,
            logprobs: head.logprobs(&grown.logprobs),
            finish_reason: finish(reason, calls.len()),
            stop_reason: StopCause::of(reason, &head.about.stop),
            message: AnswerMessage {
                role: "assistant".into(),
                content: Some(text).filter(|text| !text.is_empty() || calls.is_empty()),
                reasoning_content: Some(grown.reasoning).filter(|text| !text.is_empty()),
                tool_calls: calls.into_iter().map(tools::entry).collect(),
                refusal: None,
            },
        }
    };
    let choices = choices.into_iter().enumerate().map(choice).collect();
    let prompt_logprobs = head.about.prompt_logprobs.zip(prompt).map(|(top, tokens)| prompt_logprobs(&tokens, top));
    let (search, searches) = reports(searches);
    Ok(ChatResponse {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.about.model,
        system_fingerprint: head.about.fingerprint,
        choices,
        usage,
        prompt_logprobs,
        search,
        searches,
    })
}

/// The `search` field, and `searches` where there are several.
fn reports(searches: Vec<SearchReport>) -> (Option<SearchReport>, Option<Vec<SearchReport>>) {
    (searches.first().cloned(), (searches.len() > 1).then_some(searches))
}

/// Why an answer with so many calls ended. One that was cut off says so, whatever it calls.
fn finish(reason: FinishReason, calls: usize) -> Finish {
    match reason {
        FinishReason::Length => Finish::Length,
        _ if calls > 0 => Finish::ToolCalls,
        reason => reason.into(),
    }
}

/// Parts become chunks.
struct Chunks {
    head: Head,
    /// What tells calls from text, by choice.
    readers: HashMap<usize, Reader>,
    /// The choices that were shown a role.
    begun: Vec<usize>,
    /// The last choice's finish, held back until it is known whether the searches go with it.
    finished: Option<ChunkChoice>,
}

impl Chunks {
    fn show(&mut self, part: Part) -> String {
        match part {
            Part::Alive => comment("searching"),
            Part::Echo { .. } => String::new(),
            Part::Progress(progress) => event(&ChatChunk { progress: Some(progress), ..self.chunk(Vec::new()) }),
            Part::Delta { choice, text, reasoning, logprobs } => {
                let role = self.role(choice);
                let reasoning_content = Some(reasoning).filter(|text| !text.is_empty());
                let logprobs = self.head.logprobs(&logprobs);
                let Some(reader) = self.reader(choice) else {
                    let content = Some(text).filter(|text| !text.is_empty() || reasoning_content.is_none());
                    return role
                        + &self.delta(choice, Delta { reasoning_content, content, ..Delta::default() }, logprobs);
                };
                let pieces = reader.push(&text);
                let said = if reasoning_content.is_some() || logprobs.is_some() {
                    self.delta(choice, Delta { reasoning_content, ..Delta::default() }, logprobs)
                } else {
                    String::new()
                };
                role + &said + &self.pieces(choice, pieces)
            }
            Part::Finished { choice, reason } => {
                let mut role = self.role(choice);
                if let Some(pieces) = self.reader(choice).map(|reader| reader.finish(reason)) {
                    role += &self.pieces(choice, pieces);
                }
                let finish_reason = Some(finish(reason, self.reader(choice).map_or(0, |reader| reader.calls())));
                let stop_reason = StopCause::of(reason, &self.head.about.stop);
                let delta = Delta::default();
                let last = ChunkChoice { index: choice, delta, logprobs: None, finish_reason, stop_reason };
                let earlier = self.finished.replace(last).map(|earlier| event(&self.chunk(vec![earlier])));
                earlier.unwrap_or_default() + &role
            }
            Part::Done { usage, searches } => self.end(usage, searches),
        }
    }

    fn end(&mut self, usage: Usage, searches: Vec<SearchReport>) -> String {
        let (search, searches) = reports(searches);
        let last = self.finished.take();
        let finish = self.chunk(last.into_iter().collect());
        if self.head.about.delivery == Delivery::StreamWithUsage {
            event(&finish) + &event(&ChatChunk { usage: Some(usage), search, searches, ..self.chunk(Vec::new()) })
        } else {
            event(&ChatChunk { search, searches, ..finish })
        }
    }

    fn reader(&mut self, choice: usize) -> Option<&mut Reader> {
        let offer = self.head.about.offer.as_ref()?;
        Some(self.readers.entry(choice).or_insert_with(|| Reader::new(offer)))
    }

    /// The chunks of text and calls, the calls with their index in the choice.
    fn pieces(&mut self, choice: usize, pieces: Vec<Piece>) -> String {
        let new = pieces.iter().filter(|piece| matches!(piece, Piece::Call(_))).count();
        let mut index = self.reader(choice).map_or(0, |reader| reader.calls()) - new;
        let mut shown = String::new();
        for piece in pieces {
            let delta = match piece {
                Piece::Text(text) => Delta { content: Some(text), ..Delta::default() },
                Piece::Call(call) => {
                    index += 1;
                    let call = ToolCallDelta { index: index - 1, call: tools::entry(call) };
                    Delta { tool_calls: vec![call], ..Delta::default() }
                }
            };
            shown += &self.delta(choice, delta, None);
        }
        shown
    }

    fn delta(&self, choice: usize, delta: Delta, logprobs: Option<ChatLogprobs>) -> String {
        event(&self.chunk(vec![ChunkChoice { index: choice, delta, logprobs, finish_reason: None, stop_reason: None }]))
    }

    fn role(&mut self, choice: usize) -> String {
        if self.begun.contains(&choice) {
            return String::new();
        }
        self.begun.push(choice);
        let delta = Delta { role: Some("assistant".into()), content: Some(String::new()), ..Delta::default() };
        event(&self.chunk(vec![ChunkChoice {
            index: choice,
            delta,
            logprobs: None,
            finish_reason: None,
            stop_reason: None,
        }]))
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.about.model.clone(),
            system_fingerprint: self.head.about.fingerprint.clone(),
            choices,
            usage: None,
            search: None,
            searches: None,
            progress: None,
        }
    }
}
