//! Keys and values in blocks of positions, and the tree of blocks that later prompts may begin with.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use super::slots::Slots;
use crate::engine::Namespace;
use crate::engine::counters::EngineCounters;
use crate::kernels::packed::{Line, WIDTH};
use crate::kernels::pages::Pages;

/// Positions of a block: one panel of the matrix kernel.
pub(super) const BLOCK: usize = WIDTH;

/// What a block's size follows from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) layers: usize,
    /// Key and value heads.
    pub(super) heads: usize,
    pub(super) head_dim: usize,
}

impl Shape {
    /// Lines of a head's values; its keys have `head_dim`.
    fn values(self) -> usize {
        self.head_dim.div_ceil(WIDTH) * BLOCK
    }

    fn lines(self) -> usize {
        self.layers * self.heads * (self.head_dim + self.values())
    }

    /// Bytes of a block.
    pub(super) fn bytes(self) -> usize {
        self.lines() * size_of::<Line>()
    }

    fn at(self, layer: usize, head: usize) -> usize {
        (layer * self.heads + head) * (self.head_dim + self.values())
    }
}

/// Bytes of blocks that are free to be used again.
const SPARE: usize = 1 << 20;

/// Makes blocks of one shape, counts them, and keeps a few that were given up.
pub(super) struct BlockPool {
    shape: Shape,
    counters: Arc<EngineCounters>,
    spare: Mutex<Vec<Pages<Line>>>,
    /// Where blocks are places of a device's cache, without memory here.
    pub(super) slots: Option<Slots>,
}

impl BlockPool {
    /// Blocks in memory, as many as are asked for.
    pub(super) fn new(shape: Shape, counters: Arc<EngineCounters>) -> Arc<Self> {
        Arc::new(Self { shape, counters, spare: Mutex::default(), slots: None })
    }

    /// A pool of `blocks` blocks in a device's cache.
    pub(super) fn limited(shape: Shape, blocks: usize, counters: Arc<EngineCounters>) -> Arc<Self> {
        Arc::new(Self { shape, counters, spare: Mutex::default(), slots: Some(Slots::new(blocks)) })
    }

    /// Blocks that can still be taken; `None` where there is no limit.
    pub(super) fn free(&self) -> Option<usize> {
        self.slots.as_ref().map(Slots::free)
    }

    fn place(&self, slots: &Slots) -> u32 {
        self.counters.blocks.fetch_add(1, Ordering::Relaxed);
        slots.take().expect("room is made before blocks are taken")
    }

    fn take(&self) -> Option<Pages<Line>> {
        self.counters.blocks.fetch_add(1, Ordering::Relaxed);
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// A block of anything.
    pub(super) fn block(self: &Arc<Self>) -> Block {
        if let Some(slots) = &self.slots {
            return Block { lines: Pages::default(), number: self.place(slots), pool: Arc::clone(self) };
        }
        let lines = self.take().unwrap_or_else(|| Pages::zeros(self.shape.lines()));
        Block { lines, number: 0, pool: Arc::clone(self) }
    }
}

/// Keys and values of [`BLOCK`] positions in all layers, in the panels that the matrix kernel reads: for each layer and
/// head, keys `(head_dim, BLOCK)`, then values `(head_dim / 32, BLOCK, 32)`.
pub(super) struct Block {
    lines: Pages<Line>,
    /// Its place in a device's cache.
    pub(super) number: u32,
    pool: Arc<BlockPool>,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.counters.blocks.fetch_sub(1, Ordering::Relaxed);
        if let Some(slots) = &self.pool.slots {
            return slots.give_back(self.number);
        }
        let mut spare = self.pool.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if (spare.len() + 1) * self.pool.shape.bytes() <= SPARE {
            spare.push(std::mem::take(&mut self.lines));
        }
    }
}

impl Block {
    /// A block that begins with this one's first `positions`.
    pub(super) fn beginning(&self, positions: usize) -> Self {
        if let Some(slots) = &self.pool.slots {
            let number = self.pool.place(slots);
            slots.copy(self.number, number, positions);
            return Self { lines: Pages::default(), number, pool: Arc::clone(&self.pool) };
        }
        let shape = self.pool.shape;
        let mut lines = self.pool.take().unwrap_or_else(|| Pages::zeros(self.lines.len()));
        for part in 0..shape.layers * shape.heads {
            let part = shape.at(0, part)..shape.at(0, part + 1);
            let (from, to) = (&self.lines[part.clone()], &mut lines[part]);
            // Keys lie in columns; those beyond the last position are not looked at.
            to[..shape.head_dim].copy_from_slice(&from[..shape.head_dim]);
            let panels = from[shape.head_dim..].chunks_exact(BLOCK).zip(to[shape.head_dim..].chunks_exact_mut(BLOCK));
            for (from, to) in panels {
                to[..positions].copy_from_slice(&from[..positions]);
            }
        }
        Self { lines, number: 0, pool: Arc::clone(&self.pool) }
    }

