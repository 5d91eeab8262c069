//! The shape of a Llama, read and written as Hugging Face's `config.json`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// One token id or several: `eos_token_id` comes in both forms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    /// The usual form.
    One(u32),
    /// Several tokens end a text.
    Many(Vec<u32>),
}

/// `config.json` of a Llama, a Mistral, a Qwen 2, whose queries, keys and values have biases, or a Qwen 3, whose queries and keys have
/// norms of their heads. Fields that the network does not depend on are ignored when read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    /// The architectures that were read; new models have `["LlamaForCausalLM"]`.
    #[serde(default = "architectures")]
    pub architectures: Vec<String>,
    /// `llama`, `mistral`, `qwen2` or `qwen3`.
    #[serde(default = "model_type")]
    pub model_type: String,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Number of query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// Elements of a head, where they are not `hidden_size / num_attention_heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_dim: Option<usize>,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence in tokens. mistral.rs wants a multiple of 512.
    pub max_position_embeddings: usize,
    /// Added to the mean square in every RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How rotary frequencies are stretched: `llama3` and `linear` are implemented.
    #[serde(default)]
    pub rope_scaling: Option<serde_json::Value>,
    /// Whether the head is the embedding transposed.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Biases in attention are not implemented: `true` is refused.
    #[serde(default)]
    pub attention_bias: bool,
    /// Biases in the feed-forward layer are not implemented: `true` is refused.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Keys that a query sees, where a Mistral says so, or a Qwen that uses it; shorter than the context is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    /// Whether a Qwen's window counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_sliding_window: Option<bool>,
    /// Layers of a Qwen that have no window; kept for other readers of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_window_layers: Option<usize>,
    /// The activation, always `silu`.
    #[serde(default = "silu")]
    pub hidden_act: String,
    /// First token of a text, if the tokenizer adds one.
    #[serde(default)]
    pub bos_token_id: Option<u32>,
    /// Tokens that end a text.
    #[serde(default)]
    pub eos_token_id: Option<TokenIds>,
    /// Fills short rows where a batch needs it.
    #[serde(default)]
    pub pad_token_id: Option<u32>,
    /// Element type of the weights file.
    #[serde(default = "float32")]
    pub torch_dtype: String,
    /// Always true when written: the server keeps keys and values.
    #[serde(default = "yes")]
    pub use_cache: bool,
}

fn architectures() -> Vec<String> {
    vec!["LlamaForCausalLM".into()]
}

fn model_type() -> String {
    "llama".into()
}

fn silu() -> String {
    "silu".into()
}

fn float32() -> String {
    "float32".into()
}

fn yes() -> bool {
    true
}

