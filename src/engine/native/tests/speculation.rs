//! Replies with prompt lookup are those without it.

use super::*;

/// Words that occur again and again, so that much can be copied, rightly and wrongly.
fn words(seed: u64, count: u64) -> Vec<&'static str> {
    const WORDS: [&str; 12] =
        ["river", "a", "the", "quiet", "lantern", "of", "stone", "and", "carries", "old", "small", "in"];
    (0..count).map(|i| WORDS[(derive_seed(seed, i) % 12) as usize]).collect()
}

/// Refinement `n`, whose reply mostly repeats what the prompt says, or itself, or nothing.
fn refinement(n: u64) -> Request {
    let pick = |what: u64, below: u64| derive_seed(derive_seed(7, n), what) % below;
    let parent = words(pick(0, 5), 20 + pick(1, 30));
    let edited: Vec<&str> = parent
        .iter()
        .enumerate()
        .map(|(at, word)| if pick(100 + at as u64, 10) == 0 { "moon shore" } else { word })
        .collect();
    let (parent, edited) = (parent.join(" "), edited.join(" "));
    let messages =
        vec![Message::user(format!("Improve this: {parent}.")), Message::assistant(parent), Message::user("Do.")];
    Request {
        sampling: Sampling {
            temperature: [0.0, 0.7, 1.5][pick(2, 3) as usize],
            top_p: [1.0, 0.9][pick(3, 2) as usize],
            top_k: [None, Some(20)][pick(4, 2) as usize],
            min_p: [0.0, 0.05][pick(5, 2) as usize],
            frequency_penalty: [0.0, 0.4][pick(6, 2) as usize],
            presence_penalty: [0.0, 0.3][pick(7, 2) as usize],
            repetition_penalty: [1.0, 1.2][pick(8, 2) as usize],
            logit_bias: if pick(9, 3) == 0 { vec![(100, 3.0), (101, -3.0)] } else { vec![] },
            ignore_eos: pick(10, 4) == 0,
            seed: n,
            ..Sampling::default()
        },
        samples: 1 + pick(11, 3) as usize,
        max_tokens: [Some(1 + pick(12, 90) as usize), Some(200), None][pick(13, 3) as usize],
        logprobs: [None, Some(0), Some(2)][pick(14, 3) as usize],
        stop: [vec![], vec!["stone a".into(), "xyz".into()], vec![" and".into()]][pick(15, 3) as usize].clone(),
        constraint: match pick(16, 5) {
            0 => None,
            1 => Some(Constraint::Regex("[a-z ]{60}!".into())),
            2 => Some(Constraint::Lark(format!("start: \"{edited}\" | \"no\""))),
            _ => Some(Constraint::Regex(edited)),
        },
        ..Request::chat(Purpose::Refine, messages)
    }
}

fn model() -> TinyModel {
    TinyModel { context: 700, ..TinyModel::default() }
}

/// Tokens that were copied, rightly and wrongly.
fn speculated(engine: &NativeEngine) -> [u64; 2] {
    let counters = engine.counters();
    [&counters.speculated_accepted, &counters.speculated_rejected].map(|counter| counter.load(Ordering::Relaxed))
}

