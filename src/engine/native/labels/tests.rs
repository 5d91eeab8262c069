use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;

use super::super::tests::{content, engine, engine_with, forms, greedy, mixed, run, two_threads, until, with_adapters};
use super::super::{NativeConfig, NativeEngine};
use super::*;
use crate::chat::Message;
use crate::engine::labels::points::TokenizedQuestion;
use crate::engine::model_dir::ModelDir;
use crate::engine::{Engine, FinishReason, Input, Label, LabelSupport, Question, Request, Sampling, derive_seed};
use crate::testing::TinyModel;

/// Spellings with one token and with several, one that begins another, and one that occurs twice.
const SPELLINGS: [&[&str]; 3] = [&["hello", " hello"], &["the", "hello"], &["!", "world", "!?", "!"]];

fn labels() -> Vec<Label> {
    SPELLINGS.iter().map(|s| Label { spellings: s.iter().map(|&s| s.into()).collect() }).collect()
}

fn asking(questions: &[(&str, &str)]) -> LabelRequest {
    let question =
        |&(chat, reply): &(&str, &str)| Question { input: Input::chat(vec![Message::user(chat)]), reply: reply.into() };
    let questions = questions.iter().map(question).collect();
    LabelRequest { purpose: Purpose::Judge, questions, labels: labels(), origin: Origin::default() }
}

/// The log-probability that scoring the whole text gives to what follows the question.
async fn scored(engine: &NativeEngine, question: &Question, spelling: &str) -> f32 {
    let Input::Chat(messages) = &question.input else { panic!("a chat") };
    let asked = engine.dir.render(messages).unwrap() + &question.reply;
    let before = engine.dir.encode(&Input::Text(asked.clone())).unwrap().len();
    let tokens = engine.score(Input::Text(asked + spelling), 0, Origin::default()).await.unwrap();
    tokens[before..].iter().map(|token| token.logprobs.as_ref().unwrap().token.logprob).sum()
}

#[tokio::test]
async fn labels_have_the_probabilities_that_scoring_their_texts_gives() {
    let long = "a prompt that is longer than one block of keys and values, and a little more";
    let request = asking(&[(long, ""), (long, "the"), (long, "Its beginning: no"), ("other", ""), (long, "")]);
    for (form, config) in forms().into_iter().enumerate() {
        let engine = engine(config);
        assert_eq!(engine.capabilities().labels, LabelSupport::Replies);
        for _ in 0..2 {
            let scores = engine.read_labels(request.clone()).await.unwrap();
            for (question, logprobs) in request.questions.iter().zip(&scores.logprobs) {
                let mut expected = Vec::new();
                for spelling in ["hello", " hello", "the", "!", "world"] {
                    expected.push(scored(&engine, question, spelling).await);
                }
                let sum = |spellings: &[usize]| -> f32 {
                    spellings.iter().map(|&spelling| f64::from(expected[spelling]).exp()).sum::<f64>().ln() as f32
                };
                for (label, spellings) in [&[0, 1][..], &[2, 0], &[3, 4]].iter().enumerate() {
                    let (found, expected) = (logprobs[label], sum(spellings));
                    assert!((found - expected).abs() < 1e-4, "form {form}, {question:?}: {found} {expected}");
                }
            }
            assert_eq!(scores.logprobs[0], scores.logprobs[4]);
        }
        // One spelling of one label is exactly what scoring gives, since the same rows are computed.
        if form == 0 {
            for question in &request.questions {
                for spelling in ["hello", "the", "world"] {
                    let one = LabelRequest {
                        questions: vec![question.clone()],
                        labels: vec![Label { spellings: vec![spelling.into()] }],
                        ..request.clone()
                    };
                    let found = engine.read_labels(one).await.unwrap().logprobs;
                    assert_eq!(found, [[scored(&engine, question, spelling).await]]);
                }
            }
        }
    }
}

