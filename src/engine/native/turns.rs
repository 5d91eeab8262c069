//! Cosine and sine of positions' angles, made piece by piece when a position is first reached: a context of ten million tokens
//! costs no more than the part of it that prompts and replies use.

use std::ops::Range;
use std::sync::OnceLock;

use crate::weights::Rope;

/// Positions of a piece.
const PIECE: usize = 4096;

/// The angles of some positions, once they are made.
type Piece = Box<[(f32, f32)]>;

/// Makes the angles of positions, `(positions, pairs)`.
type Make = dyn Fn(Range<usize>) -> Vec<(f32, f32)> + Send + Sync;

/// The angles of every position of a context.
pub(super) struct Turns {
    pieces: Box<[OnceLock<Piece>]>,
    pairs: usize,
    make: Box<Make>,
}

impl Turns {
    /// The angles that a configuration asks for, for as many positions as `context` has.
    pub(super) fn of(rope: &Rope, context: usize) -> Self {
        let rope = rope.clone();
        Self::new(rope.dims / 2, context, move |positions| rope.turns(positions))
    }

    /// Takes the number of pairs of elements, the number of positions, and the function that computes the angles.
    fn new(
        pairs: usize,
        context: usize,
        make: impl Fn(Range<usize>) -> Vec<(f32, f32)> + Send + Sync + 'static,
    ) -> Self {
        let pieces = (0..context.div_ceil(PIECE)).map(|_| OnceLock::new()).collect();
        Self { pieces, pairs, make: Box::new(make) }
    }

    /// The angles of a position of the context.
    pub(super) fn at(&self, position: usize) -> &[(f32, f32)] {
        let (piece, place) = (position / PIECE, position % PIECE);
        let made = || (self.make)(piece * PIECE..(piece + 1) * PIECE).into_boxed_slice();
        &self.pieces[piece].get_or_init(made)[place * self.pairs..][..self.pairs]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn only_what_is_reached_is_made_and_only_once() {
        let made = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&made);
        let turns = Turns::new(2, 1 << 30, move |positions| {
            count.fetch_add(positions.len(), Ordering::Relaxed);
            positions.flat_map(|position| [(position as f32, 0.0), (0.0, position as f32)]).collect()
        });
        for position in [0, 1, PIECE - 1, PIECE, (1 << 30) - 1, 0] {
            assert_eq!(turns.at(position), [(position as f32, 0.0), (0.0, position as f32)]);
        }
        assert_eq!(made.load(Ordering::Relaxed), 3 * PIECE);
    }
}
