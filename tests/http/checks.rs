//! Which checks a conversation states.

use reqwest::StatusCode;
use serde_json::json;

use super::harness::{Server, improving, json_of};

#[tokio::test]
async fn stated_checks_are_shown_without_a_model_call() {
    let server = Server::start(improving(), &[]).await;
    let body = json!({"messages": [
        {"role": "system", "content": "Never use commas."},
        {"role": "user", "content": [{"type": "text", "text": "Explain “rain” in less than 50 words."}]},
    ]});
    let stated = json_of(server.post("/v1/checks", &body), StatusCode::OK).await;
    let expected = json!({"checks": [
        {"id": "punctuation:no_comma", "kwargs": {}, "words": "Never use commas"},
        {
            "id": "length_constraints:number_words",
            "kwargs": {"relation": "less than", "num_words": 50},
            "words": "less than 50 words",
        },
    ]});
    assert_eq!(stated, expected);
    let metrics = server.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"route="/v1/checks""#), "{metrics}");

    let nothing = json!({"messages": [{"role": "user", "content": "How do I write without commas?"}]});
    assert_eq!(json_of(server.post("/v1/checks", &nothing), StatusCode::OK).await, json!({"checks": []}));
    for (body, param) in [
        (json!({}), "messages"),
        (json!({"messages": []}), "messages"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "messages[0].role"),
    ] {
        let error = json_of(server.post("/v1/checks", &body), StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], param, "{error}");
    }
}

/// With these checks the draft of [`improving`] keeps the first, and its refinement both.
#[tokio::test]
async fn every_judged_node_says_which_checks_it_keeps_in_the_order_of_the_report() {
    let server = Server::start(improving(), &[]).await;
    let body = json!({
        "messages": [{"role": "user", "content": "Write."}],
        "stream": true, "stream_options": {"include_usage": true}, "search_budget": 4,
        "search": {"events": true, "judge": "rules", "checks": [
            {"id": "punctuation:no_comma"},
            {"id": "keywords:existence", "kwargs": {"keywords": ["refined"]}},
        ]},
    });
    let events = server.stream(&body).await;
    let of = |event: &str| &events.chunks.iter().find(|chunk| chunk["search_event"] == event).unwrap()["search_node"];
    assert!(of("drafted").get("holds").is_none(), "nothing is known of a draft that was not judged");
    assert_eq!(of("root_judged")["holds"], json!([true, false]));
    assert_eq!(of("node_added")["holds"], json!([true, true]));
    let report = &events.chunks.last().unwrap()["search"];
    assert_eq!(report["checks"][1]["id"], "keywords:existence");
    assert_eq!(report["tree"][0]["holds"], json!([true, false]));
    let best = usize::try_from(report["best"].as_u64().unwrap()).unwrap();
    assert_eq!(
        (report["tree"][best]["holds"].clone(), report["tree"][best]["accepted"].clone()),
        (json!([true, true]), json!(true))
    );
}
