//! Trains the adapter on the turns, with more weight on verdicts.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::settings::{Settings, Training};
use crate::chats::Chats;
use crate::lessons::turns::Kind;
use crate::loss::Preference;
use crate::records::{BadLines, ChatLine, read};
use crate::stages::training::{Data, Eval, Task, fit};
use crate::tokens::Example;
use crate::trainer::{TrainConfig, TrainReport};

/// Trains an adapter on the turns of `data` into `out`. A finished adapter is not made again, and a killed run resumes.
///
/// # Errors
/// Fails if a file cannot be used or the loss is not finite.
pub fn learn(settings: &Settings, base: &Path, data: &Path, out: &Path) -> Result<TrainReport> {
    let training = &settings.training;
    let train = TrainConfig { seed: settings.seed, out_dir: out.into(), ..training.train.clone() };
    let task = Task {
        stage: "refiner",
        base,
        data,
        kept: None,
        tokens_per_step: training.tokens_per_step,
        epochs: Some(passes(training, base, data)?),
        preference: Preference::default(),
        settings: json!({ "verdict_weight": training.verdict_weight }),
        eval: &Eval::default(),
        base_name: None,
        less_likely: None,
        train: &train,
    };
    fit(&task, |chats, longest, file| {
        let lines =
            read(file, BadLines::Stop, |line: ChatLine| example(chats, longest, &line, training.verdict_weight))?;
        Ok((Data::Examples(lines.items), lines.skipped))
    })
}

/// The passes over the data, reduced to what the limit on tokens allows.
fn passes(training: &Training, base: &Path, data: &Path) -> Result<f64> {
    let Some(most) = training.max_tokens else { return Ok(training.epochs) };
    let chats = Chats::open(base)?;
    let rows = read(data, BadLines::Stop, |line: ChatLine| Ok(example(&chats, chats.context(), &line, 1.0)?.rows()))?;
    let all: usize = rows.items.iter().sum();
    Ok(training.epochs.min(most as f64 / all.max(1) as f64))
}

/// The tokens of a turn: its prompt has no loss, and the tokens of a verdict have the weight `verdict`.
fn example(chats: &Chats, longest: usize, line: &ChatLine, verdict: f32) -> Result<Example> {
    let (answer, before) = line.messages.split_last().context("the line has no turns")?;
    let answered = chats.answered(before, &answer.content, longest)?;
    let mut weights = vec![1.0; answered.tokens.len()];
    weights[..answered.told].fill(0.0);
    // The verdict is the last token before the one that ends the turn.
    let decides =
        [Kind::Score, Kind::Item, Kind::Critique].iter().any(|kind| line.kind.as_deref() == Some(kind.name()));
    if let Some(weight) = weights.iter_mut().nth_back(1).filter(|_| decides) {
        *weight = verdict;
    }
    Ok(Example { tokens: answered.tokens, weights })
}

#[cfg(test)]
mod tests {
    use spar::chat::Message;

    use super::*;

    #[test]
    fn the_verdict_alone_has_more_weight() {
        let chats =
            Chats::open(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/refiner"))).unwrap();
        let turn = |kind: Kind, answer: &str| ChatLine {
            messages: vec![Message::user("Write about the river."), Message::assistant(answer)],
            kind: Some(kind.name().into()),
        };
        let weights = |line: &ChatLine| example(&chats, 200, line, 8.0).unwrap().weights;
        let of_critique = weights(&turn(Kind::Critique, "It is right.\nFinal Judgement: Yes"));
        assert_eq!(of_critique[of_critique.len() - 3..], [1.0, 8.0, 1.0]);
        assert_eq!(of_critique[0], 0.0);
        let of_rewrite = weights(&turn(Kind::Rewrite, "The river waits."));
        assert_eq!(of_rewrite.iter().fold(0.0_f32, |most, &weight| most.max(weight)), 1.0);
        assert!(example(&chats, 4, &turn(Kind::Rewrite, "The river waits."), 8.0).is_err());
    }
}
