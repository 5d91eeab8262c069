//! `calibrate`: fits the conversion of a model's probabilities of Yes and No into the probability that a response is right, and finds how
//! far the result can be trusted. It is measured on responses whose truth is decided by the rules of their prompts.

pub mod fit;
pub mod measure;
mod options;
mod plot;
pub mod quality;
pub mod report;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use spar::engine::model_dir::ModelDir;
use spar::engine::{Engine, LabelSupport, derive_seed};
use spar::prompts::{Calibration, Temperatures, TemplateText, Templates};
use spar::verify::data::{Prompt, read_prompts};

use fit::Case;
use measure::{Answer, Measured};
pub use options::Options;
use quality::{Judged, Quality};
use report::{Kind, Report};

use super::{engines, write_json};

/// The minimum number of right and of wrong responses for fitting temperatures.
const ENOUGH: usize = 10;

/// Calibrates the model of a directory, and writes its `spar.json` and, if requested, the report.
///
/// # Errors
/// Fails if a file or a model call fails, or if the calibration cannot be made or written.
pub async fn run(options: &Options) -> Result<Report> {
    let target = options.target();
    may_write(&target, options.force)?;
    let prompts = checkable(&options.prompts, options.count)?;
    let engine = engines::load(&options.model)?;
    may_be_read(&engine)?;
    let ModelDir { templates, .. } = engine.dir();
    let answers = match (&options.responses, &options.actor) {
        (Some(path), _) => measure::read_answers(path, &prompts)?,
        (None, Some(actor)) => measure::draw(&engines::load(actor)?, &prompts, options).await?,
        (None, None) => measure::draw(&engine, &prompts, options).await?,
    };
    let report = calibrate(&engine, templates, &prompts, &answers, options).await?;
    if let Some(folder) = &options.report {
        report.write(folder)?;
    }
    write(&templates.text, report.calibration, &target)?;
    Ok(report)
}

/// Refuses to replace an existing file unless `force` is set, and a file whose digest a manifest states.
fn may_write(target: &Path, force: bool) -> Result<()> {
    ensure!(
        force || !target.exists(),
        "{} exists: choose another file with --out, or replace it with --force",
        target.display()
    );
    let (Some(directory), Some(name)) = (target.parent(), target.file_name()) else { return Ok(()) };
    let name = name.to_string_lossy();
    let own = (directory.join("manifest.json"), name.clone().into_owned());
    let above = directory.parent().zip(directory.file_name());
    let above = above.map(|(above, here)| (above.join("manifest.json"), format!("{}/{name}", here.to_string_lossy())));
    for (manifest, file) in std::iter::once(own).chain(above) {
        let Ok(text) = std::fs::read_to_string(&manifest) else { continue };
        let value: serde_json::Value =
            serde_json::from_str(&text).with_context(|| format!("reading {}", manifest.display()))?;
        let promised = ["sha256", "bytes"].iter().any(|field| value[*field].get(&file).is_some());
        ensure!(
            !promised,
            "{} states the digest of {file}, so a changed file would be refused: choose another file with --out",
            manifest.display()
        );
    }
    Ok(())
}

/// The prompts of a file whose instructions can all be checked.
fn checkable(path: &Path, count: Option<usize>) -> Result<Vec<Prompt>> {
    let mut prompts = read_prompts(path)?.items;
    prompts.retain(|prompt| prompt.unchecked.is_empty() && !prompt.checks.is_empty());
    ensure!(
        !prompts.is_empty(),
        "{}: no prompt has an `instruction_id_list` whose instructions can all be checked, so no truth is known",
        path.display()
    );
    prompts.truncate(count.unwrap_or(usize::MAX));
    Ok(prompts)
}

