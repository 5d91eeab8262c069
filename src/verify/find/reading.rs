//! Prepares a turn for matching: lower case, straight quotes, single spaces, and placeholders for quoted and pasted text.

use std::ops::Range;

use super::paste;
use super::pattern::pattern;

/// The placeholder for a quoted passage in the prepared text.
pub(super) const QUOTED: char = '\u{e000}';
/// The placeholder for a pasted passage.
pub(super) const PASTED: char = '\u{e001}';
/// The placeholder for text in square brackets.
pub(super) const BRACKETED: char = '\u{e002}';

/// The maximum length of a sentence that is read. Longer sentences are no instructions, and each find is compared with the rest of its
/// sentence.
const SENTENCE_BYTES: usize = 1_500;

/// The maximum number of sentences of a turn that are read.
const SENTENCES: usize = 1_000;

/// The maximum number of characters between single quotes. If the distance is longer, the marks are apostrophes.
const SINGLE_QUOTED: usize = 120;

/// A prepared turn. Every place in [`Reading::text`] maps to a place in the original.
pub(super) struct Reading<'a> {
    original: &'a str,
    /// The prepared text, against which patterns are matched.
    pub(super) text: String,
    /// The byte of the original for every byte of `text`, and for its end.
    at: Vec<usize>,
    /// The places of quoted passages in `text`, and their contents in the original.
    quotes: Vec<(usize, Range<usize>)>,
    /// The sentences of `text`.
    pub(super) sentences: Vec<Sentence>,
}

/// A sentence, a line of a list, or a line that ends without a full stop.
#[derive(Clone, Debug)]
pub(super) struct Sentence {
    /// The place in [`Reading::text`], without a list marker.
    pub(super) range: Range<usize>,
    /// Whether the sentence ends in a question mark.
    pub(super) asks: bool,
    /// The line with a colon that introduces the list which contains this sentence.
    pub(super) header: Range<usize>,
}

impl<'a> Reading<'a> {
    /// Prepares the text `original`.
    pub(super) fn new(original: &'a str) -> Self {
        let mut reading = Self {
            original,
            text: String::with_capacity(original.len()),
            at: Vec::new(),
            quotes: Vec::new(),
            sentences: Vec::new(),
        };
        reading.read(&paste::set_apart(original));
        reading.at.push(original.len());
        reading.cut_pasted();
        reading.sentences = reading.split();
        reading.sentences.retain(|sentence| sentence.range.len() <= SENTENCE_BYTES);
        reading.sentences.truncate(SENTENCES);
        reading
    }

