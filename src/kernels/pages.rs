//! Memory directly from the operating system, to which it returns when it is dropped. An allocator would keep freed memory fragmented
//! between live objects, which large weights and caches that are loaded and dropped must avoid.

use std::alloc::{Layout, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::MmapMut;

/// The size in bytes from which on large pages are requested. It is the size of a large page on x86-64 and most ARM systems.
#[cfg(target_os = "linux")]
const LARGE: usize = 2 << 20;

/// Items in their own pages, initially zeros. The alignment of `T` is at most a page's.
pub struct Pages<T> {
    /// `None` if there are no items.
    map: Option<MmapMut>,
    items: PhantomData<T>,
}

impl<T> Default for Pages<T> {
    fn default() -> Self {
        Self { map: None, items: PhantomData }
    }
}

impl<T: Pod> Pages<T> {
    /// Makes `items` items of zeros.
    pub fn zeros(items: usize) -> Self {
        let layout = Layout::array::<T>(items).expect("items in memory fit into the address space");
        let map = || MmapMut::map_anon(layout.size()).unwrap_or_else(|_| handle_alloc_error(layout));
        let map = (layout.size() > 0).then(map);
        #[cfg(target_os = "linux")]
        if let Some(map) = map.as_ref().filter(|map| map.len() >= LARGE) {
            // A refusal only costs a little speed.
            drop(map.advise(memmap2::Advice::HugePage));
        }
        Self { map, items: PhantomData }
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        self.map.as_ref().map_or(&[], |map| bytemuck::cast_slice(map))
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        self.map.as_mut().map_or(&mut [], |map| bytemuck::cast_slice_mut(map))
    }
}

/// Items that are rewritten for each use. The pages are only replaced by larger ones.
pub struct Buffer<T> {
    pages: Pages<T>,
    len: usize,
}

impl<T> Default for Buffer<T> {
    fn default() -> Self {
        Self { pages: Pages::default(), len: 0 }
    }
}

impl<T: Pod> Buffer<T> {
    /// Sets the length. The contents are unspecified.
    pub fn resize(&mut self, len: usize) {
        if len > self.pages.len() {
            // Pages that are never touched take no memory.
            self.pages = Pages::zeros(len.next_power_of_two());
        }
        self.len = len;
    }

    /// Keeps only the rows numbered `kept`, in order, of a matrix with `columns` columns.
    ///
    /// # Panics
    /// Panics if a row does not exist.
    pub fn keep_rows(&mut self, columns: usize, kept: &[usize]) {
        for (to, &from) in kept.iter().enumerate() {
            self.copy_within(from * columns..(from + 1) * columns, to * columns);
        }
        self.len = kept.len() * columns;
    }
}

impl<T: Pod> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.pages[..self.len]
    }
}

impl<T: Pod> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.pages[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::super::packed::Line;
    use super::*;

    #[test]
    fn items_are_zeros_and_keep_what_is_written() {
        // The second size is in large pages.
        for items in [100, 20_000] {
            let mut pages = Pages::<Line>::zeros(items);
            assert!(pages.len() == items && pages.iter().all(|line| *line == Line::ZERO));
            pages[items - 1].0[31] = 2.5;
            assert_eq!(pages[items - 1].0[31], 2.5);
        }
        assert!(Pages::<u8>::zeros(0).is_empty());
    }

    #[test]
    fn a_buffer_keeps_rows_and_its_pages() {
        let mut buffer = Buffer::<f32>::default();
        assert!(buffer.is_empty());
        buffer.resize(10);
        buffer.iter_mut().zip(0..).for_each(|(x, i)| *x = i as f32);
        buffer.keep_rows(2, &[1, 4]);
        assert_eq!(buffer[..], [2.0, 3.0, 8.0, 9.0]);
        let place = buffer.as_ptr();
        buffer.resize(16);
        assert_eq!((buffer.len(), buffer.as_ptr()), (16, place));
        buffer.resize(5000);
        buffer[4999] = 1.0;
    }
}
