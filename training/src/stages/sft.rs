//! Supervised fine-tuning: chats in JSONL, loss on what the assistant says.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use spar::chat::{Message, Role};
use spar::engine::Input;
use spar::engine::model_dir::ModelDir;

use crate::model::config::{LlamaConfig, TokenIds};
use crate::tokens::{Example, epoch};
use crate::trainer::{self, Init, TrainConfig, TrainReport};

/// The recipe of `spar-train sft`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sft {
    /// The model directory to start from.
    pub base: PathBuf,
    /// One `{"messages": [{"role", "content"}, …]}` per line.
    pub data: PathBuf,
    /// Tokens of one update.
    pub tokens_per_step: usize,
    /// The loop; `steps` may go over the data several times.
    pub train: TrainConfig,
}

#[derive(Deserialize)]
struct Chat {
    messages: Vec<Message>,
}

/// Fine-tunes `recipe.base` into `recipe.train.out_dir`, a complete model directory.
///
/// # Errors
/// When the model or the data cannot be used: names the file, the line and what is wrong.
pub fn sft(recipe: &Sft) -> Result<TrainReport> {
    let model = ModelDir::open(recipe.base.clone())?;
    let config = LlamaConfig::load(&recipe.base)?;
    let examples = examples(&model, &config, &recipe.data)?;
    let mut pass: Option<(u64, Vec<Vec<usize>>)> = None;
    let first = epoch(&examples, recipe.tokens_per_step, recipe.train.seed).len() as u64;
    let report = trainer::train(&recipe.train, &config, Init::From(recipe.base.clone()), &mut |step| {
        // Passes may differ by a step or two in length; every pass is cut to the shortest that the first one promises.
        let (number, place) = (step / first, step % first);
        if pass.as_ref().is_none_or(|(n, _)| *n != number) {
            let seed = spar::engine::derive_seed(recipe.train.seed, number);
            let seed = if number == 0 { recipe.train.seed } else { seed };
            pass = Some((number, epoch(&examples, recipe.tokens_per_step, seed)));
        }
        let steps = pass.as_ref().map_or(&[][..], |(_, steps)| steps);
        let chosen = &steps[usize::try_from(place)? % steps.len()];
        Ok(chosen.iter().map(|&i| examples[i].clone()).collect())
    })?;
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "spar.json"] {
        let from = recipe.base.join(name);
        if from.exists() {
            std::fs::copy(&from, recipe.train.out_dir.join(name)).with_context(|| format!("copying {name}"))?;
        }
    }
    Ok(report)
}

/// One example per assistant turn: what came before it costs nothing.
fn examples(model: &ModelDir, config: &LlamaConfig, path: &Path) -> Result<Vec<Example>> {
    let end = match &config.eos_token_id {
        Some(TokenIds::One(id)) => Some(*id),
        Some(TokenIds::Many(ids)) => ids.first().copied(),
        None => None,
    };
    let end = end.with_context(|| format!("{}: config.json names no eos_token_id", model.path.display()))?;
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut examples = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let place = || format!("{}:{}", path.display(), i + 1);
        let chat: Chat = serde_json::from_str(line).with_context(|| format!("{}: not a chat", place()))?;
        let before = examples.len();
        for (turn, message) in chat.messages.iter().enumerate().filter(|(_, m)| m.role == Role::Assistant) {
            let mut tokens = model.encode(&Input::Chat(chat.messages[..turn].to_vec())).with_context(place)?;
            let told = tokens.len();
            let answer = model.tokenizer.encode_fast(message.content.as_str(), false);
            tokens.extend(answer.map_err(|e| anyhow::anyhow!("{}: {e}", place()))?.get_ids());
            tokens.push(end);
            ensure!(
                tokens.len() <= config.max_position_embeddings,
                "{}: {} tokens, the model's context holds {}; shorten the chat",
                place(),
                tokens.len(),
                config.max_position_embeddings
            );
            let mut weights = vec![1.0; tokens.len()];
            weights[..told].fill(0.0);
            examples.push(Example { tokens, weights });
        }
        ensure!(examples.len() > before, "{}: the chat has no assistant turn", place());
    }
    ensure!(!examples.is_empty(), "{}: no chats", path.display());
    Ok(examples)
}
