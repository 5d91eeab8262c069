//! `dpo`: direct preference optimization. From pairs in JSONL, the actor moves towards the chosen replies and away from the rejected ones.

use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::sft::{Turns, examples};
use super::training::{Data, Task, fit};
use crate::chats::Chats;
use crate::formats::{self, Fields};
use crate::loss::{Pair, Preference};
use crate::records::{BadLines, Lines, PairLine, read};
use crate::tokens::{Example, PairExample};
use crate::trainer::{TrainConfig, TrainReport};

/// The recipe of `spar-train dpo`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dpo {
    /// The model directory to start from, which is also the reference.
    pub base: PathBuf,
    /// The data file, with one `{"prompt": […], "chosen": […], "rejected": […]}` per line, each a list of turns.
    pub data: PathBuf,
    /// Chats whose last reply was right already, in the format of `sft`. One accompanies each pair, with the weight `preference.kept`.
    #[serde(default)]
    pub kept: Option<PathBuf>,
    /// How lines that cannot be used are handled.
    #[serde(default)]
    pub bad_lines: BadLines,
    /// The loss of pairs.
    #[serde(default)]
    pub preference: Preference,
    /// Whether only the likelihood of the chosen replies is learned.
    #[serde(default)]
    pub chosen_only: bool,
    /// Tokens per update. The tokens that a pair's replies share count once.
    pub tokens_per_step: usize,
    /// Passes over the data. They determine `train.steps`, and `train.warmup` as a tenth of it.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// The training loop.
    pub train: TrainConfig,
}

/// Trains `recipe.base` into `recipe.train.out_dir`, which becomes a complete model directory or an adapter's. A finished run is not
/// repeated.
///
/// # Errors
/// Fails if the model or the data cannot be used, and names the file, the line and the problem.
pub fn dpo(recipe: &Dpo) -> Result<TrainReport> {
    let kept = recipe.kept.as_deref().filter(|_| !recipe.chosen_only);
    let task = Task {
        stage: "dpo",
        base: &recipe.base,
        data: &recipe.data,
        kept,
        tokens_per_step: recipe.tokens_per_step,
        epochs: recipe.epochs,
        preference: recipe.preference,
        settings: serde_json::to_value((recipe.preference, recipe.chosen_only, recipe.bad_lines))?,
        train: &recipe.train,
    };
    fit(&task, |chats, longest| {
        let Lines { items, mut skipped } =
            read(&recipe.data, recipe.bad_lines, |line: Fields| pair(chats, longest, &formats::pair(&line)?))?;
        let data = if recipe.chosen_only {
            Data::Examples(items.into_iter().map(chosen).collect())
        } else {
            let mut replies = Vec::new();
            if let Some(kept) = kept {
                let lines = read(kept, recipe.bad_lines, |line: Fields| {
                    examples(chats, longest, Turns::Last, &formats::chat(&line)?)
                })?;
                replies = lines.items.concat();
                skipped.extend(lines.skipped);
            }
            Data::Pairs(items, replies)
        };
        Ok((data, skipped))
    })
}

fn pair(chats: &Chats, longest: usize, line: &PairLine) -> Result<PairExample> {
    line.check()?;
    let chosen = chats.answered(&line.prompt, &line.chosen[0].content, longest)?;
    let rejected = chats.answered(&line.prompt, &line.rejected[0].content, longest)?;
    let prompt_tokens = chosen.told;
    Ok(PairExample {
        tokens: Pair { chosen: chosen.tokens, rejected: rejected.tokens },
        prompt_tokens,
        reference: Pair::default(),
    })
}

fn chosen(pair: PairExample) -> Example {
    let mut weights = vec![1.0; pair.tokens.chosen.len()];
    weights[..pair.prompt_tokens].fill(0.0);
    Example { tokens: pair.tokens.chosen, weights }
}
