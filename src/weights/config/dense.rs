//! The shape of a dense decoder of the Llama family and of its relatives: read from `config.json`, checked, and what follows from it.

use super::super::ModelError;
use super::super::adapter::Linears;
use super::fields::Fields;
use super::layers::{self, Layers};
use super::rope::{Ropes, Surroundings};
use super::{Architecture, Rope, refused};

/// Layers of a model, at most. What is read for each layer takes memory before the tensors are counted.
const MOST_LAYERS: usize = 1 << 12;

/// The shape of a dense decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseConfig {
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Tokens of a sequence at most.
    pub context: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Size of a head, even.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// How positions rotate queries and keys.
    pub rope: Rope,
    /// Rotary positions of layers with a window, where they have their own.
    pub local_rope: Option<Rope>,
    /// Layers without rotary positions.
    pub unrotated: Vec<usize>,
    /// Keys that a query sees in a layer with a window, the query's own included.
    pub sliding_window: Option<usize>,
    /// Layers that see all keys although there is a window.
    pub full_layers: Vec<usize>,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Biases on queries, keys and values.
    pub qkv_bias: bool,
    /// A bias on the attention's output.
    pub output_bias: bool,
    /// Biases in the feed-forward layer.
    pub mlp_bias: bool,
    /// Norms on queries and keys.
    pub qk_norm: QkNorm,
    /// The places of a layer's norms.
    pub norms: Norms,
    /// Whether norms multiply by one more than their weights.
    pub norm_plus_one: bool,
    /// What gates pass through.
    pub activation: Activation,
    /// Whether the checkpoint holds queries, keys and values as one matrix, and gates and ups as another.
    pub fused: bool,
    /// The family's factors.
    pub scales: Scales,
    /// Attention scores are `cap · tanh(score / cap)`.
    pub score_cap: Option<f32>,
    /// Logits are `cap · tanh(logit / cap)`.
    pub logit_cap: Option<f32>,
}

/// Norms on queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// There are none.
    None,
    /// There is one for each head, all with the same weights.
    Heads,
    /// There is one norm for all query heads together, and one for all key heads.
    Whole,
}

/// The places at which a layer has norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Norms {
    /// They are before attention and before the feed-forward layer.
    Before,
    /// They are after both, before the results are added to the residual stream.
    After,
    /// They are before and after both.
    Both,
}

/// What gates pass through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// The activation is `x · σ(x)`.
    Silu,
    /// The activation is GELU in the approximation with `tanh`.
    GeluTanh,
}

/// Factors that a family multiplies with at four places; 1 changes nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scales {
    /// The factor of embeddings.
    pub embedding: f32,
    /// The factor of attention scores; `1 / √head_dim` where it is absent.
    pub attention: Option<f32>,
    /// The factor of what attention and the feed-forward layer add to the residual stream.
    pub residual: f32,
    /// The factor of logits.
    pub logits: f32,
}

impl Default for DenseConfig {
    /// A tied Llama of the embedded model's shape: 4 layers, width 192, 3 query heads over 1 key head, 1,024 positions.
    fn default() -> Self {
        Self {
            vocabulary: 1024,
            context: 1024,
            hidden: 192,
            intermediate: 512,
            layers: 4,
            heads: 3,
            kv_heads: 1,
            head_dim: 64,
            norm_eps: 1e-5,
            rope: Rope::plain(10_000.0, 64),
            local_rope: None,
            unrotated: Vec::new(),
            sliding_window: None,
            full_layers: Vec::new(),
            tied: true,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: QkNorm::None,
            norms: Norms::Before,
            norm_plus_one: false,
            activation: Activation::Silu,
            fused: false,
            scales: Scales { embedding: 1.0, attention: None, residual: 1.0, logits: 1.0 },
            score_cap: None,
            logit_cap: None,
        }
    }
}

