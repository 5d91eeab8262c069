//! Which conversations a checkpoint can judge.

use serde::{Deserialize, Serialize};
use tokenizers::Tokenizer;

use crate::chat::{Message, Role};

/// The conversations on which a checkpoint's verdicts can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Domain {
    /// Every conversation is covered.
    #[default]
    Any,
    /// Conversations whose every word is a single token. The checkpoint and its tokenizer were trained on the texts of one small world, so
    /// a word that the tokenizer splits was not part of it, and a verdict on it is a guess.
    Vocabulary,
}

impl Domain {
    /// Whether this is [`Domain::Any`], which files leave out.
    pub fn is_any(&self) -> bool {
        *self == Self::Any
    }

    /// Whether what a user and a system say in `conversation` lies inside of the domain. A turn without any word lies outside of a
    /// vocabulary, as does text that cannot be tokenized.
    pub fn covers(self, tokenizer: Option<&Tokenizer>, conversation: &[Message]) -> bool {
        let Some(tokenizer) = tokenizer.filter(|_| self == Self::Vocabulary) else { return true };
        let asked = conversation.iter().filter(|turn| matches!(turn.role, Role::User | Role::System));
        // A vocabulary may know the first word of a text only after a space, as it occurs within texts.
        let knows = |text: &str| knows_all_words(tokenizer, text) || knows_all_words(tokenizer, &format!(" {text}"));
        asked.into_iter().all(|turn| knows(&turn.content))
    }
}

fn knows_all_words(tokenizer: &Tokenizer, text: &str) -> bool {
    let Ok(encoding) = tokenizer.encode(text, false) else { return false };
    let tokens = encoding.get_offsets();
    let mut words = words(text).peekable();
    // Tokens are in the text's order. A word may share its token with the space before it.
    words.peek().is_some()
        && words.all(|(start, end)| {
            let first = tokens.partition_point(|&(_, stop)| stop <= start);
            tokens[first..].iter().take_while(|&&(begin, _)| begin < end).count() == 1
        })
}

/// The bytes at which each run of letters begins and ends.
fn words(text: &str) -> impl Iterator<Item = (usize, usize)> {
    let mut rest = text.char_indices().peekable();
    std::iter::from_fn(move || {
        let (start, _) = rest.find(|(_, letter)| letter.is_alphabetic())?;
        while rest.next_if(|(_, letter)| letter.is_alphabetic()).is_some() {}
        Some((start, rest.peek().map_or(text.len(), |(end, _)| *end)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokenizer() -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/spar-tiny/refiner/tokenizer.json");
        Tokenizer::from_file(path).unwrap()
    }

    #[test]
    fn words_are_runs_of_letters() {
        let found = |text: &'static str| words(text).map(|(start, end)| &text[start..end]).collect::<Vec<_>>();
        assert_eq!(found("Use at least 12 words."), ["Use", "at", "least", "words"]);
        assert_eq!(found("naïve 漢字, x"), ["naïve", "漢字", "x"]);
        assert_eq!(found("12 + 3"), Vec::<&str>::new());
    }

    #[test]
    fn a_vocabulary_covers_what_its_world_says_and_nothing_else() {
        let tokenizer = tokenizer();
        for (text, expected) in [
            ("Write about what the river does. Use at least 12 words. Include the word lantern somewhere.", true),
            ("Describe what the teacher does. Avoid commas.", true),
            ("What is the capital of France?", false),
            ("Explain photosynthesis.", false),
            ("hello", false),
            ("Please write about what the river does.", false),
            ("写一首诗", false),
            ("12345", false),
            ("", false),
        ] {
            let conversation = [Message::user(text)];
            assert_eq!(Domain::Vocabulary.covers(Some(&tokenizer), &conversation), expected, "{text}");
            assert!(Domain::Any.covers(Some(&tokenizer), &conversation));
            assert!(Domain::Vocabulary.covers(None, &conversation), "without a tokenizer nothing can be said");
        }
        let turns = [Message::new(Role::System, "You are helpful."), Message::user("Describe what the river does.")];
        assert!(!Domain::Vocabulary.covers(Some(&tokenizer), &turns), "instructions are part of what is judged");
        let said = [
            Message::user("Describe what the river does."),
            Message::assistant("Photosynthesis!"),
            Message::user("Avoid commas."),
        ];
        assert!(Domain::Vocabulary.covers(Some(&tokenizer), &said), "what the model said is not asked for");
    }

    #[test]
    fn the_embedded_models_held_out_prompts_are_inside() {
        let tokenizer = tokenizer();
        let prompts = include_str!("../../assets/spar-tiny/held-out.jsonl").lines().map(|line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            Message::user(line["prompt"].as_str().unwrap())
        });
        let outside: Vec<_> = prompts
            .filter(|prompt| !Domain::Vocabulary.covers(Some(&tokenizer), std::slice::from_ref(prompt)))
            .collect();
        assert!(outside.is_empty(), "{outside:?}");
    }
}
