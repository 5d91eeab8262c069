//! The rules of `punctuation:` about marks that must not occur.

/// Whether the response has no ASCII comma. Commas of other scripts do not count.
pub(super) fn has_no_comma(response: &str) -> bool {
    !response.contains(',')
}
