//! Keys and values of all sequences and kept prefixes, on a device.

use candle_core::{DType, Device, Result, Tensor};

use super::super::blocks::{BLOCK, Shape};
use super::super::slots::BlockCopy;
use super::lease::DeviceLease;
#[cfg(feature = "cuda")]
use super::ops::Room;
use super::ops::fused;

/// For each layer keys and values, `(heads, slots, head_dim)`: a block has [`BLOCK`] slots, the first block is zeros.
pub(in super::super) struct Cache {
    layers: Vec<(Tensor, Tensor)>,
    shape: Shape,
    /// The last field, so that the fields above are dropped first.
    device: DeviceLease,
}

/// The places in the cache for rows' keys and values.
pub(super) struct Places {
    /// `(rows)`.
    slots: Tensor,
    /// For every element of a head, `(heads, rows, head_dim)`, where candle's operations put them there.
    elements: Option<Tensor>,
}

impl Cache {
    /// Allocates `blocks` blocks and the block of zeros.
    pub(super) fn new(shape: Shape, blocks: usize, dtype: DType, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros((shape.heads, (blocks + 1) * BLOCK, shape.head_dim), dtype, device);
        let layers = (0..shape.layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers, shape, device: DeviceLease(device.clone()) })
    }

    /// The places of slots, `(rows)`.
    pub(super) fn places(&self, slots: Tensor) -> Result<Places> {
        let elements = if fused(&slots) { None } else { Some(self.elements(&slots)?) };
        Ok(Places { slots, elements })
    }

    fn elements(&self, slots: &Tensor) -> Result<Tensor> {
        let rows = slots.elem_count();
        let whole = slots.reshape((1, rows, 1))?.broadcast_as((self.shape.heads, rows, self.shape.head_dim))?;
        whole.contiguous()
    }

    /// What our kernel writes a layer's keys and values to.
    #[cfg(feature = "cuda")]
    pub(super) fn room<'a>(&'a self, layer: usize, places: &'a Places) -> Room<'a> {
        let (keys, values) = &self.layers[layer];
        Room { keys, values, slots: &places.slots }
    }

    /// Sets the keys and values, `(rows, heads, head_dim)`, of a layer.
    pub(super) fn write(&self, layer: usize, places: &Places, keys: &Tensor, values: &Tensor) -> Result<()> {
        let (own_keys, own_values) = &self.layers[layer];
        let elements = match &places.elements {
            Some(elements) => elements,
            None => &self.elements(&places.slots)?,
        };
        for (own, new) in [(own_keys, keys), (own_values, values)] {
            let new = new.transpose(0, 1)?.contiguous()?.to_dtype(own.dtype())?;
            own.scatter_set(elements, &new, 1)?;
        }
        Ok(())
    }

    /// A layer's keys and values at slots, `(heads, count, head_dim)`.
    pub(super) fn read(&self, layer: usize, slots: &Tensor) -> Result<(Tensor, Tensor)> {
        let (keys, values) = &self.layers[layer];
        Ok((keys.index_select(slots, 1)?, values.index_select(slots, 1)?))
    }

    /// Copies beginnings of blocks in all layers. All are read before any is written, since a block that is read may be
    /// another's by now.
    pub(super) fn copy(&self, copies: &[BlockCopy]) -> Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let slots = |block: fn(&BlockCopy) -> u32| {
            let slots = copies.iter().flat_map(|copy| {
                let first = block(copy) * BLOCK as u32;
                first..first + copy.positions as u32
            });
            let slots: Vec<u32> = slots.collect();
            let count = slots.len();
            Tensor::from_vec(slots, count, &self.device)
        };
        let from = slots(|copy| copy.from)?;
        let elements = self.elements(&slots(|copy| copy.to)?)?;
        for (keys, values) in &self.layers {
            for own in [keys, values] {
                own.scatter_set(&elements, &own.index_select(&from, 1)?, 1)?;
            }
        }
        Ok(())
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        super::bind(&self.device);
    }
}
