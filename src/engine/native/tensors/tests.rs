use std::sync::atomic::Ordering;

use futures::future::join_all;

use super::super::batch::Row;
use super::super::blocks::BLOCK;
use super::super::tests::configurations::directory;
use super::super::tests::{engine_with, greedy, leave_after, mixed, run, sequence, until, with_adapters};
use super::super::{NativeConfig, NativeEngine, Processor, Quantize};
use super::clusters::{Cluster, Reach, slot};
use crate::engine::model_dir::ModelDir;
use crate::engine::{Completion, Engine, Input, Origin, Request, Sampling, derive_seed};
use crate::testing::{TinyModel, write_json, write_model};

fn tensors(config: NativeConfig) -> NativeConfig {
    NativeConfig { processor: Processor::Tensors, ..config }
}

/// The CPU form without anything kept, for replies alone.
fn alone() -> NativeConfig {
    NativeConfig { threads: 1, cache_bytes: 0, ..NativeConfig::default() }
}

/// Request `n` of a random mix, greedy and with the second choice for each token.
fn greedily(n: u64) -> Request {
    let request = mixed(n);
    let sampling = Sampling { temperature: 0.0, ..request.sampling };
    Request { sampling, logprobs: Some(2), ..request }
}

/// Tokens are equal and their log-probabilities within 1e-4, up to a place where two tokens are as likely.
fn same(ours: &[Completion], expected: &[Completion], what: &str) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    'replies: for (ours, expected) in ours.iter().zip(expected) {
        for (index, (a, b)) in ours.logprobs.iter().zip(&expected.logprobs).enumerate() {
            if b.top.len() > 1 && b.top[0].logprob - b.top[1].logprob < 1e-4 {
                continue 'replies;
            }
            let (x, y) = (a.token.logprob, b.token.logprob);
            assert!(a.token.id == b.token.id && (x - y).abs() < 1e-4, "{what}, token {index}: {a:?} {b:?}");
        }
        assert_eq!(
            (&ours.text, ours.tokens, ours.finish),
            (&expected.text, expected.tokens, expected.finish),
            "{what}"
        );
    }
}

/// Random company for each form of budget and step, against replies alone on the CPU form.
async fn in_company(expected: &[NativeEngine], engines: &[NativeEngine], mixes: u64) {
    const REQUESTS: u64 = 40;
    let which = |n: u64| n as usize % engines.len();
    let mut replies = Vec::new();
    for n in 0..REQUESTS {
        replies.push(run(&expected[which(n)], greedily(n)).await);
    }
    for mix in 0..mixes {
        let pick = |what: u64, below: u64| derive_seed(derive_seed(mix, 17), what) % below;
        join_all((0..3 + pick(0, 10)).map(async |i| {
            let n = pick(1 + i, REQUESTS);
            if pick(100 + i, 5) == 0 {
                leave_after(&engines[which(n)], greedily(n), pick(200 + i, 20) as usize).await;
            } else {
                let ours = run(&engines[which(n)], greedily(n)).await;
                same(&ours, &replies[n as usize], &format!("mix {mix}, request {n}"));
            }
        }))
        .await;
    }
    let counters = engines[0].counters();
    until("every running block is given back", || counters.running_blocks() == 0).await;
}

#[tokio::test]
async fn replies_with_adapters_in_company_are_those_of_the_cpu_form() {
    let expected = with_adapters(alone());
    for (cache_bytes, step_rows) in [(256 << 10, 256), (0, 40), (40_000, 32)] {
        let config = NativeConfig { cache_bytes, step_rows, ..NativeConfig::default() };
        in_company(&expected, &with_adapters(tensors(config)), 12).await;
    }
}

