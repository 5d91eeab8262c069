//! Paths in an order become weights that may be loaded: allowed, copied, whole, and fit to replace the live ones.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::memory::Needed;
use super::order::{NamedAdapter, Order, Part, SwapError, Weights};
use super::swapper::{Swapper, blocking};
use super::turns::Limit;
use crate::config::EngineKind;
use crate::engine::generation::registry::{AdapterSource, Source};
use crate::engine::generation::{Generation, Pinned};
use crate::engine::load::{self, LoadError, Runs};
use crate::engine::model_dir::{Identity, ModelDir};
use crate::weights::adapter::Adapter;
use crate::weights::headers;
use crate::weights::roots::Roots;
use crate::weights::store::{Import, Store, Stored};
use crate::weights::{LowRanks, ModelConfig, ModelError, Weights as Tensors};

/// Checked weights, not loaded yet.
pub(super) struct Candidate {
    pub(super) source: Source,
    /// What is loaded.
    pub(super) load: Load,
    /// What loading brings into memory.
    pub(super) needed: Needed,
}

/// How a candidate becomes an engine.
pub(super) enum Load {
    /// A directory, as at the start, and an adapter where its engine takes one while it runs.
    Directory(PathBuf, Option<LowRanks>),
    /// The weights that a generation has in memory, with an adapter or without any.
    OnLive(Arc<Generation>, Option<LowRanks>),
}

impl Swapper {
    /// Checks everything that an order names.
    pub(super) async fn candidate(&self, order: &Order, live: &Pinned, limit: &Limit) -> Result<Candidate, SwapError> {
        let bases = order.scope.roles().iter().map(|&role| {
            let id = &live.role(role).id;
            let source = self.registry().find(id).and_then(|record| record.source.clone());
            let none = || {
                SwapError::Refused(
                    "the live model does not come from a directory; start the server with --model".into(),
                )
            };
            source.ok_or_else(none).map(|source| Base { generation: Arc::clone(live.role(role)), source })
        });
        let bases: Vec<Base> = bases.collect::<Result<_, _>>()?;
        let (roots, store, weights) = (self.roots.clone(), self.store.until(limit.stop.clone()), order.weights.clone());
        let keep = self.registry().directories();
        let (changes, engine) = (order.changes.clone(), self.engine.engine);
        let templates_matter = self.templates.is_none();
        blocking(move || {
            let adapting = Adapting { store: &store, engine };
            Check { roots: &roots, adapting, bases: &bases, changes: &changes, templates_matter, keep: &keep }
                .weights(weights)
        })
        .await
    }

    /// Rebuilds a candidate for an earlier generation; reuses the base weights if a known generation still has them.
    pub(super) async fn again(&self, source: Source, known: &[&Pinned]) -> Result<Candidate, SwapError> {
        let (store, engine) = (self.store.clone(), self.engine.engine);
        let mut generations = known.iter().flat_map(|pair| [&pair.actor, &pair.refiner]);
        let on_live = generations.find(|generation| {
            let registry = self.registry();
            let theirs = registry.find(&generation.id).and_then(|record| record.source.as_ref());
            let same = theirs.is_some_and(|theirs| theirs.model.digests.all() == source.model.digests.all());
            same && generation.engine.base().is_some()
        });
        let on_live = on_live.cloned();
        blocking(move || again(Adapting { store: &store, engine }, source, on_live)).await
    }

    /// Loads a candidate.
    pub(super) async fn build(&self, id: &str, candidate: Candidate) -> Result<Arc<Generation>, SwapError> {
        let adapter = candidate.source.adapter.as_ref();
        let own = adapter.map(|adapter| load::adapter_templates(&adapter.stored.path)).transpose()?.flatten();
        let (engine, templates) = match candidate.load {
            Load::Directory(path, modules) => {
                let args = self.engine.clone();
                // Engines name the directory that they load: our copy, or what was merged from it.
                let (copy, original) = (path.clone(), candidate.source.model_path.clone());
                let refused = move |error: LoadError| named(&error, &copy, &original);
                blocking(move || {
                    let (engine, templates) = load::one(&args, &path).map_err(refused)?;
                    match (engine.base(), modules) {
                        (Some(base), Some(modules)) => Ok((load::on(base, Some(&modules))?, templates)),
                        _ => Ok((engine, templates)),
                    }
                })
                .await?
            }
            Load::OnLive(generation, modules) => {
                let gone = || SwapError::Refused(format!("{} takes no adapters while it runs", generation.id));
                let base = generation.engine.base().ok_or_else(gone)?;
                let dir = generation.engine.info().dir.as_ref().ok_or_else(gone)?;
                // Those of the live generation may be its adapter's.
                (load::on(base, modules.as_ref())?, Arc::clone(&dir.templates))
            }
        };
        let templates = self.templates.clone().or(own).unwrap_or(templates);
        Ok(Arc::new(Generation::new(id, engine, templates)))
    }
}

