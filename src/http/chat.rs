//! `POST /v1/chat/completions`: pinned models, job, permit, answer, whole or as events.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};

use super::admit::{Arrival, fits};
use super::answer::{self, Hold, Part, SearchWork};
use super::error::ApiError;
use super::job::{ChatJob, Delivery};
use super::keys::{Caller, Tenant};
use super::limits::Ask;
use super::models;
use super::rules::Rules;
use super::stream::{comment, event, events};
use super::{AppState, Shared, tools};
use crate::chat::{Chat, Message, Role};
use crate::engine::generation::Pinned;
use crate::engine::tools::{Offer, Piece, Reader, read};
use crate::engine::{EngineError, FinishReason, Input, Namespace, Origin, Purpose, Request, TokenLogprobs};
use crate::openai::{
    AnswerMessage, ChatChoice, ChatChunk, ChatLogprobs, ChatRequest, ChatResponse, ChunkChoice, Delta, ErrorBody,
    Finish, SearchReport, ToolCallDelta, Usage,
};
use crate::search::Task;

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
pub async fn chat(
    State(state): State<Shared>,
    Caller(tenant): Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let arrival = Arrival::read(&state, Arc::clone(&tenant), &headers, body).await?;
    let clock = arrival.clock;
    let pinned = clock.bound(async { Ok(state.served.pin_present().await) }).await?;
    let generations = models::ids(&pinned);
    let ready = arrival.made(Ok::<ChatRequest, ApiError>).await?;
    let rules = clock.bound(Rules::of(&ready.job, &state.settings.search)).await?;
    let make = {
        let (state, tenant, pinned) = (Arc::clone(&state), Arc::clone(&tenant), pinned.clone());
        move |asked| made(&state, &tenant, &pinned, asked, rules)
    };
    let ready = ready.then(make).await?;
    let (ask, bytes) = (ask(&ready.job), ready.job.messages.iter().map(Message::bytes).sum());
    let (job, permit) = ready.enter(&state.gate, ask, bytes).await?;
    let behalf = state.behalf(tenant, job.drawing.salt.as_deref(), ask.kind);
    let hold = Hold { permit, pinned, behalf, clock, abort: state.abort.clone() };
    let head = Head::new(&job, &hold);
    let delivery = job.drawing.delivery;
    let constrained_by = job.constraint.as_ref().map_or("response_format", |asked| asked.param);
    let mut response = match job.search.clone() {
        Some(plan) => {
            let choices = job.drawing.choices;
            let checks = plan.checks.iter().map(|planned| planned.check.clone()).collect();
            let (kept, traffic) = (state.kept.of(hold.behalf.tenant.id), state.traffic.clone());
            let heartbeat = state.settings.http.heartbeat;
            let task = Task { namespace: hold.behalf.origin.namespace, ..task(job, checks) };
            let work = SearchWork { plan, task, choices, heartbeat, kept, traffic };
            let parts = answer::searched(hold, work);
            deliver(head, parts.map(move |part| blamed(part, constrained_by)), delivery).await?
        }
        None => {
            let parts = answer::plain(hold, vec![request(job)], None);
            deliver(head, parts.map(move |part| blamed(part, constrained_by)), delivery).await?
        }
    };
    models::show_generations(&mut response, &generations);
    Ok(response)
}

/// Checks a request of this caller.
fn made(
    state: &AppState,
    tenant: &Tenant,
    pinned: &Pinned,
    mut asked: ChatRequest,
    rules: Rules,
) -> Result<ChatJob, ApiError> {
    let alias = asked.drawing.model.as_deref().is_some_and(|name| name.ends_with(":search"));
    let searches = asked.search_budget.map_or(asked.search.is_some() || alias, |budget| budget > 0);
    tenant.cap_budget(&mut asked, searches, state.settings.search.search_budget)?;
    let job = ChatJob::from_wire(asked, rules, &state.limits(pinned))?;
    // What templates always show: an assistant's turns may lose their reasoning.
    let shown = job.messages.iter().filter(|message| message.role != Role::Assistant);
    fits(pinned.actor.engine.as_ref(), shown.map(|message| message.content.len()).sum())?;
    Ok(job)
}

fn ask(job: &ChatJob) -> Ask {
    match &job.search {
        Some(plan) => Ask::search(job.drawing.choices, plan.config.budget),
        None => Ask::plain(job.drawing.choices),
    }
}

/// A part of an answer whose constraint comes from the field `param`.
fn blamed(part: Result<Part, ApiError>, param: &str) -> Result<Part, ApiError> {
    part.map_err(|error| error.of_constraint(param))
}

