//! Edits that fix a constraint, change as little else as possible, and describe what they changed.

use rand::Rng;
use rand::seq::{IteratorRandom, SliceRandom};
use spar::verify;

use super::constraint::Constraint;
use super::edit::{flatten, insert};
use super::guard::Guard;
use super::lexicon::{self, CONTENT, Class};
use super::response::{Layout, Mark, Response, Sentence, Word};

/// Edits `response` so that it follows `constraint`, and describes the edit. Numbers of words are fixed last, by
/// [`fit_words`](super::edit::fit_words).
pub fn fix_constraint(response: &mut Response, constraint: &Constraint, guard: &Guard, rng: &mut impl Rng) -> String {
    match constraint {
        Constraint::Include(w) => bring_in(response, w, guard, rng),
        Constraint::Repeat(w, n) => {
            let mut notes = Vec::new();
            while response.words().filter(|x| &x.text == w).count() < *n && notes.len() < *n {
                notes.push(bring_in(response, w, guard, rng));
            }
            notes.join(" ")
        }
        Constraint::Avoid(w) => {
            let new = lexicon::class_of(w).map_or_else(String::new, |class| {
                let mut guard = guard.clone();
                guard.avoid.push(w.clone());
                guard.draw(class, rng)
            });
            let swap = |word: &mut Word| {
                if &word.text == w {
                    word.text.clone_from(&new);
                }
            };
            response.words_mut().for_each(swap);
            response.postscript.iter_mut().flatten().for_each(swap);
            response.title.iter_mut().flatten().filter(|t| *t == w).for_each(|t| t.clone_from(&new));
            format!("{w} -> {new}")
        }
        Constraint::WordsAtLeast(_) => "more".into(),
        Constraint::WordsLess(_) => "fewer".into(),
        Constraint::SentencesAtLeast(n) => {
            while sentences(response) < *n {
                let sentence = guard.sentence(rng);
                if let Some(last) = response.units.last_mut() {
                    last.push(sentence);
                }
            }
            "more".into()
        }
        Constraint::SentencesLess(n) => {
            while sentences(response) >= *n {
                let Some(unit) = response.units.iter_mut().rev().find(|u| u.len() > 1) else { break };
                let free: Vec<usize> = (0..unit.len()).filter(|&i| unit[i].iter().all(|w| guard.free(w))).collect();
                unit.remove(free.last().copied().unwrap_or(unit.len() - 1));
            }
            "fewer".into()
        }
        Constraint::Bullets(n) => {
            lay_out(response, Layout::Bullets, *n, guard, rng);
            "split".into()
        }
        Constraint::Paragraphs(n) => {
            lay_out(response, Layout::Paragraphs, *n, guard, rng);
            "split".into()
        }
        Constraint::Two => {
            lay_out(response, Layout::Two, 2, guard, rng);
            "split".into()
        }
        Constraint::Json => {
            flatten(response);
            response.layout = Layout::Json;
            (response.quoted, response.title, response.postscript) = (false, None, None);
            "wrap".into()
        }
        Constraint::Title => {
            let words: Vec<String> = response.words().map(|w| w.text.clone()).collect();
            let noun = words.iter().position(|w| lexicon::class_of(w) == Some(Class::Noun));
            let mut title = noun.map_or_else(|| vec![guard.draw(Class::Noun, rng)], |i| vec![words[i].clone()]);
            let before = noun.and_then(|i| i.checked_sub(1)).map(|i| &words[i]);
            if let Some(adjective) = before.filter(|w| lexicon::class_of(w) == Some(Class::Adjective)) {
                title.insert(0, adjective.clone());
            }
            let note = title.join(" ");
            response.title = Some(title);
            note
        }
        Constraint::Postscript => {
            response.postscript = Some(guard.sentence(rng));
            "add".into()
        }
        Constraint::Quote => {
            response.quoted = true;
            "add".into()
        }
        Constraint::Lowercase => {
            response.lowercase = true;
            "apply".into()
        }
        Constraint::NoComma => {
            response.words_mut().for_each(|w| w.comma = false);
            response.postscript.iter_mut().flatten().for_each(|w| w.comma = false);
            "remove".into()
        }
        Constraint::First(w) => {
            if !matches!(response.layout, Layout::Prose | Layout::Paragraphs) {
                flatten(response);
            }
            response.title = None;
            let lead = lexicon::class_of(w) == Some(Class::Lead);
            let comma = lead && guard.commas;
            if let Some(sentence) = response.units.first_mut().and_then(|u| u.first_mut()) {
                let starts = |s: &Sentence| s.first().and_then(Word::class);
                if lead && starts(sentence) != Some(Class::Lead) {
                    sentence.insert(0, Word::new(w));
                } else if !lead && starts(sentence) == Some(Class::Lead) {
                    sentence.remove(0);
                }
                if let Some(word) = sentence.first_mut() {
                    *word = Word { comma, ..Word::new(w) };
                }
            }
            format!("start {w}")
        }
        Constraint::End(phrase) => {
            response.ending = Some(phrase.clone());
            "add".into()
        }
        Constraint::Highlights(n) => mark(response, Mark::Star, *n, rng),
        Constraint::Placeholders(n) => mark(response, Mark::Bracket, *n, rng),
    }
}

