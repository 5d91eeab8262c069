//! `import`: the result of an export comes back, is checked against the base and the export, and becomes a model directory.

mod check;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use spar::weights::adapter::Adapter;

use self::check::{Found, Source, adapter, checkpoint};
use super::export::{COPY, Description, IMPORTED};
use super::manifest::{Record, Stage};
use super::training::copy_companion_files;
use super::{merge, read_json, write_json};

/// What is imported.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  spar-train import --export runs/x/iter-1/actor.export --from runs/x/iter-1/actor.export/output
  spar-train import --export export --from /mnt/cluster/output --out models/actor-1
  spar-train import --export export --from output --base models/llama3-70b --any-base-name")]
pub struct Options {
    /// The directory that `export` wrote.
    #[arg(long)]
    pub export: PathBuf,
    /// The other program's result: a checkpoint's directory or a PEFT adapter's.
    #[arg(long)]
    pub from: PathBuf,
    /// The base's model directory; default: the one that was exported.
    #[arg(long)]
    pub base: Option<PathBuf>,
    /// The model directory to write; default: where `iterate` expects it, or `model` in the export.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Accepts an adapter that states a base of another name. Shapes are checked in any case.
    #[arg(long)]
    pub any_base_name: bool,
}

/// Checks a result and registers it as that of its export. A finished import is not repeated.
///
/// # Errors
/// Names what is wrong with the result, and where.
pub fn run(options: &Options) -> Result<Record> {
    let Options { export, from, any_base_name, .. } = options;
    let description = Description::read(export)?;
    let base = options.base.clone().unwrap_or_else(|| description.base.clone());
    ensure!(base.is_dir(), "there is no model directory {}: name the base with --base", base.display());
    ensure!(from.is_dir(), "--from: there is no directory {}", from.display());
    let out = match &options.out {
        Some(out) => out.clone(),
        None => place(export, &description.result)?,
    };
    ensure!(
        from.join("config.json").is_file() || Adapter::is_in(from),
        "{} holds neither config.json nor adapter_config.json; name the directory of whole weights (DeepSpeed's zero_to_fp32.py makes them of \
         a checkpoint in parts)",
        from.display()
    );
    of_this_export(from, &description)?;
    let source = Source { export, from, base: &base, description: &description, any_base_name: *any_base_name };
    source.texts()?;
    // A result that is refused leaves no record, so that another one can follow.
    let checked = match &description.lora {
        Some(_) => Checked::Adapter(Box::new(adapter(&source)?)),
        None => Checked::Weights(checkpoint(&source)?),
    };
    let settings = json!({ "export": description.id, "stage": description.stage });
    let inputs = [("base", base.as_path()), ("from", from.as_path())];
    let running = match Stage::begin(&export.join(IMPORTED), "import", &settings, &inputs)? {
        Stage::Finished(record) => return Ok(record),
        Stage::Running(running) => running,
    };
    std::fs::create_dir_all(&out).with_context(|| format!("creating {}", out.display()))?;
    let tensors = match checked {
        Checked::Adapter(opened) => {
            let kept = out.with_extension("adapter");
            opened.save(&kept)?;
            merge::merge(&base, &kept, &out)?;
            opened.pairs.len()
        }
        Checked::Weights(weights) => {
            copy_weights(from, &out)?;
            configure(&base, weights.dtype, &out)?;
            copy_companion_files(&base, &out)?;
            weights.tensors
        }
    };
    let counts = [
        ("items", description.items),
        ("steps", description.steps),
        ("tokens", description.tokens),
        ("tensors", tensors as u64),
    ];
    running.finish(&counts, Vec::new(), &[("model", &out)])
}

/// A result that was checked.
enum Checked {
    Adapter(Box<Adapter>),
    Weights(Found),
}

/// Writes the base's configuration with the element type of the new weights.
fn configure(base: &Path, dtype: &str, out: &Path) -> Result<()> {
    let mut config: serde_json::Map<String, serde_json::Value> = read_json(&base.join("config.json"))?;
    // transformers 5 has another name for it.
    let name = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    config.insert(name.into(), dtype.into());
    write_json(&out.join("config.json"), &config)?;
    let generation = base.join("generation_config.json");
    if generation.is_file() {
        std::fs::copy(&generation, out.join("generation_config.json"))
            .with_context(|| format!("copying {}", generation.display()))?;
    }
    Ok(())
}

/// The model directory that an export names, relative to it.
fn place(export: &Path, result: &str) -> Result<PathBuf> {
    let result = Path::new(result);
    match result.strip_prefix("..") {
        Err(_) => Ok(export.join(result)),
        Ok(name) => {
            let export = std::path::absolute(export).context("the directory of the export")?;
            Ok(export.parent().context("an export's directory is in another one")?.join(name))
        }
    }
}

/// Checks the copy of the description that the run script put next to the result, where there is one.
fn of_this_export(from: &Path, description: &Description) -> Result<()> {
    let path = from.join(COPY);
    if !path.is_file() {
        tracing::warn!("{} is missing, so the result may be of another export; its shapes are checked", path.display());
        return Ok(());
    }
    let of: Description = read_json(&path)?;
    ensure!(
        of.id == description.id,
        "{} is the result of another export ({}, expected {}): name the result of this one",
        from.display(),
        of.id,
        description.id
    );
    Ok(())
}

/// Copies the weights of a checkpoint: one file, or the parts and their index.
fn copy_weights(from: &Path, to: &Path) -> Result<()> {
    let mut copied = 0;
    for name in spar::weights::digest::files(from)? {
        let weights = name.starts_with("model") && !name.starts_with("model.safetensors.index");
        if (weights && name.ends_with(".safetensors")) || name == "model.safetensors.index.json" {
            std::fs::copy(from.join(&name), to.join(&name)).with_context(|| format!("copying {name}"))?;
            copied += 1;
        }
    }
    if copied == 0 {
        bail!("{} holds no model*.safetensors: save the checkpoint with safe_serialization", from.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
