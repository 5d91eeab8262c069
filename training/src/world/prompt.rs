//! Makes prompts whose constraints can all be met: a response is drawn first, and the constraints are derived from it.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};
use sha2::{Digest, Sha256};

use super::constraint::{Constraint, KINDS, Kind};
use super::critique;
use super::fixing;
use super::guard::Guard;
use super::lexicon::{self, CONTENT, Class, ENDINGS};
use super::response::{Layout, Mark, Response, Word, draw_sentence};
use crate::records::Asked;

/// A split of the prompts. No two splits share a set of constraint kinds, so none share a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Split {
    /// Seven tenths of the sets, for training.
    Train,
    /// One tenth of the sets, on which recipes are tuned.
    Validation,
    /// Two tenths of the sets, which are only reported.
    HeldOut,
}

/// A prompt, its constraints, and a response that follows all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Instance {
    /// The user's prompt.
    pub prompt: String,
    /// The constraints, in the order of the prompt.
    pub constraints: Vec<Constraint>,
    /// A response that follows every constraint.
    pub witness: Response,
}

/// Draws an instance of `split`.
pub fn draw(split: Split, rng: &mut impl Rng) -> Instance {
    loop {
        let kinds = draw_kinds(rng);
        if split_of(&kinds) == split {
            // The witness may fail by chance, for example because of a language detector's error. Then another set is drawn.
            if let Some(instance) = (0..8).find_map(|_| realise(&kinds, rng)) {
                return instance;
            }
        }
    }
}

/// The split of a set of kinds, which a hash decides.
pub fn split_of(kinds: &[Kind]) -> Split {
    let mut sorted = kinds.to_vec();
    sorted.sort_unstable();
    Split::of(&format!("{sorted:?}"))
}

impl Split {
    /// The split of what a text names, which a hash decides.
    #[must_use]
    pub fn of(name: &str) -> Self {
        match Sha256::digest(name)[0] % 10 {
            0 | 1 => Self::HeldOut,
            2 => Self::Validation,
            _ => Self::Train,
        }
    }
}

fn draw_kinds(rng: &mut impl Rng) -> Vec<Kind> {
    let n = *[2, 2, 3, 3, 3, 4, 4, 4, 5, 5].choose(rng).expect("not empty");
    let mut kinds: Vec<Kind> = Vec::new();
    while kinds.len() < n {
        let (kind, _) = KINDS.choose_weighted(rng, |k| k.1).expect("weights are positive");
        if !kinds.iter().any(|k| k.conflicts(*kind)) {
            kinds.push(*kind);
        }
    }
    kinds
}

fn realise(kinds: &[Kind], rng: &mut impl Rng) -> Option<Instance> {
    let has = |k: Kind| kinds.contains(&k);
    let topic = lexicon::draw(Class::Noun, rng);
    let (layout, units) = if has(Kind::Bullets) {
        (Layout::Bullets, rng.random_range(2..=4))
    } else if has(Kind::Paragraphs) {
        (Layout::Paragraphs, rng.random_range(2..=3))
    } else if has(Kind::Two) {
        (Layout::Two, 2)
    } else if has(Kind::Json) {
        (Layout::Json, 1)
    } else {
        (Layout::Prose, 1)
    };
    let mut witness = Response {
        title: None,
        layout,
        units: Vec::new(),
        postscript: None,
        ending: None,
        quoted: has(Kind::Quote),
        lowercase: has(Kind::Lowercase),
    };
    for unit in 0..units {
        let count = if units > 1 { 1 } else { rng.random_range(1 + usize::from(has(Kind::SentencesAtLeast))..=3) };
        let sentence = |i: usize, rng: &mut _| {
            let about = unit == 0 && i == 0;
            let lead = about && rng_bool(rng, 0.35);
            draw_sentence(rng, about.then_some(topic), lead)
        };
        witness.units.push((0..count).map(|i| sentence(i, rng)).collect());
    }
    if has(Kind::NoComma) {
        witness.words_mut().for_each(|w| w.comma = false);
    }
    let mut constraints = Vec::new();
    let mut order = kinds.to_vec();
    order.shuffle(rng);
    // Words are chosen before they are counted, so counts are derived last.
    order.sort_by_key(|k| {
        matches!(k, Kind::WordsAtLeast | Kind::WordsLess | Kind::SentencesAtLeast | Kind::SentencesLess | Kind::Avoid)
    });
    for kind in &order {
        let constraint = read_off(*kind, &mut witness, &constraints, rng)?;
        constraints.push(constraint);
    }
    constraints.shuffle(rng);
    let text = witness.render();
    critique::write(&constraints, &text).filter(critique::Critique::accepts)?;
    let prompt = write(topic, &constraints, rng);
    Some(Instance { prompt, constraints, witness })
}

