//! Products with matrices that are packed once into panels. The result for a row depends on that row only: every element is one chain of
//! fused multiply-adds over the inner index, in order, on every machine and in every batch of rows.

mod blocks;
mod format;
mod lines;
mod tile;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use self::blocks::BlockPanels;
pub use self::format::Format;
use self::format::{Panels, View};
use self::lines::ROWS;
pub use self::lines::{Line, WIDTH};
use self::tile::Shape;
pub use self::tile::{Out, Rows};
use super::team::Team;
use crate::weights::gguf::kind::Blocks;

/// Up to this number of rows, panels are converted while they are read: with three panels at once, the sums fill the registers.
const FEW: usize = 4;

/// The maximum number of panels that are multiplied at once.
const AT_ONCE: usize = 4;

/// The number of rows per part if the rows are divided evenly into the fewest parts of at most `most` rows.
fn evenly(rows: usize, most: usize) -> usize {
    rows.div_ceil(rows.div_ceil(most).max(1)).max(1)
}

/// The size of a matrix in bytes from which on a team multiplies it.
const FOR_A_TEAM: usize = 128 << 10;

/// Buffers and threads for products, kept from one product to the next.
#[derive(Default)]
pub struct Workspace {
    /// The team that shares the work on large matrices.
    pub team: Option<Arc<Team>>,
    unpacked: Vec<Line>,
    /// A buffer for each part of the team's work.
    parts: Vec<Mutex<Part>>,
}

#[derive(Default)]
struct Part {
    unpacked: Vec<Line>,
    /// `(rows, columns of the part)`.
    results: Vec<f32>,
}

/// A matrix `(inner, columns)` in panels: `inner` lines for each 32 columns. The last panel is padded with zeros.
pub struct Packed {
    /// The sections, from left to right. All but the last consist of whole panels.
    sections: Vec<Section>,
    inner: usize,
    columns: usize,
}

/// Columns that share a storage type.
struct Section {
    panels: Panels,
    /// The index of the first panel, among those of the matrix.
    first: usize,
    count: usize,
}

/// A matrix `(columns, inner)` to be packed, row-major as in checkpoints.
pub enum Matrix<'a> {
    /// Numbers, and the type in which they are stored.
    Numbers(&'a [f32], Format),
    /// Rows of blocks, which are stored without conversion.
    Blocks(Blocks, Vec<&'a [u8]>),
}

impl Matrix<'_> {
    /// The storage type. Matrices with equal types can share a section.
    fn kept(&self) -> (Option<Format>, Option<Blocks>) {
        match self {
            Self::Numbers(_, format) => (Some(*format), None),
            Self::Blocks(kind, _) => (None, Some(*kind)),
        }
    }

    fn rows(&self, inner: usize) -> usize {
        match self {
            Self::Numbers(numbers, _) => numbers.len() / inner,
            Self::Blocks(_, rows) => rows.len(),
        }
    }

    fn numbers(&self, inner: usize) -> Vec<f32> {
        match self {
            Self::Numbers(numbers, _) => numbers.to_vec(),
            Self::Blocks(kind, rows) => {
                let mut numbers = vec![0.0; rows.len() * inner];
                numbers.chunks_exact_mut(inner).zip(rows).for_each(|(out, row)| kind.dequantize(row, out));
                numbers
            }
        }
    }
}

impl Packed {
    /// Packs matrices `(columns, inner)`, row-major as in checkpoints, from left to right, and stores them in `format`.
    ///
    /// # Panics
    /// Panics if a length is not a multiple of `inner`.
    pub fn new(matrices: &[&[f32]], inner: usize, format: Format) -> Self {
        assert!(matrices.iter().all(|m| m.len().is_multiple_of(inner)), "a row is cut off");
        let rows: Vec<&[f32]> = matrices.iter().flat_map(|m| m.chunks_exact(inner)).collect();
        let mut panels = Panels::zeros(format, rows.len().div_ceil(WIDTH), inner);
        let mut panel = vec![Line::ZERO; inner];
        for (index, rows) in rows.chunks(WIDTH).enumerate() {
            panel.fill(Line::ZERO);
            for (c, row) in rows.iter().enumerate() {
                for (line, &x) in panel.iter_mut().zip(*row) {
                    line.0[c] = x;
                }
            }
            panels.write(index, &panel);
        }
        let count = rows.len().div_ceil(WIDTH);
        Self { sections: vec![Section { panels, first: 0, count }], inner, columns: rows.len() }
    }