/// The live generation of a role.
struct Base {
    generation: Arc<Generation>,
    source: Source,
}

impl Base {
    /// The generation, where its engine takes adapters while it runs.
    fn at_run_time(&self) -> Option<Arc<Generation>> {
        self.generation.engine.base().map(|_| Arc::clone(&self.generation))
    }
}

struct Check<'a> {
    roots: &'a Roots,
    adapting: Adapting<'a>,
    bases: &'a [Base],
    changes: &'a [Part],
    templates_matter: bool,
    /// Directories of the store that are in use.
    keep: &'a [PathBuf],
}

impl Check<'_> {
    fn weights(&self, weights: Weights) -> Result<Candidate, SwapError> {
        match weights {
            Weights::Model(path, adapter) => {
                let source = self.model(path)?;
                match adapter {
                    Some(adapter) => self.adapted(source, adapter, None),
                    None => whole(source, None),
                }
            }
            Weights::Adapter(adapter) => {
                let base = self.shared_base()?;
                let bare = Source { adapter: None, ..base.source.clone() };
                self.adapted(bare, adapter, base.at_run_time())
            }
            Weights::Bare => {
                let base = self.shared_base()?;
                whole(Source { adapter: None, ..base.source.clone() }, base.at_run_time())
            }
        }
    }

    fn allowed(&self, path: &Path) -> Result<PathBuf, SwapError> {
        self.roots.resolve(path).map_err(|error| SwapError::Refused(error.to_string()))
    }

    /// The one model that all roles in question have.
    fn shared_base(&self) -> Result<&Base, SwapError> {
        let differ = || {
            let message = "actor and refiner are different models, and an adapter fits one of them; name one role, or a `model_path`";
            SwapError::Refused(message.into())
        };
        let (first, others) = self.bases.split_first().ok_or_else(differ)?;
        let same = |other: &Base| other.source.model.digests.all() == first.source.model.digests.all();
        if others.iter().all(same) { Ok(first) } else { Err(differ()) }
    }

    fn model(&self, path: PathBuf) -> Result<Source, SwapError> {
        let directory = self.allowed(&path)?;
        if Adapter::is_in(&directory) {
            let message = format!("{} is an adapter, not a model; send it as `adapter_path`", path.display());
            return Err(SwapError::Refused(message));
        }
        headers::check(&directory)?;
        let model = self.import(&directory)?;
        let opened = ModelDir::open(&model.path).map_err(|error| named(&error, &model.path, &path))?;
        opened.weights.check_finite().map_err(|error| named(&error, &model.path, &path))?;
        let identity = opened.identity();
        for base in self.bases {
            self.same(&identity, &base.source.identity)?;
        }
        Ok(Source { model, model_path: path, identity, adapter: None })
    }

    fn import(&self, directory: &Path) -> Result<Stored, ModelError> {
        let may_read = |file: &File| self.roots.check(file);
        self.adapting.store.import_as(directory, Import { may_read: &may_read, keep: Some(self.keep) })
    }

    fn same(&self, new: &Identity, live: &Identity) -> Result<(), SwapError> {
        let parts = [
            (Part::Tokenizer, "tokenizer", new.tokenizer == live.tokenizer),
            (Part::ChatTemplate, "chat_template", new.chat_template == live.chat_template),
            (Part::Templates, "templates", new.templates == live.templates || !self.templates_matter),
        ];
        match parts.into_iter().find(|(part, _, same)| !same && !self.changes.contains(part)) {
            Some((_, name, _)) => Err(SwapError::Refused(format!(
                "its {} is not the live model's; if that is meant, declare it with `changes: [\"{name}\"]`",
                name.replace('_', " ")
            ))),
            None => Ok(()),
        }
    }

    /// `base`, which has no adapter, with one.
    fn adapted(
        &self,
        base: Source,
        wanted: NamedAdapter,
        on_live: Option<Arc<Generation>>,
    ) -> Result<Candidate, SwapError> {
        let directory = self.allowed(&wanted.path)?;
        // Whether it fits its base is known before anything of it is copied; what is used is what was copied.
        load::open_adapter(&base.model.path, &ModelConfig::open(&base.model.path)?, &directory)?;
        let stored = self.import(&directory)?;
        let adapter =
            self.adapting.open(&base.model, &stored).map_err(|error| named(&error, &stored.path, &wanted.path))?;
        let source = AdapterSource { stored, path: wanted.path, name: wanted.name };
        self.adapting.put(adapter, Source { adapter: Some(source), ..base }, on_live)
    }
}

