//! Whether new weights fit into memory next to the old ones.

use crate::weights::Weights;

/// The bytes that loading brings into memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// For as long as the weights are there.
    pub(super) kept: u64,
    /// While they are read.
    pub(super) passing: u64,
}

impl Needed {
    /// Estimates a model's need: the engine keeps its weights in the files' types, and has the largest tensor as `f32` twice while it packs it.
    pub(super) fn of(weights: &Weights) -> Self {
        Self { kept: weights.bytes(), passing: weights.most_elements().saturating_mul(2 * size_of::<f32>() as u64) }
    }

    /// Adds the numbers of an adapter.
    pub(super) fn with(self, numbers: usize) -> Self {
        let bytes = (numbers * size_of::<f32>()) as u64;
        Self { kept: self.kept.saturating_add(bytes), ..self }
    }

    /// A tenth of what is kept goes to buffers.
    pub(super) fn total(self, cache: u64) -> u64 {
        let Self { kept, passing } = self;
        kept.saturating_add(kept / 10).saturating_add(passing).saturating_add(cache)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, write_model};

    #[test]
    fn what_is_needed_follows_from_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let model = TinyModel::default();
        write_model(dir.path(), &model);
        let elements = |shape: &[usize]| shape.iter().product::<usize>() as u64;
        let all: u64 = model.tensors().iter().map(|(_, shape)| elements(shape)).sum();
        let most = model.tensors().iter().map(|(_, shape)| elements(shape)).max().unwrap();
        let needed = Needed::of(&Weights::open(dir.path()).unwrap());
        assert_eq!(needed, Needed { kept: 4 * all, passing: 8 * most });
        assert_eq!(needed.with(10).total(100), 4 * all + 40 + (4 * all + 40) / 10 + 8 * most + 100);
        assert_eq!(Needed { kept: u64::MAX, passing: 1 }.with(1).total(1), u64::MAX);
    }
}
