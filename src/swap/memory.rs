//! Whether new weights fit into memory next to the old ones.

use super::Swapper;
use super::candidate::{Candidate, Load};
use super::order::Mode;
use crate::memory;
use crate::weights::Weights;

/// What loading brings into memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needed {
    /// For as long as the weights are there.
    pub(super) kept: u64,
    /// While they are read.
    pub(super) passing: u64,
}

impl Needed {
    /// A model's: the engine keeps its weights in the files' types, and has the largest tensor as `f32` twice while it packs it.
    pub(super) fn of(weights: &Weights) -> Self {
        Self { kept: weights.bytes(), passing: weights.most_elements().saturating_mul(2 * size_of::<f32>() as u64) }
    }

    /// With so many numbers of an adapter.
    pub(super) fn with(self, numbers: usize) -> Self {
        let bytes = (numbers * size_of::<f32>()) as u64;
        Self { kept: self.kept.saturating_add(bytes), ..self }
    }

    /// A tenth of what is kept goes to buffers.
    fn total(self, cache: u64) -> u64 {
        let Self { kept, passing } = self;
        kept.saturating_add(kept / 10).saturating_add(passing).saturating_add(cache)
    }
}

impl Swapper {
    /// Decides whether the candidate is loaded next to the old weights or instead of them.
    pub(super) fn mode(&self, asked: Mode, candidate: &Candidate) -> Mode {
        if let Load::OnLive(..) = candidate.load {
            return Mode::BlueGreen;
        }
        if asked != Mode::Auto {
            return asked;
        }
        // In a CUDA build the device decides: a load that does not fit fails, and its message asks for a drain.
        let needed = candidate.needed.total(self.engine.native.kv_cache_bytes as u64);
        match self.settings.swap_memory.or_else(|| memory::now().available) {
            Some(free) if needed > free => Mode::Drain,
            _ => Mode::BlueGreen,
        }
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
