//! Searches and their votes.

use metrics::{counter, histogram};

use crate::search::{Outcome, StopReason, Strategy};

/// Known label sets start at zero.
pub(super) fn begin() {
    for verdict in ["yes", "no", "invalid"] {
        counter!("spar_judge_votes_total", "verdict" => verdict).increment(0);
    }
    counter!("spar_votes_saved_total").increment(0);
}

fn strategy_label(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::Bfs => "bfs",
        Strategy::Dfs => "dfs",
        Strategy::BestOfN => "best_of_n",
        Strategy::RefineChain => "refine_chain",
    }
}

fn stop_label(stop: StopReason) -> &'static str {
    match stop {
        StopReason::Accepted => "accepted",
        StopReason::Budget => "budget",
        StopReason::Tokens => "tokens",
        StopReason::Calls => "calls",
        StopReason::Deadline => "deadline",
        StopReason::Exhausted => "exhausted",
        StopReason::Error => "error",
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
        for (verdict, count) in [("yes", votes.yes), ("no", votes.no), ("invalid", votes.invalid)] {
            counter!("spar_judge_votes_total", "verdict" => verdict).increment(count as u64);
        }
        let valid = votes.yes + votes.no;
        if valid > 0 {
            histogram!("spar_judge_agreement").record(votes.yes.max(votes.no) as f64 / valid as f64);
        }
    }
    counter!("spar_votes_saved_total").increment(outcome.votes_saved as u64);
}
