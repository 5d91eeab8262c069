//! Reads CSV tables like Python's reader, and checks the three tables that prompts ask for.

use crate::verify::text::{is_space, is_word_char, trim};

/// Whether the table has the given header and seven rows.
pub(super) fn is_city_table(response: &str) -> bool {
    let Some(records) = records(response, ',') else { return false };
    let [header, rows @ ..] = &records[..] else { return false };
    *header == ["ID", "Country", "City", "Year", "Count"] && rows.len() == 7 && rows.iter().all(|row| row.len() == 5)
}

/// Whether the table has a header and 14 rows, with a special character in a quoted field. Rows after that field are not checked.
pub(super) fn is_table_with_special_character(response: &str) -> bool {
    let names = ["ProductID", "Category", "Brand", "Price", "Stock"];
    if !has_header(response, names, |rest| Some(rest.strip_prefix(',')?.trim_start_matches([' ', '\t']))) {
        return false;
    }
    let Some(records) = records(&keep_quotes(response), ',').filter(|records| records.len() == 15) else {
        return false;
    };
    for row in &records[1..] {
        if row.len() != 5 {
            return false;
        }
        if row.iter().any(|field| is_quoted_and_special(field)) {
            return true;
        }
    }
    false
}

/// Whether the tab-separated table has a header and three rows, with every field in quotes.
pub(super) fn is_quoted_table(response: &str) -> bool {
    let names = ["StudentID", "Subject", "Grade", "Semester", "Score"];
    if !has_header(response, names, |rest| Some(rest.strip_prefix('\t')?.trim_start_matches(' '))) {
        return false;
    }
    let is_quoted = |field: &String| trim(field).starts_with('"') && trim(field).ends_with('"');
    let Some(records) = records(&keep_quotes(response), '\t') else { return false };
    records.len() == 4 && records.iter().all(|row| row.len() == 5 && row.iter().all(is_quoted))
}

/// Whether the first line contains the names, each bare or in quotes. `after_separator` removes the separator between two names.
fn has_header(response: &str, names: [&str; 5], after_separator: fn(&str) -> Option<&str>) -> bool {
    let line = response.split('\n').next().unwrap_or_default();
    let mut rest = Some(trim(line));
    for (i, name) in names.into_iter().enumerate() {
        if i > 0 {
            rest = rest.and_then(after_separator);
        }
        rest = rest.and_then(|text| match text.strip_prefix('"') {
            Some(quoted) => quoted.strip_prefix(name)?.strip_prefix('"'),
            None => text.strip_prefix(name),
        });
    }
    rest == Some("")
}

/// Triples every quote, so that it is read both as itself and as a quote.
fn keep_quotes(text: &str) -> String {
    text.replace('"', "\"\"\"")
}

/// Whether the first line is quoted and contains a character that is no letter, number or space.
fn is_quoted_and_special(field: &str) -> bool {
    let line = field.split('\n').next().unwrap_or_default();
    let inside = line.strip_prefix('"').and_then(|text| text.rsplit_once('"'));
    inside.is_some_and(|(inside, _)| inside.contains(|c| !is_word_char(c) && !is_space(c)))
}

/// The maximum number of characters in a field.
const LONGEST: usize = 131_072;

enum State {
    RecordStart,
    FieldStart,
    InField,
    InQuotes,
    /// The last character was a quote within quotes.
    QuoteInQuotes,
    /// A record has ended, with one or several line-break characters.
    LineEnd,
}

/// The records of `text`; `None` if Python's reader would fail.
fn records(text: &str, separator: char) -> Option<Vec<Vec<String>>> {
    let mut reader =
        Reader { separator, state: State::RecordStart, length: 0, field: String::new(), record: Vec::new() };
    let mut records = Vec::new();
    for line in text.split_inclusive('\n') {
        for c in line.chars() {
            reader.take(c)?;
        }
        if reader.ends_line() {
            records.push(std::mem::take(&mut reader.record));
        }
    }
    // The text has ended within quotes.
    if matches!(reader.state, State::InQuotes) {
        reader.end_field();
        records.push(reader.record);
    }
    Some(records)
}

struct Reader {
    separator: char,
    state: State,
    field: String,
    /// The number of characters in the field.
    length: usize,
    record: Vec<String>,
}

impl Reader {
    fn take(&mut self, c: char) -> Option<()> {
        let is_break = matches!(c, '\n' | '\r');
        self.state = match self.state {
            State::RecordStart if is_break => State::LineEnd,
            State::LineEnd if is_break => State::LineEnd,
            State::LineEnd => return None,
            State::InQuotes if c == '"' => State::QuoteInQuotes,
            State::InQuotes => self.add(c, State::InQuotes)?,
            State::QuoteInQuotes if c == '"' => self.add(c, State::InQuotes)?,
            State::RecordStart | State::FieldStart if c == '"' => State::InQuotes,
            _ if is_break => {
                self.end_field();
                State::LineEnd
            }
            _ if c == self.separator => {
                self.end_field();
                State::FieldStart
            }
            _ => self.add(c, State::InField)?,
        };
        Some(())
    }

    /// Ends the record if it ends with the line, and returns whether it does.
    fn ends_line(&mut self) -> bool {
        match self.state {
            // The line break is part of the field.
            State::InQuotes => return false,
            State::RecordStart | State::LineEnd => {}
            State::FieldStart | State::InField | State::QuoteInQuotes => self.end_field(),
        }
        self.state = State::RecordStart;
        true
    }

    fn add(&mut self, c: char, next: State) -> Option<State> {
        self.field.push(c);
        self.length += 1;
        (self.length <= LONGEST).then_some(next)
    }

    fn end_field(&mut self) {
        self.record.push(std::mem::take(&mut self.field));
        self.length = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_python_reads_them() {
        for (text, expected) in [
            ("a,b\nc,\n", Some(vec![vec!["a", "b"], vec!["c", ""]])),
            ("a\n\n \n", Some(vec![vec!["a"], vec![], vec![" "]])),
            ("\"a,\nb\"\"c\"x,d", Some(vec![vec!["a,\nb\"cx", "d"]])),
            ("a, \"b\"", Some(vec![vec!["a", " \"b\""]])),
            ("a\r\nb", Some(vec![vec!["a"], vec!["b"]])),
            ("a\rb", None),
            ("\"a\r", Some(vec![vec!["a\r"]])),
            ("a\r", Some(vec![vec!["a"]])),
            ("a,\"", Some(vec![vec!["a", ""]])),
            ("", Some(vec![])),
        ] {
            let read = records(text, ',');
            let expected =
                expected.map(|rows| rows.into_iter().map(|row| row.into_iter().map(String::from).collect()).collect());
            assert_eq!(read, expected, "{text:?}");
        }
    }
}
