//! Reading calls from what a model says, as it says it.

use serde_json::{Map, Value};

use super::{Call, Choice, Format, Offer};
use crate::engine::FinishReason;

/// What a piece of a reply adds to the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text of the answer.
    Text(String),
    /// A whole call.
    Call(Call),
}

/// Reads a whole reply that ended for this reason: its text without the calls, and the calls.
pub fn read(offer: &Offer, reply: &str, reason: FinishReason) -> (String, Vec<Call>) {
    let mut reader = Reader::new(offer);
    let (mut text, mut calls) = (String::new(), Vec::new());
    for piece in reader.push(reply).into_iter().chain(reader.finish(reason)) {
        match piece {
            Piece::Text(more) => text.push_str(&more),
            Piece::Call(call) => calls.push(call),
        }
    }
    (text, calls)
}

/// Separates calls from text in a reply that comes in pieces. The result does not depend on how the pieces are cut.
///
/// What looks like a call but cannot be read as one is text, with its marks.
#[derive(Clone, Debug)]
pub struct Reader {
    format: Format,
    /// The names that a call without marks must have.
    names: Vec<String>,
    /// The schemas of Qwen Coder's parameters, by function and parameter.
    types: Vec<(String, Value)>,
    must_call: bool,
    state: State,
    /// The end of the reply that is neither text nor a call yet.
    held: String,
    calls: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    /// Nothing but white space has come.
    Start,
    /// The reader is within text.
    Text,
    /// The reader is after the opening mark, which is kept in case that no call follows.
    Body(String),
    /// The reader is after a call: marks and separators follow, then further calls or text.
    After,
    /// What looked like a call was none: all of the rest is text.
    Plain,
}

/// What can be said of the beginning of a call.
enum Found {
    /// Calls that end at this byte.
    Calls(Vec<Call>, usize),
    /// More has to come.
    Open,
    /// No call was found.
    None,
}

impl Reader {
    /// For a reply to a request that offers these functions.
    pub fn new(offer: &Offer) -> Self {
        Self {
            format: offer.format,
            names: offer.tools.iter().map(|tool| tool.name.clone()).collect(),
            types: offer.tools.iter().map(|tool| (tool.name.clone(), tool.parameters["properties"].clone())).collect(),
            must_call: offer.choice != Choice::Auto,
            state: State::Start,
            held: String::new(),
            calls: 0,
        }
    }

    /// How many calls were read.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Takes the next piece.
    pub fn push(&mut self, piece: &str) -> Vec<Piece> {
        self.held.push_str(piece);
        let mut pieces = Vec::new();
        while self.step(&mut pieces, false) {}
        joined(pieces)
    }

    /// Takes the end of the reply. What is held is text, unless it is a call that lacks nothing but its closing mark. Where the
    /// reply was cut off in the middle of a call, what there is of the call is dropped: it is neither a call nor text.
    pub fn finish(&mut self, reason: FinishReason) -> Vec<Piece> {
        if reason == FinishReason::Length && (self.is_within_call() || self.is_within_mark()) {
            self.held.clear();
            self.state = State::Plain;
            return Vec::new();
        }
        let mut pieces = Vec::new();
        while self.step(&mut pieces, true) {}
        if let State::Body(mark) = std::mem::replace(&mut self.state, State::Plain) {
            pieces.push(Piece::Text(mark));
        }
        let rest = std::mem::take(&mut self.held);
        // White space and the beginning of a mark at the end of calls are no text.
        let marks = self.format.marks();
        let cut_mark = marks.close.iter().chain(marks.open).any(|mark| mark.starts_with(rest.trim()));
        if self.calls == 0 || !cut_mark {
            pieces.push(Piece::Text(rest));
        }
        joined(pieces)
    }

    /// Whether what was taken so far ends in the middle of a call.
    pub fn is_within_call(&self) -> bool {
        let State::Body(mark) = &self.state else { return false };
        if self.held.trim().is_empty() && self.calls > 0 {
            return false;
        }
        !mark.is_empty() || self.must_call || self.calls > 0 || self.may_become_call()
    }

    /// Whether what was taken so far ends in the middle of an opening mark.
    fn is_within_mark(&self) -> bool {
        // Of text nothing else is held, apart from white space before it.
        matches!(self.state, State::Start | State::Text) && !self.held.trim().is_empty()
    }

