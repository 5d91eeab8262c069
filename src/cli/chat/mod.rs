//! `spar chat`: a conversation with a running server in the terminal, plainly or searched, with the tree as it grows. Where questions come
//! through a pipe, the answers alone are written.

mod command;
mod diff;
mod paint;
mod screen;
mod talk;
mod tree;

use std::io::{self, BufRead, IsTerminal};

use anyhow::Context;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::runtime::Runtime;

use super::remote::Remote;
use command::{HELP, Line};
use screen::{Screen, Shows};
use talk::{Ended, Talk, Wishes};

/// The server to talk to, and how it answers.
#[derive(clap::Args, Clone, Debug)]
pub struct ChatArgs {
    /// URL of a running server; SPAR_API_KEY is sent as its key
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// Model to ask; default: the first that the server lists
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Budget of the search for each answer; 0 answers plainly
    #[arg(long, value_name = "N", default_value_t = 0)]
    search: usize,
    /// Standing instructions to the model
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Temperature of answers; default: the server's
    #[arg(long, value_name = "T")]
    temperature: Option<f64>,
    /// Maximum tokens of an answer; default: the rest of the context
    #[arg(long, value_name = "N")]
    max_tokens: Option<usize>,
    /// Seed of the first answer; each later one has the next; default: drawn by the server
    #[arg(long, value_name = "N")]
    seed: Option<i64>,
}

/// Talks until the end of the input.
///
/// # Errors
/// Fails if the server cannot be reached, or if a question that came through a pipe was not answered.
pub fn run(args: ChatArgs) -> anyhow::Result<()> {
    let runtime = Runtime::new().context("the runtime cannot start")?;
    let remote = runtime.block_on(Remote::connect(&args.url, args.model.as_deref()))?;
    let ChatArgs { search, system, temperature, max_tokens, seed, .. } = args;
    let talk = Talk::new(remote, Wishes { search, system, temperature, max_tokens, seed });
    let typed = io::stdin().is_terminal();
    let screen = Screen::new(if typed { Shows::All } else { Shows::Answers });
    let session = Session { runtime, talk, screen };
    let ended = if typed { session.typed() } else { session.piped() };
    match ended {
        // A reader that has left early, such as `head`, has what it wanted.
        Err(error)
            if error
                .root_cause()
                .downcast_ref::<io::Error>()
                .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        ended => ended,
    }
}

struct Session {
    runtime: Runtime,
    talk: Talk,
    screen: Screen,
}

/// What follows a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Line,
    End,
}

impl Session {
    /// Reads lines from the keyboard. An error is shown and does not end the conversation.
    fn typed(mut self) -> anyhow::Result<()> {
        let mut editor = DefaultEditor::new().context("the terminal cannot be used")?;
        self.screen.status(&format!("{}; /help lists the commands, Ctrl-D leaves", self.talk.model()))?;
        loop {
            let line = match editor.readline("> ") {
                Ok(line) => line,
                Err(ReadlineError::Interrupted) => continue,
                Err(ReadlineError::Eof) => return Ok(()),
                Err(error) => return Err(error).context("the terminal cannot be read"),
            };
            if !line.trim().is_empty() {
                editor.add_history_entry(&line).context("the line cannot be kept")?;
            }
            match self.line(&line) {
                Ok(Next::Line) => {}
                Ok(Next::End) => return Ok(()),
                Err(error) => eprintln!("error: {}", crate::causes::one_line(&*error)),
            }
        }
    }

    /// Reads one question or command from each line of standard input. Later questions are asked even if one fails.
    fn piped(mut self) -> anyhow::Result<()> {
        let mut failure = None;
        for line in io::stdin().lock().lines() {
            match self.line(&line.context("standard input cannot be read")?) {
                Ok(Next::Line) => {}
                Ok(Next::End) => break,
                Err(error) => {
                    if let Some(earlier) = failure.replace(error) {
                        eprintln!("error: {}", crate::causes::one_line(&*earlier));
                    }
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn line(&mut self, typed: &str) -> anyhow::Result<Next> {
        let line = Line::parse(typed).map_err(anyhow::Error::msg)?;
        match line {
            Line::Blank => {}
            Line::Question(question) => self.ask(&question)?,
            Line::Retry => {
                let question = self.talk.take_question().context("there is no question to ask again")?;
                self.ask(&question)?;
            }
            Line::Search(budget) => {
                self.talk.wishes.search = budget;
                let how = if budget == 0 {
                    "answers are not searched".into()
                } else {
                    format!("answers are searched with a budget of {budget}")
                };
                self.screen.status(&how)?;
            }
            Line::System(text) => {
                let how = if text.is_some() {
                    "the model has these instructions from now on"
                } else {
                    "the model has no instructions"
                };
                self.talk.wishes.system = text;
                self.screen.status(how)?;
            }
            Line::Diff(id) => self.diff(id)?,
            Line::Tree => {
                anyhow::ensure!(
                    !self.talk.tree.is_empty(),
                    "there is no tree: the last answer was not searched; see /search"
                );
                self.screen.tree(&self.talk.tree)?;
            }
            Line::Save(path) => {
                let text = format!("{:#}\n", self.talk.saved());
                std::fs::write(&path, text).with_context(|| format!("cannot write {path}"))?;
                self.screen.status(&format!("written to {path}"))?;
            }
            Line::New => {
                self.talk.clear();
                self.screen.status("a new conversation")?;
            }
            Line::Help => self.screen.print(HELP)?,
            Line::Quit => return Ok(Next::End),
        }
        Ok(Next::Line)
    }

    fn ask(&mut self, question: &str) -> anyhow::Result<()> {
        let Self { runtime, talk, screen } = self;
        if runtime.block_on(talk.ask(question, screen))? == Ended::Stopped {
            screen.status("stopped; /retry asks again")?;
        }
        Ok(())
    }

    /// Shows what changed from a node's parent to the node.
    fn diff(&mut self, id: Option<usize>) -> anyhow::Result<()> {
        let tree = &self.talk.tree;
        let id = id.or(tree.best).context("there is no tree: the last answer was not searched; see /search")?;
        let node = tree.node(id).with_context(|| format!("there is no node {id}; /tree shows the tree"))?;
        let Some(parent) = node.parent else {
            return Ok(self.screen.print(&format!("node {id} is a draft and refines no other"))?);
        };
        let text = |id: usize| tree.node(id).and_then(|node| node.text.as_deref()).unwrap_or_default();
        let shown = diff::words(text(parent), text(id), self.screen.paint);
        Ok(self.screen.print(&format!("{parent} → {id}: {shown}"))?)
    }
}
