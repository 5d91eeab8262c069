//! `sft`: supervised fine-tuning on chats in JSONL, with loss on the assistant's turns.

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

/// The assistant's turns that are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Turns {
    /// Every turn of the assistant.
    #[default]
    All,
    /// Only the last turn.
    Last,
}

/// The recipe of `spar-train sft`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sft {
    /// The model directory to start from.
    pub base: PathBuf,
    /// The data file, with one `{"messages": [{"role", "content"}, …]}` per line.
    pub data: PathBuf,
    /// The turns that are learned.
    #[serde(default)]
    pub turns: Turns,
    /// How lines that cannot be used are handled.
    #[serde(default)]
    pub bad_lines: BadLines,
    /// Tokens per update.
    pub tokens_per_step: usize,
    /// Passes over the data. They determine `train.steps`, and `train.warmup` as a tenth of it.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// The settings of the training loop; `steps` may cover the data several times.
    pub train: TrainConfig,
}

/// Fine-tunes `recipe.base` into `recipe.train.out_dir`, which becomes a complete model directory or an adapter's. A finished run is not
/// repeated.
///
/// # Errors
/// Fails if the model or the data cannot be used, and names the file, the line and the problem.
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

/// Reads chats as training examples. `plan` needs their number.
///
/// # Errors
/// Fails like [`sft`].
pub fn read_examples(base: &Path, data: &Path, turns: Turns) -> Result<Vec<Example>> {
    let chats = Chats::open(base)?;
    let lines =
        read(data, BadLines::Stop, |line: Fields| examples(&chats, chats.context(), turns, &formats::chat(&line)?))?;
    Ok(lines.items.into_iter().flatten().collect())
}

/// Makes one example per assistant turn. The tokens before the turn have no loss.
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