#[tokio::test]
async fn a_label_that_merges_with_the_question_is_read_from_the_token_before() {
    let engine = engine(two_threads());
    let labels = ["the", "no"].map(|text| Label { spellings: vec![text.into()] });
    let question = |text: &str| Question { input: Input::Text(text.into()), reply: " ".into() };
    let request = LabelRequest { questions: vec![question("x")], labels: labels.into(), ..asking(&[]) };
    let found = engine.read_labels(request).await.unwrap();
    for (text, found) in ["x the", "x no"].into_iter().zip(&found.logprobs[0]) {
        let tokens = engine.score(Input::Text(text.into()), 0, Origin::default()).await.unwrap();
        let expected: f32 = tokens[2..].iter().map(|token| token.logprobs.as_ref().unwrap().token.logprob).sum();
        assert_eq!(*found, expected, "{text:?}");
    }
    assert_eq!(found.prompt_tokens, 2);
}

#[test]
fn questions_part_where_that_saves_more_than_a_step() {
    let question =
        |tokens: &[u32]| TokenizedQuestion { tokens: tokens.to_vec(), labels: vec![vec![vec![9], vec![8, 9]]] };
    let tree = |questions: &[&[u32]]| {
        fn shown(branch: &Branch) -> String {
            let wanted: String = branch.wanted.iter().map(|(token, _)| format!("?{token}")).collect();
            let parts: Vec<String> = branch.parts.iter().map(shown).collect();
            let parts = if parts.is_empty() { String::new() } else { format!("({})", parts.join(" ")) };
            format!("{}{}{wanted}{parts}", if branch.asks { "" } else { "-" }, branch.tokens.len())
        }
        let points = Points::new(&questions.iter().map(|tokens| question(tokens)).collect::<Vec<_>>());
        let trees = branches(&points.points.iter().collect::<Vec<_>>(), 0);
        trees.iter().map(shown).collect::<Vec<_>>().join(" ")
    };
    let long = |rest: &[u32]| [&[1; 40], rest].concat();
    let table: [(&[&[u32]], &str); 6] = [
        (&[&[1, 2]], "2?8?9(-1?9)"),
        (&[&[1, 2], &[1, 3]], "2?8?9(-1?9) 2?8?9(-1?9)"),
        (&[&[1, 2], &[1, 2, 8, 3]], "2?8?9(1?9(1?8?9(-1?9)))"),
        (&[&long(&[2, 3]), &long(&[3]), &long(&[2, 3])], "40(2?8?9(-1?9) 1?8?9(-1?9))"),
        // The second level is not worth a step.
        (&[&long(&[2, 3]), &long(&[3]), &long(&[2, 4])], "40(2?8?9(-1?9) 2?8?9(-1?9) 1?8?9(-1?9))"),
        (&[&long(&[2]), &[2, 2]], "41?8?9(-1?9) 2?8?9(-1?9)"),
    ];
    for (questions, expected) in table {
        assert_eq!(tree(questions), expected, "{questions:?}");
    }
}

