//! A second implementation of the published search, as simple as possible, which makes one call after the other. Each deviation of `paper`
//! mode (`docs/paper-mode.md`) is a switch.

mod cases;

use std::collections::HashMap;

use super::properties::{Draws, Shape, TEMPLATES};
use super::*;
use crate::engine::Purpose;
use crate::prompts::Verdict;

/// The deviations that are switched on. Without any, the rules are those of the reference.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Deviations {
    /// A depth-first search ends when its budget is spent, instead of making one more child of each kept node that is left.
    pub dfs_stops_at_budget: bool,
    /// If nothing is accepted, the draft's value comes from its votes instead of being 0.
    pub root_value: bool,
    /// A refinement that equals the draft keeps the draft's verdict.
    pub root_cache: bool,
    /// A verdict must be a whole word after the last marker.
    pub verdicts: bool,
    /// A refinement must lie between the last pair of markers and must not be empty.
    pub envelopes: bool,
}

impl Deviations {
    /// All deviations of `paper` mode.
    pub const ALL: Self =
        Self { dfs_stops_at_budget: true, root_value: true, root_cache: true, verdicts: true, envelopes: true };
}

/// Returns the n-th draw of a prompt, or why it fails. It defines the world of a script.
pub(super) type Say<'a> = &'a dyn Fn(Purpose, &[String], u64) -> Result<String, EngineError>;

/// The decisions and the requests of a search.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decisions {
    pub nodes: Vec<Shape>,
    pub answer: usize,
    pub accepted: bool,
    /// The number of samples drawn for every prompt.
    pub draws: Draws,
}

impl Decisions {
    /// The number of samples drawn for a purpose.
    pub fn drawn(&self, purpose: Purpose) -> usize {
        self.draws.iter().filter(|((of, _), _)| *of == purpose).map(|(_, count)| *count as usize).sum()
    }

    /// Whether the draft was judged and failed, which the reference's script requires.
    pub fn root_failed(&self) -> bool {
        self.nodes[0].4.is_some_and(|value| value <= 0.5)
    }
}

/// Searches like the reference, except for `deviations`.
pub(super) fn search(say: Say<'_>, config: &SearchConfig, deviations: Deviations) -> Decisions {
    let mut this =
        Reference { say, config, deviations, draws: Draws::new(), verdicts: HashMap::new(), nodes: Vec::new() };
    let draft = this.ask(Purpose::Answer, &[], 1).expect("no world fails the draft").swap_remove(0);
    let verdict = this.judge(&draft);
    if !deviations.root_cache {
        this.verdicts.clear();
    }
    let (value, critique) = verdict.map_or((None, String::new()), |(value, critique)| (Some(value), critique));
    this.nodes.push(Spot { parent: None, depth: 0, text: draft, critique, value });
    let found = match value {
        None => None,
        Some(value) if value > 0.5 => Some(0),
        Some(_) if config.strategy == Strategy::Bfs => this.bfs(),
        Some(_) => this.dfs(0),
    };
    Decisions {
        accepted: found.is_some(),
        answer: found.unwrap_or_else(|| this.highest(0).0),
        nodes: this.nodes.into_iter().map(|n| (n.parent, n.depth, n.text, n.critique, n.value)).collect(),
        draws: this.draws,
    }
}

struct Reference<'a> {
    say: Say<'a>,
    config: &'a SearchConfig,
    deviations: Deviations,
    draws: Draws,
    verdicts: HashMap<String, (f64, String)>,
    nodes: Vec<Spot>,
}

struct Spot {
    parent: Option<usize>,
    depth: usize,
    text: String,
    critique: String,
    value: Option<f64>,
}

