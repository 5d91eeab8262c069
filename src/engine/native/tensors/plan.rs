//! Attention of a step's rows over the cache: padded batches of clusters, laid out once for all layers.

use candle_core::{Device, Result, Tensor};

use super::super::batch::Row;
use super::super::sequence::Sequence;
use super::cache::Cache;
use super::clusters::{Cluster, Reach};
use super::ops::{cap, scores, weigh};

/// Keys of a bin are a multiple of this.
const ALIGNED: usize = 8;

/// How a step's rows attend in layers of each reach, laid out when the first of them comes.
pub(super) struct Plans<'a> {
    reaches: &'a [Reach],
    plans: Vec<Option<Plan>>,
}

impl<'a> Plans<'a> {
    pub(super) fn new(reaches: &'a [Reach]) -> Self {
        Self { reaches, plans: reaches.iter().map(|_| None).collect() }
    }

    /// That of layers with the reach `index`, for rows that stay the same from call to call.
    pub(super) fn of(&mut self, index: usize, rows: &[Row], sequences: &[Sequence], device: &Device) -> Result<&Plan> {
        let plan = match self.plans[index].take() {
            Some(plan) => plan,
            None => Plan::new(rows, sequences, &self.reaches[index], device)?,
        };
        Ok(self.plans[index].insert(plan))
    }
}

/// How a step's rows attend.
pub(super) struct Plan {
    bins: Vec<Bin>,
    /// Where each row is in the bins' results, one after another, unless all are in their order.
    order: Option<Tensor>,
}

/// Clusters side by side, filled up to the same numbers of rows and keys.
struct Bin {
    clusters: usize,
    height: usize,
    width: usize,
    /// Numbers of rows, `(clusters × height)`, unless they are all and in their order; the first row fills up.
    rows: Option<Tensor>,
    /// `(clusters × width)`; the slot of zeros fills up.
    slots: Tensor,
    /// 0 where a row sees a key and negative infinity where not, `(1, clusters, height, 1, width)`.
    mask: Tensor,
}

impl Plan {
    /// Lays out rows, at least one.
    fn new(rows: &[Row], sequences: &[Sequence], reach: &Reach, device: &Device) -> Result<Self> {
        let clusters = reach.clusters(rows, sequences);
        let mut order = vec![0u32; rows.len()];
        let mut before = 0;
        let mut bins = Vec::new();
        for bin in reach.bins(&clusters) {
            let members: Vec<&Cluster> = bin.into_iter().map(|index| &clusters[index]).collect();
            let height = members.iter().map(|cluster| cluster.rows().count()).max().unwrap_or(0);
            // Filled up, so that matrix units can work on rows of scores.
            let width = members.iter().map(|cluster| cluster.keys()).max().unwrap_or(0).next_multiple_of(ALIGNED);
            let mut numbers = vec![0u32; members.len() * height];
            let mut slots = vec![0u32; members.len() * width];
            // Rows that fill up see all keys, so that their weights are numbers.
            let mut mask = vec![0f32; members.len() * height * width];
            for (index, cluster) in members.iter().enumerate() {
                slots[index * width..].iter_mut().zip(cluster.slots(sequences)).for_each(|(to, slot)| *to = slot);
                for (place, (row, sight)) in cluster.rows().zip(cluster.sight(rows, reach)).enumerate() {
                    let place = index * height + place;
                    numbers[place] = row as u32;
                    order[row] = (before + place) as u32;
                    let mask = &mut mask[place * width..][..width];
                    mask.fill(f32::NEG_INFINITY);
                    sight.into_iter().for_each(|seen| mask[seen].fill(0.0));
                }
            }
            let count = members.len();
            before += count * height;
            bins.push(Bin {
                clusters: count,
                height,
                width,
                rows: indices(numbers, rows.len(), device)?,
                slots: Tensor::from_vec(slots, count * width, device)?,
                mask: Tensor::from_vec(mask, (1, count, height, 1, width), device)?,
            });
        }
        Ok(Self { bins, order: indices(order, before, device)? })
    }

    /// `softmax(q · kᵀ) · v`, with capped scores where there is a cap, for each query head of each row: queries, which are scaled, are
    /// `(rows, heads, head_dim)`, the result `(rows, heads × head_dim)`, both in the cache's type.
    pub(super) fn attend(
        &self,
        cache: &Cache,
        layer: usize,
        queries: &Tensor,
        score_cap: Option<f32>,
    ) -> Result<Tensor> {
        let results: Vec<Tensor> =
            self.bins.iter().map(|bin| bin.attend(cache, layer, queries, score_cap)).collect::<Result<_>>()?;
        match (&self.order, results.as_slice()) {
            (None, [all]) => Ok(all.clone()),
            (Some(order), _) => Tensor::cat(&results, 0)?.index_select(order, 0),
            (None, _) => Tensor::cat(&results, 0),
        }
    }
}

impl Bin {
    fn attend(&self, cache: &Cache, layer: usize, queries: &Tensor, score_cap: Option<f32>) -> Result<Tensor> {
        let &Self { clusters, height, width, .. } = self;
        let (keys, values) = cache.read(layer, &self.slots)?;
        let (kv_heads, _, size) = keys.dims3()?;
        let group = queries.dim(1)? / kv_heads;
        let keys = keys.reshape((kv_heads, clusters, width, size))?;
        let values = values.reshape((kv_heads, clusters, width, size))?;
        let queries = match &self.rows {
            Some(rows) => &queries.index_select(rows, 0)?,
            None => queries,
        };
        // A key head's queries of a cluster lie below one another: (kv_heads, clusters, height × group, size).
        let queries = queries.reshape((clusters, height, kv_heads, group, size))?.permute((2, 0, 1, 3, 4))?;
        let queries = queries.contiguous()?.reshape((kv_heads, clusters, height * group, size))?;
        let scores = cap(scores(&queries, &keys)?, score_cap)?;
        let weights = weigh(&scores, &self.mask, values.dtype())?;
        let results = weights.matmul(&values)?.reshape((kv_heads, clusters, height, group, size))?;
        results.permute((1, 2, 0, 3, 4))?.contiguous()?.reshape((clusters * height, kv_heads * group * size))
    }
}

/// Indices into `all` things, on the device; `None` if they are all of them in order.
fn indices(indices: Vec<u32>, all: usize, device: &Device) -> Result<Option<Tensor>> {
    let count = indices.len();
    let needed = count != all || indices.iter().enumerate().any(|(place, &index)| place != index as usize);
    needed.then(|| Tensor::from_vec(indices, count, device)).transpose()
}
