//! Checks a choice among options that are given as one text, such as `yes/no/maybe` or `a), b), c)`.

use super::text::bare;
use crate::verify::text::{is_word_char, trim};

#[derive(Clone, Debug, PartialEq)]
pub(in crate::verify) struct Options {
    options: Vec<String>,
    /// Whether the options are named by letters. These must be repeated exactly; for others, case and surrounding punctuation do not
    /// matter.
    are_letters: bool,
}

impl Options {
    /// Reads options between slashes, between `or`, or between commas, whichever occurs first in this order.
    pub(super) fn read(text: &str) -> Self {
        // The reference also finds `or` inside words.
        let separator = ["/", "or"].into_iter().find(|separator| text.contains(separator)).unwrap_or(",");
        let options = text.split(separator).map(|option| trim(option).to_string()).collect();
        Self { options, are_letters: starts_with_letters(text) }
    }

    /// Whether the response is one of the options.
    pub(super) fn include(&self, response: &str) -> bool {
        if self.are_letters {
            return self.options.iter().any(|option| option == response);
        }
        let plain = |text: &str| bare(text).to_lowercase();
        let response = plain(response);
        self.options.iter().any(|option| plain(option) == response)
    }

    pub(super) fn describe(&self) -> String {
        format!("answer with one of \"{}\" and nothing else", self.options.join("\", \""))
    }
}

/// Whether the first three letters, numbers or `_` are a, b and c.
fn starts_with_letters(text: &str) -> bool {
    text.chars().filter(|c| is_word_char(*c)).take(3).map(|c| c.to_ascii_lowercase()).eq("abc".chars())
}
