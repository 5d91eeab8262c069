//! What was published last, in a small file: a restart serves it again, if it is still what it was.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::LoraModule;
use crate::engine::generation::registry::{AdapterSource, Ids, Record, Registry, Source};
use crate::engine::load::Named;
use crate::engine::model_dir::ModelDir;
use crate::weights::store::Stored;
use crate::weights::{Digests, ModelError, digest, files};

const VERSION: u32 = 1;

/// Where it is written down.
pub struct StateFile {
    path: PathBuf,
    /// What the server was started with: other directories mean that the operator wants other weights.
    configured: [Named; 2],
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    version: u32,
    /// Ids are never given twice.
    pub next: u64,
    configured: [PathBuf; 2],
    /// Absent in files of servers that took no adapters at the start.
    #[serde(default)]
    configured_adapters: [Option<PathBuf>; 2],
    actor: Kept,
    refiner: Kept,
    /// Adapters with names of their own that were loaded while the server ran. Absent in files of servers that remembered none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    adapters: Vec<NamedDirectory>,
}

/// An adapter's directory, and the name that requests have for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct NamedDirectory {
    name: String,
    directory: Directory,
}

/// A generation to load again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kept {
    id: String,
    model: Directory,
    adapter: Option<Directory>,
    adapter_name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Directory {
    /// The directory as it was named.
    named: PathBuf,
    /// Where it is kept.
    path: PathBuf,
    sha256: String,
}

impl StateFile {
    /// The file at `path` of a server that was started with the directories `configured`.
    pub fn new(path: PathBuf, configured: [Named; 2]) -> Self {
        Self { path, configured }
    }

    /// The directories that the file names.
    fn configured(&self) -> ([PathBuf; 2], [Option<PathBuf>; 2]) {
        (self.configured.clone().map(|named| named.model), self.configured.clone().map(|named| named.adapter))
    }

    /// Writes down what is live, with the adapters that were loaded next to it by name. A generation without a directory cannot be
    /// loaded again, so nothing is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(
        &self,
        registry: &Registry,
        live: &Ids,
        adapters: &[(String, AdapterSource)],
    ) -> std::io::Result<()> {
        let kept = |id: &str| registry.find(id).and_then(Kept::of);
        let (Some(actor), Some(refiner)) = (kept(&live.actor), kept(&live.refiner)) else { return Ok(()) };
        let (configured, configured_adapters) = self.configured();
        let next = registry.next();
        let named = |(name, source): &(String, AdapterSource)| NamedDirectory {
            name: name.clone(),
            directory: Directory::of(&source.path, &source.stored),
        };
        let adapters = adapters.iter().map(named).collect();
        let published = Published { version: VERSION, next, configured, configured_adapters, actor, refiner, adapters };
        digest::replace(&self.path, &serde_json::to_vec_pretty(&published)?)
    }

    /// What was published last; `None`, with a warning where there was something, if it cannot be served now.
    pub fn read(&self) -> Option<Published> {
        let bytes = files::read(&self.path, files::SMALL).ok()?;
        let fail = |reason: String| {
            tracing::warn!(file = %self.path.display(), reason, "what was published last is not served: the configured model is");
            None
        };
        let published: Published = match serde_json::from_slice(&bytes) {
            Ok(published) => published,
            Err(error) => return fail(format!("the file cannot be read: {error}")),
        };
        if published.version != VERSION {
            return fail(format!("the file has version {}, this program writes {VERSION}", published.version));
        }
        if (published.configured.clone(), published.configured_adapters.clone()) != self.configured() {
            return fail("the server is started with another model or adapter now".into());
        }
        match published.check() {
            Ok(()) => Some(published),
            Err(reason) => fail(reason),
        }
    }
}

impl Published {
    /// The live pair.
    pub fn ids(&self) -> Ids {
        Ids { actor: self.actor.id.clone(), refiner: self.refiner.id.clone() }
    }

    /// The directories of both roles, in which nothing changes.
    pub fn directories(&self) -> [Named; 2] {
        [&self.actor, &self.refiner].map(|kept| Named {
            model: kept.model.path.clone(),
            adapter: kept.adapter.as_ref().map(|adapter| adapter.path.clone()),
        })
    }

    /// The actor's model as it was named.
    pub fn actor_model(&self) -> &Path {
        &self.actor.model.named
    }

    /// The directories from which adapters were loaded by name, as they were named.
    pub fn adapter_origins(&self) -> impl Iterator<Item = (&str, &Path)> {
        self.adapters.iter().map(|kept| (&*kept.name, &*kept.directory.named))
    }

    /// The adapters that were loaded by name, with the copies of their directories. Those whose copy has changed are left out with a
    /// warning.
    pub fn adapters(&self) -> impl Iterator<Item = LoraModule> {
        let unchanged = |kept: &&NamedDirectory| match kept.directory.check() {
            Ok(()) => true,
            Err(reason) => {
                tracing::warn!(adapter = kept.name, reason, "an adapter is not served again; load it anew");
                false
            }
        };
        let module = |kept: &NamedDirectory| LoraModule { name: kept.name.clone(), path: kept.directory.path.clone() };
        self.adapters.iter().filter(unchanged).map(module)
    }

    /// Both roles' weights.
    ///
    /// # Errors
    /// A directory that cannot be read any more.
    pub fn sources(&self) -> Result<[Source; 2], ModelError> {
        Ok([self.actor.source()?, self.refiner.source()?])
    }

    fn check(&self) -> Result<(), String> {
        for kept in [&self.actor, &self.refiner] {
            std::iter::once(&kept.model).chain(&kept.adapter).try_for_each(Directory::check)?;
        }
        Ok(())
    }
}

impl Directory {
    fn of(named: &Path, stored: &Stored) -> Self {
        Self { named: named.into(), path: stored.path.clone(), sha256: stored.digests.all() }
    }

    /// Whether it holds what it held.
    fn check(&self) -> Result<(), String> {
        let found = Digests::of(&self.path).map_err(|error| error.to_string())?.all();
        if found == self.sha256 { Ok(()) } else { Err(format!("{} has changed", self.path.display())) }
    }
}

impl Kept {
    fn of(record: &Record) -> Option<Self> {
        let source = record.source.as_ref()?;
        let adapter = source.adapter.as_ref();
        Some(Self {
            id: record.id.clone(),
            model: Directory::of(&source.model_path, &source.model),
            adapter: adapter.map(|adapter| Directory::of(&adapter.path, &adapter.stored)),
            adapter_name: adapter.and_then(|adapter| adapter.name.clone()),
        })
    }

    fn source(&self) -> Result<Source, ModelError> {
        let stored = |directory: &Directory| {
            Ok::<_, ModelError>(Stored { path: directory.path.clone(), digests: Digests::of(&directory.path)? })
        };
        let adapter = self.adapter.as_ref().map(|directory| {
            let (path, name) = (directory.named.clone(), self.adapter_name.clone());
            Ok::<_, ModelError>(AdapterSource { stored: stored(directory)?, path, name })
        });
        Ok(Source {
            model: stored(&self.model)?,
            model_path: self.model.named.clone(),
            identity: ModelDir::open(&self.model.path)?.identity(),
            adapter: adapter.transpose()?,
        })
    }
}
