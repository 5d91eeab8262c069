//! Adapters as the names of models: several at once, each pinned by the requests that name it.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::super::harness::{json_of, with};
use super::world::{World, actor_of, fingerprint};

/// The generation and the text of an answer by `model`.
async fn says(world: &World, model: &str) -> (String, String) {
    let response = world.server.chat(&with(fingerprint(), json!({ "model": model }))).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{model}");
    let actor = actor_of(&response);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["model"], model);
    (actor, body["choices"][0]["message"]["content"].as_str().unwrap().to_owned())
}

async fn load(world: &World, body: Value, status: StatusCode) -> String {
    let response = world.server.post("/v1/load_lora_adapter", &body).bearer_auth("admin").send().await.unwrap();
    let found = response.status();
    let text = response.text().await.unwrap();
    assert_eq!(found, status, "{text}");
    text
}

async fn unload(world: &World, name: &str, status: StatusCode) {
    let call = world.server.post("/v1/unload_lora_adapter", &json!({ "lora_name": name })).bearer_auth("admin");
    assert_eq!(call.send().await.unwrap().status(), status);
}

async fn models(world: &World) -> Vec<(String, Value)> {
    let list = json_of(world.server.get("/v1/models"), StatusCode::OK).await;
    let card = |card: &Value| (card["id"].as_str().unwrap().to_owned(), card["parent"].clone());
    list["data"].as_array().unwrap().iter().map(card).collect()
}

