//! The place of a call in a distributed trace, as the W3C's header `traceparent` carries it.

use std::fmt::{self, Display};

/// A span of a trace, by its ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The id of the trace.
    pub trace: [u8; 16],
    /// The span that is the parent of what follows.
    pub span: [u8; 8],
    /// Whether the caller records the trace.
    pub sampled: bool,
}

impl TraceContext {
    /// The header's name.
    pub const HEADER: &str = "traceparent";

    /// Reads the header's value. A version that is not known yet is read as version 0, as the specification asks; a value that
    /// is malformed counts as none.
    pub fn parse(header: &str) -> Option<Self> {
        let mut fields = header.trim().split('-');
        let [version, trace, span, flags] = std::array::from_fn(|_| fields.next());
        let [version] = hex(version?)?;
        let (trace, span, [flags]) = (hex(trace?)?, hex(span?)?, hex(flags?)?);
        let complete = version != 0 || fields.next().is_none();
        let valid = version != 0xff && trace != [0; 16] && span != [0; 8];
        (complete && valid).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }
}

impl Display for TraceContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        formatter.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))?;
        write!(formatter, "-{:02x}", u8::from(self.sampled))
    }
}

/// Bytes in lower-case hexadecimal digits.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if !digits || text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_and_written_and_a_malformed_one_is_ignored() {
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        for (header, expected) in [
            (format!("00-{trace}-{span}-01"), Some(true)),
            (format!(" 00-{trace}-{span}-00 "), Some(false)),
            (format!("00-{trace}-{span}-03"), Some(true)),
            (format!("cc-{trace}-{span}-01-more"), Some(true)),
            (format!("00-{trace}-{span}-01-more"), None),
            (format!("ff-{trace}-{span}-01"), None),
            (format!("00-{trace}-{span}"), None),
            (format!("00-{}-{span}-01", "0".repeat(32)), None),
            (format!("00-{trace}-{}-01", "0".repeat(16)), None),
            (format!("00-{}-{span}-01", trace.to_uppercase()), None),
            (format!("00-{}-{span}-01", &trace[1..]), None),
            (format!("00-{trace}é-{span}-01"), None),
            (String::new(), None),
        ] {
            let read = TraceContext::parse(&header);
            assert_eq!(read.map(|context| context.sampled), expected, "{header}");
            if let Some(context) = read {
                assert_eq!(context.to_string(), format!("00-{trace}-{span}-{:02x}", u8::from(context.sampled)));
            }
        }
    }
}
