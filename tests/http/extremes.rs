//! Numbers at the ends of their ranges: answered or refused, and never the model's fault.

use reqwest::StatusCode;
use serde_json::{Value, json};

use super::harness::{Server, json_of, says, with};

/// Draws that are allowed, however odd.
fn extremes() -> Vec<Value> {
    let every_token = |bias: f64| -> Value {
        (0..512).map(|id| (id.to_string(), json!(bias))).collect::<serde_json::Map<_, _>>().into()
    };
    let mut single = vec![json!({}), json!({"temperature": 0}), json!({"temperature": 2})];
    for tiny in [5e-324, 1e-46, 1e-45, 1e-38, 1e-30, 1e-7] {
        single.extend([json!({"temperature": tiny}), json!({"top_p": tiny}), json!({"min_p": tiny})]);
    }
    single.extend([json!({"min_p": 1}), json!({"min_p": 0.999_999_999_9}), json!({"top_p": 0.999_999_999_9})]);
    single.extend([json!({"top_k": i64::MAX}), json!({"top_k": 1}), json!({"top_k": -1})]);
    single.extend([json!({"seed": i64::MIN}), json!({"seed": i64::MAX}), json!({"max_tokens": i64::MAX})]);
    for penalty in [0.01, 0.5, 2.0, 10.0] {
        single.push(json!({"repetition_penalty": penalty}));
    }
    for bias in [-100.0, 100.0, 1e-300] {
        single.push(json!({"logit_bias": every_token(bias)}));
    }
    let mut all = single;
    for temperature in [0.0, 1e-30, 2.0] {
        for (repetition, other, bias) in
            [(0.01, -2.0, 100.0), (10.0, 2.0, -100.0), (0.01, 2.0, -100.0), (10.0, -2.0, 100.0)]
        {
            all.push(json!({
                "temperature": temperature, "top_p": 1e-30, "min_p": 1, "repetition_penalty": repetition,
                "frequency_penalty": other, "presence_penalty": other, "logit_bias": every_token(bias),
            }));
        }
    }
    all
}

/// What a client asks for is never counted as a failure of the weights.
#[tokio::test]
async fn extreme_draws_are_answered() {
    for server in Server::of_each_engine(&[]).await {
        for fields in extremes() {
            let body = with(with(says("hello"), json!({"max_tokens": 4, "logprobs": true, "seed": 1})), fields.clone());
            let answer = json_of(server.chat(&body), StatusCode::OK).await;
            let content = &answer["choices"][0]["logprobs"]["content"];
            assert!(content.as_array().is_some_and(|tokens| !tokens.is_empty()), "{fields}: {answer}");
            let searched = with(body, json!({"search_budget": 1, "search": {"judge_tokens": 16, "refine_tokens": 16}}));
            json_of(server.chat(&searched), StatusCode::OK).await;
        }
    }
}
