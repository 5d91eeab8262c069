//! Requests: how they end, wait and are refused, and when their tokens come.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

/// Known label sets start at zero.
pub(super) fn begin() {
    for reason in [Rejection::QueueFull, Rejection::TokensSpent, Rejection::Deadline, Rejection::ShuttingDown] {
        counter!("spar_requests_rejected_total", "reason" => reason.label()).increment(0);
    }
    for mode in [Answering::Plain, Answering::Search] {
        for reason in [Ended::Stop, Ended::Length, Ended::Abort, Ended::Error] {
            counter!("spar_answers_total", "mode" => mode.label(), "reason" => reason.label()).increment(0);
        }
    }
    gauge!("spar_requests_running").increment(0.0);
    gauge!("spar_requests_waiting").increment(0.0);
}

/// A response went out in full, or its client went away.
pub fn request_ended(route: &'static str, status: u16, took: Duration) {
    counter!("spar_http_requests_total", "route" => route, "status" => status.to_string()).increment(1);
    histogram!("spar_http_request_duration_seconds", "route" => route).record(took);
}

/// Why a request was refused before it ran.
#[derive(Clone, Copy, Debug)]
pub enum Rejection {
    /// Too many were waiting.
    QueueFull,
    /// Its key has used its tokens of this minute.
    TokensSpent,
    /// Time was up while it waited.
    Deadline,
    /// The server is on its way out.
    ShuttingDown,
}

impl Rejection {
    fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TokensSpent => "tokens_per_minute",
            Self::Deadline => "deadline",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// A request was refused before it ran.
pub fn request_rejected(reason: Rejection) {
    counter!("spar_requests_rejected_total", "reason" => reason.label()).increment(1);
}

/// Counts something as long as it lives.
pub struct Counted(&'static str);

impl Counted {
    /// A request that is being answered.
    pub fn running() -> Self {
        Self::begin("spar_requests_running")
    }

    /// A request that waits.
    pub fn waiting() -> Self {
        Self::begin("spar_requests_waiting")
    }

    pub(super) fn begin(name: &'static str) -> Self {
        gauge!(name).increment(1.0);
        Self(name)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!(self.0).decrement(1.0);
    }
}

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// An answer without a search.
    Plain,
    /// Judged and refined.
    Search,
}

impl Answering {
    /// The mode's name, in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Search => "search",
        }
    }
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The model ended it.
    Stop,
    /// It has as many tokens as it may have.
    Length,
    /// The client disconnected.
    Abort,
    /// The answer failed.
    Error,
}

impl Ended {
    /// The reason's name, in metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
            Self::Error => "error",
        }
    }
}

/// An answer ended.
pub fn answer_ended(mode: Answering, reason: Ended) {
    counter!("spar_answers_total", "mode" => mode.label(), "reason" => reason.label()).increment(1);
}

/// A request's turn came.
pub fn queued(mode: Answering, waited: Duration) {
    histogram!("spar_queue_time_seconds", "mode" => mode.label()).record(waited);
}

/// A plain request's time from its turn to its first token, and from there to its last one.
pub fn computed(prefill: Duration, decode: Duration) {
    histogram!("spar_prefill_seconds").record(prefill);
    histogram!("spar_decode_seconds").record(decode);
}

/// The lengths of a request that was answered, in tokens.
pub fn lengths(mode: Answering, prompt: usize, generated: usize) {
    histogram!("spar_request_prompt_tokens", "mode" => mode.label()).record(prompt as f64);
    histogram!("spar_request_generation_tokens", "mode" => mode.label()).record(generated as f64);
}

/// The answer's first token was made.
pub fn first_token(mode: Answering, after: Duration) {
    histogram!("spar_time_to_first_token_seconds", "mode" => mode.label()).record(after);
}

/// Another token was made.
pub fn next_token(mode: Answering, after: Duration) {
    histogram!("spar_inter_token_latency_seconds", "mode" => mode.label()).record(after);
}

/// The answer is complete.
pub fn answered(mode: Answering, after: Duration) {
    histogram!("spar_e2e_request_latency_seconds", "mode" => mode.label()).record(after);
}
