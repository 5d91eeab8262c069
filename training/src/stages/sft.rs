//! `sft`: supervised fine-tuning on chats in JSONL, with loss on the assistant's turns.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::chat::{Message, Role};

use super::training::{Data, Eval, Task, check, fit};
use crate::chats::Chats;
use crate::formats::{self, Fields};
use crate::loss::Preference;
use crate::records::{BadLines, ChatLine, Lines, read};
use crate::tokens::Example;
use crate::trainer::{TrainConfig, TrainReport};

/// The assistant's turns that are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
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
    /// Passes over the data. They determine `train.steps`.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// Data that is not learned from, in the formats of `data`. Its loss is measured during the training.
    #[serde(default)]
    pub eval: Eval,
    /// The name or path of the base that an adapter's `adapter_config.json` states; `base` without it.
    #[serde(default)]
    pub base_name: Option<String>,
    /// The settings of the training loop; `steps` may cover the data several times.
    pub train: TrainConfig,
}

impl Sft {
    /// Checks what can be checked before a model is loaded.
    ///
    /// # Errors
    /// Names the field and the valid values, or what is missing.
    pub fn check(&self) -> Result<()> {
        check(&self.base, &[("data", Some(&self.data))], self.tokens_per_step, self.epochs)?;
        self.eval.check()?;
        self.train.check("train")?;
        self.train.check_device("train")
    }
}

/// Fine-tunes `recipe.base` into `recipe.train.out_dir`, which becomes a complete model directory or an adapter's. A finished run is not
/// repeated.
///
/// # Errors
/// Fails if the model or the data cannot be used, and names the file, the line and the problem.
pub fn sft(recipe: &Sft) -> Result<TrainReport> {
    recipe.check()?;
    let task = Task {
        stage: "sft",
        base: &recipe.base,
        data: &recipe.data,
        kept: None,
        tokens_per_step: recipe.tokens_per_step,
        epochs: recipe.epochs,
        preference: Preference::default(),
        settings: serde_json::to_value((recipe.turns, recipe.bad_lines))?,
        eval: &recipe.eval,
        base_name: recipe.base_name.as_deref(),
        less_likely: None,
        train: &recipe.train,
    };
    fit(&task, |chats, longest, file| {
        let Lines { items, skipped } =
            read(file, recipe.bad_lines, |line: Fields| of_line(chats, longest, recipe.turns, &line))?;
        Ok((Data::Examples(items.into_iter().flatten().collect()), skipped))
    })
}

/// Reads chats as training examples. `plan` needs their number.
///
/// # Errors
/// Fails like [`sft`].
pub fn read_examples(base: &Path, data: &Path, turns: Turns) -> Result<Vec<Example>> {
    let chats = Chats::open(base)?;
    let lines = read(data, BadLines::Stop, |line: Fields| of_line(&chats, chats.context(), turns, &line))?;
    Ok(lines.items.into_iter().flatten().collect())
}

/// Makes the examples of a line in any format that is read. Turns with the weight 0 are not learned.
pub(super) fn of_line(chats: &Chats, longest: usize, turns: Turns, line: &Fields) -> Result<Vec<Example>> {
    examples(chats, longest, turns, &formats::chat(line)?, &formats::silent(line)?)
}

/// Makes one example per assistant turn that is not `silent`. The tokens before the turn have no loss.
fn examples(chats: &Chats, longest: usize, turns: Turns, chat: &ChatLine, silent: &[usize]) -> Result<Vec<Example>> {
    let places = learned(turns, chat, silent)?;
    let example = |turn: usize| {
        let Message { content, tool_calls, .. } = &chat.messages[turn];
        ensure!(
            !content.trim().is_empty() || tool_calls.is_empty(),
            "turn {} calls functions and says nothing, and calls are not learned; give it `\"weight\": 0`, or set turns = \"last\"",
            turn + 1
        );
        ensure!(!content.trim().is_empty(), "turn {} is empty", turn + 1);
        let answered =
            chats.answered(&chat.messages[..turn], content, longest).with_context(|| format!("turn {}", turn + 1))?;
        let mut weights = vec![1.0; answered.tokens.len()];
        weights[..answered.told].fill(0.0);
        Ok(Example { tokens: answered.tokens, weights })
    };
    places.into_iter().map(example).collect()
}

/// The places of the assistant's turns that are learned.
pub(super) fn learned(turns: Turns, chat: &ChatLine, silent: &[usize]) -> Result<Vec<usize>> {
    let said = |(_, message): &(usize, &Message)| message.role == Role::Assistant;
    let mut places: Vec<usize> = chat.messages.iter().enumerate().filter(said).map(|(turn, _)| turn).collect();
    ensure!(!places.is_empty(), "the chat has no assistant turn");
    places.retain(|turn| !silent.contains(turn));
    ensure!(!places.is_empty(), "every assistant turn of the chat has `weight` 0, so that nothing is learned");
    if turns == Turns::Last {
        places.drain(..places.len() - 1);
    }
    Ok(places)
}
