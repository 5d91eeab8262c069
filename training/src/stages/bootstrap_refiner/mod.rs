//! `bootstrap-refiner`: makes a refiner of any instruct model without a teacher. The model answers prompts whose rules decide what is right;
//! verdicts, critiques and refinements are written by program in the server's own forms; a LoRA adapter learns them, and is calibrated and
//! measured on held-out prompts.

pub mod data;
pub mod learn;
pub mod measure;
pub mod quality;
pub mod report;
pub mod responses;
pub mod settings;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use spar::engine::native::NativeEngine;
use spar::engine::{Engine, derive_seed};
use spar::eval::stats::{Estimate, estimate, paired};
use spar::prompts::{TemplateText, Templates};
use spar::verify::data::Prompt;
use spar::weights::adapter::Adapter;
use spar::weights::{Weights, gguf};

use self::measure::{Measuring, Refined, failing, subjects};
use self::quality::{Agreement, Readings, difference};
use self::report::{Calibrated, Refinements, Report, Row};
use self::responses::Answered;
pub use self::settings::{Options, Settings};
use super::calibrate::measure::Answer;
use super::manifest::Stage;
use super::{calibrate, engines, read_json, write_json};
use crate::chats::Chats;
use crate::lessons::cases::Case;
use crate::model::shape;
use crate::records::{Asked, read_prompts};
use crate::trainer::Processor;

/// The fewest prompts whose rules can be checked that a run accepts.
const LEAST_PROMPTS: usize = 8;

/// Runs all stages. Finished ones are not repeated.
///
/// # Errors
/// Fails within seconds if an input cannot be used, with a funnel if too few turns come out, and if a file or a model call fails.
pub async fn run(options: &Options) -> Result<Report> {
    let settings = Settings::new(options)?;
    let out = options.out.as_path();
    let asked = prompts(&settings)?;
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let base = base(&settings.model, out)?;
    ready(&settings, &base)?;
    let held_out = held_out(&settings, asked.len());

    tracing::info!(prompts = asked.len(), "step 1 of 5: the model's own responses");
    let file = out.join("responses.jsonl");
    let load = || engines::load(&base);
    let (sampled, lines) = responses::sample(&settings, load, (&base, &settings.prompts), &asked, &file).await?;

    tracing::info!("step 2 of 5: turns");
    let cases_of = |wanted: bool| {
        let of_part = |(i, _): &(usize, &Answered)| held_out[*i] == wanted;
        data::cases(&settings, lines.iter().enumerate().filter(of_part))
    };
    let (train, test) = (cases_of(false)?, cases_of(true)?);
    let turns = out.join("turns.jsonl");
    let (_, funnel) = data::write(&settings, &base, (&file, &sampled), &train, &turns)?;
    tracing::info!("turns by kind\n{}", data::show(&funnel));

    tracing::info!("step 3 of 5: training");
    let adapter = out.join("adapter");
    let training = learn::learn(&settings, &base, &turns, &adapter)?;

    tracing::info!("step 4 of 5: the base and the adapter on held-out prompts");
    let engine = engines::load(&base)?;
    let trained = adapted(&engine, &base, &adapter)?;
    let templates = &engine.dir().templates;
    let weights = adapter.join("adapter_model.safetensors");
    let with_base = [("responses", file.as_path()), ("model", base.as_path())];
    let with_adapter = [with_base[0], with_base[1], ("adapter", weights.as_path())];
    let of_base = Measuring { settings: &settings, engine: &engine, templates, inputs: &with_base, cases: &test };
    let of_trained = Measuring { engine: &trained, inputs: &with_adapter, ..of_base };
    let (subjects, drafts) = (subjects(&test, &settings.measure), failing(&test, settings.measure.refinements));
    let before = Readings::new(&test, &subjects, &of_base.judge(&subjects, &out.join("judged-base.jsonl")).await?);
    let after = Readings::new(&test, &subjects, &of_trained.judge(&subjects, &out.join("judged-adapter.jsonl")).await?);
    let refined = [
        of_base.refine(&drafts, &out.join("refined-base.jsonl")).await?,
        of_trained.refine(&drafts, &out.join("refined-adapter.jsonl")).await?,
    ];

    tracing::info!("step 5 of 5: calibration");
    let calibration = calibrated(&of_trained, &adapter, &out.join("calibration.json")).await?;
    let rows = rows(&before, &after);
    let report = Report {
        model: engine.info().name.clone(),
        prompts: [train.len(), test.len()],
        funnel,
        training,
        judges_better: rows[0].difference.is_some_and(|difference| difference.low > 0.0),
        judging: rows,
        unreadable: [before.unreadable, after.unreadable],
        refinements: refinements(&refined),
        calibration,
        serve: format!("spar --model {} --refiner-adapter {}", settings.model.display(), adapter.display()),
    };
    write_json(&out.join("report.json"), &report)?;
    Ok(report)
}

