//! Tests trials on a scripted engine, and their summary.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Map, json};

use super::report::{Report, Run};
use super::*;
use crate::engine::fake::FakeEngine;
use crate::prompts::Templates;
use crate::search::Strategy;
use crate::verify::Check;

fn cases(count: usize) -> Vec<Prompt> {
    let check = Check::new("punctuation:no_comma", Map::new()).unwrap();
    let case =
        |i| Prompt { key: json!(i), prompt: format!("case {i}"), checks: vec![check.clone()], unchecked: Vec::new() };
    (0..count).map(case).collect()
}

/// An engine in which every other draft has a comma, refinements have none, and the judge is always correct.
fn engine() -> FakeEngine {
    FakeEngine::new(|request, _| {
        let crate::engine::Input::Chat(turns) = &request.input else { unreachable!() };
        Ok(match request.purpose {
            Purpose::Answer if turns[0].content.ends_with(['0', '2', '4', '6', '8']) => "a, b".into(),
            Purpose::Answer => "a b".into(),
            Purpose::Judge if turns[0].content.contains("a, b") => "So. Final Judgement: No".into(),
            Purpose::Judge => "So. Final Judgement: Yes".into(),
            Purpose::Refine => "[[start]]c d[[end]]".into(),
        })
    })
}

async fn run(method: &Method, cases: &[Prompt]) -> Vec<Trial> {
    let (engine, templates) = (engine(), Templates::general());
    let models = Models { actor: &engine, refiner: &engine, templates: &templates };
    let done = AtomicUsize::new(0);
    let tick = || {
        done.fetch_add(1, Ordering::SeqCst);
    };
    let trials = trials(models, method, cases, 3, &tick).await.unwrap();
    assert_eq!(done.load(Ordering::SeqCst), cases.len());
    trials
}

#[tokio::test]
async fn trials_are_in_order_and_add_up() {
    let cases = cases(10);
    let greedy = run(&Method::plain(Sampling::default()), &cases).await;
    let searched =
        run(&Method::search(SearchConfig { budget: 4, ..SearchConfig::by_votes() }, Sampling::default()), &cases).await;
    assert_eq!(greedy.iter().map(Trial::score).sum::<f64>(), 5.0);
    assert_eq!((greedy[3].key.as_str(), greedy[3].calls, greedy[3].tokens), ("3", 1, 2));
    assert_eq!((searched[0].response.as_str(), searched[0].depth, searched[0].nodes), ("c d", 1, 1));
    assert_eq!(searched[0].stop, Some(StopReason::Accepted));
    let run = |strategy, budget, trials: &Vec<Trial>| Run { strategy, budget, trials: trials.clone() };
    let report = Report::new(&[
        run(None, 0, &greedy),
        run(Some(Strategy::Bfs), 4, &searched),
        run(Some(Strategy::BestOfN), 1, &greedy),
        run(Some(Strategy::BestOfN), 8, &searched),
    ]);
    assert_eq!(report.points[0].gain, None);
    assert_eq!((report.points[1].prompt_strict.mean, report.points[1].gain.unwrap().mean), (1.0, 0.5));
    assert_eq!((report.points[1].depth, report.points[1].stops["accepted"]), (0.5, 10));
    // Only the larger best-of-N generates as many tokens.
    let [comparison] = &report.equal_tokens[..] else { panic!("{report:?}") };
    assert_eq!((comparison.best_of_n, comparison.difference.mean), (8, 0.0));
    let table = report.to_string();
    assert!(table.contains("10 prompts") && table.contains("+0.500 ["), "{table}");
}

#[test]
fn prompts_that_are_not_checked_as_a_whole_are_in_no_score_by_prompt() {
    let mut cases = cases(4);
    cases[0].unchecked.push("words:start_verb".into());
    cases[1].checks.clear();
    cases[1].unchecked.push("words:start_verb".into());
    let trials =
        |texts: [&str; 4]| cases.iter().zip(texts).map(|(case, text)| Trial::check(case, text.into())).collect();
    let report = Report::new(&[
        Run { strategy: None, budget: 0, trials: trials(["a, b", "a, b", "a, b", "a b"]) },
        Run { strategy: Some(Strategy::Bfs), budget: 1, trials: trials(["a, b", "a b", "a b", "a b"]) },
    ]);
    let [greedy, searched] = &report.points[..] else { panic!("{report:?}") };
    assert_eq!((greedy.prompt_strict.n, greedy.prompt_strict.mean), (2, 0.5));
    assert!((greedy.instruction_strict.mean - 1.0 / 3.0).abs() < 1e-12, "{greedy:?}");
    assert_eq!(searched.gain.map(|gain| (gain.n, gain.mean)), Some((2, 0.5)));
    let table = report.to_string();
    assert!(
        table.contains("4 prompts") && table.contains("2 prompts with an instruction that cannot be checked"),
        "{table}"
    );
}

#[tokio::test]
async fn the_judge_is_scored_and_one_refinement_is_scored() {
    let cases = cases(4);
    let (engine, templates) = (engine(), Templates::general());
    let models = Models { actor: &engine, refiner: &engine, templates: &templates };
    let responses: Vec<(&Prompt, &str)> = cases.iter().zip(["a, b", "a b", "x, y", "x y"]).collect();
    let score = score_judge(models, &SearchConfig::by_votes(), &responses, 0, 2).await.unwrap();
    assert_eq!((score.true_no, score.false_yes, score.true_yes, score.false_no), (1, 1, 2, 0));
    assert_eq!(score.balanced_accuracy(), 0.75);
    let fixed = refine_once(models, &SearchConfig::by_votes(), &responses[..3], 0, 2).await.unwrap();
    // The second and the third are wrongly accepted, so they are not refined.
    assert_eq!(fixed, [1.0, 0.0, 0.0]);
}
