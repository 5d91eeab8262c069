//! What commands write to standard output.

use std::io::{self, ErrorKind, Write};

/// Writes to standard output. A reader that has left early, such as `head`, has what it wanted: that is no error, and a server whose
/// standard output is closed serves on.
pub fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
