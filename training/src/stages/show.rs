//! `show`: what a training stage makes of a data file: every token with the weight that it has in the loss.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::dpo::pair;
use super::sft::{Turns, of_line};
use crate::chats::Chats;
use crate::formats::{self, Fields};
use crate::records::{BadLines, read};
use crate::tokens::{Example, PairExample};

/// What is shown.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Data of `sft` or `dpo`; lines with `chosen` are taken as pairs.
    pub data: PathBuf,
    /// Directory of the model whose tokenizer and chat template are used.
    #[arg(long)]
    pub model: PathBuf,
    /// The assistant's turns of chats that are learned.
    #[arg(long, value_enum, default_value = "all")]
    pub turns: Turns,
    /// The number of lines that are shown.
    #[arg(long, default_value_t = 3)]
    pub limit: usize,
    /// Lists every token with its position, its number and its weight, instead of runs of equal weight.
    #[arg(long)]
    pub tokens: bool,
}

/// How parts are marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Words alone mark the parts.
    Plain,
    /// Colours of a terminal mark them as well.
    Coloured,
}

/// The examples of a line.
enum Shown {
    Chat(Vec<Example>),
    Pair(PairExample),
}

/// The text that shows the first lines of the data, and a summary of all of them.
///
/// # Errors
/// Fails if the model or a line cannot be used, and names it.
pub fn show(options: &Options, style: Style) -> Result<String> {
    ensure!(options.model.is_dir(), "--model: there is no model directory {}", options.model.display());
    let chats = Chats::open(&options.model)?;
    let lines = read(&options.data, BadLines::Stop, |line: Fields| match line.contains_key("chosen") {
        true => Ok(Shown::Pair(pair(&chats, chats.context(), &formats::pair(&line)?)?)),
        false => Ok(Shown::Chat(of_line(&chats, chats.context(), options.turns, &line)?)),
    })?;
    ensure!(!lines.items.is_empty(), "{}: nothing to learn from", options.data.display());
    let view = View { chats: &chats, style, tokens: options.tokens };
    let (mut out, mut totals) = (String::new(), Totals::default());
    for (index, shown) in lines.items.iter().enumerate() {
        let parts: Vec<(String, Example)> = match shown {
            Shown::Chat(examples) => {
                let title = |i| format!("example {}, learned turn {} of {}", index + 1, i + 1, examples.len());
                examples.iter().enumerate().map(|(i, example)| (title(i), example.clone())).collect()
            }
            Shown::Pair(pair) => {
                let reply = |tokens: &[u32]| {
                    let mut weights = vec![1.0; tokens.len()];
                    weights[..pair.prompt_tokens].fill(0.0);
                    Example { tokens: tokens.to_vec(), weights }
                };
                vec![
                    (format!("example {}, chosen (made more likely)", index + 1), reply(&pair.tokens.chosen)),
                    (format!("example {}, rejected (made less likely)", index + 1), reply(&pair.tokens.rejected)),
                ]
            }
        };
        for (title, example) in &parts {
            totals.add(example);
            if index < options.limit {
                view.example(&mut out, title, example)?;
            }
        }
    }
    let Totals { sequences, tokens, learned, longest } = totals;
    let share = 100.0 * learned as f64 / tokens.max(1) as f64;
    writeln!(
        out,
        "{} lines: {sequences} sequences, {tokens} tokens, {learned} of them learned ({share:.1} %), the longest sequence has {longest}",
        lines.items.len()
    )?;
    Ok(out)
}

#[derive(Default)]
struct Totals {
    sequences: usize,
    tokens: usize,
    learned: usize,
    longest: usize,
}

impl Totals {
    fn add(&mut self, example: &Example) {
        self.sequences += 1;
        self.tokens += example.tokens.len();
        self.learned += learned(example);
        self.longest = self.longest.max(example.tokens.len());
    }
}

fn learned(example: &Example) -> usize {
    example.weights.iter().filter(|weight| **weight != 0.0).count()
}

struct View<'a> {
    chats: &'a Chats,
    style: Style,
    tokens: bool,
}