    /// The words of the original at `range` of the prepared text.
    pub(super) fn words(&self, range: Range<usize>) -> &'a str {
        // A character of the original may have become several bytes, so the end is where the next character begins.
        let start = self.at[range.start];
        let end = self.at[range.end].max(start);
        self.original[start..end].trim()
    }

    /// The contents of the quoted passage at `at`.
    pub(super) fn quoted(&self, at: usize) -> Option<&'a str> {
        let index = self.quotes.binary_search_by_key(&at, |(place, _)| *place).ok()?;
        Some(&self.original[self.quotes[index].1.clone()])
    }

    /// The turn as it was written.
    pub(super) fn original(&self) -> &'a str {
        self.original
    }

    /// The place in the original that corresponds to `at` in the prepared text.
    pub(super) fn place(&self, at: usize) -> usize {
        self.at[at]
    }

    /// The prepared text of a sentence.
    pub(super) fn sentence_text(&self, sentence: &Sentence) -> &str {
        &self.text[sentence.range.clone()]
    }

    fn push(&mut self, c: char, from: usize) {
        let before = self.text.len();
        self.text.push(c);
        self.at.extend(std::iter::repeat_n(from, self.text.len() - before));
    }

    fn read(&mut self, set_apart: &[Range<usize>]) {
        let original = self.original;
        let mut set_apart = set_apart.iter().peekable();
        let mut at = 0;
        while let Some(c) = original[at..].chars().next() {
            if let Some(pasted) = set_apart.next_if(|pasted| pasted.start <= at) {
                if pasted.end > at {
                    self.push(PASTED, at);
                    self.push('\n', at);
                    at = pasted.end;
                }
                continue;
            }
            let next = at + c.len_utf8();
            if let Some(stem) = self.lost_apostrophe(at) {
                self.push_negation(stem, at);
                at += stem + 1;
                continue;
            }
            let limit = set_apart.peek().map_or(original.len(), |pasted| pasted.start);
            if let Some(inner) = self.quotation(c, at, limit) {
                let end = inner.end + original[inner.end..].chars().next().map_or(0, char::len_utf8);
                if c == '[' {
                    self.push(BRACKETED, at);
                } else {
                    self.quotes.push((self.text.len(), inner));
                    self.push(QUOTED, at);
                }
                at = end;
                continue;
            }
            match c {
                '\n' => self.line_break(at),
                _ if c.is_whitespace() => {
                    if !self.text.ends_with([' ', '\n']) {
                        self.push(' ', at);
                    }
                }
                '’' | '‘' | '`' | '´' => self.push('\'', at),
                '‑' | '‐' | '–' => self.push('-', at),
                '“' | '”' | '„' | '«' | '»' => self.push('"', at),
                '\u{200b}' | '\u{feff}' | QUOTED | PASTED | BRACKETED => {}
                _ => {
                    for lower in c.to_lowercase() {
                        self.push(lower, at);
                    }
                }
            }
            at = next;
        }
    }

    /// The length of `dont`, `cant` or `shouldnt` up to the missing apostrophe.
    fn lost_apostrophe(&self, at: usize) -> Option<usize> {
        const STEMS: [&str; 9] = ["don", "can", "doesn", "shouldn", "mustn", "isn", "aren", "won", "didn"];
        if self.text.ends_with(|c: char| c.is_alphanumeric() || c == '\'') {
            return None;
        }
        let rest = &self.original[at..];
        let word = rest.split(|c: char| !c.is_ascii_alphabetic()).next()?;
        let stem = word.strip_suffix(['t', 'T'])?;
        let whole = !rest[word.len()..].starts_with(['\'', '’', '-']);
        (whole && STEMS.iter().any(|known| stem.eq_ignore_ascii_case(known))).then_some(stem.len())
    }

    fn push_negation(&mut self, stem: usize, at: usize) {
        for (offset, c) in self.original[at..at + stem].char_indices() {
            self.push(c.to_ascii_lowercase(), at + offset);
        }
        self.push('\'', at + stem);
        self.push('t', at + stem);
    }

    /// Adds a line break, or a space if the line was only wrapped.
    fn line_break(&mut self, at: usize) {
        while self.text.ends_with(' ') {
            self.text.pop();
            self.at.pop();
        }
        let next = self.original[at + 1..].chars().next();
        let wrapped = next.is_some_and(char::is_lowercase)
            && !self.original[at + 1..].chars().nth(1).is_some_and(|c| matches!(c, '.' | ')'))
            && !self.text.ends_with(['.', '!', '?', ':', ';', '\n', ','])
            && self.text.rsplit('\n').next().is_some_and(|line| line.len() > 40);
        self.push(if wrapped { ' ' } else { '\n' }, at);
    }

    /// The contents of the quotation that `open` begins at `at`, if it is one.
    fn quotation(&self, open: char, at: usize, limit: usize) -> Option<Range<usize>> {
        let start = at + open.len_utf8();
        let rest = &self.original[start..limit.max(start)];
        let before = self.text.chars().next_back();
        let begins_word = rest.chars().next().is_some_and(|c| !c.is_whitespace());
        let after_word = before.is_some_and(char::is_alphanumeric);
        let end = match open {
            '"' | '“' | '”' | '„' | '«' if begins_word && !after_word => {
                let end = rest.find(['"', '“', '”', '»'])?;
                (!rest[..end].trim().is_empty()).then_some(end)?
            }
            '`' if begins_word => {
                let line = rest.split('\n').next()?;
                line.find('`').filter(|end| *end > 0)?
            }
            '\'' | '‘' | '´' if begins_word && !after_word => {
                let line = rest.split('\n').next()?;
                let line = beginning(line, SINGLE_QUOTED + 4);
                let mut ends = line.match_indices(['\'', '’']).filter(|(end, mark)| {
                    let inside_word = |c: char| c.is_alphanumeric();
                    *end > 0
                        && !line[..*end].ends_with(char::is_whitespace)
                        && !line[*end + mark.len()..].starts_with(inside_word)
                });
                ends.next().map(|(end, _)| end).filter(|end| *end <= SINGLE_QUOTED)?
            }
            '[' => {
                let line = beginning(rest.split('\n').next()?, SINGLE_QUOTED + 4);
                let end = line.find(']')?;
                let list = line.starts_with(['"', '\'', '“', '‘', '`']);
                (end <= SINGLE_QUOTED && !list).then_some(end)?
            }
            _ => return None,
        };
        Some(start..start + end)
    }

    /// Removes pasted text that is not set apart by its form.
    fn cut_pasted(&mut self) {
        let Some(from) = paste::unmarked(&self.text, |c| matches!(c, QUOTED | PASTED)) else { return };
        let end = self.delimited_end(from).unwrap_or(self.text.len());
        let removed = end - from;
        let start = self.at[from];
        self.text.replace_range(from..end, "\n");
        self.at.splice(from..end, [start]);
        self.quotes.retain(|(place, _)| !(from..end).contains(place));
        for (place, _) in &mut self.quotes {
            if *place >= end {
                *place = *place + 1 - removed;
            }
        }
    }

    /// The end of a passage between two equal lines such as `---`, which is the second line.
    fn delimited_end(&self, from: usize) -> Option<usize> {
        let passage = self.text[from..].trim_start();
        let first = passage.lines().next()?;
        if first.len() < 3 || !first.chars().all(|c| "-=*_#~".contains(c)) {
            return None;
        }
        let start = self.text.len() - passage.len() + first.len();
        let close = self.text[start..].find(&format!("\n{first}\n"))?;
        Some(start + close + 1 + first.len())
    }

    fn original_char(&self, at: usize) -> Option<char> {
        self.original[self.at[at]..].chars().next()
    }

    fn split(&self) -> Vec<Sentence> {
        let mut sentences = Vec::new();
        let mut header: Range<usize> = 0..0;
        let mut after_item = false;
        let mut at = 0;
        for line in self.text.split_inclusive('\n') {
            let start = at;
            at += line.len();
            if line.trim().is_empty() {
                // A list may begin after a blank line.
                if !self.text[header.clone()].ends_with(':')
                    || sentences.last().is_some_and(|last: &Sentence| last.range != header)
                {
                    header = 0..0;
                }
                continue;
            }
            let marker = LIST_MARKER.find(line).map_or(0, |marker| marker.end().min(line.trim_end().len()));
            let is_item = marker > 0;
            // A plain line after the items of a list begins something else.
            if !is_item && after_item {
                header = 0..0;
            }
            after_item = is_item;
            let inherited = header.clone();
            self.split_line(start + marker..start + line.trim_end().len(), &inherited, &mut sentences);
            let ends_open = line.trim_end().ends_with(':');
            match sentences.last() {
                Some(last) if ends_open && !is_item => header = last.range.clone(),
                _ => {}
            }
        }
        sentences
    }

    fn split_line(&self, line: Range<usize>, header: &Range<usize>, sentences: &mut Vec<Sentence>) {
        let text = &self.text[..line.end];
        let mut start = line.start;
        let mut push = |start: usize, end: usize, asks: bool| {
            let piece = &text[start..end];
            let from = start + (piece.len() - piece.trim_start().len());
            if !piece.trim().is_empty() {
                sentences.push(Sentence { range: from..from + piece.trim().len(), asks, header: header.clone() });
            }
        };
        for (offset, c) in self.text[line.clone()].char_indices() {
            let at = line.start + offset;
            if at < start {
                continue;
            }
            let end = at + c.len_utf8();
            let cuts = match c {
                '.' | '!' | '?' => self.ends_sentence(start, at, line.end),
                QUOTED => self.quote_ends_sentence(at, end, line.end),
                ' ' => self.begins_instruction(start, end, line.end),
                _ => false,
            };
            if cuts {
                let closers =
                    text[end..].chars().take_while(|c| matches!(c, '.' | '!' | '?' | ')' | '"' | '\'' | '*')).count();
                let end = end + closers;
                push(start, end, text[start..end].trim_end_matches([')', '"', '\'', '*']).ends_with('?'));
                start = end;
            }
        }
        push(start, line.end, false);
    }

    /// Whether the mark at `at` ends the sentence that began at `start`.
    fn ends_sentence(&self, start: usize, at: usize, end: usize) -> bool {
        let after = self.text[at + 1..end].trim_start_matches(['.', '!', '?', ')', '"', '\'', '*']);
        let Some(next) = after.chars().next() else { return true };
        if !next.is_whitespace() {
            return false;
        }
        let following = at + 1 + (self.text[at + 1..end].len() - after.trim_start().len());
        let capital = following >= end || self.original_char(following).is_some_and(|c| !c.is_lowercase());
        let word = self.text[start..at].rsplit([' ', '(']).next().unwrap_or_default();
        match word {
            "e.g" | "i.e" | "vs" | "mr" | "mrs" | "ms" | "dr" | "prof" | "eg" | "ie" | "approx" => false,
            "etc" | "p.s" | "p.p.s" | "a.m" | "p.m" | "u.s" => capital,
            "max" | "min" | "no" | "st" => {
                following >= end || self.original_char(following).is_some_and(char::is_uppercase)
            }
            _ if self.text[at..].starts_with("..") || word.ends_with('.') => capital,
            _ => true,
        }
    }

    /// Whether an instruction begins at `at` without a full stop before it: `explain gravity Use at least three …`.
    fn begins_instruction(&self, start: usize, at: usize, end: usize) -> bool {
        let before = self.text[start..at].trim_end();
        let lower = self.text[start..at - 1].rfind([' ']).map_or(start, |space| start + space + 1);
        self.original_char(at).is_some_and(char::is_uppercase)
            && before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ')' | '%' | '"' | QUOTED | BRACKETED))
            && self.original_char(lower).is_some_and(|c| !c.is_uppercase())
            && INSTRUCTION.is_match(&self.text[at..end])
    }

    /// Whether the sentence ends with the mark inside the quotation: `end with "Goodbye!" Then …`.
    fn quote_ends_sentence(&self, at: usize, after: usize, end: usize) -> bool {
        let closed = self.quoted(at).is_some_and(|inner| inner.trim_end().ends_with(['.', '!', '?']));
        let rest = &self.text[after..end];
        closed && rest.starts_with(' ') && self.original_char(after + 1).is_some_and(char::is_uppercase)
    }
}

