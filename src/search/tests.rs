//! Behaviour of whole searches on a scripted engine.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Map, json};

use super::*;
use crate::engine::fake::FakeEngine;
use crate::engine::{Input, Purpose, Request};

pub(super) fn task() -> Task {
    let sampling = Sampling { seed: 7, ..Sampling::default() };
    Task { sampling, ..Task::chat(vec![Message::user("Say something right.")]) }
}

/// Drafts say `wrong`; refinements say `right`; the judge knows.
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

/// The first turn of a request: the judge's turn holds the response between its tags.
fn said(request: &Request) -> &str {
    match &request.input {
        Input::Chat(messages) => &messages[0].content,
        Input::Text(text) => text,
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
    SearchConfig { mode: Mode::Paper, ..SearchConfig::default() }
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
    let outcome = search_with(&honest(), &SearchConfig::default(), &task()).await;
    assert_eq!(outcome.tree[outcome.best].response, "right");
    assert_eq!((outcome.accepted, outcome.stop), (true, StopReason::Accepted));
    assert_eq!(outcome.calls, ByPurpose { answer: 1, judge: 6, refine: 1 });
    assert_eq!(outcome.tokens, ByPurpose { answer: 1, judge: 24, refine: 4 });
    assert_eq!((outcome.votes_saved, outcome.answer_tokens), (4, 1));
}

#[tokio::test]
async fn paper_asks_for_every_vote_of_a_whole_level() {
    let config = SearchConfig { mode: Mode::Paper, ..SearchConfig::default() };
    let outcome = search_with(&honest(), &config, &task()).await;
    assert!(outcome.accepted);
    assert_eq!(outcome.tree.judged(), 3);
    // The three refinements are one text, which is judged once.
    assert_eq!(outcome.calls, ByPurpose { answer: 1, judge: 10, refine: 3 });
}

/// Refinements number themselves; the judge follows `right`, and fails on `broken_at`.
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

#[tokio::test]
async fn a_failing_branch_costs_only_itself() {
    let config = SearchConfig { depth: 1, ..paper() };
    for (broken_at, expected) in [
        (&["r2"], ["draft", "r1", "r3"]),
        (&["refine 2"], ["draft", "r1", "r3"]),
        (&["refine 3"], ["draft", "r1", "r2"]),
    ] {
        let outcome = search_with(&numbered(&[], broken_at), &config, &task()).await;
        assert_eq!(responses(&outcome), expected);
        assert_eq!((outcome.accepted, outcome.stop), (false, StopReason::Error));
        let accepted = search_with(&numbered(&["r1"], broken_at), &config, &task()).await;
        assert_eq!((accepted.best, accepted.stop), (NodeId(1), StopReason::Accepted));
    }
}

#[tokio::test]
async fn only_a_failed_draft_is_an_error() {
    let dead = FakeEngine::new(|_, _| Err(broken()));
    let templates = Templates::general();
    let models = Models { actor: &dead, refiner: &dead, templates: &templates };
    assert_eq!(answer(models, &SearchConfig::default(), &task(), &|_| {}).await.unwrap_err(), broken());
    let outcome = search_with(&numbered(&[], &["draft"]), &SearchConfig::default(), &task()).await;
    assert_eq!((outcome.stop, outcome.best, outcome.tree.nodes.len()), (StopReason::Error, ROOT, 1));
    assert_eq!(outcome.tree[ROOT].value, None);
}

#[tokio::test]
async fn a_draft_that_passes_is_the_answer_in_every_mode() {
    for config in [SearchConfig::default(), paper()] {
        let outcome = search_with(&numbered(&["draft"], &[]), &config, &task()).await;
        assert_eq!((outcome.best, outcome.stop, outcome.calls.refine), (ROOT, StopReason::Accepted, 0));
    }
}

#[tokio::test]
async fn nothing_accepted_is_the_earliest_in_eager_and_the_last_walked_in_paper() {
    let shape = SearchConfig { branch: 2, keep: 1, depth: 2, ..SearchConfig::default() };
    let eager = search_with(&numbered(&[], &[]), &shape, &task()).await;
    assert_eq!((eager.best, eager.stop), (ROOT, StopReason::Exhausted));
    // The walk goes root, r1, its children r3 and r4, and last r2.
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
    let config = SearchConfig { parallel: 64, ..SearchConfig::default() };
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
            Purpose::Refine => "[[start]]one two[[end]]".into(),
            Purpose::Judge => verdict(true),
        })
    };
    let rules = SearchConfig { judge: Judge::Rules, ..SearchConfig::default() };
    let outcome = search_with(&FakeEngine::new(script), &rules, &no_comma()).await;
    assert_eq!(outcome.tree[ROOT].value, Some(0.5));
    assert_eq!((outcome.accepted, outcome.calls), (true, ByPurpose { answer: 1, judge: 0, refine: 1 }));
    assert!(outcome.tree[ROOT].critique.contains("comma"), "{}", outcome.tree[ROOT].critique);

    let both = SearchConfig { judge: Judge::Both, ..SearchConfig::default() };
    let outcome = search_with(&FakeEngine::new(script), &both, &no_comma()).await;
    let root = &outcome.tree[ROOT];
    assert_eq!((root.value, root.accepted), (Some(0.0), false));
    assert!(root.critique.starts_with("So.\n") && root.critique.ends_with("Final Judgement: No"), "{}", root.critique);
    // One critique of the draft, then the fewest votes that decide.
    assert_eq!((outcome.accepted, outcome.calls.judge), (true, 1 + 3));
}

