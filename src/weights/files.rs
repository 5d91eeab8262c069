//! Files that others may have put there: only regular ones are opened, and small ones are read up to a limit.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of a configuration or a template at most.
pub(crate) const SMALL: u64 = 16 << 20;
/// Bytes of a tokenizer at most.
pub(crate) const LARGE: u64 = 512 << 20;

/// Opens a regular file. A pipe or a device is refused, and never waited for.
///
/// # Errors
/// It cannot be opened, or is something else.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32);
    }
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is not a regular file")),
    }
}

/// Reads a whole file of at most `most` bytes.
///
/// # Errors
/// The file cannot be opened, is no regular file, or is longer.
pub(crate) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let too_long = || io::Error::other(format!("it is longer than the {most} bytes that such a file may have"));
    let length = file.metadata()?.len();
    if length > most {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(too_long()) } else { Ok(bytes) }
}

/// Reads a whole text of at most `most` bytes.
///
/// # Errors
/// The file cannot be read, is longer, or is not UTF-8.
pub(crate) fn read_text(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?).map_err(|error| io::Error::other(format!("it is not UTF-8: {error}")))
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_within_their_limit_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let [text, sparse, pipe] = ["text", "sparse", "pipe"].map(|name| dir.path().join(name));
        std::fs::write(&text, "abc").unwrap();
        File::create(&sparse).unwrap().set_len(1 << 40).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(read_text(&text, 3).unwrap(), "abc");
        for (path, most, expected) in
            [(&text, 2, "longer than the 2 bytes"), (&sparse, SMALL, "longer"), (&pipe, SMALL, "not a regular file")]
        {
            let message = read(path, most).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(read(Path::new("/dev/zero"), SMALL).is_err());
        assert_eq!(read(&dir.path().join("none"), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

/// Bytes of a header at most: a thousand layers in one file need about one million.
pub(super) const HEADER: u64 = 16 << 20;

/// The size that a file of `length` bytes gives its header.
pub(super) fn check_header_size(size: u64, length: u64) -> Result<(), String> {
    match size {
        size if size > HEADER => Err(format!("its header has {size} bytes, more than the {HEADER} that are read")),
        size if size.saturating_add(8) > length => Err(format!("its header has {size} bytes")),
        _ => Ok(()),
    }
}
