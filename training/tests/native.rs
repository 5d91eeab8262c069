//! The network that is trained is the network that is served.

#![allow(clippy::unwrap_used, reason = "a failed test may panic")]

use std::path::Path;

use spar::chat::Message;
use spar::engine::model_dir::ModelDir;
use spar::engine::native::{NativeConfig, NativeEngine};
use spar::engine::{Engine, Input, Purpose, Request, Sampling};
use spar_training::model::cpu::{Arithmetic, Packed, Workspace};
use spar_training::model::{LlamaConfig, Params};
use spar_training::stages::sample::instance;
use spar_training::world::Split;

#[tokio::test]
async fn the_trained_network_gives_the_served_logprobs() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/spar-tiny/actor"));
    let config = LlamaConfig::load(directory).unwrap();
    let params = Params::load(&config, directory).unwrap();
    let engine = NativeEngine::load(ModelDir::open(directory).unwrap(), NativeConfig::default()).unwrap();
    for index in 0..50 {
        let turns = vec![Message::user(instance(Split::HeldOut, 1, index).prompt)];
        let prompt = engine.dir().encode(&Input::Chat(turns.clone())).unwrap();
        let request = Request {
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            logprobs: Some(0),
            ..Request::chat(Purpose::Answer, turns)
        };
        let reply = engine.generate(request).await.unwrap();
        let mut batch = Packed::default();
        let said: Vec<u32> = reply.logprobs.iter().map(|t| t.token.id).collect();
        batch.push(&[prompt.as_slice(), &said].concat());
        let mut workspace = Workspace::new(&config, Arithmetic::F32);
        workspace.forward(&params, &batch).unwrap();
        let computed = workspace.log_probs(&params, &batch);
        for (served, computed) in reply.logprobs.iter().zip(&computed[prompt.len() - 1..]) {
            assert!((served.token.logprob - computed).abs() < 1e-3, "{} and {computed}", served.token.logprob);
        }
    }
}
