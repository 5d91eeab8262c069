//! The constraints of prompts. Each is an IFEval instruction with arguments, and a sentence that asks for it.

use rand::Rng;
use rand::seq::IndexedRandom;
use serde_json::{Map, Value, json};
use spar::verify::Check;

/// A constraint with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// A word must occur.
    Include(String),
    /// A word must not occur.
    Avoid(String),
    /// A word must occur at least this many times.
    Repeat(String, usize),
    /// The response has at least this many words.
    WordsAtLeast(usize),
    /// The response has fewer words than this.
    WordsLess(usize),
    /// The response has at least this many sentences.
    SentencesAtLeast(usize),
    /// The response has fewer sentences than this.
    SentencesLess(usize),
    /// The response has exactly this many bullets.
    Bullets(usize),
    /// The response has exactly this many paragraphs with `***` between them.
    Paragraphs(usize),
    /// The response consists of two different answers.
    Two,
    /// The response is a JSON value.
    Json,
    /// The response has a title in double angular brackets.
    Title,
    /// The response has a postscript.
    Postscript,
    /// The response is wrapped in double quotes.
    Quote,
    /// The response is all in lower case.
    Lowercase,
    /// The response has no commas.
    NoComma,
    /// The response begins with this word.
    First(String),
    /// The response ends with this phrase.
    End(String),
    /// The response has at least this many highlighted words.
    Highlights(usize),
    /// The response has at least this many placeholders.
    Placeholders(usize),
}

/// A constraint without its arguments. Splits are defined by sets of kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the constraints above")]
pub enum Kind {
    Include,
    Avoid,
    Repeat,
    WordsAtLeast,
    WordsLess,
    SentencesAtLeast,
    SentencesLess,
    Bullets,
    Paragraphs,
    Two,
    Json,
    Title,
    Postscript,
    Quote,
    Lowercase,
    NoComma,
    First,
    End,
    Highlights,
    Placeholders,
}

/// Every kind, with its weight in prompts.
pub const KINDS: [(Kind, f64); 20] = [
    (Kind::Include, 2.0),
    (Kind::Avoid, 2.0),
    (Kind::Repeat, 0.8),
    (Kind::WordsAtLeast, 2.0),
    (Kind::WordsLess, 2.0),
    (Kind::SentencesAtLeast, 0.8),
    (Kind::SentencesLess, 0.8),
    (Kind::Bullets, 1.0),
    (Kind::Paragraphs, 0.7),
    (Kind::Two, 0.6),
    (Kind::Json, 0.6),
    (Kind::Title, 1.0),
    (Kind::Postscript, 0.8),
    (Kind::Quote, 1.0),
    (Kind::Lowercase, 1.2),
    (Kind::NoComma, 1.4),
    (Kind::First, 0.8),
    (Kind::End, 1.2),
    (Kind::Highlights, 0.8),
    (Kind::Placeholders, 0.8),
];

impl Kind {
    /// Whether no response of this world follows both.
    pub fn conflicts(self, other: Self) -> bool {
        use Kind::{
            Bullets, First, Highlights, Json, Paragraphs, Placeholders, Postscript, Quote, SentencesAtLeast,
            SentencesLess, Title, Two,
        };
        let layout = |k| matches!(k, Bullets | Paragraphs | Two | Json);
        let pair = |a, b| match a {
            Json => matches!(b, Title | Postscript | Quote | Kind::End | First),
            First => matches!(b, Title | Bullets | Two),
            Bullets => b == Highlights,
            Highlights => b == Placeholders,
            SentencesAtLeast => matches!(b, SentencesLess | Postscript | Title | Bullets),
            SentencesLess => matches!(b, Postscript | Title | Bullets | Paragraphs | Two),
            _ => false,
        };
        self == other || (layout(self) && layout(other)) || pair(self, other) || pair(other, self)
    }
}

