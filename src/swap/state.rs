//! What was published last, in a small file: a restart serves it again, if it is still what it was.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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

    /// Writes down what is live. A generation without a directory cannot be loaded again, so nothing is.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn save(&self, registry: &Registry, live: &Ids) -> std::io::Result<()> {
        let kept = |id: &str| registry.find(id).and_then(Kept::of);
        let (Some(actor), Some(refiner)) = (kept(&live.actor), kept(&live.refiner)) else { return Ok(()) };
        let (configured, configured_adapters) = self.configured();
        let next = registry.next();
        let published = Published { version: VERSION, next, configured, configured_adapters, actor, refiner };
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

    /// Both roles' weights.
    ///
    /// # Errors
    /// A directory that cannot be read any more.
    pub fn sources(&self) -> Result<[Source; 2], ModelError> {
        Ok([self.actor.source()?, self.refiner.source()?])
    }

    fn check(&self) -> Result<(), String> {
        for kept in [&self.actor, &self.refiner] {
            for directory in std::iter::once(&kept.model).chain(&kept.adapter) {
                let found = Digests::of(&directory.path).map_err(|error| error.to_string())?.all();
                if found != directory.sha256 {
                    return Err(format!("{} has changed", directory.path.display()));
                }
            }
        }
        Ok(())
    }
}

impl Kept {
    fn of(record: &Record) -> Option<Self> {
        let source = record.source.as_ref()?;
        let directory = |named: &Path, stored: &Stored| Directory {
            named: named.into(),
            path: stored.path.clone(),
            sha256: stored.digests.all(),
        };
        let adapter = source.adapter.as_ref();
        Some(Self {
            id: record.id.clone(),
            model: directory(&source.model_path, &source.model),
            adapter: adapter.map(|adapter| directory(&adapter.path, &adapter.stored)),
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
