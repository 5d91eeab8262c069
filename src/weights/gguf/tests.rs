use super::*;
use crate::engine::derive_seed;
use crate::testing::TinyModel;
use crate::testing::gguf::{Block, GgufFile, Meta};
use crate::weights::{ModelConfig, RopeScaling};

/// Every type of number, by its number in files.
const KINDS: [u32; 14] = [0, 1, 30, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 20];

fn tiny(model_type: &'static str) -> TinyModel {
    TinyModel { model_type, hidden: 256, intermediate: 256, layers: 1, head_dim: 64, ..TinyModel::default() }
}

fn written(file: &GgufFile) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    file.write(&path);
    (dir, path)
}

fn refusal(file: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, file).unwrap();
    let opened = ModelConfig::open(&path).and_then(|config| {
        Gguf::open(&path)?.tokenizer_json()?;
        let weights = Weights::open(&path)?;
        weights.check(&config)?;
        weights.check_finite()
    });
    let message = opened.expect_err("the file is broken").to_string();
    assert!(message.contains("tiny.gguf") && !message.contains('\n'), "{message}");
    message
}

fn changed(change: impl Fn(&mut GgufFile)) -> String {
    let (mut file, _) = GgufFile::model(&tiny("llama"), 8);
    change(&mut file);
    refusal(&file.bytes())
}

#[test]
fn a_file_of_any_family_and_type_is_the_checkpoint_that_it_was_made_of() {
    for model_type in ["llama", "qwen2", "qwen3"] {
        for kind in KINDS {
            for tied in [false, true] {
                let model = TinyModel { tied, ..tiny(model_type) };
                let (file, numbers) = GgufFile::model(&model, kind);
                let (_dir, path) = written(&file);
                let config = ModelConfig::open(&path).unwrap();
                let weights = Weights::open(&path).unwrap();
                weights.check(&config).unwrap();
                weights.check_finite().unwrap();
                assert_eq!(weights.names().count(), numbers.len());
                for (name, shape, values) in &numbers {
                    assert_eq!(weights.shape(name), Some(shape.as_slice()));
                    assert!(weights.read(name).unwrap() == *values, "{model_type}, type {kind}: {name}");
                    let (dtype, raw) = weights.raw(name).unwrap();
                    assert_eq!((Some(dtype), raw.len()), (weights.dtype(name), values.len() * dtype.bitsize() / 8));
                }
            }
        }
    }
}

#[test]
fn the_configuration_is_that_of_the_directory() {
    for model_type in ["llama", "qwen2", "qwen3"] {
        let model = tiny(model_type);
        let (file, _) = GgufFile::model(&model, 1);
        let (_dir, path) = written(&file);
        let found = ModelConfig::open(&path).unwrap();
        let dir = tempfile::tempdir().unwrap();
        crate::testing::write_json(dir.path(), "config.json", &model.config());
        let expected = ModelConfig::open(dir.path()).unwrap();
        assert_eq!(found.architecture, expected.architecture);
        assert_eq!((found.vocabulary, found.context), (expected.vocabulary, expected.context));
        assert_eq!((found.bos, &found.eos), (expected.bos, &expected.eos));
        assert_eq!(found.dense, expected.dense);
    }
}

#[test]
fn positions_turn_as_the_file_says() {
    let config = |change: &dyn Fn(&mut GgufFile)| {
        let (mut file, _) = GgufFile::model(&tiny("llama"), 8);
        change(&mut file);
        let (_dir, path) = written(&file);
        ModelConfig::open(&path).unwrap().dense.unwrap()
    };
    let set = |pairs: Vec<(&'static str, Meta)>| {
        move |file: &mut GgufFile| pairs.iter().for_each(|(key, value)| file.set(key, value.clone()))
    };
    let linear =
        vec![("llama.rope.scaling.type", Meta::Text("linear".into())), ("llama.rope.scaling.factor", Meta::F32(4.0))];
    assert_eq!(config(&set(linear)).rope.scaling, RopeScaling::Linear(4.0));
    assert_eq!(config(&set(vec![("llama.rope.scale_linear", Meta::F32(2.0))])).rope.scaling, RopeScaling::Linear(2.0));
    assert_eq!(config(&set(vec![("llama.rope.freq_base", Meta::F32(500.0))])).rope.theta, 500.0);
    let window = config(&set(vec![("llama.attention.sliding_window", Meta::U32(64))]));
    assert_eq!(window.sliding_window, Some(64));
    let factors = config(&|file| file.tensors.push(factors(32, 2.0)));
    assert_eq!(factors.rope.scaling, RopeScaling::Factors { factors: vec![2.0; 32], attention_factor: 1.0 });
}

