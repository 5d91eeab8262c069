//! Small GGUF files for tests, written as llama.cpp's converter writes them.

use std::path::Path;

use half::f16;
use serde_json::Value;

use super::{BOS, CHAT_TEMPLATE, EOS, TinyModel, tokenizer};
use crate::engine::derive_seed;
use crate::weights::gguf::kind::Kind;
use crate::weights::{ModelConfig, Weights, read_json};

/// A metadata value, in the types that converters write.
#[derive(Clone, Debug)]
pub enum Meta {
    /// 32 bits without a sign.
    U32(u32),
    /// 32 bits with a sign.
    I32(i32),
    /// 16 bits without a sign.
    U16(u16),
    /// A number in single precision.
    F32(f32),
    /// A truth value.
    Bool(bool),
    /// A single text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// Whole numbers with a sign.
    I32s(Vec<i32>),
    /// Numbers in single precision.
    F32s(Vec<f32>),
}

/// A tensor's name, shape and numbers.
pub type NamedTensor = (String, Vec<usize>, Vec<f32>);

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct Block {
    /// Its name in the file.
    pub name: String,
    /// The dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The number of its type.
    pub kind: u32,
    /// Its numbers in that type.
    pub bytes: Vec<u8>,
}

/// A file to be written.
#[derive(Clone, Debug, Default)]
pub struct GgufFile {
    /// Metadata in order.
    pub metadata: Vec<(String, Meta)>,
    /// Tensors in order.
    pub tensors: Vec<Block>,
}

impl GgufFile {
    /// A random model of this shape with the tests' tokenizer, whose matrices have the type of number `kind`, and the numbers of
    /// its tensors by their Hugging Face names.
    ///
    /// # Panics
    /// Panics when rows have no whole number of blocks, or the type is unknown.
    pub fn model(model: &TinyModel, kind: u32) -> (Self, Vec<NamedTensor>) {
        let json = tokenizer().to_string(false).expect("it can be written");
        let words = Words {
            json: serde_json::from_str(&json).expect("a tokenizer is written as JSON"),
            pre: "gpt-2",
            bos: Some(BOS),
            eos: EOS,
            template: CHAT_TEMPLATE.into(),
        };
        let mut file = Self { metadata: metadata(model, &words), tensors: Vec::new() };
        let mut numbers = Vec::new();
        for (index, (name, shape)) in model.tensors().into_iter().enumerate() {
            let is_matrix = shape.len() == 2;
            let (kind_id, bytes) = match is_matrix {
                true => (kind, random_blocks(kind, shape.iter().product(), model.seed + index as u64)),
                false => (0, model.values(&name, &shape).iter().flat_map(|x| x.to_le_bytes()).collect()),
            };
            let mut values = vec![0.0; shape.iter().product()];
            Kind::new(kind_id).expect("a type that is computed with").read(&bytes, &mut values);
            let turned = model.model_type == "llama" && (name.contains("q_proj") || name.contains("k_proj"));
            if turned {
                values = by_halves(&values, model.head_dim, *shape.last().unwrap_or(&1));
            }
            file.tensors.push(Block { name: theirs(&name), shape: shape.clone(), kind: kind_id, bytes });
            numbers.push((name, shape, values));
        }
        (file, numbers)
    }

    /// The model of a directory, its matrices in the type of number `kind`: F32, F16, BF16 or `Q8_0`.
    ///
    /// # Panics
    /// Panics when the directory holds no Llama whose tokenizer is one of GPT-2's.
    pub fn from_directory(directory: &Path, kind: u32) -> Self {
        let json = |name: &str| read_json(&directory.join(name)).expect("the directory has its files");
        let (config, settings) = (json("config.json"), json("tokenizer_config.json"));
        let dense = ModelConfig::open(directory).expect("the directory has a configuration").dense.expect("a Llama");
        let number = |key: &str| config[key].as_u64().expect("a number") as usize;
        let model = TinyModel {
            hidden: dense.hidden,
            intermediate: dense.intermediate,
            layers: dense.layers,
            heads: dense.heads,
            kv_heads: dense.kv_heads,
            head_dim: dense.head_dim,
            vocabulary: number("vocab_size"),
            context: number("max_position_embeddings"),
            tied: dense.tied,
            ..TinyModel::default()
        };
        let words = Words {
            json: json("tokenizer.json"),
            pre: "gpt-2",
            bos: None,
            eos: number("eos_token_id") as u32,
            template: settings["chat_template"].as_str().unwrap_or_default().into(),
        };
        let mut file = Self { metadata: metadata(&model, &words), tensors: Vec::new() };
        let weights = Weights::open(directory).expect("the directory has weights");
        for (name, shape) in model.tensors() {
            let mut values = weights.read(&name).expect("a Llama has this tensor");
            if name.contains("q_proj") || name.contains("k_proj") {
                values = by_pairs(&values, model.head_dim, shape[1]);
            }
            let kind = if shape.len() == 2 { kind } else { 0 };
            file.tensors.push(Block { name: theirs(&name), shape, kind, bytes: written(&values, kind) });
        }
        file
    }

