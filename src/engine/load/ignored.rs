//! What mistral.rs would leave out of a configuration without a word, or compute in another way than `transformers`: such a model is
//! refused rather than handed to it. Read from the source of version 0.8.1.

use serde_json::Value;

use crate::weights::ModelConfig;

/// What mistral.rs reads of one class of models.
struct Reads {
    class: &'static str,
    /// The kinds of rotary scaling that are computed.
    scalings: &'static [&'static str],
    windows: Windows,
    /// Whether the size of heads may differ from the width divided by their number.
    head_dim: bool,
    attention_bias: bool,
    /// Whether only a part of each head may turn.
    partial: bool,
}

/// Which windows of attention are computed.
#[derive(Clone, Copy, PartialEq)]
enum Windows {
    /// No windows are computed.
    None,
    /// Every layer has the same one.
    Every,
    /// Every second layer has one, from the first on.
    Alternating,
    /// Layers have one as `layer_types` says.
    ByLayer,
}

const PLAIN: Reads =
    Reads { class: "", scalings: &[], windows: Windows::None, head_dim: false, attention_bias: false, partial: false };

const READS: [Reads; 21] = [
    Reads { class: "LlamaForCausalLM", scalings: &["llama3"], ..PLAIN },
    Reads { class: "MistralForCausalLM", windows: Windows::Every, head_dim: true, ..PLAIN },
    Reads { class: "MixtralForCausalLM", windows: Windows::Every, ..PLAIN },
    // Windows of these two are put on every layer.
    Reads { class: "Qwen2ForCausalLM", ..PLAIN },
    Reads { class: "Qwen3ForCausalLM", head_dim: true, ..PLAIN },
    Reads { class: "Qwen3MoeForCausalLM", head_dim: true, ..PLAIN },
    Reads { class: "Qwen3NextForCausalLM", head_dim: true, partial: true, windows: Windows::ByLayer, ..PLAIN },
    Reads { class: "SmolLM3ForCausalLM", scalings: &["llama3"], ..PLAIN },
    Reads { class: "Phi3ForCausalLM", scalings: &["longrope", "su"], windows: Windows::Every, partial: true, ..PLAIN },
    Reads { class: "PhiMoEForCausalLM", scalings: &["longrope", "su"], attention_bias: true, ..PLAIN },
    Reads { class: "PhiForCausalLM", partial: true, ..PLAIN },
    Reads { class: "GemmaForCausalLM", head_dim: true, attention_bias: true, ..PLAIN },
    Reads { class: "Gemma2ForCausalLM", windows: Windows::Alternating, head_dim: true, attention_bias: true, ..PLAIN },
    Reads {
        class: "Gemma3ForCausalLM",
        scalings: &["linear"],
        windows: Windows::ByLayer,
        head_dim: true,
        attention_bias: true,
        ..PLAIN
    },
    Reads { class: "Starcoder2ForCausalLM", windows: Windows::Every, ..PLAIN },
    Reads { class: "Glm4ForCausalLM", head_dim: true, attention_bias: true, partial: true, ..PLAIN },
    Reads { class: "Glm4MoeForCausalLM", head_dim: true, attention_bias: true, partial: true, ..PLAIN },
    Reads { class: "GraniteMoeHybridForCausalLM", scalings: &["llama3"], windows: Windows::ByLayer, ..PLAIN },
    Reads {
        class: "GptOssForCausalLM",
        scalings: &["yarn"],
        windows: Windows::ByLayer,
        head_dim: true,
        attention_bias: true,
        ..PLAIN
    },
    Reads { class: "DeepseekV2ForCausalLM", scalings: &["yarn"], head_dim: true, ..PLAIN },
    Reads { class: "DeepseekV3ForCausalLM", scalings: &["yarn"], head_dim: true, ..PLAIN },
];