impl LlamaConfig {
    /// A tied model of `vocab_size` tokens and of the embedded model's shape: 4 layers, width 192, 3 heads over 1.
    #[must_use]
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            architectures: architectures(),
            model_type: model_type(),
            hidden_size: 192,
            intermediate_size: 512,
            num_hidden_layers: 4,
            num_attention_heads: 3,
            num_key_value_heads: 1,
            head_dim: None,
            vocab_size,
            max_position_embeddings: 1024,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: None,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            sliding_window: None,
            use_sliding_window: None,
            max_window_layers: None,
            hidden_act: silu(),
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
            torch_dtype: float32(),
            use_cache: true,
        }
    }

    /// Elements of one head.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads)
    }

    /// Elements of all query heads of a row, and of all key heads.
    #[must_use]
    pub fn widths(&self) -> (usize, usize) {
        (self.num_attention_heads * self.head_dim(), self.num_key_value_heads * self.head_dim())
    }

    /// Whether queries, keys and values have biases.
    #[must_use]
    pub fn has_biases(&self) -> bool {
        self.model_type == "qwen2"
    }

    /// Whether the heads of queries and keys have norms.
    #[must_use]
    pub fn has_head_norms(&self) -> bool {
        self.model_type == "qwen3"
    }

    /// The rotary frequency of each pair of elements of a head, `(head_dim / 2,)`, stretched where the configuration says so.
    ///
    /// # Errors
    /// When it asks for a kind of scaling that is not implemented.
    pub fn frequencies(&self) -> Result<Vec<f32>> {
        let dim = self.head_dim();
        let base = |i: usize| 1.0 / self.rope_theta.powf((2 * i) as f64 / dim as f64) as f32;
        let plain = (0..dim / 2).map(base);
        let Some(scaling) = &self.rope_scaling else { return Ok(plain.collect()) };
        let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
        let number = |name: &str| {
            scaling[name]
                .as_f64()
                .with_context(|| format!("`rope_scaling.{name}` must be a number, got {}", scaling[name]))
        };
        Ok(match kind {
            "default" => plain.collect(),
            "linear" => {
                let factor = number("factor")?;
                plain.map(|f| (f64::from(f) / factor) as f32).collect()
            }
            // Low frequencies are divided by the factor, high ones kept, those between are blended.
            "llama3" => {
                let (factor, original) = (number("factor")?, number("original_max_position_embeddings")?);
                let (low, high) = (number("low_freq_factor")?, number("high_freq_factor")?);
                let stretch = |f: f32| {
                    let f = f64::from(f);
                    let turns = original * f / std::f64::consts::TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    ((1.0 - keep) * f / factor + keep * f) as f32
                };
                plain.map(stretch).collect()
            }
            other => anyhow::bail!("`rope_scaling` of type {other} is not implemented"),
        })
    }

    /// Reads and checks `config.json` in `directory`.
    ///
    /// # Errors
    /// When the file is missing, is not such a configuration, or asks for something that is not implemented.
    pub fn load(directory: &Path) -> Result<Self> {
        let path = directory.join("config.json");
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not valid JSON", path.display()))?;
        lift_rope(&mut value);
        let config: Self =
            serde_json::from_value(value).with_context(|| format!("{} is not a Llama's", path.display()))?;
        config.check().with_context(|| format!("{} cannot be trained", path.display()))?;
        Ok(config)
    }

    /// Checks that sizes fit together and that the network is the one that is implemented.
    ///
    /// # Errors
    /// Names the first field that does not fit.
    pub fn check(&self) -> Result<()> {
        let (heads, kv_heads) = (self.num_attention_heads, self.num_key_value_heads);
        ensure!(
            ["llama", "mistral", "qwen2", "qwen3"].contains(&self.model_type.as_str()),
            "`model_type` must be llama, mistral, qwen2 or qwen3, got {}",
            self.model_type
        );
        let asked = self.use_sliding_window.unwrap_or(!self.model_type.starts_with("qwen"));
        let window = self.sliding_window.filter(|_| asked).unwrap_or(usize::MAX);
        ensure!(
            window >= self.max_position_embeddings,
            "`sliding_window` of {window} is not implemented: lower `max_position_embeddings` to it"
        );
        ensure!(self.hidden_act == "silu", "`hidden_act` must be silu, got {}", self.hidden_act);
        self.frequencies()?;
        ensure!(!self.attention_bias && !self.mlp_bias, "`attention_bias` and `mlp_bias` are not implemented");
        ensure!(self.hidden_size > 0 && self.intermediate_size > 0, "sizes must be at least 1");
        ensure!(self.num_hidden_layers > 0, "`num_hidden_layers` must be at least 1");
        ensure!(self.vocab_size > 0 && self.max_position_embeddings > 0, "sizes must be at least 1");
        ensure!(
            heads > 0 && (self.head_dim.is_some() || self.hidden_size.is_multiple_of(2 * heads)),
            "{heads} heads do not divide {}",
            self.hidden_size
        );
        ensure!(
            self.head_dim() > 0 && self.head_dim().is_multiple_of(2),
            "`head_dim` must be even, got {}",
            self.head_dim()
        );
        ensure!(
            kv_heads > 0 && heads.is_multiple_of(kv_heads),
            "{kv_heads} key heads do not divide {heads} query heads"
        );
        Ok(())
    }
}

