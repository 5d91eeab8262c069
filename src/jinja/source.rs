//! What happens to a template's source before it is compiled: line ends and tags as `transformers` takes them, and a meter at
//! every place where values grow or long ones are read.

use std::collections::BTreeMap;

use super::meter::{FACTOR, KEPT, SIZED, WEIGHED};
use super::tokens::{Kind, Part, Token, parts};

/// Text between tags that is longer than this is written through the meter.
const LONG: usize = 128;
/// Filters whose time does not depend on their value's size.
const CHEAP: [&str; 13] =
    ["default", "d", "first", "last", "int", "float", "abs", "round", "attr", "bool", "safe", "tojson", "items"];
/// Words that end no operand: what follows them is a sign or a splat.
const NO_OPERAND: [&str; 16] = [
    "if",
    "elif",
    "else",
    "in",
    "and",
    "or",
    "not",
    "is",
    "for",
    "set",
    "with",
    "call",
    "filter",
    "do",
    "recursive",
    "macro",
];

/// The source to compile: line ends are `\n`, tags about training do nothing, and what can grow is metered.
pub(super) fn prepared(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let Some(parts) = parts(&source) else { return source };
    let mut edits = Edits::default();
    for part in &parts {
        match part {
            Part::Text(start, text) => long_text(&mut edits, *start, text),
            Part::Output(tokens) => expression(&mut edits, tokens),
            Part::Block(tokens) => block(&mut edits, tokens),
        }
    }
    edits.apply(&source)
}

/// What is put into a source, and in place of what.
#[derive(Default)]
struct Edits(BTreeMap<usize, Edit>);

/// What happens at one place: an end of operands first, then what takes the place of `removed` bytes.
#[derive(Default)]
struct Edit {
    meter: Option<&'static str>,
    text: String,
    removed: usize,
}

impl Edits {
    /// Meters the operand that ends here; of several meters the strictest.
    fn meter(&mut self, end: usize, filter: &'static str) {
        let meter = &mut self.0.entry(end).or_default().meter;
        let rank = |filter: &str| [SIZED, WEIGHED, FACTOR].iter().position(|other| *other == filter);
        if meter.is_none_or(|other| rank(other) < rank(filter)) {
            *meter = Some(filter);
        }
    }

    fn insert(&mut self, at: usize, text: &str) {
        self.0.entry(at).or_default().text.push_str(text);
    }

    fn replace(&mut self, start: usize, end: usize, text: &str) {
        let edit = self.0.entry(start).or_default();
        edit.text.push_str(text);
        edit.removed = end - start;
    }

    fn apply(&self, source: &str) -> String {
        let mut out = String::with_capacity(source.len() + source.len() / 4);
        let mut at = 0;
        for (&place, edit) in &self.0 {
            out.push_str(&source[at..place]);
            if let Some(filter) = edit.meter {
                out.push('|');
                out.push_str(filter);
            }
            out.push_str(&edit.text);
            at = place + edit.removed;
        }
        out.push_str(&source[at..]);
        out
    }
}

/// Long text becomes an expression, so that loops around it are metered. Its first and last character stay text, because what is
/// left of the white space around them depends on the tags beside it.
fn long_text(edits: &mut Edits, start: usize, text: &str) {
    let words = text.trim();
    if words.len() <= LONG {
        return;
    }
    let from = text.len() - text.trim_start().len();
    let middle = words.char_indices().nth(1).zip(words.char_indices().next_back());
    let Some(((first, _), (last, _))) = middle else { return };
    let mut quoted = format!("{{{{ \"\"|{WEIGHED} ~ \"");
    for c in words[first..last].chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            c => quoted.push(c),
        }
    }
    // Lines keep their numbers, which errors name.
    quoted.push('"');
    quoted.extend(words[first..last].chars().filter(|&c| c == '\n'));
    quoted.push_str(" }}");
    edits.replace(start + from + first, start + from + last, &quoted);
}

