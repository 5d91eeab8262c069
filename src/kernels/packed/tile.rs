//! Products of a few rows with a few panels. Every element is one chain of fused multiply-adds over the inner index, in
//! order, on every processor.

use super::format::View;
use super::{AT_ONCE, Line, ROWS, Tile, at_once};

/// Whether panels of all formats are multiplied without unpacking.
pub(super) fn reads_all_formats() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// What is multiplied: so many rows with so many panels, of which one has `lines`.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) rows: usize,
    pub(super) panels: usize,
    pub(super) lines: usize,
}

/// `tiles[p] = a · panel p`, where a panel's lines beyond a row of `a` are left out.
///
/// # Panics
/// When the rows or panels are none or too many, or slices too short; where [`reads_all_formats`] is false, for other formats
/// than `f32`.
pub(super) fn multiply(a: &[f32], panels: View<'_>, shape: Shape, tiles: &mut [Tile; AT_ONCE]) {
    let Shape { rows, panels: count, lines } = shape;
    assert!((1..=ROWS).contains(&rows) && (1..=at_once(rows)).contains(&count), "{rows} rows, {count} panels");
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        #[expect(unsafe_code, reason = "a function compiled for AVX-512 is called where the processor has it")]
        // SAFETY: the feature was detected in the line above.
        unsafe {
            return wide::multiply(a, panels, shape, tiles);
        }
    }
    let View::F32(all) = panels else { panic!("panels are unpacked where AVX-512 is missing") };
    for (panel, tile) in all.chunks_exact(lines).zip(tiles) {
        portable(a, &panel[..a.len() / rows], tile);
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
    for (i, line) in out.iter_mut().enumerate() {
        line.0 = std::array::from_fn(|c| panel.element(i, c));
    }
}

