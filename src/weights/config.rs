//! `config.json` and `generation_config.json`, read into checked numbers.

use std::path::Path;

use serde_json::Value;

use super::adapter::Linears;
use super::{ModelError, files, gguf};

/// The model families whose tensors we know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, and models that are one of these.
    Llama,
    /// Llama with a sliding window.
    Mistral,
    /// Llama with biases on queries, keys and values.
    Qwen2,
    /// Llama with norms on queries and keys.
    Qwen3,
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

/// What both engines need to know of a model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// The model's family.
    pub architecture: Architecture,
    /// Entries of the vocabulary: rows of the embedding.
    pub vocabulary: usize,
    /// Tokens of prompt and reply together.
    pub context: usize,
    /// The beginning-of-sequence token, where the model has one.
    pub bos: Option<u32>,
    /// Tokens that end a reply, from both files.
    pub eos: Vec<u32>,
    /// The dtype that the weights were saved in, as the file writes it.
    pub dtype: Option<String>,
    /// The shape, for a family that we know.
    pub dense: Option<DenseConfig>,
}

/// The shape of a dense decoder of the Llama family.
#[derive(Clone, Debug, PartialEq)]
pub struct DenseConfig {
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Key and value heads; a divisor of `heads`.
    pub kv_heads: usize,
    /// Size of a head, even.
    pub head_dim: usize,
    /// Added to the mean square in every norm.
    pub norm_eps: f32,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the rotary frequencies are stretched.
    pub rope_scaling: RopeScaling,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Biases on queries, keys and values.
    pub qkv_bias: bool,
    /// A bias on the attention's output.
    pub output_bias: bool,
    /// Biases in the feed-forward layer.
    pub mlp_bias: bool,
    /// Norms on queries and keys.
    pub qk_norm: bool,
    /// Keys that a query sees, where not all.
    pub sliding_window: Option<usize>,
}

/// How rotary frequencies are stretched beyond the length of pre-training.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// The frequencies are not stretched.
    None,
    /// All divided by the factor.
    Linear(f64),
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a blend between.
    Llama3 {
        /// Divides low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low` are low.
        low: f64,
        /// Wavelengths below `original_context / high` are high.
        high: f64,
        /// Context of pre-training.
        original_context: f64,
    },
    /// The frequency of each pair divided by a factor of its own.
    Factors(Vec<f32>),
    /// A kind that we do not know, by its name.
    Other(String),
}

impl ModelConfig {
    /// Reads a directory's `config.json` and, if there is one, `generation_config.json`; or the metadata of a GGUF file.
    ///
    /// # Errors
    /// Names the file and the field.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        if gguf::is_named(dir) {
            return gguf::Gguf::open(dir)?.config();
        }
        let path = dir.join("config.json");
        if !path.is_file() {
            let remedy = "a model directory in Hugging Face layout holds it".into();
            return Err(ModelError::Missing { file: path, remedy });
        }
        let root = read_json(&path)?;
        let generation = match dir.join("generation_config.json") {
            path if path.is_file() => read_json(&path)?,
            _ => Value::Null,
        };
        Self::from_json(&path, &root, &generation)
    }

    /// Reads the contents of `config.json` and `generation_config.json`. Errors name `path` for the first of them, and the
    /// second beside it.
    ///
    /// # Errors
    /// Names the file and the field.
    pub(super) fn from_json(path: &Path, root: &Value, generation: &Value) -> Result<Self, ModelError> {
        let fields = Fields { path, value: root };
        let class = root["architectures"][0].as_str().or(root["model_type"].as_str());
        let class = class.ok_or_else(|| fields.wrong("architectures", "is missing"))?;
        let architecture = match class {
            "LlamaForCausalLM" | "llama" => Architecture::Llama,
            "MistralForCausalLM" | "mistral" => Architecture::Mistral,
            "Qwen2ForCausalLM" | "qwen2" => Architecture::Qwen2,
            "Qwen3ForCausalLM" | "qwen3" => Architecture::Qwen3,
            other => Architecture::Other(other.into()),
        };
        // Models of text and images keep the numbers of their text part one level deeper.
        let text = Fields { path, value: root.get("text_config").unwrap_or(root) };
        let dense = match architecture {
            Architecture::Other(_) => None,
            _ => Some(DenseConfig::new(&fields, &architecture)?),
        };
        let mut eos = Vec::new();
        for (value, name) in
            [(generation, "generation_config.json"), (root, "config.json"), (text.value, "config.json")]
        {
            for id in ids(&value["eos_token_id"]).ok_or_else(|| ModelError::Broken {
                file: path.with_file_name(name),
                reason: "`eos_token_id` is neither a token id nor a list of them".into(),
            })? {
                if !eos.contains(&id) {
                    eos.push(id);
                }
                if eos.len() > MOST_EOS {
                    let reason = format!("`eos_token_id` lists more than {MOST_EOS} tokens");
                    return Err(ModelError::Broken { file: path.with_file_name(name), reason });
                }
            }
        }
        let dtype = root["torch_dtype"].as_str().or(root["dtype"].as_str()).or(text.value["dtype"].as_str());
        Ok(Self {
            architecture,
            vocabulary: text.count("vocab_size")?,
            context: text.count("max_position_embeddings")?,
            bos: [root, generation].iter().find_map(|v| v["bos_token_id"].as_u64()).and_then(|id| id.try_into().ok()),
            eos,
            dtype: dtype.map(Into::into),
            dense,
        })
    }

    /// Every tensor that the model must have, with its shape; none for a family that we do not know.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.dense.as_ref().map_or_else(Vec::new, |dense| dense.tensors(self.vocabulary))
    }
}

