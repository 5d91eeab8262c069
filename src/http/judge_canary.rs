//! Whether the judge can be read at all, and whether it distinguishes a right answer from a wrong one: tried once the model answers.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{AppState, models};
use crate::chat::Message;
use crate::search::{self, Judge, SearchConfig, Task};
use crate::telemetry::metrics;

/// What the judge is asked about.
const PROMPT: &str = "Describe what the river does. Use only lowercase letters.";
const RIGHT: &str = "the quiet river runs to the sea.";
const WRONG: &str = "THE QUIET RIVER Runs To The SEA.";
/// A judge that needs longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is known of the judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JudgeState {
    /// It was not tried yet, or could not be.
    #[default]
    Untried,
    /// It rates a right answer above a wrong one.
    Able,
    /// Its verdicts can be read, but it rates a wrong answer no lower than a right one.
    Indifferent,
    /// No verdict can be read from it: searches need rules.
    Unreadable,
}

/// The last trial's result.
#[derive(Default)]
pub(super) struct JudgeCanary(AtomicU8);

const STATES: [JudgeState; 4] =
    [JudgeState::Untried, JudgeState::Able, JudgeState::Indifferent, JudgeState::Unreadable];

impl JudgeCanary {
    /// What was found last.
    pub fn state(&self) -> JudgeState {
        STATES.get(usize::from(self.0.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    fn found(&self, state: JudgeState) {
        let index = STATES.iter().position(|known| *known == state).unwrap_or_default();
        self.0.store(index as u8, Ordering::Relaxed);
    }
}

/// Asks the judge about a right and a wrong answer, and says what it made of them.
pub(super) async fn try_judge(state: &AppState) {
    let pinned = state.served.pin();
    let config = SearchConfig { judge: Judge::Model, ..state.settings.search.defaults() };
    let task = Task::chat(vec![Message::user(PROMPT)]);
    let rate = async |response| match search::judge(models::of(&pinned), &config, &task, response).await {
        Ok(judgement) => Ok(judgement.value),
        Err(error) => Err(error),
    };
    let both = async { Ok((rate(RIGHT).await?, rate(WRONG).await?)) };
    let rated = match timeout(PATIENCE, both).await {
        Ok(Ok(rated)) => rated,
        Ok(Err::<_, crate::engine::EngineError>(error)) => {
            tracing::warn!(%error, "the judge could not be tried");
            return;
        }
        Err(_elapsed) => {
            tracing::warn!("the judge was not tried: it needs more than {PATIENCE:?} for two answers");
            return;
        }
    };
    let found = match rated {
        (Some(right), Some(wrong)) if right > wrong => JudgeState::Able,
        (Some(_), Some(_)) => JudgeState::Indifferent,
        _ => JudgeState::Unreadable,
    };
    let (right, wrong) = rated;
    match found {
        JudgeState::Able | JudgeState::Untried => {
            tracing::info!(right, wrong, "the judge distinguishes a right from a wrong answer")
        }
        JudgeState::Indifferent => tracing::warn!(
            right,
            wrong,
            "the judge rates a wrong answer no lower than a right one: trust searches only where rules are found"
        ),
        JudgeState::Unreadable => tracing::warn!(
            "no verdict can be read from the judge: searches without rules return their draft (judge_unreadable)"
        ),
    }
    metrics::judge_tried(found);
    state.judge.found(found);
}
