//! Weights that are quantized when they are loaded.

use super::super::Quantize;
use super::*;

/// The log-probabilities of a text's tokens.
async fn scored(engine: &NativeEngine) -> Vec<f32> {
    let text = "the quiet river runs to the sea and the lantern waits";
    let tokens = engine.score(Input::Text(text.into()), 0, Origin::default()).await.unwrap();
    tokens.iter().filter_map(|token| token.logprobs.as_ref()).map(|found| found.token.logprob).collect()
}

#[tokio::test]
async fn fewer_bits_are_less_memory_and_a_little_less_exact() {
    // Rows of 48 numbers are no whole blocks of 32, and have 8 bits instead of 4.
    for (intermediate, share) in [(256, 0.62), (48, 0.95)] {
        let model = TinyModel { hidden: 128, intermediate, heads: 4, head_dim: 32, layers: 4, ..TinyModel::default() };
        let load = |quantize| engine_with(&model, NativeConfig { quantize, ..two_threads() });
        let engines = [Quantize::None, Quantize::Q8, Quantize::Q4].map(load);
        let [exact, eight, four] = [scored(&engines[0]).await, scored(&engines[1]).await, scored(&engines[2]).await];
        let error =
            |found: &[f32]| exact.iter().zip(found).map(|(x, y)| (x - y).abs()).sum::<f32>() / exact.len() as f32;
        let (eight, four) = (error(&eight), error(&four));
        // A random model is sure of nothing, so this is far more than a trained one loses.
        assert!(0.0 < eight && eight < four && four < 0.6, "{eight} {four}");
        let [_, eight, four] = engines.each_ref().map(|engine| engine.runtime.model.bytes() as f64);
        assert!(four < share * eight, "{four} of {eight} bytes");
    }
}

#[tokio::test]
async fn replies_of_weights_in_four_bits_are_the_same_in_company() {
    let config = NativeConfig { quantize: Quantize::Q4, ..two_threads() };
    let engine =
        engine_with(&TinyModel { hidden: 64, intermediate: 128, head_dim: 16, ..TinyModel::default() }, config);
    let texts = ["the river", "a garden by the sea", "x"];
    let mut alone = Vec::new();
    for text in texts {
        alone.push(run(&engine, greedy(text, 24)).await.remove(0));
    }
    let together = join_all(texts.map(|text| run(&engine, greedy(text, 24)))).await;
    for (alone, together) in alone.iter().zip(&together) {
        assert_eq!((&alone.text, &alone.logprobs), (&together[0].text, &together[0].logprobs));
    }
}
