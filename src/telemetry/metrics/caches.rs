//! How much caches hold: of prefixes model by model, and of finished searches.

use std::fmt::Write;

use metrics::gauge;

use crate::engine::generation::{Pinned, Role};

/// Finished searches take so many bytes.
pub fn kept_searches(bytes: usize) {
    gauge!("spar_kept_search_bytes").set(bytes as f64);
}

/// Renders the live models' caches as Prometheus text: bytes that are kept for later prompts, and how many may be. A cache that both
/// roles share is one. The text is made from the live models, so that earlier models leave no series.
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
            let base = live.role(role).engine.base()?;
            Some(format!("{name}{{role=\"{label}\"}} {}\n", base.prefix_cache_bytes()[index]))
        });
        let lines: String = lines.collect();
        if !lines.is_empty() {
            write!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{lines}\n").expect("a string can be written to");
        }
    }
    text
}
