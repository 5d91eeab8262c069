//! DeepSpeed's configuration for ZeRO-3, in the form that Hugging Face's trainer completes: it puts its own values where `auto` is.

use serde_json::{Value, json};

use crate::cluster::Place;

pub(super) fn zero3(optimizer: Place) -> Value {
    let mut zero = json!({
        "stage": 3,
        "overlap_comm": true,
        "contiguous_gradients": true,
        "sub_group_size": 1_000_000_000,
        "reduce_bucket_size": "auto",
        "stage3_prefetch_bucket_size": "auto",
        "stage3_param_persistence_threshold": "auto",
        "stage3_max_live_parameters": 1_000_000_000,
        "stage3_max_reuse_distance": 1_000_000_000,
        "stage3_gather_16bit_weights_on_model_save": true,
    });
    let mut config = json!({
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": true,
        "bf16": { "enabled": "auto" },
    });
    if optimizer == Place::Host {
        zero["offload_optimizer"] = json!({ "device": "cpu", "pin_memory": true });
        // DeepSpeed's own AdamW is the one that is fast on a processor.
        let params = json!({ "lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto" });
        config["optimizer"] = json!({ "type": "AdamW", "params": params });
    }
    config["zero_optimization"] = zero;
    config
}