    /// Sets or replaces a metadata value.
    pub fn set(&mut self, key: &str, value: Meta) {
        self.metadata.retain(|(name, _)| name != key);
        self.metadata.push((key.into(), value));
    }

    /// Leaves a metadata value out.
    pub fn remove(&mut self, key: &str) {
        self.metadata.retain(|(name, _)| name != key);
    }

    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            text(&mut out, key);
            value.write(&mut out);
        }
        let mut offset = 0;
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.shape.len() as u32).to_le_bytes());
            tensor.shape.iter().rev().for_each(|&size| out.extend((size as u64).to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.bytes.len()).next_multiple_of(32);
        }
        for tensor in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            out.extend(&tensor.bytes);
        }
        out
    }

    /// Writes the file.
    ///
    /// # Panics
    /// Panics when it cannot be written.
    pub fn write(&self, path: &Path) {
        std::fs::write(path, self.bytes()).expect("a test file can be written");
    }

    /// Writes the model as two files and returns the path of the first.
    ///
    /// # Panics
    /// Panics when they cannot be written.
    pub fn write_parts(&self, directory: &Path, name: &str) -> std::path::PathBuf {
        let (first, second) = self.tensors.split_at(self.tensors.len() / 2);
        for (index, tensors) in [first, second].into_iter().enumerate() {
            let metadata = if index == 0 { self.metadata.clone() } else { Vec::new() };
            let mut part = Self { metadata, tensors: tensors.to_vec() };
            part.set("split.no", Meta::U16(index as u16));
            part.set("split.count", Meta::U16(2));
            part.set("split.tensors.count", Meta::I32(self.tensors.len() as i32));
            part.write(&directory.join(format!("{name}-0000{}-of-00002.gguf", index + 1)));
        }
        directory.join(format!("{name}-00001-of-00002.gguf"))
    }
}

