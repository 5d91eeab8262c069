//! A training of this program, counted and divided into updates, as it is described to another program.

use std::path::Path;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};
use spar::weights::digest::hex;

use super::super::trainings::Training;
use super::data::Items;
use crate::chats::Chats;
use crate::cluster::{Cluster, Needs, Work};
use crate::model::{DenseConfig, shape};
use crate::recipe::external::{External, Framework};
use crate::tokens::Passes;

/// A training that is counted and divided into updates.
pub(super) struct Job<'a> {
    pub training: &'a Training,
    pub dense: DenseConfig,
    chats: Chats,
    data: Items,
    /// The items of all updates in the order in which this program learns them.
    order: Vec<usize>,
    /// Pairs or turns of one pass.
    pub items: usize,
    /// Tokens of all passes, where nothing is shared between the replies of a pair.
    pub tokens: u64,
    /// Tokens of the longest sequence.
    pub longest: usize,
    /// Mean tokens of a sequence.
    pub mean: usize,
    /// Items of an update.
    pub per_step: usize,
    /// Sequences that each process accumulates for an update.
    pub accumulation: usize,
    /// Number of updates.
    pub steps: u64,
    /// Whether every update learns from the same items as in this program.
    pub same_batches: bool,
    /// Problems of lines that are left out.
    pub skipped: Vec<String>,
}

impl<'a> Job<'a> {
    pub(super) fn new(training: &'a Training, external: &External) -> Result<Self> {
        let chats = Chats::without_weights(training.base())?;
        let dense = shape::load(training.base())?;
        let (data, skipped) = Items::read(training, &chats)?;
        let rows = data.rows();
        ensure!(!rows.is_empty(), "{}: nothing to learn from", training.data().display());
        let items = rows.len();
        let mut passes = Passes::new(rows, training.tokens_per_step(), training.train().seed);
        let steps = match training.epochs() {
            Some(epochs) => ((passes.steps as f64 * epochs).ceil() as u64).max(1),
            None => training.train().steps,
        };
        let batches: Vec<Vec<usize>> = (0..steps).map(|step| passes.step(step).to_vec()).collect();
        let order = batches.concat();
        let world = external.cluster.world();
        let mean = (order.len() as f64 / batches.len() as f64).round() as usize;
        let accumulation = ((mean as f64 / world as f64).round() as usize).max(1);
        let per_step = accumulation * world;
        let lengths = data.lengths();
        let sequences = if training.compares() { 2 * items } else { items };
        let total: usize = lengths.iter().map(|&(_, all)| all).sum();
        Ok(Self {
            training,
            dense,
            chats,
            items,
            tokens: order.iter().map(|&item| lengths[item].1 as u64).sum(),
            longest: lengths.iter().map(|&(longest, _)| longest).max().unwrap_or_default(),
            mean: total / sequences.max(1),
            per_step,
            accumulation,
            steps: (order.len() as u64).div_ceil(per_step as u64),
            same_batches: batches.iter().all(|batch| batch.len() == per_step),
            skipped,
            order,
            data,
        })
    }

    /// The tokens of the longest sequence with room for what another program's template adds.
    pub(super) fn cut(&self) -> usize {
        (self.longest + 32).next_multiple_of(64).min(self.dense.context)
    }

    pub(super) fn needs(&self, cluster: Cluster) -> Needs {
        self.work().needs(cluster)
    }

    pub(super) fn work(&self) -> Work<'_> {
        Work {
            dense: &self.dense,
            lora: self.training.train().lora.as_ref(),
            pairs: self.training.compares(),
            longest: self.longest,
            mean: self.mean,
        }
    }

    /// SHA-256 of tokenizer and chat template.
    pub(super) fn texts(&self) -> String {
        texts(&self.chats)
    }

    /// The token that ends a reply, as text.
    pub(super) fn end(&self) -> String {
        self.chats.model.tokenizer.id_to_token(self.chats.end()).unwrap_or_default()
    }

    pub(super) fn write_data(&self, path: &Path, framework: Framework) -> Result<()> {
        self.data.write(path, framework, &self.order)
    }
}

/// SHA-256 of what a model reads and writes: tokenizer and chat template.
pub(in crate::stages) fn texts(chats: &Chats) -> String {
    let identity = chats.model.identity();
    hex(&Sha256::digest(format!("{}\n{}", identity.tokenizer, identity.chat_template)))
}
