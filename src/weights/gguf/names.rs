//! What GGUF and Hugging Face call the same tensors.

/// Whether a tensor is no matrix of the model: it only says how positions turn.
pub(super) fn is_computed_otherwise(name: &str) -> bool {
    name == ROPE_FACTORS
}

/// Divisors of the rotary frequencies.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The name of a tensor in a checkpoint of Hugging Face, if it is one of the families that are computed.
pub(super) fn hugging_face(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let whole = match module {
        "token_embd" => "model.embed_tokens",
        "output_norm" => "model.norm",
        "output" => "lm_head",
        _ => "",
    };
    if !whole.is_empty() {
        return Some(format!("{whole}.{kind}"));
    }
    let (layer, module) = module.strip_prefix("blk.")?.split_once('.')?;
    // `blk.01` would be another name of layer 1.
    let layer = layer.parse::<u32>().ok().filter(|number| number.to_string() == layer)?;
    let module = match module {
        "attn_norm" => "input_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{layer}.{module}.{kind}"))
}

/// The heads whose rows a file holds as pairs that turn together, one after another, where a Hugging Face checkpoint holds the
/// first of all pairs and then the second ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heads {
    /// Heads that are not reordered.
    InOrder,
    /// Queries and keys; the number is the rows of a head.
    Interleaved(usize),
}

impl Heads {
    /// Rows of a head of a tensor, by its Hugging Face name, where they are interleaved.
    pub(super) fn rows(self, name: &str) -> Option<usize> {
        let turned = name.contains(".self_attn.q_proj.") || name.contains(".self_attn.k_proj.");
        match self {
            Self::Interleaved(rows) if turned => Some(rows),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_have_the_names_of_checkpoints() {
        let table = [
            ("token_embd.weight", Some("model.embed_tokens.weight")),
            ("output.weight", Some("lm_head.weight")),
            ("blk.12.attn_q.bias", Some("model.layers.12.self_attn.q_proj.bias")),
            ("blk.0.ffn_down.weight", Some("model.layers.0.mlp.down_proj.weight")),
            ("blk.00.ffn_down.weight", None),
            ("blk.0.ffn_gate_exps.weight", None),
            ("blk.0.attn_q.scale", None),
            ("rope_freqs.weight", None),
            ("", None),
        ];
        for (name, expected) in table {
            assert_eq!(hugging_face(name).as_deref(), expected, "{name}");
        }
    }
}
