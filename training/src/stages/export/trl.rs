//! TRL: a script, its arguments, and accelerate's configuration. The data are tokens, so that nothing is tokenized in another way.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::super::trainings::Training;
use super::notes::warmup;
use super::{Plan, yaml};
use crate::loss::Form;
use crate::model::cpu::Arithmetic;

const SCRIPT: &str = include_str!("train_trl.py");

pub(super) fn files(plan: &Plan<'_>) -> Result<Vec<(&'static str, String)>> {
    let arguments = serde_json::to_string_pretty(&arguments(plan))? + "\n";
    let mut files = vec![("train.py", SCRIPT.to_owned()), ("arguments.json", arguments), ("run.sh", run(plan))];
    if plan.external.cluster.cards > 0 {
        files.push(("accelerate.yaml", yaml::text("Read by `accelerate launch`.", &accelerate(plan))));
    }
    Ok(files)
}

/// What the script reads.
fn arguments(plan: &Plan<'_>) -> Value {
    let train = plan.job.training.train();
    let cards = plan.external.cluster.cards;
    let bf16 = train.arithmetic == Arithmetic::Bf16;
    let peft = train.lora.as_ref().map(|lora| {
        json!({
            "r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout, "use_rslora": lora.rslora,
            "target_modules": lora.targets, "task_type": "CAUSAL_LM",
        })
    });
    let mut own = json!({
        "max_steps": plan.job.steps,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": plan.job.accumulation,
        "learning_rate": train.optimizer.lr,
        "optim": "adamw_torch",
        "adam_beta1": train.optimizer.beta1,
        "adam_beta2": train.optimizer.beta2,
        "adam_epsilon": train.optimizer.eps,
        "weight_decay": train.optimizer.weight_decay,
        "max_grad_norm": train.clip,
        "seed": train.seed,
        "bf16": bf16,
        "fp16": false,
        "gradient_checkpointing": cards > 0,
        "use_cpu": cards == 0,
        "max_length": null,
        "logging_steps": 1,
        "save_strategy": if train.checkpoint_every > 0 && cards > 0 { "steps" } else { "no" },
        "save_steps": train.checkpoint_every.max(1),
        "save_total_limit": 1,
        "report_to": [],
    });
    match plan.job.training {
        Training::Dpo(stage) if !stage.chosen_only => {
            let form = match stage.preference.form {
                Form::Sigmoid => "sigmoid",
                Form::Ipo => "ipo",
                Form::Hinge => "hinge",
            };
            own["beta"] = json!(stage.preference.beta);
            let sft = stage.preference.sft > 0.0;
            own["loss_type"] = if sft { json!([form, "sft"]) } else { json!([form]) };
            own["loss_weights"] = if sft { json!([1.0, stage.preference.sft]) } else { json!([1.0]) };
            // TRL would set the adapter's dropout to 0 as well.
            own["disable_dropout"] = json!(train.lora.as_ref().is_none_or(|lora| lora.dropout == 0.0));
        }
        _ => own["packing"] = json!(false),
    }
    json!({
        "method": if plan.job.training.compares() { "dpo" } else { "sft" },
        "base": plan.description.base_name,
        "dtype": if bf16 { "bfloat16" } else { "float32" },
        "peft": peft,
        "initial_adapter": (plan.external.initial_adapter && train.lora.is_some()).then_some("initial-adapter"),
        "warmup": warmup(plan),
        "schedule": train.schedule,
        "arguments": own,
    })
}

fn accelerate(plan: &Plan<'_>) -> Map<String, Value> {
    let cluster = plan.external.cluster;
    let fields = json!({
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "DEEPSPEED",
        "deepspeed_config": {
            "deepspeed_config_file": "deepspeed.json",
            "deepspeed_multinode_launcher": "standard",
            "zero3_init_flag": true,
        },
        "machine_rank": 0,
        "main_process_ip": "127.0.0.1",
        "main_process_port": 29500,
        "main_training_function": "main",
        "num_machines": cluster.nodes,
        "num_processes": cluster.world(),
        "rdzv_backend": "static",
        "same_network": true,
        "use_cpu": false,
    });
    fields.as_object().cloned().unwrap_or_default()
}

fn run(plan: &Plan<'_>) -> String {
    let launch = match plan.external.cluster.cards {
        0 => "exec \"${PYTHON:-python3}\" train.py\n".to_owned(),
        _ => "exec accelerate launch --config_file accelerate.yaml --machine_rank \"${NODE_RANK:-0}\" \\\n  \
              --main_process_ip \"${MASTER_ADDR:-127.0.0.1}\" --main_process_port \"${MASTER_PORT:-29500}\" train.py\n"
            .to_owned(),
    };
    super::readme::script(plan, &launch)
}