#[tokio::test]
async fn what_questions_have_in_common_is_computed_once_and_kept() {
    let long = "a judge is asked several things about one long response, which is the same for all of them: ".repeat(2);
    let asked: Vec<(String, &str)> = ["is it a poem?", "can one sing it?", "about a river?", "has it commas?"]
        .iter()
        .map(|item| (format!("{long}{item}"), ""))
        .collect();
    let asked: Vec<(&str, &str)> = asked.iter().map(|(chat, reply)| (chat.as_str(), *reply)).collect();
    for threads in [1, 3] {
        let engine = engine(NativeConfig { threads, ..NativeConfig::default() });
        let request = LabelRequest { labels: vec![labels().remove(0)], ..asking(&asked) };
        let computed = || engine.counters().prompt_tokens_computed.load(Ordering::Relaxed) as usize;
        let reused = || engine.counters().prompt_tokens_reused.load(Ordering::Relaxed) as usize;
        let each: Vec<usize> =
            request.questions.iter().map(|question| engine.dir.encode(&question.input).unwrap().len()).collect();
        let first = engine.read_labels(request.clone()).await.unwrap();
        assert!(first.prompt_tokens < each.iter().sum::<usize>() / 2, "{} {each:?}", first.prompt_tokens);
        assert_eq!((first.cached_tokens, computed(), reused()), (0, first.prompt_tokens, 0));
        if threads > 1 {
            // Another thread may begin a request before what the last one computed is kept.
            continue;
        }
        // A single one shares nothing, and all of it is there but the token after which something is read.
        let one = LabelRequest { questions: vec![request.questions[0].clone()], ..request.clone() };
        let again = engine.read_labels(one).await.unwrap();
        assert_eq!((again.prompt_tokens, again.cached_tokens), (each[0], each[0] - 1));
        assert_eq!(again.logprobs[0], first.logprobs[0]);
        let before = computed();
        let all = engine.read_labels(request.clone()).await.unwrap();
        assert_eq!(all.logprobs, first.logprobs);
        // All tokens are cached but these and the one at which the questions differ.
        assert_eq!(all.cached_tokens, all.prompt_tokens - request.questions.len() - 1);
        until("the count is told", || computed() == before + request.questions.len() + 1).await;
        // A reply to the same prompt reuses what was computed for its labels.
        let reply = Request { input: request.questions[1].input.clone(), ..greedy("", 2) };
        let reply = run(&engine, reply).await.remove(0);
        assert_eq!((reply.prompt_tokens, reply.cached_tokens), (each[1], each[1] - 1));
    }
}

#[tokio::test]
async fn a_critique_that_was_written_serves_its_verdict() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/spar-tiny/refiner");
    let config = NativeConfig { threads: 1, ..NativeConfig::default() };
    let engine = NativeEngine::load(ModelDir::open(&dir).unwrap(), config).unwrap();
    let task = [Message::user("Write about the river.")];
    let input = Input::chat(engine.dir.templates.judge(&task, "The quiet river carries a small lantern."));
    let sampling = Sampling { temperature: 0.0, ..Sampling::default() };
    let request = Request { sampling, input: input.clone(), ..Request::chat(Purpose::Judge, vec![]) };
    let critique = run(&engine, request).await.remove(0);
    assert_eq!(critique.finish, FinishReason::Stop);
    let labels = [" Yes", " No"].map(|text| Label { spellings: vec![text.into()] }).into();
    let questions = vec![Question { input, reply: critique.text }];
    let scores = engine.read_labels(LabelRequest { questions, labels, ..asking(&[]) }).await.unwrap();
    // The reply ended with a token that is not part of its text.
    assert_eq!(scores.prompt_tokens, critique.prompt_tokens + critique.tokens - 1);
    assert_eq!(scores.cached_tokens, scores.prompt_tokens - 1);
}

/// Label request `n` of a random mix.
fn mixed_labels(n: u64) -> LabelRequest {
    let pick = |what: u64, below: u64| derive_seed(derive_seed(98, n), what) % below;
    let shared = "the first block of this prompt is one that others begin with too, ".repeat(pick(0, 3) as usize);
    let words = ["hello world ", "and the ", "in other words ", "x", "ö 🦀 "];
    let text = |what: u64, most: u64| -> String {
        (0..pick(what, most)).map(|i| words[pick(what + 1 + i, 5) as usize]).collect()
    };
    let question = |q: u64| Question {
        input: match pick(1, 3) {
            0 => Input::Text(format!("{shared}{}", text(100 * (q + 1), 6))),
            _ => Input::chat(vec![Message::user(format!("{shared}{}", text(100 * (q + 1), 6)))]),
        },
        reply: text(100 * (q + 1) + 50, 4),
    };
    LabelRequest {
        purpose: [Purpose::Answer, Purpose::Judge][pick(2, 2) as usize],
        questions: (0..1 + pick(3, 6)).map(question).collect(),
        labels: labels(),
        origin: Origin::default(),
    }
}

