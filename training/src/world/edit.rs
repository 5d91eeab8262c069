//! Edits of a response: one that makes a constraint fail, one that makes it hold; each touches only what it must.

use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom, SliceRandom};
use spar::verify;

use super::constraint::Constraint;
use super::lexicon::{self, CONTENT, Class, ENDINGS};
use super::response::{Layout, Mark, Response, Sentence, Word, draw_sentence};

/// Words that an edit must keep, and words that it must not bring in.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    keep: Vec<String>,
    avoid: Vec<String>,
    commas: bool,
}

impl Guard {
    /// What `constraints` protect and forbid.
    pub fn new(constraints: &[Constraint]) -> Self {
        let mut guard = Self { commas: true, ..Self::default() };
        for constraint in constraints {
            match constraint {
                Constraint::Include(w) | Constraint::Repeat(w, _) | Constraint::First(w) => guard.keep.push(w.clone()),
                Constraint::Avoid(w) => guard.avoid.push(w.clone()),
                Constraint::NoComma => guard.commas = false,
                _ => {}
            }
        }
        guard
    }

    fn draw(&self, class: Class, rng: &mut impl Rng) -> String {
        loop {
            let word = lexicon::draw(class, rng);
            if !self.avoid.iter().any(|a| a == word) {
                return word.to_owned();
            }
        }
    }

    fn sentence(&self, rng: &mut impl Rng) -> Sentence {
        let mut sentence = draw_sentence(rng, None, false);
        for word in &mut sentence {
            if let Some(class) = word.class().filter(|_| self.avoid.contains(&word.text)) {
                word.text = self.draw(class, rng);
            }
        }
        sentence
    }

    /// `n` words that may follow a sentence: adverbs, or a phrase from a preposition to its noun.
    fn tail(&self, n: usize, rng: &mut impl Rng) -> Sentence {
        let classes: &[Class] = match n {
            1 => &[Class::Adverb],
            2 => &[Class::Adverb, Class::Adverb],
            3 => &[Class::Preposition, Class::Determiner, Class::Noun],
            4 => &[Class::Preposition, Class::Determiner, Class::Adjective, Class::Noun],
            5 => &[Class::Adverb, Class::Preposition, Class::Determiner, Class::Adjective, Class::Noun],
            _ => &[Class::Adverb, Class::Adverb, Class::Preposition, Class::Determiner, Class::Adjective, Class::Noun],
        };
        classes.iter().map(|&class| Word::new(&self.draw(class, rng))).collect()
    }

    fn free(&self, word: &Word) -> bool {
        !self.keep.contains(&word.text)
    }
}

