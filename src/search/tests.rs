//! Behaviour of whole searches on a scripted engine.

use super::*;
use crate::engine::Purpose;
use crate::engine::fake::FakeEngine;

pub(super) fn task() -> Task {
    Task {
        messages: vec![Message::user("Say something right.")],
        sampling: Sampling { seed: 7, ..Sampling::default() },
        max_tokens: None,
        stop: Vec::new(),
        logprobs: None,
        constraint: None,
        checks: Vec::new(),
    }
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

fn said(request: &crate::engine::Request) -> &str {
    match &request.input {
        crate::engine::Input::Chat(messages) => &messages[0].content,
        crate::engine::Input::Text(text) => text,
    }
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
