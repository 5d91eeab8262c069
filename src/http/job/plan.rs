//! The search that a request asks for: options become a checked configuration.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::bounds::Bounds;
use super::drawing::{Delivery, Drawing};
use super::ranges::{size, within};
use super::rules::Rules;
use crate::engine::Constraint;
use crate::http::error::ApiError;
use crate::openai::{ChatRequest, JudgeState, PlannedCheck, SearchOptions, Trace};
use crate::search::{Judge, Judging, Mode, SearchConfig, Strategy};

/// The rest of a request, which its search depends on.
pub struct Asked<'a> {
    /// What the answer is checked for, where it is searched for.
    pub rules: Rules,
    /// How replies are drawn.
    pub drawing: &'a Drawing,
    /// What the answer must match.
    pub constraint: Option<&'a Constraint>,
}

/// A checked search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchPlan {
    /// What the search will do.
    pub config: SearchConfig,
    /// Rules that the answer must follow.
    pub checks: Vec<PlannedCheck>,
    /// How much of the tree the response shows.
    pub trace: Trace,
    /// What a stream shows while the search runs.
    pub events: Events,
}

/// What a stream shows while a search runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Events {
    /// Signs of life.
    Heartbeat,
    /// Signs of life, and every step as a chunk.
    Progress,
}

impl SearchPlan {
    /// The search of `body`, if it asks for one: by a budget above 0, by `search` without a budget, or by the model's
    /// `:search` alias.
    ///
    /// # Errors
    /// Names the field and its allowed range.
    pub fn from_wire(body: &ChatRequest, asked: Asked<'_>, bounds: &Bounds<'_>) -> Result<Option<Self>, ApiError> {
        let settings = &bounds.settings.search;
        let most = cap(settings.max_search_budget);
        let budget = body.search_budget.map(|budget| within("search_budget", budget, 0..=most)).transpose()?;
        let budget = match budget {
            Some(budget) => size(budget),
            None if body.search.is_some() || asked.drawing.alias => settings.search_budget,
            None => return Ok(None),
        };
        let none = SearchOptions::default();
        let options = body.search.as_ref().unwrap_or(&none);
        // The options of a search with budget 0 are checked all the same: a request is right or wrong whatever its budget.
        let plan = Self::new(options, SearchConfig { budget, ..settings.defaults() }, asked, bounds)?;
        Ok((budget > 0).then_some(plan))
    }

