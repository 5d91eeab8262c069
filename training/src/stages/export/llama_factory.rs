//! LLaMA-Factory: its YAML and the description of the data.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::super::trainings::Training;
use super::notes::warmup;
use super::{Plan, readme, yaml};
use crate::loss::Form;
use crate::model::cpu::Arithmetic;
use crate::schedule::Schedule;

pub(super) fn files(plan: &Plan<'_>) -> Result<Vec<(&'static str, String)>> {
    let comment = "Read by `llamafactory-cli train`; run.sh replaces the base and the output.";
    Ok(vec![
        ("llama-factory.yaml", yaml::text(comment, &settings(plan))),
        ("dataset_info.json", serde_json::to_string_pretty(&dataset_info(plan))? + "\n"),
        ("run.sh", run(plan)),
    ])
}

fn settings(plan: &Plan<'_>) -> Map<String, Value> {
    let Plan { job, external, .. } = *plan;
    let (training, cards) = (job.training, external.cluster.cards);
    let train = training.train();
    let mut all = Map::new();
    let mut set = |name: &str, value: Value| all.insert(name.into(), value);
    set("model_name_or_path", json!(plan.description.base_name));
    set("stage", json!(if training.compares() { "dpo" } else { "sft" }));
    set("do_train", json!(true));
    match &train.lora {
        Some(lora) => {
            set("finetuning_type", json!("lora"));
            set("lora_rank", json!(lora.rank));
            set("lora_alpha", json!(lora.alpha as u64));
            set("lora_dropout", json!(lora.dropout));
            set("lora_target", json!(names(&lora.targets).join(",")));
            set("use_rslora", json!(lora.rslora));
            if external.initial_adapter {
                set("adapter_name_or_path", json!("initial-adapter"));
            } else if let Some(from) = &lora.from {
                set("adapter_name_or_path", json!(std::path::absolute(from).unwrap_or_else(|_| from.clone())));
            }
        }
        None => _ = set("finetuning_type", json!("full")),
    }
    match training {
        Training::Dpo(stage) if !stage.chosen_only => {
            let preference = stage.preference;
            let form = match preference.form {
                Form::Sigmoid => "sigmoid",
                Form::Ipo => "ipo",
                Form::Hinge => "hinge",
            };
            set("pref_loss", json!(form));
            set("pref_beta", json!(preference.beta));
            set("pref_ftx", json!(preference.sft));
            set("dpo_label_smoothing", json!(preference.label_smoothing));
        }
        // Earlier replies of a chat are learned in lines of their own.
        _ => _ = set("mask_history", json!(true)),
    }
    set("dataset", json!("spar"));
    set("dataset_dir", json!("."));
    set("template", json!(external.template));
    set("cutoff_len", json!(job.cut()));
    set("disable_shuffling", json!(true));
    set("overwrite_cache", json!(true));
    set("output_dir", json!("output"));
    set("logging_steps", json!(1));
    set("save_strategy", json!(if train.checkpoint_every > 0 { "steps" } else { "no" }));
    set("save_steps", json!(train.checkpoint_every.max(1)));
    set("save_total_limit", json!(1));
    set("per_device_train_batch_size", json!(1));
    set("gradient_accumulation_steps", json!(job.accumulation));
    // The data holds every pass.
    set("num_train_epochs", json!(1.0));
    set("learning_rate", json!(train.optimizer.lr));
    set("lr_scheduler_type", json!(scheduler(train.schedule)));
    set("warmup_steps", json!(warmup(plan)));
    set("optim", json!("adamw_torch"));
    set("adam_beta1", json!(train.optimizer.beta1));
    set("adam_beta2", json!(train.optimizer.beta2));
    set("adam_epsilon", json!(train.optimizer.eps));
    set("weight_decay", json!(train.optimizer.weight_decay));
    set("max_grad_norm", json!(train.clip));
    set("bf16", json!(train.arithmetic == Arithmetic::Bf16));
    set("seed", json!(train.seed));
    set("report_to", json!("none"));
    match cards {
        0 => _ = set("use_cpu", json!(true)),
        _ => {
            set("deepspeed", json!("deepspeed.json"));
            set("ddp_timeout", json!(180_000_000));
        }
    }
    all
}

/// The names that PEFT knows modules by.
pub(super) fn names(targets: &[crate::model::lora::Module]) -> Vec<&'static str> {
    targets.iter().map(|module| module.path().rsplit('.').next().unwrap_or_default()).collect()
}

/// The schedule's name in transformers.
pub(super) fn scheduler(schedule: Schedule) -> &'static str {
    match schedule {
        Schedule::Constant => "constant_with_warmup",
        Schedule::Linear => "linear",
        Schedule::Cosine => "cosine",
    }
}

fn dataset_info(plan: &Plan<'_>) -> Value {
    let pairs = plan.job.training.compares();
    let columns = match pairs {
        true => json!({ "messages": "messages", "chosen": "chosen", "rejected": "rejected" }),
        false => json!({ "messages": "messages" }),
    };
    json!({
        "spar": {
            "file_name": "data.jsonl",
            "formatting": "sharegpt",
            "ranking": pairs,
            "columns": columns,
            "tags": {
                "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                "system_tag": "system",
            },
        },
    })
}

fn run(plan: &Plan<'_>) -> String {
    let cluster = plan.external.cluster;
    let distributed = match cluster.cards {
        0 => String::new(),
        cards => format!(
            "export FORCE_TORCHRUN=1 NNODES={} NPROC_PER_NODE={cards} NODE_RANK=\"${{NODE_RANK:-0}}\"\n\
             export MASTER_ADDR=\"${{MASTER_ADDR:-127.0.0.1}}\" MASTER_PORT=\"${{MASTER_PORT:-29500}}\"\n",
            cluster.nodes
        ),
    };
    let launch = "exec llamafactory-cli train llama-factory.yaml model_name_or_path=\"$BASE\" output_dir=\"$OUTPUT\"\n";
    readme::script(plan, &format!("{distributed}{launch}"))
}
