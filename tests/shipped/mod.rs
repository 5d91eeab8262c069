//! The shipped weights: every engine computes the same with them, alone and in company.

use std::path::Path;

use futures::future::join_all;
use spar::chat::Message;
use spar::engine::model_dir::ModelDir;
use spar::engine::native::{NativeConfig, NativeEngine};
use spar::engine::{Engine, EngineExt, Purpose, Request, Sampling};
use spar::verify::data::read_prompts;

const ASSETS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/spar-tiny");

fn model(role: &str) -> ModelDir {
    ModelDir::open(Path::new(ASSETS).join(role)).unwrap()
}

fn native() -> NativeEngine {
    NativeEngine::load(model("actor"), NativeConfig::default()).unwrap()
}

fn prompts(count: usize) -> Vec<String> {
    let held_out = read_prompts(&Path::new(ASSETS).join("held-out.jsonl")).unwrap().items;
    assert!(held_out.len() >= 500, "too few held-out prompts to report on");
    held_out.into_iter().take(count).map(|p| p.prompt).collect()
}

fn ask(prompt: &str, temperature: f32) -> Request {
    Request {
        sampling: Sampling { temperature, seed: 5, ..Sampling::default() },
        logprobs: Some(3),
        ..Request::chat(Purpose::Answer, vec![Message::user(prompt)])
    }
}

async fn equal_alone_and_together(engine: &dyn Engine, temperature: f32) {
    let prompts = prompts(16);
    let together = join_all(prompts.iter().map(|p| engine.generate(ask(p, temperature)))).await;
    for (prompt, reply) in prompts.iter().zip(together) {
        let alone = engine.generate(ask(prompt, temperature)).await.unwrap();
        assert_eq!(reply.unwrap().text, alone.text, "{prompt}");
    }
}

#[tokio::test]
async fn sixteen_prompts_at_once_answer_as_each_alone() {
    for temperature in [0.0, 1.0] {
        equal_alone_and_together(&native(), temperature).await;
    }
}

#[tokio::test]
async fn a_seed_fixes_the_text() {
    let engine = native();
    let prompt = &prompts(1)[0];
    let seeded = |seed| Request { sampling: Sampling { seed, ..Sampling::default() }, ..ask(prompt, 1.0) };
    let first = engine.generate(seeded(1)).await.unwrap();
    for _ in 0..9 {
        assert_eq!(engine.generate(seeded(1)).await.unwrap().text, first.text);
    }
    let others = join_all((2..12).map(|seed| engine.generate(seeded(seed)))).await;
    assert!(others.into_iter().any(|r| r.unwrap().text != first.text), "ten seeds and one text");
}

#[cfg(feature = "mistral")]
mod mistral {
    use spar::engine::mistral::{MistralConfig, MistralEngine};

    use super::*;

    #[tokio::test]
    async fn greedy_tokens_and_logprobs_are_the_native_engines() {
        let theirs = MistralEngine::load(model("actor"), MistralConfig::default()).unwrap();
        let ours = native();
        for prompt in prompts(200) {
            let (a, b) =
                (ours.generate(ask(&prompt, 0.0)).await.unwrap(), theirs.generate(ask(&prompt, 0.0)).await.unwrap());
            assert_eq!((&a.text, a.tokens, a.finish), (&b.text, b.tokens, b.finish), "{prompt}");
            for (x, y) in a.logprobs.iter().zip(&b.logprobs) {
                assert_eq!(x.token.id, y.token.id);
                assert!((x.token.logprob - y.token.logprob).abs() < 1e-3, "{x:?} {y:?}");
            }
        }
    }

    #[tokio::test]
    async fn sixteen_prompts_at_once_answer_as_each_alone() {
        let engine = MistralEngine::load(model("actor"), MistralConfig::default()).unwrap();
        for temperature in [0.0, 1.0] {
            equal_alone_and_together(&engine, temperature).await;
        }
    }
}
