//! What a render costs: every copy, comparison and search of a value is paid for from a budget, before it is made.

use std::cell::Cell;

use minijinja::value::{Kwargs, Rest, StringInput, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, Value, escape_formatter, filters};
use minijinja_contrib::pycompat;

/// The filter that pays for all of a value.
pub(super) const WEIGHED: &str = "spar_weighed";
/// The filter that pays for a string alone.
pub(super) const SIZED: &str = "spar_sized";
/// The filter that pays for what a namespace keeps.
pub(super) const KEPT: &str = "spar_kept";
/// The filter that pays for a side of a product.
pub(super) const FACTOR: &str = "spar_factor";

/// Lists in lists, at most. Deeper ones would overflow the stack where they are written or dropped.
const DEPTH: usize = 64;
/// Weight of a value that may be repeated.
const REPEATED: u64 = 256;
/// How often a value may be repeated, and the longest list or line that a filter is asked for.
const TIMES: u64 = 100_000;

thread_local! {
    /// What is left for the render on this thread.
    static LEFT: Cell<u64> = const { Cell::new(u64::MAX) };
}

/// A budget of this thread, until it is dropped.
pub(super) struct Budget(u64);

impl Budget {
    pub(super) fn begin(bytes: u64) -> Self {
        Self(LEFT.replace(bytes))
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        LEFT.set(self.0);
    }
}

/// Takes so many bytes off the budget.
pub(super) fn spend(bytes: u64) -> Result<(), Error> {
    match LEFT.get().checked_sub(bytes) {
        Some(left) => {
            LEFT.set(left);
            Ok(())
        }
        None => Err(refused("it reads and copies too much text")),
    }
}

fn refused(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// Bytes of the strings in a value, and one for each value.
pub(super) fn size(value: &Value) -> u64 {
    let _unlimited = Budget::begin(u64::MAX);
    match pay(value, DEPTH) {
        Ok(()) => u64::MAX - LEFT.get(),
        Err(_) => 0,
    }
}

fn pay(value: &Value, depth: usize) -> Result<(), Error> {
    spend(1)?;
    let deeper = depth.checked_sub(1).ok_or_else(|| refused("a value is nested too deeply"));
    match value.kind() {
        ValueKind::String => spend(value.as_str().map_or(0, str::len) as u64),
        ValueKind::Bytes => spend(value.as_bytes().map_or(0, <[u8]>::len) as u64),
        // What has no length may be read once only.
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            let depth = deeper?;
            value.try_iter()?.try_for_each(|item| pay(&item, depth))
        }
        ValueKind::Map => {
            let depth = deeper?;
            value.try_iter()?.try_for_each(|key| {
                pay(&key, depth)?;
                pay(&value.get_item(&key)?, depth)
            })
        }
        _ => Ok(()),
    }
}

/// Pays for a value and everything in it.
pub(super) fn weigh(value: &Value) -> Result<(), Error> {
    pay(value, DEPTH)
}

fn weighed(value: Value) -> Result<Value, Error> {
    weigh(&value)?;
    Ok(value)
}

/// A namespace that holds itself would never leave memory.
fn kept(value: Value) -> Result<Value, Error> {
    weigh(&value)?;
    if holds_namespace(&value) { Err(refused("a namespace cannot be kept in a namespace")) } else { Ok(value) }
}

/// Of a value that was weighed, so that it is not too deep.
fn holds_namespace(value: &Value) -> bool {
    let items = || value.try_iter().into_iter().flatten();
    match value.kind() {
        _ if value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace")) => true,
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => items().any(|item| holds_namespace(&item)),
        ValueKind::Map => items().any(|key| value.get_item(&key).is_ok_and(|item| holds_namespace(&item))),
        _ => false,
    }
}

fn sized(value: Value) -> Result<Value, Error> {
    spend(value.as_str().map_or(1, str::len) as u64)?;
    Ok(value)
}

/// A side of a product is a number, or something short that is repeated.
fn factor(value: Value) -> Result<Value, Error> {
    if let Some(times) = value.as_usize().filter(|_| value.is_integer()) {
        let times = times as u64;
        if times > TIMES {
            return Err(refused("a product has a side above 100000"));
        }
        spend(times.saturating_mul(REPEATED))?;
    } else if !value.is_number() {
        let before = LEFT.get();
        weigh(&value)?;
        if before - LEFT.get() > REPEATED {
            return Err(refused("only short values can be repeated"));
        }
    }
    Ok(value)
}