fn sentences(response: &Response) -> usize {
    verify::sentences(&response.render())
}

/// Replaces a word of the same class by `wanted`, or inserts it next to one.
fn bring_in(response: &mut Response, wanted: &str, guard: &Guard, rng: &mut impl Rng) -> String {
    let class = lexicon::class_of(wanted).unwrap_or(Class::Noun);
    let target =
        response.words_mut().filter(|w| w.class() == Some(class) && w.text != wanted && guard.free(w)).choose(rng);
    if let Some(word) = target {
        let old = std::mem::replace(&mut word.text, wanted.to_owned());
        return format!("{old} -> {wanted}");
    }
    if let Some(sentence) = response.sentences_mut().choose(rng) {
        insert(sentence, wanted, class, rng);
    }
    format!("add {wanted}")
}

/// Distributes the sentences over exactly `n` units, and adds or drops sentences as needed.
fn lay_out(response: &mut Response, layout: Layout, n: usize, guard: &Guard, rng: &mut impl Rng) {
    let kept = response.layout == layout;
    if !kept {
        flatten(response);
        response.units = std::mem::take(&mut response.units).into_iter().flatten().map(|s| vec![s]).collect();
        response.layout = layout;
    }
    while response.units.len() > n {
        let free = response.units.iter().rposition(|u| u.iter().flatten().all(|w| guard.free(w)));
        let unit = response.units.remove(free.unwrap_or(response.units.len() - 1));
        if let (None, Some(last)) = (free, response.units.last_mut()) {
            last.extend(unit);
        }
    }
    while response.units.len() < n {
        response.units.push(vec![guard.sentence(rng)]);
    }
}

fn mark(response: &mut Response, mark: Mark, n: usize, rng: &mut impl Rng) -> String {
    response.words_mut().filter(|w| w.mark != mark).for_each(|w| w.mark = Mark::Plain);
    let missing = n.saturating_sub(response.words().filter(|w| w.mark == mark).count());
    let mut free: Vec<&mut Word> = Vec::new();
    for sentence in response.sentences_mut() {
        let body = sentence.iter_mut().skip(1);
        free.extend(body.filter(|w| w.mark != mark && w.class().is_some_and(|c| CONTENT.contains(&c))));
    }
    free.shuffle(rng);
    free.truncate(missing);
    let names: Vec<String> = free.iter().map(|w| w.text.clone()).collect();
    free.into_iter().for_each(|w| w.mark = mark);
    format!("mark {}", names.join(" "))
}
