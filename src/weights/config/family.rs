//! The model families, and what the configuration class of each says in `transformers` where a file says nothing.

/// The model families whose tensors we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, and models that are one of these.
    Llama,
    /// Llama with a sliding window.
    Mistral,
    /// Llama with biases on queries, keys and values.
    Qwen2,
    /// Llama with norms on the heads of queries and keys.
    Qwen3,
    /// Llama some of whose layers have no rotary positions.
    SmolLm3,
    /// Llama whose projections are stored fused.
    Phi3,
    /// Llama with four scales.
    Granite,
    /// Norms after attention and feed-forward rather than before them.
    Olmo2,
    /// Norms before and after attention and feed-forward, capped scores and logits.
    Gemma2,
    /// Gemma 2 without caps, with norms on heads and a rotary base of its own in layers with a window.
    Gemma3,
    /// Any other, by its class name.
    Other(String),
}

impl std::fmt::Display for Architecture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Other(class) => f.write_str(class),
            known => write!(f, "{known:?}"),
        }
    }
}

/// Classes and model types by family.
const KNOWN: [(Architecture, &str, &str); 10] = [
    (Architecture::Llama, "LlamaForCausalLM", "llama"),
    (Architecture::Mistral, "MistralForCausalLM", "mistral"),
    (Architecture::Qwen2, "Qwen2ForCausalLM", "qwen2"),
    (Architecture::Qwen3, "Qwen3ForCausalLM", "qwen3"),
    (Architecture::SmolLm3, "SmolLM3ForCausalLM", "smollm3"),
    (Architecture::Phi3, "Phi3ForCausalLM", "phi3"),
    (Architecture::Granite, "GraniteForCausalLM", "granite"),
    (Architecture::Olmo2, "Olmo2ForCausalLM", "olmo2"),
    (Architecture::Gemma2, "Gemma2ForCausalLM", "gemma2"),
    (Architecture::Gemma3, "Gemma3ForCausalLM", "gemma3_text"),
];

/// What a configuration class says where the file says nothing.
pub(super) struct Defaults {
    pub(super) context: usize,
    /// Where this is absent, there are as many as query heads.
    pub(super) kv_heads: Option<usize>,
    /// Where this is absent, it is the width divided by the number of heads.
    pub(super) head_dim: Option<usize>,
    pub(super) norm_eps: f64,
    pub(super) rope_theta: f64,
    pub(super) tied: bool,
    pub(super) window: Option<usize>,
}

impl Architecture {
    /// The family of a class such as `LlamaForCausalLM` or a model type such as `llama`.
    pub(super) fn named(name: &str) -> Self {
        let known = KNOWN.into_iter().find(|(_, class, model_type)| [*class, *model_type].contains(&name));
        known.map_or_else(|| Self::Other(name.into()), |(family, ..)| family)
    }

    /// The model type of a family that we know.
    pub(super) fn model_type(&self) -> Option<&'static str> {
        KNOWN.iter().find(|(family, ..)| family == self).map(|(_, _, model_type)| *model_type)
    }

    pub(super) fn defaults(&self) -> Defaults {
        let llama = Defaults {
            context: 2048,
            kv_heads: None,
            head_dim: None,
            norm_eps: 1e-6,
            rope_theta: 10_000.0,
            tied: false,
            window: None,
        };
        let qwen = |head_dim| Defaults { context: 32_768, kv_heads: Some(32), head_dim, window: Some(4096), ..llama };
        let gemma = |context, rope_theta| Defaults {
            context,
            kv_heads: Some(4),
            head_dim: Some(256),
            rope_theta,
            tied: true,
            window: Some(4096),
            ..llama
        };
        match self {
            Self::Llama | Self::Granite | Self::Other(_) => llama,
            Self::Mistral => Defaults { context: 131_072, kv_heads: Some(8), window: Some(4096), ..llama },
            Self::Qwen2 => qwen(None),
            Self::Qwen3 => qwen(Some(128)),
            Self::SmolLm3 => {
                Defaults { context: 32_768, kv_heads: Some(4), rope_theta: 2_000_000.0, tied: true, ..llama }
            }
            Self::Phi3 => Defaults { context: 4096, norm_eps: 1e-5, ..llama },
            Self::Olmo2 => Defaults { norm_eps: 1e-5, ..llama },
            Self::Gemma2 => gemma(8192, 10_000.0),
            Self::Gemma3 => gemma(131_072, 1_000_000.0),
        }
    }
}

/// The families that we know, as a sentence lists them.
pub fn known_families() -> String {
    let names: Vec<String> = KNOWN.iter().map(|(family, ..)| family.to_string()).collect();
    let (last, others) = names.split_last().expect("there are families");
    format!("{} and {last}", others.join(", "))
}
