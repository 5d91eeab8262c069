//! The models and adapters of a start: each model is loaded once, whatever is put on it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::adapted;
use super::choice::{Choice, Runs, choose};
use super::error::LoadError;
use super::open::{Model, chosen, may_run, must_be_built};
use super::origin::{Named, Origin};
use crate::config::EngineArgs;
use crate::engine::caches;
use crate::engine::generation::Generation;
use crate::engine::generation::registry::AdapterSource;
use crate::prompts::Templates;
use crate::weights::adapter::Adapter;
use crate::weights::store::{Store, Stored};
use crate::weights::{Digests, ModelConfig, ModelError, gguf};

/// Bytes of merged weights that are kept for later starts, where no directory for swaps is used.
const MERGED_BYTES: u64 = 64 << 30;

/// Loads what the roles name.
pub(super) struct Loader<'a> {
    args: &'a EngineArgs,
    /// What `--templates` names.
    templates: Option<Arc<Templates>>,
    /// The store for copied and merged weights.
    store: Option<&'a Store>,
    bases: Vec<Base>,
    temporary: Option<TempDir>,
}

/// A model that is in memory without an adapter.
struct Base {
    place: PathBuf,
    model: Model,
    choice: Choice,
}

impl<'a> Loader<'a> {
    pub(super) fn new(args: &'a EngineArgs, templates: Option<Arc<Templates>>, store: Option<&'a Store>) -> Self {
        Self { args, templates, store, bases: Vec::new(), temporary: None }
    }

    /// Loads what `named` says; `flag` is what names its adapter.
    pub(super) fn generation(
        &mut self,
        id: &str,
        named: &Named,
        flag: &'static str,
    ) -> Result<(Arc<Generation>, Origin), LoadError> {
        let ((engine, templates), choice, adapter) = match &named.adapter {
            None => {
                let Base { model, choice, .. } = self.base(&named.model)?;
                (model.clone(), choice.clone(), None)
            }
            Some(directory) => {
                let (model, choice, adapter) = self.adapted(&named.model, directory, flag)?;
                (model, choice, Some(adapter))
            }
        };
        let templates = self.templates.clone().unwrap_or(templates);
        let (model, engine_name) = (named.model.display().to_string(), choice.runs.name());
        let origin = Origin { model, adapter, engine: engine_name, why: choice.why };
        Ok((Arc::new(Generation::new(id, engine, templates)), origin))
    }

    /// What must live as long as what was loaded.
    pub(super) fn into_files(self) -> Option<TempDir> {
        self.temporary
    }

    fn base(&mut self, directory: &Path) -> Result<&Base, LoadError> {
        let place = place(directory);
        let known = self.bases.iter().position(|base| base.place == place);
        let index = match known {
            Some(index) => index,
            None => {
                let (model, choice) = chosen(self.args, directory)?;
                self.bases.push(Base { place, model, choice });
                self.bases.len() - 1
            }
        };
        Ok(&self.bases[index])
    }

    fn adapted(
        &mut self,
        model: &Path,
        directory: &Path,
        flag: &'static str,
    ) -> Result<(Model, Choice, AdapterSource), LoadError> {
        if !model.is_dir() && !gguf::is_named(model) {
            return Err(ModelError::NoDirectory(model.into()).into());
        }
        let config = ModelConfig::open(model)?;
        let choice = choose(self.args.engine, &config);
        must_be_built(&choice, model)?;
        may_run(choice.runs, model, &config)?;
        let wrong = |error| LoadError::Adapter(flag, error);
        let (adapter, source) = self.checked(model, &config, directory).map_err(wrong)?;
        let own = adapted::templates(&source.stored.path).map_err(wrong)?;
        let (engine, templates) = match choice.runs {
            Runs::Native => {
                let (engine, templates) = self.base(model)?.model.clone();
                let Some(base) = engine.base() else { unreachable!("the native engine was chosen") };
                (adapted::on(base, Some(&adapter.pairs)).map_err(wrong)?, templates)
            }
            Runs::Mistral => {
                let merged = self.merged(model, &adapter, &source).map_err(wrong)?;
                chosen(self.args, &merged)?.0
            }
        };
        Ok(((engine, own.unwrap_or(templates)), choice, source))
    }

    /// Reads an adapter. Where there is a store, what was read is what the store keeps.
    fn checked(
        &self,
        model: &Path,
        config: &ModelConfig,
        directory: &Path,
    ) -> Result<(Adapter, AdapterSource), ModelError> {
        let (adapter, read) = adapted::open(model, config, directory)?;
        if adapter.base_sha256.is_some() {
            adapter.check_base(directory, &Digests::of(model)?.weights())?;
        }
        let stored = match self.store {
            Some(store) => store.import(directory)?,
            None => Stored { path: directory.into(), digests: Digests::of(directory)? },
        };
        if read.0.iter().any(|(name, file)| stored.digests.0.get(name) != Some(file)) {
            let reason = "it changed while it was read; write a new directory and rename it when it is whole".into();
            return Err(ModelError::Broken { file: directory.into(), reason });
        }
        Ok((adapter, AdapterSource { stored, path: directory.into(), name: None }))
    }

    fn merged(&mut self, model: &Path, adapter: &Adapter, source: &AdapterSource) -> Result<PathBuf, ModelError> {
        let model = Stored { path: model.into(), digests: Digests::of(model)? };
        let sha256 = source.stored.digests.all();
        if let Some(store) = self.store {
            return adapted::merged(store, &model, adapter, &sha256);
        }
        let store = self.own_store()?;
        let merged = adapted::merged(&store, &model, adapter, &sha256)?;
        store.evict(std::slice::from_ref(&merged));
        Ok(merged)
    }

    /// A store in a cache, where the next start finds what was merged, or else in a temporary directory.
    fn own_store(&mut self) -> Result<Store, ModelError> {
        let open = |cache: &Path| Store::open(cache.join("merged"), MERGED_BYTES).map_err(std::io::Error::other);
        if let Ok(store) = caches::in_one(open) {
            return Ok(store);
        }
        let failed = |e: std::io::Error| ModelError::Broken { file: std::env::temp_dir(), reason: e.to_string() };
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => tempfile::tempdir().map_err(failed)?,
        };
        let store = Store::open(temporary.path(), MERGED_BYTES);
        self.temporary = Some(temporary);
        store
    }
}

/// The directory itself, however it is named.
fn place(directory: &Path) -> PathBuf {
    directory.canonicalize().unwrap_or_else(|_| directory.into())
}
