//! Panels of numbers that a GGUF file stores in blocks with common scales. They are packed without conversion, so they take little or no
//! more memory than in the file.

use bytemuck::{Pod, Zeroable};
use half::f16;

use super::super::pages::Pages;
use super::lines::{ByteLine, HalfLine, Line, WIDTH};
use crate::weights::gguf::kind::{Blocks, Steps};

/// A row of a panel with 4 bits per element: the first 16 columns are in the lower halves of the bytes, the others in the upper halves.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C, align(16))]
pub(super) struct NibbleLine(pub(super) [u8; WIDTH / 2]);

/// Lines of quantized values.
enum Values {
    /// Indices into the table.
    Nibbles(Pages<NibbleLine>, [f32; 16]),
    Bytes(Pages<ByteLine>),
}

/// Panels of blocks, one after another. A block covers several lines of one column.
pub(super) struct BlockPanels {
    kind: Blocks,
    values: Values,
    /// Scales, one line for each block.
    scales: Pages<HalfLine>,
    /// Minima, laid out like the scales, for types that have them.
    minima: Pages<HalfLine>,
    /// Steps of the scales, one line for each group, for types whose blocks have several groups.
    steps: Pages<ByteLine>,
    /// Steps of the minima, laid out like those of the scales, for types that have them.
    lifts: Pages<ByteLine>,
}

/// The values of a panel's lines.
#[derive(Clone, Copy)]
pub(super) enum ValueView<'a> {
    Nibbles(&'a [NibbleLine], &'a [f32; 16]),
    Bytes(&'a [ByteLine]),
}

/// A range of a matrix's panels.
#[derive(Clone, Copy)]
pub(super) struct BlockView<'a> {
    /// Lines per block.
    block: usize,
    /// Lines per group.
    pub(super) group: usize,
    pub(super) values: ValueView<'a>,
    scales: &'a [HalfLine],
    minima: &'a [HalfLine],
    steps: &'a [ByteLine],
    lifts: &'a [ByteLine],
}

/// The lines that determine the scales of a group; `None` for those that the type does not have.
pub(super) struct GroupScales<'a> {
    pub(super) scale: &'a HalfLine,
    pub(super) minimum: Option<&'a HalfLine>,
    pub(super) step: Option<&'a ByteLine>,
    pub(super) lift: Option<&'a ByteLine>,
}

impl BlockPanels {
    /// Makes `panels` panels of zeros, of `inner` lines each.
    ///
    /// # Panics
    /// Panics if the lines are not a whole number of blocks.
    pub(super) fn zeros(kind: Blocks, panels: usize, inner: usize) -> Self {
        let block = kind.block().0;
        assert!(inner.is_multiple_of(block), "a block is cut off");
        let (lines, blocks, groups) = (panels * inner, panels * inner / block, panels * inner / kind.group());
        let values = match kind.table() {
            Some(table) => Values::Nibbles(Pages::zeros(lines), table.map(f32::from)),
            None => Values::Bytes(Pages::zeros(lines)),
        };
        let several = block > kind.group();
        let only = |wanted: bool, count: usize| if wanted { count } else { 0 };
        Self {
            kind,
            values,
            scales: Pages::zeros(blocks),
            minima: Pages::zeros(only(kind.has_minimum(), blocks)),
            steps: Pages::zeros(only(several, groups)),
            lifts: Pages::zeros(only(several && kind.has_minimum(), groups)),
        }
    }

    /// Writes the blocks of one row into a column of a panel.
    pub(super) fn write(&mut self, panel: usize, column: usize, inner: usize, row: &[u8]) {
        let ((block, size), group) = (self.kind.block(), self.kind.group());
        let mut steps = Steps::ZERO;
        for (index, bytes) in row.chunks_exact(size).enumerate() {
            self.kind.decode(bytes, &mut steps);
            let line = panel * inner + index * block;
            self.write_values(line, column, &steps.values[..block]);
            let at = line / block;
            // Scale and minimum are 16-bit floats in the file.
            self.scales[at].0[column] = f16::from_f32(steps.scale).to_bits();
            if let Some(minimum) = self.minima.get_mut(at) {
                minimum.0[column] = f16::from_f32(steps.minimum).to_bits();
            }
            let groups = steps.steps.iter().zip(&steps.lifts).take(block / group);
            for (at, (&own_step, &own_lift)) in (line / group..).zip(groups) {
                if let Some(step) = self.steps.get_mut(at) {
                    step.0[column] = own_step;
                }
                if let Some(lift) = self.lifts.get_mut(at) {
                    lift.0[column] = own_lift as i8;
                }
            }
        }
    }

