//! Reads how often a word or letter may occur: `at least 3 times`, `not more than twice`.

use super::number::{NUMBER, value};
use super::pattern::pattern;
use super::quantity::{AT_LEAST, AT_MOST, Bounds, EXACTLY, LESS_THAN, MORE_THAN, Relation, relation, relation_after};

/// Matches how often something occurs, in a phrase before the noun: `at least twice`.
pub(super) const TIMES: &str = r"(?:at least|at most|more than|less than|fewer than|no more than|exactly|up to|only)? ?(?:once|twice|thrice|\w+ times)";
static COUNTED: std::sync::LazyLock<regex::Regex> = std::sync::LazyLock::new(|| {
    let relations = [
        EXACTLY,
        AT_LEAST,
        MORE_THAN,
        AT_MOST,
        LESS_THAN,
        "no fewer than|no less than|no more than|not more than|not less than",
    ]
    .join("|");
    let pattern = format!(
        r"^,?(?: (?:a total of|for|exactly|in it|in total))*(?: ?(?P<pre>{relations}|about|around|approximately|roughly))?(?: of)?(?: a total of)? ?\b(?:(?P<once>once|twice|thrice|one time)|(?P<low>{NUMBER})(?: ?(?P<after>\+|plus|or more|or less|or fewer)| ?(?:to|-|or|and) ?(?P<high>{NUMBER}))? ?(?:different |separate )?(?:times?|occurrences|instances|mentions))\b(?:,? ?(?P<post>or more|or less|or fewer|or twice|at least|at most|max(?:imum)?|minimum|min|only|exactly|tops|total)\b)?"
    );
    super::pattern::compile(&pattern)
});
pattern!(
    BETWEEN,
    [r"^,?(?: for)? ?(?:between|from) (?P<low>", NUMBER, r") (?:and|to) (?P<high>", NUMBER, r") times\b"]
);
/// The bounds stated at the start of `text`, such as `at least 3 times`, and their length. `Some((None, _))` is a count that cannot be
/// expressed as bounds.
pub(super) fn times_of(text: &str) -> Option<(Option<Bounds>, usize)> {
    if let Some(between) = BETWEEN.captures(text) {
        let bounds = Bounds::between(value(&between["low"])?, value(&between["high"])?);
        return Some((Some(bounds), between.get(0)?.end()));
    }
    let counted = COUNTED.captures(text)?;
    let end = counted.get(0)?.end();
    let group = |name: &str| counted.name(name).map_or("", |found| found.as_str());
    let low = match group("once") {
        "once" | "one time" => 1,
        "twice" => 2,
        "thrice" => 3,
        _ => value(group("low"))?,
    };
    if let Some(high) = counted.name("high") {
        let high = value(high.as_str())?;
        return Some(((low < high).then(|| Bounds::between(low, high)), end));
    }
    let pre = group("pre");
    let before = match pre {
        "no more than" | "not more than" => Some(Relation::AtMost),
        "no less than" | "no fewer than" | "not less than" => Some(Relation::AtLeast),
        _ => relation(pre),
    };
    let after = [group("after"), group("post")].into_iter().find_map(|after| match after {
        "only" | "exactly" | "total" => Some(Relation::Exactly),
        _ => relation_after(after),
    });
    if group("post") == "or twice" {
        return Some((Some(Bounds::between(1, 2)), end));
    }
    let bounds = match (before, after) {
        (None, None) => Some(Bounds::between(low, low)),
        (Some(Relation::Exactly), None) => Some(Bounds::between(low, low)),
        (Some(Relation::About), _) => None,
        (_, Some(after)) => Some(after.bounds(low)),
        (Some(before), None) => Some(before.bounds(low)),
    };
    Some((bounds, end))
}

/// The bounds under a negation, such as `not more than twice`.
pub(super) fn negated_bounds(bounds: Bounds) -> Option<Bounds> {
    match bounds {
        Bounds { least: Some(least), limit: None } if least > 0 => Some(Bounds { least: None, limit: Some(least) }),
        Bounds { least: None, limit: Some(limit) } => Some(Bounds { least: Some(limit), limit: None }),
        _ => None,
    }
}
