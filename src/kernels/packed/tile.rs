//! Products of a few rows with a few panels. Every element is one chain of fused multiply-adds over the inner index, in
//! order, on every processor.

use super::format::View;
use super::{Line, ROWS, WIDTH};

/// Whether panels of all formats are multiplied without unpacking.
pub(super) fn reads_all_formats() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// The rows that are multiplied.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// Rows, one `stride` after another.
    pub data: &'a [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements of a row that are multiplied.
    pub inner: usize,
    /// How many there are.
    pub count: usize,
}

impl<'a> Rows<'a> {
    /// Rows of `inner` elements, one after another.
    ///
    /// # Panics
    /// When the last one is cut off.
    pub fn new(data: &'a [f32], inner: usize) -> Self {
        let count = data.len() / inner;
        assert!(data.len() == count * inner, "a row is cut off");
        Self { data, stride: inner, inner, count }
    }

    #[inline(always)]
    fn row(&self, index: usize) -> &'a [f32] {
        &self.data[index * self.stride..][..self.inner]
    }
}

/// How they are multiplied: `height` rows at a time, with `panels` panels of `lines` each.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) height: usize,
    pub(super) panels: usize,
    pub(super) lines: usize,
}

/// Where results go.
pub struct Out<'a> {
    /// Rows, one `stride` after another.
    pub data: &'a mut [f32],
    /// Elements from one row to the next.
    pub stride: usize,
    /// Elements of a row that are written.
    pub columns: usize,
    /// Whether results are added to the old values.
    pub add: bool,
}

impl Out<'_> {
    /// A row's elements from the panel `panel` on, a panel's at most.
    #[inline(always)]
    fn line(&mut self, row: usize, panel: usize) -> &mut [f32] {
        let column = panel * WIDTH;
        &mut self.data[row * self.stride + column..][..WIDTH.min(self.columns - column)]
    }
}

/// `out = a · panels`, or added, where a panel's lines beyond those of `a`'s rows are left out.
///
/// # Panics
/// When slices are too short for the shape; where [`reads_all_formats`] is false, for other formats than `f32`.
pub(super) fn multiply(a: Rows<'_>, panels: View<'_>, shape: Shape, out: &mut Out<'_>) {
    if a.count == 0 {
        return;
    }
    assert!((1..=ROWS).contains(&shape.height), "tiles of {} rows", shape.height);
    assert!(out.columns.div_ceil(WIDTH) == shape.panels, "{} panels for {} columns", shape.panels, out.columns);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512 is called where the processor has it")]
        // SAFETY: the feature was detected in the line above.
        unsafe {
            return wide::multiply(a, panels, shape, out);
        }
    }
    let View::F32(all) = panels else { panic!("panels are unpacked where AVX-512 is missing") };
    let add = out.add;
    for (p, panel) in all.chunks_exact(shape.lines).enumerate() {
        for row in (0..a.count).step_by(2) {
            let last = (row + 1).min(a.count - 1);
            let lines = portable([a.row(row), a.row(last)], &panel[..a.inner]);
            for (row, line) in (row..=last).zip(&lines) {
                let to = out.line(row, p);
                let line = &line.0[..to.len()];
                if add { crate::kernels::add(to, line) } else { to.copy_from_slice(line) }
            }
        }
    }
}

/// Writes a panel's lines in `f32`.
pub(super) fn unpack(panel: View<'_>, out: &mut [Line]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512 is called where the processor has it")]
        // SAFETY: the feature was detected in the line above.
        unsafe {
            return wide::unpack(panel, out);
        }
    }
    if let View::Blocks(blocks) = panel {
        return blocks.unpack(out);
    }
    for (i, line) in out.iter_mut().enumerate() {
        line.0 = std::array::from_fn(|c| panel.element(i, c));
    }
}

