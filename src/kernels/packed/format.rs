//! The element types of a packed matrix. All are multiplied as `f32`.

use half::{bf16, f16};

use super::super::pages::Pages;
use super::blocks::{BlockPanels, BlockView};
use super::lines::{ByteLine, GROUP, HalfLine, Line, WIDTH};

/// The type in which elements are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// 8 bits, with a 16-bit scale for each `GROUP` elements of a column.
    Q8,
    /// The upper half of an `f32`.
    Bf16,
    /// Half precision, `f16`.
    F16,
    /// Single precision, `f32`.
    F32,
}

/// Panels, one after another.
pub(super) enum Panels {
    F32(Pages<Line>),
    F16(Pages<HalfLine>),
    Bf16(Pages<HalfLine>),
    /// Values, and a line of `f16` scales for each group of lines.
    Q8(Pages<ByteLine>, Pages<HalfLine>),
    /// Blocks of a GGUF file.
    Blocks(BlockPanels),
}

/// A range of a matrix's panels.
#[derive(Clone, Copy)]
pub(super) enum View<'a> {
    F32(&'a [Line]),
    F16(&'a [HalfLine]),
    Bf16(&'a [HalfLine]),
    Q8(&'a [ByteLine], &'a [HalfLine]),
    Blocks(BlockView<'a>),
}

impl Panels {
    /// Makes `panels` panels of zeros, of `inner` lines each.
    pub(super) fn zeros(format: Format, panels: usize, inner: usize) -> Self {
        let lines = panels * inner;
        match format {
            Format::F32 => Self::F32(Pages::zeros(lines)),
            Format::F16 => Self::F16(Pages::zeros(lines)),
            Format::Bf16 => Self::Bf16(Pages::zeros(lines)),
            Format::Q8 => Self::Q8(Pages::zeros(lines), Pages::zeros(panels * inner.div_ceil(GROUP))),
        }
    }

    /// Writes a panel at `index`.
    pub(super) fn write(&mut self, index: usize, panel: &[Line]) {
        let place = index * panel.len()..(index + 1) * panel.len();
        let halves = |lines: &mut [HalfLine], convert: fn(f32) -> u16| {
            for (to, line) in lines.iter_mut().zip(panel) {
                to.0 = line.0.map(convert);
            }
        };
        match self {
            Self::F32(lines) => lines[place].copy_from_slice(panel),
            Self::F16(lines) => halves(&mut lines[place], |x| f16::from_f32(x).to_bits()),
            Self::Bf16(lines) => halves(&mut lines[place], |x| bf16::from_f32(x).to_bits()),
            Self::Q8(lines, scales) => {
                let scales = scales[index * panel.len().div_ceil(GROUP)..].iter_mut();
                for ((group, lines), kept) in panel.chunks(GROUP).zip(lines[place].chunks_mut(GROUP)).zip(scales) {
                    let largest = |c: usize| group.iter().map(|line| line.0[c].abs()).fold(0.0, f32::max);
                    let scale: [f16; WIDTH] = std::array::from_fn(|c| f16::from_f32(largest(c) / 127.0));
                    let quantized = |x: f32, scale: f16| match scale.to_f32() {
                        0.0 => 0,
                        scale => (x / scale).round().clamp(-127.0, 127.0) as i8,
                    };
                    kept.0 = scale.map(f16::to_bits);
                    for (to, line) in lines.iter_mut().zip(group) {
                        to.0 = std::array::from_fn(|c| quantized(line.0[c], scale[c]));
                    }
                }
            }
            Self::Blocks(_) => unreachable!("blocks are written row by row, as their file has them"),
        }
    }

    /// A view of `count` panels from `first` on, of `inner` lines each.
    pub(super) fn view(&self, first: usize, count: usize, inner: usize) -> View<'_> {
        let lines = first * inner..(first + count) * inner;
        let groups = inner.div_ceil(GROUP);
        match self {
            Self::F32(all) => View::F32(&all[lines]),
            Self::F16(all) => View::F16(&all[lines]),
            Self::Bf16(all) => View::Bf16(&all[lines]),
            Self::Q8(all, scales) => View::Q8(&all[lines], &scales[first * groups..(first + count) * groups]),
            Self::Blocks(all) => View::Blocks(all.view(first, count, inner)),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::F32(lines) => size_of_val::<[_]>(lines),
            Self::F16(lines) | Self::Bf16(lines) => size_of_val::<[_]>(lines),
            Self::Q8(lines, scales) => size_of_val::<[_]>(lines) + size_of_val::<[_]>(scales),
            Self::Blocks(all) => all.bytes(),
        }
    }
}

impl<'a> View<'a> {
    /// Copies column `c` of a single panel to `out`.
    pub(super) fn column(self, c: usize, out: &mut [f32]) {
        match self {
            Self::F32(lines) => out.iter_mut().zip(lines).for_each(|(x, line)| *x = line.0[c]),
            Self::F16(lines) => out.iter_mut().zip(lines).for_each(|(x, line)| *x = f16::from_bits(line.0[c]).to_f32()),
            Self::Bf16(lines) => {
                out.iter_mut().zip(lines).for_each(|(x, line)| *x = bf16::from_bits(line.0[c]).to_f32())
            }
            Self::Q8(..) | Self::Blocks(..) => out.iter_mut().enumerate().for_each(|(i, x)| *x = self.element(i, c)),
        }
    }

    /// Element `c` of line `i`, in a view of a single panel.
    pub(super) fn element(self, i: usize, c: usize) -> f32 {
        match self {
            Self::F32(lines) => lines[i].0[c],
            Self::F16(lines) => f16::from_bits(lines[i].0[c]).to_f32(),
            Self::Bf16(lines) => bf16::from_bits(lines[i].0[c]).to_f32(),
            Self::Q8(lines, scales) => f32::from(lines[i].0[c]) * f16::from_bits(scales[i / GROUP].0[c]).to_f32(),
            Self::Blocks(all) => all.element(i, c),
        }
    }

    /// Unpacks the panel to `f32`; `unpacked` is a scratch buffer.
    pub(super) fn unpack<'b>(self, inner: usize, unpacked: &'b mut Vec<Line>) -> View<'b>
    where
        'a: 'b,
    {
        let Self::F32(lines) = self else {
            unpacked.resize(inner, Line::ZERO);
            super::tile::unpack(self, unpacked);
            return View::F32(unpacked);
        };
        View::F32(lines)
    }
}
