//! `export`: a training of a recipe as files for another program: data, configuration, a script that runs it, and what it needs.
//!
//! What the other program cannot express is refused by name, and what it does in another way is listed in the export's README.md.

mod axolotl;
mod data;
mod deepspeed;
mod job;
mod llama_factory;
mod notes;
mod options;
mod readme;
mod trl;
mod yaml;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use spar::weights::digest::hex;

use self::job::Job;
pub(super) use self::job::texts;
pub use self::options::{Options, run};
use super::manifest::{Record, Stage, digest};
use super::trainings::Training;
use super::{read_json, write_json};
use crate::adapter;
use crate::checkpoint::replace;
use crate::cluster::Needs;
use crate::model::LoraConfig;
use crate::recipe::external::{External, Framework};

/// The description of an export, which its result is checked against.
pub const DESCRIPTION: &str = "export.json";
/// The copy of the description that a run script puts next to the result.
pub const COPY: &str = "spar-export.json";
/// The record of an imported result.
pub const IMPORTED: &str = "import.stage.json";

/// What an export is made of.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The training to export.
    pub training: &'a Training,
    /// The program that trains, and its machines.
    pub external: &'a External,
    /// The name or path by which that program finds the base; the base's directory without it.
    pub base_name: Option<&'a str>,
    /// Directory of the export.
    pub out: &'a Path,
    /// The model directory that an import writes, relative to the export.
    pub result: &'a str,
}

/// The contents of `export.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// SHA-256 of all other fields that decide the result.
    pub id: String,
    /// The version of this program.
    pub version: String,
    /// The program that trains.
    #[serde(rename = "for")]
    pub framework: Framework,
    /// `dpo` or `sft`.
    pub stage: String,
    /// The directory of the base on the machine of the export.
    pub base: PathBuf,
    /// The base by the name that the other program is given.
    pub base_name: String,
    /// The model directory that an import writes, relative to the export.
    pub result: String,
    /// The adapter that is trained; all weights without it.
    pub lora: Option<LoraConfig>,
    /// Everything else that decides the result, under the recipe's names.
    pub settings: Value,
    /// SHA-256 of the data.
    pub data: String,
    /// SHA-256 of what the base reads and writes: tokenizer and chat template.
    pub texts: String,
    /// Pairs or turns of one pass.
    pub items: u64,
    /// Number of updates.
    pub steps: u64,
    /// Tokens of all passes.
    pub tokens: u64,
}

impl Description {
    /// Reads the description of an export.
    ///
    /// # Errors
    /// Fails if the directory holds none.
    pub fn read(export: &Path) -> Result<Self> {
        let path = export.join(DESCRIPTION);
        ensure!(path.is_file(), "{} holds no {DESCRIPTION}: name a directory that `export` wrote", export.display());
        read_json(&path)
    }

    fn digest(&self) -> Result<String> {
        let moved = Self { id: String::new(), base: PathBuf::new(), base_name: String::new(), ..self.clone() };
        Ok(hex(&Sha256::digest(serde_json::to_vec(&moved)?)))
    }
}

/// Writes an export. A finished one is not written again.
///
/// # Errors
/// Fails if the training or its data cannot be used, and names what the other program cannot express.
pub fn export(request: Request<'_>) -> Result<Record> {
    let Request { training, external, out, .. } = request;
    external.check("external")?;
    notes::refuse(external.framework, training)?;
    training.check()?;
    let settings = (external, request.base_name, training.settings()?);
    let base = training.base();
    // Weights decide nothing in an export, and they may be on another machine.
    let files = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
    let present: Vec<PathBuf> = files.iter().map(|name| base.join(name)).filter(|path| path.is_file()).collect();
    let named = present.iter().map(|path| (path.file_name().and_then(|name| name.to_str()).unwrap_or("base"), &**path));
    let inputs: Vec<(&str, &Path)> = named.chain([("data", training.data())]).collect();
    let running = match Stage::begin(&out.join("export.stage.json"), "export", &settings, &inputs)? {
        Stage::Finished(record) => return Ok(record),
        Stage::Running(running) => running,
    };
    let job = Job::new(training, external)?;
    let needs = job.needs(external.cluster);
    write(&request, &job, &needs)?;
    let outputs = outputs(out)?;
    let outputs: Vec<(&str, &Path)> = outputs.iter().map(|path| (name(path), path.as_path())).collect();
    let counts = [("items", job.items as u64), ("steps", job.steps), ("tokens", job.tokens)];
    if !needs.fits {
        tracing::warn!("{needs}: the training has no room; name other cards or more nodes");
    }
    running.finish(&counts, job.skipped.clone(), &outputs)
}

fn write(request: &Request<'_>, job: &Job<'_>, needs: &Needs) -> Result<()> {
    let Request { training, external, out, .. } = *request;
    let base = std::path::absolute(training.base()).unwrap_or_else(|_| training.base().into());
    let base_name = request.base_name.map_or_else(|| base.to_string_lossy().into_owned(), Into::into);
    let data = out.join("data.jsonl");
    job.write_data(&data, external.framework)?;
    let mut description = Description {
        id: String::new(),
        version: env!("CARGO_PKG_VERSION").into(),
        framework: external.framework,
        stage: training.stage().into(),
        base,
        base_name,
        result: request.result.into(),
        lora: training.train().lora.clone(),
        settings: training.settings()?,
        data: digest(&data)?,
        texts: job.texts(),
        items: job.items as u64,
        steps: job.steps,
        tokens: job.tokens,
    };
    description.id = description.digest()?;
    if external.initial_adapter
        && let Some(lora) = &training.train().lora
    {
        let start = match &lora.from {
            Some(from) => adapter::load(from, lora, &job.dense)?,
            None => lora.fresh(&job.dense, training.train().seed),
        };
        adapter::save(&out.join("initial-adapter"), lora, &start, Some(&description.base_name))?;
    }
    let plan = Plan { job, external, needs, description: &description };
    if external.cluster.cards > 0 {
        write_json(&out.join("deepspeed.json"), &deepspeed::zero3(needs.optimizer))?;
    }
    let files = match external.framework {
        Framework::Trl => trl::files(&plan)?,
        Framework::LlamaFactory => llama_factory::files(&plan)?,
        Framework::Axolotl => axolotl::files(&plan)?,
    };
    for (name, text) in files.into_iter().chain([("README.md", readme::text(&plan))]) {
        let path = out.join(name);
        replace(&path, |to| std::fs::write(to, &text).with_context(|| format!("writing {}", path.display())))?;
    }
    executable(&out.join("run.sh"))?;
    write_json(&out.join(DESCRIPTION), &description)
}

/// Everything that the files of an export say.
struct Plan<'a> {
    job: &'a Job<'a>,
    external: &'a External,
    needs: &'a Needs,
    description: &'a Description,
}

/// The files that an export consists of, apart from its record.
fn outputs(out: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(out).with_context(|| format!("reading {}", out.display()))? {
        let path = entry?.path();
        if path.is_file() && !name(&path).ends_with(".stage.json") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

#[cfg(unix)]
fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let permissions = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, permissions).with_context(|| format!("making {} executable", path.display()))
}

#[cfg(not(unix))]
fn executable(_: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests;
