//! What a recipe's values must be, checked before anything is loaded.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use spar::search::SearchConfig;

use super::external::Trainer;
use super::iterate::{Iterate, Sample, Search, Source};

fn at_least<T: PartialOrd + Display>(name: &str, value: T, least: T) -> Result<()> {
    ensure!(value >= least, "{name} must be at least {least}, got {value}");
    Ok(())
}

fn within(name: &str, value: usize, range: RangeInclusive<usize>) -> Result<()> {
    let (low, high) = (range.start(), range.end());
    ensure!(range.contains(&value), "{name} must be between {low} and {high}, got {value}");
    Ok(())
}

pub(crate) fn positive(name: &str, value: f64) -> Result<()> {
    ensure!(value > 0.0 && value.is_finite(), "{name} must be above 0, got {value}");
    Ok(())
}

pub(crate) fn share(name: &str, value: f64) -> Result<()> {
    ensure!((0.0..=1.0).contains(&value), "{name} must be between 0 and 1, got {value}");
    Ok(())
}

fn temperature(name: &str, value: f32) -> Result<()> {
    ensure!((0.0..=10.0).contains(&value), "{name} must be between 0 and 10, got {value}");
    Ok(())
}

fn exists(name: &str, path: &Path) -> Result<()> {
    ensure!(path.exists(), "{name}: there is no {}", path.display());
    Ok(())
}

impl Iterate {
    /// # Errors
    /// Names the field and the valid values.
    pub fn check(&self) -> Result<()> {
        at_least("iterate.iterations", self.iterations, 1)?;
        at_least("iterate.prompts.per_iteration", self.prompts.per_iteration, 1)?;
        if self.prompts.held_out.is_some() {
            at_least("iterate.prompts.held_out_count", self.prompts.held_out_count, 1)?;
        }
        at_least("iterate.dpo.tokens_per_step", self.dpo.tokens_per_step, 1)?;
        at_least("iterate.sft.tokens_per_step", self.sft.tokens_per_step, 1)?;
        at_least("iterate.gate.prompts", self.gate.prompts, 1)?;
        at_least("iterate.gate.budget", self.gate.budget, 1)?;
        self.sample.check()?;
        self.search.check()?;
        positive("iterate.dpo.epochs", self.dpo.epochs)?;
        positive("iterate.sft.epochs", self.sft.epochs)?;
        positive("iterate.dpo.later_lr", self.dpo.later_lr)?;
        positive("iterate.sft.later_lr", self.sft.later_lr)?;
        positive("iterate.dpo.less_likely", self.dpo.less_likely)?;
        share("iterate.build.agreement", self.build.agreement)?;
        share("iterate.build.floor.shortest", self.build.floor.shortest)?;
        at_least("iterate.build.floor.longest", self.build.floor.longest, 1.0)?;
        share("iterate.build.floor.repetition", self.build.floor.repetition)?;
        if let Some(drift) = self.build.length_drift {
            at_least("iterate.build.length_drift", drift, 0.0)?;
        }
        share("iterate.gate.tolerance", self.gate.tolerance)?;
        self.dpo.preference.check().context("iterate.dpo.preference")?;
        self.dpo.train.check("iterate.dpo.train")?;
        self.sft.train.check("iterate.sft.train")?;
        match (&self.external, self.trainer) {
            (None, Trainer::External) => anyhow::bail!(
                "trainer = \"external\" needs an [iterate.external] section with `for`: llama-factory, trl or axolotl"
            ),
            (Some(external), Trainer::External) => external.check("iterate.external"),
            (None, Trainer::Own) => Ok(()),
            (Some(_), Trainer::Own) => anyhow::bail!(
                "[iterate.external] has an effect with trainer = \"external\" only; add that to [iterate], or remove the section"
            ),
        }
    }

    /// Checks that the models, the files and the device that the run needs are there and that the prompts are enough for all rounds, which a run would
    /// otherwise notice after hours.
    ///
    /// # Errors
    /// Names the field and what is missing.
    pub fn check_files(&self) -> Result<()> {
        // What is trained elsewhere uses no device of this machine.
        if self.trainer.is_own() {
            self.dpo.train.check_device("iterate.dpo.train")?;
            self.sft.train.check_device("iterate.sft.train")?;
        }
        for (name, model) in [("iterate.actor", &self.actor), ("iterate.refiner", &self.refiner)] {
            exists(name, model)?;
            crate::model::shape::load(model).context(name)?;
        }
        for file in &self.prompts.against {
            exists("iterate.prompts.against", file)?;
        }
        let sources = [
            ("iterate.prompts.train", Some(&self.prompts.train), self.prompts.per_iteration * self.iterations),
            ("iterate.prompts.validation", self.gate.enabled.then_some(&self.prompts.validation), 1),
            ("iterate.prompts.held_out", self.prompts.held_out.as_ref(), 1),
        ];
        for (name, source, needed) in sources {
            let Some(Source::File(path)) = source else { continue };
            exists(name, path)?;
            let found = crate::records::read_prompts(path, self.bad_lines).context(name)?.items.len();
            ensure!(
                found >= needed,
                "{name}: {} has {found} prompts, and {} rounds of {} need {needed}: add some, or lower \
                 iterate.prompts.per_iteration or iterate.iterations",
                path.display(),
                self.iterations,
                self.prompts.per_iteration
            );
        }
        Ok(())
    }
}

impl Sample {
    fn check(&self) -> Result<()> {
        at_least("iterate.sample.per_prompt", self.per_prompt, 1)?;
        at_least("iterate.sample.parallel", self.parallel, 1)?;
        at_least("iterate.sample.max_tokens", self.max_tokens.unwrap_or(1), 1)?;
        within("iterate.sample.votes", self.votes, SearchConfig::VOTES)?;
        temperature("iterate.sample.temperature", self.temperature)?;
        ensure!(
            self.top_p > 0.0 && self.top_p <= 1.0,
            "iterate.sample.top_p must be above 0 and at most 1, got {}",
            self.top_p
        );
        share("iterate.sample.unreadable", self.unreadable)
    }
}

impl Search {
    fn check(&self) -> Result<()> {
        at_least("iterate.search.budget", self.budget, 1)?;
        within("iterate.search.votes", self.votes, SearchConfig::VOTES)?;
        within("iterate.search.branch", self.branch, SearchConfig::BRANCH)?;
        within("iterate.search.keep", self.keep, SearchConfig::KEEP)?;
        within("iterate.search.depth", self.depth, SearchConfig::DEPTH)?;
        ensure!(
            (0.0..1.0).contains(&self.threshold),
            "iterate.search.threshold must be at least 0 and below 1, got {}",
            self.threshold
        );
        temperature("iterate.search.judge_temperature", self.judge_temperature)?;
        temperature("iterate.search.refine_temperature", self.refine_temperature)?;
        at_least("iterate.search.judge_tokens", self.judge_tokens, 1)?;
        at_least("iterate.search.refine_tokens", self.refine_tokens, 1)?;
        at_least("iterate.search.max_calls", self.max_calls.unwrap_or(1), 1)?;
        at_least("iterate.search.max_tokens", self.max_tokens.unwrap_or(1), 1)?;
        if let Some(seconds) = self.seconds {
            positive("iterate.search.seconds", seconds)?;
            ensure!(seconds <= 1e6, "iterate.search.seconds must be at most 1000000, got {seconds}");
        }
        share("iterate.search.unreadable", self.unreadable)
    }
}
