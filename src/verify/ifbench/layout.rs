//! Checks the layout of lines: indents that grow, and bullets after text.

use super::sentences::sentences;
use crate::verify::text::{is_blank, trim};

/// Whether every line is indented by more spaces than the one before it.
pub(super) fn has_rising_indents(response: &str) -> bool {
    let mut lines: Vec<&str> = response.split('\n').collect();
    // Removes blank lines like the reference, which skips the line after each removed one, and removes the first line with the same text.
    let mut at = 0;
    while at < lines.len() {
        if is_blank(lines[at])
            && let Some(first) = lines.iter().position(|line| *line == lines[at])
        {
            lines.remove(first);
        }
        at += 1;
    }
    let indent = |line: &str| line.len() - line.trim_start_matches(' ').len();
    lines.windows(2).all(|pair| indent(pair[0]) < indent(pair[1]))
}

/// Whether at least two sentences precede at least two lines that start with `*`. One empty line may end the text.
pub(super) fn has_bullets_after_text(response: &str) -> bool {
    let (mut in_text, mut written, mut bullets) = (true, 0, 0);
    for line in response.split('\n').map(trim) {
        if line.starts_with('*') {
            if written < 2 {
                return false;
            }
            in_text = false;
            bullets += 1;
        } else {
            if !in_text {
                return false;
            }
            let count = sentences(line).len();
            written += count;
            in_text = count > 0;
        }
    }
    bullets >= 2
}