impl Constraint {
    /// The constraint's kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Include(_) => Kind::Include,
            Self::Avoid(_) => Kind::Avoid,
            Self::Repeat(..) => Kind::Repeat,
            Self::WordsAtLeast(_) => Kind::WordsAtLeast,
            Self::WordsLess(_) => Kind::WordsLess,
            Self::SentencesAtLeast(_) => Kind::SentencesAtLeast,
            Self::SentencesLess(_) => Kind::SentencesLess,
            Self::Bullets(_) => Kind::Bullets,
            Self::Paragraphs(_) => Kind::Paragraphs,
            Self::Two => Kind::Two,
            Self::Json => Kind::Json,
            Self::Title => Kind::Title,
            Self::Postscript => Kind::Postscript,
            Self::Quote => Kind::Quote,
            Self::Lowercase => Kind::Lowercase,
            Self::NoComma => Kind::NoComma,
            Self::First(_) => Kind::First,
            Self::End(_) => Kind::End,
            Self::Highlights(_) => Kind::Highlights,
            Self::Placeholders(_) => Kind::Placeholders,
        }
    }

    /// The rule: an IFEval instruction id and its keyword arguments.
    pub fn check(&self) -> Check {
        let (id, kwargs) = match self {
            Self::Include(w) => ("keywords:existence", json!({ "keywords": [w] })),
            Self::Avoid(w) => ("keywords:forbidden_words", json!({ "forbidden_words": [w] })),
            Self::Repeat(w, n) => {
                ("keywords:frequency", json!({ "keyword": w, "frequency": n, "relation": "at least" }))
            }
            Self::WordsAtLeast(n) => {
                ("length_constraints:number_words", json!({ "num_words": n, "relation": "at least" }))
            }
            Self::WordsLess(n) => {
                ("length_constraints:number_words", json!({ "num_words": n, "relation": "less than" }))
            }
            Self::SentencesAtLeast(n) => {
                ("length_constraints:number_sentences", json!({ "num_sentences": n, "relation": "at least" }))
            }
            Self::SentencesLess(n) => {
                ("length_constraints:number_sentences", json!({ "num_sentences": n, "relation": "less than" }))
            }
            Self::Bullets(n) => ("detectable_format:number_bullet_lists", json!({ "num_bullets": n })),
            Self::Paragraphs(n) => ("length_constraints:number_paragraphs", json!({ "num_paragraphs": n })),
            Self::Two => ("combination:two_responses", json!({})),
            Self::Json => ("detectable_format:json_format", json!({})),
            Self::Title => ("detectable_format:title", json!({})),
            Self::Postscript => ("detectable_content:postscript", json!({ "postscript_marker": "P.S." })),
            Self::Quote => ("startend:quotation", json!({})),
            Self::Lowercase => ("change_case:english_lowercase", json!({})),
            Self::NoComma => ("punctuation:no_comma", json!({})),
            Self::First(w) => (
                "length_constraints:nth_paragraph_first_word",
                json!({ "num_paragraphs": 1, "nth_paragraph": 1, "first_word": w }),
            ),
            Self::End(phrase) => ("startend:end_checker", json!({ "end_phrase": phrase })),
            Self::Highlights(n) => ("detectable_format:number_highlighted_sections", json!({ "num_highlights": n })),
            Self::Placeholders(n) => ("detectable_content:number_placeholders", json!({ "num_placeholders": n })),
        };
        let Value::Object(kwargs) = kwargs else { return rule(id, Map::new()) };
        rule(id, kwargs)
    }

    /// A sentence that asks for the constraint.
    pub fn phrase(&self, rng: &mut impl Rng) -> String {
        let (forms, argument): (&[&str], String) = match self {
            Self::Include(w) => (&["Include the word @ somewhere.", "Use the word @ somewhere."], w.clone()),
            Self::Avoid(w) => (&["Do not use the word @ anywhere.", "Avoid the word @ anywhere."], w.clone()),
            Self::Repeat(w, n) => {
                let n = n.to_string();
                let form = ["Use the word @ at least # times.", "The word @ must appear at least # times."]
                    .choose(rng)
                    .expect("two forms");
                return form.replace('@', w).replace('#', &n);
            }
            Self::WordsAtLeast(n) => (&["Use at least @ words.", "Write at least @ words."], n.to_string()),
            Self::WordsLess(n) => (&["Use less than @ words.", "Write less than @ words."], n.to_string()),
            Self::SentencesAtLeast(n) => (&["Use at least @ sentences.", "Write at least @ sentences."], n.to_string()),
            Self::SentencesLess(n) => (&["Use less than @ sentences.", "Write less than @ sentences."], n.to_string()),
            Self::Bullets(n) => {
                (&["Answer with exactly @ bullet points.", "Use exactly @ bullets like: * this."], n.to_string())
            }
            Self::Paragraphs(n) => {
                (&["Write @ paragraphs separated by ***.", "Use *** between exactly @ paragraphs."], n.to_string())
            }
            Self::Two => (
                &["Give two different answers separated by ******.", "Put ****** between two different answers."],
                String::new(),
            ),
            Self::Json => (&["Answer in JSON format.", "Wrap the whole answer in JSON."], String::new()),
            Self::Title => {
                (&["Add a title in double angular brackets.", "Put a title like <<title>> on top."], String::new())
            }
            Self::Postscript => {
                (&["Add a postscript starting with P.S.", "At the end, add a P.S. note."], String::new())
            }
            Self::Quote => {
                (&["Wrap the whole answer in double quotes.", "Put double quotes around the answer."], String::new())
            }
            Self::Lowercase => (&["Use only lowercase letters.", "Do not use capital letters."], String::new()),
            Self::NoComma => (&["Do not use any commas.", "Avoid commas."], String::new()),
            Self::First(w) => (&["The first word must be @.", "Start with the word @."], w.clone()),
            Self::End(p) => (&["Finish with: @", "The last words must be: @"], p.clone()),
            Self::Highlights(n) => (
                &["Highlight at least @ words like *this*.", "Mark at least @ words with asterisks like *this*."],
                n.to_string(),
            ),
            Self::Placeholders(n) => (
                &["Use at least @ placeholders like [this].", "Put at least @ words in square brackets."],
                n.to_string(),
            ),
        };
        forms.choose(rng).expect("every kind has forms").replace('@', &argument)
    }
}

fn rule(id: &str, kwargs: Map<String, Value>) -> Check {
    Check::new(id, kwargs).expect("the world's constraints are valid instructions")
}