fn request(job: ChatJob) -> Request {
    Request {
        purpose: Purpose::Answer,
        input: Input::Chat(Chat { messages: job.messages, options: job.template }),
        sampling: job.drawing.sampling,
        samples: job.drawing.choices,
        max_tokens: job.max_tokens,
        stop: job.drawing.stop,
        logprobs: job.logprobs,
        constraint: job.constraint.map(|asked| asked.constraint),
        origin: Origin::default(),
    }
}

fn task(job: ChatJob, checks: Vec<crate::verify::Check>) -> Task {
    Task {
        messages: job.messages,
        // A search makes many replies, so each of them thinks only where the request says so.
        template: job.template.thinking_only_if_asked(),
        sampling: job.drawing.sampling,
        max_tokens: job.max_tokens,
        stop: job.drawing.stop,
        logprobs: job.logprobs,
        constraint: job.constraint.map(|asked| asked.constraint),
        checks,
        offer: job.offer,
        namespace: Namespace::SHARED,
    }
}

async fn deliver(
    head: Head,
    parts: impl Stream<Item = Result<Part, ApiError>> + Send + 'static,
    delivery: Delivery,
) -> Result<Response, ApiError> {
    match delivery {
        Delivery::Whole => Ok(Json(whole(head, parts).await?).into_response()),
        Delivery::Stream | Delivery::StreamWithUsage => {
            let (begun, readers) = (Vec::new(), HashMap::new());
            let mut chunks = Chunks { head, readers, begun, finished: None, delivery };
            events(parts, move |part| chunks.show(part)).await
        }
    }
}

/// What all chunks of an answer share.
struct Head {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    choices: usize,
    logprobs: bool,
    offer: Option<Arc<Offer>>,
}

impl Head {
    fn new(job: &ChatJob, hold: &Hold) -> Self {
        Self {
            id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
            created: super::models::now(),
            model: job.drawing.model.clone(),
            fingerprint: super::models::fingerprint(&hold.pinned),
            choices: job.drawing.choices,
            logprobs: job.logprobs.is_some(),
            offer: job.offer.clone(),
        }
    }

    fn logprobs(&self, tokens: &[TokenLogprobs]) -> Option<ChatLogprobs> {
        (self.logprobs && !tokens.is_empty()).then(|| ChatLogprobs::new(tokens))
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

async fn whole(
    head: Head,
    parts: impl Stream<Item = Result<Part, ApiError>> + Send + 'static,
) -> Result<ChatResponse, ApiError> {
    let mut choices: Vec<Growing> = std::iter::repeat_with(Growing::default).take(head.choices).collect();
    let mut done = None;
    let mut parts = Box::pin(parts);
    while let Some(part) = parts.next().await {
        match part? {
            // Chats are not echoed.
            Part::Alive | Part::Progress(_) | Part::Echo { .. } => {}
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
        let (text, calls) = match &head.offer {
            Some(offer) => read(offer, &grown.text),
            None => (grown.text, Vec::new()),
        };
        ChatChoice {
            index,
            logprobs: head.logprobs(&grown.logprobs),
            finish_reason: finish(grown.finish.unwrap_or(FinishReason::Stop), calls.len()),
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
    let (search, searches) = reports(searches);
    Ok(ChatResponse {
        id: head.id,
        object: "chat.completion",
        created: head.created,
        model: head.model,
        system_fingerprint: head.fingerprint,
        choices,
        usage,
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
        FinishReason::Stop if calls > 0 => Finish::ToolCalls,
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
    delivery: Delivery,
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
                if let Some(pieces) = self.reader(choice).map(Reader::finish) {
                    role += &self.pieces(choice, pieces);
                }
                let finish_reason = Some(finish(reason, self.reader(choice).map_or(0, |reader| reader.calls())));
                let last = ChunkChoice { index: choice, delta: Delta::default(), logprobs: None, finish_reason };
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
        if self.delivery == Delivery::StreamWithUsage {
            event(&finish) + &event(&ChatChunk { usage: Some(usage), search, searches, ..self.chunk(Vec::new()) })
        } else {
            event(&ChatChunk { search, searches, ..finish })
        }
    }

    fn reader(&mut self, choice: usize) -> Option<&mut Reader> {
        let offer = self.head.offer.as_ref()?;
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
        event(&self.chunk(vec![ChunkChoice { index: choice, delta, logprobs, finish_reason: None }]))
    }

    fn role(&mut self, choice: usize) -> String {
        if self.begun.contains(&choice) {
            return String::new();
        }
        self.begun.push(choice);
        let delta = Delta { role: Some("assistant".into()), content: Some(String::new()), ..Delta::default() };
        event(&self.chunk(vec![ChunkChoice { index: choice, delta, logprobs: None, finish_reason: None }]))
    }

    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        ChatChunk {
            id: self.head.id.clone(),
            object: "chat.completion.chunk",
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.head.fingerprint.clone(),
            choices,
            usage: None,
            search: None,
            searches: None,
            progress: None,
        }
    }
}
