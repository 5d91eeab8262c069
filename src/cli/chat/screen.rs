//! What is shown: the answer as it comes, the tree as it grows, and remarks apart from both.

use std::io::{self, IsTerminal, Write};

use super::paint::{Paint, Tone};
use super::tree::Tree;

/// Lines of a tree that grows in place. A higher one would scroll out of the terminal, where it cannot be drawn again.
const SPARE_LINES: usize = 2;

/// How much is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shows {
    /// Everything is shown, for a person who types.
    All,
    /// Answers alone are shown, for a program that reads them.
    Answers,
}

/// The place of answers and remarks.
pub(super) struct Screen {
    shows: Shows,
    /// Colours of standard output.
    pub paint: Paint,
    /// Whether lines can be drawn again.
    redraws: bool,
    /// Lines of the tree that are on the screen now.
    drawn: usize,
    /// Whether the cursor is in the middle of a line.
    in_line: bool,
}

impl Screen {
    /// A screen on standard output and standard error.
    pub fn new(shows: Shows) -> Self {
        let paint = Paint::of(&io::stdout());
        Self { shows, paint, redraws: shows == Shows::All && io::stdout().is_terminal(), drawn: 0, in_line: false }
    }

    /// Columns and lines of the terminal.
    fn size() -> (usize, usize) {
        let (lines, columns) = console::Term::stdout().size();
        (usize::from(columns), usize::from(lines))
    }

    /// Shows new text of the answer.
    pub fn text(&mut self, text: &str) -> io::Result<()> {
        self.drawn = 0;
        self.in_line = !text.ends_with('\n');
        write(text)
    }

    /// Shows what the model thinks.
    pub fn thought(&mut self, text: &str) -> io::Result<()> {
        match self.shows {
            Shows::All => self.text(&self.paint.tone(Tone::Dim, text)),
            Shows::Answers => Ok(()),
        }
    }

    /// Draws the tree over what was drawn of it before.
    pub fn grow(&mut self, tree: &Tree) -> io::Result<()> {
        if !self.redraws {
            return Ok(());
        }
        let (width, height) = Self::size();
        let lines = tree.lines(width, self.paint);
        // The newest nodes are among the last lines where not all of them fit.
        let most = height.saturating_sub(SPARE_LINES).max(1);
        let shown = &lines[lines.len().saturating_sub(most)..];
        let back = if self.drawn > 0 { format!("\x1b[{}A\x1b[J", self.drawn) } else { String::new() };
        self.drawn = shown.len();
        write(&(back + &shown.iter().map(|line| format!("{line}\n")).collect::<String>()))
    }

    /// Ends the line of an answer.
    pub fn end_answer(&mut self) -> io::Result<()> {
        self.drawn = 0;
        if std::mem::take(&mut self.in_line) { write("\n") } else { Ok(()) }
    }

    /// Shows something that was asked for by a command.
    pub fn print(&mut self, text: &str) -> io::Result<()> {
        self.end_answer()?;
        write(&format!("{}\n", text.trim_end()))
    }

    /// The whole tree.
    pub fn tree(&mut self, tree: &Tree) -> io::Result<()> {
        let width = if self.redraws { Self::size().0 } else { usize::MAX };
        let lines = tree.lines(width, self.paint);
        self.print(&lines.join("\n"))
    }

    /// Shows a remark to a person who types.
    pub fn status(&mut self, text: &str) -> io::Result<()> {
        match self.shows {
            Shows::All => self.print(&self.paint.tone(Tone::Dim, text)),
            Shows::Answers => Ok(()),
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
