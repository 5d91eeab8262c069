//! Work on many bytes, on several threads where that pays.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that are worth a thread.
const WORTH: usize = 64 << 20;

/// What `work` makes of each item, in their order; `bytes` says how much there is to do.
pub(super) fn over<T: Sync, R: Send>(
    items: &[T],
    bytes: impl Fn(&T) -> usize,
    work: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let total: usize = items.iter().map(bytes).sum();
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(total / WORTH + 1).min(items.len());
    if threads < 2 {
        return items.iter().map(work).collect();
    }
    let next = AtomicUsize::new(0);
    let some = || {
        let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < items.len());
        std::iter::from_fn(take).map(|index| (index, work(&items[index]))).collect::<Vec<_>>()
    };
    let mut done = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(some)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a thread panicked")).collect::<Vec<_>>()
    });
    done.sort_by_key(|&(index, _)| index);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn everything_is_done_once_and_in_order() {
        for bytes in [1, super::WORTH] {
            let items: Vec<usize> = (0..50).collect();
            let doubled = super::over(&items, |_| bytes, |item| item * 2);
            assert_eq!(doubled, (0..50).map(|item| item * 2).collect::<Vec<_>>());
        }
        assert!(super::over(&[0; 0], |_| 1, |item| *item).is_empty());
    }
}