/// Measures the model's verdicts on `answers` and fits a calibration to them.
///
/// # Errors
/// Fails if a model call fails, if the engine reads no labels, or if too few verdicts on right or on wrong responses can be read.
pub async fn calibrate(
    engine: &dyn Engine,
    templates: &Templates,
    prompts: &[Prompt],
    answers: &[Answer],
    options: &Options,
) -> Result<Report> {
    may_be_read(engine)?;
    let right = answers.iter().filter(|answer| answer.right).count();
    let enough = 2 * ENOUGH;
    ensure!(
        right >= enough && answers.len() - right >= enough,
        "{} of {} responses are right: at least {enough} right and {enough} wrong ones are needed; add --prompts, or raise \
         --count or --samples",
        right,
        answers.len()
    );
    let halves = Halves::new(prompts.len(), options.seed);
    let before = templates.text.calibration.unwrap_or_default();
    let scores = measure::scores(engine, templates, prompts, answers, options.parallel).await?;
    let (score, judged) = halves.kind("score", before.score, &scores);
    ensure!(
        score.fitted_on > 0,
        "too few verdicts can be read to calibrate by: {} of {}, and {} responses are too long; at least {ENOUGH} of right \
         and of wrong responses are needed in each half of the prompts",
        scores.cases.len(),
        answers.len(),
        scores.too_long
    );
    let some = chosen(answers, options);
    let critiques = measure::critiques(engine, templates, prompts, &some, options).await?;
    let (critique, _) = halves.kind("critique", before.critique, &critiques);
    let (low, high) = fit::band(&judged);
    Ok(Report {
        model: engine.info().name.clone(),
        prompts: prompts.len(),
        responses: answers.len(),
        right,
        calibration: Calibration { score: score.temperatures, critique: critique.temperatures, low, high },
        informative: fit::is_informative(&judged),
        kinds: vec![score, critique],
    })
}

/// Rejects an engine that cannot read labels.
fn may_be_read(engine: &dyn Engine) -> Result<()> {
    ensure!(
        engine.capabilities().labels == LabelSupport::Replies,
        "the engine of {} does not read the probabilities of given answers, so there is nothing to calibrate",
        engine.info().name
    );
    Ok(())
}

/// The responses for which critiques are written. They are chosen independently of their truth, so that its frequency is preserved.
fn chosen(answers: &[Answer], options: &Options) -> Vec<Answer> {
    let order = shuffled(answers.len(), !options.seed);
    order.into_iter().take(options.critiques).map(|index| answers[index].clone()).collect()
}

/// All positions, in an order that the seed determines.
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_key(|&index| derive_seed(seed, index as u64));
    order
}

/// The prompts on which temperatures are fitted. The results are reported for the others.
struct Halves {
    fitted: Vec<bool>,
}

impl Halves {
    fn new(prompts: usize, seed: u64) -> Self {
        let mut fitted = vec![false; prompts];
        shuffled(prompts, seed).into_iter().step_by(2).for_each(|index| fitted[index] = true);
        Self { fitted }
    }

    /// Fits temperatures on one half and measures them on the other, whose probabilities are returned as well. If a half has too few right
    /// or wrong responses, the temperatures are not changed.
    fn kind(&self, kind: &'static str, before: Temperatures, measured: &Measured) -> (Kind, Vec<Judged>) {
        let half = |wanted: bool| {
            let cases = measured.cases.iter().filter(|(prompt, _)| self.fitted[*prompt] == wanted);
            cases.map(|(_, case)| *case).collect::<Vec<Case>>()
        };
        let (fitted, held_out) = (half(true), half(false));
        let enough = [&fitted, &held_out].into_iter().all(|half| {
            let right = half.iter().filter(|case| case.right).count();
            right >= ENOUGH && half.len() - right >= ENOUGH
        });
        let temperatures = if enough { fit::temperatures(&fitted) } else { before };
        let judged = |temperatures: Temperatures| {
            let judge =
                |case: &Case| Judged { probability: temperatures.probability(case.yes, case.no), right: case.right };
            held_out.iter().map(judge).collect::<Vec<_>>()
        };
        let after = judged(temperatures);
        let count = (measured.cases.len() + measured.unreadable).max(1) as f64;
        let kind = Kind {
            kind,
            fitted_on: if enough { fitted.len() } else { 0 },
            temperatures,
            before: Quality::measure(&judged(Temperatures::default())),
            after: Quality::measure(&after),
            unreadable: measured.unreadable,
            too_long: measured.too_long,
            mass: measured.mass,
            generated_tokens: measured.generated as f64 / count,
            read_tokens: measured.read as f64 / count,
            milliseconds: measured.time.as_secs_f64() * 1e3 / count,
        };
        (kind, after)
    }
}

/// Writes the texts with the calibration, after checking that they are valid.
fn write(text: &TemplateText, calibration: Calibration, target: &Path) -> Result<()> {
    let text = TemplateText { calibration: Some(calibration), ..text.clone() };
    Templates::new(text.clone(), &target.display().to_string())?;
    write_json(target, &text)
}

#[cfg(test)]
mod tests;