/// Two rows by 16 columns at a time, so that the sums stay in registers of 8.
pub(super) fn portable(rows: [&[f32]; 2], panel: &[Line]) -> [Line; 2] {
    let mut lines = [Line::ZERO; 2];
    for half in 0..2 {
        let mut sums = [[0.0f32; 16]; 2];
        for ((line, &x), &y) in panel.iter().zip(rows[0]).zip(rows[1]) {
            let [first, second] = &mut sums;
            for ((&b, first), second) in line.0[half * 16..][..16].iter().zip(first).zip(second) {
                *first = x.mul_add(b, *first);
                *second = y.mul_add(b, *second);
            }
        }
        for (line, sums) in lines.iter_mut().zip(&sums) {
            line.0[half * 16..][..16].copy_from_slice(sums);
        }
    }
    lines
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m256i, __m512, _mm_loadu_si128, _mm256_loadu_si256, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepi8_epi32,
        _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps,
        _mm512_load_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
        _mm512_permutexvar_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srli_epi32,
        _mm512_store_ps, _mm512_storeu_ps, _mm512_sub_ps,
    };

    use super::{Out, Rows, Shape};
    use crate::kernels::packed::blocks::{BlockView, GroupScales, NibbleLine, ValueView};
    use crate::kernels::packed::format::{ByteLine, GROUP, HalfLine, View};
    use crate::kernels::packed::{Line, WIDTH, at_once};

    type Pair = [__m512; 2];

    /// Lines of one panel, converted as they are loaded.
    trait Panel: Copy {
        /// What turns a line's elements into numbers.
        type Scales: Copy;
        /// Lines for which [`Panel::scales`] are the same.
        fn group(self) -> usize;
        /// The first `inner` lines of panel `p` of several with `lines` each.
        fn panel(self, p: usize, lines: usize, inner: usize) -> Self;
        /// # Safety
        /// The processor has AVX-512, and there is such a group.
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn scales(self, group: usize) -> Self::Scales;
        /// # Safety
        /// The processor has AVX-512, and the panel has such a line.
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn load(self, i: usize, scales: Self::Scales) -> Pair;
    }

    #[derive(Clone, Copy)]
    struct Single<'a>(&'a [Line]);
    #[derive(Clone, Copy)]
    struct Half<'a>(&'a [HalfLine]);
    #[derive(Clone, Copy)]
    struct Brain<'a>(&'a [HalfLine]);
    #[derive(Clone, Copy)]
    struct Bytes<'a>(&'a [ByteLine], &'a [HalfLine]);

    /// The two halves of a line of 16-bit elements.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn halves(line: &HalfLine) -> [__m256i; 2] {
        let pointer = line.0.as_ptr();
        // SAFETY: the line has 32 elements of 16 bits: two vectors of 256.
        unsafe { [_mm256_loadu_si256(pointer.cast()), _mm256_loadu_si256(pointer.add(16).cast())] }
    }

    macro_rules! unscaled {
        ($name:ident, |$line:ident| $load:expr) => {
            impl Panel for $name<'_> {
                type Scales = ();
                #[inline(always)]
                fn group(self) -> usize {
                    usize::MAX
                }
                #[inline(always)]
                fn panel(self, p: usize, lines: usize, inner: usize) -> Self {
                    Self(&self.0[p * lines..][..inner])
                }
                #[inline(always)]
                #[expect(unsafe_code, reason = "vector instructions")]
                unsafe fn scales(self, _group: usize) {}
                #[inline(always)]
                #[expect(unsafe_code, reason = "vector loads take pointers")]
                unsafe fn load(self, i: usize, (): ()) -> Pair {
                    let $line = &self.0[i];
                    // SAFETY: a line has 32 elements and is aligned to its size.
                    unsafe { $load }
                }
            }
        };
    }

    unscaled!(Single, |line| [_mm512_load_ps(line.0.as_ptr()), _mm512_load_ps(line.0.as_ptr().add(16))]);
    unscaled!(Half, |line| {
        let [low, high] = halves(line);
        [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
    });
    unscaled!(Brain, |line| {
        let [low, high] = halves(line);
        let widen = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
        [widen(low), widen(high)]
    });

    impl Panel for Bytes<'_> {
        type Scales = Pair;
        #[inline(always)]
        fn group(self) -> usize {
            GROUP
        }
        #[inline(always)]
        fn panel(self, p: usize, lines: usize, inner: usize) -> Self {
            let groups = lines.div_ceil(GROUP);
            Self(&self.0[p * lines..][..inner], &self.1[p * groups..][..groups])
        }
        #[inline(always)]
        #[expect(unsafe_code, reason = "vector instructions")]
        unsafe fn scales(self, group: usize) -> Pair {
            // SAFETY: as the caller promises.
            unsafe {
                let [low, high] = halves(&self.1[group]);
                [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
            }
        }
        #[inline(always)]
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn load(self, i: usize, scales: Pair) -> Pair {
            let pointer = self.0[i].0.as_ptr();
            // SAFETY: the line has 32 elements of 8 bits: two vectors of 128.
            unsafe {
                let quarters = [_mm_loadu_si128(pointer.cast()), _mm_loadu_si128(pointer.add(16).cast())];
                let [low, high] = quarters.map(|quarter| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(quarter)));
                [_mm512_mul_ps(low, scales[0]), _mm512_mul_ps(high, scales[1])]
            }
        }
    }

    /// Scale and offset of the columns' halves.
    type Scaled = [Pair; 2];

    /// Blocks of 4 bits per number.
    #[derive(Clone, Copy)]
    struct Nibbles<'a>(BlockView<'a>, &'a [NibbleLine], &'a [f32; 16]);
    /// Blocks of 8 bits per number.
    #[derive(Clone, Copy)]
    struct Whole<'a>(BlockView<'a>, &'a [ByteLine]);

    /// The 32 whole numbers of a line.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn whole(line: &ByteLine) -> Pair {
        let pointer = line.0.as_ptr();
        // SAFETY: the line has 32 elements of 8 bits: two vectors of 128.
        unsafe {
            let quarters = [_mm_loadu_si128(pointer.cast()), _mm_loadu_si128(pointer.add(16).cast())];
            quarters.map(|quarter| _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(quarter)))
        }
    }

    /// Converts like [`whole`], without signs.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn unsigned(line: &ByteLine) -> Pair {
        let pointer = line.0.as_ptr();
        // SAFETY: the line has 32 elements of 8 bits: two vectors of 128.
        unsafe {
            let quarters = [_mm_loadu_si128(pointer.cast()), _mm_loadu_si128(pointer.add(16).cast())];
            quarters.map(|quarter| _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(quarter)))
        }
    }

    /// # Safety
    /// The processor has AVX-512, and there is such a group.
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector instructions")]
    unsafe fn scaled(view: &BlockView<'_>, group: usize) -> Scaled {
        let GroupScales { scale, minimum, step, lift } = view.scales(group);
        // SAFETY: as the caller promises.
        unsafe {
            let pair = |line: &HalfLine| {
                let [low, high] = halves(line);
                [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
            };
            let times = |a: Pair, b: Pair| [_mm512_mul_ps(a[0], b[0]), _mm512_mul_ps(a[1], b[1])];
            let mut scale = pair(scale);
            if let Some(step) = step {
                scale = times(scale, whole(step));
            }
            let mut offset = [_mm512_setzero_ps(); 2];
            if let Some(minimum) = minimum {
                let minimum = pair(minimum);
                let minimum = if let Some(lift) = lift { times(minimum, unsigned(lift)) } else { minimum };
                offset = [_mm512_sub_ps(offset[0], minimum[0]), _mm512_sub_ps(offset[1], minimum[1])];
            }
            [scale, offset]
        }
    }

    impl Panel for Nibbles<'_> {
        type Scales = Scaled;
        #[inline(always)]
        fn group(self) -> usize {
            self.0.group
        }
        #[inline(always)]
        fn panel(self, p: usize, lines: usize, inner: usize) -> Self {
            let lines = p * lines..p * lines + inner;
            Self(self.0.lines(lines.clone()), &self.1[lines], self.2)
        }
        #[inline(always)]
        #[expect(unsafe_code, reason = "vector instructions")]
        unsafe fn scales(self, group: usize) -> Scaled {
            // SAFETY: as the caller promises.
            unsafe { scaled(&self.0, group) }
        }
        #[inline(always)]
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn load(self, i: usize, [scale, offset]: Scaled) -> Pair {
            // SAFETY: the line has 16 bytes, the table 16 numbers; only the lower 4 bits of an index count.
            unsafe {
                let places = _mm512_cvtepu8_epi32(_mm_loadu_si128(self.1[i].0.as_ptr().cast()));
                let table = _mm512_loadu_ps(self.2.as_ptr());
                let low = _mm512_permutexvar_ps(places, table);
                let high = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(places), table);
                [_mm512_fmadd_ps(low, scale[0], offset[0]), _mm512_fmadd_ps(high, scale[1], offset[1])]
            }
        }
    }

    impl Panel for Whole<'_> {
        type Scales = Scaled;
        #[inline(always)]
        fn group(self) -> usize {
            self.0.group
        }
        #[inline(always)]
        fn panel(self, p: usize, lines: usize, inner: usize) -> Self {
            let lines = p * lines..p * lines + inner;
            Self(self.0.lines(lines.clone()), &self.1[lines])
        }
        #[inline(always)]
        #[expect(unsafe_code, reason = "vector instructions")]
        unsafe fn scales(self, group: usize) -> Scaled {
            // SAFETY: as the caller promises.
            unsafe { scaled(&self.0, group) }
        }
        #[inline(always)]
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn load(self, i: usize, [scale, offset]: Scaled) -> Pair {
            // SAFETY: as the caller promises.
            unsafe {
                let [low, high] = whole(&self.1[i]);
                [_mm512_fmadd_ps(low, scale[0], offset[0]), _mm512_fmadd_ps(high, scale[1], offset[1])]
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply(a: Rows<'_>, panels: View<'_>, shape: Shape, out: &mut Out<'_>) {
        match panels {
            View::F32(lines) => tiles(a, Single(lines), shape, out),
            View::F16(lines) => tiles(a, Half(lines), shape, out),
            View::Bf16(lines) => tiles(a, Brain(lines), shape, out),
            View::Q8(lines, scales) => tiles(a, Bytes(lines, scales), shape, out),
            View::Blocks(blocks) => match blocks.values {
                ValueView::Nibbles(lines, table) => tiles(a, Nibbles(blocks, lines, table), shape, out),
                ValueView::Bytes(lines) => tiles(a, Whole(blocks, lines), shape, out),
            },
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn unpack(panel: View<'_>, out: &mut [Line]) {
        match panel {
            View::F32(lines) => out.copy_from_slice(lines),
            View::F16(lines) => write(Half(lines), out),
            View::Bf16(lines) => write(Brain(lines), out),
            View::Q8(lines, scales) => write(Bytes(lines, scales), out),
            View::Blocks(blocks) => match blocks.values {
                ValueView::Nibbles(lines, table) => write(Nibbles(blocks, lines, table), out),
                ValueView::Bytes(lines) => write(Whole(blocks, lines), out),
            },
        }
    }

    #[target_feature(enable = "avx512f")]
    fn write<T: Panel>(panel: T, out: &mut [Line]) {
        let size = panel.group().min(1 << 20);
        for (group, lines) in out.chunks_mut(size).enumerate() {
            #[expect(unsafe_code, reason = "vector stores take pointers")]
            // SAFETY: this function is compiled for AVX-512; a line holds two vectors and is aligned to 64 bytes.
            unsafe {
                let scales = panel.scales(group);
                for (i, line) in lines.iter_mut().enumerate() {
                    let [low, high] = panel.load(group * size + i, scales);
                    _mm512_store_ps(line.0.as_mut_ptr(), low);
                    _mm512_store_ps(line.0.as_mut_ptr().add(16), high);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn tiles<T: Panel>(a: Rows<'_>, panels: T, shape: Shape, out: &mut Out<'_>) {
        let Shape { height, panels: count, lines } = shape;
        let many = at_once(height);
        macro_rules! tile {
            ($at:expr, $shape:expr, $(($rows:literal, $panels:literal)),*) => {
                match $shape {
                    $(($rows, $panels) => product::<$rows, $panels, T>(a, (panels, lines), $at, out),)*
                    (rows, panels) => panic!("{rows} rows and {panels} panels are too many for a tile, or none"),
                }
            };
        }
        for panel in (0..count).step_by(many) {
            for row in (0..a.count).step_by(height) {
                tile!(
                    (row, panel),
                    (height.min(a.count - row), many.min(count - panel)),
                    (1, 1),
                    (1, 2),
                    (1, 3),
                    (1, 4),
                    (2, 1),
                    (2, 2),
                    (2, 3),
                    (2, 4),
                    (3, 1),
                    (3, 2),
                    (3, 3),
                    (3, 4),
                    (4, 1),
                    (4, 2),
                    (4, 3),
                    (5, 1),
                    (6, 1),
                    (7, 1),
                    (8, 1)
                );
            }
        }
    }

    /// The tile of `R` rows and `P` panels that begins at this row and panel.
    #[expect(clippy::needless_range_loop, reason = "iterators take closures, which would not be compiled for AVX-512")]
    #[target_feature(enable = "avx512f")]
    fn product<const R: usize, const P: usize, T: Panel>(
        a: Rows<'_>,
        (panels, of): (T, usize),
        (row, panel): (usize, usize),
        out: &mut Out<'_>,
    ) {
        // Plain loops: closures would not be compiled for AVX-512. Slices of one length need no check per element.
        let inner = a.inner;
        let mut rows = [a.data; R];
        for r in 0..R {
            rows[r] = a.row(row + r);
        }
        let mut lines = [panels; P];
        for (p, lines) in lines.iter_mut().enumerate() {
            *lines = panels.panel(panel + p, of, inner);
        }
        let mut sums = [[[_mm512_setzero_ps(); 2]; P]; R];
        let group = panels.group();
        let mut first = 0;
        while first < inner {
            let end = inner.min(first.saturating_add(group));
            #[expect(unsafe_code, reason = "vector instructions")]
            // SAFETY: this function is compiled for AVX-512; `first` and `i` are below `inner`, the lines of each panel.
            unsafe {
                let mut scales = [lines[0].scales(first / group); P];
                for p in 1..P {
                    scales[p] = lines[p].scales(first / group);
                }
                for i in first..end {
                    for p in 0..P {
                        let b = lines[p].load(i, scales[p]);
                        for r in 0..R {
                            let x = _mm512_set1_ps(rows[r][i]);
                            sums[r][p][0] = _mm512_fmadd_ps(x, b[0], sums[r][p][0]);
                            sums[r][p][1] = _mm512_fmadd_ps(x, b[1], sums[r][p][1]);
                        }
                    }
                }
            }
            first = end;
        }
        let add = out.add;
        for r in 0..R {
            for p in 0..P {
                store(out.line(row + r, panel + p), sums[r][p], add);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store(line: &mut [f32], [mut low, mut high]: Pair, add: bool) {
        let mask = u32::MAX >> (WIDTH - line.len());
        let (first, second) = (mask as u16, (mask >> 16) as u16);
        let pointer = line.as_mut_ptr();
        #[expect(unsafe_code, reason = "vector stores take pointers")]
        // SAFETY: masks leave out what is beyond the line, and pointers there are not followed.
        unsafe {
            let beyond = pointer.wrapping_add(16);
            if line.len() == WIDTH {
                if add {
                    low = _mm512_add_ps(_mm512_loadu_ps(pointer), low);
                    high = _mm512_add_ps(_mm512_loadu_ps(beyond), high);
                }
                _mm512_storeu_ps(pointer, low);
                _mm512_storeu_ps(beyond, high);
                return;
            }
            if add {
                low = _mm512_add_ps(_mm512_maskz_loadu_ps(first, pointer), low);
                high = _mm512_add_ps(_mm512_maskz_loadu_ps(second, beyond), high);
            }
            _mm512_mask_storeu_ps(pointer, first, low);
            _mm512_mask_storeu_ps(beyond, second, high);
        }
    }
}
