//! The default model, as a fresh checkout serves it.

use serde_json::json;
use spar::config::{EngineArgs, EngineKind, NativeArgs, UpstreamArgs};
use spar::engine::load::load;
use spar::http::Served;

use super::harness::{Server, with};

/// Every engine of this build that computes.
const ENGINES: &[EngineKind] =
    if cfg!(feature = "mistral") { &[EngineKind::Native, EngineKind::Mistral] } else { &[EngineKind::Native] };

#[tokio::test]
async fn the_embedded_model_answers_plainly_streamed_and_with_search_on_every_engine() {
    let mut texts = Vec::new();
    for &engine in ENGINES {
        texts.push(answers(engine).await);
    }
    assert!(texts.iter().all(|text| *text == texts[0]), "engines differ: {texts:?}");
}

/// The plain answer, after it was asked for in all ways.
async fn answers(engine: EngineKind) -> String {
    let args = EngineArgs {
        model: None,
        refiner: None,
        templates: None,
        served_name: None,
        engine,
        native: NativeArgs::default(),
        upstream: UpstreamArgs::default(),
    };
    let loaded = load(&args).unwrap();
    let server = Server::serving(Served::new(loaded.name, loaded.generations), &[], None).await;
    server.ready().await;
    let body = json!({"model": "spar-tiny", "max_tokens": 24, "temperature": 0,
                      "messages": [{"role": "user", "content": "Write about what the river does. Use at least 12 words. Do not use any commas. Include the word lantern somewhere."}]});
    let plain = server.answer(&body).await;
    let text = plain["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(plain["usage"]["completion_tokens"].as_u64().unwrap() > 0);
    let events = server.stream(&with(body.clone(), json!({"stream": true}))).await;
    assert_eq!(events.text(0), text, "a stream says the same");
    let searched = server.answer(&with(body, json!({"search_budget": 2, "seed": 1}))).await;
    assert_eq!(searched["search"]["generation"], json!({"actor": "g-1", "refiner": "g-2"}));
    assert!(searched["search"]["nodes"].as_u64().unwrap() <= 2);
    text.to_owned()
}
