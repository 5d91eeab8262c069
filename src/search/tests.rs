//! Tests of whole searches on a scripted engine.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Map, json};

use super::*;
use crate::chat::Message;
use crate::engine::fake::FakeEngine;
use crate::engine::{Constraint, Input, Purpose, Request, Sampling};
use crate::prompts::Templates;
use crate::verify::Check;

pub(super) fn task() -> Task {
    let sampling = Sampling { seed: 7, ..Sampling::default() };
    Task { sampling, ..Task::chat(vec![Message::user("Say something right.")]) }
}

/// An engine whose drafts are `wrong`, whose refinements are `right`, and whose judge is always correct.
fn honest() -> FakeEngine {
    FakeEngine::new(|request, _| {
        Ok(match request.purpose {
            Purpose::Answer => "wrong".into(),
            Purpose::Refine => "Fix. [[start]] right [[end]]".into(),
            Purpose::Judge if said(request).contains("\nright\n") => "Fine. Final Judgement: Yes".into(),
            Purpose::Judge => "Bad. Final Judgement: No".into(),
        })
    })
}

/// The first turn of a request. The judge's turn contains the response between its tags.
fn said(request: &Request) -> &str {
    match &request.input {
        Input::Chat(messages) => &messages[0].content,
        Input::Text(text) => text,
        Input::Tokens(_) => "",
    }
}

fn judged(request: &Request) -> &str {
    let (_, rest) = said(request).split_once("<response>\n").unwrap();
    rest.split_once("\n</response>").unwrap().0
}

fn verdict(yes: bool) -> String {
    format!("So. Final Judgement: {}", if yes { "Yes" } else { "No" })
}

fn broken() -> EngineError {
    EngineError::Crashed("as scripted".into())
}

fn paper() -> SearchConfig {
    SearchConfig { mode: Mode::Paper, ..classic() }
}

/// The classic configuration: breadth first, judged by votes.
pub(super) fn classic() -> SearchConfig {
    SearchConfig::by_votes()
}

fn check(id: &str) -> Check {
    Check::new(id, Map::new()).unwrap()
}

pub(super) async fn search_with(engine: &FakeEngine, config: &SearchConfig, task: &Task) -> Outcome {
    let templates = Templates::general();
    let models = Models { actor: engine, refiner: engine, templates: &templates };
    answer(models, config, task, &|_| {}).await.unwrap()
}

#[tokio::test]
async fn a_wrong_draft_is_refined_until_it_is_right() {
    let outcome = search_with(&honest(), &classic(), &task()).await;
    assert_eq!(outcome.tree[outcome.best].response, "right");
    assert_eq!((outcome.accepted, outcome.stop), (true, StopReason::Accepted));
    assert_eq!(outcome.calls, ByPurpose { answer: 1, judge: 6, refine: 1, score: 0 });
    assert_eq!(outcome.tokens, ByPurpose { answer: 1, judge: 24, refine: 4, score: 0 });
    assert_eq!((outcome.votes_saved, outcome.answer_tokens), (4, 1));
}

#[tokio::test]
async fn paper_asks_for_every_vote_of_a_whole_level() {
    let config = SearchConfig { mode: Mode::Paper, ..classic() };
    let outcome = search_with(&honest(), &config, &task()).await;
    assert!(outcome.accepted);
    assert_eq!(outcome.tree.judged(), 3);
    // The three refinements are equal texts, which are judged once.
    assert_eq!(outcome.calls, ByPurpose { answer: 1, judge: 10, refine: 3, score: 0 });
}

/// An engine that numbers its refinements. Its judge accepts the responses in `right`, and its call fails on those in `broken_at`.
fn numbered(right: &'static [&'static str], broken_at: &'static [&'static str]) -> FakeEngine {
    let made = Mutex::new(0);
    FakeEngine::new(move |request, _| match request.purpose {
        Purpose::Answer => Ok("draft".into()),
        Purpose::Refine => {
            let mut made = made.lock().unwrap();
            *made += 1;
            if broken_at.contains(&format!("refine {made}").as_str()) {
                return Err(broken());
            }
            Ok(format!("[[start]]r{made}[[end]]"))
        }
        Purpose::Judge if broken_at.contains(&judged(request)) => Err(broken()),
        Purpose::Judge => Ok(verdict(right.contains(&judged(request)))),
    })
}

