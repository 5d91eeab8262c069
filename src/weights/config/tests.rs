//! Numbers, families, defaults, and refusals by name.

use super::*;
use crate::testing::{TinyModel, write_json};
use serde_json::json;

fn open(change: impl Fn(&mut Value), generation: Option<Value>) -> Result<ModelConfig, ModelError> {
    let dir = tempfile::tempdir().unwrap();
    let mut config = TinyModel::default().config();
    change(&mut config);
    write_json(dir.path(), "config.json", &config);
    if let Some(generation) = generation {
        write_json(dir.path(), "generation_config.json", &generation);
    }
    ModelConfig::open(dir.path())
}

type Case<'a> = (&'a dyn Fn(&mut Value), &'a str);

#[test]
fn numbers_are_read_with_their_defaults() {
    let config = open(|_| (), Some(json!({ "eos_token_id": [9, 1] }))).unwrap();
    assert_eq!((config.vocabulary, config.context, config.bos), (320, 512, Some(0)));
    assert_eq!(config.eos, [9, 1]);
    let dense = config.dense.unwrap();
    assert_eq!((dense.hidden, dense.heads, dense.kv_heads, dense.head_dim), (32, 4, 2, 8));
    let strip = |c: &mut Value| {
        for name in ["head_dim", "num_key_value_heads"] {
            c.as_object_mut().unwrap().shift_remove(name);
        }
    };
    let dense = open(strip, None).unwrap().dense.unwrap();
    assert_eq!((dense.kv_heads, dense.head_dim), (4, 8));
}

/// Makes a configuration one of another family.
fn family(config: &mut Value, class: &str, model_type: &str) {
    config["architectures"] = json!([class]);
    config["model_type"] = json!(model_type);
}

#[test]
fn families_differ_as_they_should() {
    let dense = |change: &dyn Fn(&mut Value)| open(change, None).unwrap().dense.unwrap();
    let mistral = |window: Value| {
        dense(&|c| {
            family(c, "MistralForCausalLM", "mistral");
            c["max_position_embeddings"] = json!(8192);
            c["sliding_window"] = window.clone();
        })
    };
    assert_eq!((mistral(json!(64)).window(1), mistral(Value::Null).window(1)), (Some(64), None));
    let window_of_its_class = dense(&|c| {
        family(c, "MistralForCausalLM", "mistral");
        c["max_position_embeddings"] = json!(8192);
    });
    assert_eq!(window_of_its_class.window(0), Some(4096));
    let qwen2 = dense(&|c| {
        family(c, "Qwen2ForCausalLM", "qwen2");
        c["sliding_window"] = json!(64);
    });
    assert_eq!((qwen2.sliding_window, qwen2.qkv_bias, qwen2.output_bias), (None, true, false));
    let qwen3 = dense(&|c| {
        family(c, "Qwen3ForCausalLM", "qwen3");
        c["use_sliding_window"] = json!(true);
        c["sliding_window"] = json!(64);
        c["layer_types"] = json!(["sliding_attention", "full_attention"]);
    });
    assert_eq!((qwen3.qk_norm, qwen3.window(0), qwen3.window(1)), (QkNorm::Heads, Some(64), None));
    let smollm3 = dense(&|c| {
        family(c, "SmolLM3ForCausalLM", "smollm3");
        c["no_rope_layers"] = json!([1, 0]);
    });
    assert!(smollm3.layer_rope(0).is_some() && smollm3.layer_rope(1).is_none());
    let phi3 = dense(&|c| family(c, "Phi3ForCausalLM", "phi3"));
    assert_eq!((phi3.qkv(), phi3.gate_up()), (vec![("self_attn.qkv_proj", 64)], vec![("mlp.gate_up_proj", 96)]));
}

/// One set of rotary settings in both spellings, with the base in every place where it may be.
#[test]
fn both_spellings_of_rotary_settings_are_one() {
    let llama3 = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192 });
    let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192.0 };
    let expected = Rope { theta: 5e5, scaling, dims: 8 };
    let mut with_base = llama3.clone();
    with_base["rope_theta"] = json!(5e5);
    let mut old_name = llama3.clone();
    old_name["type"] = old_name.as_object_mut().unwrap().shift_remove("rope_type").unwrap();
    let table = [
        json!({ "rope_theta": 5e5, "rope_scaling": llama3 }),
        json!({ "rope_theta": 5e5, "rope_scaling": old_name }),
        json!({ "rope_theta": 5e5, "rope_parameters": llama3, "rope_scaling": null }),
        json!({ "rope_theta": null, "rope_parameters": with_base, "rope_scaling": null }),
        json!({ "rope_theta": 7.0, "rope_parameters": with_base, "rope_scaling": {} }),
        json!({ "rope_theta": 7.0, "rope_scaling": with_base, "rope_parameters": with_base }),
    ];
    for fields in table {
        let change = |c: &mut Value| c.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        assert_eq!(open(change, None).unwrap().dense.unwrap().rope, expected, "{fields}");
    }
}

