//! Tests of searches that judge by probabilities, find rules and adapt their cost to the difficulty, on a scripted engine.

use std::sync::Mutex;
use std::time::Duration;

use super::tests::{search_with, task};
use super::*;
use crate::engine::fake::FakeEngine;
use crate::engine::{FinishReason, Input, LabelRequest, Purpose, Request};
use crate::prompts::{Calibration, TemplateText, Templates};
use crate::verify::Check;

/// Log-probabilities of Yes and No for a probability of Yes.
fn belief(yes: f64) -> Vec<f32> {
    vec![(yes * 0.9).ln() as f32, ((1.0 - yes) * 0.9).ln() as f32]
}

/// The response that a question is about: the last assistant turn of the conversation itself, or the text in the judge's turn.
fn asked_about(request: &LabelRequest, index: usize) -> String {
    let Input::Chat(turns) = &request.questions[index].input else { panic!() };
    match turns.len() {
        1 => turns[0].content.split_once("<response>\n").unwrap().1.split_once("\n</response>").unwrap().0.to_owned(),
        length => turns[length - 2].content.clone(),
    }
}

/// An engine that numbers its drafts and refinements and answers every judge with `Hm.`
fn numbered() -> FakeEngine {
    let made = Mutex::new((0, 0));
    FakeEngine::new(move |request, _| {
        let mut made = made.lock().unwrap();
        Ok(match request.purpose {
            Purpose::Answer => {
                made.0 += 1;
                format!("d{}", made.0)
            }
            Purpose::Refine => {
                made.1 += 1;
                format!("[[start]]r{}[[end]]", made.1)
            }
            Purpose::Judge => "Hm.".into(),
        })
    })
}

fn responses(outcome: &Outcome) -> Vec<&str> {
    outcome.tree.nodes.iter().map(|node| node.response.as_str()).collect()
}

fn check(id: &str) -> Check {
    Check::new(id, serde_json::Map::new()).unwrap()
}

#[tokio::test]
async fn a_score_judges_without_a_critique_and_one_is_written_only_to_refine() {
    let engine = numbered().reading(|request, index| {
        Ok(belief(match asked_about(request, index).as_str() {
            "d1" => 0.2,
            _ => 0.9,
        }))
    });
    let outcome = search_with(&engine, &SearchConfig::default(), &task()).await;
    assert_eq!((responses(&outcome), outcome.stop), (vec!["d1", "r1"], StopReason::Accepted));
    assert_eq!(outcome.calls, ByPurpose { answer: 1, judge: 1, refine: 1, score: 2 });
    let probability = |node: usize| (outcome.tree.nodes[node].probability.unwrap() * 100.0).round();
    assert_eq!((probability(0), probability(1), outcome.judging), (20.0, 90.0, Judging::Score));
    assert_eq!(outcome.tree[ROOT].critique, "Hm.\nFinal Judgement: No");

    let accepted = numbered().reading(|_, _| Ok(belief(0.9)));
    let outcome = search_with(&accepted, &SearchConfig::default(), &task()).await;
    assert_eq!(outcome.calls, ByPurpose { answer: 1, judge: 0, refine: 0, score: 1 });
}

#[tokio::test]
async fn a_cascade_writes_critiques_where_the_score_is_uncertain_and_reads_their_verdicts() {
    let general = Templates::general().text;
    let calibration = Calibration { low: 0.3, high: 0.7, ..Calibration::default() };
    let text = TemplateText { calibration: Some(calibration), ..general };
    let templates = Templates::new(text, "test").unwrap();
    // Each row: the probability before and after a critique of the draft, the calls of each kind, and whether it is accepted.
    for (before, after, expected) in [
        (0.9, 0.0, ((0, 1), true)),
        (0.5, 0.9, ((1, 2), true)),
        (0.5, 0.55, ((5, 6), true)),
        (0.5, 0.1, ((1, 2), false)),
    ] {
        let engine = numbered().reading(move |request, index| {
            Ok(belief(if request.questions[index].reply.is_empty() { before } else { after }))
        });
        let models = Models { actor: &engine, refiner: &engine, templates: &templates };
        let judgement = judge(models, &SearchConfig::default(), &task(), "d0").await.unwrap();
        assert_eq!(judgement.accepted, expected.1, "{before} {after}");
        let ((critiques, reads), _) = expected;
        assert_eq!((engine.replies.started(), engine.replies.questions()), (critiques, reads), "{before} {after}");
    }
}