/// Newer files nest the rotary settings: `rope_parameters` holds the base and the scaling.
fn lift_rope(config: &mut serde_json::Value) {
    let nested = config["rope_parameters"].clone();
    let Some(fields) = config.as_object_mut().filter(|_| nested.is_object()) else { return };
    fields.entry("rope_theta").or_insert(nested["rope_theta"].clone());
    if nested["rope_type"].as_str().is_some_and(|kind| kind != "default") {
        fields.entry("rope_scaling").or_insert(nested);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut config = LlamaConfig::tiny(300);
        config.eos_token_id = Some(TokenIds::Many(vec![1, 2]));
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains("\"tie_word_embeddings\":true") && text.contains("\"eos_token_id\":[1,2]"));
        assert_eq!(serde_json::from_str::<LlamaConfig>(&text).unwrap(), config);
    }

    #[test]
    fn frequencies_are_stretched_as_llama_3_says() {
        let mut config = LlamaConfig { rope_theta: 500_000.0, ..LlamaConfig::tiny(300) };
        let plain = config.frequencies().unwrap();
        config.rope_scaling = Some(serde_json::json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }));
        let stretched = config.frequencies().unwrap();
        assert_eq!((plain[0], stretched[0]), (1.0, 1.0));
        let last = plain.len() - 1;
        assert!((stretched[last] * 8.0 / plain[last] - 1.0).abs() < 1e-6);
        // A wavelength of 8192 / 2 is blended with weight 1/3 of the high end.
        let between =
            (0..plain.len()).find(|&i| stretched[i] != plain[i] && stretched[i] * 8.0 > plain[i] * 1.01).unwrap();
        let turns = 8192.0 * f64::from(plain[between]) / std::f64::consts::TAU;
        let keep = (turns - 1.0) / 3.0;
        let expected = f64::from(plain[between]) * (keep + (1.0 - keep) / 8.0);
        assert!((f64::from(stretched[between]) / expected - 1.0).abs() < 1e-5);
        let mut nested =
            serde_json::json!({ "rope_parameters": { "rope_type": "linear", "factor": 2.0, "rope_theta": 5.0 } });
        lift_rope(&mut nested);
        assert_eq!((&nested["rope_theta"], &nested["rope_scaling"]["factor"]), (&5.0.into(), &2.0.into()));
    }

    #[test]
    fn what_is_not_implemented_is_refused() {
        type Change = fn(&mut LlamaConfig);
        let cases: [(Change, &str); 10] = [
            (|c| c.rope_scaling = Some(serde_json::json!({"rope_type": "yarn"})), "type yarn"),
            (|c| c.rope_scaling = Some(serde_json::json!({"rope_type": "llama3"})), "`rope_scaling.factor`"),
            (|c| c.sliding_window = Some(100), "sliding_window"),
            (|c| c.attention_bias = true, "`attention_bias`"),
            (|c| c.model_type = "gemma".into(), "llama, mistral, qwen2 or qwen3, got gemma"),
            (|c| c.head_dim = Some(7), "`head_dim`"),
            (
                |c| (c.model_type, c.sliding_window, c.use_sliding_window) = ("qwen2".into(), Some(100), Some(true)),
                "sliding_window",
            ),
            (|c| c.num_key_value_heads = 2, "2 key heads"),
            (|c| c.num_attention_heads = 5, "5 heads"),
            (|c| c.hidden_act = "gelu".into(), "hidden_act"),
        ];
        for (change, expected) in cases {
            let mut config = LlamaConfig::tiny(300);
            change(&mut config);
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert!(LlamaConfig::tiny(300).check().is_ok());
        let unused = Some(100);
        let qwen = LlamaConfig { model_type: "qwen2".into(), sliding_window: unused, ..LlamaConfig::tiny(300) };
        assert!(qwen.check().is_ok());
    }
}
