//! Recognises what Python's `json` module reads: RFC 8259, and `NaN`, `Infinity` and `-Infinity`.
//!
//! `serde_json` rejects numbers out of range, lone surrogates, those three literals and deep nesting, all of which are accepted here.

use super::text::trim;

/// The number of digits up to which Python reads an integer by default.
const MAX_INTEGER_DIGITS: usize = 4300;

/// Whether the response is one JSON value, with or without a Markdown fence around it.
pub(super) fn is_json(response: &str) -> bool {
    let mut text = trim(response);
    for fence in ["```json", "```Json", "```JSON", "```"] {
        text = text.strip_prefix(fence).unwrap_or(text);
    }
    text = trim(text.strip_suffix("```").unwrap_or(text));
    Scanner { rest: text.as_bytes() }.document().is_some()
}

/// Scans JSON. Every method returns `None` if the text is not JSON.
struct Scanner<'a> {
    rest: &'a [u8],
}

/// A container that is open. They are kept on the heap, innermost last, so that depth costs no stack.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Array,
    Object,
}

impl Scanner<'_> {
    fn document(mut self) -> Option<()> {
        let mut open: Vec<Open> = Vec::new();
        self.spaces();
        loop {
            // Here a value begins.
            match self.rest.first()? {
                b'[' => {
                    self.step();
                    self.spaces();
                    if !self.eat(b"]") {
                        open.push(Open::Array);
                        continue;
                    }
                }
                b'{' => {
                    self.step();
                    self.spaces();
                    if !self.eat(b"}") {
                        self.key()?;
                        open.push(Open::Object);
                        continue;
                    }
                }
                b'"' => self.string()?,
                _ => self.literal()?,
            }
            // Here a value has ended: close the containers that end, then continue with the next value.
            loop {
                self.spaces();
                let Some(container) = open.last() else {
                    return self.rest.is_empty().then_some(());
                };
                let close: &[u8] = if *container == Open::Array { b"]" } else { b"}" };
                if self.eat(close) {
                    open.pop();
                    continue;
                }
                if !self.eat(b",") {
                    return None;
                }
                self.spaces();
                if *container == Open::Object {
                    self.key()?;
                }
                break;
            }
        }
    }

    /// Reads a string, a colon and the spaces around it.
    fn key(&mut self) -> Option<()> {
        self.string()?;
        self.spaces();
        self.eat(b":").then(|| self.spaces())
    }

    fn string(&mut self) -> Option<()> {
        if !self.eat(b"\"") {
            return None;
        }
        loop {
            let byte = *self.rest.first()?;
            self.step();
            match byte {
                b'"' => return Some(()),
                b'\\' => {
                    let escape = *self.rest.first()?;
                    self.step();
                    match escape {
                        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {}
                        b'u' => {
                            let digits = self.rest.get(..4)?;
                            if !digits.iter().all(u8::is_ascii_hexdigit) {
                                return None;
                            }
                            self.rest = &self.rest[4..];
                        }
                        _ => return None,
                    }
                }
                0..0x20 => return None,
                _ => {}
            }
        }
    }

    fn literal(&mut self) -> Option<()> {
        let words: [&[u8]; 6] = [b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity"];
        if words.iter().any(|word| self.eat(word)) { Some(()) } else { self.number() }
    }

    fn number(&mut self) -> Option<()> {
        self.eat(b"-");
        let integer = if self.eat(b"0") { 1 } else { self.digits()? };
        let mut is_integer = true;
        if let Some((b'.', [b'0'..=b'9', ..])) = self.rest.split_first() {
            self.step();
            self.digits()?;
            is_integer = false;
        }
        let exponent = match self.rest {
            [b'e' | b'E', b'+' | b'-', b'0'..=b'9', ..] => 2,
            [b'e' | b'E', b'0'..=b'9', ..] => 1,
            _ => 0,
        };
        if exponent > 0 {
            self.rest = &self.rest[exponent..];
            self.digits()?;
            is_integer = false;
        }
        (!is_integer || integer <= MAX_INTEGER_DIGITS).then_some(())
    }

    /// The number of digits; `None` if there are none.
    fn digits(&mut self) -> Option<usize> {
        let count = self.rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.rest = &self.rest[count..];
        (count > 0).then_some(count)
    }

    fn spaces(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn eat(&mut self, token: &[u8]) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else {
            return false;
        };
        self.rest = rest;
        true
    }

    fn step(&mut self) {
        self.rest = &self.rest[1..];
    }
}

#[cfg(test)]
mod tests {
    use super::is_json;

    #[test]
    fn reads_what_python_reads() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        for text in [
            "{}",
            "[]",
            "[1, 2]",
            "{\"a\": {\"b\": [null]}, \"a\": 1}",
            "NaN",
            "-Infinity",
            "1e999",
            "-0.5E-3",
            "\"\\ud83d\"",
            "\"\u{7f}é\"",
            "```json\n{\"a\": 1}\n```",
            "```\n[]```",
            " \u{a0}3 ",
            "[[], {}]",
            &deep,
            &"1".repeat(4300),
        ] {
            assert!(is_json(text), "{text:.40}");
        }
        for text in [
            "",
            "```json```",
            "01",
            ".5",
            "5.",
            "+1",
            "-",
            "- 1",
            "[1,]",
            "{\"a\":1,}",
            "{a: 1}",
            "{'a': 1}",
            "True",
            "None",
            "1 2",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"a",
            "[1",
            "[1}",
            "{\"a\" 1}",
            "\u{feff}{}",
            "[\u{a0}1]",
            "// c\n1",
            "1e",
            "-NaN",
            &"1".repeat(4301),
        ] {
            assert!(!is_json(text), "{text:.40}");
        }
    }
}
