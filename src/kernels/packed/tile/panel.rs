//! Loads the lines of a panel as `f32` vectors, for every storage type.

use std::arch::x86_64::{
    __m256i, __m512, _mm_loadu_si128, _mm256_loadu_si256, _mm512_castsi512_ps, _mm512_cvtepi8_epi32,
    _mm512_cvtepi32_ps, _mm512_cvtepu8_epi32, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps, _mm512_load_ps,
    _mm512_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_srli_epi32,
    _mm512_sub_ps,
};
use std::ops::Range;

use crate::kernels::packed::blocks::{BlockView, GroupScales, NibbleLine};
use crate::kernels::packed::lines::{ByteLine, GROUP, HalfLine, Line};

/// The 32 elements of a line.
pub(super) type Pair = [__m512; 2];

/// The lines of one panel, converted while they are loaded.
pub(super) trait PanelLines: Copy {
    /// The scales that turn a line's elements into numbers.
    type Scales: Copy;
    /// The number of lines with the same [`PanelLines::scales`].
    fn group(self) -> usize;
    /// The first `inner` lines of panel `p`, where each panel has `lines` lines.
    fn panel(self, p: usize, lines: usize, inner: usize) -> Self;
    /// # Safety
    /// The processor must have AVX-512, and the group must exist.
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn scales(self, group: usize) -> Self::Scales;
    /// # Safety
    /// The processor must have AVX-512, and the panel must have the line.
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(self, i: usize, scales: Self::Scales) -> Pair;
}

/// Lines of `f32`.
#[derive(Clone, Copy)]
pub(super) struct SingleLines<'a>(pub &'a [Line]);
/// Lines of `f16`.
#[derive(Clone, Copy)]
pub(super) struct HalfLines<'a>(pub &'a [HalfLine]);
/// Lines of `bf16`.
#[derive(Clone, Copy)]
pub(super) struct BrainLines<'a>(pub &'a [HalfLine]);
/// Lines of 8 bits per element, and their scales.
#[derive(Clone, Copy)]
pub(super) struct QuantizedLines<'a>(pub &'a [ByteLine], pub &'a [HalfLine]);
/// Lines of a GGUF file's blocks.
#[derive(Clone, Copy)]
pub(super) struct BlockLines<'a, V> {
    pub view: BlockView<'a>,
    pub values: V,
}
/// Values of 4 bits, which are indices into a table.
#[derive(Clone, Copy)]
pub(super) struct NibbleValues<'a>(pub &'a [NibbleLine], pub &'a [f32; 16]);
/// Values of 8 bits.
#[derive(Clone, Copy)]
pub(super) struct ByteValues<'a>(pub &'a [ByteLine]);

/// The two halves of a line of 16-bit elements.
///
/// # Safety
/// The processor must have AVX-512.
#[inline(always)]
#[expect(unsafe_code, reason = "vector loads take pointers")]
unsafe fn halves(line: &HalfLine) -> [__m256i; 2] {
    let pointer = line.0.as_ptr();
    // SAFETY: the line has 32 elements of 16 bits, which are two vectors of 256 bits.
    unsafe { [_mm256_loadu_si256(pointer.cast()), _mm256_loadu_si256(pointer.add(16).cast())] }
}

/// The 32 elements of a line of `f16`.
///
/// # Safety
/// The processor must have AVX-512.
#[inline(always)]
#[expect(unsafe_code, reason = "vector instructions")]
unsafe fn half_line(line: &HalfLine) -> Pair {
    // SAFETY: the caller guarantees it.
    unsafe {
        let [low, high] = halves(line);
        [_mm512_cvtph_ps(low), _mm512_cvtph_ps(high)]
    }
}

