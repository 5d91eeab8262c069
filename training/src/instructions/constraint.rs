//! Draws the arguments of constraints so that all constraints of a prompt can be met by one response.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use serde_json::{Value, json};
use spar::verify::{Check, sentences, words};

use super::kind::Kind;
use super::phrasing::{self, ENDINGS, number, ordinal, quoted};
use super::seeds::Seed;

/// A constraint with its arguments, and the sentence that asks for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// The kind of the constraint.
    pub kind: Kind,
    /// The rule that checks it.
    pub check: Check,
    /// The sentence in the prompt.
    pub sentence: String,
}

/// Languages that responses are asked for, by code and name.
pub const LANGUAGES: [(&str, &str); 16] = [
    ("de", "German"),
    ("fr", "French"),
    ("es", "Spanish"),
    ("it", "Italian"),
    ("pt", "Portuguese"),
    ("fi", "Finnish"),
    ("ru", "Russian"),
    ("bg", "Bulgarian"),
    ("hi", "Hindi"),
    ("bn", "Bengali"),
    ("ta", "Tamil"),
    ("ar", "Arabic"),
    ("fa", "Persian"),
    ("ko", "Korean"),
    ("vi", "Vietnamese"),
    ("sw", "Swahili"),
];

const SPLITTERS: [&str; 8] = ["Section", "Part", "Chapter", "Paragraph", "Step", "SECTION", "PART", "Topic"];

const OPENERS: [&str; 16] = [
    "However",
    "First",
    "Today",
    "Imagine",
    "Perhaps",
    "Finally",
    "Although",
    "Yesterday",
    "Sometimes",
    "Everyone",
    "Because",
    "Meanwhile",
    "Nobody",
    "Clearly",
    "Above",
    "Tomorrow",
];

/// Letters that every English text has often, and letters that few words have, the rarest first.
const COMMON: [&str; 8] = ["e", "a", "o", "t", "n", "i", "r", "s"];
const RARE: [&str; 6] = ["j", "q", "x", "z", "v", "k"];
/// How many of the rare letters a long text can do without.
const AVOIDABLE: usize = 4;

/// The order in which arguments are drawn: texts before what they exclude, and everything before the bounds that must leave room for it.
const ORDER: [Kind; 25] = [
    Kind::Repeat,
    Kind::End,
    Kind::Choice,
    Kind::Postscript,
    Kind::Sections,
    Kind::FirstWord,
    Kind::Include,
    Kind::Frequency,
    Kind::Forbid,
    Kind::Language,
    Kind::Paragraphs,
    Kind::Placeholders,
    Kind::Bullets,
    Kind::Highlights,
    Kind::Json,
    Kind::Title,
    Kind::Two,
    Kind::Quote,
    Kind::CapitalWords,
    Kind::Upper,
    Kind::Lower,
    Kind::NoComma,
    Kind::Letters,
    Kind::Sentences,
    Kind::Words,
];

/// Draws the arguments of all `kinds`, which do not conflict.
pub fn draw_all(seed: &Seed, kinds: &[Kind], rng: &mut impl Rng) -> Vec<Constraint> {
    let mut needs = Needs::default();
    ORDER.into_iter().filter(|kind| kinds.contains(kind)).map(|kind| draw(kind, seed, &mut needs, rng)).collect()
}

/// What a response needs for the constraints so far.
#[derive(Default)]
struct Needs {
    /// Texts that the response must contain.
    texts: Vec<String>,
    /// Words that are bounded or must occur.
    taken: Vec<String>,
    /// A generous number of words.
    words: usize,
    /// A generous number of sentences.
    sentences: usize,
    /// The number of sentences below which the response must stay.
    below_sentences: Option<usize>,
}

impl Needs {
    fn add(&mut self, words: usize, sentences: usize) {
        self.words += words;
        self.sentences += sentences;
    }

    fn has_text(&self, part: &str) -> bool {
        self.texts.iter().any(|text| text.to_lowercase().contains(part))
    }

    /// Draws `count` words of the seed's domain that no other constraint is about.
    fn free_words(&mut self, seed: &Seed, count: usize, rng: &mut impl Rng) -> Vec<String> {
        let free = |word: &&&str| !self.taken.iter().any(|taken| taken == **word) && !self.has_text(word);
        let free: Vec<&str> = seed.words.iter().filter(free).copied().collect();
        let drawn: Vec<String> = free.choose_multiple(rng, count).map(|word| (*word).to_owned()).collect();
        self.taken.extend(drawn.iter().cloned());
        drawn
    }
}

