//! The settings of a search, with their ranges and defaults.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Which node is refined next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Refines the best answer while that makes progress. After two refinements without progress it makes a new draft.
    #[default]
    Auto,
    /// Searches level by level and refines the best `keep` nodes of each.
    Bfs,
    /// Searches depth first: the best child is refined before its siblings.
    Dfs,
    /// Makes independent drafts and judges them.
    BestOfN,
    /// Refines the last response repeatedly. The length of the chain is limited by the budget, not by `depth`.
    RefineChain,
}

/// How closely the published reference is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Makes the paper's decisions with fewer calls: voting stops when the outcome is certain, and the first accepted node ends the search
    /// even in the middle of a level.
    #[default]
    Eager,
    /// Makes the published reference's decisions, except for a short list in `docs/paper-mode.md`: all votes are cast, whole levels are
    /// searched, later nodes win ties, and failed calls are repeated.
    Paper,
}

/// Who decides that a response is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// The refiner judges.
    #[default]
    Model,
    /// The task's checks judge: the value is the share that holds, and only a response that passes all of them is accepted.
    Rules,
    /// Rules decide about their own instructions and the refiner about the rest. The refiner is asked once every rule holds.
    Both,
}

/// How the refiner's verdict is obtained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judging {
    /// Writes critiques and counts their verdicts, as in the paper.
    Votes,
    /// Reads the probability of Yes without a critique.
    #[default]
    Score,
    /// Reads the probability of Yes without a critique, which decides where it is clear. Inside the uncertain band of the model's
    /// calibration, critiques are written and the probability of Yes is read after each.
    Cascade,
}

/// The checked settings of a search; every field is within the server's caps.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchConfig {
    /// Maximum number of judged refinements, at least 1. A child that cannot be judged is not counted.
    pub budget: usize,
    /// Which node is refined next.
    pub strategy: Strategy,
    /// How closely the reference is followed.
    pub mode: Mode,
    /// The judge: the model, rules or both.
    pub judge: Judge,
    /// How the refiner judges. `None` lets the model decide: `cascade` if it has a calibration, or templates of its own without a question
    /// for an immediate verdict; otherwise `score`. `paper` mode always counts votes.
    pub judging: Option<Judging>,
    /// Whether the conversation's instructions are listed first and then judged one by one.
    pub checklist: bool,
    /// Whether refinements are decoded under a grammar of those rules whose texts have a pattern.
    pub guided: bool,
    /// Children per node, in [`SearchConfig::BRANCH`].
    pub branch: usize,
    /// Number of nodes of a level that are refined, in [`SearchConfig::KEEP`].
    pub keep: usize,
    /// Maximum number of refinements from the root to a leaf, in [`SearchConfig::DEPTH`].
    pub depth: usize,
    /// Votes per judgement, in [`SearchConfig::VOTES`].
    pub votes: usize,
    /// A node with a value above this is accepted; 0 ≤ threshold < 1.
    pub threshold: f64,
    /// Maximum number of tokens that the whole search generates.
    pub max_tokens: Option<usize>,
    /// Maximum number of model calls.
    pub max_calls: Option<usize>,
    /// Time after which the search ends with the best answer so far.
    pub deadline: Option<Duration>,
    /// Model calls of one search that run at a time. A group of siblings shares one prompt and is never split.
    pub parallel: usize,
    /// Maximum number of tokens of one critique. In `eager` mode a short response gets less room.
    pub judge_tokens: usize,
    /// Maximum number of tokens of one refinement. In `eager` mode the room depends on the response that is refined.
    pub refine_tokens: usize,
    /// Temperature of votes.
    pub judge_temperature: f32,
    /// Temperature of refinements, and of the further drafts of best-of-N if the draft is greedy.
    pub refine_temperature: f32,
}

impl SearchConfig {
    /// The range of children per node.
    pub const BRANCH: RangeInclusive<usize> = 1..=8;
    /// The range of nodes of a level that are refined.
    pub const KEEP: RangeInclusive<usize> = 1..=8;
    /// The range of refinements from the root to a leaf.
    pub const DEPTH: RangeInclusive<usize> = 1..=16;
    /// The range of votes per judgement.
    pub const VOTES: RangeInclusive<usize> = 1..=15;
}

impl SearchConfig {
    /// The paper's search: breadth first, judged by votes. The trainer's stages use it because they learn from critiques.
    pub fn by_votes() -> Self {
        let judging = Some(Judging::Votes);
        Self { strategy: Strategy::Bfs, judging, judge_tokens: 1024, ..Self::default() }
    }
}

impl Default for SearchConfig {
    /// The paper's shape and temperatures, in eager mode.
    fn default() -> Self {
        Self {
            budget: 16,
            strategy: Strategy::default(),
            mode: Mode::default(),
            judge: Judge::default(),
            judging: None,
            checklist: false,
            guided: true,
            branch: 3,
            keep: 2,
            depth: 3,
            votes: 5,
            threshold: 0.5,
            max_tokens: None,
            max_calls: None,
            deadline: None,
            parallel: 5,
            judge_tokens: 512,
            refine_tokens: 2048,
            judge_temperature: 0.7,
            refine_temperature: 0.7,
        }
    }
}
