//! How much the caches of prefixes hold, model by model.

use std::fmt::Write;

use crate::engine::generation::{Pinned, Role};

/// The live models' caches as Prometheus text: bytes that are kept for later prompts, and how many may be. A cache that both
/// roles share is one. It is made of what is live, as the generations are: models that are gone leave no series.
pub fn prefix_caches(live: &Pinned) -> String {
    let shared = live.actor.shares_weights(&live.refiner);
    let roles: &[(&str, Role)] =
        if shared { &[("both", Role::Actor)] } else { &[("actor", Role::Actor), ("refiner", Role::Refiner)] };
    let mut text = String::new();
    let names = [
        ("spar_prefix_cache_bytes", "Bytes of keys and values that are kept for later prompts, by whose model it is"),
        ("spar_prefix_cache_limit_bytes", "Bytes of keys and values that are kept for later prompts at most"),
    ];
    for (index, (name, help)) in names.into_iter().enumerate() {
        let lines = roles.iter().filter_map(|&(label, role)| {
            let engine = live.role(role).engine.native()?;
            Some(format!("{name}{{role=\"{label}\"}} {}\n", engine.counters().kept_bytes()[index]))
        });
        let lines: String = lines.collect();
        if !lines.is_empty() {
            write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{lines}\n").expect("a string can be written to");
        }
    }
    text
}