/// Edits `response` so that `constraint` no longer holds.
pub fn break_one(response: &mut Response, constraint: &Constraint, guard: &Guard, rng: &mut impl Rng) {
    match constraint {
        Constraint::Include(w) | Constraint::Repeat(w, _) => {
            let others: Vec<String> = guard.keep.iter().filter(|k| *k != w).cloned().collect();
            let single = matches!(constraint, Constraint::Repeat(..));
            let mut left = if single { 1 } else { usize::MAX };
            for word in response.words_mut().filter(|x| &x.text == w && !others.contains(&x.text)) {
                if left > 0 {
                    left -= 1;
                    word.text = another(word, w, rng);
                }
            }
            if response.title.as_ref().is_some_and(|t| t.contains(w)) {
                response.title = None;
            }
        }
        Constraint::Avoid(w) => {
            let class = lexicon::class_of(w);
            let target = response.words_mut().filter(|x| x.class() == class && guard.free(x)).choose(rng);
            if let Some(word) = target {
                word.text.clone_from(w);
            } else if let Some(sentence) = response.sentences_mut().next() {
                insert(sentence, w, class.unwrap_or(Class::Adverb), rng);
            }
        }
        Constraint::WordsAtLeast(n) => shrink(response, n.saturating_sub(1 + rng.random_range(0..3)), guard, rng),
        Constraint::WordsLess(n) => grow(response, n + rng.random_range(0..3), guard, true, rng),
        Constraint::SentencesAtLeast(_) => {
            if let Some(unit) = response.units.last_mut().filter(|u| u.len() > 1) {
                unit.pop();
            }
        }
        Constraint::SentencesLess(_) => {
            if let Some(unit) = response.units.last_mut() {
                unit.push(guard.sentence(rng));
            }
        }
        Constraint::Bullets(_) | Constraint::Paragraphs(_) => {
            if rng.random_bool(0.25) {
                flatten(response);
            } else if rng.random_bool(0.5) && response.units.len() > 2 {
                response.units.pop();
            } else {
                response.units.push(vec![guard.sentence(rng)]);
            }
        }
        Constraint::Two | Constraint::Json => flatten(response),
        Constraint::Title => response.title = None,
        Constraint::Postscript => response.postscript = None,
        Constraint::Quote => response.quoted = false,
        Constraint::Lowercase => response.lowercase = false,
        Constraint::NoComma => {
            let word = response
                .sentences_mut()
                .filter(|s| s.len() > 2)
                .filter_map(|s| s.split_last_mut())
                .flat_map(|(_, r)| r)
                .choose(rng);
            if let Some(word) = word {
                word.comma = true;
            }
        }
        Constraint::First(w) => {
            if let Some(sentence) = response.units.first_mut().and_then(|u| u.first_mut()) {
                match lexicon::class_of(w) {
                    Some(Class::Lead) if rng.random_bool(0.5) => drop(sentence.remove(0)),
                    Some(class) => sentence[0].text = other_than(class, w, rng),
                    None => {}
                }
            }
        }
        Constraint::End(phrase) => {
            response.ending = rng
                .random_bool(0.4)
                .then(|| ENDINGS.iter().filter(|e| *e != phrase).choose(rng).map(|e| (*e).to_owned()))
                .flatten();
        }
        Constraint::Highlights(n) | Constraint::Placeholders(n) => {
            let keep = n.saturating_sub(1 + rng.random_range(0..*n));
            let marked = response.words_mut().filter(|w| w.mark != Mark::Plain);
            marked.skip(keep).for_each(|w| w.mark = Mark::Plain);
        }
    }
}

/// Edits `response` so that `constraint` holds; says what it did. Counts of words come last, see [`fit_words`].
pub fn fix_one(response: &mut Response, constraint: &Constraint, guard: &Guard, rng: &mut impl Rng) -> String {
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

/// Brings the count of words to at least `low` and below `high`.
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

fn sentences(response: &Response) -> usize {
    verify::sentences(&response.render())
}

/// Adds words at the end of the last sentence, or a sentence where many are missing and one more is allowed. Always at
/// the end: who copies a text with running numbers sees there, and only there, how many are missing.
fn grow(response: &mut Response, low: usize, guard: &Guard, more_sentences: bool, rng: &mut impl Rng) {
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

/// Drops whole last sentences where possible, then words that can go, from the end.
fn shrink(response: &mut Response, high: usize, guard: &Guard, rng: &mut impl Rng) {
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

fn another(word: &Word, not: &str, rng: &mut impl Rng) -> String {
    other_than(word.class().unwrap_or(Class::Noun), not, rng)
}

fn other_than(class: Class, not: &str, rng: &mut impl Rng) -> String {
    loop {
        let word = lexicon::draw(class, rng);
        if word != not {
            return word.to_owned();
        }
    }
}

/// Puts `wanted` in the place of a word of its class, or beside one.
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

/// Inserts a word where its class may stand.
fn insert(sentence: &mut Sentence, word: &str, class: Class, rng: &mut impl Rng) {
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

fn flatten(response: &mut Response) {
    let all: Vec<Sentence> = std::mem::take(&mut response.units).into_iter().flatten().collect();
    response.units = vec![all];
    response.layout = Layout::Prose;
}

/// Spreads the sentences over exactly `n` units, drawing or dropping sentences as needed.
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
