//! Chooses the next step as a pure function of the tree.
//!
//! A step names one node and the number of children to try. The children share a prompt, so they reach the engine as one group.

use super::config::{Mode, SearchConfig, Strategy};
use super::tree::{NodeId, ROOT, Tree};

/// The next step of a search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Refine a node into this many children.
    Expand { parent: NodeId, children: usize },
    /// Make this many drafts.
    Draft(usize),
    /// Ask for the votes that were skipped on these nodes, since their order decides which node is refined next.
    Settle(Vec<NodeId>),
    /// Return an accepted node as the answer.
    Accept,
    /// The budget of nodes is spent.
    Spent,
    /// No node is left to expand.
    Exhausted,
}

/// Chooses the next step. `paper` tests a level (in BFS) or the children of a node (in DFS) once they are complete or the budget is spent;
/// `eager` tests after every node.
pub(super) fn next(tree: &Tree, config: &SearchConfig) -> Step {
    let spent = tree.judged() >= config.budget;
    if (spent || config.mode == Mode::Eager || tree[ROOT].accepted) && tree.accepted().is_some() {
        return Step::Accept;
    }
    if spent {
        return Step::Spent;
    }
    match config.strategy {
        Strategy::Auto => auto(tree, config),
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
        // The reference never keeps more nodes of a level than a node has children.
        let keep = if config.mode == Mode::Paper { config.keep.min(config.branch) } else { config.keep };
        level = highest(tree, made, keep);
    }
    Step::Exhausted
}

/// The next step in the subtree of `node`; `None` if the subtree is finished.
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

/// Number of refinements of one answer without progress before a new draft is made.
const PATIENCE: usize = 2;

/// Refines the best answer since the last draft. An answer that was refined [`PATIENCE`] times without a better result is given up for a
/// new draft, which is refined in turn. At most [`PATIENCE`] attempts may fail to add a node.
fn auto(tree: &Tree, config: &SearchConfig) -> Step {
    let tries = tree.redrafted + tree.nodes.iter().map(|node| node.tried).sum::<usize>();
    if tries >= config.budget + PATIENCE {
        return Step::Exhausted;
    }
    let last_draft = tree.nodes.iter().rposition(|node| node.parent.is_none()).unwrap_or(0);
    let mut best = NodeId(last_draft);
    for id in (last_draft + 1..tree.nodes.len()).map(NodeId) {
        let key = |id: NodeId| (tree[id].held, tree[id].rank());
        if key(id) > key(best) {
            best = id;
        }
    }
    // A new draft that only repeats an earlier answer adds no node; the best answer is refined further instead.
    let drafts = tree.nodes.iter().filter(|node| node.parent.is_none()).count();
    let repeated = (tree.redrafted + 1).saturating_sub(drafts);
    if tree[best].tried < PATIENCE * (1 + repeated) {
        Step::Expand { parent: best, children: 1 }
    } else {
        Step::Draft(1)
    }
}

fn best_of_n(tree: &Tree, config: &SearchConfig) -> Step {
    let left = config.budget.saturating_sub(tree.redrafted);
    if left > 0 {
        let first = config.mode == Mode::Eager && tree.redrafted == 0;
        return Step::Draft(if first { 1 } else { left.min(config.branch) });
    }
    if tree.accepted().is_some() { Step::Accept } else { Step::Exhausted }
}

/// Refines the last node. A refinement that cannot be read or judged is attempted again, up to `branch` times per node.
fn refine_chain(tree: &Tree, config: &SearchConfig) -> Step {
    if tree.accepted().is_some() {
        return Step::Accept;
    }
    let last = NodeId(tree.nodes.len() - 1);
    if tree[last].tried < config.branch { Step::Expand { parent: last, children: 1 } } else { Step::Exhausted }
}

/// The step that refines `parent`. In eager mode the very first child is made alone: if refinement works, it ends the search; otherwise the
/// other siblings follow as one group.
fn expand(tree: &Tree, config: &SearchConfig, parent: NodeId) -> Step {
    let left = config.budget - tree.judged();
    let children = if first_of_all(tree, config) { 1 } else { config.branch - tree[parent].tried };
    Step::Expand { parent, children: children.min(left) }
}

