//! From paths in an order to weights that may be loaded: allowed, copied, whole, and fit to take the live ones' place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::order::{NamedAdapter, Order, Part, SwapError, Weights};
use super::{Swapper, blocking};
use crate::engine::generation::registry::{AdapterSource, Source};
use crate::engine::generation::{Generation, Pinned, Role};
use crate::engine::load;
use crate::engine::model_dir::{Identity, ModelDir};
use crate::weights::adapter::Adapter;
use crate::weights::roots::Roots;
use crate::weights::store::{Store, Stored};
use crate::weights::{LowRanks, ModelConfig, Weights as Tensors};

/// Checked weights, not loaded yet.
pub(super) struct Candidate {
    pub(super) source: Source,
    /// What is loaded.
    pub(super) load: Load,
    /// Numbers that loading brings into memory.
    pub(super) elements: usize,
}

/// How a candidate becomes an engine.
pub(super) enum Load {
    /// A directory, as at the start.
    Directory(PathBuf),
    /// An adapter on the weights that the live generation of this id has in memory.
    OnLive(String, LowRanks),
}

impl Swapper {
    /// Checks everything that an order names.
    pub(super) async fn candidate(&self, order: &Order, live: &Pinned) -> Result<Candidate, SwapError> {
        let bases = order.scope.roles().iter().map(|&role| {
            let id = &live.role(role).id;
            let source = self.registry().find(id).and_then(|record| record.source.clone());
            let none = || {
                SwapError::Refused(
                    "the live model does not come from a directory; start the server with --model".into(),
                )
            };
            source.ok_or_else(none).map(|source| Base {
                id: id.clone(),
                source,
                at_run_time: live.role(role).engine.native().is_some(),
            })
        });
        let bases: Vec<Base> = bases.collect::<Result<_, _>>()?;
        let (roots, store, weights) = (self.roots.clone(), self.store.clone(), order.weights.clone());
        let changes = order.changes.clone();
        let templates_matter = self.templates.is_none();
        blocking(move || {
            let check = Check { roots: &roots, store: &store, bases: &bases, changes: &changes, templates_matter };
            check.weights(weights)
        })
        .await
    }

    /// What a generation that was live once is loaded from.
    pub(super) async fn again(&self, source: Source, live: &Pinned) -> Result<Candidate, SwapError> {
        let store = self.store.clone();
        let on_live = Role::ALL.into_iter().map(|role| live.role(role)).find(|generation| {
            let registry = self.registry();
            let theirs = registry.find(&generation.id).and_then(|record| record.source.as_ref());
            let same = theirs.is_some_and(|theirs| theirs.model.digests.all() == source.model.digests.all());
            same && generation.engine.native().is_some()
        });
        let on_live = on_live.map(|generation| generation.id.clone());
        blocking(move || again(&store, source, on_live.as_ref())).await
    }

    /// Loads a candidate.
    pub(super) async fn build(
        &self,
        id: &str,
        candidate: Candidate,
        live: &Pinned,
    ) -> Result<Arc<Generation>, SwapError> {
        let (engine, templates) = match candidate.load {
            Load::Directory(path) => {
                let args = self.engine.clone();
                blocking(move || load::one(&args, &path).map_err(|error| SwapError::Refused(error.to_string()))).await?
            }
            Load::OnLive(on, modules) => {
                let generation = [&live.actor, &live.refiner].into_iter().find(|generation| generation.id == on);
                let gone = || SwapError::Refused(format!("{on} is not live any more; try again"));
                let generation = Arc::clone(generation.ok_or_else(gone)?);
                let native = generation.engine.native().ok_or_else(gone)?;
                (load::with_adapter(native, &modules)?, Arc::clone(&generation.templates))
            }
        };
        let templates = self.templates.clone().unwrap_or(templates);
        Ok(Arc::new(Generation { id: id.into(), engine, templates }))
    }
}

/// The live generation of a role.
struct Base {
    id: String,
    source: Source,
    /// Whether its engine takes adapters while it runs.
    at_run_time: bool,
}

struct Check<'a> {
    roots: &'a Roots,
    store: &'a Store,
    bases: &'a [Base],
    changes: &'a [Part],
    templates_matter: bool,
}