impl DenseConfig {
    /// The linear modules that an adapter may change: those of the layers, and the head where it has weights of its own.
    pub fn linears(&self, vocabulary: usize) -> Linears {
        let tensors = self.tensors(vocabulary).into_iter();
        let linear = |(name, shape): (String, Vec<usize>)| match (name.strip_suffix(".weight"), shape.as_slice()) {
            (Some(module), &[outer, inner]) if module != "model.embed_tokens" => {
                Some((module.to_owned(), [outer, inner]))
            }
            _ => None,
        };
        tensors.filter_map(linear).collect()
    }

    fn new(fields: &Fields<'_>, architecture: &Architecture) -> Result<Self, ModelError> {
        let value = fields.value;
        let (hidden, heads) = (fields.count("hidden_size")?, fields.count("num_attention_heads")?);
        let kv_heads = fields.optional_count("num_key_value_heads")?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            return Err(fields.wrong("num_key_value_heads", &format!("is {kv_heads}, no divisor of {heads} heads")));
        }
        let head_dim = match fields.optional_count("head_dim")? {
            Some(size) => size,
            None if hidden % heads == 0 => hidden / heads,
            None => return Err(fields.wrong("hidden_size", &format!("is {hidden}, no multiple of {heads} heads"))),
        };
        if head_dim % 2 != 0 {
            return Err(fields.wrong("head_dim", &format!("is {head_dim}, rotary embeddings need an even size")));
        }
        if let Some(activation) = value["hidden_act"].as_str().filter(|&name| name != "silu") {
            return Err(fields.wrong("hidden_act", &format!("is `{activation}`, this family uses silu")));
        }
        let qwen2 = *architecture == Architecture::Qwen2;
        let bias = value["attention_bias"].as_bool().unwrap_or(false);
        let window = fields.optional_count("sliding_window")?;
        let windowed = match architecture {
            Architecture::Mistral => true,
            Architecture::Qwen2 | Architecture::Qwen3 => value["use_sliding_window"].as_bool().unwrap_or(false),
            _ => false,
        };
        let rope = value.get("rope_parameters").filter(|v| v.is_object()).unwrap_or(&value["rope_scaling"]);
        Ok(Self {
            hidden,
            intermediate: fields.count("intermediate_size")?,
            layers: fields.count("num_hidden_layers")?,
            heads,
            kv_heads,
            head_dim,
            norm_eps: value["rms_norm_eps"].as_f64().unwrap_or(1e-6) as f32,
            rope_theta: value["rope_theta"].as_f64().or(rope["rope_theta"].as_f64()).unwrap_or(10_000.0),
            rope_scaling: RopeScaling::new(rope),
            tied: value["tie_word_embeddings"].as_bool().unwrap_or(false),
            qkv_bias: qwen2 || bias,
            output_bias: bias && !qwen2,
            mlp_bias: value["mlp_bias"].as_bool().unwrap_or(false),
            qk_norm: *architecture == Architecture::Qwen3,
            sliding_window: window.filter(|_| windowed),
        })
    }

    fn tensors(&self, vocabulary: usize) -> Vec<(String, Vec<usize>)> {
        let (h, f) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let named = |name: &str, shape: &[usize]| (name.to_owned(), shape.to_vec());
        let mut tensors = vec![named("model.embed_tokens.weight", &[vocabulary, h]), named("model.norm.weight", &[h])];
        if !self.tied {
            tensors.push(named("lm_head.weight", &[vocabulary, h]));
        }
        for layer in 0..self.layers {
            let mut add =
                |name: &str, shape: &[usize]| tensors.push(named(&format!("model.layers.{layer}.{name}"), shape));
            add("input_layernorm.weight", &[h]);
            add("post_attention_layernorm.weight", &[h]);
            let attention = [("q", [q, h]), ("k", [kv, h]), ("v", [kv, h]), ("o", [h, q])];
            for (name, shape) in attention {
                add(&format!("self_attn.{name}_proj.weight"), &shape);
                if if name == "o" { self.output_bias } else { self.qkv_bias } {
                    add(&format!("self_attn.{name}_proj.bias"), &shape[..1]);
                }
            }
            if self.qk_norm {
                add("self_attn.q_norm.weight", &[self.head_dim]);
                add("self_attn.k_norm.weight", &[self.head_dim]);
            }
            for (name, shape) in [("gate", [f, h]), ("up", [f, h]), ("down", [h, f])] {
                add(&format!("mlp.{name}_proj.weight"), &shape);
                if self.mlp_bias {
                    add(&format!("mlp.{name}_proj.bias"), &shape[..1]);
                }
            }
        }
        tensors
    }
}