impl Meta {
    fn write(&self, out: &mut Vec<u8>) {
        let list = |out: &mut Vec<u8>, kind: u32, count: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
        };
        match self {
            Self::U16(number) => {
                out.extend(2u32.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
            Self::U32(number) => {
                out.extend(4u32.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
            Self::I32(number) => {
                out.extend(5u32.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
            Self::F32(number) => {
                out.extend(6u32.to_le_bytes());
                out.extend(number.to_le_bytes());
            }
            Self::Bool(flag) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*flag));
            }
            Self::Text(value) => {
                out.extend(8u32.to_le_bytes());
                text(out, value);
            }
            Self::Texts(values) => {
                list(out, 8, values.len());
                values.iter().for_each(|value| text(out, value));
            }
            Self::I32s(values) => {
                list(out, 5, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
            Self::F32s(values) => {
                list(out, 6, values.len());
                values.iter().for_each(|value| out.extend(value.to_le_bytes()));
            }
        }
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// What a file says of a tokenizer.
struct Words {
    json: Value,
    pre: &'static str,
    bos: Option<u32>,
    eos: u32,
    template: String,
}

fn metadata(model: &TinyModel, words: &Words) -> Vec<(String, Meta)> {
    let arch = if model.model_type == "mistral" { "llama" } else { model.model_type };
    let vocabulary = words.json["model"]["vocab"].as_object().into_iter().flatten();
    let mut tokens: Vec<(u64, String)> =
        vocabulary.map(|(token, id)| (id.as_u64().unwrap_or_default(), token.clone())).collect();
    tokens.sort();
    let merges = words.json["model"]["merges"].as_array().into_iter().flatten().map(|merge| match merge.as_str() {
        Some(text) => text.to_owned(),
        None => format!("{} {}", merge[0].as_str().unwrap_or_default(), merge[1].as_str().unwrap_or_default()),
    });
    let added = words.json["added_tokens"].as_array().into_iter().flatten();
    let special: Vec<u64> = added.filter_map(|token| token["id"].as_u64()).collect();
    let types = tokens.iter().map(|(id, _)| if special.contains(id) { 3 } else { 1 }).collect();
    let count = |size: usize| Meta::U32(size as u32);
    let own = |key: &str, value: Meta| (format!("{arch}.{key}"), value);
    let named = |key: &str, value: Meta| (key.to_owned(), value);
    let mut metadata = vec![
        named("general.architecture", Meta::Text(arch.into())),
        own("block_count", count(model.layers)),
        own("context_length", count(model.context)),
        own("embedding_length", count(model.hidden)),
        own("feed_forward_length", count(model.intermediate)),
        own("attention.head_count", count(model.heads)),
        own("attention.head_count_kv", count(model.kv_heads)),
        own("attention.key_length", count(model.head_dim)),
        own("attention.value_length", count(model.head_dim)),
        own("attention.layer_norm_rms_epsilon", Meta::F32(1e-5)),
        own("rope.freq_base", Meta::F32(10_000.0)),
        own("rope.dimension_count", count(model.head_dim)),
        named("tokenizer.ggml.model", Meta::Text("gpt2".into())),
        named("tokenizer.ggml.pre", Meta::Text(words.pre.into())),
        named("tokenizer.ggml.tokens", Meta::Texts(tokens.into_iter().map(|(_, token)| token).collect())),
        named("tokenizer.ggml.token_type", Meta::I32s(types)),
        named("tokenizer.ggml.merges", Meta::Texts(merges.collect())),
        named("tokenizer.ggml.eos_token_id", Meta::U32(words.eos)),
        named("tokenizer.ggml.add_bos_token", Meta::Bool(words.bos.is_some())),
        named("tokenizer.chat_template", Meta::Text(words.template.clone())),
    ];
    metadata.extend(words.bos.map(|bos| named("tokenizer.ggml.bos_token_id", Meta::U32(bos))));
    metadata
}

/// The name of a tensor in GGUF files.
fn theirs(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (ours, theirs)| name.replace(ours, theirs))
}

/// Reorders rows of heads from adjacent pairs that rotate together to the order of checkpoints: the first rows of all pairs, then
/// the second ones.
fn by_halves(rows: &[f32], head: usize, columns: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = rows.chunks_exact(columns).collect();
    let halves = |rows: &[&[f32]]| -> Vec<f32> {
        [0, 1].iter().flat_map(|half| rows.iter().skip(*half).step_by(2)).flat_map(|row| row.iter().copied()).collect()
    };
    rows.chunks_exact(head).flat_map(halves).collect()
}

/// The opposite of [`by_halves`].
fn by_pairs(rows: &[f32], head: usize, columns: usize) -> Vec<f32> {
    let rows: Vec<&[f32]> = rows.chunks_exact(columns).collect();
    let pairs = |rows: &[&[f32]]| -> Vec<f32> {
        let (first, second) = rows.split_at(rows.len() / 2);
        first.iter().zip(second).flat_map(|(first, second)| [*first, *second].concat()).collect()
    };
    rows.chunks_exact(head).flat_map(pairs).collect()
}

/// Numbers in a simple type.
fn written(values: &[f32], kind: u32) -> Vec<u8> {
    match kind {
        0 => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
        1 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        30 => values.iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect(),
        8 => {
            let block = |group: &[f32]| {
                let scale = f16::from_f32(group.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0);
                let whole = |x: &f32| {
                    if scale.to_f32() == 0.0 { 0 } else { (x / scale.to_f32()).round().clamp(-127.0, 127.0) as i8 }
                };
                let values = group.iter().map(|x| whole(x).to_le_bytes()[0]);
                scale.to_le_bytes().into_iter().chain(values).collect::<Vec<u8>>()
            };
            values.chunks(32).flat_map(block).collect()
        }
        other => panic!("type {other} is not written here"),
    }
}

/// Random blocks whose numbers are about as large as those of a trained model.
///
/// # Panics
/// Panics when the type is unknown, or the count is no whole number of blocks.
pub fn random_blocks(kind: u32, count: usize, seed: u64) -> Vec<u8> {
    let parsed = Kind::new(kind).expect("a type that is computed with");
    let (numbers, size) = parsed.block();
    assert!(count.is_multiple_of(numbers), "{count} numbers are no whole blocks");
    let random = |index: usize| derive_seed(seed, index as u64);
    let small = |index: usize| (random(index) >> 40) as f32 / (1u64 << 24) as f32 * 0.2 - 0.1;
    match kind {
        0 => return (0..count).flat_map(|i| small(i).to_le_bytes()).collect(),
        1 => return (0..count).flat_map(|i| f16::from_f32(small(i)).to_le_bytes()).collect(),
        30 => return (0..count).flat_map(|i| half::bf16::from_f32(small(i)).to_le_bytes()).collect(),
        _ => (),
    }
    // The places of scale and offset, and a scale that brings numbers to about a tenth.
    let (halves, scale): (&[usize], f32) = match kind {
        3 => (&[0, 2], 0.012),
        7 => (&[0, 2], 0.006),
        8 | 20 => (&[0], 0.001),
        10 => (&[80, 82], 0.003),
        11 => (&[108], 0.001),
        12 => (&[0, 2], 0.0002),
        13 => (&[0, 2], 0.0001),
        14 => (&[208], 0.00005),
        _ => (&[0], 0.01),
    };
    let mut bytes: Vec<u8> = (0..count / numbers * size).map(|i| (random(i) >> 33) as u8).collect();
    for (index, block) in bytes.chunks_exact_mut(size).enumerate() {
        for (nth, &place) in halves.iter().enumerate() {
            let varied = scale * (0.5 + (random(index * 2 + nth) >> 40) as f32 / (1u64 << 24) as f32);
            // Offsets of the simple types bring numbers around zero; those of the others are subtracted.
            let value =
                if nth == 1 && matches!(kind, 3 | 7) { -varied * if kind == 3 { 7.5 } else { 15.5 } } else { varied };
            block[place..place + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        }
    }
    bytes
}