/// Two rows by 16 columns at a time, so that the sums stay in registers of 8.
pub(super) fn portable(a: &[f32], panel: &[Line], tile: &mut Tile) {
    let inner = panel.len();
    for (a, tile) in a.chunks(2 * inner).zip(tile.chunks_mut(2)) {
        for half in 0..2 {
            let mut sums = [[0.0f32; 16]; 2];
            let second = if a.len() > inner { &a[inner..] } else { &a[..inner] };
            for ((line, &x), &y) in panel.iter().zip(&a[..inner]).zip(second) {
                let [first, second] = &mut sums;
                for ((&b, first), second) in line.0[half * 16..][..16].iter().zip(first).zip(second) {
                    *first = x.mul_add(b, *first);
                    *second = y.mul_add(b, *second);
                }
            }
            for (line, sums) in tile.iter_mut().zip(&sums) {
                line.0[half * 16..][..16].copy_from_slice(sums);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        __m256i, __m512, _mm_loadu_si128, _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_cvtepi8_epi32,
        _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_load_ps, _mm512_mul_ps,
        _mm512_set1_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_store_ps,
    };

    use super::Shape;
    use crate::kernels::packed::format::{ByteLine, GROUP, HalfLine, View};
    use crate::kernels::packed::{AT_ONCE, Line, Tile};

    type Pair = [__m512; 2];

    /// Lines of one panel, converted as they are loaded.
    trait Panel: Copy {
        /// Lines for which [`Panel::scales`] are the same.
        const LINES: usize;
        /// The first `inner` lines of panel `p` of several with `lines` each.
        fn panel(self, p: usize, lines: usize, inner: usize) -> Self;
        /// # Safety
        /// The processor has AVX-512, and there is such a group.
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn scales(self, group: usize) -> Pair;
        /// # Safety
        /// The processor has AVX-512, and the panel has such a line.
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn load(self, i: usize, scales: Pair) -> Pair;
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
                const LINES: usize = usize::MAX;
                #[inline(always)]
                fn panel(self, p: usize, lines: usize, inner: usize) -> Self {
                    Self(&self.0[p * lines..][..inner])
                }
                #[inline(always)]
                #[expect(unsafe_code, reason = "vector instructions")]
                unsafe fn scales(self, _group: usize) -> Pair {
                    // SAFETY: as the caller promises.
                    unsafe { [_mm512_setzero_ps(); 2] }
                }
                #[inline(always)]
                #[expect(unsafe_code, reason = "vector loads take pointers")]
                unsafe fn load(self, i: usize, _scales: Pair) -> Pair {
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
        const LINES: usize = GROUP;
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

    #[target_feature(enable = "avx512f")]
    pub(super) fn multiply(a: &[f32], panels: View<'_>, shape: Shape, tiles: &mut [Tile; AT_ONCE]) {
        match panels {
            View::F32(lines) => dispatch(a, Single(lines), shape, tiles),
            View::F16(lines) => dispatch(a, Half(lines), shape, tiles),
            View::Bf16(lines) => dispatch(a, Brain(lines), shape, tiles),
            View::Q8(lines, scales) => dispatch(a, Bytes(lines, scales), shape, tiles),
        }
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn unpack(panel: View<'_>, out: &mut [Line]) {
        match panel {
            View::F32(lines) => out.copy_from_slice(lines),
            View::F16(lines) => write(Half(lines), out),
            View::Bf16(lines) => write(Brain(lines), out),
            View::Q8(lines, scales) => write(Bytes(lines, scales), out),
        }
    }

    #[target_feature(enable = "avx512f")]
    fn write<T: Panel>(panel: T, out: &mut [Line]) {
        for (group, lines) in out.chunks_mut(T::LINES.min(1 << 20)).enumerate() {
            #[expect(unsafe_code, reason = "vector stores take pointers")]
            // SAFETY: this function is compiled for AVX-512; a line holds two vectors and is aligned to 64 bytes.
            unsafe {
                let scales = panel.scales(group);
                for (i, line) in lines.iter_mut().enumerate() {
                    let [low, high] = panel.load(group * T::LINES.min(1 << 20) + i, scales);
                    _mm512_store_ps(line.0.as_mut_ptr(), low);
                    _mm512_store_ps(line.0.as_mut_ptr().add(16), high);
                }
            }
        }
    }

    #[target_feature(enable = "avx512f")]
    fn dispatch<T: Panel>(a: &[f32], panels: T, shape: Shape, tiles: &mut [Tile; AT_ONCE]) {
        macro_rules! dispatch {
            ($(($rows:literal, $panels:literal)),*) => {
                match (shape.rows, shape.panels) {
                    $(($rows, $panels) => product::<$rows, $panels, T>(a, panels, shape.lines, tiles),)*
                    (rows, panels) => panic!("{rows} rows and {panels} panels are too many for a tile, or none"),
                }
            };
        }
        dispatch!(
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

    #[expect(clippy::needless_range_loop, reason = "iterators take closures, which would not be compiled for AVX-512")]
    #[target_feature(enable = "avx512f")]
    fn product<const R: usize, const P: usize, T: Panel>(a: &[f32], panels: T, of: usize, tiles: &mut [Tile; AT_ONCE]) {
        let inner = a.len() / R;
        // Plain loops: closures would not be compiled for AVX-512. Slices of one length need no check per element.
        let mut rows = [a; R];
        for r in 0..R {
            rows[r] = &a[r * inner..][..inner];
        }
        let mut lines = [panels; P];
        for (p, lines) in lines.iter_mut().enumerate() {
            *lines = panels.panel(p, of, inner);
        }
        let mut sums = [[[_mm512_setzero_ps(); 2]; P]; R];
        let mut scales = [[_mm512_setzero_ps(); 2]; P];
        let mut first = 0;
        while first < inner {
            let end = inner.min(first.saturating_add(T::LINES));
            #[expect(unsafe_code, reason = "vector instructions")]
            // SAFETY: this function is compiled for AVX-512; `first` and `i` are below `inner`, the lines of each panel.
            unsafe {
                for p in 0..P {
                    scales[p] = lines[p].scales(first / T::LINES);
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
        #[expect(unsafe_code, reason = "vector stores take pointers")]
        // SAFETY: a line has 32 elements, two vectors of 16, and is aligned to 64 bytes.
        unsafe {
            for r in 0..R {
                for p in 0..P {
                    let line = tiles[p][r].0.as_mut_ptr();
                    _mm512_store_ps(line, sums[r][p][0]);
                    _mm512_store_ps(line.add(16), sums[r][p][1]);
                }
            }
        }
    }
}
