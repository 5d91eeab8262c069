//! What keys use, by the names that their file gives them; no other name ever becomes a label.

use std::sync::Arc;

use metrics::{counter, gauge};

/// Known label sets start at zero.
pub fn begin_key(name: &Arc<str>) {
    for kind in [TokenKind::Prompt, TokenKind::Generated] {
        key_tokens(name, kind, 0);
    }
    for gauge in ["spar_key_requests_running", "spar_key_requests_waiting"] {
        gauge!(gauge, "key" => name.to_string()).increment(0.0);
    }
}

/// Whose tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Of prompts that were sent to the model.
    Prompt,
    /// Of replies.
    Generated,
}

impl TokenKind {
    fn label(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Generated => "generated",
        }
    }
}

/// A key's calls used tokens.
pub fn key_tokens(name: &Arc<str>, kind: TokenKind, tokens: usize) {
    counter!("spar_key_tokens_total", "key" => name.to_string(), "kind" => kind.label()).increment(tokens as u64);
}

/// Counts a key's request as long as it lives.
pub struct KeyGauge {
    gauge: &'static str,
    name: Arc<str>,
}

impl KeyGauge {
    /// A request that is being answered.
    pub fn running(name: &Arc<str>) -> Self {
        Self::begin("spar_key_requests_running", name)
    }

    /// A request that waits.
    pub fn waiting(name: &Arc<str>) -> Self {
        Self::begin("spar_key_requests_waiting", name)
    }

    fn begin(gauge: &'static str, name: &Arc<str>) -> Self {
        gauge!(gauge, "key" => name.to_string()).increment(1.0);
        Self { gauge, name: Arc::clone(name) }
    }
}

impl Drop for KeyGauge {
    fn drop(&mut self) {
        gauge!(self.gauge, "key" => self.name.to_string()).decrement(1.0);
    }
}
