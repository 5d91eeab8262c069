//! What an error of the compiler says to a client.

/// What an error of several lines comes down to: the first one, or the one that is marked as the error.
pub(super) fn gist(text: &str) -> &str {
    /// Characters that are shown.
    const SHOWN: usize = 300;
    let marked = text.lines().find_map(|line| line.trim_start().strip_prefix("error: "));
    let line = marked.or_else(|| text.lines().next()).unwrap_or_default();
    line.char_indices().nth(SHOWN).map_or(line, |(end, _)| &line[..end])
}
