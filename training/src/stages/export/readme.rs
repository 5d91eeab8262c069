//! An export's README.md and the head of its run script.

use super::super::trainings::Training;
use super::{COPY, DESCRIPTION, Plan, notes};
use crate::recipe::external::Framework;
use crate::trainer::TrainConfig;

/// The run script: `launch` after what every program needs.
pub(super) fn script(plan: &Plan<'_>, launch: &str) -> String {
    let base = quoted(&plan.description.base_name);
    let nodes = match plan.external.cluster.nodes {
        1 => String::new(),
        nodes => format!(
            "# On each of the {nodes} nodes, with NODE_RANK from 0 to {} and MASTER_ADDR, the address of node 0.\n",
            nodes - 1
        ),
    };
    format!(
        "#!/bin/sh\n# Trains with {} as README.md says. BASE replaces the base's path, and OUTPUT the directory of the result.\n{nodes}\
         set -eu\ncd \"$(dirname \"$0\")\"\n[ -n \"${{BASE:-}}\" ] || BASE={base}\nOUTPUT=\"${{OUTPUT:-$PWD/output}}\"\n\
         export BASE OUTPUT\nmkdir -p \"$OUTPUT\"\n\
         # `spar-train import` reads from it which export the result is from.\ncp {DESCRIPTION} \"$OUTPUT/{COPY}\"\n{launch}",
        plan.external.framework.name()
    )
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

pub(super) fn text(plan: &Plan<'_>) -> String {
    let Plan { job, external, needs, description } = *plan;
    let train = job.training.train();
    let mut out = String::new();
    let mut line = |text: &str| {
        out.push_str(text);
        out.push('\n');
    };
    line(&format!("# {} with {}\n", description.stage.to_uppercase(), external.framework.name()));
    line(&format!("Base: `{}`. Export: `{}`.\n", description.base_name, description.id));
    line(
        "```sh\n./run.sh                                              # BASE=… and OUTPUT=… replace the base and the output",
    );
    line("spar-train import --export THIS --from OUTPUT          # checks the result and registers it\n```\n");
    line("The program and its packages must be installed: ");
    line(match external.framework {
        Framework::Trl => "`pip install trl peft accelerate datasets`, and `deepspeed` on cards.\n",
        Framework::LlamaFactory => "`pip install llamafactory`, and `deepspeed` on cards.\n",
        Framework::Axolotl => "`pip install axolotl`, and `deepspeed` on cards.\n",
    });
    line("## What it needs\n");
    line(&table(plan));
    line("## What is trained\n");
    line(&recipe(plan, train));
    line("## What differs from this program's own training\n");
    let differences = notes::differences(plan);
    if differences.is_empty() {
        line("Nothing that is known: the same tokens, order, updates, losses and learning rates.");
    }
    for note in &differences {
        line(&format!("- {note}"));
    }
    if !job.skipped.is_empty() {
        line("\n## Lines that are left out\n");
        job.skipped.iter().take(20).for_each(|problem| line(&format!("- {problem}")));
    }
    if !needs.fits {
        line(
            "\nThe training has no room on these machines. Name others in the recipe, or on the command line of `export`.",
        );
    }
    out
}

fn table(plan: &Plan<'_>) -> String {
    let Plan { job, needs, .. } = *plan;
    let (all, trained) = job.work().parameters();
    let items = if job.training.compares() { "pairs" } else { "replies" };
    let mut lines = vec![
        format!(
            "- {} {items}, {} tokens in {} updates; the longest sequence has {} tokens.",
            job.items, job.tokens, job.steps, job.longest
        ),
        format!("- {all} parameters, {trained} of them trained."),
    ];
    match needs.cluster.cards {
        0 => lines.push("- One machine without cards.".into()),
        _ => {
            lines.push(format!("- {needs}: about {:.1} hours.", needs.hours(job.tokens as f64)));
            lines.push(
                "- Assumed: ZeRO-3, one sequence or pair a card at a time, layers computed again on the way back, 40 % of the card's \
                 speed in one node, 35 % in several, 25 % with the optimizer in the host."
                    .into(),
            );
        }
    }
    lines.join("\n") + "\n"
}

fn recipe(plan: &Plan<'_>, train: &TrainConfig) -> String {
    let Plan { job, .. } = *plan;
    let optimizer = train.optimizer;
    let mut lines = vec![
        match &train.lora {
            Some(lora) => format!(
                "- A LoRA adapter of rank {} and alpha {} on {} products.",
                lora.rank,
                lora.alpha,
                lora.targets.len()
            ),
            None => "- All weights.".to_owned(),
        },
        format!(
            "- AdamW with a learning rate of {:e}, {:?} after a warm-up of {} updates; betas {} and {}; gradients clipped at {}.",
            optimizer.lr,
            train.schedule,
            notes::warmup(plan),
            optimizer.beta1,
            optimizer.beta2,
            train.clip
        ),
        format!("- {} sequences or pairs an update, {} of them in each process.", job.per_step, job.accumulation),
    ];
    if let Training::Dpo(stage) = job.training
        && job.training.compares()
    {
        let p = stage.preference;
        lines.push(format!(
            "- {:?} loss with beta {}, label smoothing {}, and {} times the chosen reply's negative log-likelihood per token.",
            p.form, p.beta, p.label_smoothing, p.sft
        ));
    }
    lines.join("\n") + "\n"
}
