//! Responses as structures that can be drawn, edited, rendered as text and parsed.

use rand::Rng;

use super::lexicon::{self, Class, ENDINGS};

/// How a word is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The word is not marked.
    Plain,
    /// `*word*`: a highlighted section.
    Star,
    /// `[word]`: a placeholder.
    Bracket,
}

/// A word of a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// The word in lower case.
    pub text: String,
    /// Whether a comma follows.
    pub comma: bool,
    /// How the word is marked.
    pub mark: Mark,
}

impl Word {
    /// A word without comma and mark.
    pub fn new(text: &str) -> Self {
        Self { text: text.to_owned(), comma: false, mark: Mark::Plain }
    }

    /// The word's class, if the lexicon contains the word.
    pub fn class(&self) -> Option<Class> {
        lexicon::class_of(&self.text)
    }
}

/// A sentence, ending in a full stop that is not stored.
pub type Sentence = Vec<Word>;

/// The layout of the units of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// One unit of running text.
    Prose,
    /// One bullet per unit.
    Bullets,
    /// Units with `***` between them.
    Paragraphs,
    /// Two units with `******` between them.
    Two,
    /// One unit as the value of a JSON object.
    Json,
}

/// A response of the synthetic world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The title, rendered as `<<Title>>` on its own line.
    pub title: Option<Vec<String>>,
    /// How the units are laid out.
    pub layout: Layout,
    /// The sentences of each unit.
    pub units: Vec<Vec<Sentence>>,
    /// The sentence after `P.S.`
    pub postscript: Option<Sentence>,
    /// A closing phrase.
    pub ending: Option<String>,
    /// Whether the response is wrapped in double quotes.
    pub quoted: bool,
    /// Whether the response is all in lower case.
    pub lowercase: bool,
}

impl Response {
    /// Renders the response as text.
    pub fn render(&self) -> String {
        let units: Vec<String> =
            self.units.iter().map(|u| u.iter().map(sentence_text).collect::<Vec<_>>().join(" ")).collect();
        let mut text = match self.layout {
            Layout::Prose => units.join(" "),
            Layout::Bullets => units.iter().map(|u| format!("* {u}")).collect::<Vec<_>>().join("\n"),
            Layout::Paragraphs => units.join("\n***\n"),
            Layout::Two => units.join("\n******\n"),
            Layout::Json => units.join(" "),
        };
        if let Some(title) = &self.title {
            let title: Vec<_> = title.iter().map(|w| capitalised(w)).collect();
            text = format!("<<{}>>\n{text}", title.join(" "));
        }
        if let Some(sentence) = &self.postscript {
            text = format!("{text}\nP.S. {}", sentence_text(sentence));
        }
        if let Some(ending) = &self.ending {
            text = format!("{text} {ending}");
        }
        if self.lowercase {
            text = text.to_lowercase();
        }
        match (self.layout, self.quoted) {
            (Layout::Json, _) => format!("{{\"answer\": \"{text}\"}}"),
            (_, true) => format!("\"{text}\""),
            (_, false) => text,
        }
    }

    /// Parses any text as a response, as far as possible. Words that the grammar does not know are kept as plain words.
    pub fn parse(text: &str) -> Self {
        let mut rest = text.trim().to_owned();
        let mut layout = Layout::Prose;
        let json = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&rest).ok();
        if let Some(value) = json.as_ref().and_then(|o| o.values().find_map(|v| v.as_str())) {
            rest = value.to_owned();
            layout = Layout::Json;
        }
        let quoted = layout != Layout::Json && rest.len() >= 2 && rest.starts_with('"') && rest.ends_with('"');
        let mut rest = rest.trim_matches(|c: char| "\"{}".contains(c) || c.is_whitespace()).to_owned();
        let lowercase = !rest.chars().any(char::is_uppercase) && rest.chars().any(char::is_lowercase);
        let mut title = None;
        if let Some((inner, after)) = rest.strip_prefix("<<").and_then(|r| r.split_once(">>")) {
            title = Some(inner.split_whitespace().map(str::to_lowercase).collect());
            rest = after.trim_start().to_owned();
        }
        let ending = ENDINGS.iter().find(|e| rest.to_lowercase().ends_with(&e.to_lowercase())).map(|e| (*e).to_owned());
        if let Some(ending) = &ending {
            rest.truncate(rest.len() - ending.len());
        }
        let mut postscript = None;
        if let Some(at) = rest.to_lowercase().find("p.s.").filter(|&at| rest.is_char_boundary(at)) {
            postscript = sentences(rest.get(at + 4..).unwrap_or_default()).into_iter().next();
            rest.truncate(at);
        }
        let bulleted = |line: &str| line.trim_start().starts_with("* ") || line.trim_start().starts_with("- ");
        let parts: Vec<String> = if rest.contains("******") {
            layout = Layout::Two;
            rest.split("******").map(str::to_owned).collect()
        } else if rest.contains("***") {
            layout = Layout::Paragraphs;
            rest.split("***").map(str::to_owned).collect()
        } else if layout == Layout::Prose && rest.lines().any(bulleted) {
            layout = Layout::Bullets;
            rest.lines().map(|l| l.trim_start().trim_start_matches(['*', '-']).to_owned()).collect()
        } else {
            vec![rest]
        };
        let units: Vec<_> = parts.iter().map(|p| sentences(p)).filter(|u| !u.is_empty()).collect();
        Self { title, layout, units, postscript, ending, quoted, lowercase }
    }

    /// Every sentence of the units, in order.
    pub fn sentences_mut(&mut self) -> impl DoubleEndedIterator<Item = &mut Sentence> {
        self.units.iter_mut().flatten()
    }

    /// Every word of the units, in order.
    pub fn words(&self) -> impl Iterator<Item = &Word> {
        self.units.iter().flatten().flatten()
    }

    /// Every word of the units, in order, for editing.
    pub fn words_mut(&mut self) -> impl Iterator<Item = &mut Word> {
        self.units.iter_mut().flatten().flatten()
    }
}

