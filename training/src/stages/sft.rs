//! Supervised fine-tuning: chats in JSONL, loss on what the assistant says.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::chat::Role;

use super::training::{Data, Task, fit};
use crate::chats::Chats;
use crate::formats::{self, Fields};
use crate::loss::Preference;
use crate::records::{BadLines, ChatLine, Lines, read};
use crate::tokens::Example;
use crate::trainer::{TrainConfig, TrainReport};

/// Which of the assistant's turns are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// Every turn of the assistant.
    #[default]
    All,
    /// The last turn.
    Last,
}

/// The recipe of `spar-train sft`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sft {
    /// The model directory to start from.
    pub base: PathBuf,
    /// One `{"messages": [{"role", "content"}, …]}` per line.
    pub data: PathBuf,
    /// Which turns are learned.
    #[serde(default)]
    pub turns: Turns,
    /// What happens to a line that cannot be used.
    #[serde(default)]
    pub bad_lines: BadLines,
    /// Tokens of one update.
    pub tokens_per_step: usize,
    /// Passes over the data; decides `train.steps`, and `train.warmup` as a tenth of them.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// The loop; `steps` may go over the data several times.
    pub train: TrainConfig,
}

/// Fine-tunes `recipe.base` into `recipe.train.out_dir`: a complete model directory, or an adapter's. A finished run is not
/// made again.
///
/// # Errors
/// When the model or the data cannot be used: names the file, the line and what is wrong.
pub fn sft(recipe: &Sft) -> Result<TrainReport> {
    let task = Task {
        stage: "sft",
        base: &recipe.base,
        data: &recipe.data,
        kept: None,
        tokens_per_step: recipe.tokens_per_step,
        epochs: recipe.epochs,
        preference: Preference::default(),
        settings: serde_json::to_value((recipe.turns, recipe.bad_lines))?,
        train: &recipe.train,
    };
    fit(&task, |chats, longest| {
        let Lines { items, skipped } = read(&recipe.data, recipe.bad_lines, |line: Fields| {
            examples(chats, longest, recipe.turns, &formats::chat(&line)?)
        })?;
        Ok((Data::Examples(items.into_iter().flatten().collect()), skipped))
    })
}

/// Reads chats as they are trained on; the number of examples is what `plan` asks for.
///
/// # Errors
/// As [`sft`].
pub fn read_examples(base: &Path, data: &Path, turns: Turns) -> Result<Vec<Example>> {
    let chats = Chats::open(base)?;
    let lines =
        read(data, BadLines::Stop, |line: Fields| examples(&chats, chats.context(), turns, &formats::chat(&line)?))?;
    Ok(lines.items.into_iter().flatten().collect())
}

/// One example per assistant turn: what came before it costs nothing.
pub(super) fn examples(chats: &Chats, longest: usize, turns: Turns, chat: &ChatLine) -> Result<Vec<Example>> {
    let said = |(_, message): &(usize, &spar::chat::Message)| message.role == Role::Assistant;
    let mut places: Vec<usize> = chat.messages.iter().enumerate().filter(said).map(|(turn, _)| turn).collect();
    ensure!(!places.is_empty(), "the chat has no assistant turn");
    if turns == Turns::Last {
        places.drain(..places.len() - 1);
    }
    let example = |turn: usize| {
        let content = &chat.messages[turn].content;
        ensure!(!content.trim().is_empty(), "turn {} is empty", turn + 1);
        let answered =
            chats.answered(&chat.messages[..turn], content, longest).with_context(|| format!("turn {}", turn + 1))?;
        let mut weights = vec![1.0; answered.tokens.len()];
        weights[..answered.told].fill(0.0);
        Ok(Example { tokens: answered.tokens, weights })
    };
    places.into_iter().map(example).collect()
}
