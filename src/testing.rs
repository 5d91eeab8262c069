//! Small model directories for tests: random weights, byte tokenizers, a chat template.

pub mod gguf;
use std::path::Path;

use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::engine::derive_seed;
use crate::weights::adapter::{Adapter, AdapterConfig, Patterns, Targets};
use crate::weights::{Digests, LowRank, LowRanks, ModelConfig};

/// The beginning-of-sequence token of [`tokenizer`].
pub const BOS: u32 = 0;
/// The end-of-sequence token of [`tokenizer`].
pub const EOS: u32 = 1;
/// Opens the user's turn.
pub const USER: u32 = 2;
/// Opens the assistant's turn.
pub const ASSISTANT: u32 = 3;

/// The chat template of [`write_model`]'s directories.
pub const CHAT_TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}<|assistant|>\
     {{ m.content }}{{ eos_token }}{% else %}<|user|>{{ m.content }}{% endif %}{% endfor %}\
     {% if add_generation_prompt %}<|assistant|>{% endif %}";

/// Shape of a random model.
#[derive(Clone, Debug)]
pub struct TinyModel {
    /// `model_type` and class of config.json: `llama`, `mistral`, `qwen2` or `qwen3`.
    pub model_type: &'static str,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// Number of query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Size of a head.
    pub head_dim: usize,
    /// Entries of the vocabulary, at least those of [`tokenizer`].
    pub vocabulary: usize,
    /// Tokens of the context.
    pub context: usize,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Seed of the weights.
    pub seed: u64,
}

impl Default for TinyModel {
    fn default() -> Self {
        Self {
            model_type: "llama",
            hidden: 32,
            intermediate: 48,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 8,
            vocabulary: 320,
            context: 512,
            tied: false,
            seed: 1,
        }
    }
}

impl TinyModel {
    /// The config.json of this shape.
    pub fn config(&self) -> Value {
        let class = match self.model_type {
            "mistral" => "MistralForCausalLM",
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            _ => "LlamaForCausalLM",
        };
        json!({
            "architectures": [class], "model_type": self.model_type, "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "vocab_size": self.vocabulary, "max_position_embeddings": self.context, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "tie_word_embeddings": self.tied, "torch_dtype": "float32",
            "bos_token_id": BOS, "eos_token_id": EOS, "attention_bias": false, "mlp_bias": false,
        })
    }

    /// Every tensor's name and shape, in HF's naming.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (h, f) = (self.hidden, self.intermediate);
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, h]),
            ("model.norm.weight".to_owned(), vec![h]),
        ];
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocabulary, h]));
        }
        for layer in 0..self.layers {
            let mut add =
                |name: &str, shape: &[usize]| tensors.push((format!("model.layers.{layer}.{name}"), shape.to_vec()));
            add("input_layernorm.weight", &[h]);
            add("post_attention_layernorm.weight", &[h]);
            for (name, rows) in [("q", q), ("k", kv), ("v", kv)] {
                add(&format!("self_attn.{name}_proj.weight"), &[rows, h]);
                if self.model_type == "qwen2" {
                    add(&format!("self_attn.{name}_proj.bias"), &[rows]);
                }
            }
            add("self_attn.o_proj.weight", &[h, q]);
            if self.model_type == "qwen3" {
                add("self_attn.q_norm.weight", &[self.head_dim]);
                add("self_attn.k_norm.weight", &[self.head_dim]);
            }
            add("mlp.gate_proj.weight", &[f, h]);
            add("mlp.up_proj.weight", &[f, h]);
            add("mlp.down_proj.weight", &[h, f]);
        }
        tensors
    }

    /// The random elements of a tensor: norms around 1, the rest with deviation `1 / sqrt(columns)`, so that logits
    /// are far from flat.
    pub fn values(&self, name: &str, shape: &[usize]) -> Vec<f32> {
        let key = name.bytes().fold(self.seed, |key, byte| derive_seed(key, u64::from(byte)));
        let uniform = |i: usize| (derive_seed(key, i as u64) >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        let scale = 3.46 / (*shape.last().unwrap_or(&1) as f32).sqrt();
        let count = shape.iter().product();
        match () {
            () if name.contains("norm") => (0..count).map(|i| 1.0 + 0.4 * uniform(i)).collect(),
            () if name.contains("embed") => (0..count).map(|i| 2.0 * uniform(i)).collect(),
            () if name.ends_with("bias") => (0..count).map(uniform).collect(),
            () => (0..count).map(|i| scale * uniform(i)).collect(),
        }
    }
}

/// Writes a whole model directory: config, tokenizer, chat and search templates, f32 weights.
///
/// # Panics
/// Panics when a file cannot be written.
pub fn write_model(dir: &Path, model: &TinyModel) {
    write_json(dir, "config.json", &model.config());
    let special = |content: &str| json!({ "content": content, "special": true });
    let tokenizer_config = json!({
        "bos_token": special("<|begin|>"), "eos_token": "<|end|>", "chat_template": CHAT_TEMPLATE,
    });
    write_json(dir, "tokenizer_config.json", &tokenizer_config);
    let templates = json!({
        "version": "test", "judge": "{{ prompt }}|{{ response }}|?", "refine": "{{ critique }}|again", "verdict": "Verdict:",
        "start": "[", "end": "]",
    });
    write_json(dir, "spar.json", &templates);
    tokenizer().save(dir.join("tokenizer.json"), false).expect("the test tokenizer can be saved");
    write_weights(&dir.join("model.safetensors"), model, &model.tensors());
}