    pub(super) fn keys(&self, shape: Shape, layer: usize, head: usize) -> &[Line] {
        &self.lines[shape.at(layer, head)..][..shape.head_dim]
    }

    pub(super) fn values(&self, shape: Shape, layer: usize, head: usize) -> &[Line] {
        &self.lines[shape.at(layer, head) + shape.head_dim..][..shape.values()]
    }

    /// Sets the keys and values, `(heads, head_dim)`, of the position `slot` in this block.
    pub(super) fn write(&mut self, shape: Shape, layer: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let size = shape.head_dim;
        for (head, (key, value)) in keys.chunks_exact(size).zip(values.chunks_exact(size)).enumerate() {
            let both = &mut self.lines[shape.at(layer, head)..][..size + shape.values()];
            let (k, v) = both.split_at_mut(size);
            for (line, &x) in k.iter_mut().zip(key) {
                line.0[slot] = x;
            }
            for (panel, part) in v.chunks_exact_mut(BLOCK).zip(value.chunks(WIDTH)) {
                panel[slot].0[..part.len()].copy_from_slice(part);
            }
        }
    }
}

/// A node of the tree: the blocks from a root to here. A root is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Prefix {
    id: u64,
    /// A root's namespace, whose prompts begin there; a node's is known by its root.
    namespace: Namespace,
}

impl Prefix {
    /// The root of all prompts for one set of weights. Roots count down, nodes up.
    pub(super) fn root(weights: u64) -> Self {
        Self { id: u64::MAX - weights, namespace: Namespace::SHARED }
    }

    /// The root of one namespace's prompts for the weights of this root.
    pub(super) fn within(self, namespace: Namespace) -> Self {
        Self { namespace, ..self }
    }

    fn node(id: u64) -> Self {
        Self { id, namespace: Namespace::SHARED }
    }
}

/// Tokens of a block; after the last position of one that is not full, [`NONE`].
pub(super) type BlockTokens = [u32; BLOCK];

/// A mark for no token.
const NONE: u32 = u32::MAX;

/// A block's tokens; there may be fewer than the block has positions.
pub(super) fn block_tokens(tokens: &[u32]) -> BlockTokens {
    std::array::from_fn(|i| tokens.get(i).copied().unwrap_or(NONE))
}

/// Blocks by the tokens that lead to them, within a budget; the least recently used go first.
pub(super) struct PrefixTree {
    /// The nodes in the order of their tokens, so that the block with the longest common beginning is a neighbour.
    nodes: BTreeMap<(Prefix, BlockTokens), Node>,
    limit: usize,
    clock: u64,
    counters: Arc<EngineCounters>,
}

struct Node {
    root: Prefix,
    id: Prefix,
    block: Arc<Block>,
    used: u64,
}

/// What a tree has of a block's tokens.
pub(super) struct Found {
    /// The node, where all positions of a block agree.
    pub(super) whole: Option<Prefix>,
    /// Positions that agree, at least one.
    pub(super) positions: usize,
    pub(super) block: Arc<Block>,
}

impl PrefixTree {
    /// A tree of at most `limit` blocks.
    pub(super) fn new(limit: usize, counters: Arc<EngineCounters>) -> Self {
        let tree = Self { nodes: BTreeMap::new(), limit, clock: 0, counters };
        tree.count();
        tree
    }

    /// The block after `parent` that begins as `tokens` do, for as long as any does.
    pub(super) fn find(&mut self, parent: Prefix, tokens: &BlockTokens) -> Option<Found> {
        self.clock += 1;
        let key = (parent, *tokens);
        let agreeing = |(other, there): &(Prefix, BlockTokens)| match *other == parent {
            true => there.iter().zip(tokens).take_while(|(a, b)| a == b && **a != NONE).count(),
            false => 0,
        };
        let neighbours = [self.nodes.range(..=key).next_back(), self.nodes.range(key..).next()];
        let (positions, best) =
            neighbours.into_iter().flatten().map(|(key, _)| (agreeing(key), *key)).max_by_key(|(count, _)| *count)?;
        if positions == 0 {
            return None;
        }
        let node = self.nodes.get_mut(&best)?;
        node.used = self.clock;
        Some(Found { whole: (positions == BLOCK).then_some(node.id), positions, block: node.block.clone() })
    }

    /// Keeps a full block of prompts for the weights of `root`; where the tree has it already, `block` becomes the tree's, so
    /// that one copy is left.
    pub(super) fn keep(
        &mut self,
        root: Prefix,
        parent: Prefix,
        tokens: &BlockTokens,
        block: &mut Arc<Block>,
    ) -> Prefix {
        self.clock += 1;
        if let Some(node) = self.nodes.get_mut(&(parent, *tokens)) {
            node.used = self.clock;
            *block = node.block.clone();
            return node.id;
        }
        self.insert(root, parent, tokens, block.clone())
    }