/// A linear module of a layer by its name there, and its rows.
pub type Part = (&'static str, usize);

impl DenseConfig {
    /// Reads a family that we know.
    pub(super) fn read(fields: Fields<'_>, architecture: &Architecture) -> Result<Self, ModelError> {
        let defaults = architecture.defaults();
        refused::check(fields, architecture)?;
        let (hidden, heads) = (fields.count("hidden_size")?, fields.count("num_attention_heads")?);
        // A file that says null leaves the number to the class, which takes as many as query heads.
        let kv_heads = match fields.has("num_key_value_heads") {
            true => fields.optional_count("num_key_value_heads")?,
            false => defaults.kv_heads,
        };
        let kv_heads = kv_heads.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(fields.wrong("num_key_value_heads", &format!("is {kv_heads}, no divisor of {heads} heads")));
        }
        let head_dim = match fields.optional_count("head_dim")?.or(defaults.head_dim) {
            Some(size) => size,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(fields.wrong("hidden_size", &format!("is {hidden}, no multiple of {heads} heads"))),
        };
        if head_dim % 2 != 0 {
            return Err(fields.wrong("head_dim", &format!("is {head_dim}, rotary embeddings need an even size")));
        }
        let layers = fields.count("num_hidden_layers")?;
        if layers > MOST_LAYERS {
            let reason = format!("is {layers}, more than the {MOST_LAYERS} that any model has");
            return Err(fields.wrong("num_hidden_layers", &reason));
        }
        let context = fields.optional_count("max_position_embeddings")?.unwrap_or(defaults.context);
        let Ropes { rope, local, context } = Surroundings { fields, architecture, head_dim, context }.read()?;
        let Layers { window, full, unrotated } = layers::read(fields, architecture, layers)?;
        // A window that no sequence outgrows is none.
        let window = window.filter(|&window| window < context);
        let gemma = matches!(architecture, Architecture::Gemma2 | Architecture::Gemma3);
        let granite = *architecture == Architecture::Granite;
        let number = |name: &str| Ok::<_, ModelError>(fields.positive(name)?.map(|number| number as f32));
        let scales = Scales {
            embedding: match gemma {
                true => (hidden as f32).sqrt(),
                false => number("embedding_multiplier")?.unwrap_or(1.0),
            },
            attention: match (gemma, granite) {
                (true, _) => Some(number("query_pre_attn_scalar")?.unwrap_or(256.0).sqrt().recip()),
                (_, true) => Some(number("attention_multiplier")?.unwrap_or(1.0)),
                _ => None,
            },
            residual: number("residual_multiplier")?.unwrap_or(1.0),
            logits: number("logits_scaling")?.unwrap_or(1.0).recip(),
        };
        // Gemma 2's class has caps where a file says nothing; a null takes them away.
        let cap = |name: &str, usual: f32| match fields.has(name) {
            true => number(name),
            false => Ok((*architecture == Architecture::Gemma2).then_some(usual)),
        };
        let qwen2 = *architecture == Architecture::Qwen2;
        let bias = fields.switch("attention_bias")?.unwrap_or(false);
        Ok(Self {
            vocabulary: fields.count("vocab_size")?,
            context,
            hidden,
            intermediate: fields.count("intermediate_size")?,
            layers,
            heads,
            kv_heads,
            head_dim,
            norm_eps: fields.positive("rms_norm_eps")?.unwrap_or(defaults.norm_eps) as f32,
            rope,
            local_rope: local,
            unrotated,
            sliding_window: window,
            full_layers: full,
            tied: fields.switch("tie_word_embeddings")?.unwrap_or(defaults.tied),
            qkv_bias: qwen2 || bias,
            output_bias: bias && !qwen2,
            mlp_bias: fields.switch("mlp_bias")?.unwrap_or(false),
            qk_norm: match architecture {
                Architecture::Qwen3 | Architecture::Gemma3 => QkNorm::Heads,
                Architecture::Olmo2 => QkNorm::Whole,
                _ => QkNorm::None,
            },
            norms: match architecture {
                Architecture::Olmo2 => Norms::After,
                _ if gemma => Norms::Both,
                _ => Norms::Before,
            },
            norm_plus_one: gemma,
            activation: activation(fields, gemma)?,
            fused: *architecture == Architecture::Phi3,
            scales,
            score_cap: cap("attn_logit_softcapping", 50.0)?,
            logit_cap: cap("final_logit_softcapping", 30.0)?,
        })
    }

    /// Elements of all query heads of a row, and of all key heads.
    pub fn widths(&self) -> (usize, usize) {
        (self.heads * self.head_dim, self.kv_heads * self.head_dim)
    }

    /// Keys that a query sees in a layer, where not all.
    pub fn window(&self, layer: usize) -> Option<usize> {
        self.sliding_window.filter(|_| !self.full_layers.contains(&layer))
    }

    /// The rotary positions of a layer, where it has any.
    pub fn layer_rope(&self, layer: usize) -> Option<&Rope> {
        let local = self.local_rope.as_ref().filter(|_| !self.full_layers.contains(&layer));
        (!self.unrotated.contains(&layer)).then(|| local.unwrap_or(&self.rope))
    }

    /// What multiplies attention scores.
    pub fn score_scale(&self) -> f32 {
        self.scales.attention.unwrap_or_else(|| (self.head_dim as f32).sqrt().recip())
    }

    /// What a norm multiplies by, from its weights in the checkpoint.
    pub fn norm_weights(&self, mut stored: Vec<f32>) -> Vec<f32> {
        if self.norm_plus_one {
            stored.iter_mut().for_each(|weight| *weight += 1.0);
        }
        stored
    }

    /// The matrices that make queries, keys and values, in order.
    pub fn qkv(&self) -> Vec<Part> {
        let (q, kv) = self.widths();
        match self.fused {
            true => vec![("self_attn.qkv_proj", q + 2 * kv)],
            false => vec![("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)],
        }
    }

    /// The matrices that make gates and what they let through, in order.
    pub fn gate_up(&self) -> Vec<Part> {
        let f = self.intermediate;
        match self.fused {
            true => vec![("mlp.gate_up_proj", 2 * f)],
            false => vec![("mlp.gate_proj", f), ("mlp.up_proj", f)],
        }
    }

    /// The names of a layer's norms of the residual stream and of what is added to it: before and after attention, and before and
    /// after the feed-forward layer.
    pub fn norm_names(&self) -> [Option<&'static str>; 4] {
        let (first, second) = (Some("input_layernorm"), Some("post_attention_layernorm"));
        let last = Some("post_feedforward_layernorm");
        match self.norms {
            Norms::Before => [first, None, second, None],
            Norms::After => [None, second, None, last],
            Norms::Both => [first, second, Some("pre_feedforward_layernorm"), last],
        }
    }

    /// Every tensor that the checkpoint must have, with its shape.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, f) = (self.hidden, self.intermediate);
        let (q, kv) = self.widths();
        let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let matrix = [self.vocabulary, h];
        let mut tensors = vec![named("model.embed_tokens.weight", &matrix), named("model.norm.weight", &[h])];
        if !self.tied {
            tensors.push(named("lm_head.weight", &matrix));
        }
        for layer in 0..self.layers {
            let mut add =
                |name: &str, shape: &[usize]| tensors.push(named(&format!("model.layers.{layer}.{name}"), shape));
            for norm in self.norm_names().into_iter().flatten() {
                add(&format!("{norm}.weight"), &[h]);
            }
            let mut linear = |name: &str, shape: [usize; 2], biased: bool| {
                add(&format!("{name}.weight"), &shape);
                if biased {
                    add(&format!("{name}.bias"), &shape[..1]);
                }
            };
            self.qkv().into_iter().for_each(|(name, rows)| linear(name, [rows, h], self.qkv_bias));
            linear("self_attn.o_proj", [h, q], self.output_bias);
            self.gate_up().into_iter().for_each(|(name, rows)| linear(name, [rows, h], self.mlp_bias));
            linear("mlp.down_proj", [h, f], self.mlp_bias);
            let norms = match self.qk_norm {
                QkNorm::None => None,
                QkNorm::Heads => Some([self.head_dim; 2]),
                QkNorm::Whole => Some([q, kv]),
            };
            for (name, size) in ["q_norm", "k_norm"].into_iter().zip(norms.into_iter().flatten()) {
                add(&format!("self_attn.{name}.weight"), &[size]);
            }
        }
        tensors
    }

    /// The linear modules that an adapter may change: the modules of the layers, and the head where it has weights of its own.
    pub fn linears(&self) -> Linears {
        let linear = |(name, shape): (String, Vec<usize>)| match (name.strip_suffix(".weight"), shape.as_slice()) {
            (Some(module), &[outer, inner]) if module != "model.embed_tokens" => {
                Some((module.to_owned(), [outer, inner]))
            }
            _ => None,
        };
        self.tensors().into_iter().filter_map(linear).collect()
    }
}

fn activation(fields: Fields<'_>, gemma: bool) -> Result<Activation, ModelError> {
    let (name, usual) = if gemma { ("hidden_activation", "gelu_pytorch_tanh") } else { ("hidden_act", "silu") };
    match fields.text(name)?.unwrap_or(usual) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu_pytorch_tanh" | "gelu_new" => Ok(Activation::GeluTanh),
        other => {
            let reason = format!("is `{other}`, which is not computed; silu and gelu_pytorch_tanh are");
            Err(fields.wrong(name, &reason))
        }
    }
}
