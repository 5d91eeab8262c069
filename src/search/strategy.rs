//! What to do next, as a pure function of the tree.
//!
//! A step names one node and how many children to try: they share a prompt, so they reach the engine as one group.

use super::config::{Mode, SearchConfig, Strategy};
use super::tree::{NodeId, ROOT, Tree};

/// The next thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Refine a node this many times; in best-of-N, make this many drafts.
    Expand { parent: NodeId, children: usize },
    /// Ask for the votes that were saved on these nodes: their order decides what is refined next.
    Settle(Vec<NodeId>),
    /// A node is the answer.
    Accept,
    /// The budget of nodes is spent.
    Spent,
    /// No node is left to expand.
    Exhausted,
}

/// Chooses the next step. `paper` tests a level (of BFS) or the children of a node (of DFS) once they are complete, or
/// once the budget is spent; `eager` tests after every node.
pub(super) fn next(tree: &Tree, config: &SearchConfig) -> Step {
    let spent = tree.judged() >= config.budget;
    if (spent || config.mode == Mode::Eager || tree[ROOT].accepted) && tree.accepted().is_some() {
        return Step::Accept;
    }
    if spent {
        return Step::Spent;
    }
    match config.strategy {
        Strategy::Bfs => bfs(tree, config),
        Strategy::Dfs => dfs(tree, config, ROOT, 0).unwrap_or(Step::Exhausted),
        Strategy::BestOfN => best_of_n(tree, config),
        Strategy::RefineChain => refine_chain(tree, config),
    }
}

fn bfs(tree: &Tree, config: &SearchConfig) -> Step {
    let mut level = vec![ROOT];
    for depth in 0..config.depth {
        if let Some(&parent) = level.iter().find(|id| tree[**id].tried < config.branch) {
            return expand(tree, config, parent);
        }
        let made: Vec<_> = level.iter().flat_map(|id| tree[*id].children.iter().copied()).collect();
        if made.iter().any(|id| tree[*id].accepted) {
            return Step::Accept;
        }
        if depth + 1 == config.depth {
            break;
        }
        if let Some(settle) = unsettled(tree, &made) {
            return settle;
        }
        level = highest(tree, made, config.keep);
    }
    Step::Exhausted
}

/// `None` when the subtree of `node` is finished.
fn dfs(tree: &Tree, config: &SearchConfig, node: NodeId, depth: usize) -> Option<Step> {
    if depth == config.depth {
        return None;
    }
    if tree[node].tried < config.branch {
        return Some(expand(tree, config, node));
    }
    let children = &tree[node].children;
    if children.iter().any(|id| tree[*id].accepted) {
        return Some(Step::Accept);
    }
    if depth + 1 == config.depth {
        return None;
    }
    if let Some(settle) = unsettled(tree, children) {
        return Some(settle);
    }
    highest(tree, children.clone(), config.keep).into_iter().find_map(|child| dfs(tree, config, child, depth + 1))
}

fn best_of_n(tree: &Tree, config: &SearchConfig) -> Step {
    let left = config.budget.saturating_sub(tree[ROOT].tried);
    if left > 0 {
        let children = if first_of_all(tree, config) { 1 } else { left.min(config.branch) };
        return Step::Expand { parent: ROOT, children };
    }
    if tree.accepted().is_some() { Step::Accept } else { Step::Exhausted }
}

/// A refinement that cannot be read or judged is tried again, `branch` times per node.
fn refine_chain(tree: &Tree, config: &SearchConfig) -> Step {
    if tree.accepted().is_some() {
        return Step::Accept;
    }
    let last = NodeId(tree.nodes.len() - 1);
    if tree[last].tried < config.branch { Step::Expand { parent: last, children: 1 } } else { Step::Exhausted }
}

/// In eager mode the very first child goes alone: where refinement works, it ends the search; where it fails, the rest
/// of the siblings go as one group.
fn expand(tree: &Tree, config: &SearchConfig, parent: NodeId) -> Step {
    let left = config.budget - tree.judged();
    let children = if first_of_all(tree, config) { 1 } else { config.branch - tree[parent].tried };
    Step::Expand { parent, children: children.min(left) }
}

fn first_of_all(tree: &Tree, config: &SearchConfig) -> bool {
    config.mode == Mode::Eager && tree[ROOT].tried == 0
}

/// The nodes whose place among `siblings` depends on votes that were not asked for.
fn unsettled(tree: &Tree, siblings: &[NodeId]) -> Option<Step> {
    let touches = |a: NodeId, b: NodeId| {
        let ((low_a, high_a), (low_b, high_b)) = (tree[a].bounds(), tree[b].bounds());
        a != b && low_a <= high_b && low_b <= high_a
    };
    let open: Vec<_> = siblings
        .iter()
        .copied()
        .filter(|id| tree[*id].unasked > 0 && siblings.iter().any(|other| touches(*id, *other)))
        .collect();
    (!open.is_empty()).then_some(Step::Settle(open))
}

/// The best `keep`, highest first; equal values keep their order.
fn highest(tree: &Tree, mut ids: Vec<NodeId>, keep: usize) -> Vec<NodeId> {
    ids.sort_by(|a, b| tree[*b].rank().total_cmp(&tree[*a].rank()));
    ids.truncate(keep);
    ids
}