    /// Keeps a block that has fewer positions, unless one that is kept begins with all of them.
    pub(super) fn keep_end(&mut self, root: Prefix, parent: Prefix, tokens: &[u32], block: &Arc<Block>) {
        let padded = block_tokens(tokens);
        if self.find(parent, &padded).is_none_or(|found| found.positions < tokens.len()) {
            self.insert(root, parent, &padded, block.clone());
        }
    }

    fn insert(&mut self, root: Prefix, parent: Prefix, tokens: &BlockTokens, block: Arc<Block>) -> Prefix {
        if self.nodes.len() >= self.limit {
            self.evict();
        }
        let id = Prefix::node(self.clock);
        if self.limit > 0 {
            self.nodes.insert((parent, *tokens), Node { root, id, block, used: self.clock });
        }
        self.count();
        id
    }

    /// Drops every block of the weights of `root`, whatever its namespace.
    pub(super) fn forget(&mut self, root: Prefix) {
        self.nodes.retain(|_, node| node.root != root);
        self.count();
    }

    fn count(&self) {
        self.counters.kept_blocks.store(self.nodes.len(), Ordering::Relaxed);
    }

    /// Removes the eighth that was not used for longest.
    fn evict(&mut self) {
        let mut used: Vec<u64> = self.nodes.values().map(|node| node.used).collect();
        let eighth = (used.len() / 8).min(used.len().saturating_sub(1));
        if !used.is_empty() {
            let (_, &mut newest, _) = used.select_nth_unstable(eighth);
            self.nodes.retain(|_, node| node.used > newest);
        }
    }

