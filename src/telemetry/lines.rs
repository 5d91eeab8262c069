//! Log lines of bounded length: what clients and models say is cut, and its control characters are escaped, so that no
//! request fills a disk with one line, forges a line, or speaks to the reader's terminal.

use std::fmt::{self, Debug, Write};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::{Format, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Characters of a value in a line.
const SHOWN: usize = 500;

/// The fields of a line of text.
#[derive(Clone, Copy, Debug)]
pub struct BoundedFields;

impl<'writer> FormatFields<'writer> for BoundedFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = TextLine { writer, is_first: true, outcome: Ok(()) };
        fields.record(&mut line);
        line.outcome
    }
}

struct TextLine<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    outcome: fmt::Result,
}

impl TextLine<'_> {
    fn field(&mut self, field: &Field, value: &dyn Debug) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if field.name() != "message" {
            write!(self.writer, "{}=", field.name().trim_start_matches("r#"))?;
        }
        let mut value_writer = Bounded { inner: &mut self.writer, escapes: is_hidden, left: SHOWN, cut: 0 };
        write!(value_writer, "{value:?}")?;
        value_writer.end()
    }
}

impl Visit for TextLine<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // What the `log` crate says of where its lines come from is already part of the line.
        if self.outcome.is_ok() && !field.name().starts_with("log.") {
            self.outcome = self.field(field, value);
        }
    }
}

/// Writes a number of characters and counts the others.
struct Bounded<'a, W> {
    inner: &'a mut W,
    /// Which characters are escaped.
    escapes: fn(char) -> bool,
    left: usize,
    cut: usize,
}

impl<W: Write> Write for Bounded<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            if self.left == 0 {
                self.cut += 1;
                continue;
            }
            self.left -= 1;
            if (self.escapes)(character) {
                write!(self.inner, "{}", character.escape_default())?;
            } else {
                self.inner.write_char(character)?;
            }
        }
        Ok(())
    }
}

impl<W: Write> Bounded<'_, W> {
    fn end(self) -> fmt::Result {
        match self.cut {
            0 => Ok(()),
            cut => write!(self.inner, "… ({cut} more characters)"),
        }
    }
}

/// Control characters, and the marks of direction and separators of lines that Unicode does not count among them.
fn is_hidden(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
}

/// Lines of JSON, whose long texts are cut. JSON itself escapes most control characters.
#[derive(Debug)]
pub struct BoundedJson(pub Format<Json>);

impl<S, N> FormatEvent<S, N> for BoundedJson
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        if line.len() <= SHOWN && !line.trim_end().contains(is_hidden) {
            return writer.write_str(&line);
        }
        let mut whole: Value = serde_json::from_str(&line).map_err(|_| fmt::Error)?;
        cut_texts(&mut whole);
        writeln!(writer, "{whole}")
    }
}

fn cut_texts(value: &mut Value) {
    match value {
        Value::String(text) => {
            let mut shown = String::new();
            let mut bounded = Bounded { inner: &mut shown, escapes: |c| c >= ' ' && is_hidden(c), left: SHOWN, cut: 0 };
            bounded.write_str(text).and_then(|()| bounded.end()).expect("a text takes every text");
            *text = shown;
        }
        Value::Array(items) => items.iter_mut().for_each(cut_texts),
        Value::Object(fields) => fields.values_mut().for_each(cut_texts),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged of a text of a client, as text and as JSON.
    fn logged(text: &str) -> [String; 2] {
        let (plain, json) = (Lines::default(), Lines::default());
        let (to_plain, to_json) = (plain.clone(), json.clone());
        let as_text = super::super::text_lines().with_writer(move || to_plain.clone()).with_ansi(false).finish();
        let as_json = super::super::json_lines().with_writer(move || to_json.clone()).finish();
        let log = || {
            let span = tracing::info_span!("request", id = text);
            let _entered = span.enter();
            tracing::warn!(error = %text, count = 3, quoted = text, "refused: {text}");
        };
        tracing::subscriber::with_default(as_text, log);
        tracing::subscriber::with_default(as_json, log);
        [plain, json].map(|lines| String::from_utf8(lines.0.lock().unwrap().clone()).unwrap())
    }

    #[test]
    fn a_line_is_one_line_of_bounded_length_whatever_a_client_says() {
        for text in [
            "short",
            "a\r\nWARN forged: b",
            "\u{1b}[31mred\u{7}",
            "\u{202E}abc\u{2028}\u{85}",
            &"𝕏".repeat(1 << 20),
            &"\n".repeat(1 << 20),
        ] {
            let shown: String = text.chars().take(20).collect();
            for line in logged(text) {
                assert_eq!(line.matches('\n').count(), 1, "{shown:?}: {line}");
                assert!(!line.trim_end().contains(is_hidden), "{shown:?}: {line}");
                assert!(line.len() < 20_000, "{shown:?}: {} bytes", line.len());
                assert!(line.contains("refused") && line.contains("count"), "{line}");
            }
        }
        let [plain, json] = logged("hello");
        assert!(plain.contains("request{id=\"hello\"}"), "{plain}");
        assert!(plain.trim_end().ends_with("refused: hello error=hello count=3 quoted=\"hello\""), "{plain}");
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((&json["fields"]["error"], &json["span"]["id"]), (&Value::from("hello"), &Value::from("hello")));
        let [plain, json] = logged(&"x".repeat(1_000));
        assert!(plain.contains("(500 more characters)") && json.contains("(500 more characters)"), "{plain}{json}");
        serde_json::from_str::<Value>(&json).unwrap();
    }
}