/// Writes the prompt. A word that the response must contain is never followed by text that could follow it in the response.
fn write(topic: &str, constraints: &[Constraint], rng: &mut impl Rng) -> String {
    let openings = ["Write about what the @ does.", "Tell me what the @ does.", "Describe what the @ does."];
    let mut prompt = openings.choose(rng).expect("three openings").replace('@', topic);
    for constraint in constraints {
        prompt.push(' ');
        prompt.push_str(&constraint.phrase(rng));
    }
    prompt
}

/// Sentences of uniformly drawn words in random order. The word that follows another can be looked up, but never guessed.
pub fn word_salad(rng: &mut impl Rng) -> Response {
    let classes = [CONTENT.as_slice(), &[Class::Determiner, Class::Preposition]].concat();
    let all: Vec<&str> = classes.into_iter().flat_map(lexicon::words).copied().collect();
    let word = |rng: &mut _| Word::new(all.choose(rng).expect("the lexicon has words"));
    let sentences =
        (0..rng.random_range(1..=3)).map(|_| (0..rng.random_range(3..=10)).map(|_| word(rng)).collect()).collect();
    Response {
        title: None,
        layout: Layout::Prose,
        units: vec![sentences],
        postscript: None,
        ending: None,
        quoted: false,
        lowercase: rng.random_bool(0.2),
    }
}

/// A prompt about `response` that requires many words to occur or not, and sometimes a number of words. About half of the words occur. It only
/// serves judging, since no response that follows it is known.
pub fn drill(response: Response, rng: &mut impl Rng) -> Instance {
    let content = |w: &&Word| w.class().is_some_and(|c| CONTENT.contains(&c));
    let mut present: Vec<String> = response.words().filter(content).map(|w| w.text.clone()).collect();
    present.shuffle(rng);
    let mut asked: Vec<String> = Vec::new();
    for _ in 0..rng.random_range(4..=10) {
        let word = match present.pop().filter(|_| rng.random_bool(0.5)) {
            Some(word) => word,
            None => lexicon::draw(*CONTENT.choose(rng).expect("four classes"), rng).to_owned(),
        };
        if !asked.contains(&word) {
            asked.push(word);
        }
    }
    let mut constraints: Vec<Constraint> = asked
        .into_iter()
        .map(|w| if rng.random_bool(0.5) { Constraint::Include(w) } else { Constraint::Avoid(w) })
        .collect();
    if rng.random_bool(0.4) {
        let words = spar::verify::words(&response.render()).count() + rng.random_range(0..4);
        constraints.push(Constraint::WordsAtLeast(words.saturating_sub(1).max(1)));
    }
    constraints.shuffle(rng);
    let prompt = write(lexicon::draw(Class::Noun, rng), &constraints, rng);
    Instance { prompt, constraints, witness: response }
}

fn rng_bool(rng: &mut impl Rng, p: f64) -> bool {
    rng.random_bool(p)
}

