//! Whether the judge can be read at all, and whether it distinguishes a right answer from a wrong one: tried once the model answers.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;

use crate::chat::Message;
use crate::config::SearchArgs;
use crate::http::served::{self, Served};
use crate::openai::JudgeState;
use crate::search::{Judge, SearchConfig, Task, judge};
use crate::telemetry::metrics;

/// What the judge is asked about.
const PROMPT: &str = "Describe what the river does. Use only lowercase letters.";
const RIGHT: &str = "the quiet river runs to the sea.";
const WRONG: &str = "THE QUIET RIVER Runs To The SEA.";
/// How much more probable the right answer must be: a difference of less is no knowledge.
const MARGIN: f64 = 0.1;
/// A judge that needs longer is not waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// The last trial's result, and the generation that was tried.
#[derive(Default)]
pub(super) struct JudgeCanary {
    state: AtomicU8,
    tried: Mutex<Option<String>>,
}

const STATES: [JudgeState; 4] =
    [JudgeState::Untried, JudgeState::Able, JudgeState::Indifferent, JudgeState::Unreadable];

impl JudgeCanary {
    /// What was found last.
    pub fn state(&self) -> JudgeState {
        STATES.get(usize::from(self.state.load(Ordering::Relaxed))).copied().unwrap_or_default()
    }

    /// Tries the judge again where its weights were swapped since the last trial.
    pub async fn try_new(&self, served: &Served, search: &SearchArgs) {
        let live = served::ids(&served.pin()).refiner;
        let was_tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner).as_ref() == Some(&live);
        if search.try_judge && !was_tried {
            self.try_out(served, search).await;
        }
    }

    /// Asks the judge about a right and a wrong answer, and says what it made of them.
    pub async fn try_out(&self, served: &Served, search: &SearchArgs) {
        let pinned = served.pin();
        *self.tried.lock().unwrap_or_else(PoisonError::into_inner) = Some(served::ids(&pinned).refiner);
        let config = SearchConfig { judge: Judge::Model, ..search.defaults() };
        let task = Task::chat(vec![Message::user(PROMPT)]);
        let rate = async |response| match judge(served::of(&pinned), &config, &task, response).await {
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
            (Some(right), Some(wrong)) if right - wrong >= MARGIN => JudgeState::Able,
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
                "the judge rates a wrong answer as high as a right one: it is not asked where rules are found, unless a request names it"
            ),
            JudgeState::Unreadable => tracing::warn!(
                "no verdict can be read from the judge: searches without rules return their draft (judge_unreadable)"
            ),
        }
        metrics::judge_tried(found);
        self.found(found);
    }

    fn found(&self, state: JudgeState) {
        let index = STATES.iter().position(|known| *known == state).unwrap_or_default();
        self.state.store(index as u8, Ordering::Relaxed);
    }
}