/// Adds the meters, and filters and methods that pay for what they make.
pub(super) fn add_to(environment: &mut Environment<'static>) {
    environment.add_filter(WEIGHED, weighed);
    environment.add_filter(SIZED, sized);
    environment.add_filter(KEPT, kept);
    environment.add_filter(FACTOR, factor);
    environment.add_filter("replace", replace);
    environment.add_filter("join", join);
    environment.add_filter("indent", indent);
    environment.add_filter("format", format);
    environment.add_filter("batch", batch);
    environment.add_filter("slice", slice);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(|out, state, value| {
        weigh(value)?;
        escape_formatter(out, state, value)
    });
}

/// Pays for what replacing adds.
fn pay_for_replaced(text: &str, from: &str, to: &str) -> Result<(), Error> {
    spend(text.len() as u64)?;
    if to.len() > from.len() {
        spend((text.matches(from).count() as u64).saturating_mul(to.len() as u64))?;
    }
    Ok(())
}

fn replace(
    state: &State<'_, '_>,
    value: StringInput<'_>,
    from: StringInput<'_>,
    to: StringInput<'_>,
) -> Result<Value, Error> {
    pay_for_replaced(value.as_str(), from.as_str(), to.as_str())?;
    filters::replace(state, value, from, to)
}

/// Pays for a list that is joined.
fn pay_for_joined(list: &Value, joiner: &str) -> Result<(), Error> {
    weigh(list)?;
    spend((list.len().unwrap_or(0) as u64).saturating_mul(joiner.len() as u64))
}

fn join(state: &State<'_, '_>, value: &Value, joiner: Option<StringInput<'_>>) -> Result<Value, Error> {
    pay_for_joined(value, joiner.as_ref().map_or("", StringInput::as_str))?;
    filters::join(state, value, joiner)
}

fn indent(
    value: StringInput<'_>,
    width: Option<usize>,
    first: Option<bool>,
    blank: Option<bool>,
    kwargs: Kwargs,
) -> Result<Value, Error> {
    let named = kwargs.peek::<Option<usize>>("width").ok().flatten();
    let columns = width.or(named).unwrap_or(4) as u64;
    if columns > TIMES {
        return Err(refused("a line is indented by more than 100000 columns"));
    }
    spend((value.as_str().lines().count() as u64 + 1).saturating_mul(columns))?;
    filters::indent(value, width, first, blank, kwargs)
}

/// Widths in a format would make a text of any length.
fn narrow(format: &str) -> Result<(), Error> {
    spend(format.len() as u64)?;
    let wide = format.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3);
    let taken = format.contains('*');
    if wide || taken { Err(refused("a format asks for more than 999 columns")) } else { Ok(()) }
}

fn format(state: &State<'_, '_>, value: &Value, args: Rest<Value>) -> Result<Value, Error> {
    narrow(value.as_str().unwrap_or_default())?;
    args.iter().try_for_each(weigh)?;
    filters::format(state, value, args)
}

fn few(count: usize) -> Result<(), Error> {
    spend(count as u64)?;
    if count as u64 > TIMES { Err(refused("a list is cut into more than 100000 parts")) } else { Ok(()) }
}

fn batch(state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    few(count)?;
    filters::batch(state, value, count, fill)
}

fn slice(state: &State<'_, '_>, value: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    few(count)?;
    filters::slice(state, value, count, fill)
}

/// Python's methods of strings, lists and dictionaries.
fn method(state: &State<'_, '_>, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(text) = value.as_str() {
        spend(text.len() as u64 + 1)?;
        match (method, args) {
            ("replace", [from, to, ..]) => {
                pay_for_replaced(text, from.as_str().unwrap_or_default(), to.as_str().unwrap_or_default())?;
            }
            ("join", [list]) => pay_for_joined(list, text)?,
            ("format", args) => {
                narrow(text)?;
                args.iter().try_for_each(weigh)?;
            }
            // An empty text is found everywhere, again and again.
            ("count", [found]) if found.as_str() == Some("") => return Ok(Value::from(text.chars().count() + 1)),
            _ => {}
        }
    }
    pycompat::unknown_method_callback(state, value, method, args)
}