    fn write_values(&mut self, line: usize, column: usize, values: &[i8]) {
        match &mut self.values {
            Values::Bytes(lines) => {
                lines[line..].iter_mut().zip(values).for_each(|(line, &value)| line.0[column] = value);
            }
            Values::Nibbles(lines, table) => {
                let (byte, shift) = (column % (WIDTH / 2), column / (WIDTH / 2) * 4);
                for (line, &value) in lines[line..].iter_mut().zip(values) {
                    let place = table.iter().position(|&x| x == f32::from(value)).expect("every value is in the table");
                    line.0[byte] |= (place as u8) << shift;
                }
            }
        }
    }

    /// A view of `count` panels from `first` on, of `inner` lines each.
    pub(super) fn view(&self, first: usize, count: usize, inner: usize) -> BlockView<'_> {
        let all = BlockView {
            block: self.kind.block().0,
            group: self.kind.group(),
            values: match &self.values {
                Values::Nibbles(lines, table) => ValueView::Nibbles(lines, table),
                Values::Bytes(lines) => ValueView::Bytes(lines),
            },
            scales: &self.scales,
            minima: &self.minima,
            steps: &self.steps,
            lifts: &self.lifts,
        };
        all.lines(first * inner..(first + count) * inner)
    }

    pub(super) fn bytes(&self) -> usize {
        let values = match &self.values {
            Values::Nibbles(lines, _) => size_of_val::<[_]>(lines),
            Values::Bytes(lines) => size_of_val::<[_]>(lines),
        };
        let halves = size_of_val::<[_]>(&self.scales) + size_of_val::<[_]>(&self.minima);
        values + halves + size_of_val::<[_]>(&self.steps) + size_of_val::<[_]>(&self.lifts)
    }
}

impl<'a> BlockView<'a> {
    /// A view of some of the lines, which must be whole blocks.
    pub(super) fn lines(self, lines: std::ops::Range<usize>) -> Self {
        fn some<T>(all: &[T], lines: std::ops::Range<usize>) -> &[T] {
            if all.is_empty() { all } else { &all[lines] }
        }
        let blocks = lines.start / self.block..lines.end / self.block;
        let groups = lines.start / self.group..lines.end / self.group;
        Self {
            values: match self.values {
                ValueView::Nibbles(all, table) => ValueView::Nibbles(&all[lines], table),
                ValueView::Bytes(all) => ValueView::Bytes(&all[lines]),
            },
            scales: some(self.scales, blocks.clone()),
            minima: some(self.minima, blocks),
            steps: some(self.steps, groups.clone()),
            lifts: some(self.lifts, groups),
            ..self
        }
    }

    /// The scales of a group of lines.
    #[inline(always)]
    pub(super) fn scales(&self, group: usize) -> GroupScales<'a> {
        let block = group * self.group / self.block;
        GroupScales {
            scale: &self.scales[block],
            minimum: self.minima.get(block),
            step: self.steps.get(group),
            lift: self.lifts.get(group),
        }
    }

    /// Element `c` of line `i`, in a view of a single panel.
    pub(super) fn element(self, i: usize, c: usize) -> f32 {
        let value = match self.values {
            ValueView::Nibbles(lines, table) => {
                table[usize::from(lines[i].0[c % (WIDTH / 2)] >> (c / (WIDTH / 2) * 4) & 15)]
            }
            ValueView::Bytes(lines) => f32::from(lines[i].0[c]),
        };
        let GroupScales { scale, minimum, step, lift } = self.scales(i / self.group);
        let half = |line: &HalfLine| f16::from_bits(line.0[c]).to_f32();
        let scale = half(scale) * step.map_or(1.0, |step| f32::from(step.0[c]));
        let offset =
            minimum.map_or(0.0, |minimum| -(half(minimum) * lift.map_or(1.0, |lift| f32::from(lift.0[c] as u8))));
        value.mul_add(scale, offset)
    }

    /// Writes the lines of a single panel in `f32`.
    pub(super) fn unpack(self, out: &mut [Line]) {
        for (i, line) in out.iter_mut().enumerate() {
            line.0 = std::array::from_fn(|c| self.element(i, c));
        }
    }
}