#[tokio::test]
async fn rules_decide_first_and_the_answer_that_keeps_more_of_them_wins() {
    // The draft breaks both rules and the first refinement breaks one; nothing is ever accepted.
    let made = Mutex::new(0);
    let engine = FakeEngine::new(move |request, _| {
        let mut made = made.lock().unwrap();
        *made += usize::from(request.purpose == Purpose::Refine);
        Ok(match (request.purpose, *made) {
            (Purpose::Refine, 1) => "one TWO".into(),
            (Purpose::Refine, n) => format!("one, TWO {n}"),
            _ => "One, TWO".into(),
        })
    });
    let task = Task { checks: vec![check("punctuation:no_comma"), check("change_case:english_lowercase")], ..task() };
    let config = SearchConfig { judge: Judge::Both, budget: 4, ..SearchConfig::default() };
    let outcome = search_with(&engine, &config, &task).await;
    assert_eq!((outcome.tree[outcome.best].response.as_str(), outcome.accepted), ("one TWO", false));
    // The calls are two refinements of the best so far, a new draft that only repeats the first, and further refinements of the best.
    assert_eq!(outcome.calls, ByPurpose { answer: 2, judge: 0, refine: 4, score: 0 });
    assert_eq!(outcome.stop, StopReason::Budget);
}

#[tokio::test]
async fn a_refinement_that_is_no_better_leaves_the_draft_in_place() {
    let engine =
        numbered().reading(|request, index| Ok(belief(if asked_about(request, index) == "d1" { 0.1 } else { 0.4 })));
    let config = SearchConfig { budget: 3, ..SearchConfig::default() };
    let outcome = search_with(&engine, &config, &task()).await;
    assert_eq!((outcome.best, outcome.stop, outcome.tree.judged()), (ROOT, StopReason::Budget, 3));
}

#[tokio::test]
async fn copies_and_loops_are_no_nodes() {
    let made = Mutex::new((0, 0));
    let engine = FakeEngine::new(move |request, _| {
        let mut made = made.lock().unwrap();
        match request.purpose {
            Purpose::Refine => made.1 += 1,
            _ => made.0 += 1,
        }
        Ok(match (request.purpose, *made) {
            (Purpose::Refine, (_, 1)) => "a, b".into(),
            (Purpose::Refine, (_, 2)) => "the same words again ".repeat(100),
            (Purpose::Refine, _) => "c d".into(),
            _ => "a, b".into(),
        })
    });
    let task = Task { checks: vec![check("punctuation:no_comma")], ..task() };
    let config = SearchConfig { judge: Judge::Rules, budget: 3, ..SearchConfig::default() };
    let outcome = search_with(&engine, &config, &task).await;
    assert_eq!((responses(&outcome), outcome.accepted), (vec!["a, b", "c d"], true));
    assert_eq!((outcome.calls.answer, outcome.calls.refine), (2, 3));
    // The loop was cut off long before its end.
    assert!(outcome.tokens.refine < 200, "{}", outcome.tokens.refine);
}

