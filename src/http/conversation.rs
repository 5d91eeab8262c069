//! The one way of a conversation to the models, whatever API it came by: its body becomes the request of a chat completion,
//! that becomes a job, and the job's answer comes in parts.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;

use crate::chat::{Chat, Message, Role};
use crate::engine::generation::Pinned;
use crate::engine::tools::Offer;
use crate::engine::{Input, Namespace, Origin, Purpose, Request, Sampling, WireSeed};
use crate::http::answer::echo;
use crate::http::answer::hold::Hold;
use crate::http::answer::part::Part;
use crate::http::answer::search_header::{Ahead, Running};
use crate::http::answer::{self, SearchWork};
use crate::http::door::admit::fits;
use crate::http::door::body::FromBody;
use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{self, Call, Entered, Made};
use crate::http::door::keys::Tenant;
use crate::http::door::limits::Ask;
use crate::http::error::ApiError;
use crate::http::job::ChatJob;
use crate::http::job::drawing::Delivery;
use crate::http::job::names::Names;
use crate::http::job::rules::Rules;
use crate::http::{AppState, served};
use crate::openai::{ChatRequest, GenerationIds};
use crate::search::Task;

/// A body in the words of chat completions.
pub struct Translated<R> {
    /// The chat completion that it asks for.
    pub chat: ChatRequest,
    /// What the answer repeats of the request.
    pub rest: R,
    /// Bytes of that rest.
    pub bytes: usize,
}

/// The parts of an answer.
pub type Parts = BoxStream<'static, Result<Part, ApiError>>;

/// An answer that has begun.
pub struct Begun<R> {
    /// What is known of it.
    pub about: About,
    /// What it consists of.
    pub parts: Parts,
    /// What the answer shows of its request.
    pub rest: R,
}

/// What is known of an answer before it is there.
pub struct About {
    /// The model as it was asked for.
    pub model: String,
    /// The weights that answer.
    pub fingerprint: String,
    /// These weights by their roles.
    pub generations: GenerationIds,
    /// How many answers there are.
    pub choices: usize,
    /// Whether log-probabilities are shown.
    pub logprobs: bool,
    /// The functions that may be called.
    pub offer: Option<Arc<Offer>>,
    /// Where an answer ends.
    pub stop: Vec<String>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// How the answer is delivered.
    pub delivery: Delivery,
    /// The end of the answer's id, where the caller chose it.
    pub id: Option<String>,
    /// Alternatives for each of the prompt's tokens, where they are asked for.
    pub prompt_logprobs: Option<usize>,
    /// The search that finds each choice, if there is one.
    pub search: Option<Ahead>,
}

impl From<&About> for Running {
    fn from(about: &About) -> Self {
        Self { ahead: about.search, choices: about.choices }
    }
}

impl About {
    fn new(job: &ChatJob, pinned: &Pinned) -> Self {
        Self {
            model: job.drawing.model.clone(),
            fingerprint: served::fingerprint(pinned),
            generations: served::ids(pinned),
            choices: job.drawing.choices,
            logprobs: job.logprobs.is_some(),
            offer: job.offer.clone(),
            stop: job.drawing.stop.clone(),
            sampling: job.drawing.sampling.clone(),
            delivery: job.drawing.delivery,
            id: job.drawing.id.clone(),
            prompt_logprobs: job.drawing.prompt_logprobs,
            search: job
                .search
                .as_ref()
                .map(|plan| Ahead { strategy: plan.config.strategy, budget: plan.config.budget }),
        }
    }
}