impl Check<'_> {
    fn weights(&self, weights: Weights) -> Result<Candidate, SwapError> {
        match weights {
            Weights::Model(path, adapter) => {
                let source = self.model(path)?;
                match adapter {
                    Some(adapter) => self.adapted(source, adapter, None),
                    None => whole(source),
                }
            }
            Weights::Adapter(adapter) => {
                let base = self.shared_base()?;
                let bare = Source { adapter: None, ..base.source.clone() };
                self.adapted(bare, adapter, base.at_run_time.then_some(&base.id))
            }
            Weights::Bare => {
                let base = self.shared_base()?;
                whole(Source { adapter: None, ..base.source.clone() })
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
        let model = self.store.import(&directory)?;
        let opened = ModelDir::open(&model.path).map_err(|error| named(&error, &model.path, &path))?;
        opened.weights.check_finite().map_err(|error| named(&error, &model.path, &path))?;
        let identity = opened.identity();
        for base in self.bases {
            self.same(&identity, &base.source.identity)?;
        }
        Ok(Source { model, model_path: path, identity, adapter: None })
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
    fn adapted(&self, base: Source, wanted: NamedAdapter, on_live: Option<&String>) -> Result<Candidate, SwapError> {
        let directory = self.allowed(&wanted.path)?;
        let stored = self.store.import(&directory)?;
        let adapter = open_adapter(&base.model, &stored).map_err(|error| {
            let SwapError::Refused(message) = error else { return error };
            SwapError::Refused(message.replace(&stored.path.display().to_string(), &wanted.path.display().to_string()))
        })?;
        let source = AdapterSource { stored, path: wanted.path, name: wanted.name };
        with_adapter(self.store, Source { adapter: Some(source), ..base }, adapter, on_live)
    }
}

/// A model as it is.
fn whole(source: Source) -> Result<Candidate, SwapError> {
    let elements = Tensors::open(&source.model.path)?.elements();
    Ok(Candidate { load: Load::Directory(source.model.path.clone()), elements, source })
}

/// Checks an adapter against the model that it is for.
fn open_adapter(model: &Stored, stored: &Stored) -> Result<Adapter, SwapError> {
    let config = ModelConfig::open(&model.path)?;
    let linears = match &config.dense {
        Some(dense) => dense.linears(config.vocabulary),
        None => Tensors::open(&model.path)?.linears(),
    };
    let (adapter, _) = Adapter::open(&stored.path, &linears)?;
    adapter.check_base(&stored.path, &model.digests.weights())?;
    Ok(adapter)
}

fn with_adapter(
    store: &Store,
    source: Source,
    adapter: Adapter,
    on_live: Option<&String>,
) -> Result<Candidate, SwapError> {
    if let Some(id) = on_live {
        let numbers = |pairs: &LowRanks| pairs.values().map(|pair| pair.a.len() + pair.b.len()).sum();
        let elements = numbers(&adapter.pairs);
        return Ok(Candidate { load: Load::OnLive(id.clone(), adapter.pairs), elements, source });
    }
    let sha256 = source.adapter.as_ref().map(|adapter| adapter.stored.digests.all()).unwrap_or_default();
    let merged = store.merged(&source.model, &adapter, &sha256)?;
    let tensors = Tensors::open(&merged.path)?;
    tensors.check_finite()?;
    let elements = tensors.elements();
    Ok(Candidate { load: Load::Directory(merged.path), elements, source })
}

fn again(store: &Store, source: Source, on_live: Option<&String>) -> Result<Candidate, SwapError> {
    let adapter = source.adapter.as_ref().map(|adapter| &adapter.stored);
    for stored in std::iter::once(&source.model).chain(adapter) {
        let found = crate::weights::Digests::of(&stored.path)?;
        if found.all() != stored.digests.all() {
            let message = format!("{} is not what it was when it was live; publish it again", stored.path.display());
            return Err(SwapError::Refused(message));
        }
    }
    match adapter {
        None => whole(source),
        Some(stored) => {
            let adapter = open_adapter(&source.model, stored)?;
            with_adapter(store, source, adapter, on_live)
        }
    }
}

/// An error about our copy, in terms of the directory that was named.
fn named(error: &crate::weights::ModelError, copy: &Path, original: &Path) -> SwapError {
    SwapError::Refused(error.to_string().replace(&copy.display().to_string(), &original.display().to_string()))
}
