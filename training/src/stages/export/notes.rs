//! What other programs cannot express of a training, and what they do in another way.

use anyhow::{Result, ensure};

use super::super::trainings::Training;
use super::Plan;
use crate::optimizer::Rule;
use crate::recipe::external::Framework;
use crate::trainer::TrainConfig;

/// Refuses a training that the program cannot express.
///
/// # Errors
/// Names the setting and the remedy.
pub(super) fn refuse(framework: Framework, training: &Training) -> Result<()> {
    let (name, train) = (framework.name(), training.train());
    ensure!(
        train.optimizer.rule == Rule::AdamW,
        "optimizer.rule = \"muon\" is not expressed for {name}, whose Muon updates other matrices in another way: set rule = \"adamw\""
    );
    if let Some(lora) = &train.lora {
        ensure!(
            framework == Framework::Trl || lora.alpha.fract() == 0.0,
            "lora.alpha is {}, and {name} takes whole numbers: round it",
            lora.alpha
        );
    }
    let eval = match training {
        Training::Dpo(stage) => &stage.eval,
        Training::Sft(stage) => &stage.eval,
    };
    ensure!(
        eval.share == 0.0 && eval.data.is_none(),
        "[eval] is not exported, because the programs set other items apart: remove it and measure the imported model"
    );
    let Training::Dpo(stage) = training else { return Ok(()) };
    if stage.chosen_only {
        return Ok(());
    }
    ensure!(
        stage.preference.kept == 0.0,
        "preference.kept is {}, and {name} has no loss of kept replies next to pairs: set it to 0",
        stage.preference.kept
    );
    ensure!(
        framework == Framework::LlamaFactory || stage.preference.label_smoothing == 0.0,
        "preference.label_smoothing is {}, and {name}'s sigmoid loss has none (its `robust` is another loss): set it to 0, or export for \
         llama-factory",
        stage.preference.label_smoothing
    );
    ensure!(
        framework != Framework::Axolotl || train.lora.as_ref().is_none_or(|lora| lora.from.is_none()),
        "lora.from makes the first adapter the reference in {name}, while here the base without it is: merge the adapter into the base, or \
         export for another program"
    );
    Ok(())
}

/// What the program does in another way than this one.
pub(super) fn differences(plan: &Plan<'_>) -> Vec<String> {
    let Plan { job, external, .. } = *plan;
    let (framework, train) = (external.framework, job.training.train());
    let TrainConfig { lora, .. } = train;
    let mut notes = Vec::new();
    if !job.same_batches {
        notes.push(format!(
            "Updates: this program fills an update with tokens, and {} takes {} {} an update, which is the mean.",
            framework.name(),
            job.per_step,
            if job.training.compares() { "pairs" } else { "replies" }
        ));
    }
    if let Training::Dpo(stage) = job.training
        && let Some(most) = stage.less_likely
    {
        notes.push(format!(
            "`less_likely = {most}` is not applied: which pairs it leaves out is known only once the base has read them. All {} pairs are \
             in the data.",
            job.items
        ));
    }
    if framework != Framework::Trl {
        notes.push(format!(
            "Tokens: {} tokenizes with a chat template. Here a reply ends with `{}`, and nothing of the template after it is learned.",
            framework.name(),
            job.end()
        ));
        if warmup(plan) > 0 {
            notes.push(format!(
                "The learning rate of update n in the warm-up of {} updates is a share of n - 1 there, and of n here; the first update has \
                 the rate 0.",
                warmup(plan)
            ));
        }
    }
    if framework == Framework::Axolotl && job.training.compares() {
        notes.push("Order: the pairs are shuffled by Axolotl's own seed.".into());
    }
    if lora.as_ref().is_some_and(|lora| lora.dropout > 0.0) {
        notes.push("Dropout: the draws differ; their share is the same.".into());
    }
    if lora.is_some() && !external.initial_adapter {
        notes.push("The first adapter is drawn by the other program; `initial_adapter` exports this program's.".into());
    }
    if plan.needs.optimizer == crate::cluster::Place::Host && train.optimizer.weight_decay > 0.0 {
        notes.push("Weight decay: DeepSpeed's optimizer in the host applies it to norms as well.".into());
    }
    if lora.is_none() && external.cluster.cards > 0 {
        notes.push("The weights are saved in bf16, as DeepSpeed gathers them.".into());
    }
    notes
}

/// Updates over which the learning rate rises.
pub(super) fn warmup(plan: &Plan<'_>) -> u64 {
    plan.job.training.train().warmup.unwrap_or(plan.job.steps / 10)
}