/// LongRoPE switches to other frequencies beyond the context of pre-training, so that no sequence may be longer.
#[test]
fn longrope_is_served_up_to_the_context_of_pre_training() {
    let config = open(
        |c| {
            family(c, "Phi3ForCausalLM", "phi3");
            c["original_max_position_embeddings"] = json!(128);
            c["rope_scaling"] = json!({ "type": "su", "short_factor": [1, 1, 2, 2], "long_factor": [1, 2, 3, 4] });
        },
        None,
    )
    .unwrap();
    assert_eq!(config.context, 128);
    let rope = config.dense.unwrap().rope;
    assert!((rope.attention_factor() - (1.0f32 + 4f32.ln() / 128f32.ln()).sqrt()).abs() < 1e-6);
    assert_eq!(rope.frequencies()[2], Rope::plain(10_000.0, 8).frequencies()[2] / 2.0);
}

/// Whatever would be computed in another way than `transformers` does is refused, and the message names the field.
#[test]
fn what_is_not_computed_is_refused_by_name() {
    let table = [
        ("rope_scaling", json!({ "rope_type": "mrope" }), "`rope_scaling.rope_type` is `mrope`"),
        ("rope_scaling", json!({ "type": "linear" }), "`rope_scaling.factor` is missing; `linear` needs it"),
        ("rope_scaling", json!({ "type": "linear", "factor": "x" }), "`rope_scaling.factor` is \"x\""),
        ("rope_scaling", json!({ "type": "llama3", "factor": 2.0 }), "`rope_scaling.low_freq_factor`"),
        ("rope_scaling", json!({ "type": "dynamic", "factor": 2.0, "alpha": 3.0 }), "`rope_scaling.alpha` is 3.0"),
        ("rope_scaling", json!({ "type": "yarn", "rope_type": "linear", "factor": 2.0 }), "`type` is `yarn`"),
        ("rope_scaling", json!({ "type": "longrope", "short_factor": [1.0] }), "must be a list of 4 numbers"),
        ("rope_scaling", json!({ "mrope_section": [1, 2], "type": "default" }), "`rope_scaling.mrope_section`"),
        ("rope_scaling", json!("yarn"), "`rope_scaling` is \"yarn\""),
        ("rope_parameters", json!({ "full_attention": { "rope_type": "default" } }), "for each kind of layer"),
        ("partial_rotary_factor", json!(0.5), "`partial_rotary_factor` is 0.5, which is not computed for Llama"),
        ("hidden_act", json!("relu2"), "`hidden_act` is `relu2`"),
        ("attn_logit_softcapping", json!(50.0), "`attn_logit_softcapping` is 50.0"),
        ("final_logit_softcapping", json!(30.0), "`final_logit_softcapping`"),
        ("query_pre_attn_scalar", json!(144), "`query_pre_attn_scalar`"),
        ("attention_multiplier", json!(0.1), "`attention_multiplier`"),
        ("logits_scaling", json!(8.0), "`logits_scaling`"),
        ("num_local_experts", json!(8), "`num_local_experts` is 8"),
        ("no_rope_layers", json!([1, 0]), "`no_rope_layers`"),
        ("dual_chunk_attention_config", json!({ "chunk_size": 8 }), "`dual_chunk_attention_config`"),
        ("is_causal", json!(false), "`is_causal`"),
        ("layer_types", json!(["full_attention", "sliding_attention"]), "`layer_types` has windows in other layers"),
        ("layer_types", json!(["full_attention", "chunked_attention"]), "`layer_types` has \"chunked_attention\""),
        ("layer_types", json!(["full_attention"]), "`layer_types` has 1 entries for 2 layers"),
        ("model_type", json!("qwen2"), "`model_type` is `qwen2`, but `architectures` says LlamaForCausalLM"),
        ("attention_bias", json!("yes"), "`attention_bias` is \"yes\""),
    ];
    for (name, value, expected) in table {
        let message = open(|c| c[name] = value.clone(), None).expect_err(expected).to_string();
        assert!(message.contains(expected) && message.contains("config.json"), "{name}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let harmless = [
        ("num_local_experts", json!(0)),
        ("logits_scaling", json!(1)),
        ("no_rope_layers", json!([1, 1])),
        ("rope_scaling", json!({})),
        ("rope_scaling", json!({ "type": "default", "factor": null })),
        ("layer_types", json!(["full_attention", "full_attention"])),
        ("partial_rotary_factor", json!(1.0)),
        ("something_new", json!(true)),
    ];
    for (name, value) in harmless {
        open(|c| c[name] = value.clone(), None).unwrap();
    }
    let other = |class: &str, model_type: &str, name: &str, value: Value| {
        let change = |c: &mut Value| {
            family(c, class, model_type);
            c[name] = value.clone();
        };
        open(change, None).unwrap_err().to_string()
    };
    let qwen2 = ("Qwen2ForCausalLM", "qwen2");
    let message = other(qwen2.0, qwen2.1, "layer_types", json!(["sliding_attention", "full_attention"]));
    assert!(message.contains("`sliding_window` does not say how long"), "{message}");
    let message = other("MistralForCausalLM", "mistral", "attention_bias", json!(true));
    assert!(message.contains("`attention_bias` is true, but Mistral has no such biases"), "{message}");
    let message = other("Phi3ForCausalLM", "phi3", "rope_scaling", json!({ "type": "linear", "factor": 2.0 }));
    assert!(message.contains("this family has longrope only"), "{message}");
    let both = |c: &mut Value| {
        c["rope_scaling"] = json!({ "type": "linear", "factor": 2.0 });
        c["rope_parameters"] = json!({ "rope_type": "default", "rope_theta": 5e5 });
    };
    let message = open(both, None).unwrap_err().to_string();
    assert!(message.contains("`rope_scaling` and `rope_parameters` are both given"), "{message}");
}

#[test]
fn quantized_checkpoints_are_refused_with_what_to_use_instead() {
    let table = [
        (json!({ "quant_method": "gptq", "bits": 4 }), "quantized by gptq"),
        (json!({ "quant_method": "awq", "bits": 4 }), "quantized by awq"),
        (json!({ "quant_method": "bitsandbytes", "load_in_4bit": true }), "quantized by bitsandbytes"),
        (json!({ "quant_method": "fp8", "weight_block_size": [128, 128] }), "quantized by fp8"),
        (json!({ "bits": 4 }), "quantized by an unnamed method"),
    ];
    for (value, expected) in table {
        for class in ["LlamaForCausalLM", "SomethingElse"] {
            let change = |c: &mut Value| {
                c["architectures"] = json!([class]);
                c["quantization_config"] = value.clone();
            };
            let message = open(change, None).unwrap_err().to_string();
            assert!(message.contains(expected) && message.contains("--quantize q8"), "{message}");
        }
    }
    open(|c| c["quantization_config"] = Value::Null, None).unwrap();
}

#[test]
fn unknown_families_need_little() {
    let config = open(
        |c| *c = json!({ "architectures": ["GemmaX"], "text_config": { "vocab_size": 7, "max_position_embeddings": 8, "eos_token_id": 3 } }),
        None,
    )
    .unwrap();
    assert_eq!(config.architecture, Architecture::Other("GemmaX".into()));
    assert_eq!((config.vocabulary, config.context, config.eos.as_slice()), (7, 8, &[3][..]));
    assert!(config.dense.is_none() && config.tensors().is_empty());
}

#[test]
fn defects_name_file_and_field() {
    let table: [Case<'_>; 10] = [
        (&|c| c["hidden_size"] = json!("big"), "`hidden_size` is \"big\""),
        (&|c| c["num_key_value_heads"] = json!(3), "`num_key_value_heads` is 3"),
        (&|c| c["head_dim"] = json!(7), "`head_dim` is 7"),
        (&|c| c["hidden_act"] = json!("gelu"), "`hidden_act` is `gelu`"),
        (&|c| c["vocab_size"] = Value::Null, "`vocab_size` is missing"),
        (&|c| c["num_attention_heads"] = json!(u64::MAX), "`num_attention_heads` is 18446744073709551615, more than"),
        (
            &|c| c["max_position_embeddings"] = json!(1u64 << 40),
            "`max_position_embeddings` is 1099511627776, more than",
        ),
        (&|c| c["num_hidden_layers"] = json!(1 << 30), "`num_hidden_layers` is 1073741824, more than the 4096"),
        (&|c| c["eos_token_id"] = json!((0..1_000_000).collect::<Vec<_>>()), "lists more than 256 tokens"),
        (&|c| c["eos_token_id"] = json!("x"), "`eos_token_id`"),
    ];
    for (change, expected) in table {
        let message = open(change, None).unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("config.json"), "{message}");
    }
    let nameless = |c: &mut Value| c["architectures"] = json!([]);
    assert_eq!(open(nameless, None).unwrap().architecture, Architecture::Llama);
    let dir = tempfile::tempdir().unwrap();
    assert!(ModelConfig::open(dir.path()).unwrap_err().to_string().contains("does not exist"));
    std::fs::write(dir.path().join("config.json"), "{").unwrap();
    assert!(ModelConfig::open(dir.path()).unwrap_err().to_string().contains("not valid JSON"));
}
