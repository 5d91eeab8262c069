//! What attention is computed of: its sizes, and which rows belong together.

use std::ops::Range;

/// Rows of one text, one after another, and the rows of its beginning that it shares with another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Run {
    pub(super) rows: Range<usize>,
    pub(super) shared: Range<usize>,
}

/// The sizes of an attention layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attention {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) dim: usize,
}
