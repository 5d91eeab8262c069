//! The tags of a template and the tokens in them: as much of Jinja's grammar as rewriting a template's source takes.

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    /// Text between tags, with the byte that it begins at.
    Text(usize, &'a str),
    /// `{{ … }}`.
    Output(Vec<Token<'a>>),
    /// `{% … %}`.
    Block(Vec<Token<'a>>),
}

/// A token of an expression and where it lies in the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub(super) kind: Kind,
    pub(super) text: &'a str,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Word,
    Number,
    Text,
    Open,
    Close,
    Operator,
}

/// The parts of `source` in order; comments and `raw` blocks are left out. `None` where a tag does not end, which the template
/// engine explains.
pub(super) fn parts(source: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while let Some(found) = source[at..].find('{') {
        let open = at + found;
        let kind = source[open + 1..].chars().next();
        if !matches!(kind, Some('{' | '%' | '#')) {
            // A lone brace is text; the part goes on.
            let next = source[open + 1..].find('{').map_or(source.len(), |found| open + 1 + found);
            push_text(&mut parts, source, at, next);
            at = next;
            continue;
        }
        push_text(&mut parts, source, at, open);
        if kind == Some('#') {
            at = open + 2 + source[open + 2..].find("#}")? + 2;
            continue;
        }
        let closing = if kind == Some('{') { "}}" } else { "%}" };
        let (tokens, end) = tokens(source, open + 2, closing)?;
        at = end;
        match (kind, tokens.as_slice()) {
            (Some('{'), _) => parts.push(Part::Output(tokens)),
            (_, [Token { text: "raw", .. }]) => at = end_of_raw(source, end)?,
            _ => parts.push(Part::Block(tokens)),
        }
    }
    push_text(&mut parts, source, at, source.len());
    Some(parts)
}

fn push_text<'a>(parts: &mut Vec<Part<'a>>, source: &'a str, from: usize, to: usize) {
    match parts.last_mut() {
        _ if from == to => {}
        // A brace has split the text.
        Some(Part::Text(start, text)) if *start + text.len() == from => *text = &source[*start..to],
        _ => parts.push(Part::Text(from, &source[from..to])),
    }
}

fn end_of_raw(source: &str, from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let open = at + source[at..].find("{%")?;
        if let Some((tokens, end)) = tokens(source, open + 2, "%}")
            && matches!(tokens.as_slice(), [Token { text: "endraw", .. }])
        {
            return Some(end);
        }
        at = open + 2;
    }
}

/// The tokens from `from` to the tag's end, and the byte after it.
fn tokens<'a>(source: &'a str, from: usize, closing: &str) -> Option<(Vec<Token<'a>>, usize)> {
    let (mut tokens, mut depth) = (Vec::new(), 0usize);
    // A sign at the edge of a tag is about white space.
    let mut at = from + usize::from(source[from..].starts_with(['-', '+']));
    loop {
        let rest = &source[at..];
        let first = rest.chars().next()?;
        if depth == 0 {
            let signed = rest.strip_prefix(['-', '+']).is_some_and(|rest| rest.starts_with(closing));
            if signed || rest.starts_with(closing) {
                return Some((tokens, at + usize::from(signed) + closing.len()));
            }
        }
        let length = |end: fn(char) -> bool| rest.find(end).unwrap_or(rest.len());
        let (kind, length) = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            '"' | '\'' => (Kind::Text, quoted(rest, first)?),
            '(' | '[' | '{' => (Kind::Open, 1),
            ')' | ']' | '}' => (Kind::Close, 1),
            '0'..='9' => {
                let whole = length(|c| !c.is_alphanumeric() && c != '_');
                let fraction =
                    rest[whole..].strip_prefix('.').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
                let digits = |rest: &str| 1 + rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
                (Kind::Number, whole + fraction.map_or(0, digits))
            }
            c if c.is_alphanumeric() || c == '_' => (Kind::Word, length(|c| !c.is_alphanumeric() && c != '_')),
            c => {
                let double = ["**", "//", "==", "!=", "<=", ">="].iter().any(|operator| rest.starts_with(operator));
                (Kind::Operator, if double { 2 } else { c.len_utf8() })
            }
        };
        match kind {
            Kind::Open => depth += 1,
            Kind::Close => depth = depth.saturating_sub(1),
            _ => {}
        }
        tokens.push(Token { kind, text: &rest[..length], start: at, end: at + length });
        at += length;
    }
}

/// Bytes of a string literal with its quotes.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (index, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(index + 1),
            _ => {}
        }
    }
    None
}