fn responses(outcome: &Outcome) -> Vec<&str> {
    outcome.tree.nodes.iter().map(|node| node.response.as_str()).collect()
}

/// The refinement calls in `paper` mode that fail to produce the second child.
const NINE_DRAWS: &[&str] =
    &["refine 2", "refine 3", "refine 4", "refine 5", "refine 6", "refine 7", "refine 8", "refine 9", "refine 10"];

#[tokio::test]
async fn a_failing_branch_costs_only_itself() {
    let eager = || SearchConfig { mode: Mode::Eager, ..paper() };
    for (config, broken_at, expected) in [
        (paper(), &["r2"][..], ["draft", "r1", "r3"]),
        (paper(), NINE_DRAWS, ["draft", "r1", "r11"]),
        (eager(), &["r2"], ["draft", "r1", "r3"]),
        (eager(), &["refine 3"], ["draft", "r1", "r2"]),
    ] {
        let config = SearchConfig { depth: 1, ..config };
        let outcome = search_with(&numbered(&[], broken_at), &config, &task()).await;
        assert_eq!(responses(&outcome), expected);
        assert_eq!((outcome.accepted, outcome.stop), (false, StopReason::Error));
        let accepted = search_with(&numbered(&["r1"], broken_at), &config, &task()).await;
        assert_eq!((accepted.best, accepted.stop), (NodeId(1), StopReason::Accepted));
    }
}

#[tokio::test]
async fn paper_makes_a_failed_call_again_as_often_as_the_reference() {
    let failing_judge = |times: usize| {
        let failed = Mutex::new(0);
        FakeEngine::new(move |request, _| match request.purpose {
            Purpose::Answer => Ok("draft".into()),
            Purpose::Refine => Ok("[[start]]better[[end]]".into()),
            Purpose::Judge if judged(request) == "better" && *failed.lock().unwrap() < times => {
                *failed.lock().unwrap() += 1;
                Err(broken())
            }
            Purpose::Judge => Ok(verdict(judged(request) == "better")),
        })
    };
    let failing_refiner = |times: usize| {
        let failed = Mutex::new(0);
        FakeEngine::new(move |request, _| match request.purpose {
            Purpose::Refine if *failed.lock().unwrap() < times => {
                *failed.lock().unwrap() += 1;
                Err(broken())
            }
            Purpose::Refine => Ok("[[start]]better[[end]]".into()),
            Purpose::Judge => Ok(verdict(judged(request) == "better")),
            Purpose::Answer => Ok("draft".into()),
        })
    };
    let one = SearchConfig { branch: 1, budget: 1, depth: 1, ..paper() };
    for (name, engine, expected) in [
        ("two rounds of votes fail", failing_judge(2), (StopReason::Accepted, 5 + 15, 1)),
        ("three fail", failing_judge(3), (StopReason::Error, 5 + 15, 1)),
        ("eight refine calls fail", failing_refiner(8), (StopReason::Accepted, 5 + 5, 9)),
        ("nine fail", failing_refiner(9), (StopReason::Error, 5, 9)),
    ] {
        let outcome = search_with(&engine, &one, &task()).await;
        assert_eq!((outcome.stop, outcome.calls.judge, outcome.calls.refine), expected, "{name}");
    }
}

#[tokio::test]
async fn paper_does_not_repeat_a_request_that_is_at_fault_itself() {
    let engine = FakeEngine::new(|request, _| match request.purpose {
        Purpose::Answer => Ok("draft".into()),
        Purpose::Refine => Err(EngineError::PromptTooLong { tokens: 9, limit: 8 }),
        Purpose::Judge => Ok(verdict(false)),
    });
    let outcome = search_with(&engine, &SearchConfig { branch: 1, ..paper() }, &task()).await;
    assert_eq!((outcome.stop, outcome.calls.refine), (StopReason::Error, 1));
}