impl Reference<'_> {
    /// Makes one call for `samples` replies. If one reply fails, none is returned. If the first fails, the scripted engine does not start
    /// the others.
    fn ask(&mut self, purpose: Purpose, about: &[String], samples: usize) -> Option<Vec<String>> {
        let drawn = self.draws.entry((purpose, about.to_vec())).or_default();
        let mut replies = Vec::new();
        for index in 0..samples {
            let reply = (self.say)(purpose, about, *drawn);
            *drawn += 1;
            if index == 0 && reply.is_err() {
                return None;
            }
            replies.push(reply.ok());
        }
        replies.into_iter().collect()
    }

    /// Value and critique, found within three attempts. A failed call, a tie, and a round without a valid vote each count as one attempt.
    /// An undecided result is not cached.
    fn judge(&mut self, text: &str) -> Option<(f64, String)> {
        if let Some(known) = self.verdicts.get(text) {
            return Some(known.clone());
        }
        for _ in 0..3 {
            let Some(votes) = self.ask(Purpose::Judge, &[text.to_owned()], self.config.votes) else { continue };
            let verdicts: Vec<_> = votes.iter().map(|vote| self.verdict(vote)).collect();
            let count = |verdict| verdicts.iter().filter(|found| **found == Some(verdict)).count();
            let (yes, no) = (count(Verdict::Yes), count(Verdict::No));
            if yes != no {
                let majority = if yes > no { Verdict::Yes } else { Verdict::No };
                let first = verdicts.iter().position(|found| *found == Some(majority)).expect("it has the most votes");
                let judged = (yes as f64 / (yes + no) as f64, votes[first].clone());
                self.verdicts.insert(text.to_owned(), judged.clone());
                return Some(judged);
            }
        }
        None
    }

    fn verdict(&self, vote: &str) -> Option<Verdict> {
        if self.deviations.verdicts { TEMPLATES.parse_verdict(vote) } else { published_verdict(vote) }
    }

    /// A refined text, found within three times three draws. The inner loop repeats a draw that is unreadable or whose call fails, and ends
    /// at a draw that reads as empty.
    fn refinement(&mut self, parent: usize) -> Option<String> {
        let about = [self.nodes[parent].text.clone(), self.nodes[parent].critique.clone()];
        for _ in 0..3 {
            for _ in 0..3 {
                let Some(reply) = self.ask(Purpose::Refine, &about, 1) else { continue };
                match self.refined(&reply[0]) {
                    None => {}
                    Some(text) if text.is_empty() => break,
                    found => return found,
                }
            }
        }
        None
    }

    fn refined(&self, reply: &str) -> Option<String> {
        if self.deviations.envelopes {
            TEMPLATES.parse_refinement(reply).map(|refinement| refinement.response)
        } else {
            published_refinement(reply)
        }
    }

    fn spent(&self) -> bool {
        self.nodes.len() > self.config.budget
    }

    /// Makes up to `branch` children. The budget is checked after each child that joins the tree.
    fn children(&mut self, parent: usize) -> Vec<usize> {
        let mut made = Vec::new();
        for _ in 0..self.config.branch {
            let Some(text) = self.refinement(parent) else { continue };
            let Some((value, critique)) = self.judge(&text) else { continue };
            made.push(self.nodes.len());
            let depth = self.nodes[parent].depth + 1;
            self.nodes.push(Spot { parent: Some(parent), depth, text, critique, value: Some(value) });
            if self.spent() {
                break;
            }
        }
        made
    }

    /// Sorts by descending value; equal values keep their order.
    fn sorted(&self, mut ids: Vec<usize>) -> Vec<usize> {
        ids.sort_by(|a, b| self.nodes[*b].value.partial_cmp(&self.nodes[*a].value).expect("values are numbers"));
        ids
    }

    fn gate(&self, sorted: &[usize]) -> Option<usize> {
        sorted.first().copied().filter(|id| self.nodes[*id].value.is_some_and(|value| value > 0.5))
    }

    fn keep(&self) -> usize {
        self.config.keep.min(self.config.branch)
    }

    fn bfs(&mut self) -> Option<usize> {
        let mut level = vec![0];
        for _ in 0..self.config.depth {
            let mut made = Vec::new();
            for parent in level {
                if !self.spent() {
                    made.extend(self.children(parent));
                }
            }
            let made = self.sorted(made);
            if let Some(accepted) = self.gate(&made) {
                return Some(accepted);
            }
            level = made.into_iter().take(self.keep()).collect();
        }
        None
    }

    fn dfs(&mut self, node: usize) -> Option<usize> {
        if self.nodes[node].depth == self.config.depth || (self.deviations.dfs_stops_at_budget && self.spent()) {
            return None;
        }
        let made = self.children(node);
        let made = self.sorted(made);
        if let Some(accepted) = self.gate(&made) {
            return Some(accepted);
        }
        if self.spent() {
            return None;
        }
        made.into_iter().take(self.keep()).find_map(|child| self.dfs(child))
    }

    /// The node with the highest value at or below `node`; with equal values the later, deeper one.
    fn highest(&self, node: usize) -> (usize, f64) {
        let real = node > 0 || self.deviations.root_value;
        let mut best = (node, self.nodes[node].value.filter(|_| real).unwrap_or(0.0));
        for child in (0..self.nodes.len()).filter(|id| self.nodes[*id].parent == Some(node)) {
            let below = self.highest(child);
            if below.1 >= best.1 {
                best = below;
            }
        }
        best
    }
}

/// The first `Yes` or `No`, even within a word, between the first marker and the second one or the end.
fn published_verdict(vote: &str) -> Option<Verdict> {
    let after = vote.split("Final Judgement").nth(1)?;
    match (after.find("Yes"), after.find("No")) {
        (Some(yes), Some(no)) => Some(if yes < no { Verdict::Yes } else { Verdict::No }),
        (yes, no) => yes.map(|_| Verdict::Yes).or(no.map(|_| Verdict::No)),
    }
}

/// The text between the first start marker and the next one, up to an end marker if there is one.
fn published_refinement(reply: &str) -> Option<String> {
    let after = reply.split("[[start]]").nth(1)?;
    Some(after.split("[[end]]").next().unwrap_or_default().trim().to_owned())
}
