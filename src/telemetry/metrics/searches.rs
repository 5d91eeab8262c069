//! Searches and their votes.

use metrics::{counter, gauge, histogram};

use crate::openai::{CheckReport, JudgeState};
use crate::prompts::Verdict;
use crate::search::{Judging, Outcome, StopReason, Strategy};
use crate::verify::IDS;

/// Known label sets start at zero.
pub(super) fn begin() {
    for verdict in ["yes", "no", "invalid"] {
        counter!("spar_judge_votes_total", "verdict" => verdict).increment(0);
    }
    counter!("spar_votes_saved_total").increment(0);
    judge_tried(JudgeState::Untried);
    for kind in IDS {
        counter!("spar_checks_found_total", "kind" => kind).increment(0);
        counter!("spar_checks_held_total", "kind" => kind).increment(0);
    }
    for strategy in [Strategy::Auto, Strategy::Bfs, Strategy::Dfs, Strategy::BestOfN, Strategy::RefineChain] {
        for stop in STOPS {
            let (strategy, stop) = (strategy_label(strategy), stop_label(stop));
            counter!("spar_search_requests_total", "strategy" => strategy, "stop_reason" => stop).increment(0);
        }
    }
    for judging in [Judging::Votes, Judging::Score, Judging::Cascade] {
        counter!("spar_judge_calls_total", "judging" => judging_label(judging)).increment(0);
    }
}

/// Every reason for which a search may end.
const STOPS: [StopReason; 10] = [
    StopReason::Accepted,
    StopReason::Budget,
    StopReason::Tokens,
    StopReason::Calls,
    StopReason::Deadline,
    StopReason::Exhausted,
    StopReason::Error,
    StopReason::JudgeUnreadable,
    StopReason::OutsideDomain,
    StopReason::Unjudged,
];

/// The word by which metrics and headers name a strategy.
pub fn strategy_label(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Auto => "auto",
        Strategy::Bfs => "bfs",
        Strategy::Dfs => "dfs",
        Strategy::BestOfN => "best_of_n",
        Strategy::RefineChain => "refine_chain",
    }
}

fn judging_label(judging: Judging) -> &'static str {
    match judging {
        Judging::Votes => "votes",
        Judging::Score => "score",
        Judging::Cascade => "cascade",
    }
}

/// The reason's name, in metrics and logs.
pub fn stop_label(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Accepted => "accepted",
        StopReason::Budget => "budget",
        StopReason::Tokens => "tokens",
        StopReason::Calls => "calls",
        StopReason::Deadline => "deadline",
        StopReason::Exhausted => "exhausted",
        StopReason::Error => "error",
        StopReason::JudgeUnreadable => "judge_unreadable",
        StopReason::OutsideDomain => "outside_domain",
        StopReason::Unjudged => "unjudged",
    }
}

/// A search ended.
pub fn search_ended(strategy: Strategy, outcome: &Outcome) {
    let strategy = strategy_label(strategy);
    let nodes = &outcome.tree.nodes;
    counter!("spar_search_requests_total", "strategy" => strategy, "stop_reason" => stop_label(outcome.stop))
        .increment(1);
    histogram!("spar_search_nodes", "strategy" => strategy).record(outcome.tree.judged() as f64);
    histogram!("spar_search_calls", "strategy" => strategy).record(outcome.calls.total() as f64);
    histogram!("spar_search_tokens", "strategy" => strategy).record(outcome.tokens.total() as f64);
    histogram!("spar_search_duration_seconds", "strategy" => strategy).record(outcome.elapsed);
    if let Some(best) = nodes.get(outcome.best.0) {
        histogram!("spar_search_depth", "strategy" => strategy).record(best.depth as f64);
        if let Some(value) = best.value {
            histogram!("spar_search_value", "strategy" => strategy).record(value);
            if let Some(root) = nodes.first().and_then(|root| root.value) {
                histogram!("spar_search_gain", "strategy" => strategy).record(value - root);
            }
        }
    }
    for votes in nodes.iter().map(|node| node.votes) {
        let valid = votes.yes + votes.no;
        if valid > 0 {
            histogram!("spar_judge_agreement").record(votes.yes.max(votes.no) as f64 / valid as f64);
        }
    }
    counter!("spar_votes_saved_total").increment(outcome.votes_saved as u64);
    let judged = (outcome.calls.judge + outcome.calls.score) as u64;
    counter!("spar_judge_calls_total", "judging" => judging_label(outcome.judging)).increment(judged);
}

/// A vote was cast; `None` is one without a readable verdict.
pub fn vote_cast(verdict: Option<Verdict>) {
    let verdict = match verdict {
        Some(Verdict::Yes) => "yes",
        Some(Verdict::No) => "no",
        None => "invalid",
    };
    counter!("spar_judge_votes_total", "verdict" => verdict).increment(1);
}

/// The judge was asked about a right and a wrong answer.
pub fn judge_tried(found: JudgeState) {
    let is = |state| f64::from(u8::from(found == state));
    gauge!("spar_judge_state", "state" => "able").set(is(JudgeState::Able));
    gauge!("spar_judge_state", "state" => "indifferent").set(is(JudgeState::Indifferent));
    gauge!("spar_judge_state", "state" => "unreadable").set(is(JudgeState::Unreadable));
}

/// The rules of a search that has ended, and whether its answer keeps them. Kinds are the rules' ids, a closed set.
pub fn checks_held(checks: &[CheckReport]) {
    for check in checks {
        if check.words.is_some() {
            counter!("spar_checks_found_total", "kind" => check.id.clone()).increment(1);
        }
        counter!("spar_checks_held_total", "kind" => check.id.clone()).increment(u64::from(check.holds));
    }
}
