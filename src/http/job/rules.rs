//! The rules that a search's answer is checked for: named by the request, or found in its conversation.
//!
//! Clients' words become expressions here, and conversations are read from end to end, so all of it is work for threads that
//! may block, a few at once.

use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tokio::sync::Semaphore;

use super::turns::conversation;
use crate::chat::Message;
use crate::config::SearchArgs;
use crate::http::error::ApiError;
use crate::openai::{ChatMessage, ChatRequest, CheckSpec, ChecksMode, ChecksOption, PlannedCheck, SearchOptions};
use crate::search::{Judge, Mode};
use crate::verify::find::{FoundCheck, find_checks};
use crate::verify::{Allowance, Check};

/// Checks of one request.
const MOST_CHECKS: usize = 64;

/// What an answer is checked for; nothing where it is not searched for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rules(pub Vec<PlannedCheck>);

impl Rules {
    /// The rules of `body`'s search, by the server's `settings` where it names none.
    ///
    /// # Errors
    /// Names the check, and its argument, that cannot be used.
    pub async fn of(body: &ChatRequest, settings: &SearchArgs) -> Result<Self, ApiError> {
        let alias = body.drawing.model.as_ref().is_some_and(|model| model.ends_with(":search"));
        if body.search_budget.is_none() && body.search.is_none() && !alias {
            return Ok(Self::default());
        }
        let none = SearchOptions::default();
        let options = body.search.as_ref().unwrap_or(&none);
        let mode = options.mode.unwrap_or(settings.defaults().mode);
        match &options.checks {
            Some(ChecksOption::List(specs)) => named(specs.clone()).await,
            Some(ChecksOption::Found(ChecksMode::Off)) => Ok(Self::default()),
            Some(ChecksOption::Found(ChecksMode::Auto)) => Self::found(&body.messages).await,
            // A client that leaves the judging to the model, or wants the paper's search, did not ask for rules.
            None if options.judge == Some(Judge::Model) || mode == Mode::Paper => Ok(Self::default()),
            None if settings.checks == ChecksMode::Off => Ok(Self::default()),
            None => Self::found(&body.messages).await,
        }
    }

    async fn found(messages: &[ChatMessage]) -> Result<Self, ApiError> {
        let planned = |FoundCheck { check, words }| PlannedCheck { check, words: Some(words) };
        Ok(Self(found(conversation(messages)?).await?.into_iter().map(planned).collect()))
    }
}

/// The checks that a conversation asks for.
///
/// # Errors
/// A finder failed.
pub async fn found(conversation: Vec<Message>) -> Result<Vec<FoundCheck>, ApiError> {
    apart(move || find_checks(&conversation)).await
}

async fn named(specs: Vec<CheckSpec>) -> Result<Rules, ApiError> {
    if specs.len() > MOST_CHECKS {
        let message = format!("`search.checks` must hold at most {MOST_CHECKS} checks, got {}", specs.len());
        return Err(ApiError::invalid("search.checks", message));
    }
    apart(move || {
        let mut allowance = Allowance::default();
        let check = |(index, spec): (usize, CheckSpec)| {
            let check = Check::within(&spec.id, spec.kwargs, &mut allowance).map_err(|error| {
                let check = format!("search.checks[{index}]");
                let param = error.argument.as_ref().map_or(check.clone(), |path| format!("{check}.kwargs.{path}"));
                ApiError::invalid(&param, format!("`{param}`: {error}"))
            })?;
            Ok(PlannedCheck { check, words: None })
        };
        specs.into_iter().enumerate().map(check).collect::<Result<_, _>>().map(Rules)
    })
    .await?
}

/// Does `work` on a thread that may block, when there is one; what nobody waits for any more is not begun.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    static THREADS: LazyLock<Arc<Semaphore>> =
        LazyLock::new(|| Arc::new(Semaphore::new(available_parallelism().map_or(2, usize::from))));
    let thread = Arc::clone(&THREADS).acquire_owned().await.expect("the semaphore is never closed");
    let working = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(thread);
        done
    });
    working.await.map_err(|_| ApiError::Failed("reading a request's checks failed".into()))
}
