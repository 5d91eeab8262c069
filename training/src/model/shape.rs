//! The shape of a trained model: the configuration as the server reads `config.json`, and which configurations training supports.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};
use spar::weights::{Activation, DenseConfig, ModelConfig, Norms, QkNorm, Rope};

/// Reads `config.json` in `directory` as the server does, and checks that training computes such a model.
///
/// # Errors
/// Fails when the file is missing, is not such a configuration, or asks for something that is not trained.
pub fn load(directory: &Path) -> Result<DenseConfig> {
    let ModelConfig { dense, architecture, .. } = ModelConfig::open(directory)?;
    let path = directory.join("config.json");
    let dense =
        dense.with_context(|| format!("{}: models of the class {architecture} are not trained", path.display()))?;
    check(&dense).with_context(|| format!("{} cannot be trained", path.display()))?;
    Ok(dense)
}

/// Checks that the network is one that is trained.
///
/// # Errors
/// Names the first thing that is not.
pub fn check(config: &DenseConfig) -> Result<()> {
    let c = config;
    ensure!(c.layers > 0 && c.hidden > 0 && c.intermediate > 0, "sizes must be at least 1");
    ensure!(c.vocabulary > 0 && c.context > 0, "sizes must be at least 1");
    ensure!(
        c.heads > 0 && c.head_dim > 0 && c.head_dim.is_multiple_of(2),
        "`head_dim` must be even, got {}",
        c.head_dim
    );
    ensure!(
        c.kv_heads > 0 && c.heads.is_multiple_of(c.kv_heads),
        "{} key heads do not divide {} query heads",
        c.kv_heads,
        c.heads
    );
    if let Some(window) = c.sliding_window {
        anyhow::bail!("`sliding_window` of {window} is not trained: lower `max_position_embeddings` to it");
    }
    ensure!(!c.output_bias && !c.mlp_bias, "`attention_bias` and `mlp_bias` are not trained");
    ensure!(!c.fused, "fused projections (Phi 3) are not trained");
    ensure!(c.qk_norm != QkNorm::Whole, "norms over all heads together (OLMo 2) are not trained");
    let plain = c.norms == Norms::Before && !c.norm_plus_one && c.local_rope.is_none();
    ensure!(plain, "norms after attention, and rotary positions by kind of layer (OLMo 2, Gemma), are not trained");
    ensure!(c.activation == Activation::Silu, "`hidden_act` other than silu is not trained");
    ensure!(c.scales == DenseConfig::default().scales, "the scales of a Granite or a Gemma are not trained");
    ensure!(c.score_cap.is_none() && c.logit_cap.is_none(), "capped scores and logits are not trained");
    Ok(())
}

/// A tied model of `vocabulary` tokens and of the embedded model's shape: 4 layers, width 192, 3 heads over 1.
#[must_use]
pub fn tiny(vocabulary: usize) -> DenseConfig {
    DenseConfig { vocabulary, ..DenseConfig::default() }
}

/// Changes the number and the size of a model's heads.
#[must_use]
pub fn with_heads(config: DenseConfig, heads: usize, kv_heads: usize, head_dim: usize) -> DenseConfig {
    let rope = Rope { dims: head_dim, ..config.rope };
    DenseConfig { heads, kv_heads, head_dim, rope, ..config }
}

