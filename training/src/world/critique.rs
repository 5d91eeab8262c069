//! Writes critiques whose truth is known: one clause per constraint with its evidence, then the verdict.

use spar::verify;

use super::constraint::Constraint;

/// A critique of a response, and whether the response follows each constraint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Critique {
    /// The text, from the first clause to the final judgement.
    pub text: String,
    /// Whether each constraint is followed.
    pub followed: Vec<bool>,
}

impl Critique {
    /// Whether every constraint is followed.
    pub fn accepts(&self) -> bool {
        self.followed.iter().all(|&f| f)
    }
}

/// Writes the critique. Returns `None` if the visible evidence contradicts the rule, for example because of a language detector's error,
/// since nothing can be learned from such a response.
pub fn write(constraints: &[Constraint], response: &str) -> Option<Critique> {
    let mut text = String::new();
    let mut followed = Vec::new();
    for (i, constraint) in constraints.iter().enumerate() {
        let (shown, holds) = evidence(constraint, response);
        let truth = constraint.check().strict(response);
        if holds != truth {
            return None;
        }
        let head = head(constraint);
        let clause = match constraint {
            Constraint::Include(_) | Constraint::Avoid(_) => format!("{head}{shown}"),
            _ => format!("{head}: {shown}."),
        };
        text.push_str(&format!("{}. {clause} {}\n", i + 1, yes_no(truth)));
        followed.push(truth);
    }
    let accepts = followed.iter().all(|&f| f);
    text.push_str(&format!("Final Judgement: {}", yes_no(accepts)));
    Some(Critique { text, followed })
}

fn yes_no(truth: bool) -> &'static str {
    if truth { "Yes" } else { "No" }
}

/// The beginning of a constraint's clause, and of the line of a reflection that answers it.
pub fn head(constraint: &Constraint) -> String {
    match constraint {
        Constraint::Include(w) => format!("include {w}"),
        Constraint::Avoid(w) => format!("avoid {w}"),
        Constraint::Repeat(w, n) => format!("repeat {w} {n}"),
        Constraint::WordsAtLeast(n) => format!("at least {n} words"),
        Constraint::WordsLess(n) => format!("less than {n} words"),
        Constraint::SentencesAtLeast(n) => format!("at least {n} sentences"),
        Constraint::SentencesLess(n) => format!("less than {n} sentences"),
        Constraint::Bullets(n) => format!("{n} bullets"),
        Constraint::Paragraphs(n) => format!("{n} paragraphs"),
        Constraint::Two => "two answers".into(),
        Constraint::Json => "JSON".into(),
        Constraint::Title => "title".into(),
        Constraint::Postscript => "postscript".into(),
        Constraint::Quote => "quotes".into(),
        Constraint::Lowercase => "lowercase".into(),
        Constraint::NoComma => "no commas".into(),
        Constraint::First(w) => format!("first word {w}"),
        Constraint::End(phrase) => format!("end {phrase}"),
        Constraint::Highlights(n) => format!("at least {n} highlights"),
        Constraint::Placeholders(n) => format!("at least {n} placeholders"),
    }
}

/// The text that follows the first occurrence of `word` in `pieces`: the rest of its piece, or the next word.
fn after(pieces: &[&str], word: &str) -> Option<String> {
    let at = pieces.iter().position(|p| p.to_lowercase().contains(word))?;
    let end = pieces[at].to_lowercase().find(word)? + word.len();
    let rest = pieces[at].get(end..).unwrap_or_default();
    let next = pieces.get(at + 1).map_or("", |p| p.trim_matches(|c: char| !c.is_alphanumeric()));
    Some(match (rest, next) {
        ("", "") => ".".into(),
        ("", next) => format!(" {next}."),
        (rest, _) => rest.to_owned(),
    })
}