    /// Packs matrices from left to right, each in its own storage type. If the types differ and one matrix is not a whole number of panels,
    /// all are stored in `f32`.
    ///
    /// # Panics
    /// Panics if a length is not a multiple of `inner`, or if rows are not whole blocks.
    pub fn of_parts(parts: &[Matrix<'_>], inner: usize) -> Self {
        let groups: Vec<&[Matrix<'_>]> = parts.chunk_by(|a, b| a.kept() == b.kept()).collect();
        let rows = |group: &[Matrix<'_>]| group.iter().map(|part| part.rows(inner)).sum::<usize>();
        let (_, others) = groups.split_last().expect("at least one matrix is packed");
        if others.iter().any(|group| !rows(group).is_multiple_of(WIDTH)) {
            let numbers: Vec<Vec<f32>> = parts.iter().map(|part| part.numbers(inner)).collect();
            let numbers: Vec<&[f32]> = numbers.iter().map(Vec::as_slice).collect();
            return Self::new(&numbers, inner, Format::F32);
        }
        let mut packed = Self { sections: Vec::new(), inner, columns: 0 };
        for group in groups {
            let panels = match group[0].kept() {
                (_, Some(kind)) => {
                    let rows = group.iter().flat_map(|part| match part {
                        Matrix::Blocks(_, rows) => rows.as_slice(),
                        Matrix::Numbers(..) => &[],
                    });
                    let rows: Vec<&[u8]> = rows.copied().collect();
                    let mut panels = BlockPanels::zeros(kind, rows.len().div_ceil(WIDTH), inner);
                    for (column, row) in rows.into_iter().enumerate() {
                        panels.write(column / WIDTH, column % WIDTH, inner, row);
                    }
                    Panels::Blocks(panels)
                }
                (format, None) => {
                    let numbers: Vec<Vec<f32>> = group.iter().map(|part| part.numbers(inner)).collect();
                    let numbers: Vec<&[f32]> = numbers.iter().map(Vec::as_slice).collect();
                    let single = Self::new(&numbers, inner, format.unwrap_or(Format::F32));
                    let section = single.sections.into_iter().next();
                    section.expect("a packed matrix of numbers has one section").panels
                }
            };
            let (first, count) = (packed.columns / WIDTH, rows(group).div_ceil(WIDTH));
            packed.sections.push(Section { panels, first, count });
            packed.columns += rows(group);
        }
        packed
    }

    /// The number of columns of a result.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The size in memory in bytes.
    pub fn bytes(&self) -> usize {
        self.sections.iter().map(|section| section.panels.bytes()).sum()
    }

    /// Writes the `inner` elements of a column to `out`.
    pub fn column(&self, column: usize, out: &mut [f32]) {
        let panel = column / WIDTH;
        let section = &self.sections[self.sections.partition_point(|section| section.first + section.count <= panel)];
        section.panels.view(panel - section.first, 1, self.inner).column(column % WIDTH, out);
    }

    /// `out = a · self`; `a` is `(rows, inner)`, `out` `(rows, columns)`, both row-major.
    ///
    /// # Panics
    /// Panics if a slice has the wrong length.
    pub fn multiply(&self, a: &[f32], out: &mut [f32], workspace: &mut Workspace) {
        self.product(a, out, false, workspace);
    }

    /// Computes `out += a · self`, with shapes as in [`Packed::multiply`].
    ///
    /// # Panics
    /// Panics if a slice has the wrong length.
    pub fn multiply_add(&self, a: &[f32], out: &mut [f32], workspace: &mut Workspace) {
        self.product(a, out, true, workspace);
    }

    fn product(&self, a: &[f32], out: &mut [f32], add: bool, workspace: &mut Workspace) {
        let rows = a.len() / self.inner;
        assert!(a.len() == rows * self.inner && out.len() == rows * self.columns, "shapes disagree");
        let Workspace { team, unpacked, parts } = workspace;
        let panels = self.columns.div_ceil(WIDTH);
        let Some(team) = team.as_ref().filter(|_| self.bytes() >= FOR_A_TEAM) else {
            let out = Out { data: out, stride: self.columns, columns: self.columns, add };
            return self.panels_product(a, 0..panels, unpacked, out);
        };
        // Parts are whole groups of panels, so that each multiplies as many panels at once as possible.
        let size = panels.div_ceil(team.members()).next_multiple_of(AT_ONCE);
        let count = panels.div_ceil(size);
        parts.resize_with(count.max(parts.len()), Mutex::default);
        let range = |part: usize| part * size..panels.min((part + 1) * size);
        let width = |part: usize| self.columns.min(range(part).end * WIDTH) - range(part).start * WIDTH;
        team.run(count, &|part| {
            let Part { unpacked, results } = &mut *parts[part].lock().unwrap_or_else(PoisonError::into_inner);
            let width = width(part);
            results.resize(rows * width, 0.0);
            let out = Out { data: results, stride: width, columns: width, add: false };
            self.panels_product(a, range(part), unpacked, out);
        });
        for (part, done) in parts.iter_mut().take(count).enumerate() {
            let results = &done.get_mut().unwrap_or_else(PoisonError::into_inner).results;
            let (first, width) = (range(part).start * WIDTH, width(part));
            for (out, results) in out.chunks_exact_mut(self.columns).zip(results.chunks_exact(width)) {
                let out = &mut out[first..first + width];
                if add { super::add(out, results) } else { out.copy_from_slice(results) }
            }
        }
    }

    /// The product with some of the panels, which have all columns of `out`.
    fn panels_product(&self, a: &[f32], panels: Range<usize>, unpacked: &mut Vec<Line>, out: Out<'_>) {
        let a = Rows::new(a, self.inner);
        for section in &self.sections {
            let first = panels.start.max(section.first);
            let end = panels.end.min(section.first + section.count);
            if first < end {
                let before = (first - panels.start) * WIDTH;
                let columns = (out.columns - before).min((end - first) * WIDTH);
                let data = &mut out.data[before.min(a.count * out.stride)..];
                let out = Out { data, stride: out.stride, columns, add: out.add };
                section.product(a, first - section.first..end - section.first, unpacked, out);
            }
        }
    }
}

impl Section {
    fn product(&self, a: Rows<'_>, panels: Range<usize>, unpacked: &mut Vec<Line>, mut out: Out<'_>) {
        let lines = a.inner;
        // Panels are multiplied in their storage type unless the conversion is a large part of the work. In that case, for many rows, each
        // is unpacked once and then read from the nearest cache.
        if tile::reads_all_formats() && (a.count <= ROWS || !matches!(self.panels, Panels::Q8(..) | Panels::Blocks(..)))
        {
            let shape = Shape { height: evenly(a.count, FEW), panels: panels.len(), lines };
            return tile::multiply(a, self.panels.view(panels.start, panels.len(), lines), shape, &mut out);
        }
        let shape = Shape { height: evenly(a.count, ROWS), panels: 1, lines };
        for (index, panel) in panels.enumerate() {
            let panel = self.panels.view(panel, 1, lines).unpack(lines, unpacked);
            let columns = index * WIDTH..out.columns.min((index + 1) * WIDTH);
            let data = &mut out.data[columns.start.min(a.count * out.stride)..];
            let mut out = Out { data, columns: columns.len(), ..out };
            tile::multiply(a, panel, shape, &mut out);
        }
    }
}

/// Computes `out = a · panels`, or adds to `out`. Panels have `lines` lines each and follow one another; only as many lines are used as a
/// row of `a` has elements.
///
/// # Panics
/// Panics if the panels are not whole or too few, slices are too short for their rows, or `out` does not have one panel's columns per
/// panel.
pub fn multiply_panels(a: Rows<'_>, panels: &[Line], lines: usize, mut out: Out<'_>) {
    let count = panels.len() / lines;
    assert!(panels.len() == count * lines, "a panel is cut off");
    let shape = Shape { height: evenly(a.count, FEW), panels: count, lines };
    tile::multiply(a, View::F32(panels), shape, &mut out);
}

/// Prefetches lines that will soon be read into the second-level cache.
pub fn prefetch(lines: &[Line]) {
    #[cfg(target_arch = "x86_64")]
    for line in lines {
        #[expect(unsafe_code, reason = "an instruction takes a pointer")]
        // SAFETY: the pointers are into the line, and nothing is read through them.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T1>(line.0.as_ptr().cast());
            _mm_prefetch::<_MM_HINT_T1>(line.0.as_ptr().add(16).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = lines;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(count: usize, seed: u64) -> Vec<f32> {
        (0..count as u64).map(|i| (crate::engine::derive_seed(seed, i) >> 40) as f32 / 8e6 - 1.0).collect()
    }

    /// The product by its definition, element by element.
    fn expected(a: &[f32], b: &[f32], inner: usize) -> Vec<f32> {
        let element = |(a, b): (&[f32], &[f32])| a.iter().zip(b).fold(0.0f32, |sum, (x, y)| x.mul_add(*y, sum));
        a.chunks(inner).flat_map(|a| b.chunks(inner).map(move |b| element((a, b)))).collect()
    }

    /// The values of a column after it was stored in `format`.
    fn kept(column: &[f32], format: Format) -> Vec<f32> {
        let group = |group: &[f32]| -> Vec<f32> {
            let largest = group.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let scale = half::f16::from_f32(largest / 127.0).to_f32();
            group.iter().map(|x| (x / scale).round().clamp(-127.0, 127.0) * scale).collect()
        };
        match format {
            Format::F32 => column.to_vec(),
            Format::F16 => column.iter().map(|&x| half::f16::from_f32(x).to_f32()).collect(),
            Format::Bf16 => column.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect(),
            Format::Q8 => column.chunks(32).flat_map(group).collect(),
        }
    }

    #[test]
    fn products_are_bit_equal_to_their_definition() {
        let teams = [None, Some(Arc::new(Team::new(3).unwrap()))];
        for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8] {
            for (rows, inner, columns) in [
                (0, 3, 5),
                (1, 1, 1),
                (3, 5, 31),
                (8, 64, 32),
                (9, 33, 70),
                (2, 7, 300),
                (4, 9, 65),
                (23, 192, 100),
                (5, 300, 999),
            ] {
                let (a, b) = (numbers(rows * inner, 1), numbers(columns * inner, 2));
                let packed = Packed::new(&[&b[..inner], &b[inner..]], inner, format);
                let b: Vec<f32> = b.chunks(inner).flat_map(|column| kept(column, format)).collect();
                for team in teams.clone() {
                    let mut workspace = Workspace { team, ..Workspace::default() };
                    let mut out = vec![9.0; rows * columns];
                    packed.multiply(&a, &mut out, &mut workspace);
                    assert_eq!(out, expected(&a, &b, inner), "{format:?}");
                    packed.multiply_add(&a, &mut out, &mut workspace);
                    assert_eq!(out, expected(&a, &b, inner).iter().map(|x| x + x).collect::<Vec<_>>());
                }
                let mut column = vec![0.0; inner];
                packed.column(columns - 1, &mut column);
                assert_eq!(column, b[(columns - 1) * inner..]);
            }
        }
    }

    /// The types of GGUF files by their numbers, with bits per number in memory.
    const BLOCKS: [(u32, f64); 11] = [
        (2, 4.5),
        (3, 5.0),
        (6, 8.5),
        (7, 9.0),
        (8, 8.5),
        (10, 5.125),
        (11, 4.5625),
        (12, 4.625),
        (13, 8.625),
        (14, 8.5625),
        (20, 4.5),
    ];

    fn blocks(kind: u32, columns: usize, inner: usize) -> (Blocks, Vec<u8>, Vec<f32>) {
        let crate::weights::gguf::kind::Kind::Blocks(kind_of) = crate::weights::gguf::kind::Kind::new(kind).unwrap()
        else {
            panic!("{kind} has no blocks")
        };
        let bytes = crate::testing::gguf::random_blocks(kind, columns * inner, u64::from(kind));
        let mut numbers = vec![0.0; columns * inner];
        kind_of.dequantize(&bytes, &mut numbers);
        (kind_of, bytes, numbers)
    }

    fn check_products(packed: &Packed, b: &[f32], inner: usize) {
        let columns = b.len() / inner;
        for team in [None, Some(Arc::new(Team::new(3).unwrap()))] {
            let mut workspace = Workspace { team, ..Workspace::default() };
            for rows in [0, 1, 2, 3, 4, 7, 8, 9, 23] {
                let a = numbers(rows * inner, 1);
                let mut out = vec![9.0; rows * columns];
                packed.multiply(&a, &mut out, &mut workspace);
                assert!(out == expected(&a, b, inner), "{rows} rows, {columns} columns");
                packed.multiply_add(&a, &mut out, &mut workspace);
                assert!(out == expected(&a, b, inner).iter().map(|x| x + x).collect::<Vec<_>>());
            }
        }
        let mut column = vec![0.0; inner];
        for c in [0, columns / 2, columns - 1] {
            packed.column(c, &mut column);
            assert_eq!(column, b[c * inner..][..inner]);
        }
    }

    #[test]
    fn blocks_are_multiplied_as_they_are() {
        for (kind, bits) in BLOCKS {
            for (inner, columns) in [(256, 1), (512, 70), (256, 330)] {
                let (kind, bytes, numbers) = blocks(kind, columns, inner);
                let rows: Vec<&[u8]> = bytes.chunks_exact(bytes.len() / columns).collect();
                let packed = Packed::of_parts(&[Matrix::Blocks(kind, rows)], inner);
                check_products(&packed, &numbers, inner);
                let padded = (columns.next_multiple_of(WIDTH) * inner) as f64;
                assert_eq!(packed.bytes() as f64 * 8.0 / padded, bits, "{kind:?}");
            }
        }
    }

    /// Some files use more bits for values than for queries and keys.
    #[test]
    fn matrices_of_several_types_are_one() {
        let inner = 256;
        for rows in [[64, 32, 10], [320, 64, 70], [64, 40, 10]] {
            let (first, bytes, mut all) = blocks(12, rows[0], inner);
            let (second, more, numbers_of_second) = blocks(14, rows[1], inner);
            let last = numbers(rows[2] * inner, 7);
            all.extend(numbers_of_second);
            all.extend(&last);
            let split = |bytes: &'static [u8], rows: usize| bytes.chunks_exact(bytes.len() / rows).collect::<Vec<_>>();
            let parts = [
                Matrix::Blocks(first, split(Vec::leak(bytes), rows[0])),
                Matrix::Blocks(second, split(Vec::leak(more), rows[1])),
                Matrix::Numbers(&last, Format::F32),
            ];
            check_products(&Packed::of_parts(&parts, inner), &all, inner);
        }
    }

    #[test]
    fn eight_bits_are_near_and_small() {
        let values = numbers(64 * 320, 5);
        let packed = Packed::new(&[&values], 320, Format::Q8);
        assert_eq!(packed.bytes(), 64 * 320 + 64 * 10 * 2);
        let mut column = vec![0.0; 320];
        packed.column(7, &mut column);
        assert!(column.iter().zip(&values[7 * 320..]).all(|(x, y)| (x - y).abs() < 1.1 / 254.0));
        let zeros = Packed::new(&[&[0.0; 64]], 64, Format::Q8);
        zeros.column(0, &mut column[..64]);
        assert!(column[..64].iter().all(|x| *x == 0.0));
    }

    #[test]
    fn the_portable_tile_equals_the_wide_one() {
        let inner = 40;
        let numbers_of = numbers(6 * inner * WIDTH, 3);
        let panels: Vec<Line> = numbers_of.as_chunks::<WIDTH>().0.iter().map(|&line| Line(line)).collect();
        for (rows, used) in (1..=2 * ROWS).flat_map(|rows| [(rows, inner), (rows, 33)]) {
            let a = numbers(rows * used, 4);
            for (columns, add) in
                [(1, false), (31, true), (32, false), (77, true), (96, true), (100, false), (192, true)]
            {
                let (count, stride) = (usize::div_ceil(columns, WIDTH), columns + 3);
                let mut found = numbers(rows * stride, 5);
                let mut expected = found.clone();
                let out = Out { data: &mut found, stride, columns, add };
                multiply_panels(Rows::new(&a, used), &panels[..count * inner], inner, out);
                for (r, out) in expected.chunks_exact_mut(stride).enumerate() {
                    for (p, out) in out[..columns].chunks_mut(WIDTH).enumerate() {
                        let row = &a[r * used..][..used];
                        let lines = tile::portable([row, row], &panels[p * inner..][..used]);
                        for (out, x) in out.iter_mut().zip(lines[r % 2].0) {
                            *out = if add { *out + x } else { x };
                        }
                    }
                }
                assert_eq!(found, expected, "{rows} rows, {columns} columns");
            }
        }
    }

    /// Measures products with the sizes of the shipped actor, which fit into the second-level cache.
    #[test]
    #[ignore = "a measurement"]
    fn speed() {
        for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8] {
            let (inner, columns) = (192, 1024);
            let packed = Packed::new(&[&numbers(columns * inner, 1)], inner, format);
            for rows in [1, 2, 3, 4, 8, 32] {
                let (a, mut out) = (numbers(rows * inner, 2), vec![0.0; rows * columns]);
                let mut workspace = Workspace::default();
                let mut rate = || {
                    let begun = std::time::Instant::now();
                    let times = 8000 / rows;
                    for _ in 0..times {
                        packed.multiply(std::hint::black_box(&a), &mut out, &mut workspace);
                    }
                    (2 * times * rows * inner * columns) as f64 / begun.elapsed().as_secs_f64() / 1e9
                };
                let mut rates: Vec<f64> = (0..9).map(|_| rate()).collect();
                rates.sort_by(f64::total_cmp);
                println!("{format:?}, {rows} rows: {:.0} GFLOP/s [{:.0}, {:.0}]", rates[4], rates[0], rates[8]);
            }
        }
    }
}