fn draw(kind: Kind, seed: &Seed, needs: &mut Needs, rng: &mut impl Rng) -> Constraint {
    match kind {
        Kind::Include => {
            let count = rng.random_range(1..=3);
            let drawn = needs.free_words(seed, count, rng);
            needs.texts.extend(drawn.iter().cloned());
            needs.add(3 * count, 0);
            about_words(kind, "keywords", &drawn, rng)
        }
        Kind::Forbid => {
            let count = rng.random_range(1..=3);
            let drawn = needs.free_words(seed, count, rng);
            about_words(kind, "forbidden_words", &drawn, rng)
        }
        Kind::Frequency => {
            let word = needs.free_words(seed, 1, rng);
            let bound = Bound::draw(2, 5, rng.random_bool(0.6), rng);
            if bound.is_least {
                needs.texts.extend(word.iter().cloned());
                needs.add(5 * bound.n, 0);
            }
            let values = [("word", quoted(&word, rng))];
            bound.constraint(kind, ["frequency", "relation"], json!({ "keyword": word[0] }), &values, rng)
        }
        Kind::Letters => letters(needs, rng),
        Kind::CapitalWords => {
            // A marker in capital letters counts as such a word, which makes an upper bound unclear.
            let marked = needs.texts.iter().any(|text| text.len() > 1 && *text == text.to_uppercase());
            let bound = Bound::draw(3, 8, marked || rng.random_bool(0.6), rng);
            if bound.is_least {
                needs.add(2 * bound.n, 0);
            }
            bound.constraint(kind, ["capital_frequency", "capital_relation"], json!({}), &[], rng)
        }
        Kind::Sentences => {
            let is_least = rng.random_bool(0.5);
            let low = if is_least { 3 } else { needs.sentences + 3 };
            let bound = Bound::draw(low, low + 6, is_least, rng);
            if is_least {
                needs.add(10 * bound.n, bound.n);
            } else {
                needs.below_sentences = Some(bound.n);
            }
            bound.constraint(kind, ["num_sentences", "relation"], json!({}), &[], rng)
        }
        Kind::Words => {
            let is_least = rng.random_bool(0.5);
            // Sentences of more than 15 words should not be forced by two bounds.
            let longest = needs.below_sentences.map_or(300, |n| 15 * (n - 1)).max(30);
            let low = if is_least { 30 } else { needs.words * 3 / 2 + 30 };
            let bound = Bound::draw(low, if is_least { longest } else { low + 150 }, is_least, rng).rounded(rng);
            bound.constraint(kind, ["num_words", "relation"], json!({}), &[], rng)
        }
        Kind::Language => {
            let (code, name) = *LANGUAGES.choose(rng).expect("there are languages");
            simple(kind, json!({ "language": code }), &[("language", name.into())], rng)
        }
        Kind::Paragraphs => {
            let n = rng.random_range(2..=5);
            needs.add(12 * n, n);
            counted(kind, "num_paragraphs", n, rng)
        }
        Kind::FirstWord => {
            let n = rng.random_range(2..=5);
            let nth = rng.random_range(1..=n);
            let word = (*OPENERS.choose(rng).expect("there are words")).to_owned();
            needs.texts.push(word.clone());
            needs.add(12 * n, n);
            let kwargs = json!({ "num_paragraphs": n, "nth_paragraph": nth, "first_word": word.to_lowercase() });
            let values = [
                ("n", number(n, rng)),
                ("nth", nth.to_string()),
                ("ordinal", ordinal(nth).into()),
                ("word", quoted(&[word], rng)),
            ];
            simple(kind, kwargs, &values, rng)
        }
        Kind::Placeholders => {
            let n = rng.random_range(2..=5);
            needs.add(3 * n, 0);
            counted(kind, "num_placeholders", n, rng)
        }
        Kind::Bullets => {
            let n = rng.random_range(2..=7);
            needs.add(6 * n, n);
            counted(kind, "num_bullets", n, rng)
        }
        Kind::Highlights => {
            let n = rng.random_range(2..=5);
            needs.add(4 * n, 0);
            counted(kind, "num_highlights", n, rng)
        }
        Kind::Sections => {
            let n = rng.random_range(2..=5);
            let splitter = (*SPLITTERS.choose(rng).expect("there are splitters")).to_owned();
            needs.texts.push(splitter.clone());
            needs.add(15 * n, n);
            let values = [("n", number(n, rng)), ("splitter", splitter.clone())];
            simple(kind, json!({ "section_spliter": splitter, "num_sections": n }), &values, rng)
        }
        Kind::Postscript => {
            let marker = *["P.S.", "P.S.", "P.P.S"].choose(rng).expect("there are markers");
            needs.texts.push(marker.into());
            needs.add(10, 2);
            simple(kind, json!({ "postscript_marker": marker }), &[("marker", marker.into())], rng)
        }
        Kind::Repeat => {
            needs.texts.push(seed.text.into());
            needs.add(words(seed.text).count() + 15, sentences(seed.text) + 1);
            simple(kind, json!({ "prompt_to_repeat": seed.text }), &[("request", seed.text.into())], rng)
        }
        Kind::End => {
            let phrase = (*ENDINGS.choose(rng).expect("there are phrases")).to_owned();
            needs.texts.push(phrase.clone());
            needs.add(15, 2);
            simple(kind, json!({ "end_phrase": phrase }), &[("phrase", phrase.clone())], rng)
        }
        Kind::Choice => {
            needs.texts.extend(["yes", "no", "maybe"].map(|answer| format!("My answer is {answer}.")));
            needs.add(10, 2);
            simple(kind, json!({}), &[], rng)
        }
        Kind::Upper | Kind::Lower => {
            // The language of a very short text cannot be recognised.
            needs.add(40, 0);
            simple(kind, json!({}), &[], rng)
        }
        Kind::Json | Kind::Title | Kind::Two | Kind::Quote | Kind::NoComma => {
            needs.add(10, if kind == Kind::Two { 2 } else { 0 });
            simple(kind, json!({}), &[], rng)
        }
    }
}