/// The evidence that a clause shows, and whether it speaks for the response. The evidence for the presence of a word is the text that
/// follows it in the response, which is a copy that begins right after the word.
fn evidence(constraint: &Constraint, response: &str) -> (String, bool) {
    let text = response.trim();
    let pieces: Vec<&str> = text.split_whitespace().collect();
    let first = pieces.first().copied().unwrap_or("nothing");
    match constraint {
        Constraint::Include(w) => {
            let after = after(&pieces, w);
            let found = after.is_some();
            (after.unwrap_or_else(|| " none.".into()), found)
        }
        Constraint::Avoid(w) => {
            let after = after(&pieces, w);
            let found = after.is_some();
            (after.unwrap_or_else(|| " none.".into()), !found)
        }
        Constraint::Repeat(w, n) => {
            let places = places(&pieces, w);
            (counted(&places, *n), places.len() >= *n)
        }
        Constraint::WordsAtLeast(n) => {
            let words: Vec<&str> = verify::words(text).collect();
            (counted(&words, *n), words.len() >= *n)
        }
        Constraint::WordsLess(n) => {
            let words: Vec<&str> = verify::words(text).collect();
            (counted(&words, *n), words.len() < *n)
        }
        Constraint::SentencesAtLeast(n) => {
            let ends = sentence_ends(&pieces);
            (counted(&ends, *n), ends.len() >= *n)
        }
        Constraint::SentencesLess(n) => {
            let ends = sentence_ends(&pieces);
            (counted(&ends, *n), ends.len() < *n)
        }
        Constraint::Bullets(n) => {
            let starts: Vec<&str> = text
                .lines()
                .filter_map(|l| l.trim_start().strip_prefix("* ").or(l.trim_start().strip_prefix('-')))
                .map(|l| l.split_whitespace().next().unwrap_or("*"))
                .collect();
            (counted(&starts, *n), starts.len() == *n)
        }
        Constraint::Paragraphs(n) => {
            let starts: Vec<&str> =
                text.split("***").map(|p| p.split_whitespace().next().unwrap_or("nothing")).collect();
            (counted(&starts, *n), starts.len() == *n && !starts.contains(&"nothing"))
        }
        Constraint::Two => {
            let parts: Vec<&str> = text.split("******").map(str::trim).collect();
            let starts: Vec<&str> = parts.iter().map(|p| p.split_whitespace().next().unwrap_or("nothing")).collect();
            let distinct = parts.len() == 2 && parts[0] != parts[1] && parts.iter().all(|p| !p.is_empty());
            (counted(&starts, 2), distinct)
        }
        Constraint::Json => (first.to_owned(), first.starts_with('{') && text.ends_with('}')),
        Constraint::Title => (first.to_owned(), text.contains("<<") && text.contains(">>")),
        Constraint::Postscript => {
            let at = text.to_lowercase().find("p.s.");
            let shown =
                at.and_then(|at| text.get(at..)).map(|rest| rest.split_whitespace().take(2).collect::<Vec<_>>());
            (shown.map_or("none".into(), |s| s.join(" ")), at.is_some())
        }
        Constraint::Quote => {
            let last = pieces.last().copied().unwrap_or("nothing");
            (format!("{first} to {last}"), text.len() > 1 && text.starts_with('"') && text.ends_with('"'))
        }
        Constraint::Lowercase => {
            let capital = pieces.iter().find(|p| p.chars().any(char::is_uppercase));
            ((*capital.unwrap_or(&"all")).to_owned(), capital.is_none())
        }
        Constraint::NoComma => {
            let comma = pieces.iter().find(|p| p.contains(','));
            ((*comma.unwrap_or(&"none")).to_owned(), comma.is_none())
        }
        Constraint::First(w) => {
            let start: String = first.trim_start_matches('"').chars().take_while(|c| !".,?!'\"".contains(*c)).collect();
            let same = start.to_lowercase() == w.to_lowercase() && !text.contains("\n\n");
            (format!("{first} is {}", likeness(same)), same)
        }
        Constraint::End(phrase) => {
            let bare = text.trim_matches('"');
            let words: Vec<&str> = bare.split_whitespace().collect();
            let shown = words[words.len().saturating_sub(phrase.split(' ').count())..].join(" ");
            let same = bare.to_lowercase().ends_with(&phrase.to_lowercase());
            (format!("{shown} is {}", likeness(same)), same)
        }
        Constraint::Highlights(n) => {
            let marked: Vec<&str> = pieces.iter().filter_map(|p| between(p, '*', '*')).collect();
            (counted(&marked, *n), marked.len() >= *n)
        }
        Constraint::Placeholders(n) => {
            let marked: Vec<&str> = pieces.iter().filter_map(|p| between(p, '[', ']')).collect();
            (counted(&marked, *n), marked.len() >= *n)
        }
    }
}

