//! Judges candidates and adds them to the tree, and asks for the votes that were skipped on nodes.

use std::collections::{HashMap, HashSet, VecDeque};

use futures::{StreamExt, stream};

use super::budget::Spent;
use super::call::{Draw, Halt, Search};
use super::expand::Candidates;
use super::growth::Growth;
use super::judgement::Judgement;
use super::{Mode, NodeId, Progress, Strategy};
use crate::engine::Subject;

/// The parent of new candidates, the seed of their draws, and the number of earlier draws.
pub(super) struct Place {
    pub parent: Option<NodeId>,
    pub seed: u64,
    pub tried: usize,
}

impl Search<'_> {
    /// Judges candidates concurrently and adds them to the tree in order.
    pub async fn add_candidates(
        &self,
        growth: &mut Growth,
        made: Result<Candidates, Halt>,
        place: Place,
    ) -> Result<(), Spent> {
        let Place { parent, seed, tried } = place;
        let made = growth.usable(made)?;
        // Identical texts are judged once. In `paper` mode, as in the reference, an undecided text is judged again.
        let paper = self.config.mode == Mode::Paper;
        let mut seeds = HashMap::<String, Vec<u64>>::new();
        let mut candidates = Vec::new();
        for (slot, candidate) in made.into_iter().enumerate() {
            let Some(candidate) = candidate else { continue };
            // A refinement that repeats its parent is dropped. With strategy `auto`, so is a further draft that repeats an earlier answer.
            let repeats = match parent {
                Some(parent) => growth.tree[parent].response.trim() == candidate.response.trim(),
                None => self.config.strategy == Strategy::Auto && growth.judged.contains_key(&candidate.response),
            };
            if !paper && repeats {
                continue;
            }
            let seed = Draw::Child.seed(seed, tried + slot);
            let copies = seeds.entry(candidate.response.clone()).or_default();
            if paper || copies.is_empty() {
                copies.push(seed);
            }
            let subject = Subject::Candidate { number: growth.candidates, parent: parent.map(|parent| parent.0) };
            growth.candidates += 1;
            candidates.push((candidate, seed, subject));
        }
        let known = |text: &str| growth.judged.get(text).is_some_and(|known| known.value.is_some() || !paper);
        seeds.retain(|text, _| !known(text));
        let side_by_side = (self.config.parallel / self.judged_side_by_side()).max(1);
        let mut rulings = stream::iter(candidates)
            .map(|(candidate, seed, subject)| {
                let seeds = seeds.remove(&candidate.response).unwrap_or_default();
                async move {
                    let rulings = self.on(subject).judge_copies(&candidate.response, seeds).await;
                    (candidate, seed, subject, rulings)
                }
            })
            .buffered(side_by_side);
        let mut waiting = HashMap::new();
        while let Some((candidate, seed, subject, made)) = rulings.next().await {
            if !made.is_empty() {
                waiting.insert(candidate.response.clone(), made);
            }
            let judgement = match waiting.get_mut(&candidate.response).and_then(VecDeque::pop_front) {
                Some(Ok(judgement)) => growth.remember(&candidate.response, judgement),
                Some(Err(Halt::Spent(spent))) => return Err(spent),
                Some(Err(Halt::Failed(error))) => {
                    growth.fail(error);
                    continue;
                }
                None => growth.judged.get(&candidate.response).cloned(),
            };
            // Undecidable children are discarded. In `eager` mode, so are copies of a text whose judgement failed.
            let Some(judgement) = judgement.filter(|judgement| judgement.value.is_some()) else { continue };
            let id = growth.add(parent, candidate, judgement, seed);
            growth.tree[id].subject = subject;
            (self.session.observe)(Progress::NodeAdded(id, &growth.tree[id]));
            if self.config.mode == Mode::Eager && growth.tree[id].accepted {
                break;
            }
        }
        Ok(())
    }

    /// Judges a text with one seed after the other until it is decided. Returns the rulings for its first copies among siblings.
    async fn judge_copies(&self, response: &str, seeds: Vec<u64>) -> VecDeque<Result<Judgement, Halt>> {
        let mut rulings = VecDeque::new();
        for seed in seeds {
            let ruling = self.judge(response, seed).await;
            let last = match &ruling {
                Ok(judgement) => judgement.value.is_some(),
                Err(Halt::Spent(_)) => true,
                Err(Halt::Failed(_)) => false,
            };
            rulings.push_back(ruling);
            if last {
                break;
            }
        }
        rulings
    }

    /// Asks for the votes that were skipped on `nodes`.
    pub async fn settle(&self, growth: &mut Growth, nodes: &[NodeId]) -> Result<(), Spent> {
        let mut texts = HashSet::new();
        let first: Vec<_> = nodes.iter().copied().filter(|id| texts.insert(&growth.tree[*id].response)).collect();
        let votes: Vec<_> = stream::iter(first)
            .map(async |id| {
                let search = self.on(Subject::Node(id.0));
                (id, search.settle_node(&growth.tree[id], growth.origins[id.0].seed).await)
            })
            .buffered(self.config.parallel.max(1))
            .collect()
            .await;
        for (id, votes) in votes {
            match votes {
                Ok(votes) => growth.settle(id, Some(votes)),
                Err(Halt::Spent(spent)) => return Err(spent),
                Err(Halt::Failed(error)) => {
                    growth.fail(error);
                    growth.settle(id, None);
                }
            }
        }
        Ok(())
    }
}