/// Checks that mistral.rs computes what a model's configuration asks for, as far as we know it; of classes that are not in our list we
/// know nothing.
///
/// # Errors
/// A sentence that names the field and what to do.
pub(super) fn check(config: &ModelConfig) -> Result<(), String> {
    let json = &config.json;
    let class = json["architectures"][0].as_str().unwrap_or_default();
    let Some(reads) = READS.iter().find(|reads| reads.class == class) else { return Ok(()) };
    let refused = |field: &str, value: &Value| {
        let value = match value {
            Value::Object(_) | Value::Array(_) => "set".into(),
            value => format!("{value}"),
        };
        let advice = match config.dense {
            Some(_) => "use --engine native, which computes it",
            None => "serve the model by another server and --engine upstream",
        };
        Err(format!("`{field}` of config.json is {value}, which mistral.rs does not compute for {class}; {advice}"))
    };
    for field in ["rope_scaling", "rope_parameters"] {
        let rope = &json[field];
        let kind = rope["rope_type"].as_str().or(rope["type"].as_str()).unwrap_or("default");
        if kind != "default" && !reads.scalings.contains(&kind) {
            return refused(&format!("{field}.rope_type"), &Value::from(kind));
        }
        let share = &rope["partial_rotary_factor"];
        if changes(share, 1.0) && !reads.partial {
            return refused(&format!("{field}.partial_rotary_factor"), share);
        }
    }
    if changes(&json["partial_rotary_factor"], 1.0) && !reads.partial {
        return refused("partial_rotary_factor", &json["partial_rotary_factor"]);
    }
    // Where it has a default for the base, mistral.rs would take that one.
    if json["rope_parameters"].is_object() && json["rope_theta"].is_null() && class != "MistralForCausalLM" {
        return Err(format!(
            "`rope_parameters` of config.json is in the spelling of transformers 5, which mistral.rs does not read for {class}; \
             write its fields as `rope_theta` and `rope_scaling`"
        ));
    }
    for field in ["attention_bias", "mlp_bias"] {
        if json[field] == true && !(reads.attention_bias && field == "attention_bias") {
            return refused(field, &json[field]);
        }
    }
    let [size, width, heads] = ["head_dim", "hidden_size", "num_attention_heads"].map(|field| json[field].as_u64());
    if let (Some(size), Some(width), Some(heads)) = (size, width, heads)
        && size * heads != width
        && !reads.head_dim
    {
        return refused("head_dim", &json["head_dim"]);
    }
    windows(json, reads).or_else(|field| refused(field, &json[field]))
}

/// # Errors
/// The field that asks for windows that are not computed.
fn windows(json: &Value, reads: &Reads) -> Result<(), &'static str> {
    let types = json["layer_types"].as_array().cloned().unwrap_or_default();
    let windowed: Vec<bool> = types.iter().map(|kind| kind == "sliding_attention").collect();
    let some = windowed.contains(&true);
    match reads.windows {
        Windows::None if json["use_sliding_window"] == true => Err("use_sliding_window"),
        Windows::None if some => Err("layer_types"),
        Windows::Every if some && windowed.contains(&false) => Err("layer_types"),
        Windows::Alternating if windowed.iter().enumerate().any(|(layer, &own)| own != (layer % 2 == 0)) => {
            Err("layer_types")
        }
        _ => Ok(()),
    }
}

fn changes(value: &Value, neutral: f64) -> bool {
    value.as_f64().is_some_and(|number| number != neutral)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::TinyModel;

    #[test]
    fn what_mistral_rs_leaves_out_is_refused_by_name() {
        let yarn = json!({ "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128 });
        let llama3 = json!({ "rope_type": "llama3", "factor": 8, "low_freq_factor": 1, "high_freq_factor": 4 });
        let table = [
            (
                "Qwen2ForCausalLM",
                json!({ "rope_scaling": yarn }),
                Some("`rope_scaling.rope_type` of config.json is \"yarn\""),
            ),
            ("Qwen3ForCausalLM", json!({ "rope_scaling": yarn }), Some("rope_type")),
            (
                "Qwen2ForCausalLM",
                json!({ "use_sliding_window": true, "sliding_window": 8 }),
                Some("use_sliding_window"),
            ),
            ("Qwen2ForCausalLM", json!({ "sliding_window": 8 }), None),
            ("MixtralForCausalLM", json!({ "rope_scaling": yarn }), Some("--engine upstream")),
            ("MixtralForCausalLM", json!({ "sliding_window": 8 }), None),
            ("LlamaForCausalLM", json!({ "head_dim": 16 }), Some("`head_dim`")),
            ("LlamaForCausalLM", json!({ "mlp_bias": true }), Some("`mlp_bias`")),
            ("LlamaForCausalLM", json!({ "rope_scaling": llama3 }), None),
            ("GemmaForCausalLM", json!({ "attention_bias": true }), None),
            (
                "GemmaForCausalLM",
                json!({ "rope_theta": null, "rope_parameters": { "rope_theta": 1e6 } }),
                Some("spelling"),
            ),
            ("Starcoder2ForCausalLM", json!({ "partial_rotary_factor": 0.5 }), Some("`partial_rotary_factor`")),
            (
                "Gemma2ForCausalLM",
                json!({ "model_type": "gemma2", "sliding_window": 8, "layer_types": ["full_attention", "sliding_attention"] }),
                Some("`layer_types`"),
            ),
            ("SomethingElse", json!({ "rope_scaling": yarn }), None),
        ];
        for (class, fields, expected) in table {
            let mut json = TinyModel::default().config();
            json["architectures"] = json!([class]);
            json.as_object_mut().unwrap().shift_remove("model_type");
            json.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let config = ModelConfig::from_json("config.json".as_ref(), &json, &Value::Null).unwrap();
            match (check(&config), expected) {
                (Ok(()), None) => {}
                (Err(reason), Some(expected)) => assert!(reason.contains(expected), "{reason}"),
                (found, _) => panic!("{class} with {fields}: {found:?}"),
            }
        }
    }
}