fn sentence_text(sentence: &Sentence) -> String {
    let words: Vec<String> = sentence
        .iter()
        .enumerate()
        .map(|(i, word)| {
            let text = if i == 0 { capitalised(&word.text) } else { word.text.clone() };
            let comma = if word.comma { "," } else { "" };
            match word.mark {
                Mark::Plain => format!("{text}{comma}"),
                Mark::Star => format!("*{text}*{comma}"),
                Mark::Bracket => format!("[{text}]{comma}"),
            }
        })
        .collect();
    format!("{}.", words.join(" "))
}

fn capitalised(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

fn sentences(text: &str) -> Vec<Sentence> {
    text.split(['.', '!', '?'])
        .map(|s| s.split_whitespace().filter_map(read_word).collect::<Sentence>())
        .filter(|s| !s.is_empty())
        .collect()
}

fn read_word(raw: &str) -> Option<Word> {
    let mark = match (raw.contains('*'), raw.contains('[')) {
        (true, _) => Mark::Star,
        (_, true) => Mark::Bracket,
        _ => Mark::Plain,
    };
    let text: String = raw.chars().filter(|c| c.is_alphanumeric()).collect::<String>().to_lowercase();
    (!text.is_empty()).then(|| Word { text, comma: raw.contains(','), mark })
}

/// Draws a sentence of the grammar `[lead] det adj* noun verb adv? [prep det adj? noun]`.
pub fn draw_sentence(rng: &mut impl Rng, topic: Option<&str>, lead: bool) -> Sentence {
    let mut sentence = Vec::new();
    if lead {
        sentence.push(Word { comma: true, ..Word::new(lexicon::draw(Class::Lead, rng)) });
    }
    push_noun_phrase(&mut sentence, rng, topic, 0.45);
    sentence.push(Word::new(lexicon::draw(Class::Verb, rng)));
    if rng.random_bool(0.45) {
        sentence.push(Word::new(lexicon::draw(Class::Adverb, rng)));
    }
    if rng.random_bool(0.4) {
        sentence.push(Word::new(lexicon::draw(Class::Preposition, rng)));
        push_noun_phrase(&mut sentence, rng, None, 0.3);
    }
    sentence
}

fn push_noun_phrase(sentence: &mut Sentence, rng: &mut impl Rng, topic: Option<&str>, adjective: f64) {
    sentence.push(Word::new(lexicon::draw(Class::Determiner, rng)));
    for p in [adjective, adjective * 0.4] {
        if rng.random_bool(p) {
            let word = lexicon::draw(Class::Adjective, rng);
            if sentence.last().is_none_or(|w| w.text != word) {
                sentence.push(Word::new(word));
            }
        }
    }
    sentence.push(Word::new(topic.unwrap_or_else(|| lexicon::draw(Class::Noun, rng))));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back_as_the_same_structure() {
        let word = Word::new;
        let sentence: Sentence = vec![
            Word { comma: true, ..word("today") },
            word("the"),
            Word { mark: Mark::Star, ..word("river") },
            word("waits"),
        ];
        let plain = Response {
            title: None,
            layout: Layout::Prose,
            units: vec![vec![sentence.clone(), sentence.clone()]],
            postscript: None,
            ending: None,
            quoted: false,
            lowercase: false,
        };
        let units = vec![vec![sentence.clone()], vec![sentence.clone()]];
        let cases = [
            Response { title: Some(vec!["quiet".into(), "river".into()]), quoted: true, ..plain.clone() },
            Response {
                layout: Layout::Bullets,
                units: units.clone(),
                ending: Some("Take care.".into()),
                ..plain.clone()
            },
            Response { layout: Layout::Paragraphs, units: units.clone(), lowercase: true, ..plain.clone() },
            Response { layout: Layout::Two, units, postscript: Some(sentence), ..plain.clone() },
            Response { layout: Layout::Json, ..plain.clone() },
            plain,
        ];
        for case in cases {
            assert_eq!(Response::parse(&case.render()), case, "{}", case.render());
        }
    }

    #[test]
    fn any_text_can_be_read() {
        for text in ["", "\"", "{\"a\": 1}", "****", "<<>>", "p.s.", "É ünd.. [", "* \n* "] {
            let _ = Response::parse(text).render();
        }
    }
}