/// llama.cpp multiplies a file's attention factor by the one that follows from the factor of the frequencies.
#[test]
fn yarn_is_read_as_llama_cpp_computes_it() {
    let open = |more: &[(&'static str, Meta)]| {
        let (mut file, _) = GgufFile::model(&tiny("llama"), 8);
        let yarn = [
            ("llama.rope.scaling.type", Meta::Text("yarn".into())),
            ("llama.rope.scaling.factor", Meta::F32(4.0)),
            ("llama.rope.scaling.original_context_length", Meta::U32(64)),
        ];
        yarn.iter().chain(more).for_each(|(key, value)| file.set(key, value.clone()));
        let (_dir, path) = written(&file);
        ModelConfig::open(&path)
    };
    let usual = f64::from(1.0 + 0.1 * 4f32.ln());
    for (more, expected) in [
        (vec![], usual),
        (vec![("llama.rope.scaling.attn_factor", Meta::F32(1.0))], usual),
        (vec![("llama.rope.scaling.yarn_attn_factor", Meta::F32(0.5))], usual / 2.0),
        (vec![("llama.rope.scaling.yarn_ext_factor", Meta::F32(1.0))], usual),
    ] {
        let found = open(&more).unwrap().dense.unwrap().rope;
        let RopeScaling::Yarn { factor, attention_factor, .. } = found.scaling else { panic!("{found:?}") };
        assert!(factor == 4.0 && (attention_factor - expected).abs() < 1e-6, "{more:?}: {found:?}");
    }
    let betas = [("llama.rope.scaling.yarn_beta_fast", 16.0), ("llama.rope.scaling.yarn_beta_slow", 2.0)];
    let betas = betas.map(|(key, beta)| (key, Meta::F32(beta)));
    assert_ne!(open(&betas).unwrap().dense, open(&[]).unwrap().dense);
    let error = open(&[("llama.rope.scaling.yarn_ext_factor", Meta::F32(0.5))]).unwrap_err().to_string();
    assert!(error.contains("`llama.rope.scaling.yarn_ext_factor` is 0.5"), "{error}");
}

/// The factors that llama.cpp's converter writes for Llama 3.1 and 3.2 are read as the scaling that they are made of.
#[test]
fn llama_3_is_recognized() {
    let model = TinyModel { context: 4096, ..tiny("llama") };
    for factor in [8.0f64, 32.0] {
        let (mut file, _) = GgufFile::model(&model, 8);
        file.set("llama.rope.freq_base", Meta::F32(500_000.0));
        let (low_wave, high_wave) = (8192.0, 8192.0 / 4.0);
        let of_pair = |pair: i32| {
            let wave = 2.0 * std::f64::consts::PI * 500_000f64.powf(f64::from(pair) / 32.0);
            let smooth = (8192.0 / wave - 1.0) / 3.0;
            match () {
                () if wave < high_wave => 1.0,
                () if wave > low_wave => factor,
                () => 1.0 / ((1.0 - smooth) / factor + smooth),
            }
        };
        let mut block = factors(32, 1.0);
        block.bytes = (0..32).flat_map(|pair| (of_pair(pair) as f32).to_le_bytes()).collect();
        file.tensors.push(block);
        let (_dir, path) = written(&file);
        let found = ModelConfig::open(&path).unwrap().dense.unwrap().rope.scaling;
        assert_eq!(found, RopeScaling::Llama3 { factor, low: 1.0, high: 4.0, original_context: 8192.0 });
    }
}

#[test]
fn an_exported_file_is_the_same_model() {
    for kind in [0, 1, 12] {
        let (file, numbers) = GgufFile::model(&tiny("llama"), kind);
        let (dir, path) = written(&file);
        let out = dir.path().join("out");
        Gguf::open(&path).unwrap().export(&out).unwrap();
        let (theirs, ours) = (ModelConfig::open(&path).unwrap(), ModelConfig::open(&out).unwrap());
        assert_eq!((ours.dense, ours.eos, ours.bos), (theirs.dense, theirs.eos, theirs.bos));
        let weights = Weights::open(&out).unwrap();
        for (name, _, values) in numbers {
            let found = weights.read(&name).unwrap();
            let near = |(x, y): (&f32, &f32)| (x - y).abs() <= if kind == 12 { x.abs() / 1000.0 + 1e-7 } else { 0.0 };
            assert!(found.iter().zip(&values).all(near), "{name}");
        }
        let opened = crate::engine::model_dir::ModelDir::open(&out).unwrap();
        let original = crate::engine::model_dir::ModelDir::open(&path).unwrap();
        assert_eq!(opened.identity().tokenizer, original.identity().tokenizer);
        assert_eq!(opened.identity().chat_template, original.identity().chat_template);
        assert!(Gguf::open(&path).unwrap().export(&out).is_err(), "a directory is never written over");
    }
}

fn factors(count: usize, factor: f32) -> Block {
    let bytes = vec![factor; count].iter().flat_map(|x| x.to_le_bytes()).collect();
    Block { name: "rope_freqs.weight".into(), shape: vec![count], kind: 0, bytes }
}

#[test]
fn every_end_of_a_reply_is_found() {
    let (mut file, _) = GgufFile::model(&tiny("llama"), 8);
    file.set("tokenizer.ggml.eot_token_id", Meta::U32(3));
    let Some((_, Meta::Texts(tokens))) = file.metadata.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens")
    else {
        panic!("the file has tokens")
    };
    tokens[2] = "<|im_end|>".into();
    // A token of the same name that is no control token ends nothing.
    tokens[277] = "<|eot_id|>".into();
    file.remove("tokenizer.ggml.merges");
    file.set("tokenizer.ggml.merges", Meta::Texts(Vec::new()));
    let (_dir, path) = written(&file);
    assert_eq!(ModelConfig::open(&path).unwrap().eos, [1, 3, 2]);
}

#[test]
fn parts_are_one_model() {
    let (file, numbers) = GgufFile::model(&tiny("llama"), 12);
    let dir = tempfile::tempdir().unwrap();
    let first = file.write_parts(dir.path(), "tiny");
    let second = dir.path().join("tiny-00002-of-00002.gguf");
    for path in [&first, &second] {
        let weights = Weights::open(path).unwrap();
        weights.check(&ModelConfig::open(path).unwrap()).unwrap();
        assert_eq!(weights.names().count(), numbers.len());
    }
    let message = |path: &Path| Weights::open(path).err().unwrap().to_string();
    std::fs::copy(&first, &second).unwrap();
    assert!(message(&first).contains("tiny-00002-of-00002.gguf") && message(&first).contains("part 1 of 2"));
    std::fs::remove_file(&second).unwrap();
    assert!(message(&first).contains("does not exist"), "{}", message(&first));
    std::fs::rename(&first, dir.path().join("alone.gguf")).unwrap();
    assert!(message(&dir.path().join("alone.gguf")).contains("part 1 of 2"));
}

#[test]
fn every_defect_has_its_line() {
    let text = |key: &'static str, value: &str| {
        let value = value.to_owned();
        move |file: &mut GgufFile| file.set(key, Meta::Text(value.clone()))
    };
    let number = |key: &'static str, value: u32| move |file: &mut GgufFile| file.set(key, Meta::U32(value));
    let without = |key: &'static str| move |file: &mut GgufFile| file.remove(key);
    type Change = Box<dyn Fn(&mut GgufFile)>;
    let table: Vec<(Change, &[&str])> = vec![
        (Box::new(text("general.architecture", "phi3")), &["`phi3`", "mistral.rs", "tiny.gguf"]),
        (Box::new(text("general.architecture", "gemma3")), &["`gemma3`", "--engine upstream"]),
        (Box::new(without("general.architecture")), &["`general.architecture` is missing"]),
        (Box::new(without("llama.block_count")), &["`llama.block_count` is missing"]),
        (Box::new(number("llama.block_count", 4_000_000_000)), &["`llama.block_count` is 4000000000"]),
        (Box::new(number("llama.context_length", 4_000_000_000)), &["`llama.context_length`"]),
        (Box::new(number("llama.block_count", 2)), &["model.layers.1", "missing"]),
        (Box::new(number("llama.attention.head_count_kv", 3)), &["num_key_value_heads", "3"]),
        (Box::new(number("llama.rope.dimension_count", 32)), &["`llama.rope.dimension_count` is 32"]),
        (Box::new(number("llama.expert_count", 8)), &["`llama.expert_count` is 8"]),
        (Box::new(text("llama.embedding_length", "wide")), &["`llama.embedding_length` is not a whole number"]),
        (Box::new(text("llama.rope.scaling.type", "linear")), &["`llama.rope.scaling.factor`"]),
        (Box::new(|file| file.tensors.push(factors(31, 2.0))), &["`rope_freqs.weight`", "32 numbers"]),
        (Box::new(|file| file.tensors.push(factors(32, 0.0))), &["`rope_freqs.weight`", "above 0"]),
        (Box::new(text("tokenizer.ggml.pre", "viking")), &["`tokenizer.ggml.pre` is `viking`"]),
        (Box::new(without("tokenizer.ggml.pre")), &["`tokenizer.ggml.pre` is missing"]),
        (Box::new(text("tokenizer.ggml.model", "bert")), &["`tokenizer.ggml.model` is `bert`"]),
        (Box::new(without("tokenizer.ggml.tokens")), &["`tokenizer.ggml.tokens` is missing"]),
        (Box::new(|file| file.set("tokenizer.ggml.token_type", Meta::I32s(vec![1]))), &["has 1 elements for 278"]),
        (Box::new(number("tokenizer.ggml.eos_token_id", 278)), &["278", "`tokenizer.ggml.tokens`"]),
        (Box::new(number("tokenizer.ggml.bos_token_id", 900)), &["900", "`tokenizer.ggml.tokens`"]),
        (Box::new(number("general.alignment", 48)), &["`general.alignment`"]),
        (Box::new(|file| file.tensors[3].name = "blk.0.ssm_in.weight".into()), &["`blk.0.ssm_in.weight`", "no part"]),
        (Box::new(|file| file.tensors[3].name = file.tensors[4].name.clone()), &["twice"]),
        (Box::new(|file| file.tensors[3].kind = 23), &["IQ4_XS"]),
        (Box::new(|file| file.tensors[3].kind = 77), &["number 77"]),
        (Box::new(|file| file.tensors[3].shape = vec![1 << 40, 1 << 40]), &["impossible"]),
        (Box::new(|file| file.tensors[3].shape = vec![0]), &["0 or too large"]),
        (Box::new(|file| file.tensors[3].shape = vec![1; 5]), &["5 dimensions"]),
        (Box::new(|file| file.tensors[0].shape = vec![320, 250]), &["no multiple of a block's 32"]),
        (Box::new(|file| file.tensors.iter_mut().for_each(|t| t.shape.insert(0, 1 << 20))), &["copy or download"]),
        (
            Box::new(|file| {
                let q = file.tensors.iter_mut().find(|t| t.name == "blk.0.attn_q.weight").unwrap();
                q.shape = vec![16, 4096];
            }),
            &["`blk.0.attn_q.weight`", "heads of 64"],
        ),
        (
            Box::new(|file| {
                let norm = file.tensors.iter_mut().find(|t| t.name == "output_norm.weight").unwrap();
                norm.bytes[4..8].copy_from_slice(&f32::NAN.to_le_bytes());
            }),
            &["model.norm.weight", "element 1 is NaN"],
        ),
    ];
    for (change, expected) in table {
        let message = changed(change);
        assert!(expected.iter().all(|part| message.contains(part)), "{message} lacks one of {expected:?}");
    }
}

