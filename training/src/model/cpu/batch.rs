//! A packed batch: the tokens of several sequences one after another, without padding.

use anyhow::{Result, ensure};

/// Sequences to read, and for each token the one to predict after it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packed {
    /// The tokens read, `(rows,)`.
    pub inputs: Vec<u32>,
    /// The token to predict at each row, `(rows,)`.
    pub targets: Vec<u32>,
    /// The number of rows of each sequence.
    pub lengths: Vec<usize>,
    /// How each sequence forks, if it does.
    pub forks: Vec<Fork>,
    /// The rows whose targets matter, in order: only their log-probabilities are computed.
    pub asked: Vec<usize>,
}

/// Two sequences with a common beginning: its rows come first and are computed once, then the rest of the first sequence,
/// then the rest of the second, which neither sees nor counts the first's rest. `first` is 0 for a plain sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fork {
    /// Rows of the common beginning.
    pub shared: usize,
    /// Rows of the first sequence after it.
    pub first: usize,
}

/// A sequence's place in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its first row.
    pub start: usize,
    /// Number of its rows.
    pub len: usize,
    /// The fork of the sequence.
    pub fork: Fork,
}

impl Span {
    /// Rows of one text after the other, each with the position of its first: one run, or two where the sequence forks.
    pub fn runs(self) -> impl Iterator<Item = (std::ops::Range<usize>, usize)> {
        let Fork { shared, first } = self.fork;
        let turn = if first == 0 { self.len } else { shared + first };
        [(self.start..self.start + turn, 0), (self.start + turn..self.start + self.len, shared)].into_iter()
    }

    /// The longest text's positions.
    pub fn positions(self) -> usize {
        self.runs().map(|(rows, position)| rows.len() + position).max().unwrap_or(0)
    }
}

impl Packed {
    /// Appends a sequence: all but its last token are read, all but its first are predicted.
    pub fn push(&mut self, tokens: &[u32]) {
        self.push_asking(tokens, |_| true);
    }

    /// Adds a sequence like [`Packed::push`]. Only the targets at the places for which `asked` is true matter.
    pub fn push_asking(&mut self, tokens: &[u32], asked: impl Fn(usize) -> bool) {
        let rows = tokens.len().saturating_sub(1);
        if rows > 0 {
            let first = self.rows();
            self.asked.extend((0..rows).filter(|row| asked(row + 1)).map(|row| first + row));
            self.inputs.extend(&tokens[..rows]);
            self.targets.extend(&tokens[1..]);
            self.lengths.push(rows);
            self.forks.push(Fork::default());
        }
    }

    /// Packs two replies that share a prefix, which is computed once; the loss is taken from token `told` on. Returns where
    /// they fork. A row is common if it reads and predicts the same in both.
    pub fn push_fork(&mut self, first: &[u32], second: &[u32], told: usize) -> Fork {
        let common = first.iter().zip(second).take_while(|(a, b)| a == b).count();
        let shared = common.saturating_sub(1);
        let fork = Fork { shared, first: first.len() - 1 - shared };
        let start = self.rows();
        self.asked.extend(start + told - 1..start + first.len() - 1 + second.len() - 1 - shared);
        self.inputs.extend(first[..first.len() - 1].iter().chain(&second[shared..second.len() - 1]));
        self.targets.extend(first[1..].iter().chain(&second[shared + 1..]));
        self.lengths.push(self.inputs.len() - start);
        self.forks.push(fork);
        fork
    }

    /// Rows in all.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.inputs.len()
    }

    /// The sequences' places.
    pub fn sequences(&self) -> impl Iterator<Item = Span> + '_ {
        self.lengths.iter().zip(&self.forks).scan(0, |next, (&len, &fork)| {
            let start = *next;
            *next += len;
            Some(Span { start, len, fork })
        })
    }

    /// Whether a model of this many positions and tokens can read it.
    ///
    /// # Errors
    /// Fails when a sequence is longer or a token is not in the vocabulary.
    pub fn check(&self, positions: usize, vocab: usize) -> Result<()> {
        let longest = self.sequences().map(Span::positions).max().unwrap_or(0);
        ensure!(longest <= positions, "a sequence of {longest} tokens exceeds {positions} positions");
        let largest = self.inputs.iter().chain(&self.targets).copied().max().unwrap_or(0);
        ensure!((largest as usize) < vocab, "token {largest} is not in a vocabulary of {vocab}");
        Ok(())
    }

    /// Values of the asked rows, and 0 for the others, `(rows,)`.
    #[must_use]
    pub fn on_all_rows(&self, asked: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.rows()];
        self.asked.iter().zip(asked).for_each(|(&row, &value)| out[row] = value);
        out
    }
}