#[tokio::test]
async fn replies_are_the_same_with_and_without_speculation() {
    const REQUESTS: u64 = 80;
    let alone = NativeConfig { speculate: 0, threads: 1, cache_bytes: 0, ..NativeConfig::default() };
    let without = engine_with(&model(), alone);
    let mut expected = Vec::new();
    for n in 0..REQUESTS {
        expected.push(content(run(&without, refinement(n)).await));
    }
    assert_eq!(speculated(&without), [0, 0]);
    let configs = [
        NativeConfig { threads: 1, ..NativeConfig::default() },
        NativeConfig { threads: 2, speculate: 3, step_rows: 40, ..NativeConfig::default() },
        NativeConfig { threads: 3, cache_bytes: 60_000, ..NativeConfig::default() },
    ];
    for (index, config) in configs.into_iter().enumerate() {
        let engine = engine_with(&model(), config);
        for at_once in [1, 7, 20] {
            for first in (0..REQUESTS).step_by(at_once) {
                let all = first..REQUESTS.min(first + at_once as u64);
                join_all(all.map(async |n| {
                    let leaves =
                        derive_seed(n, index as u64).is_multiple_of(4).then_some(derive_seed(n, 9) as usize % 30);
                    let whole = &expected[n as usize];
                    let Some(chunks) = leaves.filter(|_| at_once > 1) else {
                        return assert_eq!(&content(run(&engine, refinement(n)).await), whole, "request {n}");
                    };
                    for (seen, whole) in leave_after(&engine, refinement(n), chunks).await.iter().zip(whole) {
                        assert!(is_beginning(seen, whole), "request {n}: {seen:?} {whole:?}");
                    }
                }))
                .await;
            }
        }
        let [accepted, rejected] = speculated(&engine);
        println!("config {index}: {accepted} tokens accepted, {rejected} rejected");
        assert!(accepted > 2_000 && rejected > 500, "{accepted} {rejected}");
        let counters = engine.counters().clone();
        until("every running block is given back", || counters.running_blocks() == 0).await;
    }
}

/// What a rejected position left in a block would show in the turns that begin with it.
#[tokio::test]
async fn later_turns_find_only_what_replies_have() {
    let configs = [32, 0].map(|speculate| NativeConfig { threads: 1, speculate, ..NativeConfig::default() });
    let [with, without] = configs.map(|config| engine_with(&model(), config));
    let fresh = engine_with(&model(), NativeConfig { cache_bytes: 0, ..two_threads() });
    for n in 0..60 {
        let request = Request { samples: 1, max_tokens: Some(60), ..refinement(n) };
        let reply = run(&with, request.clone()).await.remove(0);
        run(&without, request.clone()).await;
        let Input::Chat(mut messages) = request.input else { unreachable!() };
        messages.messages.extend([Message::assistant(reply.text), Message::user("And now?")]);
        let next = Request { input: Input::Chat(messages), ..greedy("", 8) };
        let expected = run(&fresh, next.clone()).await;
        let (found, plainly) = (run(&with, next.clone()).await, run(&without, next).await);
        assert_eq!(found, plainly, "as many positions are found, and they give the same reply");
        assert_eq!(content(found), content(expected), "request {n}");
    }
    let [accepted, rejected] = speculated(&with);
    assert!(accepted > 500 && rejected > 100, "{accepted} {rejected}");
}

/// A model that is large enough for a team, with a vocabulary that a team draws from.
#[tokio::test]
async fn a_team_draws_the_same_tokens() {
    let model = TinyModel {
        hidden: 256,
        intermediate: 4096,
        heads: 4,
        kv_heads: 2,
        head_dim: 64,
        vocabulary: 50_000,
        ..model()
    };
    let [with, without] = [32, 0].map(|speculate| engine_with(&model, NativeConfig { speculate, ..two_threads() }));
    assert!(with.runtime.model.bytes() > 64 << 20, "it is large");
    let requests: Vec<Request> =
        (0..6).map(|n| Request { max_tokens: Some(60), samples: 1, ..refinement(n) }).collect();
    let all = async |engine: &NativeEngine| join_all(requests.iter().map(|request| run(engine, request.clone()))).await;
    let (found, expected) = (all(&with).await, all(&without).await);
    for (found, expected) in found.into_iter().zip(expected) {
        assert_eq!(content(found), content(expected));
    }
    assert!(speculated(&with)[0] > 50, "{:?}", speculated(&with));
}

#[tokio::test]
async fn only_refinements_speculate() {
    let engine = engine_with(&model(), two_threads());
    let looping = |purpose| Request { purpose, ..greedy("the same again and again and again and again", 100) };
    for purpose in [Purpose::Answer, Purpose::Judge] {
        run(&engine, looping(purpose)).await;
        assert_eq!(speculated(&engine), [0, 0]);
    }
    run(&engine, looping(Purpose::Refine)).await;
    let [accepted, rejected] = speculated(&engine);
    assert!(accepted + rejected > 0);
}
