//! Several extreme fields at once, drawn by a fixed seed.

use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::corpus::{CHAT, Case, TEXT};
use super::texts::texts;

const CASES: usize = 120;

pub fn cases() -> Vec<Case> {
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let texts = texts();
    (0..CASES).map(|index| case(index, &texts, &mut random)).collect()
}

fn case(index: usize, texts: &[(&'static str, String)], random: &mut ChaCha8Rng) -> Case {
    let excerpt = |random: &mut ChaCha8Rng| -> String {
        let (_, text) = texts.choose(random).expect("there are texts");
        let most = random.random_range(0..300);
        text.chars().take(most).collect()
    };
    let search = random.random_bool(0.4);
    let chat = search || random.random_bool(0.6);
    let mut body = if chat {
        let turns = random.random_range(1..6);
        let turn = |random: &mut ChaCha8Rng| {
            let role = ["user", "user", "assistant", "system"].choose(random).expect("there are roles");
            json!({"role": role, "content": excerpt(random)})
        };
        let mut turns: Vec<Value> = (0..turns).map(|_| turn(random)).collect();
        turns.push(json!({"role": "user", "content": excerpt(random)}));
        json!({"messages": turns})
    } else {
        json!({"prompt": (0..random.random_range(1..4)).map(|_| excerpt(random)).collect::<Vec<_>>()})
    };
    for _ in 0..random.random_range(1..7) {
        let (field, values) = fields(chat).into_iter().choose(random).expect("there are fields");
        body[field] = values.choose(random).expect("there are values").clone();
    }
    if search {
        body["search_budget"] = json!(random.random_range(0..9));
        let strategy = ["auto", "bfs", "dfs", "best_of_n", "refine_chain"].choose(random);
        let judging = ["votes", "score", "cascade"].choose(random);
        let trace = ["none", "summary", "full"].choose(random);
        body["search"] = json!({
            "strategy": strategy, "judging": judging, "trace": trace,
            "branch": random.random_range(1..9), "keep": random.random_range(1..9), "votes": random.random_range(1..16),
            "depth": random.random_range(1..17), "judge_tokens": 16,
        });
    }
    Case::post(format!("seeded: {index}"), if chat { CHAT } else { TEXT }, &body)
}

/// Values at the edges of what is allowed, and a little beyond.
fn fields(chat: bool) -> Vec<(&'static str, Vec<Value>)> {
    let mut fields = vec![
        ("temperature", vec![json!(0), json!(1e-30), json!(2), json!(2.000_001)]),
        ("top_p", vec![json!(1e-9), json!(1), json!(0.999_999_999)]),
        ("top_k", vec![json!(-1), json!(0), json!(1), json!(i64::MAX)]),
        ("min_p", vec![json!(0), json!(1), json!(1e-300)]),
        ("frequency_penalty", vec![json!(-2), json!(2)]),
        ("presence_penalty", vec![json!(-2), json!(2)]),
        ("repetition_penalty", vec![json!(0.01), json!(0.5), json!(2)]),
        ("n", vec![json!(1), json!(4), json!(5)]),
        ("seed", vec![json!(i64::MIN), json!(-1), json!(i64::MAX)]),
        ("max_tokens", vec![json!(1), json!(2), json!(100_000)]),
        ("stop", vec![json!([]), json!("e"), json!(["a", "b", "c", "d"]), json!(["\0", "\u{FFFD}"])]),
        ("logit_bias", vec![json!({}), json!({"65": 100}), json!({"0": -100, "1": -100, "2": -100})]),
        ("ignore_eos", vec![json!(true), json!(false)]),
        ("stream", vec![json!(true), json!(false)]),
        ("user", vec![json!(""), json!("\0"), json!("u".repeat(10_000))]),
    ];
    if chat {
        fields.extend([
            ("logprobs", vec![json!(true), json!(false)]),
            ("response_format", vec![json!({"type": "text"}), json!({"type": "json_object"})]),
            (
                "structured_outputs",
                vec![json!({"choice": ["a", "b"]}), json!({"regex": "[a-z ]{1,40}"}), json!({"json": true})],
            ),
            (
                "chat_template_kwargs",
                vec![json!({}), json!({"enable_thinking": false}), json!({"a": [1, {"b": null}]})],
            ),
            ("reasoning_effort", vec![json!("none"), json!("high")]),
        ]);
    } else {
        fields.extend([("echo", vec![json!(true), json!(false)]), ("logprobs", vec![json!(0), json!(20), json!(21)])]);
    }
    fields
}
