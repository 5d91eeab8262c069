//! Axolotl: its YAML.

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::super::trainings::Training;
use super::llama_factory::{names, scheduler};
use super::notes::warmup;
use super::{Plan, readme, yaml};
use crate::loss::Form;
use crate::model::cpu::Arithmetic;

pub(super) fn files(plan: &Plan<'_>) -> Result<Vec<(&'static str, String)>> {
    let comment = "Read by `axolotl train`; run.sh replaces the base and the output.";
    Ok(vec![("axolotl.yaml", yaml::text(comment, &settings(plan))), ("run.sh", run(plan))])
}

fn settings(plan: &Plan<'_>) -> Map<String, Value> {
    let Plan { job, external, .. } = *plan;
    let training = job.training;
    let train = training.train();
    let bf16 = train.arithmetic == Arithmetic::Bf16;
    let mut all = Map::new();
    let mut set = |name: &str, value: Value| all.insert(name.into(), value);
    set("base_model", json!(plan.description.base_name));
    set("chat_template", json!("tokenizer_default"));
    set("eot_tokens", json!([job.end()]));
    let mut data = json!({ "path": "data.jsonl", "split": "train", "field_messages": "messages" });
    match training {
        Training::Dpo(stage) if !stage.chosen_only => {
            let preference = stage.preference;
            let form = match preference.form {
                Form::Sigmoid => "sigmoid",
                Form::Ipo => "ipo",
                Form::Hinge => "hinge",
            };
            set("rl", json!("dpo"));
            set("rl_beta", json!(preference.beta));
            let sft = preference.sft > 0.0;
            set("dpo_loss_type", if sft { json!([form, "sft"]) } else { json!([form]) });
            set("dpo_loss_weights", if sft { json!([1.0, preference.sft]) } else { json!([1.0]) });
            data["type"] = json!("chat_template.default");
            data["field_chosen"] = json!("chosen");
            data["field_rejected"] = json!("rejected");
        }
        _ => {
            data["type"] = json!("chat_template");
            data["ds_type"] = json!("json");
            data["message_field_training"] = json!("train");
            data["roles_to_train"] = json!([]);
            data["train_on_eos"] = json!("turn");
            set("train_on_inputs", json!(false));
            set("curriculum_sampling", json!(true));
        }
    }
    set("datasets", json!([data]));
    set("shuffle_merged_datasets", json!(false));
    set("dataset_prepared_path", json!("prepared"));
    set("output_dir", json!("output"));
    set("sequence_len", json!(job.cut()));
    set("sample_packing", json!(false));
    set("pad_to_sequence_len", json!(false));
    if let Some(lora) = &train.lora {
        set("adapter", json!("lora"));
        set("lora_r", json!(lora.rank));
        set("lora_alpha", json!(lora.alpha as u64));
        set("lora_dropout", json!(lora.dropout));
        set("lora_target_modules", json!(names(&lora.targets)));
        set("peft_use_rslora", json!(lora.rslora));
        if external.initial_adapter {
            set("lora_model_dir", json!("initial-adapter"));
        } else if let Some(from) = &lora.from {
            set("lora_model_dir", json!(std::path::absolute(from).unwrap_or_else(|_| from.clone())));
        }
    }
    set("micro_batch_size", json!(1));
    set("gradient_accumulation_steps", json!(job.accumulation));
    // The data holds every pass.
    set("num_epochs", json!(1));
    set("optimizer", json!("adamw_torch"));
    set("learning_rate", json!(train.optimizer.lr));
    set("lr_scheduler", json!(scheduler(train.schedule)));
    set("warmup_steps", json!(warmup(plan)));
    set("adam_beta1", json!(train.optimizer.beta1));
    set("adam_beta2", json!(train.optimizer.beta2));
    set("adam_epsilon", json!(train.optimizer.eps));
    set("weight_decay", json!(train.optimizer.weight_decay));
    set("max_grad_norm", json!(train.clip));
    set("bf16", json!(bf16));
    set("gradient_checkpointing", json!(external.cluster.cards > 0));
    set("logging_steps", json!(1));
    set("save_strategy", json!(if train.checkpoint_every > 0 { "steps" } else { "no" }));
    set("save_steps", (train.checkpoint_every > 0).then_some(train.checkpoint_every).into());
    set("save_total_limit", json!(1));
    set("seed", json!(train.seed));
    if external.cluster.cards > 0 {
        set("deepspeed", json!("deepspeed.json"));
    }
    all
}

fn run(plan: &Plan<'_>) -> String {
    let cluster = plan.external.cluster;
    let overrides = "axolotl.yaml --base_model \"$BASE\" --output_dir \"$OUTPUT\"\n";
    let launch = match cluster.cards {
        0 => format!("exec \"${{PYTHON:-python3}}\" -m axolotl.cli.train {overrides}"),
        cards => format!(
            "exec torchrun --nnodes {} --nproc_per_node {cards} --node_rank \"${{NODE_RANK:-0}}\" \\\n  \
             --master_addr \"${{MASTER_ADDR:-127.0.0.1}}\" --master_port \"${{MASTER_PORT:-29500}}\" \\\n  \
             -m axolotl.cli.train {overrides}",
            cluster.nodes
        ),
    };
    readme::script(plan, &launch)
}
