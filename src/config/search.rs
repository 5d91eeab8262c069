//! A search's defaults and caps.

use std::time::Duration;

use clap::Args;

use super::error::{ConfigError, require};
use super::units::duration;
use crate::openai::ChecksMode;
use crate::search::{Judging, SearchConfig, Strategy};

/// A search's defaults and caps.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Search")]
pub struct SearchArgs {
    /// Nodes where a request asks for a search without a budget
    #[arg(long, env = "SPAR_SEARCH_BUDGET", value_name = "N", default_value_t = SearchConfig::default().budget)]
    pub search_budget: usize,
    /// Nodes that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_BUDGET", value_name = "N", default_value_t = 64)]
    pub max_search_budget: usize,
    /// Generated tokens of a search that names no limit
    #[arg(long, env = "SPAR_SEARCH_TOKENS", value_name = "N", default_value_t = 20_000)]
    pub search_tokens: usize,
    /// Generated tokens that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_TOKENS", value_name = "N", default_value_t = 200_000)]
    pub max_search_tokens: usize,
    /// Model calls of a search that names no limit
    #[arg(long, env = "SPAR_SEARCH_CALLS", value_name = "N", default_value_t = 200)]
    pub search_calls: usize,
    /// Model calls that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_CALLS", value_name = "N", default_value_t = 2_000)]
    pub max_search_calls: usize,
    /// Time of a search that names no deadline
    #[arg(long, env = "SPAR_SEARCH_DEADLINE", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub search_deadline: Duration,
    /// Deadline that a request may ask for
    #[arg(long, env = "SPAR_MAX_SEARCH_DEADLINE", value_name = "TIME", default_value = "5m", value_parser = duration)]
    pub max_search_deadline: Duration,
    /// Model calls of one search at a time
    #[arg(long, env = "SPAR_SEARCH_PARALLEL", value_name = "N", default_value_t = SearchConfig::default().parallel)]
    pub search_parallel: usize,
    /// Strategy of searches that name none: auto, bfs, dfs, best_of_n or refine_chain
    #[arg(long, env = "SPAR_SEARCH_STRATEGY", value_name = "NAME", default_value = "auto", value_parser = named::<Strategy>)]
    pub search_strategy: Strategy,
    /// Whether rules check the answers of searches: auto finds the instructions that rules can check in the conversation
    #[arg(long, env = "SPAR_CHECKS", value_name = "auto|off", default_value = "auto", value_parser = named::<ChecksMode>)]
    pub checks: ChecksMode,
    /// Judging of searches that name none: votes, score or cascade; absent: cascade for a model with a calibration or templates of its own, else score
    #[arg(long, env = "SPAR_JUDGING", value_name = "NAME", value_parser = named::<Judging>)]
    pub judging: Option<Judging>,
    /// Whether the judge is tried at the start with a right and a wrong answer, to notice one whose verdicts cannot be read
    #[arg(long, env = "SPAR_TRY_JUDGE", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub try_judge: bool,
    /// Tokens of one critique at most
    #[arg(long, env = "SPAR_JUDGE_TOKENS", value_name = "N", default_value_t = SearchConfig::default().judge_tokens)]
    pub judge_tokens: usize,
    /// Tokens of one refinement at most
    #[arg(long, env = "SPAR_REFINE_TOKENS", value_name = "N", default_value_t = SearchConfig::default().refine_tokens)]
    pub refine_tokens: usize,
    /// Temperature of votes
    #[arg(long, env = "SPAR_JUDGE_TEMPERATURE", value_name = "T", default_value_t = SearchConfig::default().judge_temperature)]
    pub judge_temperature: f32,
    /// Temperature of refinements
    #[arg(long, env = "SPAR_REFINE_TEMPERATURE", value_name = "T", default_value_t = SearchConfig::default().refine_temperature)]
    pub refine_temperature: f32,
}

/// Reads a name as JSON spells it.
fn named<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    // Serde's message lists the names.
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

impl SearchArgs {
    /// The configuration of a search whose request sets nothing.
    pub fn defaults(&self) -> SearchConfig {
        SearchConfig {
            budget: self.search_budget,
            max_tokens: Some(self.search_tokens),
            max_calls: Some(self.search_calls),
            deadline: Some(self.search_deadline),
            parallel: self.search_parallel,
            strategy: self.search_strategy,
            judging: self.judging,
            judge_tokens: self.judge_tokens,
            refine_tokens: self.refine_tokens,
            judge_temperature: self.judge_temperature,
            refine_temperature: self.refine_temperature,
            ..SearchConfig::default()
        }
    }

    /// Checks numbers and times, and that no default is above its cap.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("--search-budget", self.search_budget),
            ("--search-tokens", self.search_tokens),
            ("--search-calls", self.search_calls),
            ("--search-parallel", self.search_parallel),
            ("--judge-tokens", self.judge_tokens),
            ("--refine-tokens", self.refine_tokens),
        ];
        for (flag, value) in at_least_one {
            require(value >= 1, || format!("{flag} must be at least 1, got {value}"))?;
        }
        for (flag, value) in
            [("--judge-temperature", self.judge_temperature), ("--refine-temperature", self.refine_temperature)]
        {
            require((0.0..=2.0).contains(&value), || format!("{flag} must be between 0 and 2, got {value}"))?;
        }
        require(!self.search_deadline.is_zero(), || "--search-deadline must be above 0".into())?;
        let within = [
            ("budget", self.search_budget, self.max_search_budget),
            ("tokens", self.search_tokens, self.max_search_tokens),
            ("calls", self.search_calls, self.max_search_calls),
        ];
        for (name, default, cap) in within {
            require(default <= cap, || {
                format!("--search-{name} ({default}) must not be above --max-search-{name} ({cap})")
            })?;
        }
        let (default, cap) = (self.search_deadline, self.max_search_deadline);
        require(default <= cap, || {
            format!("--search-deadline ({default:?}) must not be above --max-search-deadline ({cap:?})")
        })
    }
}