impl RopeScaling {
    fn new(value: &Value) -> Self {
        let kind = value["rope_type"].as_str().or(value["type"].as_str()).unwrap_or("default");
        let number = |name: &str| value[name].as_f64();
        let known = match kind {
            "default" => Some(Self::None),
            "linear" => number("factor").map(Self::Linear),
            "llama3" => (|| {
                Some(Self::Llama3 {
                    factor: number("factor")?,
                    low: number("low_freq_factor")?,
                    high: number("high_freq_factor")?,
                    original_context: number("original_max_position_embeddings")?,
                })
            })(),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other(kind.into()))
    }
}

/// No number of a configuration is larger. Products of two fit into 64 bits.
const MOST: u64 = 1 << 30;
/// Tokens that end a reply, at most.
const MOST_EOS: usize = 256;

/// A JSON object and the file that errors name.
struct Fields<'a> {
    path: &'a Path,
    value: &'a Value,
}

impl Fields<'_> {
    fn wrong(&self, name: &str, reason: &str) -> ModelError {
        ModelError::Broken { file: self.path.into(), reason: format!("`{name}` {reason}") }
    }

    fn count(&self, name: &str) -> Result<usize, ModelError> {
        self.optional_count(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn optional_count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        match &self.value[name] {
            Value::Null => Ok(None),
            value => match value.as_u64() {
                Some(count) if count > MOST => {
                    Err(self.wrong(name, &format!("is {count}, more than the {MOST} that any model has")))
                }
                Some(count) if count > 0 => Ok(Some(count as usize)),
                _ => Err(self.wrong(name, &format!("is {value}, not a positive whole number"))),
            },
        }
    }
}

fn ids(value: &Value) -> Option<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) => list.iter().map(id).collect(),
        single => Some(vec![id(single)?]),
    }
}

/// Reads a JSON file.
///
/// # Errors
/// Names the file and the place.
pub(crate) fn read_json(path: &Path) -> Result<Value, ModelError> {
    let broken = |reason: String| ModelError::Broken { file: path.into(), reason };
    let bytes = files::read(path, files::SMALL).map_err(|e| broken(e.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|e| broken(format!("not valid JSON: {e}")))
}

#[cfg(test)]
mod tests {
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

    #[test]
    fn families_differ_as_they_should() {
        let dense = |change: &dyn Fn(&mut Value)| open(change, None).unwrap().dense.unwrap();
        let mistral = dense(&|c| {
            c["architectures"][0] = json!("MistralForCausalLM");
            c["sliding_window"] = json!(64);
        });
        assert_eq!(mistral.sliding_window, Some(64));
        let qwen2 = dense(&|c| {
            c["architectures"][0] = json!("Qwen2ForCausalLM");
            c["sliding_window"] = json!(64);
        });
        assert_eq!((qwen2.sliding_window, qwen2.qkv_bias, qwen2.output_bias), (None, true, false));
        assert!(dense(&|c| c["architectures"][0] = json!("Qwen3ForCausalLM")).qk_norm);
        let scaling = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192 });
        let expected = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original_context: 8192.0 };
        assert_eq!(dense(&|c| c["rope_scaling"] = scaling.clone()).rope_scaling, expected);
        let yarn = dense(&|c| c["rope_scaling"] = json!({ "type": "yarn" }));
        assert_eq!(yarn.rope_scaling, RopeScaling::Other("yarn".into()));
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
        let table: [Case<'_>; 9] = [
            (&|c| c["hidden_size"] = json!("big"), "`hidden_size` is \"big\""),
            (&|c| c["num_key_value_heads"] = json!(3), "`num_key_value_heads` is 3"),
            (&|c| c["head_dim"] = json!(7), "`head_dim` is 7"),
            (&|c| c["hidden_act"] = json!("gelu"), "`hidden_act` is `gelu`"),
            (&|c| c["vocab_size"] = Value::Null, "`vocab_size` is missing"),
            (
                &|c| c["num_attention_heads"] = json!(u64::MAX),
                "`num_attention_heads` is 18446744073709551615, more than",
            ),
            (
                &|c| c["max_position_embeddings"] = json!(1u64 << 40),
                "`max_position_embeddings` is 1099511627776, more than",
            ),
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
}