fn block(edits: &mut Edits, tokens: &[Token<'_>]) {
    let Some((tag, rest)) = tokens.split_first() else { return };
    match tag.text {
        // They say which tokens a training takes. As in `transformers`, what is set within stays within.
        "generation" if rest.is_empty() => edits.replace(tag.start, tag.end, "with"),
        "endgeneration" if rest.is_empty() => edits.replace(tag.start, tag.end, "endwith"),
        "set" | "with" => {
            assignments(edits, rest);
            expression(edits, rest);
        }
        "for" => {
            let list = rest.iter().position(|token| token.text == "in").map_or(0, |place| place + 1);
            expression(edits, &rest[list..]);
        }
        _ => expression(edits, rest),
    }
}

/// Weighs every value that gets a name.
fn assignments(edits: &mut Edits, tokens: &[Token<'_>]) {
    let mut depth = 0i32;
    let mut open = false;
    // Only a namespace's field has a dot before its value.
    let filter = match tokens.get(1).map(|token| token.text) {
        Some(".") => KEPT,
        _ => WEIGHED,
    };
    for (index, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Open => depth += 1,
            Kind::Close => depth -= 1,
            _ => {}
        }
        let next_begins = || matches!(tokens.get(index + 1..), Some([name, equals, ..]) if name.kind == Kind::Word && equals.text == "=");
        if depth == 0 && token.text == "=" && !open {
            edits.insert(token.end, "(");
            open = true;
        } else if depth == 0 && token.text == "," && open && next_begins() {
            edits.insert(token.start, &format!(")|{filter}"));
            open = false;
        }
    }
    if let Some(last) = tokens.last().filter(|_| open) {
        edits.insert(last.end, &format!(")|{filter}"));
    }
}

/// Meters operands of what copies, repeats, compares and looks for values, and what goes into filters.
fn expression(edits: &mut Edits, tokens: &[Token<'_>]) {
    for (index, token) in tokens.iter().enumerate() {
        let Some(left) = index.checked_sub(1).map(|left| &tokens[left]).filter(|left| ends_operand(left)) else {
            continue;
        };
        let constant = matches!(left.kind, Kind::Text | Kind::Number);
        match token.text {
            "*" => {
                edits.meter(left.end, FACTOR);
                edits.meter(operand(tokens, index + 1).0, FACTOR);
            }
            "~" | "+" => {
                if !constant {
                    edits.meter(left.end, WEIGHED);
                }
                if let (end, false) = operand(tokens, index + 1) {
                    edits.meter(end, WEIGHED);
                }
            }
            "==" | "!=" | "<" | ">" | "<=" | ">=" if !constant => edits.meter(left.end, WEIGHED),
            "in" if token.kind == Kind::Word => {
                if let (end, false) = operand(tokens, index + 1) {
                    edits.meter(end, WEIGHED);
                }
            }
            "|" => match tokens.get(index + 1).map(|filter| filter.text) {
                Some("length" | "count") => edits.meter(left.end, SIZED),
                Some(filter) if !CHEAP.contains(&filter) => edits.meter(left.end, WEIGHED),
                _ => {}
            },
            "is" if tokens.get(index + 1).is_some_and(|test| matches!(test.text, "upper" | "lower")) => {
                edits.meter(left.end, SIZED);
            }
            _ => {}
        }
    }
    // Before the second word of `not in` there is no operand.
    for (index, pair) in tokens.windows(2).enumerate() {
        if let [not, within] = pair
            && not.text == "not"
            && within.text == "in"
            && let (end, false) = operand(tokens, index + 2)
        {
            edits.meter(end, WEIGHED);
        }
    }
}

fn ends_operand(token: &Token<'_>) -> bool {
    match token.kind {
        Kind::Number | Kind::Text | Kind::Close => true,
        Kind::Word => !NO_OPERAND.contains(&token.text),
        Kind::Open | Kind::Operator => false,
    }
}

/// Where the operand that begins at `index` ends, and whether it is a literal.
fn operand(tokens: &[Token<'_>], mut index: usize) -> (usize, bool) {
    let text = |index: usize| tokens.get(index).map_or("", |token| token.text);
    let after_bracket = |mut index: usize| {
        let mut depth = 0usize;
        while let Some(token) = tokens.get(index) {
            index += 1;
            match token.kind {
                Kind::Open => depth += 1,
                Kind::Close => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
        index
    };
    while matches!(text(index), "-" | "+" | "not") {
        index += 1;
    }
    let first = index;
    index = after_bracket(index);
    let kind = |index: usize| tokens.get(index).map(|token| token.kind);
    // Strings beside one another are one.
    while kind(first) == Some(Kind::Text) && kind(index) == Some(Kind::Text) {
        index += 1;
    }
    let literal = matches!(kind(first), Some(Kind::Text | Kind::Number));
    let constant_ends = index;
    loop {
        match text(index) {
            "." => index += 2,
            "(" | "[" => index = after_bracket(index),
            "|" => index += 2,
            _ => break,
        }
    }
    let end = tokens.get(index.min(tokens.len()).wrapping_sub(1)).map_or(0, |token| token.end);
    (end, literal && index == constant_ends)
}
