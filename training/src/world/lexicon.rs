//! The words of the world, by class. Earlier words of a class are more likely (Zipf).

use rand::Rng;

/// A word class of the grammar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A word that opens a sentence, usually followed by a comma.
    Lead,
    /// A word that opens a noun phrase.
    Determiner,
    /// A word that precedes a noun.
    Adjective,
    /// The head of a noun phrase.
    Noun,
    /// An intransitive verb in the third person.
    Verb,
    /// A word that follows the verb.
    Adverb,
    /// A word that opens a prepositional phrase.
    Preposition,
}

/// Classes whose words a constraint may require or forbid. None of these words is part of another word.
pub const CONTENT: [Class; 4] = [Class::Adjective, Class::Noun, Class::Verb, Class::Adverb];

/// Phrases that a constraint may require at the end of a response.
pub const ENDINGS: [&str; 6] =
    ["That is all.", "Have a good day.", "Thanks for reading.", "See you soon.", "I hope this helps.", "Take care."];

/// The words of `class`, most likely first.
pub fn words(class: Class) -> &'static [&'static str] {
    match class {
        Class::Lead => &["today", "later", "often", "soon", "perhaps", "finally", "suddenly", "meanwhile"],
        Class::Determiner => &["the", "a", "this", "every", "that", "one"],
        Class::Adjective => &[
            "quiet", "small", "bright", "young", "golden", "gentle", "heavy", "silver", "hidden", "distant", "warm",
            "cold", "green", "narrow", "proud", "broken", "clever", "simple", "wild", "lonely", "famous", "hungry",
            "patient", "curious", "modern", "rusty", "purple", "brave",
        ],
        Class::Noun => &[
            "river", "garden", "teacher", "market", "forest", "castle", "sailor", "village", "window", "kitchen",
            "dragon", "mountain", "doctor", "bridge", "farmer", "letter", "painter", "harbor", "station", "lantern",
            "cousin", "meadow", "library", "soldier", "puppy", "wizard", "basket", "singer", "robot", "theater",
            "planet", "candle", "rabbit", "tunnel",
        ],
        Class::Verb => &[
            "waits", "sleeps", "travels", "whispers", "laughs", "dances", "listens", "wanders", "shines", "returns",
            "vanishes", "works", "smiles", "grows", "moves", "speaks", "rests", "appears", "trembles", "hurries",
        ],
        Class::Adverb => &[
            "slowly", "softly", "again", "quickly", "calmly", "together", "happily", "rarely", "forever", "nearby",
            "kindly", "early", "tonight", "outside",
        ],
        Class::Preposition => &["under", "near", "beside", "behind", "beyond", "across", "inside", "around"],
    }
}

/// Draws a word of `class` with probability proportional to `1 / (rank + 3)`.
pub fn draw(class: Class, rng: &mut impl Rng) -> &'static str {
    let words = words(class);
    let total: f64 = (0..words.len()).map(weight).sum();
    let mut left = rng.random::<f64>() * total;
    for (rank, word) in words.iter().enumerate() {
        left -= weight(rank);
        if left <= 0.0 {
            return word;
        }
    }
    words[words.len() - 1]
}

fn weight(rank: usize) -> f64 {
    1.0 / (rank as f64 + 3.0)
}

/// The class of a lower-case word.
pub fn class_of(word: &str) -> Option<Class> {
    use Class::{Adjective, Adverb, Determiner, Lead, Noun, Preposition, Verb};
    [Determiner, Noun, Adjective, Verb, Adverb, Preposition, Lead].into_iter().find(|&c| words(c).contains(&word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_content_word_is_part_of_another_word() {
        use Class::{Adjective, Adverb, Determiner, Lead, Noun, Preposition, Verb};
        let all: Vec<&str> = [Lead, Determiner, Adjective, Noun, Verb, Adverb, Preposition]
            .into_iter()
            .flat_map(|c| words(c).iter().copied())
            .chain(ENDINGS.iter().flat_map(|e| e.trim_end_matches('.').split(' ')))
            .collect();
        for content in CONTENT.into_iter().flat_map(words) {
            let holders: Vec<_> = all.iter().filter(|w| w.to_lowercase().contains(content) && *w != content).collect();
            assert!(holders.is_empty(), "{content} is part of {holders:?}");
        }
    }
}