macro_rules! byte_line {
    ($(#[$doc:meta])* $name:ident, $widen:ident) => {
        $(#[$doc])*
        #[inline(always)]
        #[expect(unsafe_code, reason = "vector loads take pointers")]
        unsafe fn $name(line: &ByteLine) -> Pair {
            let pointer = line.0.as_ptr();
            // SAFETY: the line has 32 elements of 8 bits, which are two vectors of 128 bits.
            unsafe {
                let quarters = [_mm_loadu_si128(pointer.cast()), _mm_loadu_si128(pointer.add(16).cast())];
                quarters.map(|quarter| _mm512_cvtepi32_ps($widen(quarter)))
            }
        }
    };
}

byte_line!(
    /// The 32 elements of a line of signed bytes.
    ///
    /// # Safety
    /// The processor must have AVX-512.
    signed_line,
    _mm512_cvtepi8_epi32
);
byte_line!(
    /// The 32 elements of a line of unsigned bytes.
    ///
    /// # Safety
    /// The processor must have AVX-512.
    unsigned_line,
    _mm512_cvtepu8_epi32
);

macro_rules! unscaled {
    ($name:ident, |$line:ident| $load:expr) => {
        impl PanelLines for $name<'_> {
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

unscaled!(SingleLines, |line| [_mm512_load_ps(line.0.as_ptr()), _mm512_load_ps(line.0.as_ptr().add(16))]);
unscaled!(HalfLines, |line| half_line(line));
unscaled!(BrainLines, |line| {
    let [low, high] = halves(line);
    let widen = |half| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)));
    [widen(low), widen(high)]
});

impl PanelLines for QuantizedLines<'_> {
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
        // SAFETY: the caller guarantees it.
        unsafe { half_line(&self.1[group]) }
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(self, i: usize, scales: Pair) -> Pair {
        // SAFETY: the caller guarantees it.
        unsafe {
            let [low, high] = signed_line(&self.0[i]);
            [_mm512_mul_ps(low, scales[0]), _mm512_mul_ps(high, scales[1])]
        }
    }
}

/// The values of a panel's blocks, without their scales.
pub(super) trait BlockValues: Copy {
    /// The values of some of the lines.
    fn lines(self, lines: Range<usize>) -> Self;
    /// # Safety
    /// The processor must have AVX-512, and the panel must have the line.
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(self, i: usize) -> Pair;
}

impl BlockValues for NibbleValues<'_> {
    #[inline(always)]
    fn lines(self, lines: Range<usize>) -> Self {
        Self(&self.0[lines], self.1)
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(self, i: usize) -> Pair {
        // SAFETY: the line has 16 bytes and the table 16 numbers; only the lower 4 bits of an index are used.
        unsafe {
            let places = _mm512_cvtepu8_epi32(_mm_loadu_si128(self.0[i].0.as_ptr().cast()));
            let table = _mm512_loadu_ps(self.1.as_ptr());
            let low = _mm512_permutexvar_ps(places, table);
            let high = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(places), table);
            [low, high]
        }
    }
}

impl BlockValues for ByteValues<'_> {
    #[inline(always)]
    fn lines(self, lines: Range<usize>) -> Self {
        Self(&self.0[lines])
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector loads take pointers")]
    unsafe fn load(self, i: usize) -> Pair {
        // SAFETY: the caller guarantees it.
        unsafe { signed_line(&self.0[i]) }
    }
}

/// Scale and offset of the elements of a line.
type Affine = [Pair; 2];

impl<V: BlockValues> PanelLines for BlockLines<'_, V> {
    type Scales = Affine;
    #[inline(always)]
    fn group(self) -> usize {
        self.view.group
    }
    #[inline(always)]
    fn panel(self, p: usize, lines: usize, inner: usize) -> Self {
        let lines = p * lines..p * lines + inner;
        Self { view: self.view.lines(lines.clone()), values: self.values.lines(lines) }
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector instructions")]
    unsafe fn scales(self, group: usize) -> Affine {
        let GroupScales { scale, minimum, step, lift } = self.view.scales(group);
        // SAFETY: the caller guarantees it.
        unsafe {
            let times = |a: Pair, b: Pair| [_mm512_mul_ps(a[0], b[0]), _mm512_mul_ps(a[1], b[1])];
            let mut scale = half_line(scale);
            if let Some(step) = step {
                scale = times(scale, signed_line(step));
            }
            let mut offset = [_mm512_setzero_ps(); 2];
            if let Some(minimum) = minimum {
                let minimum = half_line(minimum);
                let minimum = if let Some(lift) = lift { times(minimum, unsigned_line(lift)) } else { minimum };
                offset = [_mm512_sub_ps(offset[0], minimum[0]), _mm512_sub_ps(offset[1], minimum[1])];
            }
            [scale, offset]
        }
    }
    #[inline(always)]
    #[expect(unsafe_code, reason = "vector instructions")]
    unsafe fn load(self, i: usize, [scale, offset]: Affine) -> Pair {
        // SAFETY: the caller guarantees it.
        unsafe {
            let [low, high] = self.values.load(i);
            [_mm512_fmadd_ps(low, scale[0], offset[0]), _mm512_fmadd_ps(high, scale[1], offset[1])]
        }
    }
}