#[tokio::test]
async fn labels_are_bit_identical_in_any_company_and_so_is_the_company() {
    const REQUESTS: u64 = 80;
    let alone_engines = with_adapters(NativeConfig { threads: 1, cache_bytes: 0, ..NativeConfig::default() });
    let (mut alone, mut replies) = (Vec::new(), Vec::new());
    for n in 0..REQUESTS {
        let engine = &alone_engines[n as usize % 4];
        let request = mixed_labels(n / 2);
        let mut logprobs = Vec::new();
        for question in &request.questions {
            let one = LabelRequest { questions: vec![question.clone()], ..request.clone() };
            logprobs.extend(engine.read_labels(one).await.unwrap().logprobs);
        }
        alone.push(logprobs);
        replies.push(content(run(engine, mixed(n / 2)).await));
    }
    let configs = [
        NativeConfig { threads: 1, max_replies: 40, ..NativeConfig::default() },
        NativeConfig { threads: 3, max_replies: 200, step_rows: 40, ..NativeConfig::default() },
        NativeConfig { threads: 2, max_replies: 13, cache_bytes: 60_000, ..NativeConfig::default() },
        NativeConfig { threads: 2, max_replies: 4, cache_bytes: 400_000, step_rows: 32, ..NativeConfig::default() },
    ];
    for (index, config) in configs.into_iter().enumerate() {
        let engines = with_adapters(config);
        for mix in 0..100u64 {
            let pick = |what: u64, below: u64| derive_seed(derive_seed(index as u64 * 1_000 + mix, 6), what) % below;
            let calls = (0..2 + pick(0, 8)).map(|i| (pick(100 + i, REQUESTS) as usize, pick(200 + i, 4)));
            join_all(calls.map(async |(n, kind)| {
                let engine = &engines[n % 4];
                match kind {
                    0 => {
                        assert_eq!(content(run(engine, mixed(n as u64 / 2)).await), replies[n], "mix {mix}, reply {n}")
                    }
                    1 => {
                        let moment = Duration::from_micros(pick(300 + n as u64, 2_000));
                        drop(tokio::time::timeout(moment, engine.read_labels(mixed_labels(n as u64 / 2))).await);
                    }
                    _ => {
                        let scores = engine.read_labels(mixed_labels(n as u64 / 2)).await.unwrap();
                        assert_eq!(scores.logprobs, alone[n], "mix {mix}, request {n}");
                        assert!(scores.cached_tokens < scores.prompt_tokens);
                    }
                }
            }))
            .await;
        }
        let counters = engines[0].counters().clone();
        until("every running block is given back", || counters.running_blocks() == 0).await;
    }
}

#[tokio::test]
async fn many_questions_fit_where_blocks_are_short() {
    let long = "questions that share one long beginning, which holds several blocks of keys and values".repeat(2);
    let endings: Vec<String> = (0..12).map(|i| format!("{long} {}", "x".repeat(1 + 5 * i))).collect();
    let asked: Vec<(&str, &str)> = endings.iter().map(|text| (text.as_str(), "")).collect();
    for config in forms() {
        let model = TinyModel { context: 320, ..TinyModel::default() };
        let engine = engine_with(&model, NativeConfig { cache_bytes: 0, ..config });
        let together = engine.read_labels(asking(&asked)).await.unwrap();
        for (question, together) in asked.iter().zip(&together.logprobs) {
            let alone = engine.read_labels(asking(&[*question])).await.unwrap();
            let near = alone.logprobs[0].iter().zip(together).all(|(a, b)| (a - b).abs() < 1e-4);
            assert!(near, "{alone:?} {together:?}");
        }
    }
}

