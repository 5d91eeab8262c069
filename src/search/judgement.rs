//! The result of judging one response.

use super::tree::Votes;

/// The result of judging one response.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// The share of instructions that hold; an instruction that the refiner judges counts with its probability. If votes alone judge, yes
    /// votes / valid votes. `None` if no verdict could be read.
    pub value: Option<f64>,
    /// The refiner's probability that the response is right. With several items it is the lowest.
    pub probability: Option<f64>,
    /// The refiner's probability for each item of the checklist, in order; empty if the items were not asked about.
    pub items: Vec<f64>,
    /// The last round of votes. If rules alone judge, the number of instructions that hold and that fail.
    pub votes: Votes,
    /// Whether the response passes.
    pub accepted: bool,
    /// Number of instructions that hold: rules, items of the checklist, or the whole prompt as one instruction.
    pub held: usize,
    /// The instructions that are known to fail, one clause each.
    pub failed: Vec<String>,
    /// The first critique that agrees with the decision. If the vote is undecided: the first of the last round that says no, or else the
    /// first of all. Empty if the verdict was read without a critique.
    pub critique: String,
    /// Votes that were skipped because they could not change the decision.
    pub unasked: usize,
}