#[tokio::test]
async fn paper_judges_a_copy_of_an_undecided_text_again() {
    // The first three rounds of votes on the only refinement have no verdict.
    for (mode, expected) in [(Mode::Paper, (true, 5 + 15 + 5)), (Mode::Eager, (false, 3 + 15))] {
        let rounds = Mutex::new(0);
        let engine = FakeEngine::new(move |request, index| {
            Ok(match request.purpose {
                Purpose::Answer => "draft".into(),
                Purpose::Refine => "[[start]]better[[end]]".into(),
                Purpose::Judge if judged(request) == "draft" => verdict(false),
                Purpose::Judge => {
                    let mut votes = rounds.lock().unwrap();
                    *votes += 1;
                    if *votes > 15 { verdict(true) } else { format!("{index} no verdict") }
                }
            })
        });
        let config = SearchConfig { mode, depth: 1, budget: 1, ..classic() };
        let outcome = search_with(&engine, &config, &task()).await;
        assert_eq!((outcome.accepted, outcome.calls.judge), expected, "{mode:?}");
    }
}

#[tokio::test]
async fn only_a_failed_draft_is_an_error() {
    let dead = FakeEngine::new(|_, _| Err(broken()));
    let templates = Templates::general();
    let models = Models { actor: &dead, refiner: &dead, templates: &templates };
    assert_eq!(answer(models, &classic(), &task(), &|_| {}).await.unwrap_err(), broken());
    let outcome = search_with(&numbered(&[], &["draft"]), &classic(), &task()).await;
    assert_eq!((outcome.stop, outcome.best, outcome.tree.nodes.len()), (StopReason::Error, ROOT, 1));
    assert_eq!(outcome.tree[ROOT].value, None);
}

#[tokio::test]
async fn a_draft_that_passes_is_the_answer_in_every_mode() {
    for config in [classic(), paper()] {
        let outcome = search_with(&numbered(&["draft"], &[]), &config, &task()).await;
        assert_eq!((outcome.best, outcome.stop, outcome.calls.refine), (ROOT, StopReason::Accepted, 0));
    }
}

#[tokio::test]
async fn nothing_accepted_is_the_earliest_in_eager_and_the_last_walked_in_paper() {
    let shape = SearchConfig { branch: 2, keep: 1, depth: 2, ..classic() };
    let eager = search_with(&numbered(&[], &[]), &shape, &task()).await;
    assert_eq!((eager.best, eager.stop), (ROOT, StopReason::Exhausted));
    // The walk visits the root, r1, its children r3 and r4, and finally r2.
    let paper = search_with(&numbered(&[], &[]), &SearchConfig { mode: Mode::Paper, ..shape }, &task()).await;
    assert_eq!(paper.tree[paper.best].response, "r2");
}

#[tokio::test]
async fn a_draft_with_tied_votes_is_refined_from_its_first_no() {
    let engine = FakeEngine::new(|request, index| {
        Ok(match request.purpose {
            Purpose::Answer => "draft".into(),
            Purpose::Refine => "[[start]]better[[end]]".into(),
            Purpose::Judge if judged(request) == "better" => verdict(true),
            Purpose::Judge => format!("{index} {}", verdict(index % 2 == 0)),
        })
    });
    let outcome = search_with(&engine, &SearchConfig { votes: 4, ..paper() }, &task()).await;
    let root = &outcome.tree[ROOT];
    assert_eq!((root.value, root.accepted), (None, false));
    assert_eq!(root.critique, "1 So. Final Judgement: No");
    assert_eq!((outcome.accepted, outcome.calls.judge), (true, 3 * 4 + 4));
}

#[tokio::test]
async fn eager_takes_the_first_accepted_sibling_even_if_a_later_one_is_ready_before() {
    let pace = |request: &Request, _: usize| match request.purpose {
        Purpose::Judge if judged(request) == "r2" => Duration::from_secs(9),
        _ => Duration::from_millis(1),
    };
    let engine = numbered(&["r2", "r3"], &[]).paced(pace);
    let config = SearchConfig { parallel: 64, ..classic() };
    tokio::time::pause();
    let outcome = search_with(&engine, &config, &task()).await;
    assert_eq!(responses(&outcome), ["draft", "r1", "r2"]);
    assert_eq!((outcome.accepted, engine.replies.running()), (true, 0));
}

