//! Edits that breaking and fixing share: adding words, removing words, inserting a word, removing a layout.

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};
use spar::verify;

use super::guard::Guard;
use super::lexicon::Class;
use super::response::{Layout, Mark, Response, Sentence, Word};

/// Brings the number of words to at least `low` and below `high`.
pub fn fit_words(
    response: &mut Response,
    low: usize,
    high: usize,
    more_sentences: bool,
    guard: &Guard,
    rng: &mut impl Rng,
) {
    if word_count(response) < low {
        grow(response, low, guard, more_sentences, rng);
    }
    if word_count(response) >= high {
        shrink(response, high - 1, guard, rng);
    }
}

fn word_count(response: &Response) -> usize {
    verify::words(&response.render()).count()
}

/// Adds words at the end of the last sentence, or a sentence if many words are missing and one more sentence is allowed. Words are always
/// added at the end, since a model that copies a text with running numbers can see only there how many are missing.
pub(super) fn grow(response: &mut Response, low: usize, guard: &Guard, more_sentences: bool, rng: &mut impl Rng) {
    for _ in 0..8 {
        let missing = low.saturating_sub(word_count(response));
        let Some(unit) = response.units.last_mut() else { return };
        if missing == 0 {
            return;
        }
        if more_sentences && missing > 5 {
            unit.push(guard.sentence(rng));
        } else if let Some(sentence) = unit.last_mut() {
            sentence.extend(guard.tail(missing.min(6), rng));
        }
    }
}

/// Removes whole last sentences if possible, and otherwise removable words, from the end.
pub(super) fn shrink(response: &mut Response, high: usize, guard: &Guard, rng: &mut impl Rng) {
    for _ in 0..40 {
        let excess = word_count(response).saturating_sub(high);
        if excess == 0 {
            return;
        }
        let spare = response.units.iter_mut().rev().find(|u| {
            u.len() > 1 && u.last().is_some_and(|s| s.len() <= excess + 2 && s.iter().all(|w| guard.free(w)))
        });
        if let Some(unit) = spare {
            unit.pop();
            continue;
        }
        let optional = |w: &Word| {
            guard.free(w)
                && w.mark == Mark::Plain
                && matches!(w.class(), Some(Class::Adjective | Class::Adverb | Class::Lead))
        };
        if let Some(sentence) = response.sentences_mut().rev().find(|s| s.iter().any(optional)) {
            let at = sentence.iter().rposition(optional).expect("found above");
            sentence.remove(at);
            continue;
        }
        let phrase = |s: &Sentence| {
            let at = s.iter().rposition(|w| w.class() == Some(Class::Preposition))?;
            s[at..].iter().all(|w| guard.free(w)).then_some(at)
        };
        let Some(sentence) = response.sentences_mut().filter(|s| phrase(s).is_some()).choose(rng) else { return };
        let at = phrase(sentence).expect("found above");
        sentence.truncate(at);
    }
}

/// Inserts a word at a place that its class allows.
pub(super) fn insert(sentence: &mut Sentence, word: &str, class: Class, rng: &mut impl Rng) {
    let before = |class: Class| sentence.iter().position(|w| w.class() == Some(class));
    let at = match class {
        Class::Adjective => {
            let nouns: Vec<usize> = (0..sentence.len()).filter(|&i| sentence[i].class() == Some(Class::Noun)).collect();
            nouns.choose(rng).copied()
        }
        Class::Adverb => before(Class::Verb).map(|i| i + 1),
        _ => None,
    };
    let at = at.unwrap_or(sentence.len());
    sentence.insert(at, Word::new(word));
}

/// Turns the response into running text.
pub(super) fn flatten(response: &mut Response) {
    let all: Vec<Sentence> = std::mem::take(&mut response.units).into_iter().flatten().collect();
    response.units = vec![all];
    response.layout = Layout::Prose;
}
