//! What one key may learn of another: nothing by cached tokens, nothing by searches' ids.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::harness::{Server, improving, json_of, says, with};

/// Tokens of the prompt that were there already.
async fn cached(server: &Server, key: &str, secret: &str, fields: Value) -> u64 {
    let text = format!("Remember what I tell you and write about what the river does. My secret word is {secret} now.");
    let body = with(says(&text), with(json!({"max_tokens": 1, "temperature": 0}), fields));
    let answer = json_of(server.chat(&body).bearer_auth(key), StatusCode::OK).await;
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
}

/// As [`cached`] of the same prompt, once it is there: a prompt is kept a moment after its answer has gone out.
async fn again(server: &Server, key: &str, fields: Value) -> u64 {
    for _ in 0..100 {
        match cached(server, key, "lantern", fields.clone()).await {
            0..=20 => tokio::time::sleep(Duration::from_millis(5)).await,
            found => return found,
        }
    }
    panic!("its own prompt is not there");
}

#[tokio::test]
async fn cached_tokens_tell_nothing_of_another_keys_prompts() {
    let server = Server::native(&[], Some("alpha,beta")).await;
    let none = || json!({});
    assert_eq!(cached(&server, "alpha", "lantern", none()).await, 0);
    let own = again(&server, "alpha", none()).await;
    // Neither the right guess nor the wrong one finds anything.
    for guess in ["lantern", "window", "garden"] {
        let stranger = Server::native(&[], Some("alpha,beta")).await;
        cached(&stranger, "alpha", "lantern", none()).await;
        again(&stranger, "alpha", none()).await;
        assert_eq!(cached(&stranger, "beta", guess, none()).await, 0, "{guess}");
    }
    assert_eq!(cached(&server, "alpha", "lantern", json!({"cache_salt": "one"})).await, 0);
    assert_eq!(again(&server, "alpha", json!({"cache_salt": "one"})).await, own);
    assert_eq!(cached(&server, "alpha", "lantern", json!({"cache_salt": "two"})).await, 0);
    assert_eq!(cached(&server, "beta", "lantern", json!({"cache_salt": "one"})).await, 0, "a salt is a key's own");
}

#[tokio::test]
async fn a_flag_lets_keys_share_and_salts_still_part() {
    let server = Server::native(&["--shared-prefix-cache"], Some("alpha,beta")).await;
    cached(&server, "alpha", "lantern", json!({})).await;
    again(&server, "beta", json!({})).await;
    assert_eq!(cached(&server, "beta", "lantern", json!({"cache_salt": "one"})).await, 0);
    again(&server, "alpha", json!({"cache_salt": "one"})).await;
}

#[tokio::test]
async fn searches_judge_and_refine_in_their_keys_namespace() {
    let server = Server::native(&["--judging", "score", "--checks", "auto"], Some("alpha,beta")).await;
    let body = with(
        says("Write about what the river does. Use at least 12 words. Do not use any commas."),
        json!({"search_budget": 2, "seed": 1, "max_tokens": 24}),
    );
    let metric = async || {
        let text = server.metrics().await;
        let line = text.lines().find_map(|line| line.strip_prefix("spar_prefix_tokens_reused_total ")).unwrap();
        line.parse::<f64>().unwrap()
    };
    let search = async |key: &str| {
        json_of(server.chat(&body).bearer_auth(key), StatusCode::OK).await["usage"]["prompt_tokens_details"]
            ["cached_tokens"]
            .as_u64()
            .unwrap()
    };
    assert_eq!(search("alpha").await, 0);
    assert!(search("alpha").await > 0);
    assert!(metric().await > 0.0);
    assert_eq!(search("beta").await, 0);
}

#[tokio::test]
async fn a_search_is_shown_to_its_own_key_only() {
    let server = Server::with_keys(improving(), &[], Some("alpha,beta")).await;
    let body = with(says("hello"), json!({"search_budget": 2}));
    let answer = json_of(server.chat(&body).bearer_auth("alpha"), StatusCode::OK).await;
    let path = format!("/v1/searches/{}", answer["search"]["id"].as_str().unwrap());
    let own = json_of(server.get(&path).bearer_auth("alpha"), StatusCode::OK).await;
    assert_eq!(own["id"], answer["search"]["id"]);
    let other = json_of(server.get(&path).bearer_auth("beta"), StatusCode::NOT_FOUND).await;
    assert_eq!(other["error"]["code"], "search_not_found");
    json_of(server.get(&path), StatusCode::UNAUTHORIZED).await;
}
