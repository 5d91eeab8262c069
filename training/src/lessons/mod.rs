//! What a refiner can learn from responses whose truth is decided by rules: judge turns, critiques that quote and count, and refinements.
//!
//! [`cases`] judges a model's own responses and adds near misses by [`damage`] and [`repair`]; [`evidence`] and [`critique`] put the truth
//! into words; [`turns`] chooses balanced turns and renders them with the server's own templates.

pub mod cases;
pub mod count;
pub mod critique;
pub mod damage;
pub mod evidence;
mod layout;
pub mod repair;
mod text;
pub mod turns;

use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use spar::verify::Check;

/// The random numbers of an edit. A seed and a prompt's position determine all of them.
pub type Draws = ChaCha8Rng;

/// What an edit may use in addition to the response itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Material<'a> {
    /// Other responses to the same prompt.
    pub others: &'a [&'a str],
}

/// A string argument of a rule; empty if there is none.
fn given<'a>(check: &'a Check, name: &str) -> &'a str {
    check.kwargs.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A list of strings among the arguments of a rule.
fn listed<'a>(check: &'a Check, name: &str) -> Vec<&'a str> {
    let items = check.kwargs.get(name).and_then(Value::as_array);
    items.map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// A whole number among the arguments of a rule.
fn number(check: &Check, name: &str) -> usize {
    let value = check.kwargs.get(name).and_then(Value::as_f64).unwrap_or_default();
    if value.is_finite() && value > 0.0 { value as usize } else { 0 }
}
