//! The rules of `detectable_content:` about a postscript, and about placeholders in square brackets.

use super::CheckError;
use super::kwargs::{Kwargs, plural};
use super::pattern::{Allowance, Pattern};
use super::text::is_space;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Rule {
    Placeholders(usize),
    Postscript { marker: String, search: Marker },
}

/// The text to search for in the lower-cased response.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Marker {
    /// The given pieces, with at most one space between any two.
    Spaced(&'static [&'static str]),
    /// Any other marker.
    Pattern(Pattern),
}

impl Rule {
    pub(super) fn number_placeholders(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        Ok(Self::Placeholders(kwargs.count("num_placeholders")?))
    }

    pub(super) fn postscript(kwargs: &mut Kwargs<'_>) -> Result<Self, CheckError> {
        let lowered = |text: &str, allowance: &mut Allowance| Pattern::exact(&text.to_lowercase(), allowance);
        let (marker, pattern) = kwargs.pattern("postscript_marker", lowered)?;
        let search = match marker.as_str() {
            "P.S." => Marker::Spaced(&["p.", "s."]),
            "P.P.S" => Marker::Spaced(&["p.", "p.", "s"]),
            _ => Marker::Pattern(pattern),
        };
        Ok(Self::Postscript { marker, search })
    }

    pub(super) fn accepts(&self, response: &str) -> bool {
        match self {
            Self::Placeholders(least) => placeholders(response) >= *least,
            Self::Postscript { search, .. } => {
                let lowered = response.to_lowercase();
                match search {
                    Marker::Spaced(pieces) => has_spaced(&lowered, pieces),
                    Marker::Pattern(pattern) => pattern.find_at(&lowered, 0).is_some(),
                }
            }
        }
    }

    pub(super) fn describe(&self) -> String {
        match self {
            Self::Placeholders(least) => {
                format!("include at least {least} placeholder{} in square brackets, such as [address]", plural(*least))
            }
            Self::Postscript { marker, .. } => format!("end with a postscript that starts with {marker}"),
        }
    }
}

/// Counts pairs of `[` and the next `]` of the same line, from left to right.
fn placeholders(response: &str) -> usize {
    let mut count = 0;
    for line in response.split('\n') {
        let mut rest = line;
        while let Some((_, inside)) = rest.split_once('[') {
            let Some((_, after)) = inside.split_once(']') else { break };
            count += 1;
            rest = after;
        }
    }
    count
}

fn has_spaced(text: &str, pieces: &[&str]) -> bool {
    let Some((first, others)) = pieces.split_first() else { return true };
    text.match_indices(first).any(|(at, _)| {
        others
            .iter()
            .try_fold(&text[at + first.len()..], |rest, piece| {
                rest.strip_prefix(piece).or_else(|| rest.strip_prefix(is_space)?.strip_prefix(piece))
            })
            .is_some()
    })
}