#[tokio::test]
async fn every_architecture_in_company_is_that_of_the_cpu_form() {
    let llama3 = serde_json::json!({ "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    let table = [
        ("mistral", "sliding_window", serde_json::json!(24)),
        ("qwen2", "vocab_size", serde_json::json!(320)),
        ("qwen3", "vocab_size", serde_json::json!(320)),
        ("llama", "rope_scaling", llama3),
    ];
    for (model_type, field, value) in table {
        let dir = tempfile::tempdir().unwrap();
        let model = TinyModel { model_type, tied: model_type == "qwen3", ..TinyModel::default() };
        write_model(dir.path(), &model);
        let mut config = model.config();
        config[field] = value;
        write_json(dir.path(), "config.json", &config);
        let load = |config| vec![NativeEngine::load(ModelDir::open(dir.path()).unwrap(), config).unwrap()];
        let small = NativeConfig { cache_bytes: 100_000, step_rows: 64, ..NativeConfig::default() };
        in_company(&load(alone()), &load(tensors(small)), 8).await;
    }
}

/// Layers that see windows and layers that see everything, those that turn and those that do not, norms, caps and scales.
#[tokio::test]
async fn relatives_of_llama_in_company_are_those_of_the_cpu_form() {
    let golden = include_str!("../../../../tests/golden/configurations.json");
    let golden: serde_json::Value = serde_json::from_str(golden).unwrap();
    for name in ["qwen 3, window by layer", "smollm 3", "gemma 2"] {
        let dir = directory(&golden[name]["config"]);
        let load = |config| vec![NativeEngine::load(ModelDir::open(dir.path()).unwrap(), config).unwrap()];
        let small = NativeConfig { cache_bytes: 100_000, step_rows: 64, ..NativeConfig::default() };
        in_company(&load(alone()), &load(tensors(small)), 6).await;
    }
}

#[tokio::test]
async fn replies_that_need_more_blocks_than_there_are_wait_for_each_other() {
    let model = TinyModel { context: 256, ..TinyModel::default() };
    let (cpu, ours) = (engine_with(&model, alone()), engine_with(&model, tensors(alone())));
    let request = |n: usize| Request { samples: 1 + n % 3, ..greedy(&format!("{n} {}", "a prompt ".repeat(n)), 150) };
    let mut expected = Vec::new();
    for n in 0..10 {
        expected.push(run(&cpu, request(n)).await);
    }
    let text = Input::Text("a text that is scored beside them, word by word. ".repeat(3));
    let scored = cpu.score(text.clone(), 0, Origin::default()).await.unwrap();
    let (replies, again) =
        futures::join!(join_all((0..10).map(|n| run(&ours, request(n)))), ours.score(text, 0, Origin::default()));
    for (n, replies) in replies.iter().enumerate() {
        same(replies, &expected[n], &format!("request {n}"));
    }
    for (a, b) in again.unwrap().iter().zip(&scored) {
        let logprob = |token: &crate::engine::ScoredToken| token.logprobs.as_ref().map_or(0.0, |l| l.token.logprob);
        assert!(a.id == b.id && (logprob(a) - logprob(b)).abs() < 1e-4, "{a:?} {b:?}");
    }
    // 19 replies of up to 8 blocks each, in 10.
    let computed = ours.counters().prompt_tokens_computed.load(Ordering::Relaxed);
    let once = cpu.counters().prompt_tokens_computed.load(Ordering::Relaxed);
    assert!(computed > once, "no sequence has given way: {computed} {once}");
    until("every block is given back", || ours.counters().blocks.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn prefixes_are_shared_to_the_token_and_copied_on_write() {
    let model = TinyModel::default();
    let (cpu, ours) = (engine_with(&model, alone()), engine_with(&model, tensors(NativeConfig::default())));
    let prompt = "what two prompts have in common may end in the middle of a block of positions. ".repeat(2);
    run(&ours, greedy(&prompt, 3)).await;
    for length in [1usize, 31, 33, 63, 64, 100] {
        let text = format!("{}{}", &prompt[..length], char::from(b'A' + (length % 26) as u8).to_string().repeat(40));
        let request = Request { samples: 3, ..greedy(&text, 40) };
        let found = run(&ours, request.clone()).await;
        same(&found, &run(&cpu, request).await, &format!("{length} characters"));
        let [before, now] = [&prompt, &text].map(|text| ours.dir().encode(&Input::Text(text.clone())).unwrap());
        let common = before.iter().zip(&now).take_while(|(a, b)| a == b).count();
        assert_eq!(found[0].cached_tokens, common, "{length} characters");
    }
}

#[tokio::test]
async fn a_lost_thread_is_replaced_on_the_same_weights() {
    let config = NativeConfig { stall: std::time::Duration::from_millis(400), ..NativeConfig::default() };
    let engine = engine_with(&TinyModel { context: 4096, ..TinyModel::default() }, tensors(config));
    let before = run(&engine, greedy("x", 20)).await;
    let endless = engine.start(greedy("hello", usize::MAX)).await.unwrap().remove(0);
    engine.runtime.fail(|| panic!("a fault on purpose"));
    assert!(endless.complete().await.is_err());
    until("the thread is started again", || engine.counters().restarts.load(Ordering::Relaxed) == 1).await;
    same(&run(&engine, greedy("x", 20)).await, &before, "after the restart");
}

#[test]
fn eight_bits_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_model(dir.path(), &TinyModel::default());
    let config = tensors(NativeConfig { quantize: Quantize::Q8, ..NativeConfig::default() });
    let error = NativeEngine::load(ModelDir::open(dir.path()).unwrap(), config).err().unwrap().to_string();
    assert!(error.contains("--quantize") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn siblings_look_at_their_prompt_together_and_each_row_sees_its_own_keys() {
    let engine = engine_with(&TinyModel::default(), tensors(NativeConfig::default()));
    let pool = engine.runtime.model.pool(200, Default::default());
    for window in [None, Some(50), Some(3)] {
        let reach = Reach { heads: 4, kv_width: 16, window };
        let mut prompt = sequence(&engine, &[7; 80]);
        prompt.own(&pool, 80);
        let mut sequences = vec![sequence(&engine, &[5; 70])];
        sequences[0].own(&pool, 70);
        let mut rows: Vec<Row> = (40..70).map(|position| Row { sequence: 0, position }).collect();
        for n in 1..6 {
            let mut sibling = sequence(&engine, &vec![7; 80 + n * 4]);
            (sibling.blocks, sibling.computed) = (prompt.blocks.clone(), 80);
            sibling.own(&pool, 80 + n * 4);
            rows.push(Row { sequence: n, position: 80 + n * 4 - 1 });
            sequences.push(sibling);
        }
        let clusters = reach.clusters(&rows, &sequences);
        // The first 64 positions are shared: all that siblings see but their last, half of what two see, or nothing.
        let expected = window.map_or(2, |window| if window == 50 { 5 } else { 6 });
        assert_eq!(clusters.len(), expected, "{window:?}");
        assert_eq!(clusters.iter().flat_map(Cluster::rows).collect::<Vec<_>>(), (0..rows.len()).collect::<Vec<_>>());
        for cluster in &clusters {
            let slots: Vec<u32> = cluster.slots(&sequences).collect();
            assert_eq!(slots.len(), cluster.keys());
            for (row, sight) in cluster.rows().zip(cluster.sight(&rows, &reach)) {
                let Row { sequence, position } = rows[row];
                let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
                let expected: Vec<u32> = (first..=position).map(|p| slot(&sequences[sequence], p)).collect();
                let seen: Vec<u32> = sight.into_iter().flat_map(|seen| slots[seen].to_vec()).collect();
                assert_eq!(seen, expected, "{window:?}, row {row}");
            }
        }
        let mut binned: Vec<usize> = reach.bins(&clusters).concat();
        binned.sort_unstable();
        assert_eq!(binned, (0..clusters.len()).collect::<Vec<_>>());
        assert!(slot(&sequences[0], 0) >= BLOCK as u32, "the block of zeros is nobody's");
    }
}
