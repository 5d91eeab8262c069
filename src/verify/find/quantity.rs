//! Reads quantities as people write them: `at least 3`, `2 to 4`, `no more than ten`.

use super::number::NUMBER;
use super::pattern::pattern;

/// The relation between a number and a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Relation {
    AtLeast,
    MoreThan,
    AtMost,
    LessThan,
    Exactly,
    About,
}

impl Relation {
    /// The opposite relation under a negation; `not about` and `not exactly` give no bounds.
    pub(super) fn negated(self) -> Option<Self> {
        match self {
            Self::MoreThan => Some(Self::AtMost),
            Self::LessThan => Some(Self::AtLeast),
            Self::AtLeast | Self::AtMost | Self::Exactly | Self::About => None,
        }
    }

    /// The bounds of a count with this relation to `count`.
    pub(super) fn bounds(self, count: usize) -> Bounds {
        match self {
            Self::AtLeast => Bounds { least: Some(count), limit: None },
            Self::MoreThan => Bounds { least: Some(count + 1), limit: None },
            Self::AtMost => Bounds { least: None, limit: Some(count + 1) },
            Self::LessThan => Bounds { least: None, limit: Some(count) },
            Self::Exactly => Bounds { least: Some(count), limit: Some(count + 1) },
            Self::About => Bounds::default(),
        }
    }
}

/// Bounds on the number of occurrences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    /// The least allowed number.
    pub(super) least: Option<usize>,
    /// The lowest number that is too high.
    pub(super) limit: Option<usize>,
}

impl Bounds {
    /// Bounds from `low` to `high`, both included.
    pub(super) fn between(low: usize, high: usize) -> Self {
        Self { least: Some(low), limit: Some(high + 1) }
    }

    /// The name of the relation and the number, for each bound.
    pub(super) fn relations(self) -> impl Iterator<Item = (&'static str, usize)> {
        let least = self.least.map(|n| ("at least", n));
        let limit = self.limit.map(|n| ("less than", n));
        least.into_iter().chain(limit)
    }
}

pub(super) const AT_LEAST: &str = concat!(
    r"at (?:the (?:very )?)?least|at (?:a |the )?minimum|(?:a |the )?(?:bare )?minimum(?: (?:length|word count|number|count))?(?: (?:of|is))?|min\.?(?: of)?|",
    r"upwards? of|≥ ?|>= ?|=> ?|north of"
);
pub(super) const MORE_THAN: &str = r"more than|greater than|longer than|bigger than|larger than|higher than|above|over|exceed(?:s|ing)?|surpass(?:es|ing)?|beyond|past|in excess of|> ?";
pub(super) const AT_MOST: &str = concat!(
    r"at (?:the )?(?:very )?(?:most|max(?:imum)?)|(?:a |the )?(?:hard |absolute )?max(?:imum)?\.?(?: (?:length|word count|number|count))?(?: (?:of|is))?|up to|within|≤ ?|<= ?|=< ?|",
    r"a (?:hard )?(?:limit|cap) of|(?:limited|capped|restricted) (?:to|at)"
);
pub(super) const LESS_THAN: &str =
    r"less than|fewer than|lesser than|lower than|smaller than|shorter than|under|below|beneath|< ?";
pub(super) const EXACTLY: &str = r"exactly|precisely|strictly|a total of exactly|no more (?:and|or) no (?:less|fewer) than|(?:neither|not) more nor (?:less|fewer) than|no more or (?:less|fewer) than|just|only";
const ABOUT: &str = r"around|about|approximately|approx\.?|roughly|nearly|almost|close to|circa|~ ?|some|maybe|a good|or so|another|an extra|the first|the last|first|last|next|these|those|my|your|his|her|their|following|previous|other";
pub(super) const AFTER_LEAST: &str = r"or more|or longer|or above|or over|at (?:the )?(?:very )?least|minimum|at (?:a )?minimum|min|and up|and above|or greater|plus|and more|upwards";
pub(super) const AFTER_MOST: &str = r"or less|or fewer|or under|or below|or shorter|at (?:the )?(?:very )?most|max(?:imum)?|tops|at max(?:imum)?|limit|cap|or lower|and under|and below|upper limit";

/// The relation that stands before a number.
pub(super) fn relation(text: &str) -> Option<Relation> {
    let text = text.trim();
    [
        (Relation::Exactly, &*IS_EXACTLY),
        (Relation::AtLeast, &*IS_AT_LEAST),
        (Relation::MoreThan, &*IS_MORE_THAN),
        (Relation::AtMost, &*IS_AT_MOST),
        (Relation::LessThan, &*IS_LESS_THAN),
        (Relation::About, &*IS_ABOUT),
    ]
    .into_iter()
    .find_map(|(relation, pattern)| pattern.is_match(text).then_some(relation))
}

/// The relation that stands after a number.
pub(super) fn relation_after(text: &str) -> Option<Relation> {
    let text = text.trim();
    match text {
        "+" => Some(Relation::AtLeast),
        _ if IS_AFTER_LEAST.is_match(text) => Some(Relation::AtLeast),
        _ if IS_AFTER_MOST.is_match(text) => Some(Relation::AtMost),
        _ => None,
    }
}

pattern!(IS_AT_LEAST, [r"^(?:", AT_LEAST, r")$"]);
pattern!(IS_MORE_THAN, [r"^(?:", MORE_THAN, r")$"]);
pattern!(IS_AT_MOST, [r"^(?:", AT_MOST, r")$"]);
pattern!(IS_LESS_THAN, [r"^(?:", LESS_THAN, r")$"]);
pattern!(IS_EXACTLY, [r"^(?:", EXACTLY, r")$"]);
pattern!(IS_ABOUT, [r"^(?:", ABOUT, r")$"]);
pattern!(IS_AFTER_LEAST, [r"^(?:", AFTER_LEAST, r")$"]);
pattern!(IS_AFTER_MOST, [r"^(?:", AFTER_MOST, r")$"]);

/// The expression for a quantity up to its unit, with the groups `pre`, `low`, `after` and `high`.
pub(super) fn quantity() -> String {
    [
        r"(?:(?P<pre>", EXACTLY, "|", AT_LEAST, "|", MORE_THAN, "|", AT_MOST, "|", LESS_THAN, "|", ABOUT,
        r")(?: a)?(?: total)?(?: of)? ?)?(?:(?:anywhere |somewhere )?(?:between|from|in the range of|ranging from) )?(?:the )?\b(?P<low>", NUMBER,
        r")(?: ?(?P<after>\+|plus|or more|or less|or fewer|or longer|or shorter|at least|at most|max(?:imum)?|min(?:imum)?)| ?(?:(?:(?:words?|sentences?) )?(?:to|or)|-|and|~|through) ?(?P<high>",
        NUMBER, r"))?",
    ]
    .concat()
}