    /// Whether the JSON that is held begins as a call without marks does, and not as an answer in JSON.
    fn may_become_call(&self) -> bool {
        let start = self.held.trim_start().trim_start_matches('[').trim_start();
        let Some(object) = start.strip_prefix('{').map(str::trim_start) else { return start.is_empty() };
        if let Some(rest) = object.strip_prefix("\"name\"") {
            let value = rest.trim_start().strip_prefix(':').unwrap_or(rest).trim_start();
            return match value.strip_prefix('"').map(|name| name.split_once('"').ok_or(name)) {
                None => value.is_empty(),
                Some(Ok((name, _))) => self.names.iter().any(|known| known == name),
                Some(Err(begun)) => self.names.iter().any(|known| known.starts_with(begun)),
            };
        }
        let keys = ["\"name\"", "\"type\"", "\"function\"", "\"id\"", "\"parameters\"", "\"arguments\""];
        keys.iter().any(|key| key.starts_with(object) || (*key != "\"name\"" && object.starts_with(key)))
    }

    /// One step; whether another may follow.
    fn step(&mut self, pieces: &mut Vec<Piece>, at_end: bool) -> bool {
        match &self.state {
            State::Start => self.begin(),
            State::Text => self.text(pieces),
            State::Body(_) => self.body(pieces, at_end),
            State::After => self.after(),
            State::Plain => {
                pieces.push(Piece::Text(std::mem::take(&mut self.held)));
                false
            }
        }
    }

    fn begin(&mut self) -> bool {
        let start = self.held.trim_start();
        if start.is_empty() {
            return false;
        }
        let marks = self.format.marks().open;
        if marks.iter().any(|mark| mark.starts_with(start) && *mark != start) {
            return false;
        }
        let marked = marks.iter().any(|mark| start.starts_with(mark));
        let bare = (self.format.is_bare() || self.must_call) && start.starts_with(['{', '[']);
        if bare && !marked {
            self.held = start.to_owned();
            self.state = State::Body(String::new());
        } else {
            self.state = State::Text;
        }
        true
    }

    /// Gives out text up to an opening mark, but for white space and the beginning of a mark at its end.
    fn text(&mut self, pieces: &mut Vec<Piece>) -> bool {
        let marks = self.format.marks().open;
        let found = marks.iter().filter_map(|mark| Some((self.held.find(mark)?, *mark))).min();
        if let Some((at, mark)) = found {
            let rest = self.held.split_off(at + mark.len());
            let before = std::mem::replace(&mut self.held, rest);
            pieces.push(Piece::Text(before[..at].trim_end().to_owned()));
            self.state = State::Body(mark.to_owned());
            return true;
        }
        let begun = |mark: &&str| (1..mark.len()).rev().find(|len| self.held.ends_with(&mark[..*len])).unwrap_or(0);
        let partial = marks.iter().map(begun).max().unwrap_or(0);
        let sure = self.held[..self.held.len() - partial].trim_end().len();
        let rest = self.held.split_off(sure);
        pieces.push(Piece::Text(std::mem::replace(&mut self.held, rest)));
        false
    }

    fn body(&mut self, pieces: &mut Vec<Piece>, at_end: bool) -> bool {
        let State::Body(mark) = &self.state else { return false };
        let bare = mark.is_empty();
        let found = match self.format {
            Format::MistralArguments => name_and_arguments(&self.held),
            _ if self.held.trim_start().starts_with("<function") => self.qwen_coder(),
            _ if !at_end && "<function=".starts_with(self.held.trim_start()) => Found::Open,
            _ => json_calls(&self.held),
        };
        match found {
            Found::Calls(calls, end) if !bare || calls.iter().all(|call| self.names.contains(&call.name)) => {
                self.held = self.held.split_off(end);
                self.calls += calls.len();
                pieces.extend(calls.into_iter().map(Piece::Call));
                self.state = State::After;
                true
            }
            Found::Open if !at_end => false,
            Found::Open if at_end && self.held.trim().is_empty() && self.calls > 0 => {
                self.held.clear();
                self.state = State::After;
                false
            }
            _ => {
                let State::Body(mark) = std::mem::replace(&mut self.state, State::Plain) else { return false };
                pieces.push(Piece::Text(mark));
                true
            }
        }
    }

    /// Skips what stands between calls. White space is held: text may follow.
    fn after(&mut self) -> bool {
        let marks = self.format.marks();
        let rest = self.held.trim_start();
        if rest.is_empty() {
            return false;
        }
        if let Some(mark) = marks.close.iter().find(|mark| rest.starts_with(**mark)) {
            self.held = rest[mark.len()..].to_owned();
            return true;
        }
        if let Some(mark) = marks.open.iter().find(|mark| rest.starts_with(**mark)) {
            let mark = (*mark).to_owned();
            self.held = rest[mark.len()..].to_owned();
            self.state = State::Body(mark);
            return true;
        }
        if marks.close.iter().chain(marks.open).any(|mark| mark.starts_with(rest)) {
            return false;
        }
        if let Some(next) = rest.strip_prefix([';', ',']) {
            self.held = next.to_owned();
            return true;
        }
        if rest.starts_with('{') {
            self.held = rest.to_owned();
            self.state = State::Body(String::new());
            return true;
        }
        self.state = State::Text;
        true
    }

