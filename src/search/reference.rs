//! The published search once more, as plainly as it can be written: one call after the other, no budgets but the nodes.

use std::collections::HashMap;

use super::properties::{Shape, World};
use super::*;
use crate::engine::Purpose;

pub(super) struct Reference {
    world: World,
    config: SearchConfig,
    draws: HashMap<(Purpose, Vec<String>), u64>,
    verdicts: HashMap<String, Option<(f64, String)>>,
    nodes: Vec<Spot>,
    pub judge_calls: usize,
    pub refine_calls: usize,
    pub accepted: bool,
    /// Something could not be judged.
    pub failed: bool,
    pub answer: usize,
}

struct Spot {
    parent: Option<usize>,
    depth: usize,
    text: String,
    critique: String,
    value: Option<f64>,
}

impl Reference {
    pub fn search(world: World, config: &SearchConfig) -> Self {
        let mut this = Self {
            world,
            config: config.clone(),
            draws: HashMap::new(),
            verdicts: HashMap::new(),
            nodes: Vec::new(),
            judge_calls: 0,
            refine_calls: 0,
            accepted: false,
            failed: false,
            answer: 0,
        };
        let draft = this.say(Purpose::Answer, &[]);
        let (value, critique) = match this.judge(&draft) {
            Some((value, critique)) => (Some(value), critique),
            None => (None, this.undecided_critique(&draft)),
        };
        this.nodes.push(Spot { parent: None, depth: 0, text: draft, critique, value });
        let found = if value.is_some_and(|value| value > 0.5) {
            Some(0)
        } else if config.strategy == Strategy::Bfs {
            this.bfs()
        } else {
            this.dfs(0)
        };
        this.accepted = found.is_some();
        this.answer = found.unwrap_or_else(|| this.highest(0).0);
        this
    }

    pub fn shape(&self) -> Vec<Shape> {
        let row = |n: &Spot| (n.parent, n.depth, n.text.clone(), n.critique.clone(), n.value);
        self.nodes.iter().map(row).collect()
    }

    fn say(&mut self, purpose: Purpose, about: &[String]) -> String {
        let draw = self.draws.entry((purpose, about.to_vec())).or_default();
        *draw += 1;
        self.world.say(purpose, about, *draw - 1).unwrap()
    }

    /// Value and critique; a tie is asked again, three times in all.
    fn judge(&mut self, text: &str) -> Option<(f64, String)> {
        if let Some(known) = self.verdicts.get(text) {
            return known.clone();
        }
        if self.world.is_cursed(text) {
            self.failed = true;
            return None;
        }
        let mut verdict = None;
        for _ in 0..3 {
            let votes: Vec<String> =
                (0..self.config.votes).map(|_| self.say(Purpose::Judge, &[text.to_owned()])).collect();
            self.judge_calls += votes.len();
            let yes = votes.iter().filter(|vote| vote.ends_with("Yes")).count();
            let no = votes.iter().filter(|vote| vote.ends_with("No")).count();
            if yes != no {
                let majority = if yes > no { "Yes" } else { "No" };
                let first = votes.into_iter().find(|vote| vote.ends_with(majority)).unwrap();
                verdict = Some((yes as f64 / (yes + no) as f64, first));
                break;
            }
        }
        if verdict.is_some() {
            self.verdicts.insert(text.to_owned(), verdict.clone());
        }
        verdict
    }

    /// Of a draft whose votes stay tied: the first No of the last round, or its first vote.
    fn undecided_critique(&self, text: &str) -> String {
        let asked = 3 * self.config.votes as u64;
        let about = [text.to_owned()];
        let last: Vec<_> = (asked - self.config.votes as u64..asked)
            .map(|draw| self.world.say(Purpose::Judge, &about, draw).unwrap())
            .collect();
        last.iter().find(|vote| vote.ends_with("No")).unwrap_or(&last[0]).clone()
    }

    fn spent(&self) -> bool {
        self.nodes.len() > self.config.budget
    }

    fn refine(&mut self, parent: usize) -> Option<usize> {
        let about = [self.nodes[parent].text.clone(), self.nodes[parent].critique.clone()];
        let mut text = None;
        for _ in 0..9 {
            self.refine_calls += 1;
            let reply = self.say(Purpose::Refine, &about);
            if let Some(inner) = reply.strip_prefix("so { ").and_then(|rest| rest.strip_suffix(" }")) {
                text = Some(inner.to_owned());
                break;
            }
        }
        let text = text?;
        let (value, critique) = self.judge(&text)?;
        let depth = self.nodes[parent].depth + 1;
        self.nodes.push(Spot { parent: Some(parent), depth, text, critique, value: Some(value) });
        Some(self.nodes.len() - 1)
    }

    fn children(&mut self, parent: usize) -> Vec<usize> {
        let mut made = Vec::new();
        for _ in 0..self.config.branch {
            if !self.spent() {
                made.extend(self.refine(parent));
            }
        }
        made
    }

    fn sorted(&self, mut ids: Vec<usize>) -> Vec<usize> {
        ids.sort_by(|a, b| self.nodes[*b].value.partial_cmp(&self.nodes[*a].value).unwrap());
        ids
    }

    fn gate(&self, sorted: &[usize]) -> Option<usize> {
        sorted.first().copied().filter(|id| self.nodes[*id].value.unwrap() > 0.5)
    }

    fn bfs(&mut self) -> Option<usize> {
        let mut level = vec![0];
        for _ in 0..self.config.depth {
            let mut made = Vec::new();
            for parent in level {
                made.extend(self.children(parent));
            }
            let made = self.sorted(made);
            if let Some(accepted) = self.gate(&made) {
                return Some(accepted);
            }
            level = made.into_iter().take(self.config.keep.min(self.config.branch)).collect();
        }
        None
    }

    fn dfs(&mut self, node: usize) -> Option<usize> {
        if self.nodes[node].depth == self.config.depth || self.spent() {
            return None;
        }
        let made = self.children(node);
        let made = self.sorted(made);
        if let Some(accepted) = self.gate(&made) {
            return Some(accepted);
        }
        made.into_iter().take(self.config.keep).find_map(|child| self.dfs(child))
    }

    /// The node with the highest value at or below `node`; on equal values the later, deeper one.
    fn highest(&self, node: usize) -> (usize, f64) {
        let mut best = (node, self.nodes[node].value.unwrap_or(-1.0));
        for child in (0..self.nodes.len()).filter(|id| self.nodes[*id].parent == Some(node)) {
            let below = self.highest(child);
            if below.1 >= best.1 {
                best = below;
            }
        }
        best
    }
}
