//! A packed batch: the tokens of several sequences one after another, without padding.

/// Sequences to read, and for each token the one to predict after it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Packed {
    /// The tokens read, `(rows,)`.
    pub inputs: Vec<u32>,
    /// The token to predict at each row, `(rows,)`.
    pub targets: Vec<u32>,
    /// The number of rows of each sequence.
    pub lengths: Vec<usize>,
    /// The rows whose targets matter, in order: only their log-probabilities are computed.
    pub asked: Vec<usize>,
}

impl Packed {
    /// Appends a sequence: all but its last token are read, all but its first are predicted.
    pub fn push(&mut self, tokens: &[u32]) {
        self.push_asking(tokens, |_| true);
    }

    /// [`Packed::push`], of which only some tokens matter as targets: `asked` is called with their places.
    pub fn push_asking(&mut self, tokens: &[u32], asked: impl Fn(usize) -> bool) {
        let rows = tokens.len().saturating_sub(1);
        if rows > 0 {
            let first = self.rows();
            self.asked.extend((0..rows).filter(|row| asked(row + 1)).map(|row| first + row));
            self.inputs.extend(&tokens[..rows]);
            self.targets.extend(&tokens[1..]);
            self.lengths.push(rows);
        }
    }

    /// Rows in all.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.inputs.len()
    }

    /// First row and number of rows of each sequence.
    pub fn sequences(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.lengths.iter().scan(0, |next, &len| {
            let start = *next;
            *next += len;
            Some((start, len))
        })
    }
}
