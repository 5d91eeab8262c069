//! Keys and values in blocks of positions, and the tree of blocks that later prompts may begin with.

use std::collections::HashMap;
use std::sync::Arc;

use crate::kernels::packed::{Line, WIDTH};

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

/// Keys and values of [`BLOCK`] positions in all layers, in the panels that the matrix kernel reads: for each layer and
/// head, keys `(head_dim, BLOCK)`, then values `(head_dim / 32, BLOCK, 32)`.
#[derive(Clone)]
pub(super) struct Block(Box<[Line]>);

impl Block {
    pub(super) fn new(shape: Shape) -> Self {
        Self(vec![Line::ZERO; shape.lines()].into_boxed_slice())
    }

    pub(super) fn keys(&self, shape: Shape, layer: usize, head: usize) -> &[Line] {
        &self.0[shape.at(layer, head)..][..shape.head_dim]
    }

    pub(super) fn values(&self, shape: Shape, layer: usize, head: usize) -> &[Line] {
        &self.0[shape.at(layer, head) + shape.head_dim..][..shape.values()]
    }

    /// Sets the keys and values, `(heads, head_dim)`, of the position `slot` in this block.
    pub(super) fn write(&mut self, shape: Shape, layer: usize, slot: usize, keys: &[f32], values: &[f32]) {
        let size = shape.head_dim;
        for (head, (key, value)) in keys.chunks_exact(size).zip(values.chunks_exact(size)).enumerate() {
            let both = &mut self.0[shape.at(layer, head)..][..size + shape.values()];
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

/// A node of the tree: the blocks from the root to here. [`Prefix::ROOT`] is no block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Prefix(u64);

impl Prefix {
    pub(super) const ROOT: Self = Self(0);
}

/// Full blocks by the tokens that lead to them, within a budget of bytes; the least recently used go first.
pub(super) struct PrefixTree {
    nodes: HashMap<(Prefix, [u32; BLOCK]), Node>,
    limit: usize,
    clock: u64,
}

struct Node {
    id: Prefix,
    block: Arc<Block>,
    used: u64,
}

impl PrefixTree {
    /// A tree of at most `bytes`.
    pub(super) fn new(bytes: usize, shape: Shape) -> Self {
        Self { nodes: HashMap::new(), limit: bytes / shape.bytes(), clock: 0 }
    }

    /// The block that holds the keys and values of `tokens` after `parent`.
    pub(super) fn find(&mut self, parent: Prefix, tokens: &[u32; BLOCK]) -> Option<(Prefix, Arc<Block>)> {
        self.clock += 1;
        let node = self.nodes.get_mut(&(parent, *tokens))?;
        node.used = self.clock;
        Some((node.id, node.block.clone()))
    }

    /// Keeps a full block; where the tree has it already, `block` becomes the tree's, so that one copy is left.
    pub(super) fn keep(&mut self, parent: Prefix, tokens: &[u32; BLOCK], block: &mut Arc<Block>) -> Prefix {
        if let Some((id, known)) = self.find(parent, tokens) {
            *block = known;
            return id;
        }
        if self.nodes.len() >= self.limit {
            self.evict();
        }
        let id = Prefix(self.clock);
        if self.limit > 0 {
            self.nodes.insert((parent, *tokens), Node { id, block: block.clone(), used: self.clock });
        }
        id
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { layers: 1, heads: 1, head_dim: 2 };

    fn keep(tree: &mut PrefixTree, parent: Prefix, token: u32) -> Prefix {
        tree.keep(parent, &[token; BLOCK], &mut Arc::new(Block::new(SHAPE)))
    }

    #[test]
    fn a_block_is_found_after_its_own_prefix_only() {
        let mut tree = PrefixTree::new(1 << 20, SHAPE);
        let a = keep(&mut tree, Prefix::ROOT, 1);
        let b = keep(&mut tree, a, 2);
        assert_eq!(tree.find(Prefix::ROOT, &[1; BLOCK]).unwrap().0, a);
        assert_eq!(tree.find(a, &[2; BLOCK]).unwrap().0, b);
        assert!(tree.find(Prefix::ROOT, &[2; BLOCK]).is_none() && tree.find(b, &[2; BLOCK]).is_none());
        let mut again = Arc::new(Block::new(SHAPE));
        assert_eq!(tree.keep(Prefix::ROOT, &[1; BLOCK], &mut again), a);
        assert!(Arc::ptr_eq(&again, &tree.find(Prefix::ROOT, &[1; BLOCK]).unwrap().1));
    }

    #[test]
    fn the_least_recently_used_go_first_and_the_budget_holds() {
        let mut tree = PrefixTree::new(8 * SHAPE.bytes(), SHAPE);
        for token in 0..8 {
            keep(&mut tree, Prefix::ROOT, token);
        }
        assert!(tree.find(Prefix::ROOT, &[0; BLOCK]).is_some());
        for token in 8..10 {
            keep(&mut tree, Prefix::ROOT, token);
            assert!(tree.nodes.len() <= 8);
        }
        assert!(tree.find(Prefix::ROOT, &[0; BLOCK]).is_some());
        assert!(tree.find(Prefix::ROOT, &[1; BLOCK]).is_none());
        let mut none = PrefixTree::new(0, SHAPE);
        keep(&mut none, Prefix::ROOT, 1);
        assert!(none.find(Prefix::ROOT, &[1; BLOCK]).is_none());
    }
}
