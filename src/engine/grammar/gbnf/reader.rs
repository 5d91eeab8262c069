//! Reads a grammar in GBNF into rules.

use std::collections::HashMap;
use std::fmt;

/// How often something may be repeated at least or at most, where the grammar says a number.
const TIMES: usize = 2_000;
/// Brackets inside of brackets.
const DEPTH: usize = 64;

/// Rules by their names, which refer to each other by their places.
pub(super) struct Grammar {
    pub(super) rules: Vec<(String, Node)>,
    /// The place of the rule that matches the whole text.
    pub(super) root: usize,
}

/// What a rule consists of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// One character of these ranges, or one that is in none of them.
    Class(bool, Vec<(char, char)>),
    /// Any single character.
    Any,
    Rule(usize),
    Sequence(Vec<Node>),
    Choice(Vec<Node>),
    Repeat(Box<Node>, Times),
}

/// How often something is repeated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Times {
    least: usize,
    most: Option<usize>,
}

impl Times {
    /// Whether what is repeated never occurs.
    pub(super) fn is_never(self) -> bool {
        self.most == Some(0)
    }
}

impl fmt::Display for Times {
    /// Writes the repetition in Lark's syntax.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.least, self.most) {
            (0, None) => f.write_str("*"),
            (1, None) => f.write_str("+"),
            (0, Some(1)) => f.write_str("?"),
            (least, None) => write!(f, "{{{least},}}"),
            (least, Some(most)) => write!(f, "{{{least},{most}}}"),
        }
    }
}

/// Reads a grammar.
///
/// # Errors
/// A sentence with the line.
pub(super) fn read(text: &str) -> Result<Grammar, String> {
    let mut reader = Reader { rest: text, line: 1, places: HashMap::new(), rules: Vec::new() };
    reader.grammar()?;
    let Reader { places, rules, .. } = reader;
    let root = *places.get("root").ok_or("the grammar has no rule `root`, which matches the whole text")?;
    let defined = |(name, body, line): (String, Option<Node>, usize)| match body {
        Some(body) => Ok((name, body)),
        None => Err(format!("line {line}: no rule `{name}` is defined")),
    };
    Ok(Grammar { rules: rules.into_iter().map(defined).collect::<Result<_, String>>()?, root })
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    places: HashMap<String, usize>,
    /// The rules by name; one that was only referred to has no body, and the line of that reference.
    rules: Vec<(String, Option<Node>, usize)>,
}

impl<'a> Reader<'a> {
    fn grammar(&mut self) -> Result<(), String> {
        self.skip();
        while !self.rest.is_empty() {
            let line = self.line;
            let name = self.name();
            self.skip();
            if name.is_empty() || !self.take("::=") {
                return Err(self.wrong("a rule is written as `name ::= …`"));
            }
            let place = self.place(name);
            if self.rules[place].1.is_some() {
                return Err(format!("line {line}: the rule `{name}` is defined twice"));
            }
            let body = self.choice(0)?;
            self.rules[place].1 = Some(body);
            if let Some(next) = self.rest.chars().next()
                && !is_of_name(next)
            {
                return Err(self.wrong(&format!("`{next}` is not expected here")));
            }
        }
        Ok(())
    }

    fn wrong(&self, what: &str) -> String {
        format!("line {}: {what}", self.line)
    }

    /// The place of a rule, which may be defined later.
    fn place(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        self.rules.push((name.to_owned(), None, self.line));
        self.places.insert(name.to_owned(), self.rules.len() - 1);
        self.rules.len() - 1
    }

