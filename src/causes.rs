//! An error with all of its causes, for the person who typed a command.

use std::error::Error;

/// An error and its causes on one line. A cause that the message before it already ends with is not repeated.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line = format!("{line}: {text}");
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Says {
        words: &'static str,
        source: io::Error,
    }

    #[test]
    fn no_cause_is_said_twice() {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "no such file");
        assert_eq!(one_line(&missing()), "no such file");
        for (words, expected) in [
            ("the file is missing", "the file is missing: no such file"),
            ("file.txt: no such file", "file.txt: no such file"),
        ] {
            assert_eq!(one_line(&Says { words, source: missing() }), expected);
        }
    }
}
