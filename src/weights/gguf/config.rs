//! A GGUF file's metadata as a configuration: written in the words of `config.json`, and read by the reader of these.

use serde_json::{Map, Value as Json, json};

use super::names::{Heads, ROPE_FACTORS};
use super::{Gguf, ModelError};
use crate::weights::{ModelConfig, RopeScaling};

/// Positions that a context may have at most.
const MOST_CONTEXT: usize = 1 << 24;

/// Keys that change what is computed, below the architecture's name, with what they may say.
const NEUTRAL: [(&str, f64); 8] = [
    ("expert_count", 0.0),
    ("logit_scale", 1.0),
    ("residual_scale", 1.0),
    ("embedding_scale", 1.0),
    ("attention.clamp_kqv", 0.0),
    ("attn_logit_softcapping", 0.0),
    ("final_logit_softcapping", 0.0),
    ("rope.scaling.yarn_log_multiplier", 0.0),
];

/// Keys of the sampling that a model's makers recommend, below `general.sampling`, and their names in `generation_config.json`.
const SAMPLING: [(&str, &str); 5] = [
    ("temp", "temperature"),
    ("top_p", "top_p"),
    ("top_k", "top_k"),
    ("min_p", "min_p"),
    ("penalty_repeat", "repetition_penalty"),
];

/// Architectures of GGUF files that mistral.rs reads and the native engine does not.
const FOR_MISTRAL: [&str; 5] = ["phi2", "phi3", "starcoder2", "qwen3moe", "mistral3"];

impl Gguf {
    /// The configuration, with all tokens that end a reply.
    ///
    /// # Errors
    /// Names the key; or the architecture, where it is not one that is computed.
    pub fn config(&self) -> Result<ModelConfig, ModelError> {
        let (root, generation) = self.config_json()?;
        let mut config = ModelConfig::from_json(&self.path, &root, &generation)?;
        let name = self.architecture()?;
        if let (Some(dense), Some(factors)) = (&mut config.dense, self.factors(&name)?)
            && dense.rope.scaling == RopeScaling::None
        {
            let factors = factors.into_iter().map(f64::from).collect();
            dense.rope.scaling = RopeScaling::Factors { factors, attention_factor: 1.0 };
        }
        Ok(config)
    }

    /// `config.json` and `generation_config.json`, as a Hugging Face directory of this model has them.
    ///
    /// # Errors
    /// Fails as [`Gguf::config`] does.
    pub fn config_json(&self) -> Result<(Json, Json), ModelError> {
        let name = self.architecture()?;
        let (class, model_type) = match name.as_str() {
            "llama" if self.window(&name)?.is_some() => ("MistralForCausalLM", "mistral"),
            "llama" => ("LlamaForCausalLM", "llama"),
            "qwen2" => ("Qwen2ForCausalLM", "qwen2"),
            "qwen3" => ("Qwen3ForCausalLM", "qwen3"),
            other => return Err(self.unsupported(other)),
        };
        self.check_neutral(&name)?;
        let key = |suffix: &str| format!("{name}.{suffix}");
        let needed = |suffix: &str| self.positive(&key(suffix))?.ok_or_else(|| self.missing(&key(suffix)));
        let (hidden, layers, context) =
            (needed("embedding_length")?, needed("block_count")?, needed("context_length")?);
        if layers > self.tensors.len() {
            let tensors = self.tensors.len();
            return Err(
                self.wrong(format!("`{}` is {layers}, but there are only {tensors} tensors", key("block_count")))
            );
        }
        if context > MOST_CONTEXT {
            return Err(self.wrong(format!("`{}` is {context}, above {MOST_CONTEXT}", key("context_length"))));
        }
        let (heads, kv_heads, head_dim) = self.heads(&name)?;
        let has = |tensor: &str| self.find(tensor).is_some();
        let vocabulary = match self.find("token_embd.weight") {
            Some((_, tensor)) => tensor.shape[0],
            None => return Err(self.wrong("the tensor `token_embd.weight` is missing")),
        };
        let mut root = json!({
            "architectures": [class], "model_type": model_type, "hidden_act": "silu",
            "hidden_size": hidden, "intermediate_size": needed("feed_forward_length")?, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": head_dim,
            "vocab_size": vocabulary, "max_position_embeddings": context,
            "rms_norm_eps": self.float(&key("attention.layer_norm_rms_epsilon"))?
                .ok_or_else(|| self.missing(&key("attention.layer_norm_rms_epsilon")))?,
            "rope_theta": self.float(&key("rope.freq_base"))?.unwrap_or(10_000.0),
            "tie_word_embeddings": !has("output.weight"),
            "attention_bias": name != "qwen2" && has("blk.0.attn_q.bias"), "mlp_bias": has("blk.0.ffn_gate.bias"),
        });
        let scaling = self.rope_scaling(&name, context)?;
        let factors = self.factors(&name)?;
        if scaling.is_some() && factors.is_some() {
            return Err(
                self.wrong(format!("`{ROPE_FACTORS}` and `{}` both change the positions", key("rope.scaling.type")))
            );
        }
        let theta = root["rope_theta"].as_f64().unwrap_or(10_000.0);
        if let Some(scaling) = scaling.or_else(|| factors.and_then(|factors| llama3(&factors, theta))) {
            root["rope_scaling"] = scaling;
        }
        if let Some(window) = self.window(&name)? {
            root["sliding_window"] = json!(window);
        }
        let mut generation = Map::new();
        let ends = self.end_tokens()?;
        if !ends.is_empty() {
            generation.insert("eos_token_id".into(), json!(ends));
        }
        for (theirs, ours) in SAMPLING {
            if let Some(number) = self.float(&format!("general.sampling.{theirs}"))? {
                // A number of tokens is a whole one.
                let number = if ours == "top_k" { json!(number as i64) } else { json!(number) };
                generation.insert(ours.into(), number);
            }
        }
        if let Some(bos) = self.bos()? {
            root["bos_token_id"] = json!(bos);
        }
        Ok((root, generation.into()))
    }