/// The prompts that can be used: those with rules.
fn prompts(settings: &Settings) -> Result<Vec<Asked>> {
    let mut asked = read_prompts(&settings.prompts, settings.bad_lines)?.items;
    let all = asked.len();
    asked.retain(|asked| !asked.instruction_id_list.is_empty());
    let path = settings.prompts.display();
    ensure!(
        asked.len() >= LEAST_PROMPTS,
        "{path}: {} of {all} prompts have an `instruction_id_list`, and at least {LEAST_PROMPTS} are needed: only rules say which responses \
         are right",
        asked.len()
    );
    asked.truncate(settings.max_prompts.unwrap_or(usize::MAX));
    if let Some(most) = settings.sample.max_total_tokens {
        let fit = most / settings.tokens_per_prompt();
        ensure!(
            fit >= LEAST_PROMPTS,
            "sample.max_total_tokens is {most}, but one prompt may take {} tokens and at least {LEAST_PROMPTS} prompts are needed: raise it, \
             or lower sample.max_tokens or sample.per_temperature",
            settings.tokens_per_prompt()
        );
        asked.truncate(fit);
    }
    ensure!(asked.len() >= LEAST_PROMPTS, "max_prompts must be at least {LEAST_PROMPTS}, got {}", asked.len());
    Ok(asked)
}

/// The model's directory. A GGUF file is unpacked into the run's directory first.
fn base(model: &Path, out: &Path) -> Result<PathBuf> {
    if !gguf::is_named(model) {
        return Ok(model.to_path_buf());
    }
    let (base, partial) = (out.join("base"), out.join(".base.partial"));
    if !base.exists() {
        if partial.exists() {
            std::fs::remove_dir_all(&partial).with_context(|| format!("removing {}", partial.display()))?;
        }
        gguf::Gguf::open(model)?.export(&partial)?;
        std::fs::rename(&partial, &base).with_context(|| format!("writing {}", base.display()))?;
    }
    Ok(base)
}

/// Finds out what would otherwise fail after hours.
fn ready(settings: &Settings, base: &Path) -> Result<()> {
    let chats = Chats::open(base)?;
    ensure!(
        chats.model.chats(),
        "{} has no chat template: a refiner is asked in turns, so name an instruct model, or put a template into chat_template.jinja",
        base.display()
    );
    let shape = shape::load(base)?;
    ensure!(
        shape.context > settings.sample.max_tokens,
        "sample.max_tokens is {}, but the model's context holds {} tokens",
        settings.sample.max_tokens,
        shape.context
    );
    let device = settings.training.train.device;
    ensure!(
        device == Processor::Cpu || cfg!(feature = "cuda"),
        "training.train.device is \"cuda\", but this build has no CUDA: build it with `--features cuda`, or leave the setting out"
    );
    Ok(())
}

/// Which prompts are held out. The seed determines them.
fn held_out(settings: &Settings, prompts: usize) -> Vec<bool> {
    let count = ((prompts as f64 * settings.held_out).ceil() as usize).clamp(1, prompts - 1);
    let seed = derive_seed(settings.seed, 4);
    let mut order: Vec<usize> = (0..prompts).collect();
    order.sort_by_key(|&index| derive_seed(seed, index as u64));
    let mut held_out = vec![false; prompts];
    order[..count].iter().for_each(|&index| held_out[index] = true);
    held_out
}

/// The adapter on the weights that `engine` has in memory.
fn adapted(engine: &NativeEngine, base: &Path, adapter: &Path) -> Result<NativeEngine> {
    let (opened, _) = Adapter::open(adapter, &Weights::open(base)?.linears())?;
    Ok(engine.with_adapter(&opened.pairs)?)
}

fn rows(before: &Readings, after: &Readings) -> Vec<Row> {
    let row = |what: &str, [base, trained]: [&[quality::Reading]; 2]| Row {
        what: what.into(),
        base: Agreement::new(base),
        trained: Agreement::new(trained),
        difference: difference(trained, base),
    };
    let mut rows = vec![
        row("whole prompts", [&before.whole(), &after.whole()]),
        row("  own responses", [&before.own, &after.own]),
        row("  near misses and repaired ones", [&before.edited, &after.edited]),
        row("single instructions", [&before.all_items(), &after.all_items()]),
    ];
    let items = before.items.iter().filter_map(|(id, base)| Some((id, base, after.items.get(id)?)));
    rows.extend(items.map(|(id, base, trained)| row(&format!("  {id}"), [base, trained])));
    rows
}

fn refinements([base, trained]: &[Vec<Refined>; 2]) -> Refinements {
    let scores = |lines: &[Refined]| lines.iter().map(|line| f64::from(u8::from(line.right))).collect::<Vec<_>>();
    let tokens =
        |lines: &[Refined]| lines.iter().map(|line| line.tokens as f64).sum::<f64>() / lines.len().max(1) as f64;
    let (before, after) = (scores(base), scores(trained));
    let difference: Estimate = paired(&after, &before);
    let tokens = [tokens(base), tokens(trained)];
    Refinements { base: estimate(&before), trained: estimate(&after), difference, tokens }
}

