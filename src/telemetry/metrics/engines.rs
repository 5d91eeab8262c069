//! Calls of models, and what engines count themselves.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::engine::counters::EngineCounters;
use crate::engine::grammar::shared_memory;
#[cfg(feature = "mistral")]
use crate::engine::mistral::Restart;
use crate::engine::{EngineError, Purpose};

/// Known label sets start at zero.
pub(super) fn begin() {
    for purpose in [Purpose::Answer, Purpose::Judge, Purpose::Refine] {
        tokens_sent(purpose, 0);
        tokens_generated(purpose, 0);
    }
    for kind in ["prompt_too_long", "unsupported", "invalid", "constraint", "unavailable", "crashed"] {
        counter!("spar_engine_errors_total", "kind" => kind).increment(0);
    }
    for kind in ["engine", "model"] {
        counter!("spar_engine_restarts_total", "kind" => kind).increment(0);
    }
    items_scored(0);
    publish_engines();
}

fn purpose_label(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Answer => "answer",
        Purpose::Judge => "judge",
        Purpose::Refine => "refine",
    }
}

/// A prompt went to the model; siblings share it.
pub fn tokens_sent(purpose: Purpose, tokens: usize) {
    counter!("spar_prompt_tokens_total", "purpose" => purpose_label(purpose)).increment(tokens as u64);
}

/// The model generated tokens.
pub fn tokens_generated(purpose: Purpose, tokens: usize) {
    counter!("spar_generation_tokens_total", "purpose" => purpose_label(purpose)).increment(tokens as u64);
}

/// Verdicts were read as probabilities of labels.
pub fn items_scored(questions: usize) {
    counter!("spar_scored_items_total").increment(questions as u64);
}

/// A reply ended or was dropped.
pub fn call_ended(purpose: Purpose, took: Duration) {
    histogram!("spar_engine_call_duration_seconds", "purpose" => purpose_label(purpose)).record(took);
}

/// A model call failed.
pub fn call_failed(error: &EngineError) {
    counter!("spar_engine_errors_total", "kind" => failure_label(error)).increment(1);
}

/// The word by which metrics and traces name the kind of a failure.
pub fn failure_label(error: &EngineError) -> &'static str {
    match error {
        EngineError::PromptTooLong { .. } => "prompt_too_long",
        EngineError::Unsupported(_) => "unsupported",
        EngineError::Invalid(_) | EngineError::Prompt(_) => "invalid",
        EngineError::Constraint(_) => "constraint",
        EngineError::Unavailable(_) => "unavailable",
        EngineError::Crashed(_) => "crashed",
        EngineError::Upstream(_) => "upstream",
    }
}

/// An engine's counters, and how much of them is published.
struct Watched {
    counters: Arc<EngineCounters>,
    reused: u64,
    computed: u64,
    accepted: u64,
    rejected: u64,
    restarts: u64,
}

static WATCHED: Mutex<Vec<Watched>> = Mutex::new(Vec::new());

/// The engine's counters are published from now on. Those of dropped engines leave memory, even if no metrics are read.
pub fn watch_engine(counters: Arc<EngineCounters>) {
    publish_engines();
    let watched = Watched { counters, reused: 0, computed: 0, accepted: 0, rejected: 0, restarts: 0 };
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
}

/// Brings what engines count themselves up to date; called before metrics are rendered.
pub fn publish_engines() {
    let (mut running, mut kept, mut most_running, mut most_kept) = (0, 0, 0, 0);
    let news = |now: &AtomicU64, published: &mut u64| {
        let now = now.load(Ordering::Relaxed);
        now - std::mem::replace(published, now)
    };
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner).retain_mut(|engine| {
        let Watched { counters, reused, computed, accepted, rejected, restarts } = engine;
        // A dropped engine's counters are published once more.
        let lives = Arc::strong_count(counters) > 1;
        counter!("spar_prefix_tokens_reused_total").increment(news(&counters.prompt_tokens_reused, reused));
        counter!("spar_prompt_tokens_computed_total").increment(news(&counters.prompt_tokens_computed, computed));
        speculated("accepted", news(&counters.speculated_accepted, accepted));
        speculated("rejected", news(&counters.speculated_rejected, rejected));
        counter!("spar_engine_restarts_total", "kind" => "engine").increment(news(&counters.restarts, restarts));
        running += counters.running_blocks();
        kept += counters.kept_blocks.load(Ordering::Relaxed);
        most_running += counters.most_running.load(Ordering::Relaxed);
        most_kept += counters.most_kept.load(Ordering::Relaxed);
        lives
    });
    gauge!("spar_kv_blocks", "state" => "running").set(running as f64);
    gauge!("spar_kv_blocks", "state" => "kept").set(kept as f64);
    // Without an engine that has a cache of its own nothing is used.
    let share = |blocks: usize, most: usize| blocks as f64 / most.max(1) as f64;
    gauge!("spar_kv_usage_ratio", "state" => "running").set(share(running, most_running));
    gauge!("spar_kv_usage_ratio", "state" => "kept").set(share(kept, most_kept));
    let grammars = shared_memory().bytes();
    gauge!("spar_grammar_bytes", "state" => "running").set(grammars.running as f64);
    gauge!("spar_grammar_bytes", "state" => "kept").set(grammars.kept as f64);
    counter!("spar_prefix_tokens_reused_total").increment(0);
    counter!("spar_prompt_tokens_computed_total").increment(0);
    speculated("accepted", 0);
    speculated("rejected", 0);
}

fn speculated(result: &'static str, tokens: u64) {
    counter!("spar_speculated_tokens_total", "result" => result).increment(tokens);
}

/// A failed engine came back.
#[cfg(feature = "mistral")]
pub fn engine_restarted(restart: Restart) {
    let kind = match restart {
        Restart::Engine => "engine",
        Restart::Model => "model",
    };
    counter!("spar_engine_restarts_total", "kind" => kind).increment(1);
}