    /// The heads whose rows are written in another order than in Hugging Face checkpoints.
    pub(super) fn interleaved_heads(&self) -> Result<Heads, ModelError> {
        let name = self.architecture()?;
        if name != "llama" {
            return Ok(Heads::InOrder);
        }
        let (_, _, head_dim) = self.heads(&name)?;
        Ok(Heads::Interleaved(head_dim))
    }

    fn architecture(&self) -> Result<String, ModelError> {
        let key = "general.architecture";
        self.text(key)?.ok_or_else(|| self.missing(key))
    }

    /// Query heads, key heads, and the size of one.
    fn heads(&self, name: &str) -> Result<(usize, usize, usize), ModelError> {
        let key = |suffix: &str| format!("{name}.{suffix}");
        let needed = |suffix: &str| self.positive(&key(suffix))?.ok_or_else(|| self.missing(&key(suffix)));
        let (hidden, heads) = (needed("embedding_length")?, needed("attention.head_count")?);
        let kv_heads = self.positive(&key("attention.head_count_kv"))?.unwrap_or(heads);
        let size = match self.positive(&key("attention.key_length"))? {
            Some(size) => size,
            None if hidden % heads == 0 => hidden / heads,
            None => {
                return Err(
                    self.wrong(format!("`{}` is {hidden}, no multiple of {heads} heads", key("embedding_length")))
                );
            }
        };
        for suffix in ["attention.value_length", "rope.dimension_count"] {
            match self.positive(&key(suffix))? {
                Some(other) if other != size => {
                    return Err(self.wrong(format!(
                        "`{}` is {other}, but a key has {size} numbers; only equal sizes are computed",
                        key(suffix)
                    )));
                }
                _ => (),
            }
        }
        if size % 2 != 0 {
            return Err(self.wrong(format!("a head has {size} numbers; rotary positions need an even size")));
        }
        Ok((heads, kv_heads, size))
    }

    /// `rope_scaling` of config.json.
    fn rope_scaling(&self, name: &str, context: usize) -> Result<Option<Json>, ModelError> {
        let key = |suffix: &str| format!("{name}.rope.scaling.{suffix}");
        let factor = match self.float(&key("factor"))? {
            // The name that the key had first.
            None => self.float(&format!("{name}.rope.scale_linear"))?,
            factor => factor,
        };
        let kind = match self.text(&key("type"))? {
            Some(kind) => kind,
            None => if factor.is_some_and(|factor| factor != 1.0) { "linear" } else { "none" }.into(),
        };
        if kind == "none" {
            return Ok(None);
        }
        let factor = factor.filter(|factor| *factor > 0.0);
        let factor = factor.ok_or_else(|| self.wrong(format!("`{}` is missing or not above 0", key("factor"))))?;
        let mut scaling = json!({ "rope_type": kind, "factor": factor });
        if kind != "linear" {
            let original = self.positive(&key("original_context_length"))?;
            scaling["original_max_position_embeddings"] = json!(original.unwrap_or(context));
        }
        if kind == "yarn" {
            self.yarn(&key, factor, &mut scaling)?;
        }
        Ok(Some(scaling))
    }

