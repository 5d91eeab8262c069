//! Reads lists of words in a sentence, whether quoted, after a colon, or bare.

use super::pattern::pattern;
use super::reading::{QUOTED, Reading, Sentence};

/// The words of a list, and the place where it ends.
pub(super) struct List {
    /// The words in their original spelling.
    pub(super) items: Vec<String>,
    /// The end of the list in its sentence. If the items are lines of their own, it is the end of the sentence.
    pub(super) end: usize,
}

/// The grammatical number of the noun that introduces a list.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Noun {
    /// The singular, `the word`.
    Singular,
    /// The plural, `the words`.
    Plural,
}

impl Noun {
    pub(super) fn from_word(noun: &str) -> Self {
        if noun.ends_with('s') { Self::Plural } else { Self::Singular }
    }
}

/// The maximum number of words in an item.
const ITEM_WORDS: usize = 8;

pattern!(
    LEAD,
    [
        r"^(?: (?:of|like)| (?:in|throughout|anywhere in|from) (?:your|the|this) (?:[\w-]+ )?(?:response|answer|reply|output|text|story|essay|poem|email|letter|article|post) ?:)?(?: \((?:e\.g\.|i\.e\.)?)?(?: ?(?::|-|–|—|=))? ?[\[(]? ?"
    ]
);
pattern!(
    JOINT,
    [
        r"^ ?(?:,? ?(?:and|or|nor|&)(?: (?:also|either|the (?:word|term|phrase|keyword)s?|the))?|,|/|;)(?: the (?:word|keyword)s?)? ?"
    ]
);
pattern!(INSIDE, [r"^ (?:and |or )?"]);
pattern!(BARE, [r"^[\p{L}\p{N}][\p{L}\p{N}'_@.+#-]*"]);
pattern!(
    STOP,
    [
        r"^(?: ?$| ?[.,;:!?)\]—]| - | (?:in|at|somewhere|throughout|within|should|must|anywhere|for|on|when|while|exactly|more|less|no|only|is|are|appears?|appearing|occurs?|using|during|not|twice|once|thrice|least|every|because|since|please|inside|into|needs?|has|have|may|cannot|can't|can|will|shall|to (?:appear|be)|be|fewer|between|from|\d+|one|two|three|four|five|six|seven|eight|nine|ten|or (?:more|less)|and (?:don't|do not|make|use|keep|write|avoid|include|end|start|finish|have|add|it|that|no|at|also|must|should|please|refrain|wrap|put|your|the (?:whole|entire|response|answer|letter|title))|but|across|a (?:total|minimum|maximum)|whatsoever|either|anymore|at all|never|doesn't|does|mustn't|shouldn't|isn't|aren't|with|without|as)\b)"
    ]
);
pub(super) const FUNCTION: &[&str] = &[
    "may",
    "might",
    "would",
    "could",
    "appears",
    "appear",
    "have",
    "has",
    "be",
    "need",
    "needs",
    "do",
    "does",
    "the",
    "a",
    "an",
    "of",
    "in",
    "that",
    "which",
    "you",
    "i",
    "to",
    "for",
    "from",
    "below",
    "above",
    "following",
    "limit",
    "count",
    "it",
    "this",
    "these",
    "those",
    "like",
    "such",
    "with",
    "and",
    "or",
    "is",
    "are",
    "not",
    "no",
    "at",
    "on",
    "as",
    "your",
    "my",
    "their",
    "they",
    "we",
    "he",
    "she",
    "must",
    "should",
    "can",
    "will",
    "per",
    "each",
    "when",
    "if",
    "where",
    "how",
    "about",
    "given",
    "listed",
    "related",
    "containing",
    "starting",
    "ending",
    "beginning",
    "themselves",
    "itself",
    "used",
    "here",
    "choice",
    "only",
    "exactly",
    "once",
    "twice",
    "than",
    "by",
    "into",
    "between",
    "all",
];

/// Reads the list that begins at `at` in the sentence.
pub(super) fn read(reading: &Reading<'_>, sentence: &Sentence, at: usize, noun: Noun) -> Option<List> {
    let text = reading.sentence_text(sentence);
    let lead = LEAD.find(&text[at..])?;
    let start = at + lead.end();
    if text[start..].starts_with(QUOTED) {
        return quoted(reading, sentence, start);
    }
    let explicit = lead.as_str().contains([':', '=']);
    if explicit && text.ends_with('?') {
        return None;
    }
    if explicit && text[start..].trim().is_empty() {
        return lines(reading, sentence);
    }
    if explicit || lead.as_str().contains(['[', '(']) {
        return after_colon(reading, sentence, start);
    }
    bare(reading, sentence, start, noun)
}

fn quoted(reading: &Reading<'_>, sentence: &Sentence, start: usize) -> Option<List> {
    let text = reading.sentence_text(sentence);
    let mut items = Vec::new();
    let mut at = start;
    loop {
        let inner = reading.quoted(sentence.range.start + at)?;
        items.push(item(inner)?);
        at += QUOTED.len_utf8();
        // The comma may be inside the quotation marks, as in `"reduce," "reuse,"`.
        let inside = inner.trim_end().ends_with(',').then(|| INSIDE.find(&text[at..])).flatten();
        let Some(joint) = inside.or_else(|| JOINT.find(&text[at..])) else { break };
        if !text[at + joint.end()..].starts_with(QUOTED) {
            break;
        }
        at += joint.end();
    }
    let close = text[at..].chars().take_while(|c| matches!(c, ']' | ')')).count();
    Some(List { items, end: at + close })
}

