//! `punctuation:`: marks that must not occur.

/// No ASCII comma; those of other scripts do not count.
pub(super) fn has_no_comma(response: &str) -> bool {
    !response.contains(',')
}