impl View<'_> {
    fn example(&self, out: &mut String, title: &str, example: &Example) -> Result<()> {
        writeln!(out, "{title}: {} tokens, {} learned", example.tokens.len(), learned(example))?;
        let mut start = 0;
        for run in example.weights.chunk_by(|a, b| a == b) {
            let (weight, end) = (run[0], start + run.len());
            if self.tokens {
                for place in start..end {
                    let text = self.decode(&example.tokens[place..=place])?;
                    let line = format!("{place:>6} {:>8} {weight:>6} {text:?}", example.tokens[place]);
                    writeln!(out, "{}", self.marked(weight, &line))?;
                }
            } else {
                writeln!(out, "  weight {weight}, {} tokens", run.len())?;
                for line in self.decode(&example.tokens[start..end])?.split('\n') {
                    writeln!(out, "  | {}", self.marked(weight, line))?;
                }
            }
            start = end;
        }
        writeln!(out)?;
        Ok(())
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let text = self.chats.model.tokenizer.decode(tokens, false);
        text.map_err(|error| anyhow::anyhow!("{error}")).context("decoding tokens")
    }

    fn marked(&self, weight: f32, text: &str) -> String {
        match self.style {
            Style::Plain => text.to_owned(),
            // What is learned is green, and the rest is dim.
            Style::Coloured if weight != 0.0 => format!("\x1b[32m{text}\x1b[0m"),
            Style::Coloured => format!("\x1b[2m{text}\x1b[0m"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn options(data: &Path) -> Options {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spar-tiny/actor");
        Options { data: data.into(), model, turns: Turns::All, limit: 3, tokens: false }
    }

    #[test]
    fn the_assistants_turns_alone_have_weight_and_those_with_weight_0_have_none() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("chats.jsonl");
        let turn = |role: &str, content: &str, weight: u8| {
            format!(r#"{{"role": "{role}", "content": "{content}", "weight": {weight}}}"#)
        };
        let turns = [
            turn("user", "Write about the river.", 1),
            turn("assistant", "The river waits.", 0),
            turn("user", "Again.", 1),
            turn("assistant", "The garden sings.", 1),
        ];
        std::fs::write(&data, format!("{{\"messages\": [{}]}}", turns.join(", "))).unwrap();
        let text = show(&options(&data), Style::Plain).unwrap();
        let expected = [
            "example 1, learned turn 1 of 1:",
            "  weight 0, ",
            "  | <|user|>Write about the river.<|assistant|>The river waits.<|end|><|user|>Again.<|assistant|>",
            "  weight 1, ",
            "  | The garden sings.<|end|>",
            "1 lines: 1 sequences, ",
        ];
        let mut rest = text.as_str();
        for line in expected {
            let place = rest.find(line).unwrap_or_else(|| panic!("{line} is not in {rest}"));
            rest = &rest[place + line.len()..];
        }
        assert!(!text.contains('\x1b'));
        assert!(show(&options(&data), Style::Coloured).unwrap().contains("\x1b[32mThe garden sings.<|end|>\x1b[0m"));
        let listed = show(&Options { tokens: true, ..options(&data) }, Style::Plain).unwrap();
        assert!(listed.lines().any(|line| line.ends_with("1 \"<|end|>\"")), "{listed}");
    }

    #[test]
    fn pairs_show_both_replies_and_only_the_first_lines_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("pairs.jsonl");
        let line =
            r#"{"prompt": "Write about the river.", "chosen": "The river waits.", "rejected": "The river sings."}"#;
        std::fs::write(&data, format!("{line}\n{line}\n")).unwrap();
        let text = show(&Options { limit: 1, ..options(&data) }, Style::Plain).unwrap();
        assert!(text.contains("example 1, chosen") && text.contains("example 1, rejected"), "{text}");
        assert!(!text.contains("example 2") && text.contains("2 lines: 4 sequences"), "{text}");
        std::fs::write(&data, "{}").unwrap();
        let message = format!("{:#}", show(&options(&data), Style::Plain).unwrap_err());
        assert!(message.contains("pairs.jsonl:1: missing field `messages`"), "{message}");
    }
}