#[tokio::test]
async fn rules_decide_alone_and_overrule_the_model() {
    let no_comma =
        || Task { checks: vec![check("punctuation:no_comma"), check("change_case:english_lowercase")], ..task() };
    let script = |request: &Request, _: usize| {
        Ok(match request.purpose {
            Purpose::Answer => "one, two".into(),
            // The failed instruction is known, so only the response is requested.
            Purpose::Refine => "one two".into(),
            Purpose::Judge => verdict(true),
        })
    };
    let rules = SearchConfig { judge: Judge::Rules, ..classic() };
    let outcome = search_with(&FakeEngine::new(script), &rules, &no_comma()).await;
    assert_eq!(outcome.tree[ROOT].value, Some(0.5));
    assert_eq!((outcome.accepted, outcome.calls), (true, ByPurpose { answer: 1, judge: 0, refine: 1, score: 0 }));
    assert!(outcome.tree[ROOT].critique.contains("comma"), "{}", outcome.tree[ROOT].critique);

    let both = SearchConfig { judge: Judge::Both, ..classic() };
    let outcome = search_with(&FakeEngine::new(script), &both, &no_comma()).await;
    let root = &outcome.tree[ROOT];
    assert_eq!(
        (root.value, root.accepted, root.failed.as_slice()),
        (Some(1.0 / 3.0), false, &["use no commas".into()][..])
    );
    // The model is not asked about a response that a rule rejects. Afterwards the fewest votes that decide are requested.
    assert_eq!((outcome.accepted, outcome.calls.judge), (true, 3));

    let paper = SearchConfig { mode: Mode::Paper, ..both };
    let envelope = move |request: &Request, index: usize| match request.purpose {
        Purpose::Refine => Ok("[[start]]one two[[end]]".into()),
        _ => script(request, index),
    };
    let outcome = search_with(&FakeEngine::new(envelope), &paper, &no_comma()).await;
    let root = &outcome.tree[ROOT];
    assert!(root.critique.starts_with("So.\n") && root.critique.ends_with("Final Judgement: No"), "{}", root.critique);
    assert_eq!((root.value, outcome.accepted, outcome.calls.judge), (Some(0.0), true, 1 + 5));
}

#[tokio::test]
async fn a_schema_is_a_rule_that_the_answer_is_json() {
    let engine = FakeEngine::new(|request, _| {
        Ok(if request.purpose == Purpose::Answer { "{\"a\": 1".into() } else { "{\"a\": 1}".into() })
    });
    let task = Task { constraint: Some(Constraint::JsonSchema(json!({"type": "object"}))), ..task() };
    let rules = SearchConfig { judge: Judge::Rules, ..classic() };
    let outcome = search_with(&engine, &rules, &task).await;
    assert_eq!((responses(&outcome).len(), outcome.accepted), (2, true));
}

#[tokio::test]
async fn a_refiner_without_grammars_is_asked_again_until_the_answer_matches() {
    let made = Mutex::new(0);
    let engine = FakeEngine::new(move |request, _| {
        Ok(match request.purpose {
            Purpose::Answer => "{\"a\": 1}".into(),
            Purpose::Judge => verdict(judged(request) == "{\"a\": 2}"),
            Purpose::Refine => {
                let mut made = made.lock().unwrap();
                *made += 1;
                let response = if *made < 3 { "{\"b\": 2}" } else { "{\"a\": 2}" };
                format!("[[start]]{response}[[end]]")
            }
        })
    });
    let schema = json!({"type": "object", "required": ["a"]});
    let task = Task { constraint: Some(Constraint::JsonSchema(schema)), ..task() };
    let outcome = search_with(&engine, &classic(), &task).await;
    assert_eq!((responses(&outcome), outcome.calls.refine), (vec!["{\"a\": 1}", "{\"a\": 2}"], 3));
}

