//! The network that is trained is the network that is served.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use spar::chat::Message;
use spar::engine::model_dir::ModelDir;
use spar::engine::native::{NativeConfig, NativeEngine};
use spar::engine::{Completion, EngineExt, Input, Purpose, Request, Sampling};
use spar::weights::QkNorm;
use spar_training::checkpoint::{Configuration, export};
use spar_training::model::cpu::{Arithmetic, Packed, Workspace};
use spar_training::model::params::Precision;
use spar_training::model::shape::with_heads;
use spar_training::model::{DenseConfig, Params, shape};
use spar_training::stages::prompts::instance;
use spar_training::world::Split;

/// The reply's log-probabilities are those that training computes.
fn same_logprobs(config: &DenseConfig, params: &Params, prompt: &[u32], reply: &Completion) {
    let said: Vec<u32> = reply.logprobs.iter().map(|t| t.token.id).collect();
    let mut batch = Packed::default();
    batch.push(&[prompt, &said].concat());
    let mut workspace = Workspace::new(config, Arithmetic::F32);
    workspace.forward(params, &batch).unwrap();
    let computed = workspace.log_probs(params, &batch);
    for (served, computed) in reply.logprobs.iter().zip(&computed[prompt.len() - 1..]) {
        assert!((served.token.logprob - computed).abs() < 1e-3, "{} and {computed}", served.token.logprob);
    }
}

#[tokio::test]
async fn the_trained_network_gives_the_served_logprobs() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/actor"));
    let config = shape::load(directory).unwrap();
    let params = Params::load(&config, directory).unwrap();
    let engine = NativeEngine::load(ModelDir::open(directory).unwrap(), NativeConfig::default()).unwrap();
    for index in 0..50 {
        let turns = vec![Message::user(instance(Split::HeldOut, 1, index).prompt)];
        let prompt = engine.dir().encode(&Input::chat(turns.clone())).unwrap();
        let request = Request {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            logprobs: Some(0),
            ..Request::chat(Purpose::Answer, turns)
        };
        let reply = engine.generate(request).await.unwrap();
        same_logprobs(&config, &params, &prompt, &reply);
    }
}

/// Qwens of random weights, as `spar-train` writes them.
#[tokio::test]
async fn biases_and_norms_of_heads_are_served_as_they_are_trained() {
    let embedded = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/actor"));
    let llama = with_heads(DenseConfig { hidden: 64, ..shape::load(embedded).unwrap() }, 4, 1, 16);
    let qwen2 = DenseConfig { qkv_bias: true, ..llama.clone() };
    let qwen3 = DenseConfig { qk_norm: QkNorm::Heads, ..with_heads(llama, 4, 1, 24) };
    for config in [qwen2, qwen3] {
        let directory = tempfile::tempdir().unwrap();
        let mut params = Params::random(&config, 3);
        for entry in params.layout.clone().entries.iter().filter(|entry| entry.shape.len() == 1) {
            params.data[entry.range.clone()].iter_mut().enumerate().for_each(|(i, x)| *x += (i % 5) as f32 * 0.2 - 0.4);
        }
        export(directory.path(), Configuration::New { config: &config, end: Some(0) }, &params, Precision::F32)
            .unwrap();
        for file in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(embedded.join(file), directory.path().join(file)).unwrap();
        }
        let read = shape::load(directory.path()).unwrap();
        assert_eq!(Params::load(&read, directory.path()).unwrap().data, params.data);
        let engine = NativeEngine::load(ModelDir::open(directory.path()).unwrap(), NativeConfig::default()).unwrap();
        let request = Request {
            sampling: Sampling { temperature: 0.0, ignore_eos: true, ..Sampling::default() },
            logprobs: Some(0),
            max_tokens: Some(40),
            ..Request::chat(Purpose::Answer, vec![Message::user("Say something.".to_owned())])
        };
        let prompt = engine.dir().encode(&request.input).unwrap();
        let reply = engine.generate(request).await.unwrap();
        assert_eq!(reply.logprobs.len(), 40);
        same_logprobs(&config, &params, &prompt, &reply);
    }
}