/// Reads the body, waits for its turn, and begins the answer. `names` are the fields that the API calls otherwise than chat
/// completions do.
///
/// # Errors
/// The body or a field of it is at fault, or the request is refused before it runs.
pub async fn begin<T, R>(
    call: Call,
    names: Names,
    translate: impl FnOnce(T) -> Result<Translated<R>, ApiError> + Send + 'static,
) -> Result<Begun<R>, ApiError>
where
    T: FromBody,
    R: Send + 'static,
{
    let state = Arc::clone(&call.state);
    let named = |error: ApiError| error.in_words_of(names);
    let (ready, clock, client) = enter::read(call, move |asked: T, _| translate(asked)).await?;
    let rules = clock.bound(Rules::of(&ready.job.0.chat, &state.settings.search)).await.map_err(named)?;
    let make = {
        let (state, tenant) = (Arc::clone(&state), Arc::clone(&client.tenant));
        move |(Translated { chat, rest, bytes }, chosen): (Translated<R>, Chosen)| {
            let job = made(&state, &tenant, &chosen, chat, rules)?;
            let (ask, bytes) = (ask(&job), job.messages.iter().map(Message::bytes).sum::<usize>() + bytes);
            Ok((Made { job: (job, rest), ask, bytes }, chosen))
        }
    };
    let ready = ready.then(make).await.map_err(named)?;
    let entered = enter::finish(&state, ready, clock, client).await?;
    let behalf = entered.behalf(entered.job.0.drawing.salt.as_deref()).about(&entered.job.0.messages);
    let Entered { job: (job, rest), chosen: Chosen { pinned, .. }, permit, .. } = entered;
    let hold = Hold { permit, pinned, behalf, clock, abort: state.abort.clone() };
    let about = About::new(&job, &hold.pinned);
    let constrained_by = job.constraint.as_ref().map_or("response_format", |asked| asked.param);
    let parts = answered(&state, hold, job);
    let parts = parts.map(move |part| part.map_err(|error| error.of_constraint(constrained_by).in_words_of(names)));
    Ok(Begun { about, parts: parts.boxed(), rest })
}

/// Refuses a request for several answers, of which this form has only one.
///
/// # Errors
/// Names `n`.
pub fn one_answer(n: Option<i64>) -> Result<(), ApiError> {
    match n.unwrap_or(1) {
        1 => Ok(()),
        several => Err(ApiError::invalid("n", format!("`n` must be 1 here, got {several}"))),
    }
}

fn answered(state: &AppState, hold: Hold, job: ChatJob) -> Parts {
    match job.search.clone() {
        Some(plan) => {
            let choices = job.drawing.choices;
            let checks = plan.checks.iter().map(|planned| planned.check.clone()).collect();
            let (kept, traffic) = (state.kept.of(hold.behalf.tenant.id), state.traffic.clone());
            let heartbeat = state.settings.http.heartbeat;
            let task = Task { namespace: hold.behalf.origin.namespace, ..task(job, checks) };
            let work = SearchWork { plan, task, choices, heartbeat, kept, traffic };
            answer::searched(hold, work).boxed()
        }
        None => {
            let scoring = echo::scoring(None, job.drawing.prompt_logprobs);
            answer::plain(hold, vec![request(job)], scoring).boxed()
        }
    }
}

/// Checks a request of this caller.
pub(super) fn made(
    state: &AppState,
    tenant: &Tenant,
    chosen: &Chosen,
    mut asked: ChatRequest,
    rules: Rules,
) -> Result<ChatJob, ApiError> {
    let alias = asked.drawing.model.as_deref().is_some_and(|name| name.ends_with(":search"));
    let searches = asked.search_budget.map_or(asked.search.is_some() || alias, |budget| budget > 0);
    tenant.cap_budget(&mut asked, searches, state.settings.search.search_budget)?;
    let job = ChatJob::from_wire(asked, rules, &state.bounds(chosen))?;
    if job.drawing.sampling.rules.prompt_tail.is_some() {
        return Ok(job);
    }
    // What templates always show: an assistant's turns may lose their reasoning.
    let shown = job.messages.iter().filter(|message| message.role != Role::Assistant);
    fits(chosen.pinned.actor.engine.as_ref(), shown.map(|message| message.content.len()).sum())?;
    Ok(job)
}

fn ask(job: &ChatJob) -> Ask {
    let ask = match &job.search {
        Some(plan) => Ask::search(job.drawing.choices, plan.config.budget),
        None => Ask::plain(job.drawing.choices),
    };
    ask.at(job.drawing.priority)
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
        // Its calls have seeds of their own.
        sampling: Sampling { wire_seed: WireSeed::Derived, ..job.drawing.sampling },
        max_tokens: job.max_tokens,
        stop: job.drawing.stop,
        logprobs: job.logprobs,
        constraint: job.constraint.map(|asked| asked.constraint),
        checks,
        offer: job.offer,
        namespace: Namespace::SHARED,
    }
}
