//! Finds instructions that a rule can check in a conversation's own words, without a model.
//!
//! Precision comes before recall. Text is ignored if it is quoted, pasted, negated, hypothetical, reported, withdrawn, replaced by a later
//! turn, or about only a part of the answer, and everything uncertain is left to the judge. The instructions must be in English; nothing is
//! found in other languages.

mod case;
mod content;
mod fixed;
mod format;
mod keywords;
mod language;
mod length;
mod letters;
mod list;
pub mod measure;
mod number;
mod part;
mod paste;
mod pattern;
mod punctuation;
mod quantity;
mod reading;
mod repeat;
mod sections;
mod settle;
mod spot;
mod standing;
mod startend;
mod tallies;
#[cfg(test)]
mod tests;
mod times;

use std::ops::Range;

use serde_json::{Map, Value};

use super::{Allowance, Check};
use crate::chat::{Message, Role};
use reading::{Reading, beginning};

/// The number of bytes of a turn that are read. It bounds the work, since every expression takes linear time.
const TURN_BYTES: usize = 100 * 1024;

/// The number of bytes of all turns that are read, starting from the newest.
const CONVERSATION_BYTES: usize = 256 * 1024;

/// The maximum number of checks of a conversation.
const MOST_CHECKS: usize = 64;

/// A check, together with the words that state it.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundCheck {
    /// The check that the answer must pass.
    pub check: Check,
    /// The exact span of the conversation that states it.
    pub words: String,
}

/// The checks that the next answer of `conversation` must pass.
///
/// The last user turn is the one to answer. Standing instructions count, too: those in system turns, and those in earlier user turns that
/// are marked as lasting, that consist of instructions only, or whose answer the later turns revise.
pub fn find_checks(conversation: &[Message]) -> Vec<FoundCheck> {
    let Some(last) = conversation.iter().rposition(|message| message.role == Role::User) else {
        return Vec::new();
    };
    let mut room = CONVERSATION_BYTES;
    let said = conversation[..=last].iter().rev().filter(|message| message.role != Role::Assistant);
    let mut turns: Vec<Turn<'_>> = said
        .map(|message| {
            let text = beginning(&message.content, TURN_BYTES.min(room));
            room -= text.len();
            Turn { role: message.role, reading: Reading::new(text) }
        })
        .collect();
    turns.reverse();
    let mut finds: Vec<(usize, Find)> = Vec::new();
    for (index, turn) in turns.iter().enumerate() {
        let found = turn.finds();
        let later = &turns[index + 1..];
        finds.extend(found.into_iter().filter(|find| standing::counts(turn, find, later)).map(|find| (index, find)));
    }
    settle::settle(&turns, &mut finds);
    let mut allowance = Allowance::default();
    let checks = finds.into_iter().filter_map(|(turn, find)| {
        let words = turns[turn].reading.words(find.range).to_string();
        // Skips ids that this build does not know, and checks that would be too expensive.
        Check::within(find.id, find.kwargs, &mut allowance).ok().map(|check| FoundCheck { check, words })
    });
    checks.take(MOST_CHECKS).collect()
}

/// A turn of the system or the user.
struct Turn<'a> {
    role: Role,
    reading: Reading<'a>,
}

/// The result of a finder: the arguments of a check, and the place in the prepared text that states it.
#[derive(Clone, Debug, PartialEq)]
struct Find {
    id: &'static str,
    kwargs: Map<String, Value>,
    range: Range<usize>,
}

impl Find {
    /// Makes a find; `kwargs` must be an object.
    fn new(id: &'static str, kwargs: Value, range: Range<usize>) -> Self {
        let kwargs = match kwargs {
            Value::Object(kwargs) => kwargs,
            _ => Map::new(),
        };
        Self { id, kwargs, range }
    }
}

/// The finds of a turn so far.
type Finds = Vec<Find>;

/// A function that finds one group of related instructions.
type Finder = fn(&Reading<'_>, &mut Finds);

const FINDERS: [Finder; 11] = [
    length::find,
    keywords::find,
    letters::find,
    case::find,
    punctuation::find,
    format::find,
    content::find,
    sections::find,
    startend::find,
    repeat::find,
    language::find,
];

/// Finders of long wordings, which may contain finds of the other finders.
const WORDINGS: [Finder; 2] = [fixed::find, tallies::find];

fn contains(longer: &Range<usize>, range: &Range<usize>) -> bool {
    longer.start <= range.start && range.end <= longer.end
}

impl Turn<'_> {
    /// The finds, ordered by their place in the text.
    fn finds(&self) -> Finds {
        let mut finds = Finds::new();
        for finder in FINDERS {
            finder(&self.reading, &mut finds);
        }
        let common = finds.len();
        for finder in WORDINGS {
            finder(&self.reading, &mut finds);
        }
        // A longer wording includes the finds within it: `three sentences, all with the same number of characters`.
        let wordings: Vec<Range<usize>> = finds[common..].iter().map(|find| find.range.clone()).collect();
        let mut finds: Finds = finds
            .into_iter()
            .enumerate()
            .filter(|(index, find)| *index >= common || !wordings.iter().any(|longer| contains(longer, &find.range)))
            .map(|(_, find)| find)
            .collect();
        finds.sort_by_key(|find| find.range.start);
        finds
    }
}
