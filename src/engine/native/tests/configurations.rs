//! Every configuration is computed as `transformers` computes it, or refused by name.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::*;
use crate::weights::digest::hex;

/// A directory with this configuration and the weights that follow from the names of its tensors.
pub(in super::super) fn directory(config: &Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    testing::write_json(dir.path(), "config.json", config);
    let tensors = ModelConfig::open(dir.path()).unwrap().tensors();
    testing::write_weights(&dir.path().join("model.safetensors"), &TinyModel::default(), &tensors);
    dir
}

/// The log-probability of each token after the first.
fn logprobs(logits: &[Vec<f32>], tokens: &[u32]) -> Vec<f64> {
    let logprob = |(logits, &token): (&Vec<f32>, &u32)| {
        let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let total: f64 = logits.iter().map(|x| f64::from(x - peak).exp()).sum();
        f64::from(logits[token as usize] - peak) - total.ln()
    };
    logits.iter().zip(&tokens[1..]).map(logprob).collect()
}

/// Golden values of `tests/golden/make.py`.
#[test]
fn what_a_configuration_asks_for_is_what_transformers_computes() {
    let golden = include_str!("../../../../tests/golden/configurations.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    let cases: Vec<_> = golden.as_object().unwrap().iter().filter(|(name, _)| *name != "transformers").collect();
    assert!(cases.len() >= 35, "{} cases", cases.len());
    let mut wrong = Vec::new();
    for (name, case) in cases {
        let dir = directory(&case["config"]);
        let config = ModelConfig::open(dir.path()).unwrap();
        let mut tensors: Vec<String> =
            config.tensors().iter().map(|(tensor, shape)| format!("{tensor} {shape:?}\n")).collect();
        tensors.sort();
        assert_eq!(hex(&Sha256::digest(tensors.concat()))[..16], case["tensors"], "{name}: {tensors:?}");
        let tokens: Vec<u32> = serde_json::from_value(case["tokens"].clone()).unwrap();
        let expected: Vec<f64> = serde_json::from_value(case["logprobs"].clone()).unwrap();
        for form in forms() {
            let engine = NativeEngine::load(ModelDir::open(dir.path()).unwrap(), form.clone()).unwrap();
            let logits = all_logits(&engine, &tokens);
            let found = logprobs(&logits, &tokens);
            let differs = |(found, expected): &(f64, f64)| (found - expected).abs() >= 1e-3 || !found.is_finite();
            if let Some(position) = found.into_iter().zip(expected.iter().copied()).position(|pair| differs(&pair)) {
                wrong.push(format!("{name} on {:?} from position {position} on", form.processor));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is generated token by token is what the whole text's forward pass says, with windows, layers without rotation and all.
#[tokio::test]
async fn replies_token_by_token_have_the_scores_of_their_texts() {
    let golden = include_str!("../../../../tests/golden/configurations.json");
    let golden: Value = serde_json::from_str(golden).unwrap();
    for name in ["qwen 3, window by layer", "smollm 3", "phi 3, a part of heads", "olmo 2", "gemma 2", "gemma 3"] {
        let dir = directory(&golden[name]["config"]);
        for form in forms() {
            let engine = NativeEngine::load(ModelDir::open(dir.path()).unwrap(), form).unwrap();
            let text = "A TEXT OF FORTY TOKENS THAT HAS NO MERGES";
            let done = run(&engine, greedy(text, 8)).await.remove(0);
            let mut tokens = engine.dir.encode(&Input::Text(text.into())).unwrap();
            for drawn in &done.logprobs {
                let logits = all_logits(&engine, &tokens).pop().unwrap();
                let expected = crate::engine::drawn::DrawnLogprobs::new(&logits, drawn.token.id, 1);
                assert!((drawn.token.logprob - expected.drawn).abs() < 1e-3, "{name}: {drawn:?}");
                tokens.push(drawn.token.id);
            }
            assert_eq!(done.logprobs.len(), 8);
        }
    }
}

/// Models that `tests/golden/sweep.py` wrote to the directory SPAR_SWEEP.
#[test]
#[ignore = "needs the models of tests/golden/sweep.py"]
fn sweep() {
    let root = std::env::var("SPAR_SWEEP").expect("SPAR_SWEEP names the directory of the models");
    let (mut agree, mut refused, mut wrong, mut largest) = (0, Vec::new(), Vec::new(), 0.0f64);
    let mut models: Vec<_> = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    models.sort();
    for dir in models {
        testing::tokenizer().save(dir.join("tokenizer.json"), false).unwrap();
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let expected: Value = serde_json::from_slice(&std::fs::read(dir.join("expected.json")).unwrap()).unwrap();
        let tokens: Vec<u32> = serde_json::from_value(expected["tokens"].clone()).unwrap();
        let expected: Vec<f64> = serde_json::from_value(expected["logprobs"].clone()).unwrap();
        for form in forms() {
            let opened = ModelDir::open(&dir).and_then(|opened| NativeEngine::load(opened, form.clone()));
            let engine = match opened {
                Ok(engine) => engine,
                Err(error) => {
                    refused.push(format!("{name}: {error}"));
                    break;
                }
            };
            let found = logprobs(&all_logits(&engine, &tokens), &tokens);
            let error = found.iter().zip(&expected).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            match error < 1e-3 {
                true => agree += 1,
                false => wrong.push(format!("{name} on {:?}: {error}", form.processor)),
            }
            largest = largest.max(if error < 1e-3 { error } else { 0.0 });
        }
    }
    println!("{agree} agree up to {largest:.2e}, {} are refused, {} are wrong", refused.len(), wrong.len());
    refused.iter().for_each(|line| println!("refused: {line}"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
