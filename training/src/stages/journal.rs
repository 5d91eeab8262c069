//! A file of lines that grows while a stage runs. A killed stage resumes after its last complete line.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use futures::{StreamExt, stream};
use serde::Serialize;

use super::progress::Progress;

/// Writes lines to `path`. Until all are complete, they are in `.NAME.partial` next to it.
pub struct Journal {
    path: PathBuf,
    partial: PathBuf,
    file: BufWriter<File>,
    /// The number of complete lines so far.
    pub done: usize,
    pending: usize,
}

/// The maximum number of lines that a kill may lose. They are made again.
const FLUSH: usize = 16;

impl Journal {
    /// Opens the lines written so far, without the last one if it is incomplete.
    ///
    /// # Errors
    /// Fails if the file cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.file_name().context("a path without a file name")?.to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.partial"));
        if path.exists() && !partial.exists() {
            // The stage finished its file but not its record.
            std::fs::rename(path, &partial).with_context(|| format!("cannot write {}", partial.display()))?;
        }
        let written = std::fs::read(&partial).unwrap_or_default();
        let complete = written.iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
        let done = written[..complete].iter().filter(|&&byte| byte == b'\n').count();
        let writing = || format!("cannot write {}", partial.display());
        let mut file = File::options().create(true).truncate(false).write(true).open(&partial).with_context(writing)?;
        file.set_len(complete as u64).with_context(writing)?;
        file.seek(SeekFrom::End(0)).with_context(writing)?;
        Ok(Self { path: path.into(), file: BufWriter::new(file), partial, done, pending: 0 })
    }

    /// Appends a line.
    ///
    /// # Errors
    /// Fails if the line cannot be written.
    pub fn push(&mut self, line: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut self.file, line)?;
        self.file.write_all(b"\n")?;
        self.done += 1;
        self.pending += 1;
        if self.pending == FLUSH {
            self.file.flush()?;
            self.pending = 0;
        }
        Ok(())
    }

    /// Makes the missing lines, one for each of `items` in order and `parallel` at a time, and then completes the file. `what` is the label
    /// of the progress.
    ///
    /// # Errors
    /// Returns the first error of `make_line`, or fails if a line cannot be written.
    pub async fn fill<'a, I, T: Serialize, F: Future<Output = Result<T>>>(
        self,
        what: &'static str,
        items: &'a [I],
        parallel: usize,
        make_line: impl Fn(usize, &'a I) -> F,
    ) -> Result<()> {
        self.fill_watched(what, items, parallel, make_line, |_| Ok(())).await
    }

    /// Makes lines like [`Journal::fill`], and ends with the first error of `watch`, which sees every new line. The lines so far are kept.
    ///
    /// # Errors
    /// Fails like [`Journal::fill`], and with the error of `watch`.
    pub async fn fill_watched<'a, I, T: Serialize, F: Future<Output = Result<T>>>(
        mut self,
        what: &'static str,
        items: &'a [I],
        parallel: usize,
        make_line: impl Fn(usize, &'a I) -> F,
        mut watch: impl FnMut(&T) -> Result<()>,
    ) -> Result<()> {
        let progress = Progress::new(what, items.len(), self.done);
        let missing = stream::iter(items.iter().enumerate().skip(self.done));
        let mut lines = missing.map(|(index, item)| make_line(index, item)).buffered(parallel.max(1));
        while let Some(line) = lines.next().await {
            let line = line?;
            self.push(&line)?;
            progress.step();
            watch(&line)?;
        }
        progress.finish();
        self.finish()
    }

    /// Completes the file by renaming it.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub fn finish(mut self) -> Result<()> {
        self.file.flush()?;
        self.file.get_ref().sync_all()?;
        std::fs::rename(&self.partial, &self.path).with_context(|| format!("cannot write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_was_cut_off_is_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lines.jsonl");
        let mut journal = Journal::open(&path).unwrap();
        for i in 0..20 {
            journal.push(&i).unwrap();
        }
        drop(journal);
        let partial = directory.path().join(".lines.jsonl.partial");
        let text = std::fs::read(&partial).unwrap();
        std::fs::write(&partial, &text[..text.len() - 2]).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        let first = journal.done;
        assert_eq!(first, 19);
        for i in first..21 {
            journal.push(&i).unwrap();
        }
        journal.finish().unwrap();
        let expected: String = (0..21).map(|i| format!("{i}\n")).collect();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
        assert!(!partial.exists());
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.done, 21);
        journal.finish().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), expected);
    }
}
