//! Checks the nesting of brackets and quotation marks.

use crate::verify::text::is_space;

/// Whether five brackets are nested and the innermost is closed. A bracket that does not match resets the nesting.
pub(super) fn has_deep_brackets(response: &str) -> bool {
    let mut open = Vec::new();
    let mut deepest = 0;
    for c in response.chars() {
        let closing = match c {
            '(' => Some(')'),
            '[' => Some(']'),
            '{' => Some('}'),
            _ => None,
        };
        if let Some(closing) = closing {
            open.push(closing);
            deepest = deepest.max(open.len());
        } else if matches!(c, ')' | ']' | '}') {
            if open.pop() != Some(c) {
                open.clear();
                deepest = 0;
            } else if deepest >= 5 {
                return true;
            }
        }
    }
    false
}

/// Whether three levels of `"` and `'` open and close. A mark equal to the innermost open one closes it, and apostrophes count as marks.
pub(super) fn has_deep_quotes(response: &str) -> bool {
    let mut open = Vec::new();
    let mut deepest = 0;
    for c in response.chars().filter(|c| matches!(c, '"' | '\'')) {
        if open.last() == Some(&c) {
            open.pop();
            if deepest - open.len() >= 3 {
                return true;
            }
        } else {
            open.push(c);
            deepest = deepest.max(open.len());
        }
    }
    false
}

/// Whether there is text between any two quotations and after the last one.
pub(super) fn has_text_after_quotes(response: &str) -> bool {
    let text = response.replace(['“', '”'], "\"").replace("'\"'", "").replace(is_space, "");
    if text.contains("\"\"") {
        return false;
    }
    let text = text.trim_matches(|c: char| c != '"' && (c.is_ascii_digit() || c.is_ascii_punctuation()));
    !text.is_empty() && !text.ends_with('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_must_fit_and_quotes_must_alternate() {
        for (text, brackets, quotes) in [
            ("(((((x)", true, false),
            ("((((x))))", false, false),
            ("([{([x])}])", true, false),
            ("((1) 2) 3) (((((x]", false, false),
            ("\"a 'b \"c\" d' e\"", false, true),
            ("\"a 'b' c\"", false, false),
            ("\"\"\"\"", false, false),
        ] {
            assert_eq!((has_deep_brackets(text), has_deep_quotes(text)), (brackets, quotes), "{text}");
        }
    }
}