    fn new(
        options: &SearchOptions,
        defaults: SearchConfig,
        asked: Asked<'_>,
        bounds: &Bounds<'_>,
    ) -> Result<Self, ApiError> {
        let Asked { rules: Rules(checks), drawing, constraint } = asked;
        let caps = &bounds.settings.search;
        let mode = options.mode.unwrap_or(defaults.mode);
        let deadline_cap = i64::try_from(caps.max_search_deadline.as_millis()).unwrap_or(i64::MAX);
        let deadline = options.deadline_ms.map(|ms| within("search.deadline_ms", ms, 1..=deadline_cap)).transpose()?;
        let config = SearchConfig {
            strategy: options.strategy.unwrap_or(match mode {
                Mode::Eager => defaults.strategy,
                // The paper's own.
                Mode::Paper => Strategy::Bfs,
            }),
            mode,
            judging: options.judging.or(defaults.judging),
            checklist: options.checklist.unwrap_or(defaults.checklist && mode == Mode::Eager),
            judge: options.judge.unwrap_or(match bounds.judge {
                _ if checks.is_empty() => defaults.judge,
                // A judge that is known not to tell right from wrong is not asked where rules decide.
                JudgeState::Indifferent | JudgeState::Unreadable => Judge::Rules,
                JudgeState::Untried | JudgeState::Able => Judge::Both,
            }),
            branch: ranged("search.branch", options.branch, SearchConfig::BRANCH, defaults.branch)?,
            keep: ranged("search.keep", options.keep, SearchConfig::KEEP, defaults.keep)?,
            depth: ranged("search.depth", options.depth, SearchConfig::DEPTH, defaults.depth)?,
            votes: ranged("search.votes", options.votes, SearchConfig::VOTES, defaults.votes)?,
            threshold: options.threshold.map_or(Ok(defaults.threshold), threshold)?,
            max_tokens: capped("search.max_tokens", options.max_tokens, caps.max_search_tokens, defaults.max_tokens)?,
            max_calls: capped("search.max_calls", options.max_calls, caps.max_search_calls, defaults.max_calls)?,
            judge_tokens: room("search.judge_tokens", options.judge_tokens, defaults.judge_tokens)?,
            refine_tokens: room("search.refine_tokens", options.refine_tokens, defaults.refine_tokens)?,
            judge_temperature: temperature(
                "search.judge_temperature",
                options.judge_temperature,
                defaults.judge_temperature,
            )?,
            refine_temperature: temperature(
                "search.refine_temperature",
                options.refine_temperature,
                defaults.refine_temperature,
            )?,
            deadline: deadline.map(|ms| Duration::from_millis(ms.unsigned_abs())).or(defaults.deadline),
            ..defaults
        };
        if config.mode == Mode::Paper && !matches!(config.strategy, Strategy::Bfs | Strategy::Dfs) {
            return Err(ApiError::invalid(
                "search.mode",
                "`search.mode` paper exists for the strategies bfs and dfs only",
            ));
        }
        if config.mode == Mode::Paper {
            if !matches!(config.judging, None | Some(Judging::Votes)) {
                let message = "`search.mode` paper judges by votes; leave `search.judging` out or ask for `votes`";
                return Err(ApiError::invalid("search.judging", message));
            }
            if config.checklist {
                let message = "`search.mode` paper has no checklist; leave `search.checklist` out";
                return Err(ApiError::invalid("search.checklist", message));
            }
        }
        let rules = !checks.is_empty() || matches!(constraint, Some(Constraint::JsonSchema(_)));
        if config.judge != Judge::Model && !rules {
            let message = "`search.judge` rules or both needs rules: no instruction that a rule can check was found in \
                           `messages`, and `search.checks` or a json_schema `response_format` name none; leave \
                           `search.judge` out or name rules in `search.checks`";
            return Err(ApiError::invalid("search.judge", message));
        }
        if config.judge == Judge::Model && !checks.is_empty() {
            let message =
                "`search.judge` model leaves `search.checks` unused; ask for rules or both, or leave the checks out";
            return Err(ApiError::invalid("search.judge", message));
        }
        let events = if options.events == Some(true) { Events::Progress } else { Events::Heartbeat };
        if events == Events::Progress && drawing.delivery == Delivery::Whole {
            return Err(ApiError::invalid("search.events", "`search.events` needs `stream: true`"));
        }
        Ok(Self { config, checks, trace: options.trace.unwrap_or_default(), events })
    }
}

fn ranged(param: &str, value: Option<i64>, range: RangeInclusive<usize>, default: usize) -> Result<usize, ApiError> {
    let range = cap(*range.start())..=cap(*range.end());
    value.map_or(Ok(default), |value| Ok(size(within(param, value, range)?)))
}

fn capped(param: &str, value: Option<i64>, most: usize, default: Option<usize>) -> Result<Option<usize>, ApiError> {
    value.map_or(Ok(default), |value| Ok(Some(size(within(param, value, 1..=cap(most))?))))
}

fn cap(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}

fn threshold(value: f64) -> Result<f64, ApiError> {
    if (0.0..1.0).contains(&value) {
        return Ok(value);
    }
    let message = format!("`search.threshold` must be at least 0 and below 1, got {value}");
    Err(ApiError::invalid("search.threshold", message))
}

fn room(param: &str, value: Option<i64>, most: usize) -> Result<usize, ApiError> {
    value.map_or(Ok(most), |value| Ok(size(within(param, value, 16..=cap(most.max(16)))?)))
}

fn temperature(param: &str, value: Option<f64>, default: f32) -> Result<f32, ApiError> {
    match value {
        None => Ok(default),
        Some(value) if (0.0..=2.0).contains(&value) => Ok(value as f32),
        Some(value) => Err(ApiError::invalid(param, format!("`{param}` must be between 0 and 2, got {value}"))),
    }
}
