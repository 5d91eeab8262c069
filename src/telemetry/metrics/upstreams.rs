//! The upstreams of a fleet as Prometheus text. It is made of the fleet as it is rather than recorded, since a recorder keeps every label
//! that there ever was, and the list of upstreams changes.

use std::sync::Arc;

use super::label_value;
use crate::engine::generation::Pinned;
use crate::engine::upstream::fleet::{Circuit, Fleet, SECONDS, State, View};

/// A metric's name, type and help text.
type Metric = (&'static str, &'static str, &'static str);

const CALLS: Metric = ("spar_upstream_calls_total", "counter", "Calls of an upstream by how they ended");
const ERRORS: Metric = ("spar_upstream_errors_total", "counter", "Failed calls of an upstream by what went wrong");
const RETRIES: Metric = ("spar_upstream_retries_total", "counter", "Failed calls of an upstream that were sent again");
const HEDGES: Metric =
    ("spar_upstream_hedges_total", "counter", "Calls sent to another upstream as well, since this one was slow");
const IN_FLIGHT: Metric = ("spar_upstream_in_flight", "gauge", "Replies that an upstream has at present");
const STATE: Metric = ("spar_upstream_state", "gauge", "1 for the state of an upstream: only a ready one takes calls");
const CIRCUIT: Metric = ("spar_upstream_circuit", "gauge", "1 for the state of an upstream's circuit breaker");
const FIRST_TOKEN: Metric =
    ("spar_upstream_first_token_seconds", "histogram", "From a call of an upstream to its first token");
const RELOADS: Metric =
    ("spar_upstream_reloads_total", "counter", "Changed lists of upstreams, by whether they were taken over");

/// Every upstream of the live pair; nothing where no fleet answers.
pub fn upstreams(live: &Pinned) -> String {
    live.fleet().map(render).unwrap_or_default()
}

fn render(fleet: &Arc<Fleet>) -> String {
    let views = fleet.views();
    let mut text = String::new();
    let mut family = |(name, kind, help): Metric, lines: String| {
        text += &format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}\n");
    };
    let counted = |view: &View| view.counted.clone();
    family(
        CALLS,
        lines(&views, |view| {
            let found = counted(view);
            [("answered", found.answered), ("failed", found.failed), ("cancelled", found.cancelled)]
                .map(|(result, count)| line(CALLS.0, view, &format!(",result=\"{result}\""), count))
                .concat()
        }),
    );
    family(
        ERRORS,
        lines(&views, |view| {
            let errors = counted(view).errors;
            let kind = |(kind, count): (crate::engine::upstream::fleet::Kind, u64)| {
                line(ERRORS.0, view, &format!(",kind=\"{}\"", kind.label()), count)
            };
            errors.into_iter().map(kind).collect()
        }),
    );
    family(RETRIES, lines(&views, |view| line(RETRIES.0, view, "", counted(view).retries)));
    family(HEDGES, lines(&views, |view| line(HEDGES.0, view, "", counted(view).hedges)));
    family(IN_FLIGHT, lines(&views, |view| line(IN_FLIGHT.0, view, "", view.in_flight)));
    family(
        STATE,
        lines(&views, |view| {
            let state = |state: State| {
                line(STATE.0, view, &format!(",state=\"{}\"", state.label()), u8::from(state == view.state))
            };
            State::ALL.map(state).concat()
        }),
    );
    family(
        CIRCUIT,
        lines(&views, |view| {
            let circuit = |circuit: Circuit| {
                line(CIRCUIT.0, view, &format!(",state=\"{}\"", circuit.label()), u8::from(circuit == view.circuit))
            };
            Circuit::ALL.map(circuit).concat()
        }),
    );
    family(FIRST_TOKEN, lines(&views, histogram));
    let reloads = |(result, count): (&str, u64)| format!("{}{{result=\"{result}\"}} {count}\n", RELOADS.0);
    family(RELOADS, ["taken", "refused"].into_iter().zip(fleet.reloads()).map(reloads).collect());
    text
}

fn lines(views: &[View], of: impl Fn(&View) -> String) -> String {
    views.iter().map(of).collect()
}

fn line(name: &str, view: &View, labels: &str, value: impl std::fmt::Display) -> String {
    format!("{name}{{upstream=\"{}\"{labels}}} {value}\n", label_value(&view.name))
}

/// The buckets of a histogram count what is at most their bound.
fn histogram(view: &View) -> String {
    let name = FIRST_TOKEN.0;
    let bounds = SECONDS.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
    let mut count = 0;
    let buckets: String = bounds
        .zip(&view.counted.first_token)
        .map(|(bound, own)| {
            count += own;
            line(&format!("{name}_bucket"), view, &format!(",le=\"{bound}\""), count)
        })
        .collect();
    let sum = line(&format!("{name}_sum"), view, "", view.counted.first_token_seconds);
    buckets + &sum + &line(&format!("{name}_count"), view, "", count)
}