#[tokio::test]
async fn a_dropped_call_leaves_at_the_next_step() {
    let model = TinyModel { context: 1 << 16, ..TinyModel::default() };
    let engine = engine_with(&model, NativeConfig { max_replies: 2, max_waiting: 3, ..two_threads() });
    let counters = engine.counters().clone();
    let long = "x ".repeat(10_000);
    let computed = || counters.prompt_tokens_computed.load(Ordering::Relaxed);
    let mut reading = Box::pin(engine.read_labels(asking(&[(&long, ""), (&long, "hello")])));
    // A long question is tokenized on another thread, so that one look at the call is not enough to begin it.
    tokio::select! {
        _ = &mut reading => panic!("it is not done so soon"),
        () = until("it has begun", || computed() > 0) => {}
    }
    drop(reading);
    until("its blocks are given back", || counters.running_blocks() == 0).await;
    assert!(computed() < 20_000, "{} tokens of twenty thousand were computed", computed());
    // It waits for its place as replies do, and a full line refuses it.
    let running = engine.start(Request { samples: 2, ..greedy("hello", usize::MAX) }).await.unwrap();
    let mut waiting = Box::pin(engine.read_labels(asking(&[("a", ""), ("b", ""), ("c", "")])));
    assert!(tokio::time::timeout(Duration::from_millis(5), &mut waiting).await.is_err());
    let refused = engine.read_labels(asking(&[("a", "")])).await;
    assert!(
        matches!(&refused, Err(EngineError::Unavailable(reason)) if reason.contains("wait already")),
        "{refused:?}"
    );
    drop(running);
    assert_eq!(waiting.await.unwrap().logprobs.len(), 3);
}

#[tokio::test]
async fn a_call_fails_with_its_threads() {
    let model = TinyModel { context: 1 << 16, ..TinyModel::default() };
    let engine = engine_with(&model, two_threads());
    let long = "x ".repeat(10_000);
    let mut reading = Box::pin(engine.read_labels(asking(&[(&long, "")])));
    tokio::select! {
        _ = &mut reading => panic!("it is not done so soon"),
        () = until("it has begun", || engine.counters().prompt_tokens_computed.load(Ordering::Relaxed) > 0) => {}
    }
    engine.runtime.fail(|| panic!("a fault on purpose"));
    assert!(matches!(reading.await, Err(EngineError::Crashed(_))));
    assert!(engine.read_labels(asking(&[("again", "")])).await.is_ok());
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let engine = engine_with(&TinyModel { context: 40, ..TinyModel::default() }, two_threads());
    let long = "a".repeat(37);
    let too_long = engine.read_labels(asking(&[("a", ""), (&long, "")])).await;
    assert_eq!(too_long, Err(EngineError::PromptTooLong { tokens: 42, limit: 40 }));
    let fits = LabelRequest { labels: vec![Label { spellings: vec!["hello".into()] }], ..asking(&[(&long[..36], "")]) };
    assert_eq!(engine.read_labels(fits.clone()).await.unwrap().prompt_tokens, 39);
    let one_more = LabelRequest { questions: asking(&[(&long, "")]).questions, ..fits.clone() };
    assert_eq!(engine.read_labels(one_more).await, Err(EngineError::PromptTooLong { tokens: 40, limit: 40 }));
    for (request, missing) in [
        (LabelRequest { questions: vec![], ..fits.clone() }, "questions"),
        (LabelRequest { labels: vec![], ..fits.clone() }, "labels"),
        (LabelRequest { labels: vec![Label { spellings: vec![] }], ..fits.clone() }, "spellings"),
        (LabelRequest { labels: vec![Label { spellings: vec!["".into()] }], ..fits }, "adds no token"),
    ] {
        let refused = engine.read_labels(request).await;
        assert!(matches!(&refused, Err(EngineError::Invalid(reason)) if reason.contains(missing)), "{refused:?}");
    }
}