#[test]
fn containers_are_not_trusted() {
    let (file, _) = GgufFile::model(&tiny("llama"), 8);
    let whole = file.bytes();
    let with = |at: usize, bytes: &[u8]| {
        let mut changed = whole.clone();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&changed)
    };
    for (at, bytes, expected) in [
        (0, &b"GGML"[..], "no GGUF file"),
        (4, &1u32.to_le_bytes(), "version 1"),
        (4, &9u32.to_le_bytes(), "version 9"),
        (4, &3u32.to_be_bytes(), "big-endian"),
        (8, &u64::MAX.to_le_bytes(), "the number of tensors"),
        (16, &u64::MAX.to_le_bytes(), "the number of metadata keys"),
        (24, &u64::MAX.to_le_bytes(), "the length of a metadata key"),
        (32, &[0xff, 0xff], "no UTF-8"),
        // The type of the first value, a text.
        (52, &77u32.to_le_bytes(), "type 77"),
    ] {
        let message = with(at, bytes);
        assert!(message.contains(expected), "{message} lacks {expected}");
    }
    let twice = changed(|file| {
        let first = file.metadata[0].clone();
        file.metadata.push(first);
    });
    assert!(twice.contains("twice"), "{twice}");
}

#[test]
fn offsets_are_inside_aligned_and_apart() {
    let header = |offsets: [u64; 2]| {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend(2u64.to_le_bytes());
        out.extend(0u64.to_le_bytes());
        for (name, offset) in ["a", "b"].into_iter().zip(offsets) {
            out.extend(1u64.to_le_bytes());
            out.extend(name.as_bytes());
            out.extend(1u32.to_le_bytes());
            out.extend(16u64.to_le_bytes());
            out.extend(0u32.to_le_bytes());
            out.extend(offset.to_le_bytes());
        }
        out.resize(out.len().next_multiple_of(32) + 128, 0);
        Container::read(&out)
    };
    assert_eq!(header([0, 64]).unwrap().tensors.len(), 2);
    assert_eq!(header([64, 0]).unwrap().tensors.len(), 2);
    for (offsets, expected) in [
        ([0, 32], "also those of `a`"),
        ([0, 65], "no multiple of the alignment"),
        ([0, 96], "the file ends"),
        ([0, u64::MAX - 31], "impossible"),
    ] {
        let fault = header(offsets).unwrap_err();
        assert!(fault.reason.contains(expected), "{fault:?} lacks {expected}");
        assert_eq!(fault.tensor.as_deref(), Some("b"));
    }
}

/// Damaged files are refused or read, and never end the program or reserve what they promise.
#[test]
fn damage_anywhere_is_survived() {
    let (file, _) = GgufFile::model(&TinyModel { vocabulary: 288, ..tiny("llama") }, 2);
    let whole = file.bytes();
    let data = Container::read(&whole).unwrap().tensors[0].bytes.start;
    for n in 0..3_000u64 {
        let mut damaged = whole[..data + 64].to_vec();
        for nth in 0..1 + n % 3 {
            let at = derive_seed(n, nth) as usize % data;
            damaged[at] = (derive_seed(n, nth + 10) >> 32) as u8;
        }
        damaged.truncate(if n % 5 == 0 { derive_seed(n, 20) as usize % damaged.len() } else { usize::MAX });
        drop(Container::read(&damaged));
    }
}

#[test]
fn a_list_cannot_promise_more_than_there_is() {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(1u64.to_le_bytes());
    out.extend(b"k");
    out.extend(9u32.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    out.extend((1u64 << 40).to_le_bytes());
    let fault = Container::read(&out).unwrap_err();
    assert!(fault.reason.contains("the number of elements of `k`"), "{fault:?}");
}