/// The `config.json` of a model that no file describes yet; `end` begins and ends its texts.
#[must_use]
pub fn to_json(config: &DenseConfig, end: Option<u32>) -> Map<String, Value> {
    let (class, model_type) = match (config.qk_norm, config.qkv_bias) {
        (QkNorm::Heads, _) => ("Qwen3ForCausalLM", "qwen3"),
        (_, true) => ("Qwen2ForCausalLM", "qwen2"),
        _ => ("LlamaForCausalLM", "llama"),
    };
    // As short as the number is, not as long as its nearest number in 64 bits.
    let norm_eps: f64 = config.norm_eps.to_string().parse().expect("a number's own text");
    let mut fields = Map::new();
    let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    add("architectures", json!([class]));
    add("model_type", json!(model_type));
    add("hidden_size", json!(config.hidden));
    add("intermediate_size", json!(config.intermediate));
    add("num_hidden_layers", json!(config.layers));
    add("num_attention_heads", json!(config.heads));
    add("num_key_value_heads", json!(config.kv_heads));
    if config.head_dim * config.heads != config.hidden || config.qk_norm == QkNorm::Heads {
        add("head_dim", json!(config.head_dim));
    }
    add("vocab_size", json!(config.vocabulary));
    add("max_position_embeddings", json!(config.context));
    add("rms_norm_eps", json!(norm_eps));
    add("rope_theta", json!(config.rope.theta));
    add("rope_scaling", Value::Null);
    add("tie_word_embeddings", json!(config.tied));
    add("attention_bias", json!(false));
    add("mlp_bias", json!(false));
    add("hidden_act", json!("silu"));
    for name in ["bos_token_id", "eos_token_id", "pad_token_id"] {
        add(name, json!(end));
    }
    add("torch_dtype", json!("float32"));
    add("use_cache", json!(true));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let qwen3 = DenseConfig { qk_norm: QkNorm::Heads, ..with_heads(tiny(300), 3, 1, 48) };
        for config in [tiny(300), DenseConfig { qkv_bias: true, tied: false, ..tiny(300) }, qwen3] {
            let text = serde_json::to_string(&to_json(&config, Some(2))).unwrap();
            assert!(text.contains("\"rms_norm_eps\":0.00001,"), "{text}");
            std::fs::write(directory.path().join("config.json"), text).unwrap();
            assert_eq!(load(directory.path()).unwrap(), config);
            assert_eq!(ModelConfig::open(directory.path()).unwrap().eos, [2]);
        }
    }

    /// What the server reads, the trainer reads: defaults, both spellings of rotary settings, and refusals.
    #[test]
    fn configurations_are_read_as_the_server_reads_them() {
        let directory = tempfile::tempdir().unwrap();
        let read = |change: &dyn Fn(&mut Map<String, Value>)| {
            let mut fields = to_json(&tiny(300), Some(1));
            change(&mut fields);
            std::fs::write(directory.path().join("config.json"), Value::Object(fields).to_string()).unwrap();
            load(directory.path())
        };
        let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64, "rope_theta": 5e5 });
        let nested = read(&|c| drop(c.insert("rope_parameters".into(), llama3.clone()))).unwrap();
        let flat = read(&|c| drop(c.insert("rope_scaling".into(), llama3.clone()))).unwrap();
        assert_eq!(nested.rope, flat.rope);
        assert!(nested.rope.theta == 5e5 && nested.rope.frequencies() != tiny(300).rope.frequencies());
        let few = read(&|c| {
            for name in ["rope_theta", "num_key_value_heads", "rms_norm_eps"] {
                c.shift_remove(name);
            }
        });
        let few = few.unwrap();
        assert_eq!((few.rope.theta, few.kv_heads, few.norm_eps), (10_000.0, 3, 1e-6));
        let table: [(&str, Value, &str); 6] = [
            ("rope_scaling", json!({ "rope_type": "other" }), "`rope_scaling.rope_type` is `other`"),
            ("attention_bias", json!(true), "`attention_bias`"),
            ("mlp_bias", json!(true), "`mlp_bias`"),
            ("head_dim", json!(7), "`head_dim`"),
            ("num_key_value_heads", json!(2), "`num_key_value_heads` is 2"),
            ("hidden_act", json!("relu"), "`hidden_act`"),
        ];
        for (name, value, expected) in table {
            let error = read(&|c| drop(c.insert(name.into(), value.clone()))).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{error:#}");
        }
        let mistral = |window: usize| {
            read(&|c| {
                c.insert("architectures".into(), json!(["MistralForCausalLM"]));
                c.insert("model_type".into(), json!("mistral"));
                c.insert("sliding_window".into(), json!(window));
            })
        };
        assert!(mistral(4096).is_ok());
        assert!(format!("{:#}", mistral(100).unwrap_err()).contains("`sliding_window` of 100"));
    }
}
