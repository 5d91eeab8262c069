//! The rows of a text that are pooled into one vector.

use futures::channel::oneshot;

use crate::engine::embedding::Pooling;

/// The rows of a text so far, as one vector.
pub(super) struct Pooled {
    pub(super) pooling: Pooling,
    /// The sum of the rows, or the last of them.
    vector: Vec<f32>,
    rows: usize,
    pub(super) done: oneshot::Sender<Vec<f32>>,
}

impl Pooled {
    pub(super) fn new(pooling: Pooling, done: oneshot::Sender<Vec<f32>>) -> Self {
        Self { pooling, vector: Vec::new(), rows: 0, done }
    }

    /// Adds the row of the text's next position.
    pub(super) fn add(&mut self, row: &[f32]) {
        self.rows += 1;
        match self.pooling {
            Pooling::Mean if self.rows > 1 => self.vector.iter_mut().zip(row).for_each(|(sum, x)| *sum += x),
            Pooling::Mean | Pooling::Last => self.vector = row.to_vec(),
        }
    }

    /// Forgets what was computed, which will be computed again.
    pub(super) fn clear(&mut self) {
        self.vector.clear();
        self.rows = 0;
    }

    /// Sends the vector to its caller.
    pub(super) fn finish(self) {
        // The mean and the sum have one direction, and only that is asked for. A caller that disconnected needs no answer.
        self.done.send(unit(self.vector)).ok();
    }
}

/// The vector of length 1 in the same direction; one without a direction stays as it is.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    vector
}