#[tokio::test]
async fn several_adapters_answer_by_their_names_next_to_the_model_without_one() {
    let world = World::start(&["--max-adapters", "2"]).await;
    let (base_id, base) = world.fingerprint().await;
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        world.adapter("actor", name, seed);
    }
    let body = |name: &str| json!({ "lora_name": name, "lora_path": world.path(name) });
    let added = load(&world, body("one"), StatusCode::OK).await;
    assert_eq!(added, "Success: LoRA adapter 'one' added successfully.");
    load(&world, body("two"), StatusCode::OK).await;
    let (one, two) = (says(&world, "one").await, says(&world, "two").await);
    assert_eq!(world.fingerprint().await, (base_id.clone(), base.clone()));
    assert!(one.1 != base && two.1 != base && one.1 != two.1 && one.0 != two.0, "{one:?} {two:?}");
    let expected = [
        ("fake", json!(null)),
        ("fake:search", json!("fake")),
        ("one", json!("fake")),
        ("one:search", json!("one")),
        ("two", json!("fake")),
        ("two:search", json!("two")),
    ];
    assert_eq!(models(&world).await, expected.map(|(id, parent)| (id.to_owned(), parent)));

    // A search of the adapter drafts with it.
    let searched = with(fingerprint(), json!({ "model": "one:search", "search_budget": 1 }));
    let answer = world.server.answer(&searched).await;
    assert_eq!(answer["search"]["generation"]["actor"], one.0);
    let continued = json!({ "model": "two", "prompt": "The river", "max_tokens": 8, "temperature": 0 });
    let two_says = json_of(world.server.post("/v1/completions", &continued), StatusCode::OK).await;
    let base_says =
        json_of(world.server.post("/v1/completions", &with(continued, json!({ "model": "fake" }))), StatusCode::OK)
            .await;
    assert_ne!(two_says["choices"][0]["text"], base_says["choices"][0]["text"]);

    // What is refused changes nothing.
    let text = load(&world, body("three"), StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(text.contains("--max-adapters"), "{text}");
    let text = load(&world, body("one"), StatusCode::BAD_REQUEST).await;
    assert!(text.contains("load_inplace"), "{text}");
    for name in ["fake", "a:search", ""] {
        let refused = json!({ "lora_name": name, "lora_path": world.path("one") });
        assert!(load(&world, refused, StatusCode::BAD_REQUEST).await.contains("lora_name"));
    }
    let missing = json!({ "lora_name": "one", "lora_path": world.path("nowhere"), "load_inplace": true });
    load(&world, missing, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(says(&world, "one").await, one);

    let replaced = json!({ "lora_name": "one", "lora_path": world.path("three"), "load_inplace": true });
    load(&world, replaced, StatusCode::OK).await;
    let three = says(&world, "one").await;
    assert!(three.0 != one.0 && three.1 != one.1);
    unload(&world, "one", StatusCode::OK).await;
    unload(&world, "one", StatusCode::NOT_FOUND).await;
    let gone = with(fingerprint(), json!({ "model": "one" }));
    json_of(world.server.chat(&gone), StatusCode::NOT_FOUND).await;
    assert_eq!(says(&world, "two").await, two);
    let listed = world.generations().await;
    let row = |id: &str| listed["data"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
    assert_eq!((&row(&two.0)["state"], &row(&two.0)["served_as"]), (&json!("live"), &json!("two")));
    assert_eq!((&row(&one.0)["state"], &row(&three.0)["state"]), (&json!("retired"), &json!("retired")));
}

#[tokio::test]
async fn a_request_ends_with_the_adapter_that_it_began_with() {
    let world = World::start(&[]).await;
    world.adapter("actor", "one", 1);
    load(&world, json!({ "lora_name": "one", "lora_path": world.path("one") }), StatusCode::OK).await;
    let body = with(fingerprint(), json!({ "model": "one", "stream": true, "max_tokens": 400, "ignore_eos": true }));
    let mut response = world.server.chat(&body).send().await.unwrap();
    let id = actor_of(&response);
    response.chunk().await.unwrap().unwrap();
    unload(&world, "one", StatusCode::OK).await;
    let listed = world.generations().await;
    let row = listed["data"].as_array().unwrap().iter().find(|row| row["id"] == id.as_str()).unwrap().clone();
    let ended_early = row["state"] == "retired";
    assert!(ended_early || (row["state"] == "draining" && row["pins"].as_u64() >= Some(1)), "{row}");
    let mut text = String::new();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
}

#[tokio::test]
async fn adapters_stay_through_swaps_of_adapters_and_leave_with_their_weights() {
    let world = World::start(&[]).await;
    world.adapter("actor", "one", 1);
    world.adapter("actor", "two", 2);
    world.variant("actor", "better", 3);
    load(&world, json!({ "lora_name": "one", "lora_path": world.path("one") }), StatusCode::OK).await;
    let one = says(&world, "one").await;
    world.swap("actor", json!({ "adapter_path": "two" })).await;
    assert_eq!(says(&world, "one").await, one);
    world.swap("actor", json!({ "model_path": "better" })).await;
    let gone = with(fingerprint(), json!({ "model": "one" }));
    json_of(world.server.chat(&gone), StatusCode::NOT_FOUND).await;
    // An adapter belongs to the weights that it was trained on.
    let other = json!({ "lora_name": "one", "lora_path": world.path("one") });
    load(&world, other, StatusCode::UNPROCESSABLE_ENTITY).await;
    world.adapter("better", "on-better", 4);
    load(&world, json!({ "lora_name": "one", "lora_path": world.path("on-better") }), StatusCode::OK).await;
    let on_better = says(&world, "one").await;
    assert!(on_better.0 != one.0 && on_better.1 != one.1);
    // Where the old weights leave first, those who use an adapter on them are waited for.
    let drained = world.swap("actor", json!({ "model_path": "actor", "mode": "drain" })).await;
    assert_eq!(drained["mode"], "drain");
    json_of(world.server.chat(&gone), StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn adapters_that_were_loaded_by_name_come_back_after_a_restart() {
    let world = World::start(&[]).await;
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        world.adapter("actor", name, seed);
    }
    let by_flag = format!("flagged={}", world.path("three").display());
    let world = world.restarted(&["--lora-modules", &by_flag]).await;
    for name in ["one", "two"] {
        load(&world, json!({ "lora_name": name, "lora_path": world.path(name) }), StatusCode::OK).await;
    }
    let before = says(&world, "one").await;
    unload(&world, "two", StatusCode::OK).await;
    // Neither their directories nor the flag are needed any more; what was unloaded stays so.
    std::fs::remove_dir_all(world.path("one")).unwrap();
    let world = world.restarted(&[]).await;
    assert_eq!(says(&world, "one").await.1, before.1);
    let listed = json_of(world.server.get("/v1/models"), StatusCode::OK).await.to_string();
    assert!(!listed.contains("\"two\"") && !listed.contains("flagged"), "{listed}");
    // Unloaded after the restart, it does not come back.
    unload(&world, "one", StatusCode::OK).await;
    let world = world.restarted(&[]).await;
    let gone = with(fingerprint(), json!({ "model": "one" }));
    json_of(world.server.chat(&gone), StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn adapters_are_named_at_the_start_and_again_after_a_restart() {
    let world = World::start(&[]).await;
    world.adapter("actor", "one", 1);
    world.adapter("actor", "two", 2);
    let modules = format!("mine={},yours={}", world.path("one").display(), world.path("two").display());
    let world = world.restarted(&["--lora-modules", &modules]).await;
    let (mine, yours) = (says(&world, "mine").await, says(&world, "yours").await);
    assert!(mine.1 != yours.1 && mine.0 != yours.0);
    world.adapter("refiner", "judge", 3);
    world.swap("refiner", json!({ "adapter_path": "judge" })).await;
    let world = world.restarted(&["--lora-modules", &modules]).await;
    let again = says(&world, "mine").await;
    assert_eq!(again.1, mine.1);
    let listed = world.generations().await;
    let ids: Vec<_> =
        listed["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect();
    assert!(ids.iter().enumerate().all(|(at, id)| !ids[..at].contains(id)) && ids.contains(&again.0), "{ids:?}");
}
