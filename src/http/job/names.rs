//! Fields that an API calls otherwise than chat completions do: every request is checked as a chat completion, and an error
//! of that check must name the field that the client sent.

use std::borrow::Cow;

use crate::http::error::ApiError;

/// Pairs of a name in chat completions and the name that the client knows. The first that fits is taken: a name stands for
/// itself and for what is within it, and one that begins with a dot for that part of any path.
pub type Names = &'static [(&'static str, &'static str)];

impl ApiError {
    /// This error of a chat completion with the names of another API.
    #[must_use]
    pub fn in_words_of(self, names: Names) -> Self {
        let whole = |name: &'static str| names.iter().find(|(from, _)| *from == name).map_or(name, |(_, to)| *to);
        match self {
            Self::Invalid { param, message } => Self::Invalid {
                param: param.map(|param| renamed(&param, names).into_owned()),
                message: reworded(&message, names),
            },
            Self::TooLong { param, message } => Self::TooLong { param: whole(param), message },
            Self::BadPrompt { param, message } => Self::BadPrompt { param: whole(param), message },
            other => other,
        }
    }
}

fn renamed<'a>(name: &'a str, names: Names) -> Cow<'a, str> {
    for (from, to) in names {
        if from.starts_with('.') && name.contains(from) {
            return name.replacen(from, to, 1).into();
        }
        match name.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => return format!("{to}{rest}").into(),
            _ => {}
        }
    }
    name.into()
}

/// A message in which the names between backticks are renamed.
fn reworded(message: &str, names: Names) -> String {
    let pieces: Vec<Cow<'_, str>> = message
        .split('`')
        .enumerate()
        .map(|(index, piece)| if index % 2 == 1 { renamed(piece, names) } else { piece.into() })
        .collect();
    pieces.join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Names = &[
        ("max_completion_tokens", "max_output_tokens"),
        ("response_format.json_schema", "text.format"),
        ("response_format", "text.format"),
        ("messages", "input"),
        (".function.", "."),
    ];

    #[test]
    fn errors_name_the_field_that_was_sent() {
        for (param, message, named, said) in [
            (
                "max_completion_tokens",
                "`max_completion_tokens` must be",
                "max_output_tokens",
                "`max_output_tokens` must be",
            ),
            (
                "response_format.json_schema.schema",
                "`response_format.json_schema.schema`",
                "text.format.schema",
                "`text.format.schema`",
            ),
            ("response_format.type", "`response_format.type`", "text.format.type", "`text.format.type`"),
            ("tools[0].function.name", "`tools[0].function.name` is", "tools[0].name", "`tools[0].name` is"),
            ("temperature", "messages of `temperature`", "temperature", "messages of `temperature`"),
            ("messages_of", "`messages_of`", "messages_of", "`messages_of`"),
        ] {
            let expected = ApiError::invalid(named, said);
            assert_eq!(ApiError::invalid(param, message).in_words_of(NAMES), expected, "{param}");
        }
        let long = ApiError::TooLong { param: "messages", message: "long".into() };
        assert_eq!(long.in_words_of(NAMES), ApiError::TooLong { param: "input", message: "long".into() });
        assert_eq!(ApiError::Deadline.in_words_of(NAMES), ApiError::Deadline);
    }
}
