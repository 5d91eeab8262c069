//! Texts that never occur in a reply: before each token, the tokens are found that would complete one of them.

use std::fmt;
use std::sync::Arc;

use crate::engine::pieces::Pieces;

/// A set of such texts, with the end of the reply so far.
#[derive(Clone)]
pub struct BadWords {
    shared: Arc<Shared>,
    /// The last bytes of the reply, one fewer than the longest text has.
    tail: Vec<u8>,
}

struct Shared {
    pieces: Arc<Pieces>,
    words: Vec<Box<[u8]>>,
    longest: usize,
    /// Tokens that hold one of the texts as a whole.
    holding: Vec<u32>,
}

impl fmt::Debug for BadWords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BadWords").field("words", &self.shared.words.len()).finish_non_exhaustive()
    }
}

impl BadWords {
    /// For the `words` that are not empty, in a vocabulary of these pieces.
    pub fn new(words: &[String], pieces: &Arc<Pieces>) -> Self {
        let words: Vec<Box<[u8]>> =
            words.iter().filter(|word| !word.is_empty()).map(|word| word.as_bytes().into()).collect();
        let longest = words.iter().map(|word| word.len()).max().unwrap_or_default();
        let holds = |id: &u32| {
            let bytes = pieces.bytes(*id);
            words.iter().any(|word| bytes.windows(word.len()).any(|part| part == &**word))
        };
        let holding = (0..pieces.len() as u32).filter(|id| !pieces.is_special(*id)).filter(holds).collect();
        let pieces = Arc::clone(pieces);
        Self { shared: Arc::new(Shared { pieces, words, longest, holding }), tail: Vec::new() }
    }

    /// The tokens that would complete one of the texts; some may come more than once.
    pub fn completing(&self) -> impl Iterator<Item = u32> + '_ {
        let rests = self.shared.words.iter().flat_map(|word| {
            let begun = (1..word.len()).filter(|&begun| self.tail.ends_with(&word[..begun]));
            begun.map(|begun| &word[begun..])
        });
        let completing = rests.flat_map(|rest| self.shared.pieces.beginning_with(rest));
        self.shared.holding.iter().chain(completing).copied()
    }

    /// Notes that the token `id` follows.
    pub fn take(&mut self, id: u32) {
        if self.shared.pieces.is_special(id) {
            return;
        }
        self.tail.extend_from_slice(self.shared.pieces.bytes(id));
        let most = self.shared.longest.saturating_sub(1);
        self.tail.drain(..self.tail.len().saturating_sub(most));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::testing;

    /// Finds the tokens that complete a text, by trying each of them.
    fn expected(pieces: &Pieces, said: &[u8], words: &[String]) -> BTreeSet<u32> {
        let completes = |id: &u32| {
            let text = [said, pieces.bytes(*id)].concat();
            words.iter().any(|word| text.windows(word.len()).any(|part| part == word.as_bytes()))
        };
        (0..pieces.len() as u32).filter(|id| !pieces.is_special(*id)).filter(completes).collect()
    }

    #[test]
    fn the_tokens_that_complete_a_text_are_found() {
        let tokenizer = testing::tokenizer();
        let pieces = Arc::new(Pieces::new(&tokenizer).unwrap());
        for (words, said) in [
            (["the", "hello"].as_slice(), "say "),
            (&["the w"], "in the"),
            (&["aab", "abab"], "aaba"),
            (&["the", "he", "e"], "th"),
            (&["öx", "🦀"], "ö"),
            (&["hello world"], "hello"),
        ] {
            let words: Vec<String> = words.iter().map(|&word| word.into()).collect();
            let mut bad = BadWords::new(&words, &pieces);
            let mut text = Vec::new();
            for &id in tokenizer.encode(said, false).unwrap().get_ids() {
                bad.take(id);
                text.extend_from_slice(pieces.bytes(id));
            }
            // What is in the text already is not completed again.
            let end = text.len().saturating_sub(bad.shared.longest - 1);
            let found: BTreeSet<u32> = bad.completing().collect();
            assert_eq!(found, expected(&pieces, &text[end..], &words), "{words:?} after {said:?}");
            assert!(!found.is_empty());
        }
    }
}