fn first_of_all(tree: &Tree, config: &SearchConfig) -> bool {
    config.mode == Mode::Eager && tree[ROOT].tried == 0
}

/// The nodes whose rank among `siblings` depends on votes that were skipped.
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

/// The best `keep` nodes, highest first; equal values keep their order.
fn highest(tree: &Tree, mut ids: Vec<NodeId>, keep: usize) -> Vec<NodeId> {
    ids.sort_by(|a, b| tree[*b].rank().total_cmp(&tree[*a].rank()));
    ids.truncate(keep);
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::search::tree::{Node, Votes};

    /// Builds a tree from `(parent, value, tried)` per node; a value above one half is accepted.
    fn tree(nodes: &[(Option<usize>, f64, usize)]) -> Tree {
        let mut tree = Tree::default();
        for &(parent, value, tried) in nodes {
            let parent = parent.map(NodeId);
            let depth = parent.map_or(0, |id| tree[id].depth + 1);
            let (accepted, held) = (value > 0.5, (value * 10.0) as usize);
            tree.push(Node { parent, depth, value: Some(value), tried, accepted, held, ..Node::default() });
        }
        // In tables of best-of-N, the root's `tried` is the number of further drafts.
        if tree.nodes.iter().all(|node| node.parent.is_none()) {
            tree.redrafted = tree[ROOT].tried;
        }
        tree
    }

    fn expand(parent: usize, children: usize) -> Step {
        Step::Expand { parent: NodeId(parent), children }
    }

    #[test]
    fn the_next_step_follows_from_the_tree() {
        use Mode::{Eager, Paper};
        use Strategy::{Auto, BestOfN, Bfs, Dfs, RefineChain};
        let r = Some(0);
        let fresh: &[_] = &[(None, 0.0, 0)];
        let one: &[_] = &[(None, 0.0, 1), (r, 0.0, 0)];
        let level: &[_] = &[(None, 0.0, 3), (r, 0.2, 0), (r, 0.4, 0), (r, 0.4, 0)];
        let half: &[_] = &[(None, 0.0, 2), (r, 0.8, 0), (r, 0.4, 0)];
        let won: &[_] = &[(None, 0.0, 3), (r, 0.6, 0), (r, 0.8, 0)];
        let deep: &[_] = &[(None, 0.0, 3), (r, 0.2, 0), (r, 0.4, 3), (r, 0.0, 0), (Some(2), 0.1, 0), (Some(2), 0.3, 0)];
        let drafts: &[_] = &[(None, 0.0, 2), (None, 0.2, 0), (None, 0.8, 0)];
        let cases = [
            ("the first child goes alone", fresh, Bfs, Eager, 16, expand(0, 1)),
            ("its siblings follow together", one, Bfs, Eager, 16, expand(0, 2)),
            ("paper makes all of them", fresh, Bfs, Paper, 16, expand(0, 3)),
            ("the budget bounds a group", fresh, Bfs, Paper, 2, expand(0, 2)),
            ("the best of a level first, the earlier of equals", level, Bfs, Paper, 16, expand(2, 3)),
            ("the rest of the budget", level, Bfs, Paper, 4, expand(2, 1)),
            ("a spent budget", level, Bfs, Paper, 3, Step::Spent),
            ("eager accepts within a level", half, Bfs, Eager, 16, Step::Accept),
            ("paper completes the level", half, Bfs, Paper, 16, expand(0, 1)),
            ("paper tests a complete level", won, Bfs, Paper, 16, Step::Accept),
            ("paper tests what the budget left", half, Bfs, Paper, 2, Step::Accept),
            ("breadth: the second of the level", deep, Bfs, Paper, 16, expand(1, 3)),
            ("depth: the best grandchild", deep, Dfs, Paper, 16, expand(5, 3)),
            ("depth completes the children", half, Dfs, Paper, 16, expand(0, 1)),
            ("a chain goes on from the last", one, RefineChain, Eager, 16, expand(1, 1)),
            ("a chain ends after its tries", &[(None, 0.0, 3)], RefineChain, Eager, 16, Step::Exhausted),
            ("further drafts", fresh, BestOfN, Paper, 16, Step::Draft(3)),
            ("as many as are left", fresh, BestOfN, Paper, 2, Step::Draft(2)),
            ("eager stops at a right draft", drafts, BestOfN, Eager, 16, Step::Accept),
            ("paper makes all drafts", drafts, BestOfN, Paper, 4, Step::Draft(2)),
            ("auto refines the draft", fresh, Auto, Eager, 16, expand(0, 1)),
            ("auto refines a response again that was not fixed", one, Auto, Eager, 16, expand(0, 1)),
            ("auto goes on from progress", &[(None, 0.0, 1), (r, 0.2, 0)], Auto, Eager, 16, expand(1, 1)),
            ("auto drafts anew without progress", &[(None, 0.2, 2), (r, 0.2, 0)], Auto, Eager, 16, Step::Draft(1)),
            (
                "auto refines the new draft",
                &[(None, 0.2, 2), (r, 0.1, 0), (None, 0.0, 0)],
                Auto,
                Eager,
                16,
                expand(2, 1),
            ),
            ("auto accepts", half, Auto, Eager, 16, Step::Accept),
            ("auto gives up on tries that leave nothing", &[(None, 0.0, 4)], Auto, Eager, 2, Step::Exhausted),
            ("no draft could be judged", &[(None, 0.0, 4)], BestOfN, Paper, 4, Step::Exhausted),
        ];
        for (name, nodes, strategy, mode, budget, expected) in cases {
            let config = SearchConfig { strategy, mode, budget, ..SearchConfig::default() };
            assert_eq!(next(&tree(nodes), &config), expected, "{name}");
        }
    }

    #[test]
    fn paper_refines_no_more_of_a_level_than_a_node_has_children() {
        let (one, two) = (Some(1), Some(2));
        let level = [(one, 0.2, 2), (one, 0.2, 2), (two, 0.2, 0), (two, 0.2, 0)];
        let tree = tree(&[&[(None, 0.0, 2), (Some(0), 0.0, 2), (Some(0), 0.0, 2)], &level[..]].concat());
        let shape = SearchConfig { strategy: Strategy::Bfs, branch: 2, keep: 3, ..SearchConfig::default() };
        for (mode, expected) in [(Mode::Paper, Step::Exhausted), (Mode::Eager, expand(5, 2))] {
            assert_eq!(next(&tree, &SearchConfig { mode, ..shape.clone() }), expected, "{mode:?}");
        }
    }

    #[test]
    fn votes_are_asked_for_where_they_could_change_the_order() {
        let config = SearchConfig { strategy: Strategy::Bfs, ..SearchConfig::default() };
        let voted = |yes, no| (Votes { yes, no, invalid: 0 }, 5 - yes - no);
        let cases = [
            ("any of these could be the best", [voted(0, 3), voted(0, 3), voted(1, 3)], Some(vec![1, 2, 3])),
            ("their order is known", [voted(0, 5), voted(1, 4), voted(2, 3)], None),
            (
                "one is known to be above",
                [voted(0, 3), voted(0, 3), (Votes { yes: 9, no: 10, invalid: 0 }, 0)],
                Some(vec![1, 2]),
            ),
        ];
        for (name, votes, expected) in cases {
            let mut tree = tree(&[(None, 0.0, 3)]);
            for (votes, unasked) in votes {
                let value = votes.value();
                tree.push(Node { parent: Some(ROOT), depth: 1, value, votes, unasked, ..Node::default() });
            }
            let expected = expected.map(|ids| Step::Settle(ids.into_iter().map(NodeId).collect()));
            let step = next(&tree, &config);
            assert_eq!(matches!(step, Step::Settle(_)).then_some(step), expected, "{name}");
        }
    }
}
