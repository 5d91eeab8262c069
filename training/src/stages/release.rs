//! Makes the release of a finished run: both models in half precision, the held-out prompts, and a manifest with the scores.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use spar::search::Models;
use spar::verify::data::read_prompts;

use super::engines::load;
use super::eval::{self, Options, Report};
use super::manifest::digest;
use super::{prompts, read_json, write_json};
use crate::recipe::Bootstrap;
use crate::trainer::TrainReport;
use crate::world::Split;

/// Files of a model directory.
const MODEL: [&str; 6] = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "spar.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

/// The search budgets in the manifest.
const BUDGETS: [usize; 4] = [1, 4, 8, 16];

/// All data that is needed to repeat a run and to check its release.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The model's name.
    pub name: String,
    /// The version of the trainer.
    pub version: String,
    /// The recipe, seed included.
    pub recipe: Bootstrap,
    /// The report of each training stage.
    pub training: BTreeMap<String, TrainReport>,
    /// Time spent training, all stages together.
    pub training_seconds: f64,
    /// Number of lines of each data file between the stages.
    pub data: BTreeMap<String, usize>,
    /// SHA-256 by file.
    pub sha256: BTreeMap<String, String>,
    /// Scores on the held-out prompts with the released files.
    pub scores: Report,
}

/// Writes `release/` in `out`, with `actor/`, `refiner/`, `held-out.jsonl` and `manifest.json`. An existing release is kept.
///
/// # Errors
/// Fails if a file cannot be read or written, or if a model call fails.
pub async fn release(recipe: &Bootstrap, out: &Path) -> Result<()> {
    let target = out.join("release");
    let path = target.join("manifest.json");
    if path.exists() {
        return Ok(());
    }
    let mut files = Vec::new();
    for role in ["actor", "refiner"] {
        std::fs::create_dir_all(target.join(role)).with_context(|| format!("creating {}", target.display()))?;
        for name in MODEL {
            let file = PathBuf::from(role).join(name);
            std::fs::copy(out.join(&file), target.join(&file))
                .with_context(|| format!("copying {}", file.display()))?;
            files.push(file);
        }
    }
    let prompts = PathBuf::from("held-out.jsonl");
    let order = prompts::Order {
        generator: prompts::Generator::World,
        split: Split::HeldOut,
        seed: recipe.seed,
        skip: 0,
        count: usize::try_from(recipe.evaluation.prompts)?,
    };
    prompts::write_prompts(&order, &[], &target.join(&prompts))?;
    let held_out = read_prompts(&target.join(&prompts))?.items;
    files.push(prompts);
    let (actor, refiner) = (load(&target.join("actor"))?, load(&target.join("refiner"))?);
    let models = Models { actor: &actor, refiner: &refiner, templates: &refiner.dir().templates };
    let options = Options { budgets: BUDGETS.to_vec(), seed: recipe.seed, parallel: 64 };
    let scores = eval::evaluate(models, &held_out, &options).await.context("evaluating")?;
    println!("{scores}");
    let mut training = BTreeMap::new();
    for stage in ["actor", "refiner-first", "refiner"] {
        let report: TrainReport = read_json(&out.join(stage).join("report.json"))?;
        training.insert(stage.to_owned(), report);
    }
    let manifest = Manifest {
        name: recipe.name.clone(),
        version: env!("CARGO_PKG_VERSION").into(),
        recipe: recipe.clone(),
        training_seconds: training.values().map(|r| r.seconds).sum(),
        training,
        data: ["samples.jsonl", "refined.jsonl"]
            .into_iter()
            .map(|name| Ok((name.to_owned(), lines(&out.join(name))?)))
            .collect::<Result<_>>()?,
        sha256: files
            .iter()
            .map(|file| Ok((file.display().to_string(), digest(&target.join(file))?)))
            .collect::<Result<_>>()?,
        scores,
    };
    write_json(&path, &manifest)
}

fn lines(path: &Path) -> Result<usize> {
    Ok(std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?.lines().count())
}
