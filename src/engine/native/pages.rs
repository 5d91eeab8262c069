//! Memory straight from the operating system, which has it back when it is dropped. An allocator keeps what is freed in pieces
//! among what lives; a cache of many megabytes that comes and goes with its engine must not stay behind like that.

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::kernels::packed::Line;

/// Lines in pages of their own.
#[derive(Default)]
pub(super) struct Pages {
    /// None where there is no line.
    map: Option<MmapMut>,
}

impl Pages {
    /// So many lines of zeros.
    pub(super) fn zeros(lines: usize) -> Self {
        let layout = Layout::array::<Line>(lines).expect("a block is smaller than the memory");
        let map = || MmapMut::map_anon(layout.size()).unwrap_or_else(|_| handle_alloc_error(layout));
        Self { map: (lines > 0).then(map) }
    }
}

impl Deref for Pages {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        let Some(map) = &self.map else { return &[] };
        #[expect(unsafe_code, reason = "mapped bytes are read as lines")]
        // SAFETY: the map begins at a page, which is aligned for lines, and is of so many; every bit pattern is an f32.
        unsafe {
            std::slice::from_raw_parts(map.as_ptr().cast(), map.len() / size_of::<Line>())
        }
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [Line] {
        let Some(map) = &mut self.map else { return &mut [] };
        #[expect(unsafe_code, reason = "mapped bytes are written as lines")]
        // SAFETY: as above; the map is borrowed mutably as long as the lines are.
        unsafe {
            std::slice::from_raw_parts_mut(map.as_mut_ptr().cast(), map.len() / size_of::<Line>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_zeros_and_keep_what_is_written() {
        let mut pages = Pages::zeros(100);
        assert!(pages.len() == 100 && pages.iter().all(|line| *line == Line::ZERO));
        pages[99].0[31] = 2.5;
        assert_eq!(pages[99].0[31], 2.5);
        assert!(Pages::zeros(0).is_empty());
    }
}