fn letters(needs: &mut Needs, rng: &mut impl Rng) -> Constraint {
    let is_least = rng.random_bool(0.6);
    let free: Vec<&str> = RARE[..AVOIDABLE].iter().copied().filter(|letter| !needs.has_text(letter)).collect();
    let (letter, bound) = match free.choose(rng) {
        Some(letter) if !is_least => (*letter, Bound::draw(2, 6, false, rng)),
        _ if rng.random_bool(0.7) => (*COMMON.choose(rng).expect("there are letters"), Bound::draw(5, 30, true, rng)),
        _ => (*RARE.choose(rng).expect("there are letters"), Bound::draw(2, 6, true, rng)),
    };
    if bound.is_least {
        needs.add(if COMMON.contains(&letter) { 4 } else { 8 } * bound.n, 0);
    }
    let values = [("letter", quoted(&[letter.to_owned()], rng))];
    bound.constraint(Kind::Letters, ["let_frequency", "let_relation"], json!({ "letter": letter }), &values, rng)
}

/// A bound on a count.
#[derive(Clone, Copy)]
struct Bound {
    n: usize,
    /// Whether the count must reach `n`; otherwise it must stay below.
    is_least: bool,
}

impl Bound {
    fn draw(low: usize, high: usize, is_least: bool, rng: &mut impl Rng) -> Self {
        Self { n: rng.random_range(low..=high.max(low)), is_least }
    }

    /// Mostly a round number, as people write them.
    fn rounded(self, rng: &mut impl Rng) -> Self {
        let n = if rng.random_bool(0.8) { self.n.div_ceil(10) * 10 } else { self.n };
        Self { n, ..self }
    }

    /// The constraint whose arguments `[count, relation]` are this bound.
    fn constraint(
        self,
        kind: Kind,
        [count, relation]: [&str; 2],
        mut kwargs: Value,
        values: &[(&str, String)],
        rng: &mut impl Rng,
    ) -> Constraint {
        let written = if self.is_least { "at least" } else { "less than" };
        kwargs[count] = self.n.into();
        kwargs[relation] = written.into();
        let mut values = values.to_vec();
        values.push(("n", number(self.n, rng)));
        values.push(("below", number(self.n - 1, rng)));
        made(kind, &format!("{} {written}", kind.id()), kwargs, &values, rng)
    }
}

fn about_words(kind: Kind, argument: &str, drawn: &[String], rng: &mut impl Rng) -> Constraint {
    let mut listed = drawn.to_vec();
    listed.shuffle(rng);
    let values = [("words", quoted(&listed, rng)), ("bare", listed.join(", "))];
    let form = if drawn.len() == 1 { "one" } else { "many" };
    made(kind, &format!("{} {form}", kind.id()), json!({ argument: listed }), &values, rng)
}

fn counted(kind: Kind, argument: &str, n: usize, rng: &mut impl Rng) -> Constraint {
    let values = [("n", number(n, rng))];
    simple(kind, json!({ argument: n }), &values, rng)
}

fn simple(kind: Kind, kwargs: Value, values: &[(&str, String)], rng: &mut impl Rng) -> Constraint {
    made(kind, kind.id(), kwargs, values, rng)
}

fn made(kind: Kind, section: &str, kwargs: Value, values: &[(&str, String)], rng: &mut impl Rng) -> Constraint {
    let Value::Object(kwargs) = kwargs else { unreachable!("arguments are objects") };
    let check = Check::new(kind.id(), kwargs).expect("the arguments are valid");
    Constraint { kind, check, sentence: phrasing::draw(section, values, rng) }
}
