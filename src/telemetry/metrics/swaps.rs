//! Which weights are live, and swaps of them.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::engine::generation::Role;
use crate::engine::generation::registry::Ids;
use crate::swap::Scope;

/// Known label sets start at zero.
pub(super) fn begin() {
    for scope in [Scope::One(Role::Actor), Scope::One(Role::Refiner), Scope::Both] {
        for result in SwapResult::ALL {
            counter!("spar_swaps_total", "role" => scope_label(scope), "result" => result.label()).increment(0);
        }
    }
}

fn role_label(role: Role) -> &'static str {
    match role {
        Role::Actor => "actor",
        Role::Refiner => "refiner",
    }
}

/// `generation` is live in `role`.
pub fn generation_live(role: Role, generation: &str) {
    gauge!("spar_generation_info", "role" => role_label(role), "generation" => generation.to_owned()).set(1.0);
}

/// `after` is live in place of `before`.
pub fn generations_live(before: &Ids, after: &Ids) {
    for role in Role::ALL {
        let (old, new) = (before.role(role), after.role(role));
        if old != new {
            gauge!("spar_generation_info", "role" => role_label(role), "generation" => old.to_owned()).set(0.0);
            generation_live(role, new);
        }
    }
}

/// What a swap came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapResult {
    /// Other weights are live.
    Live,
    /// They could be.
    DryRun,
    /// They are not accepted.
    Refused,
    /// Another generation was live than expected.
    Conflict,
    /// Another swap was running.
    Busy,
}

impl SwapResult {
    const ALL: [Self; 5] = [Self::Live, Self::DryRun, Self::Refused, Self::Conflict, Self::Busy];

    fn label(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::DryRun => "dry_run",
            Self::Refused => "refused",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
        }
    }
}

fn scope_label(scope: Scope) -> &'static str {
    match scope {
        Scope::One(role) => role_label(role),
        Scope::Both => "both",
    }
}

/// A swap ended.
pub fn swap_ended(scope: Scope, result: SwapResult, took: Duration) {
    let (role, result) = (scope_label(scope), result.label());
    counter!("spar_swaps_total", "role" => role, "result" => result).increment(1);
    histogram!("spar_swap_duration_seconds", "role" => role, "result" => result).record(took);
}