/// Writes some of a model's tensors as one safetensors file.
///
/// # Panics
/// Panics when the file cannot be written.
pub fn write_weights(file: &Path, model: &TinyModel, tensors: &[(String, Vec<usize>)]) {
    let data: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(name, shape)| model.values(name, shape).iter().flat_map(|x| x.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&data).map(|((name, shape), data)| {
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), data);
        (name.clone(), view.expect("data and shape agree"))
    });
    safetensors::serialize_to_file(views, None, file).expect("the test weights can be written");
}

/// A LoRA adapter of rank 2 over queries and up-projections of the model in `base`, random within `size`, which names its base.
///
/// # Panics
/// Panics when the directory holds no model whose linear modules are known.
pub fn random_adapter(base: &Path, size: f32, seed: u64) -> Adapter {
    let config = ModelConfig::open(base).expect("the base has a config");
    let linears = config.dense.as_ref().expect("the base is of a known family").linears();
    let config = AdapterConfig {
        r: 2,
        lora_alpha: 4.0,
        use_rslora: false,
        target_modules: Targets::Names(vec!["q_proj".into(), "up_proj".into()]),
        exclude_modules: None,
        layers_to_transform: None,
        rank_pattern: Patterns(vec![("up_proj".into(), 1)]),
        alpha_pattern: Patterns::default(),
        base_model_name_or_path: None,
    };
    let random = |key: u64, count: usize| -> Vec<f32> {
        (0..count).map(|i| size * ((derive_seed(key, i as u64) >> 40) as f32 / (1u64 << 23) as f32 - 1.0)).collect()
    };
    let mut pairs = LowRanks::new();
    for (index, (module, [outer, inner])) in linears.iter().filter(|(module, _)| config.targets(module)).enumerate() {
        let (rank, key) = (config.rank(module), derive_seed(seed, index as u64));
        let (a, b) = (random(key, rank * inner), random(key + 1, outer * rank));
        pairs.insert(module.clone(), LowRank { a, b, rank, scale: config.scale(module) });
    }
    let digests = Digests::of(base).expect("the base can be read");
    Adapter { config, pairs, base_sha256: Some(digests.weights()) }
}

/// Writes `value` as `dir/name`.
///
/// # Panics
/// Panics when the file cannot be written.
pub fn write_json(dir: &Path, name: &str, value: &Value) {
    std::fs::write(dir.join(name), value.to_string()).expect("a test file can be written");
}

/// 4 special tokens, the 256 bytes in GPT-2's alphabet, a few merges: 278 entries.
///
/// # Panics
/// Never: the text is fixed.
pub fn tokenizer() -> Tokenizer {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut others = 256..;
    let alphabet = (0..256u32).map(|byte| if printable(byte) { byte } else { others.next().unwrap_or(0) });
    let specials = ["<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"];
    let mut tokens: Vec<String> = specials.map(str::to_owned).to_vec();
    tokens.extend(alphabet.filter_map(char::from_u32).map(String::from));
    let merges = [
        "t h", "Ġ th", "Ġth e", "h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld", "i n", "e r",
        "a n", "an d", "Ġ and", "Ã ¶",
    ];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let vocab: serde_json::Map<String, Value> = tokens.into_iter().zip(0..).map(|(t, id)| (t, json!(id))).collect();
    let added = |(id, content): (usize, &&str)| {
        json!({ "id": id, "content": content, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false })
    };
    let byte_level = json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true });
    parse(&json!({
        "version": "1.0",
        "added_tokens": specials.iter().enumerate().map(added).collect::<Vec<_>>(),
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": { "type": "TemplateProcessing",
            "single": [{ "SpecialToken": { "id": "<|begin|>", "type_id": 0 } }, { "Sequence": { "id": "A", "type_id": 0 } }],
            "pair": [{ "Sequence": { "id": "A", "type_id": 0 } }, { "Sequence": { "id": "B", "type_id": 0 } }],
            "special_tokens": { "<|begin|>": { "id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"] } } },
        "model": { "type": "BPE", "vocab": vocab, "merges": merges },
    }))
}

/// A tokenizer in Llama 2's manner: spaces are `▁`, bytes without a token are `<0x..>`.
///
/// # Panics
/// Never: the text is fixed.
pub fn metaspace_tokenizer() -> Tokenizer {
    let mut tokens: Vec<String> = ["<s>", "</s>", "<unk>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(('a'..='z').chain(['▁', 'T', 'ö']).map(String::from));
    let merges = ["▁ h", "h e", "l l", "▁ w"];
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let vocab: serde_json::Map<String, Value> = tokens.into_iter().zip(0..).map(|(t, id)| (t, json!(id))).collect();
    parse(&json!({
        "version": "1.0", "added_tokens": [],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "▁" }, "content": " " },
            { "type": "ByteFallback" }, { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 } ] },
        "model": { "type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": true, "unk_token": "<unk>",
            "fuse_unk": true },
    }))
}

fn parse(tokenizer: &Value) -> Tokenizer {
    Tokenizer::from_bytes(tokenizer.to_string()).expect("the test tokenizer is well-formed")
}
