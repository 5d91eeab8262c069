//! The search that a request asks for: options become a checked configuration.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::error::ApiError;
use super::job::{Delivery, Drawing, Limits, size, within};
use crate::engine::Constraint;
use crate::openai::{ChatRequest, SearchOptions, Trace};
use crate::search::{Judge, Mode, SearchConfig, Strategy};
use crate::verify::Check;

/// A checked search.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchPlan {
    /// What the search will do.
    pub config: SearchConfig,
    /// Rules that the answer must follow.
    pub checks: Vec<Check>,
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
    /// Also every step as a chunk.
    Progress,
}

impl SearchPlan {
    /// The search of `body`, if it asks for one: by a budget above 0, by `search` without a budget, or by the model's
    /// `:search` alias.
    ///
    /// # Errors
    /// Names the field and its allowed range.
    pub fn from_wire(
        body: &ChatRequest,
        drawing: &Drawing,
        constraint: Option<&Constraint>,
        limits: &Limits<'_>,
    ) -> Result<Option<Self>, ApiError> {
        let settings = &limits.settings.search;
        let most = cap(settings.max_search_budget);
        let asked = body.search_budget.map(|budget| within("search_budget", budget, 0..=most)).transpose()?;
        let budget = match asked {
            Some(budget) => size(budget),
            None if body.search.is_some() || drawing.alias => settings.search_budget,
            None => return Ok(None),
        };
        let none = SearchOptions::default();
        let options = body.search.as_ref().unwrap_or(&none);
        // The options of a search with budget 0 are checked all the same: a request is right or wrong whatever its budget.
        let plan = Self::new(options, SearchConfig { budget, ..settings.defaults() }, drawing, constraint, limits)?;
        Ok((budget > 0).then_some(plan))
    }

    fn new(
        options: &SearchOptions,
        defaults: SearchConfig,
        drawing: &Drawing,
        constraint: Option<&Constraint>,
        limits: &Limits<'_>,
    ) -> Result<Self, ApiError> {
        let caps = &limits.settings.search;
        let checks = checks(options)?;
        let deadline_cap = i64::try_from(caps.max_search_deadline.as_millis()).unwrap_or(i64::MAX);
        let deadline = options.deadline_ms.map(|ms| within("search.deadline_ms", ms, 1..=deadline_cap)).transpose()?;
        let config = SearchConfig {
            strategy: options.strategy.unwrap_or(defaults.strategy),
            mode: options.mode.unwrap_or(defaults.mode),
            judge: options.judge.unwrap_or(if checks.is_empty() { defaults.judge } else { Judge::Both }),
            branch: ranged("search.branch", options.branch, SearchConfig::BRANCH, defaults.branch)?,
            keep: ranged("search.keep", options.keep, SearchConfig::KEEP, defaults.keep)?,
            depth: ranged("search.depth", options.depth, SearchConfig::DEPTH, defaults.depth)?,
            votes: ranged("search.votes", options.votes, SearchConfig::VOTES, defaults.votes)?,
            threshold: options.threshold.map_or(Ok(defaults.threshold), threshold)?,
            max_tokens: capped("search.max_tokens", options.max_tokens, caps.max_search_tokens, defaults.max_tokens)?,
            max_calls: capped("search.max_calls", options.max_calls, caps.max_search_calls, defaults.max_calls)?,
            deadline: deadline.map(|ms| Duration::from_millis(ms.unsigned_abs())).or(defaults.deadline),
            ..defaults
        };
        if config.mode == Mode::Paper && !matches!(config.strategy, Strategy::Bfs | Strategy::Dfs) {
            return Err(ApiError::invalid(
                "search.mode",
                "`search.mode` paper exists for the strategies bfs and dfs only",
            ));
        }
        let rules = !checks.is_empty() || matches!(constraint, Some(Constraint::JsonSchema(_)));
        if config.judge != Judge::Model && !rules {
            let message = "`search.judge` rules or both needs `search.checks` or a json_schema `response_format`";
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

fn checks(options: &SearchOptions) -> Result<Vec<Check>, ApiError> {
    // A bound on work per judgement, far above any real list.
    let most = 64;
    let specs = options.checks.as_deref().unwrap_or_default();
    count_checks(specs.len(), most)?;
    let check = |(index, spec): (usize, &crate::openai::CheckSpec)| {
        Check::new(&spec.id, spec.kwargs.clone()).map_err(|error| {
            let param = format!("search.checks[{index}]");
            ApiError::invalid(&param, format!("`{param}`: {error}"))
        })
    };
    specs.iter().enumerate().map(check).collect()
}

fn count_checks(got: usize, most: usize) -> Result<(), ApiError> {
    if got <= most {
        return Ok(());
    }
    Err(ApiError::invalid("search.checks", format!("`search.checks` must hold at most {most} checks, got {got}")))
}