#[tokio::test]
async fn an_engine_that_constrains_is_given_both_grammars() {
    let engine = FakeEngine::new(|request, _| {
        let Some(Constraint::Lark(grammar)) = &request.constraint else {
            assert_eq!(request.purpose, Purpose::Answer);
            return Ok("draft".into());
        };
        Ok(match request.purpose {
            Purpose::Refine => {
                assert!(grammar.contains("[[start]]") && grammar.contains("[[end]]"));
                "[[start]]better[[end]]".into()
            }
            _ => {
                assert!(grammar.contains("\"Final Judgement\""));
                verdict(judged(request) == "better")
            }
        })
    });
    let outcome = search_with(&engine.constraining(), &classic(), &task()).await;
    assert!(outcome.accepted);
}

#[tokio::test]
async fn a_refined_answer_ends_at_stop_strings_and_counts_its_own_tokens() {
    let engine = FakeEngine::new(|request, _| {
        Ok(match request.purpose {
            Purpose::Answer => "draft".into(),
            Purpose::Refine => "I change it. [[start]] one two END three [[end]]".into(),
            Purpose::Judge => verdict(judged(request) == "one two"),
        })
    });
    let task = Task { stop: vec![" END".into()], max_tokens: Some(2), ..task() };
    let outcome = search_with(&engine, &classic(), &task).await;
    assert_eq!(responses(&outcome), ["draft", "one two"]);
    assert_eq!((outcome.accepted, outcome.answer_tokens), (true, 2));
}

#[tokio::test]
async fn a_judged_draft_is_not_judged_again() {
    let engine = numbered(&["r1"], &[]);
    let templates = Templates::general();
    let models = Models { actor: &engine, refiner: &engine, templates: &templates };
    let judgement = Judgement { value: Some(0.2), critique: "Hm. Final Judgement: No".into(), ..Judgement::default() };
    let draft = Completion {
        text: "draft".into(),
        reasoning: crate::engine::reasoning::Reasoning::default(),
        prompt_tokens: 3,
        cached_tokens: 0,
        tokens: 1,
        logprobs: Vec::new(),
        finish: crate::engine::FinishReason::Stop,
    };
    let outcome = refine_judged(models, &paper(), &task(), draft, judgement, &|_| {}).await;
    assert_eq!((outcome.calls.judge, outcome.draft_prompt_tokens), (15, 3));
    assert_eq!(outcome.tree[ROOT].critique, "Hm. Final Judgement: No");
}

#[tokio::test]
async fn progress_is_reported_in_order() {
    let events = Mutex::new(Vec::new());
    let engine = numbered(&["r2"], &[]);
    let templates = Templates::general();
    let models = Models { actor: &engine, refiner: &engine, templates: &templates };
    let observe = |progress: Progress<'_>| {
        events.lock().unwrap().push(match progress {
            Progress::Drafted(node) => format!("drafted {}", node.response),
            Progress::Voted(verdict, votes) => format!("vote {verdict:?} {}", votes.total()),
            Progress::RootJudged(node) => format!("root {}", node.response),
            Progress::NodeAdded(id, node) => format!("node {} {}", id.0, node.response),
            Progress::Accepted(id, _) => format!("accepted {}", id.0),
            Progress::Stopped(reason) => format!("stopped {reason:?}"),
        });
    };
    answer(models, &classic(), &task(), &observe).await.unwrap();
    let reported = events.into_inner().unwrap();
    let votes = reported.iter().filter(|event| event.starts_with("vote")).count();
    assert_eq!((votes, reported[1].as_str()), (9, "vote Some(No) 1"));
    let steps: Vec<_> = reported.iter().filter(|event| !event.starts_with("vote")).collect();
    assert_eq!(steps, ["drafted draft", "root draft", "node 1 r1", "node 2 r2", "accepted 2", "stopped Accepted"]);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_searches_run_side_by_side() {
    let engine = honest().paced(|_, index| Duration::from_millis(1 + index as u64));
    let tasks: Vec<_> =
        (0..1_000).map(|seed| Task { sampling: Sampling { seed, ..Sampling::default() }, ..task() }).collect();
    let config = classic();
    let outcomes = futures::future::join_all(tasks.iter().map(|task| search_with(&engine, &config, task))).await;
    assert!(outcomes.iter().all(|outcome| outcome.accepted));
    assert_eq!((engine.replies.running(), engine.replies.started()), (0, 8_000));
}