fn likeness(same: bool) -> &'static str {
    if same { "the same" } else { "different" }
}

/// The pieces that contain `word`.
fn places<'a>(pieces: &[&'a str], word: &str) -> Vec<&'a str> {
    pieces.iter().filter(|p| p.to_lowercase().contains(word)).map(|p| p.trim_end_matches('.')).collect()
}

fn sentence_ends(pieces: &[&str]) -> Vec<String> {
    let ends = pieces.iter().enumerate().filter(|(i, p)| p.ends_with(['.', '"', '}']) || i + 1 == pieces.len());
    ends.map(|(_, p)| p.trim_end_matches(['.', '"', '}']).to_owned()).collect()
}

/// Items with running numbers, then the comparison with `wanted`: `the 1 river 2 waits 3; 3 below 5`.
pub fn counted<T: AsRef<str>>(items: &[T], wanted: usize) -> String {
    let n = items.len();
    let relation = match n.cmp(&wanted) {
        std::cmp::Ordering::Less => "below",
        std::cmp::Ordering::Equal => "equal to",
        std::cmp::Ordering::Greater => "above",
    };
    format!("{}; {n} {relation} {wanted}", numbered(items))
}

/// Items with running numbers.
pub fn numbered<T: AsRef<str>>(items: &[T]) -> String {
    let parts: Vec<String> = items.iter().enumerate().map(|(i, w)| format!("{} {}", w.as_ref(), i + 1)).collect();
    if parts.is_empty() { "none".into() } else { parts.join(" ") }
}

fn between(piece: &str, open: char, close: char) -> Option<&str> {
    let inner = &piece[piece.find(open)? + open.len_utf8()..];
    let inner = &inner[..inner.find(close)?];
    (!inner.is_empty()).then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clause_shows_what_follows_the_word_or_that_it_is_not_there() {
        let include = |word: &str| Constraint::Include(word.into());
        let avoid = |word: &str| Constraint::Avoid(word.into());
        let cases = [
            (include("river"), "The river waits.", "1. include river waits. Yes\nFinal Judgement: Yes"),
            (include("river"), "The sailor waits.", "1. include river none. No\nFinal Judgement: No"),
            (include("river"), "<<Quiet River>>\nIt waits.", "1. include river>> Yes\nFinal Judgement: Yes"),
            (include("river"), "A sailor and a *river*, too.", "1. include river*, Yes\nFinal Judgement: Yes"),
            (include("river"), "The river", "1. include river. Yes\nFinal Judgement: Yes"),
            (avoid("river"), "Near the river.", "1. avoid river. No\nFinal Judgement: No"),
            (avoid("river"), "The river [waits].", "1. avoid river waits. No\nFinal Judgement: No"),
            (avoid("river"), "The sailor waits.", "1. avoid river none. Yes\nFinal Judgement: Yes"),
            (
                Constraint::WordsLess(3),
                "So it is.",
                "1. less than 3 words: So 1 it 2 is 3; 3 equal to 3. No\nFinal Judgement: No",
            ),
        ];
        for (constraint, response, text) in cases {
            assert_eq!(write(&[constraint], response).unwrap().text, text);
        }
    }
}