#[tokio::test]
async fn a_refiner_that_does_not_write_the_markers_is_asked_for_the_answer_alone() {
    let engine = FakeEngine::new(|request, _| {
        let Input::Chat(turns) = &request.input else { panic!() };
        Ok(match request.purpose {
            Purpose::Answer => "d1".into(),
            Purpose::Judge => "Hm.".into(),
            Purpose::Refine if turns.len() == 3 && turns[2].content.contains("does not follow every") => "r2".into(),
            Purpose::Refine => "Here you are: r1".into(),
        })
    });
    let engine =
        engine.reading(|request, index| Ok(belief(if asked_about(request, index) == "r2" { 0.9 } else { 0.2 })));
    let outcome = search_with(&engine, &SearchConfig::default(), &task()).await;
    assert_eq!((responses(&outcome), outcome.stop), (vec!["d1", "r2"], StopReason::Accepted));
    assert_eq!((outcome.calls.judge, outcome.calls.refine), (1, 2));
}

#[tokio::test]
async fn where_the_limit_cut_off_the_draft_it_may_cut_off_a_refinement() {
    let engine = FakeEngine::new(|request, _| {
        let mark = if request.purpose == Purpose::Refine { "" } else { "," };
        let letter = |n: u32| char::from(b'a' + (n * n * n % 26) as u8);
        Ok((1..100).map(|n| format!("{}{}{mark} ", letter(n), letter(n / 3))).collect())
    });
    for (max_tokens, accepted) in [(Some(10), true), (Some(1000), true)] {
        let task = Task { checks: vec![check("punctuation:no_comma")], max_tokens, ..task() };
        let config = SearchConfig { judge: Judge::Rules, ..SearchConfig::default() };
        let outcome = search_with(&engine, &config, &task).await;
        assert_eq!((outcome.accepted, outcome.tree.nodes.len()), (accepted, 2), "{max_tokens:?}");
        let cut = if max_tokens == Some(10) { FinishReason::Length } else { FinishReason::Stop };
        assert_eq!(outcome.finish, cut, "{max_tokens:?}");
    }
}

#[tokio::test]
async fn a_judge_that_cannot_be_read_is_named_and_rules_decide_without_it() {
    let unreadable = || numbered().reading(|_, _| Ok(vec![-20.0, -20.0]));
    let outcome = search_with(&unreadable(), &SearchConfig::default(), &task()).await;
    assert_eq!((outcome.stop, outcome.best, outcome.calls.refine), (StopReason::JudgeUnreadable, ROOT, 0));
    let votes = SearchConfig { judging: Some(Judging::Votes), ..SearchConfig::default() };
    let outcome = search_with(&numbered(), &votes, &task()).await;
    assert_eq!((outcome.stop, outcome.calls.judge), (StopReason::JudgeUnreadable, 5));
    assert_eq!(outcome.tree[ROOT].votes, Votes { yes: 0, no: 0, invalid: 5 });

    let ruled = Task { checks: vec![check("punctuation:no_comma")], ..task() };
    let both = SearchConfig { judge: Judge::Both, ..SearchConfig::default() };
    let outcome = search_with(&unreadable(), &both, &ruled).await;
    assert_eq!((outcome.stop, outcome.accepted, outcome.calls.score), (StopReason::Accepted, true, 1));
}

#[tokio::test]
async fn without_probabilities_one_word_answers_are_sampled() {
    let engine = FakeEngine::new(|request, index| {
        let Input::Chat(turns) = &request.input else { panic!() };
        Ok(match request.purpose {
            Purpose::Answer => "d1".into(),
            Purpose::Refine => "[[start]]r1[[end]]".into(),
            // The request asks for a critique, or for one word about `r1` or the draft.
            Purpose::Judge if turns.len() == 1 => "It is wrong.".into(),
            Purpose::Judge if turns[turns.len() - 2].content == "r1" => "Yes".into(),
            Purpose::Judge => if index == 0 { "Yes." } else { "no" }.into(),
        })
    });
    let outcome = search_with(&engine, &SearchConfig::default(), &task()).await;
    assert_eq!((responses(&outcome), outcome.accepted), (vec!["d1", "r1"], true));
    assert_eq!((outcome.tree[ROOT].probability, outcome.calls.score), (Some(0.2), 0));
}

