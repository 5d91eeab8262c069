//! An index of the places at which runs of a few tokens occur in a growing sequence. Each token takes a few words of memory and
//! constant time.

/// A mark for no position.
const NONE: u32 = u32::MAX;

/// Occurrences that are looked at, the latest first.
const VISITED: usize = 16;

/// Positions at which runs of `N` tokens end. Runs that share a place in the table share a chain, so what is found has to
/// be compared.
#[derive(Clone, Default)]
pub(super) struct Grams<const N: usize> {
    /// The latest position by hash; a power of two of them.
    latest: Vec<u32>,
    /// For each position, the one before it with the same hash.
    before: Vec<u32>,
}

impl<const N: usize> Grams<N> {
    /// Takes in the tokens that are new since the last call.
    pub(super) fn learn(&mut self, tokens: &[u32]) {
        if tokens.len() > self.latest.len() {
            self.latest.clear();
            self.latest.resize(2 * tokens.len().next_power_of_two(), NONE);
            self.before.clear();
        }
        for end in self.before.len()..tokens.len() {
            let Some(start) = (end + 1).checked_sub(N) else {
                self.before.push(NONE);
                continue;
            };
            let place = place(&tokens[start..=end], self.latest.len());
            self.before.push(std::mem::replace(&mut self.latest[place], end as u32));
        }
    }

    /// Earlier positions, of the first `count`, that may end the same run as the last of these does.
    pub(super) fn earlier(&self, count: usize) -> impl Iterator<Item = usize> {
        let before = |end: usize| self.before.get(end).filter(|&&end| end != NONE).map(|&end| end as usize);
        let last = count.checked_sub(1).and_then(before);
        std::iter::successors(last, move |&end| before(end)).take(VISITED)
    }
}

/// The place of a run in a table whose size is a power of two.
fn place(run: &[u32], size: usize) -> usize {
    let mixed = run
        .iter()
        .fold(0u64, |hash, &token| (hash.rotate_left(23) ^ u64::from(token)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    (mixed >> 32) as usize & (size - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_earlier_run_is_found_latest_first() {
        let tokens: Vec<u32> = [7, 8, 9].repeat(5);
        let mut all = Grams::<3>::default();
        (1..=tokens.len()).for_each(|count| all.learn(&tokens[..count]));
        assert_eq!(all.earlier(tokens.len()).collect::<Vec<_>>(), [11, 8, 5, 2]);
        let mut at_once = Grams::<3>::default();
        at_once.learn(&tokens);
        assert_eq!(at_once.earlier(tokens.len()).collect::<Vec<_>>(), [11, 8, 5, 2]);
        assert_eq!(at_once.earlier(2).count(), 0);
        assert_eq!(Grams::<2>::default().earlier(0).count(), 0);
    }
}