/// Derives a constraint of `kind` that `witness` follows, after an edit if necessary.
fn read_off(kind: Kind, witness: &mut Response, earlier: &[Constraint], rng: &mut impl Rng) -> Option<Constraint> {
    let guard = Guard::new(earlier);
    let content = |w: &Word| w.class().is_some_and(|c| CONTENT.contains(&c));
    let present: Vec<String> = witness.words().filter(|w| content(w)).map(|w| w.text.clone()).collect();
    let words = spar::verify::words(&witness.render()).count();
    let fixed = |constraint: Constraint, witness: &mut Response, rng: &mut _| {
        fixing::fix_constraint(witness, &constraint, &guard, rng);
        Some(constraint)
    };
    match kind {
        Kind::Include => {
            // In half of the cases the word is one that would not occur by chance.
            let class = *CONTENT.choose(rng)?;
            let word = if rng.random_bool(0.5) {
                present.choose(rng)?.clone()
            } else {
                (*lexicon::words(class).choose(rng)?).to_owned()
            };
            if present.contains(&word) {
                Some(Constraint::Include(word))
            } else {
                fixed(Constraint::Include(word), witness, rng)
            }
        }
        Kind::Repeat => {
            let noun = present.iter().find(|w| lexicon::class_of(w) == Some(Class::Noun))?.clone();
            if witness.words().filter(|w| w.class() == Some(Class::Noun)).count() < 2 {
                let sentence = draw_sentence(rng, Some(&noun), false);
                witness.units.last_mut()?.push(sentence);
            }
            fixed(Constraint::Repeat(noun, 2), witness, rng)
        }
        Kind::Avoid => {
            let class = *[Class::Noun, Class::Noun, Class::Adjective, Class::Verb, Class::Adverb].choose(rng)?;
            let word = lexicon::draw(class, rng);
            (!witness.render().to_lowercase().contains(word)).then(|| Constraint::Avoid(word.to_owned()))
        }
        Kind::WordsAtLeast => Some(Constraint::WordsAtLeast((words - rng.random_range(0..3)).max(3))),
        Kind::WordsLess => Some(Constraint::WordsLess(words + 1 + rng.random_range(0..3))),
        Kind::SentencesAtLeast => Some(Constraint::SentencesAtLeast(spar::verify::sentences(&witness.render()))),
        Kind::SentencesLess => Some(Constraint::SentencesLess(spar::verify::sentences(&witness.render()) + 1)),
        Kind::Bullets => Some(Constraint::Bullets(witness.units.len())),
        Kind::Paragraphs => Some(Constraint::Paragraphs(witness.units.len())),
        Kind::Two => Some(Constraint::Two),
        Kind::Json => Some(Constraint::Json),
        Kind::Quote => Some(Constraint::Quote),
        Kind::Lowercase => Some(Constraint::Lowercase),
        Kind::NoComma => Some(Constraint::NoComma),
        Kind::Title => fixed(Constraint::Title, witness, rng),
        Kind::Postscript => fixed(Constraint::Postscript, witness, rng),
        Kind::First => {
            let class = if rng.random_bool(0.7) { Class::Lead } else { Class::Determiner };
            let word = (*lexicon::words(class).choose(rng)?).to_owned();
            fixed(Constraint::First(word), witness, rng)
        }
        Kind::End => fixed(Constraint::End((*ENDINGS.choose(rng)?).to_owned()), witness, rng),
        Kind::Highlights => fixed(Constraint::Highlights(rng.random_range(1..=2)), witness, rng),
        Kind::Placeholders => {
            debug_assert!(witness.words().all(|w| w.mark != Mark::Bracket), "nothing is marked yet");
            fixed(Constraint::Placeholders(rng.random_range(1..=2)), witness, rng)
        }
    }
}

impl Instance {
    /// The prompt with its instructions, in IFEval's format.
    #[must_use]
    pub fn asked(&self, key: usize) -> Asked {
        let checks: Vec<_> = self.constraints.iter().map(Constraint::check).collect();
        Asked {
            key: key.into(),
            prompt: self.prompt.clone(),
            instruction_id_list: checks.iter().map(|check| check.id.clone()).collect(),
            kwargs: checks.into_iter().map(|check| check.kwargs).collect(),
        }
    }
}