/// Reads `keywords: sea, blue whale and salt` up to the end of the sentence.
fn after_colon(reading: &Reading<'_>, sentence: &Sentence, start: usize) -> Option<List> {
    let text = reading.sentence_text(sentence);
    let end = text[start..].find([')', ']', ';']).map_or(text.len(), |close| start + close);
    let body = text[start..end].trim_end_matches(['.', '!', '?']);
    let body = TAIL.find(body).map_or(body, |tail| &body[..tail.start()]);
    let mut items = Vec::new();
    for piece in body.split([',', '/']) {
        for piece in AND.split(piece) {
            let piece = AND_START.replace(piece.trim(), "").to_string();
            if piece.is_empty() {
                continue;
            }
            let offset = body.find(&piece)?;
            let from = sentence.range.start + start + offset;
            let written =
                if piece.starts_with(QUOTED) { reading.quoted(from)? } else { reading.words(from..from + piece.len()) };
            if written.split_whitespace().count() > 4 && !piece.starts_with(QUOTED) {
                return None;
            }
            items.push(item(written)?);
        }
    }
    let closed = end + text[end..].chars().take_while(|c| matches!(c, ']' | ')')).count();
    (!items.is_empty() && items.len() <= 30).then_some(List { items, end: closed.min(text.len()) })
}

pattern!(AND, [r" (?:and|or|&) "]);
pattern!(AND_START, [r"^(?:and|or|&) "]);
// Matches text that follows a list without a comma: `… and salt in your response`.
pattern!(
    TAIL,
    [
        r" (?:(?:in|throughout|within|into|somewhere in|anywhere in) (?:your|the|this)\b.*|at least .*|(?:must|should) .*)$"
    ]
);

/// Reads a list of lines under `these words:`.
fn lines(reading: &Reading<'_>, sentence: &Sentence) -> Option<List> {
    let mut items = Vec::new();
    let under = reading
        .sentences
        .iter()
        .filter(|other| other.header == sentence.range && other.range.start > sentence.range.end);
    for line in under {
        let text = reading.sentence_text(line);
        if text.starts_with(QUOTED) && text.chars().count() <= 2 {
            items.push(item(reading.quoted(line.range.start)?)?);
        } else if text.split(' ').count() <= 3 {
            items.push(item(reading.words(line.range.clone()).trim_end_matches(['.', ',', ';']))?);
        } else {
            break;
        }
    }
    (!items.is_empty()).then(|| List { items, end: reading.sentence_text(sentence).len() })
}

fn bare(reading: &Reading<'_>, sentence: &Sentence, start: usize, noun: Noun) -> Option<List> {
    let text = reading.sentence_text(sentence);
    let mut items = Vec::new();
    let mut at = start;
    let end = loop {
        let word = BARE.find(&text[at..])?;
        let trimmed = word.as_str().trim_end_matches(['.', '\'', '-']);
        if FUNCTION.contains(&trimmed) || trimmed.ends_with("'s") && noun == Noun::Plural {
            return None;
        }
        let end = at + trimmed.len();
        items.push(item(reading.words(sentence.range.start + at..sentence.range.start + end))?);
        let rest = &text[end..];
        let several = noun == Noun::Plural || rest.starts_with(" or ") || WORD_OR_WORD.is_match(rest);
        let joint = several.then(|| JOINT.find(rest)).flatten();
        let next = joint.map(|joint| &rest[joint.end()..]).and_then(|next| BARE.find(next));
        let has_next = match (joint, next) {
            (Some(joint), Some(next)) => {
                let follows = &rest[joint.end() + next.end()..];
                let word = next.as_str().trim_end_matches('.');
                let follows = if word.len() < next.as_str().len() { "." } else { follows };
                !FUNCTION.contains(&word)
                    && (STOP.is_match(follows) || JOINT.is_match(follows))
                    && !IS_VERB.is_match(word)
            }
            _ => false,
        };
        if has_next {
            at = end + joint.map_or(0, |joint| joint.end());
            continue;
        }
        // The next word is neither an item nor the end of the list.
        if !STOP.is_match(rest) {
            return None;
        }
        break end;
    };
    // A single item such as `the words love` is accepted as well.
    Some(List { items, end })
}

// Matches `the word Taylor, Swift, or Together`.
pattern!(WORD_OR_WORD, [r"^(?:, [\w'-]+)*,? or [\w'-]+"]);
pattern!(
    IS_VERB,
    [
        r"^(?:make|use|keep|write|avoid|include|end|start|finish|have|add|don't|do|refrain|wrap|put|please|also|then|be|it|its|no|without|must|should)$"
    ]
);

/// An item without surrounding spaces, and without a comma or full stop at its end.
fn item(written: &str) -> Option<String> {
    let text = written.trim().trim_end_matches([',', ';', '.']).trim_matches(['"', '\'']).trim();
    let letters = text.chars().any(char::is_alphanumeric);
    (letters && text.split_whitespace().count() <= ITEM_WORDS && text.len() <= 80).then(|| text.to_string())
}
