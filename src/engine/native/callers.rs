//! Fairness between callers: how many replies of each run, and whose request begins next.

use crate::engine::Namespace;

/// Running replies by caller.
#[derive(Clone, Debug, Default)]
pub(super) struct ByCaller(Vec<(Namespace, usize)>);

impl ByCaller {
    /// Forgets all callers.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts replies of a caller.
    pub(super) fn add(&mut self, caller: Namespace, replies: usize) {
        match self.0.iter_mut().find(|(known, _)| *known == caller) {
            Some((_, count)) => *count += replies,
            None => self.0.push((caller, replies)),
        }
    }

    /// Counts what another one has counted.
    pub(super) fn add_all(&mut self, other: &Self) {
        other.0.iter().for_each(|&(caller, replies)| self.add(caller, replies));
    }

    fn of(&self, caller: Namespace) -> usize {
        self.0.iter().find(|(known, _)| *known == caller).map_or(0, |&(_, replies)| replies)
    }

    /// The index of the request that begins next: the first one of the caller with the fewest replies. A caller that has some
    /// may not have more than `most`, so that others find room; callers that are not distinguished have no such limit.
    pub(super) fn next(&self, waiting: impl Iterator<Item = (Namespace, usize)>, most: usize) -> Option<usize> {
        let may_begin = |caller: Namespace, places: usize| {
            let own = self.of(caller);
            caller == Namespace::SHARED || own == 0 || own + places <= most
        };
        let candidates = waiting.enumerate().filter(|&(_, (caller, places))| may_begin(caller, places));
        candidates.min_by_key(|&(_, (caller, _))| self.of(caller)).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_least_begins_next_and_nobody_takes_everything() {
        let caller = |byte: u8| if byte == 0 { Namespace::SHARED } else { Namespace::of([byte; 32]) };
        // Columns: running replies by caller, places that waiting requests ask for by caller, the next one of at most 6.
        type Replies<'a> = &'a [(u8, usize)];
        let table: &[(Replies<'_>, Replies<'_>, Option<usize>)] = &[
            (&[], &[], None),
            (&[], &[(1, 4), (2, 1)], Some(0)),
            (&[(1, 2)], &[(1, 1), (2, 1), (2, 3)], Some(1)),
            (&[(1, 2), (2, 3)], &[(2, 1), (1, 1), (1, 1)], Some(1)),
            (&[(1, 5)], &[(1, 2)], None),
            (&[(1, 5)], &[(1, 2), (1, 1)], Some(1)),
            (&[(1, 5)], &[(1, 2), (2, 9)], Some(1)),
            (&[(0, 50)], &[(0, 9)], Some(0)),
            (&[(0, 50), (1, 2)], &[(0, 9), (1, 1)], Some(1)),
        ];
        for (index, (running, waiting, expected)) in table.iter().enumerate() {
            let mut counts = ByCaller::default();
            running.iter().for_each(|&(byte, replies)| counts.add(caller(byte), replies));
            let waiting = waiting.iter().map(|&(byte, places)| (caller(byte), places));
            assert_eq!(counts.next(waiting, 6), *expected, "{index}");
        }
    }

    #[test]
    fn counts_add_up() {
        let (a, b) = (Namespace::of([1; 32]), Namespace::of([2; 32]));
        let mut all = ByCaller::default();
        let mut one = ByCaller::default();
        one.add(a, 2);
        all.add_all(&one);
        one.add(b, 3);
        all.add_all(&one);
        assert_eq!((all.of(a), all.of(b), all.of(Namespace::SHARED)), (4, 3, 0));
        all.clear();
        assert_eq!(all.of(a), 0);
    }
}
