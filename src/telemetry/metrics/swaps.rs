//! Which weights are live, and swaps of them.

use std::time::Duration;

use metrics::{counter, histogram};

use super::label_value;
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

/// The live pair of a served model as Prometheus text. It is made of what is live rather than recorded, since a recorder keeps
/// every label that there ever was.
pub fn generation_info(live: &Ids, model: &str) -> String {
    let (name, model) = ("spar_generation_info", label_value(model));
    let line = |role| {
        let (role, generation) = (role_label(role), live.role(role));
        format!("{name}{{model=\"{model}\",role=\"{role}\",generation=\"{generation}\"}} 1\n")
    };
    let lines = Role::ALL.map(line).concat();
    format!("# HELP {name} The live generation of each role\n# TYPE {name} gauge\n{lines}\n")
}

/// The result of a swap.
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
