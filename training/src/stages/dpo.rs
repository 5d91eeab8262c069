//! `dpo`: direct preference optimization. From pairs in JSONL, the actor moves towards the chosen replies and away from the rejected ones.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::sft::{Turns, of_line};
use super::training::{Data, Eval, Task, check, fit};
use crate::chats::Chats;
use crate::formats::{self, Fields};
use crate::loss::{Pair, Preference};
use crate::recipe::checks::positive;
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
    /// Passes over the data. They determine `train.steps`.
    #[serde(default)]
    pub epochs: Option<f64>,
    /// Pairs that are not learned from, in the formats of `data`. Their loss is measured during the training.
    #[serde(default)]
    pub eval: Eval,
    /// Pairs are left out whose chosen reply is less likely than the rejected one by more than this under the base, in nats per token.
    #[serde(default)]
    pub less_likely: Option<f64>,
    /// The name or path of the base that an adapter's `adapter_config.json` states; `base` without it.
    #[serde(default)]
    pub base_name: Option<String>,
    /// The training loop.
    pub train: TrainConfig,
}

impl Dpo {
    /// Checks what can be checked before a model is loaded.
    ///
    /// # Errors
    /// Names the field and the valid values, or what is missing.
    pub fn check(&self) -> Result<()> {
        let files = [("data", Some(&self.data)), ("kept", self.kept.as_ref())];
        check(&self.base, &files, self.tokens_per_step, self.epochs)?;
        if let Some(less_likely) = self.less_likely {
            positive("less_likely", less_likely)?;
        }
        self.eval.check()?;
        self.preference.check().context("preference")?;
        self.train.check("train")?;
        self.train.check_device("train")
    }
}

/// Trains `recipe.base` into `recipe.train.out_dir`, which becomes a complete model directory or an adapter's. A finished run is not
/// repeated.
///
/// # Errors
/// Fails if the model or the data cannot be used, and names the file, the line and the problem.
pub fn dpo(recipe: &Dpo) -> Result<TrainReport> {
    recipe.check()?;
    let kept = recipe.kept.as_deref().filter(|_| !recipe.chosen_only);
    let task = Task {
        stage: "dpo",
        base: &recipe.base,
        data: &recipe.data,
        kept,
        tokens_per_step: recipe.tokens_per_step,
        epochs: recipe.epochs,
        preference: recipe.preference,
        settings: serde_json::to_value((recipe.preference, recipe.chosen_only, recipe.bad_lines, recipe.less_likely))?,
        eval: &recipe.eval,
        base_name: recipe.base_name.as_deref(),
        less_likely: recipe.less_likely,
        train: &recipe.train,
    };
    fit(&task, |chats, longest, file| {
        let Lines { items, mut skipped } =
            read(file, recipe.bad_lines, |line: Fields| pair(chats, longest, &formats::pair(&line)?))?;
        let data = if recipe.chosen_only {
            Data::Examples(items.into_iter().map(chosen).collect())
        } else {
            let mut replies = Vec::new();
            // Replies to keep accompany the pairs that are learned only.
            if let Some(kept) = kept.filter(|_| file == recipe.data) {
                let lines = read(kept, recipe.bad_lines, |line: Fields| of_line(chats, longest, Turns::Last, &line))?;
                replies = lines.items.concat();
                skipped.extend(lines.skipped);
            }
            Data::Pairs(items, replies)
        };
        Ok((data, skipped))
    })
}

pub(super) fn pair(chats: &Chats, longest: usize, line: &PairLine) -> Result<PairExample> {
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

pub(super) fn chosen(pair: PairExample) -> Example {
    let mut weights = vec![1.0; pair.tokens.chosen.len()];
    weights[..pair.prompt_tokens].fill(0.0);
    Example { tokens: pair.tokens.chosen, weights }
}
