//! What a configuration asks for that is not computed: refused by name, because the replies would be wrong without a word.

use serde_json::Value;

use super::super::ModelError;
use super::Architecture;
use super::fields::Fields;

/// Whether a value of a field changes nothing.
type Harmless = fn(&Value) -> bool;

fn off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::String(_) | Value::Bool(true) => false,
    }
}

fn one(value: &Value) -> bool {
    value.is_null() || value.as_f64() == Some(1.0)
}

fn unset_or_true(value: &Value) -> bool {
    value.is_null() || value == &Value::Bool(true)
}

fn all_ones(value: &Value) -> bool {
    off(value) || value.as_array().is_some_and(|list| list.iter().all(one))
}

/// Fields that change what is computed, with the values that do not and the families that read them.
const CHANGING: &[(&str, Harmless, &[Architecture])] = &[
    ("attn_logit_softcapping", off, &[Architecture::Gemma2, Architecture::Gemma3]),
    ("final_logit_softcapping", off, &[Architecture::Gemma2, Architecture::Gemma3]),
    ("query_pre_attn_scalar", off, &[Architecture::Gemma2, Architecture::Gemma3]),
    ("rope_local_base_freq", off, &[Architecture::Gemma3]),
    ("sliding_window_pattern", off, &[Architecture::Gemma3]),
    ("no_rope_layers", all_ones, &[Architecture::SmolLm3]),
    ("no_rope_layer_interval", off, &[Architecture::SmolLm3]),
    ("embedding_multiplier", one, &[Architecture::Granite]),
    ("attention_multiplier", one, &[Architecture::Granite]),
    ("residual_multiplier", one, &[Architecture::Granite]),
    ("logits_scaling", one, &[Architecture::Granite]),
    ("logit_scale", one, &[]),
    ("scale_emb", one, &[]),
    ("scale_depth", off, &[]),
    ("dim_model_base", off, &[]),
    ("attention_scale", off, &[]),
    ("attn_scale", off, &[]),
    ("clip_qkv", off, &[]),
    ("qk_layernorm", off, &[]),
    ("use_qk_norm", off, &[]),
    ("num_experts", off, &[]),
    ("num_local_experts", off, &[]),
    ("n_routed_experts", off, &[]),
    ("attention_chunk_size", off, &[]),
    ("attn_temperature_tuning", off, &[]),
    ("use_bidirectional_attention", off, &[]),
    ("is_causal", unset_or_true, &[]),
    ("is_encoder_decoder", off, &[]),
    ("add_cross_attention", off, &[]),
    ("alibi", off, &[]),
    ("parallel_attn", off, &[]),
    ("use_parallel_residual", off, &[]),
    ("dual_chunk_attention_config", off, &[]),
    ("per_layer_config", off, &[]),
    ("block_configs", off, &[]),
    ("rotary_pct", one, &[]),
    ("rope_interleaved", off, &[]),
    ("use_mrope", off, &[]),
    ("lm_head_bias", off, &[]),
    ("use_bias", off, &[]),
    ("num_kv_shared_layers", off, &[]),
    ("hidden_size_per_layer_input", off, &[]),
    ("nope_layer_interval", off, &[]),
];

/// Checks that a configuration of a family that we know asks for nothing that is not computed.
///
/// # Errors
/// Names the field and its value.
pub(super) fn check(fields: Fields<'_>, architecture: &Architecture) -> Result<(), ModelError> {
    for (name, harmless, families) in CHANGING {
        let value = fields.get(name);
        if !harmless(value) && !families.contains(architecture) {
            let reason =
                format!("is {value}, which is not computed for {architecture}; nothing in our engines reads it");
            return Err(fields.wrong(name, &reason));
        }
    }
    let reads = |families: &[Architecture]| families.contains(architecture);
    let output = !reads(&[Architecture::Mistral, Architecture::Qwen2, Architecture::Phi3]);
    // Qwen 2 has biases on queries, keys and values whatever this field says.
    for (name, read) in [
        ("attention_bias", output || *architecture == Architecture::Qwen2),
        ("mlp_bias", reads(&[Architecture::Llama, Architecture::SmolLm3, Architecture::Granite])),
    ] {
        if fields.switch(name)?.unwrap_or(false) && !read {
            let reason = format!("is true, but {architecture} has no such biases in transformers; remove the field");
            return Err(fields.wrong(name, &reason));
        }
    }
    Ok(())
}

/// Checks that the weights are not quantized by a method that no engine reads.
///
/// # Errors
/// Names the method and what to use instead.
pub(super) fn quantized(fields: Fields<'_>, architecture: &Architecture) -> Result<(), ModelError> {
    for name in ["quantization_config", "compression_config"] {
        let value = fields.get(name);
        let method = value["quant_method"].as_str().or(value["quantization_type"].as_str());
        // mistral.rs reads this one, in which its architecture was published.
        let known = matches!(architecture, Architecture::Other(_)) && method == Some("mxfp4");
        if !off(value) && !known {
            let method = method.unwrap_or("an unnamed method");
            return Err(fields.wrong(name, &format!("says that the weights are quantized by {method}, {INSTEAD}")));
        }
    }
    Ok(())
}

/// What to do with a quantized checkpoint.
pub(in super::super) const INSTEAD: &str = "which is not read; use the checkpoint that it was made from, in F32, F16 or BF16 \
     (--quantize q8 serves it in 8 bits)";