#[tokio::test]
async fn a_schema_is_a_rule_that_the_answer_is_json() {
    let engine = FakeEngine::new(|request, _| {
        Ok(if request.purpose == Purpose::Answer { "{\"a\": 1".into() } else { "[[start]]{\"a\": 1}[[end]]".into() })
    });
    let task = Task { constraint: Some(Constraint::JsonSchema(json!({"type": "object"}))), ..task() };
    let rules = SearchConfig { judge: Judge::Rules, ..SearchConfig::default() };
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
    let outcome = search_with(&engine, &SearchConfig::default(), &task).await;
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
    let outcome = search_with(&engine.constraining(), &SearchConfig::default(), &task()).await;
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
    let outcome = search_with(&engine, &SearchConfig::default(), &task).await;
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
async fn progress_is_told_in_order() {
    let events = Mutex::new(Vec::new());
    let engine = numbered(&["r2"], &[]);
    let templates = Templates::general();
    let models = Models { actor: &engine, refiner: &engine, templates: &templates };
    let observe = |progress: Progress<'_>| {
        events.lock().unwrap().push(match progress {
            Progress::RootJudged(node) => format!("root {}", node.response),
            Progress::NodeAdded(id, node) => format!("node {} {}", id.0, node.response),
            Progress::Accepted(id, _) => format!("accepted {}", id.0),
            Progress::Stopped(reason) => format!("stopped {reason:?}"),
        });
    };
    answer(models, &SearchConfig::default(), &task(), &observe).await.unwrap();
    let told = events.into_inner().unwrap();
    assert_eq!(told, ["root draft", "node 1 r1", "node 2 r2", "accepted 2", "stopped Accepted"]);
}

#[tokio::test]
async fn a_trace_shows_texts_only_in_full() {
    let outcome = search_with(&numbered(&["r1"], &[]), &SearchConfig::default(), &task()).await;
    let summary = serde_json::to_value(outcome.tree.trace(Detail::Summary)).unwrap();
    let votes = json!({"yes": 3, "no": 0, "invalid": 0});
    assert_eq!(summary[1], json!({"id": 1, "parent": 0, "depth": 1, "value": 1.0, "accepted": true, "votes": votes}));
    let full = serde_json::to_value(outcome.tree.trace(Detail::Full)).unwrap();
    assert_eq!((&full[1]["text"], &full[1]["critique"]), (&json!("r1"), &json!("So. Final Judgement: Yes")));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_searches_run_side_by_side() {
    let engine = honest().paced(|_, index| Duration::from_millis(1 + index as u64));
    let tasks: Vec<_> =
        (0..1_000).map(|seed| Task { sampling: Sampling { seed, ..Sampling::default() }, ..task() }).collect();
    let config = SearchConfig::default();
    let outcomes = futures::future::join_all(tasks.iter().map(|task| search_with(&engine, &config, task))).await;
    assert!(outcomes.iter().all(|outcome| outcome.accepted));
    assert_eq!((engine.replies.running(), engine.replies.started()), (0, 8_000));
}
