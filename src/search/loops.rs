//! Detects that a text repeats itself, with the same words again and again until its room is used up.

/// Number of repetitions after which a text counts as looping.
const REPEATS: usize = 6;
/// Bytes that the repetitions must cover, so that a refrain or a row of dashes does not count.
const COVERED: usize = 400;
/// Number of bytes at the end of a text that are searched. Longer passages are not recognised.
const WINDOW: usize = 4096;
/// Bytes of new text between two checks.
const STRIDE: usize = 64;

/// Watches a growing text for loops.
#[derive(Debug, Default)]
pub(super) struct LoopWatch {
    looked: usize,
}

impl LoopWatch {
    /// Whether `text`, which has grown since the last call, now ends in a loop.
    pub fn sees_loop(&mut self, text: &str) -> bool {
        if text.len() < self.looked + STRIDE {
            return false;
        }
        self.looked = text.len();
        ends_in_loop(text)
    }
}

/// Whether the end of `text` is one passage repeated at least `REPEATS` times over at least `COVERED` bytes. All digits count as equal,
/// so a list in which only the numbers change is a loop as well.
pub fn ends_in_loop(text: &str) -> bool {
    let bytes = text.as_bytes();
    let end: Vec<u8> = bytes[bytes.len().saturating_sub(WINDOW)..].iter().rev().map(|&byte| plain(byte)).collect();
    // The prefix function of the reversed end: `border[i]` is the longest proper border of its first `i + 1` bytes, and
    // `i + 1 - border[i]` their shortest period.
    let mut border = vec![0; end.len()];
    for i in 1..end.len() {
        let mut length: usize = border[i - 1];
        while length > 0 && end[i] != end[length] {
            length = border[length - 1];
        }
        border[i] = length + usize::from(end[i] == end[length]);
        let (covered, period) = (i + 1, i + 1 - border[i]);
        if covered >= COVERED && covered >= REPEATS * period && end[..period].iter().any(u8::is_ascii_alphanumeric) {
            return true;
        }
    }
    false
}

fn plain(byte: u8) -> u8 {
    if byte.is_ascii_digit() { b'0' } else { byte }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passage_again_and_again_is_a_loop_and_a_refrain_is_not() {
        let list: String = (10..60).map(|n| format!("{n}. The river is calm.\n")).collect();
        let verse = "Row, row, row your boat\nGently down the stream\n";
        let song: String = (0..20).map(|n| format!("{verse}and sing the verse of {}\n", "xyz".repeat(n + 1))).collect();
        let poem = "The river runs. The lantern glows. Nobody knows where the old road goes. ".repeat(3);
        let cases = [
            ("I am a bot. ".repeat(40), true),
            (format!("Once. {}", "and then ".repeat(60)), true),
            (list, true),
            (format!("{} and an end", "la ".repeat(200)), false),
            ("-".repeat(900), false),
            (" \n".repeat(900), false),
            (song, false),
            (poem, false),
            ("na na na ".repeat(8), false),
            ("é漢🙂 ok ".repeat(80), true),
            (String::new(), false),
        ];
        for (text, expected) in cases {
            assert_eq!(ends_in_loop(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_watch_looks_now_and_then_and_sees_a_loop_soon() {
        let (mut watch, mut text) = (LoopWatch::default(), String::from("A start. "));
        let seen = (0..).find(|_| {
            text.push_str("again ");
            watch.sees_loop(&text)
        });
        assert!(seen.is_some_and(|words| words * "again ".len() < COVERED + 2 * STRIDE), "{seen:?}");
    }
}