    /// `<function=NAME>` with its parameters, up to `</function>`.
    fn qwen_coder(&self) -> Found {
        const END: &str = "</function>";
        let Some(end) = self.held.find(END) else { return Found::Open };
        let body = self.held[..end].trim_start();
        let Some((name, mut rest)) = body.strip_prefix("<function=").and_then(|body| body.split_once('>')) else {
            return Found::None;
        };
        let name = name.trim();
        let types = self.types.iter().find(|(known, _)| known == name).map(|(_, types)| types);
        let mut arguments = Map::new();
        while let Some(parameter) = rest.trim_start().strip_prefix("<parameter=") {
            let Some((key, value)) = parameter.split_once('>') else { return Found::None };
            let Some((value, next)) = value.split_once("</parameter>") else { return Found::None };
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            let text = types.is_none_or(|types| types[key]["type"] == "string" || types[key].is_null());
            let typed = (!text).then(|| serde_json::from_str(value).ok()).flatten();
            arguments.insert(key.trim().to_owned(), typed.unwrap_or_else(|| value.into()));
            rest = next;
        }
        if !rest.trim().is_empty() {
            return Found::None;
        }
        let call = Call { name: name.to_owned(), arguments: Value::Object(arguments).to_string() };
        Found::Calls(vec![call], end + END.len())
    }
}

/// `NAME[ARGS]{…}`, or without the mark.
fn name_and_arguments(text: &str) -> Found {
    let Some(brace) = text.find('{') else { return Found::Open };
    let before = text[..brace].trim();
    if before.starts_with('[') {
        return json_calls(text);
    }
    let name = before.split("[ARGS]").next().unwrap_or_default();
    let name = name.split("[CALL_ID]").next().unwrap_or_default().trim();
    match first_value(&text[brace..]) {
        Ok(Some((arguments @ Value::Object(_), end))) if !name.is_empty() => {
            let call = Call { name: name.to_owned(), arguments: arguments.to_string() };
            Found::Calls(vec![call], brace + end)
        }
        Ok(None) => Found::Open,
        _ => Found::None,
    }
}

/// A JSON object that is a call, or a list of such.
fn json_calls(text: &str) -> Found {
    match first_value(text) {
        Ok(None) => Found::Open,
        Err(()) => Found::None,
        Ok(Some((Value::Array(items), end))) => match items.into_iter().map(call).collect::<Option<Vec<_>>>() {
            Some(calls) if !calls.is_empty() => Found::Calls(calls, end),
            _ => Found::None,
        },
        Ok(Some((value, end))) => call(value).map_or(Found::None, |call| Found::Calls(vec![call], end)),
    }
}

/// The first value of `text` and where it ends; `None` where it is not complete.
fn first_value(text: &str) -> Result<Option<(Value, usize)>, ()> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        None => Ok(None),
        Some(Ok(value)) => Ok(Some((value, values.byte_offset()))),
        Some(Err(error)) if error.is_eof() => Ok(None),
        Some(Err(_)) => Err(()),
    }
}

/// `{"name": …, "arguments": …}`, or the same inside of `function`.
fn call(value: Value) -> Option<Call> {
    let Value::Object(mut fields) = value else { return None };
    if let Some(Value::Object(inner)) = fields.get("function") {
        fields = inner.clone();
    }
    let name = ["name", "function"].iter().find_map(|key| fields.get(*key)?.as_str())?.to_owned();
    let arguments = ["arguments", "parameters"].iter().find_map(|key| fields.remove(*key));
    let arguments = match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        // Some models write the arguments as OpenAI's wire does.
        Some(Value::String(text)) if serde_json::from_str::<Map<String, Value>>(&text).is_ok() => text,
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return None,
    };
    (!name.is_empty()).then_some(Call { name, arguments })
}

/// Neighbouring texts as one, and no empty ones.
fn joined(pieces: Vec<Piece>) -> Vec<Piece> {
    let mut out: Vec<Piece> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        match (out.last_mut(), piece) {
            (_, Piece::Text(text)) if text.is_empty() => {}
            (Some(Piece::Text(before)), Piece::Text(text)) => before.push_str(&text),
            (_, piece) => out.push(piece),
        }
    }
    out
}