    /// Drops blocks that only the tree holds, the least recently used first: at least this many, if there are. A sixteenth of
    /// them goes at once, because looking for them takes longer than dropping them.
    pub(super) fn release(&mut self, blocks: usize) {
        let unused = |node: &Node| Arc::strong_count(&node.block) == 1;
        let mut used: Vec<u64> = self.nodes.values().filter(|node| unused(node)).map(|node| node.used).collect();
        let going = blocks.max(used.len() / 16).min(used.len());
        if blocks > 0 && going > 0 {
            let (_, &mut newest, _) = used.select_nth_unstable(going - 1);
            self.nodes.retain(|_, node| node.used > newest || !unused(node));
            self.count();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { layers: 1, heads: 1, head_dim: 2 };

    fn root() -> Prefix {
        Prefix::root(0)
    }

    fn block() -> Arc<Block> {
        Arc::new(BlockPool::new(SHAPE, Arc::default()).block())
    }

    fn keep(tree: &mut PrefixTree, parent: Prefix, token: u32) -> Prefix {
        tree.keep(root(), parent, &[token; BLOCK], &mut block())
    }

    #[test]
    fn blocks_are_counted_and_used_again() {
        let counters = Arc::<EngineCounters>::default();
        let pool = BlockPool::new(SHAPE, counters.clone());
        let mut first = pool.block();
        first.write(SHAPE, 0, 3, &[1.0, 2.0], &[3.0, 4.0]);
        let copy = first.beginning(4);
        assert_eq!(copy.keys(SHAPE, 0, 0)[1].0[3], 2.0);
        assert_eq!(copy.values(SHAPE, 0, 0)[3], first.values(SHAPE, 0, 0)[3]);
        assert_eq!(counters.blocks.load(Ordering::Relaxed), 2);
        drop((first, copy));
        assert_eq!(counters.blocks.load(Ordering::Relaxed), 0);
        assert_eq!(pool.block().keys(SHAPE, 0, 0)[1].0[3], 2.0, "one that was given up");
    }

    #[test]
    fn a_root_is_forgotten_alone() {
        let mut tree = PrefixTree::new(1 << 20, Arc::default());
        let other = Prefix::root(1);
        let a = keep(&mut tree, root(), 1);
        keep(&mut tree, a, 2);
        tree.keep(other, other, &[1; BLOCK], &mut block());
        tree.forget(root());
        assert!(tree.find(root(), &[1; BLOCK]).is_none() && tree.find(a, &[2; BLOCK]).is_none());
        assert!(tree.find(other, &[1; BLOCK]).is_some());
        assert_eq!(tree.counters.kept_blocks.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn namespaces_find_their_own_blocks_only_and_go_with_their_weights() {
        let mut tree = PrefixTree::new(1 << 20, Arc::default());
        let [one, other] = [1, 2].map(|byte| root().within(Namespace::of([byte; 32])));
        let full = [1; BLOCK];
        let kept = tree.keep(root(), one, &full, &mut block());
        tree.keep_end(root(), kept, &[7, 8], &block());
        assert_eq!(tree.find(one, &full).and_then(|found| found.whole), Some(kept));
        assert!(tree.find(other, &full).is_none() && tree.find(root(), &full).is_none());
        assert_ne!(tree.keep(root(), other, &full, &mut block()), kept);
        tree.forget(Prefix::root(1));
        assert_eq!(tree.nodes.len(), 3);
        tree.forget(root());
        assert!(tree.nodes.is_empty());
    }

    #[test]
    fn a_block_is_found_after_its_own_prefix_only() {
        let mut tree = PrefixTree::new(1 << 20, Arc::default());
        let a = keep(&mut tree, root(), 1);
        let b = keep(&mut tree, a, 2);
        assert_eq!(tree.find(root(), &[1; BLOCK]).unwrap().whole, Some(a));
        assert_eq!(tree.find(a, &[2; BLOCK]).unwrap().whole, Some(b));
        assert!(tree.find(root(), &[2; BLOCK]).is_none() && tree.find(b, &[2; BLOCK]).is_none());
        let mut again = block();
        assert_eq!(tree.keep(root(), root(), &[1; BLOCK], &mut again), a);
        assert!(Arc::ptr_eq(&again, &tree.find(root(), &[1; BLOCK]).unwrap().block));
    }

    #[test]
    fn the_longest_common_beginning_is_found() {
        let mut tree = PrefixTree::new(1 << 20, Arc::default());
        let counting = |from: u32| -> BlockTokens { std::array::from_fn(|i| from + i as u32) };
        let changed = |at: usize, to: u32| {
            let mut tokens = counting(0);
            tokens[at] = to;
            tokens
        };
        for tokens in [counting(0), changed(5, 900), changed(9, 2), counting(100)] {
            tree.keep(root(), root(), &tokens, &mut block());
        }
        tree.keep_end(root(), root(), &[100, 101, 7], &block());
        tree.keep_end(root(), root(), &[100, 101], &block());
        assert_eq!(tree.nodes.len(), 5, "what begins another block is not kept twice");
        let table: [(&[u32], usize); 8] = [
            (&counting(0), 32),
            (&changed(31, 0), 31),
            (&changed(9, 3), 9),
            (&changed(6, 1), 6),
            (&counting(0)[..4], 4),
            (&[100, 101, 7, 8], 3),
            (&[100, 101, 102, 8], 3),
            (&[5], 0),
        ];
        for (tokens, expected) in table {
            let found = tree.find(root(), &block_tokens(tokens));
            assert_eq!(found.as_ref().map_or(0, |found| found.positions), expected, "{tokens:?}");
            assert_eq!(found.is_some_and(|found| found.whole.is_some()), expected == BLOCK);
        }
        assert!(tree.find(Prefix::root(1), &counting(0)).is_none());
    }

    #[test]
    fn the_least_recently_used_go_first_and_the_budget_holds() {
        let mut tree = PrefixTree::new(8, Arc::default());
        for token in 0..8 {
            keep(&mut tree, root(), token);
        }
        assert!(tree.find(root(), &[0; BLOCK]).is_some());
        for token in 8..10 {
            keep(&mut tree, root(), token);
            assert!(tree.nodes.len() <= 8);
        }
        assert!(tree.find(root(), &[0; BLOCK]).is_some());
        assert!(tree.find(root(), &[1; BLOCK]).is_none());
        let mut none = PrefixTree::new(0, Arc::default());
        keep(&mut none, root(), 1);
        assert!(none.find(root(), &[1; BLOCK]).is_none());
    }

    #[test]
    fn blocks_that_only_the_tree_holds_are_released() {
        let pool = BlockPool::limited(SHAPE, 5, Arc::default());
        let mut tree = PrefixTree::new(5, Arc::default());
        let mut held = Vec::new();
        for token in 0..4 {
            held.push(Arc::new(pool.block()));
            tree.keep(root(), root(), &[token; BLOCK], &mut held[token as usize]);
        }
        assert_eq!(pool.free(), Some(1));
        drop(held.drain(1..));
        assert!(tree.find(root(), &[1; BLOCK]).is_some());
        tree.release(2);
        assert_eq!(pool.free(), Some(3));
        assert!([0, 1].iter().all(|&token| tree.find(root(), &[token; BLOCK]).is_some()));
        tree.release(4);
        assert_eq!(pool.free(), Some(4), "what is in use stays");
        let copy = held[0].beginning(3);
        assert_eq!((pool.free(), pool.slots.as_ref().unwrap().copies_due()), (Some(3), 1));
        drop((copy, held, tree));
        assert_eq!((pool.free(), pool.slots.as_ref().unwrap().copies_due()), (Some(5), 0));
    }
}