    /// Passes over white space and comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest.trim_start();
            let rest = match rest.starts_with('#') {
                true => &rest[rest.find('\n').unwrap_or(rest.len())..],
                false => rest,
            };
            if rest.len() == self.rest.len() {
                return;
            }
            let passed = &self.rest[..self.rest.len() - rest.len()];
            self.line += passed.matches('\n').count();
            self.rest = rest;
        }
    }

    fn take(&mut self, what: &str) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A name, which is empty where none is.
    fn name(&mut self) -> &'a str {
        let end = self.rest.find(|c| !is_of_name(c)).unwrap_or(self.rest.len());
        let (name, rest) = self.rest.split_at(end);
        self.rest = rest;
        name
    }

    /// Whether the next rule begins here.
    fn begins_rule(&self) -> bool {
        let end = self.rest.find(|c| !is_of_name(c)).unwrap_or(self.rest.len());
        end > 0 && self.rest[end..].trim_start().starts_with("::=")
    }

    fn choice(&mut self, depth: usize) -> Result<Node, String> {
        if depth > DEPTH {
            return Err(self.wrong(&format!("brackets are nested deeper than {DEPTH}")));
        }
        let mut parts = vec![self.sequence(depth)?];
        while self.take("|") {
            parts.push(self.sequence(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Choice(parts) })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, String> {
        let mut parts = Vec::new();
        loop {
            self.skip();
            if self.rest.is_empty() || self.begins_rule() || self.rest.starts_with(['|', ')']) {
                break;
            }
            let part = self.part(depth)?;
            parts.push(self.repeated(part)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Node::Sequence(parts) })
    }

    fn part(&mut self, depth: usize) -> Result<Node, String> {
        let next = self.rest.chars().next().unwrap_or_default();
        match next {
            '"' => self.text(),
            '[' => self.class(),
            '.' => {
                self.take(".");
                Ok(Node::Any)
            }
            '(' => {
                self.take("(");
                let inner = self.choice(depth + 1)?;
                if self.take(")") { Ok(inner) } else { Err(self.wrong("a `)` is missing")) }
            }
            next if is_of_name(next) => {
                let name = self.name();
                Ok(Node::Rule(self.place(name)))
            }
            next => Err(self.wrong(&format!("`{next}` is not expected here"))),
        }
    }

    fn repeated(&mut self, mut part: Node) -> Result<Node, String> {
        loop {
            let (least, most) = match self.rest.chars().next() {
                Some('*') => (0, None),
                Some('+') => (1, None),
                Some('?') => (0, Some(1)),
                Some('{') => {
                    part = Node::Repeat(Box::new(part), self.times()?);
                    continue;
                }
                _ => return Ok(part),
            };
            self.rest = &self.rest[1..];
            part = Node::Repeat(Box::new(part), Times { least, most });
        }
    }

    /// `{3}`, `{3,}`, `{,5}` or `{3,5}`.
    fn times(&mut self) -> Result<Times, String> {
        let form = || self.wrong("a repetition is written as {3}, {3,} or {3,5}");
        let end = self.rest.find('}').ok_or_else(form)?;
        let inner: String = self.rest[1..end].chars().filter(|c| !c.is_whitespace()).collect();
        let number = |digits: &str| digits.parse::<usize>().map_err(|_| form());
        let (least, most) = match inner.split_once(',') {
            None => (number(&inner)?, Some(number(&inner)?)),
            Some(("", "")) => return Err(form()),
            Some((least, "")) => (number(least)?, None),
            Some(("", most)) => (0, Some(number(most)?)),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        if least.max(most.unwrap_or(0)) > TIMES {
            return Err(self.wrong(&format!("a repetition must be at most {TIMES} times")));
        }
        if most.is_some_and(|most| most < least) {
            return Err(self.wrong("a repetition ends before it begins"));
        }
        self.rest = &self.rest[end + 1..];
        Ok(Times { least, most })
    }

    fn text(&mut self) -> Result<Node, String> {
        self.take("\"");
        let mut text = String::new();
        loop {
            match self.character("the text that begins here does not end")? {
                ('"', false) => return Ok(Node::Text(text)),
                (c, _) => text.push(c),
            }
        }
    }

    fn class(&mut self) -> Result<Node, String> {
        const OPEN: &str = "the characters that begin here do not end";
        self.take("[");
        let negated = self.take("^");
        let mut ranges = Vec::new();
        loop {
            let from = match self.character(OPEN)? {
                (']', false) => break,
                (from, _) => from,
            };
            let ranged = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            let to = match ranged && self.take("-") {
                true => self.character(OPEN)?.0,
                false => from,
            };
            if to < from {
                return Err(self.wrong("a range of characters ends before it begins"));
            }
            ranges.push((from, to));
        }
        match ranges.is_empty() {
            true => Err(self.wrong("a list of characters is empty")),
            false => Ok(Node::Class(negated, ranges)),
        }
    }

    /// The next character, and whether it was escaped.
    fn character(&mut self, open: &str) -> Result<(char, bool), String> {
        let mut chars = self.rest.chars();
        let c = chars.next().filter(|c| *c != '\n').ok_or_else(|| self.wrong(open))?;
        if c != '\\' {
            self.rest = chars.as_str();
            return Ok((c, false));
        }
        let escaped = chars.next().ok_or_else(|| self.wrong(open))?;
        self.rest = chars.as_str();
        let digits = match escaped {
            'n' => return Ok(('\n', true)),
            'r' => return Ok(('\r', true)),
            't' => return Ok(('\t', true)),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c if !c.is_alphanumeric() => return Ok((c, true)),
            c => return Err(self.wrong(&format!("the escape `\\{c}` is not known"))),
        };
        let hex = self.rest.get(..digits).filter(|hex| hex.chars().all(|c| c.is_ascii_hexdigit()));
        let form = r"an escape is written as \x41, \u00e9 or \U0001f980";
        let code = hex.and_then(|hex| u32::from_str_radix(hex, 16).ok()).ok_or_else(|| self.wrong(form))?;
        let c = char::from_u32(code).ok_or_else(|| self.wrong("an escape is no character"))?;
        self.rest = &self.rest[digits..];
        Ok((c, true))
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}