/// Calibrates the adapter's verdicts on the model's own responses to held-out prompts, and writes `spar.json` next to the adapter. Too few
/// right or wrong responses are no error: the adapter then has no calibration, and the report says why.
async fn calibrated(measuring: &Measuring<'_>, adapter: &Path, out: &Path) -> Result<Calibrated> {
    let Settings { seed, held_out, measure, ref prompts, ref model, .. } = *measuring.settings;
    let decides = (seed, held_out, settings::Measure { parallel: 0, ..measure });
    let running = match Stage::begin(&out.with_extension("stage.json"), "calibrate", &decides, measuring.inputs)? {
        Stage::Finished(_) => return read_json(out),
        Stage::Running(running) => running,
    };
    let options = calibrate::Options {
        model: model.clone(),
        prompts: prompts.clone(),
        responses: None,
        actor: None,
        out: None,
        force: true,
        count: None,
        samples: 0,
        max_tokens: measuring.settings.sample.max_tokens,
        critiques: measure.critiques,
        parallel: measure.parallel,
        seed,
        report: None,
    };
    let (asked, answers) = answers(measuring.cases, measure.own);
    let made = calibrate::calibrate(measuring.engine, measuring.templates, &asked, &answers, &options).await;
    let calibrated = match made {
        Err(error) => Calibrated { missing: Some(format!("{error:#}")), ..Calibrated::default() },
        Ok(made) => {
            let text = TemplateText { calibration: Some(made.calibration), ..measuring.templates.text.clone() };
            let target = adapter.join("spar.json");
            Templates::new(text.clone(), &target.display().to_string())?;
            write_json(&target, &text)?;
            made.write(&out.with_file_name("calibration"))?;
            let score = made.kinds.first().context("a calibration measures scores")?;
            Calibrated {
                missing: None,
                calibration: Some(made.calibration),
                informative: made.informative,
                n: score.after.n,
                error: [score.before.calibration_error, score.after.calibration_error],
                balanced_accuracy: [score.before.balanced_accuracy, score.after.balanced_accuracy],
            }
        }
    };
    write_json(out, &calibrated)?;
    running.finish(&[("responses", answers.len() as u64)], Vec::new(), &[("calibration", out)])?;
    Ok(calibrated)
}

/// The model's own responses to the held-out prompts, as the calibration takes them.
fn answers(cases: &[Case], most: usize) -> (Vec<Prompt>, Vec<Answer>) {
    let asked = |case: &Case| Prompt {
        key: serde_json::Value::Null,
        prompt: case.prompt.clone(),
        checks: case.checks.clone(),
        unchecked: Vec::new(),
    };
    let answers = cases.iter().enumerate().flat_map(|(prompt, case)| {
        let own = case.responses.iter().filter(|response| response.is_own()).take(most);
        own.map(move |response| Answer { prompt, response: response.text.clone(), right: response.right() })
    });
    (cases.iter().map(asked).collect(), answers.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(folder: &Path, lines: &[&str]) -> Settings {
        let prompts = folder.join("prompts.jsonl");
        std::fs::write(&prompts, lines.join("\n")).unwrap();
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/spar-tiny/refiner");
        Settings { model, prompts, ..Settings::default() }
    }

    const RULED: &str =
        r#"{"key": 1, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}"#;

    #[test]
    fn unusable_prompts_and_budgets_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let plain = r#"{"prompt": "Say hello."}"#;
        let few = settings(folder.path(), &[RULED, plain]);
        let message = prompts(&few).unwrap_err().to_string();
        assert!(message.contains("1 of 2 prompts have an `instruction_id_list`"), "{message}");
        let mut enough = settings(folder.path(), &[RULED; 12]);
        assert_eq!(prompts(&enough).unwrap().len(), 12);
        enough.sample.max_total_tokens = Some(10 * enough.tokens_per_prompt());
        assert_eq!(prompts(&enough).unwrap().len(), 10);
        enough.sample.max_total_tokens = Some(100);
        assert!(prompts(&enough).unwrap_err().to_string().contains("sample.max_total_tokens is 100"));
        let one = Settings { max_prompts: Some(1), ..settings(folder.path(), &[RULED; 12]) };
        assert!(prompts(&one).unwrap_err().to_string().contains("max_prompts must be at least 8"));
    }

    #[test]
    fn what_would_fail_after_hours_fails_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(folder.path(), &[RULED]);
        let base = settings.model.clone();
        ready(&settings, &base).unwrap();
        settings.sample.max_tokens = 1_000_000;
        assert!(ready(&settings, &base).unwrap_err().to_string().contains("sample.max_tokens is 1000000"));
        settings.sample.max_tokens = 64;
        settings.training.train.device = Processor::Cuda;
        if cfg!(not(feature = "cuda")) {
            assert!(ready(&settings, &base).unwrap_err().to_string().contains("no CUDA"));
        }
        assert!(ready(&settings, folder.path()).is_err());
    }

    #[test]
    fn held_out_prompts_are_a_share_that_the_seed_decides() {
        let settings = Settings { held_out: 0.3, ..Settings::default() };
        let first = held_out(&settings, 20);
        assert_eq!(first.iter().filter(|held| **held).count(), 6);
        assert_eq!(first, held_out(&settings, 20));
        assert_ne!(first, held_out(&Settings { seed: 1, ..settings }, 20));
    }
}
