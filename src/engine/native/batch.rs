//! What a step computes: rows of many sequences, and the adapters that change some of them.

use std::ops::Range;
use std::sync::Arc;

use super::adapter::{Adapter, Delta, LayerAdapter};
use crate::kernels::packed::Workspace;

/// A position of a sequence that a step computes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Index of the sequence.
    pub(super) sequence: usize,
    /// Position in it.
    pub(super) position: usize,
}

/// Rows of a step that one adapter changes.
pub(super) struct Group {
    pub(super) rows: Range<usize>,
    pub(super) adapter: Arc<Adapter>,
}

/// What a step computes.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    /// Disjoint ranges of rows.
    pub(super) groups: Vec<Group>,
    /// Numbers of the rows whose logits are asked for, in order.
    pub(super) wanted: Vec<usize>,
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.rows.clear();
        self.groups.clear();
        self.wanted.clear();
    }

    /// Leaves the rows whose logits are asked for.
    pub(super) fn keep_wanted(&mut self) {
        for Group { rows, .. } in &mut self.groups {
            let place = |row: usize| self.wanted.partition_point(|&wanted| wanted < row);
            *rows = place(rows.start)..place(rows.end);
        }
        for (place, row) in self.wanted.iter_mut().enumerate() {
            self.rows[place] = self.rows[*row];
            *row = place;
        }
        self.rows.truncate(self.wanted.len());
    }

    /// Adds what adapters change in the matrix `which` of a layer.
    pub(super) fn adapt(
        &self,
        layer: usize,
        which: fn(&LayerAdapter) -> Option<&Delta>,
        a: &[f32],
        out: &mut [f32],
        low: &mut Vec<f32>,
        workspace: &mut Workspace,
    ) {
        let (inner, columns) = (a.len() / self.rows.len(), out.len() / self.rows.len());
        for Group { rows, adapter } in &self.groups {
            if let Some(delta) = which(adapter.layer(layer)) {
                let out = &mut out[rows.start * columns..rows.end * columns];
                delta.add(&a[rows.start * inner..rows.end * inner], out, low, workspace);
            }
        }
    }
}
