//! What a result must be: of the base's shape, of its tokenizer and template, of the exported kind, finite, and changed.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::Dtype;
use spar::weights::Weights;
use spar::weights::adapter::{Adapter, Linears};

use super::super::export::{Description, texts};
use crate::chats::Chats;
use crate::model::lora::Module;
use crate::model::shape;

/// A result and what it is checked against.
pub(super) struct Source<'a> {
    pub export: &'a Path,
    pub from: &'a Path,
    pub base: &'a Path,
    pub description: &'a Description,
    pub any_base_name: bool,
}

/// The files of a model directory that decide what it reads and writes.
const TEXTS: [&str; 3] = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];

impl Source<'_> {
    /// Checks that the base is the exported one, and that tokenizer and chat template of the result, where it has them, are those of the base.
    pub(super) fn texts(&self) -> Result<()> {
        let expected = &self.description.texts;
        ensure!(
            texts(&Chats::without_weights(self.base)?) == *expected,
            "{} has another tokenizer or chat template than the base that was exported: name that one with --base",
            self.base.display()
        );
        if !self.from.join("tokenizer.json").is_file() {
            return Ok(());
        }
        // The base's configuration with the result's tokenizer and template.
        let both = self.export.join(".texts");
        std::fs::create_dir_all(&both).with_context(|| format!("creating {}", both.display()))?;
        let copy = |from: &Path, name: &str| match from.join(name) {
            file if file.is_file() => {
                std::fs::copy(&file, both.join(name)).map(|_| ()).with_context(|| format!("reading {}", file.display()))
            }
            _ => Ok(()),
        };
        let found = ["config.json", "generation_config.json", "spar.json"]
            .iter()
            .try_for_each(|name| copy(self.base, name))
            .and_then(|()| TEXTS.iter().try_for_each(|name| copy(self.from, name)))
            .and_then(|()| Ok(texts(&Chats::without_weights(&both)?)));
        std::fs::remove_dir_all(&both).with_context(|| format!("removing {}", both.display()))?;
        ensure!(
            found.with_context(|| format!("the tokenizer in {}", self.from.display()))? == *expected,
            "{} has another tokenizer or chat template than its base: a model answers in the form that it has learned, so train with the \
             base's own files",
            self.from.display()
        );
        Ok(())
    }
}

/// The checked adapter.
pub(super) fn adapter(source: &Source<'_>) -> Result<Adapter> {
    let Source { from, base, description, any_base_name, .. } = *source;
    let lora = description.lora.as_ref().context("the export is of an adapter")?;
    ensure!(
        Adapter::is_in(from),
        "{} is a whole checkpoint, and the export is of a LoRA adapter: name the adapter's directory",
        from.display()
    );
    let dense = shape::load(base)?;
    let linears: Linears = (0..dense.layers)
        .flat_map(|layer| Module::ALL.map(|m| (format!("model.layers.{layer}.{}", m.path()), m.shape(&dense))))
        .collect();
    let (opened, _) = Adapter::open(from, &linears)?;
    if let Some(stated) = opened.config.base_model_name_or_path.as_deref().filter(|_| !any_base_name) {
        let last = |name: &str| name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        ensure!(
            stated.is_empty()
                || last(stated) == last(&description.base_name)
                || last(stated) == last(&base.to_string_lossy()),
            "the adapter in {} states the base {stated}, and the export has {}: it was trained on another model; --any-base-name accepts \
             it",
            from.display(),
            description.base_name
        );
    }
    let changed: Vec<String> = linears
        .keys()
        .filter(|name| lora.targets.iter().any(|module| name.ends_with(module.path())))
        .filter(|name| !opened.pairs.contains_key(*name))
        .cloned()
        .collect();
    ensure!(changed.is_empty(), "the adapter in {} lacks {}, which the recipe names", from.display(), changed[0]);
    for (name, pair) in &opened.pairs {
        ensure!(
            lora.targets.iter().any(|module| name.ends_with(module.path())),
            "the adapter in {} changes {name}, which the recipe does not name",
            from.display()
        );
        ensure!(
            pair.rank == lora.rank && (pair.scale - lora.scale()).abs() < 1e-6,
            "{name} in {} has rank {} and scale {}, the recipe says {} and {}",
            from.display(),
            pair.rank,
            pair.scale,
            lora.rank,
            lora.scale()
        );
    }
    ensure!(
        opened.pairs.values().any(|pair| pair.b.iter().any(|&x| x != 0.0)),
        "the adapter in {} changes nothing: every B is 0; it was saved before the training",
        from.display()
    );
    Ok(opened)
}

/// The weights of a checked checkpoint.
pub(super) struct Found {
    /// Number of tensors.
    pub tensors: usize,
    /// The type of their elements, as configurations name it.
    pub dtype: &'static str,
}

/// Checks a whole checkpoint.
pub(super) fn checkpoint(source: &Source<'_>) -> Result<Found> {
    let Source { from, base, .. } = *source;
    ensure!(
        !Adapter::is_in(from),
        "{} is an adapter, and the export is of all weights: name the checkpoint's directory",
        from.display()
    );
    let (found, expected) = (shape::load(from)?, shape::load(base)?);
    ensure!(
        found == expected,
        "{} has another shape than the base: it is of another model",
        from.join("config.json").display()
    );
    let (new, old) = (Weights::open(from)?, Weights::open(base)?);
    let head = "lm_head.weight";
    for name in old.names().filter(|name| !(expected.tied && *name == head)) {
        let Some(shape) = new.shape(name) else { bail!("{} lacks {name}: save the whole model", from.display()) };
        ensure!(
            Some(shape) == old.shape(name),
            "{name} in {} has the shape {shape:?}, the base has {:?}",
            from.display(),
            old.shape(name).unwrap_or_default()
        );
    }
    for name in new.names().filter(|name| old.shape(name).is_none()) {
        ensure!(
            expected.tied && name == head,
            "{} has {name}, which the base does not have: it is of another model",
            from.display()
        );
    }
    new.check_finite().with_context(|| format!("{} is damaged", from.display()))?;
    let mut same = true;
    for name in old.names().filter(|name| new.shape(name).is_some()) {
        same = same && new.read(name)? == old.read(name)?;
        if !same {
            break;
        }
    }
    ensure!(!same, "{} is the base itself: no weight has changed", from.display());
    let dtype = match new.dtype("model.embed_tokens.weight") {
        Some(Dtype::BF16) => "bfloat16",
        Some(Dtype::F16) => "float16",
        _ => "float32",
    };
    Ok(Found { tensors: new.names().count(), dtype })
}