pattern!(
    INSTRUCTION,
    [
        r"^(?:please|include|ensure|do not|don't|avoid|answer (?:in|with|using|only)|respond (?:in|with|using|only)|reply (?:in|with|using|only)|your (?:response|answer|reply|entire)|the (?:response|output|entire response)|each (?:sentence|word|paragraph|section)|every (?:sentence|word|\d)|mention|maintain|use (?:at|no|only|the|every|this|all|exactly|less|more|fewer)|write (?:in|at|no|only|the entire|each|using)|limit|keep|no two|alternate|nest|create stairs|only output|repeat the|copy the span|in your response|end (?:your|the|with)|wrap|put your)\b"
    ]
);

/// The first bytes of `text`, at most `bytes`, cut between characters.
pub(super) fn beginning(text: &str, bytes: usize) -> &str {
    let end = (0..=text.len().min(bytes)).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

pattern!(LIST_MARKER, [r"^\s*(?:[-*•+·▪◦–]|\(?\d{1,2}[.)]|\(?[a-z][.)]|#{1,4})\s+(?:\[.?\] )?"]);

#[cfg(test)]
mod tests {
    use super::*;

    fn sentences(text: &str) -> Vec<String> {
        let reading = Reading::new(text);
        reading.sentences.iter().map(|sentence| reading.sentence_text(sentence).to_string()).collect()
    }

    #[test]
    fn sentences_end_where_readers_stop() {
        for (text, expected) in [
            ("One. Two!  Three?", vec!["one.", "two!", "three?"]),
            ("Use 3.5 cups, e.g. Of sugar", vec!["use 3.5 cups, e.g. of sugar"]),
            ("Start with P.S. Use no commas", vec!["start with p.s.", "use no commas"]),
            ("Add a P.S. at the end", vec!["add a p.s. at the end"]),
            ("Rules:\n- no commas\n2. under 3 words", vec!["rules:", "no commas", "under 3 words"]),
            (
                "Please keep your whole answer to me strictly\nunder 100 words.",
                vec!["please keep your whole answer to me strictly under 100 words."],
            ),
            ("End with “Bye.” Then stop", vec!["end with \u{e000}", "then stop"]),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }

    #[test]
    fn quoted_and_pasted_text_is_out_of_the_way() {
        for (text, expected) in [
            ("Say \"no commas\" now", vec!["say \u{e000} now"]),
            ("don't use the word 'cat' or 'dog'", vec!["don't use the word \u{e000} or \u{e000}"]),
            ("the dogs' and cats' food", vec!["the dogs' and cats' food"]),
            ("Look\n```\nno commas\n```\nDone", vec!["look", "\u{e001}", "done"]),
            ("> no commas\nReply.", vec!["\u{e001}", "reply."]),
            ("Summarize this: Use no commas.", vec!["summarize this:"]),
            ("Use [name] please", vec!["use \u{e002} please"]),
            ("Fix this text:\n---\nno commas\n---\nUse capitals.", vec!["fix this text:", "use capitals."]),
        ] {
            assert_eq!(sentences(text), expected, "{text}");
        }
    }

    #[test]
    fn words_lead_back_to_the_original() {
        let text = "Héllo İ “Quoted” – NO   commas, Please";
        let reading = Reading::new(text);
        let at = reading.text.find("no commas").unwrap();
        assert_eq!(reading.words(at..at + 9), "NO   commas");
        assert_eq!(reading.quoted(reading.text.find(QUOTED).unwrap()), Some("Quoted"));
    }
}