    /// The settings of YaRN that a file may hold in addition to the factor. llama.cpp multiplies the attention factor of a file by the one
    /// that follows from the factor, which `transformers` takes only where a configuration has none.
    fn yarn(&self, key: &dyn Fn(&str) -> String, factor: f64, scaling: &mut Json) -> Result<(), ModelError> {
        if let Some(share) = self.float(&key("yarn_ext_factor"))?.filter(|share| ![1.0, -1.0].contains(share)) {
            return Err(self.wrong(format!("`{}` is {share}; only 1 is computed", key("yarn_ext_factor"))));
        }
        for suffix in ["attn_factor", "yarn_attn_factor"] {
            if let Some(given) = self.float(&key(suffix))? {
                scaling["attention_factor"] = json!(given * (1.0 + 0.1 * factor.max(1.0).ln()));
            }
        }
        for (theirs, ours) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
            if let Some(number) = self.float(&key(theirs))? {
                scaling[ours] = json!(number);
            }
        }
        Ok(())
    }

    /// Divisors of the rotary frequencies, one for each pair of a head.
    fn factors(&self, name: &str) -> Result<Option<Vec<f32>>, ModelError> {
        let Some(factors) = self.floats(ROPE_FACTORS)? else { return Ok(None) };
        let (_, _, head_dim) = self.heads(name)?;
        if factors.len() == head_dim / 2 && factors.iter().all(|x| x.is_finite() && *x > 0.0) {
            return Ok(Some(factors));
        }
        Err(ModelError::Tensor {
            file: self.path.clone(),
            tensor: ROPE_FACTORS.into(),
            reason: format!("it must hold {} numbers above 0: one for each pair of a head", head_dim / 2),
        })
    }

    /// Keys that a query sees, where not all.
    fn window(&self, name: &str) -> Result<Option<usize>, ModelError> {
        let key = format!("{name}.attention.sliding_window");
        match self.count(&key)?.filter(|&window| window > 0) {
            Some(window) if name != "llama" => {
                Err(self.wrong(format!("`{key}` is {window}; of files, only llama's windows are computed")))
            }
            window => Ok(window),
        }
    }

    fn check_neutral(&self, name: &str) -> Result<(), ModelError> {
        for (suffix, neutral) in NEUTRAL {
            let key = format!("{name}.{suffix}");
            match self.float(&key)? {
                Some(number) if number != neutral => {
                    return Err(self.wrong(format!("`{key}` is {number}, which the native engine does not compute")));
                }
                _ => (),
            }
        }
        Ok(())
    }

    fn positive(&self, key: &str) -> Result<Option<usize>, ModelError> {
        // Models whose layers differ have a list here.
        if matches!(self.metadata.get(key), Some(super::Value::List(_))) {
            return Err(self.wrong(format!("`{key}` differs from layer to layer, which is not computed")));
        }
        match self.count(key)? {
            Some(0) => Err(self.wrong(format!("`{key}` is 0"))),
            count => Ok(count),
        }
    }

    fn missing(&self, key: &str) -> ModelError {
        self.wrong(format!("`{key}` is missing; convert the model again"))
    }

    fn unsupported(&self, architecture: &str) -> ModelError {
        let elsewhere = match FOR_MISTRAL.contains(&architecture) {
            true => "; mistral.rs's own server reads it: start that, and name it with --engine upstream --upstream-url"
                .to_owned(),
            false => {
                "; serve it with llama.cpp's server and name that with --engine upstream --upstream-url".to_owned()
            }
        };
        let reason = format!(
            "its architecture is `{architecture}`; the native engine computes llama, qwen2 and qwen3 from GGUF files{elsewhere}"
        );
        ModelError::Unsupported { dir: self.path.clone(), reason }
    }
}

/// What Llama 3's configuration says of positions, if these factors are made of it. Its converter writes the factors only; the
/// other numbers are the same in all models of the family.
fn llama3(factors: &[f32], theta: f64) -> Option<Json> {
    const LOW: f64 = 1.0;
    const HIGH: f64 = 4.0;
    const CONTEXT: f64 = 8192.0;
    let factor = f64::from(*factors.last()?).round();
    let expected = |pair: usize| {
        let turns = CONTEXT * theta.powf(-(pair as f64) / factors.len() as f64) / std::f64::consts::TAU;
        let kept = ((turns - LOW) / (HIGH - LOW)).clamp(0.0, 1.0);
        1.0 / (kept + (1.0 - kept) / factor)
    };
    let same = |(pair, &found): (usize, &f32)| (f64::from(found) / expected(pair) - 1.0).abs() < 1e-4;
    let all = factor > 1.0 && factors.iter().enumerate().all(same);
    all.then(|| {
        json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": LOW, "high_freq_factor": HIGH,
            "original_max_position_embeddings": CONTEXT as usize,
        })
    })
}