#[tokio::test]
async fn a_critique_without_a_verdict_is_asked_for_it() {
    let engine = numbered().reading(|request, index| {
        assert!(request.questions[index].reply.ends_with("Hm.\nFinal Judgement:"));
        Ok(belief(if asked_about(request, index) == "r1" { 0.9 } else { 0.1 }))
    });
    let votes = SearchConfig { judging: Some(Judging::Votes), ..SearchConfig::default() };
    let outcome = search_with(&engine, &votes, &task()).await;
    assert_eq!(outcome.tree[ROOT].votes, Votes { yes: 0, no: 3, invalid: 0 });
    assert!(outcome.accepted);
}

#[tokio::test]
async fn items_of_a_checklist_are_judged_one_by_one() {
    let list = r#"["It is a poem.", "It is about the sea."]"#;
    let engine = FakeEngine::new(move |request, _| {
        let Input::Chat(turns) = &request.input else { panic!() };
        Ok(match request.purpose {
            Purpose::Answer => "d1".into(),
            Purpose::Refine => {
                let asked = &turns.last().unwrap().content;
                assert!(asked.contains("- It is about the sea.\n") && !asked.contains("poem"), "{asked}");
                "r1".into()
            }
            Purpose::Judge => list.into(),
        })
    });
    let engine = engine.reading(|request, index| {
        let Input::Chat(turns) = &request.questions[index].input else { panic!() };
        let sea = turns.last().unwrap().content.contains("sea");
        Ok(belief(if sea && asked_about(request, index) == "d1" { 0.1 } else { 0.8 }))
    });
    let config = SearchConfig { checklist: true, ..SearchConfig::default() };
    let outcome = search_with(&engine, &config, &task()).await;
    assert_eq!((outcome.checklist.len(), outcome.accepted, outcome.calls.score), (2, true, 4));
    let root = &outcome.tree[ROOT];
    assert_eq!((root.held, root.failed.as_slice()), (1, &["It is about the sea.".to_owned()][..]));
    assert!((root.value.unwrap() - 0.45).abs() < 1e-6, "the mean of its items: {:?}", root.value);
}

#[tokio::test(start_paused = true)]
async fn a_draft_that_the_deadline_cuts_off_is_judged_and_returned() {
    let long: String = (0..100).map(|n| format!("word{n} ")).collect();
    let said = long.clone();
    let engine = FakeEngine::new(move |_: &Request, _| Ok(said.clone()))
        .paced(|_, _| Duration::from_millis(100))
        .reading(|_, _| Ok(belief(0.1)));
    let config = SearchConfig { deadline: Some(Duration::from_secs(2)), ..SearchConfig::default() };
    let outcome = search_with(&engine, &config, &task()).await;
    let answer = &outcome.tree[ROOT].response;
    assert!(long.starts_with(answer) && !answer.is_empty(), "{answer}");
    assert_eq!((outcome.stop, outcome.calls.score), (StopReason::Deadline, 1));
    assert_eq!(outcome.finish, FinishReason::Length);
    assert!(outcome.elapsed <= Duration::from_secs(2) && engine.replies.running() == 0);

    // Critiques do not fit into the time, so nothing is judged. The votes that were cast are kept.
    let votes = SearchConfig { judging: Some(Judging::Votes), ..config };
    let outcome = search_with(&engine, &votes, &task()).await;
    assert_eq!((outcome.stop, outcome.tree[ROOT].value), (StopReason::Unjudged, None));
}

#[tokio::test]
async fn a_verdict_that_fails_ends_the_search_with_the_draft() {
    let engine = numbered().reading(|_, _| Err(EngineError::Crashed("as scripted".into())));
    let outcome = search_with(&engine, &SearchConfig::default(), &task()).await;
    assert_eq!((outcome.stop, outcome.best), (StopReason::Error, ROOT));
    assert_eq!(engine.replies.running(), 0);
}