/// A model as it is, or as it is in memory already.
fn whole(source: Source, on_live: Option<Arc<Generation>>) -> Result<Candidate, SwapError> {
    if let Some(generation) = on_live {
        return Ok(Candidate { load: Load::OnLive(generation, None), needed: Needed::default(), source });
    }
    let needed = Needed::of(&Tensors::open(&source.model.path)?);
    Ok(Candidate { load: Load::Directory(source.model.path.clone(), None), needed, source })
}

/// What puts adapters on models.
#[derive(Clone, Copy)]
struct Adapting<'a> {
    store: &'a Store,
    engine: EngineKind,
}

impl Adapting<'_> {
    /// Reads an adapter and checks it against the model that it is for.
    fn open(self, model: &Stored, stored: &Stored) -> Result<Adapter, ModelError> {
        let (adapter, _) = load::open_adapter(&model.path, &ModelConfig::open(&model.path)?, &stored.path)?;
        adapter.check_base(&stored.path, &model.digests.weights())?;
        Ok(adapter)
    }

    /// Puts the adapter on the weights in memory, or on those that the engine will load, where it takes adapters while it
    /// runs; else merges it. So no native engine has merged weights, on which another adapter would come on top.
    fn put(self, adapter: Adapter, source: Source, on_live: Option<Arc<Generation>>) -> Result<Candidate, SwapError> {
        let numbers: usize = adapter.pairs.values().map(|pair| pair.a.len() + pair.b.len()).sum();
        if let Some(generation) = on_live {
            let needed = Needed::default().with(numbers);
            return Ok(Candidate { load: Load::OnLive(generation, Some(adapter.pairs)), needed, source });
        }
        let model = &source.model;
        let needed = Needed::of(&Tensors::open(&model.path)?).with(numbers);
        let load = match load::choose(self.engine, &ModelConfig::open(&model.path)?).runs {
            Runs::Native => Load::Directory(model.path.clone(), Some(adapter.pairs)),
            Runs::Mistral => {
                let sha256 = source.adapter.as_ref().map(|adapter| adapter.stored.digests.all()).unwrap_or_default();
                Load::Directory(load::merged(self.store, model, &adapter, &sha256)?, None)
            }
        };
        Ok(Candidate { load, needed, source })
    }
}

fn again(adapting: Adapting<'_>, source: Source, on_live: Option<Arc<Generation>>) -> Result<Candidate, SwapError> {
    let adapter = source.adapter.as_ref().map(|adapter| &adapter.stored);
    for stored in std::iter::once(&source.model).chain(adapter) {
        let found = crate::weights::Digests::of(&stored.path)?;
        if found.all() != stored.digests.all() {
            let message = format!("{} is not what it was when it was live; publish it again", stored.path.display());
            return Err(SwapError::Refused(message));
        }
    }
    match adapter {
        None => whole(source, on_live),
        Some(stored) => adapting.put(adapting.open(&source.model, stored)?, source, on_live),
    }
}

/// An error about our copy, in terms of the directory that was named.
fn named(error: &impl std::fmt::Display, copy: &Path, original: &Path) -> SwapError {
    SwapError::Refused(error.to_string().replace(&copy.display().to_string(), &original.display().to_string()))
}
