//! Directories of weights that are ours: copied or merged once, named after their contents, never changed, evicted by size.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;

use super::adapter::{self, Adapter};
use super::{Digests, ModelError, digest, gguf, spread};

/// Directories in the making, locked by their makers. A dead maker's are removed: its lock is free.
const MAKING: &str = ".making-";
const MERGED: &str = "merged-";

/// A directory of such directories.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    limit: u64,
}

/// A directory in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub digests: Digests,
}

impl Store {
    /// Opens or creates the store and removes what killed processes have left half made. It holds about `limit` bytes.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn open(root: impl Into<PathBuf>, limit: u64) -> Result<Self, ModelError> {
        let store = Self { root: root.into(), limit };
        fs::create_dir_all(&store.root).map_err(|e| store.broken(&e))?;
        for entry in store.entries().map_err(|e| store.broken(&e))? {
            // The lock is held until the directory is gone, so that no maker takes it meanwhile.
            if let Some(_lock) = abandoned(&entry) {
                tracing::warn!(directory = %entry.display(), "removing what a killed process has left half made");
                fs::remove_dir_all(&entry).map_err(|e| store.broken(&e))?;
            }
        }
        Ok(store)
    }

    /// Copies a directory's files, or a GGUF file with its parts, unless the store has the same contents already. What is copied is what was checked: a
    /// directory that changes meanwhile is refused.
    ///
    /// # Errors
    /// It cannot be read, its manifest disagrees, or it changed.
    pub fn import(&self, source: &Path) -> Result<Stored, ModelError> {
        let before = Digests::of(source)?;
        before.check_manifest(source)?;
        let directory = self.root.join(before.all());
        let place = |directory: &Path| match source.file_name().filter(|_| gguf::is_named(source)) {
            Some(file) => directory.join(file),
            None => directory.into(),
        };
        if let Some(known) = self.find(&directory, &place(&directory), |found| found.all() == before.all())? {
            return Ok(known);
        }
        let making = self.make()?;
        let (from, names) = digest::listed(source)?;
        let copy = |name: &String| {
            let (from, to) = (from.join(name), making.path().join(name));
            let copied = File::open(&from).and_then(|mut file| io::copy(&mut file, &mut File::create(&to)?));
            copied.map(drop).map_err(|e| ModelError::Broken { file: from, reason: e.to_string() })
        };
        let bytes = |name: &String| before.0.get(name).map_or(0, |file| file.bytes as usize);
        spread::over(&names, bytes, copy).into_iter().collect::<Result<(), _>>()?;
        let digests = Digests::of(&place(making.path()))?;
        if digests != before {
            let reason = "it changed while it was copied; write a new directory and rename it when it is whole".into();
            return Err(ModelError::Broken { file: source.into(), reason });
        }
        self.publish(making, &directory)?;
        Ok(Stored { path: place(&directory), digests })
    }

    /// `base` with `adapter`, whose digest is `adapter_sha256`, merged into it, unless the store has it already.
    ///
    /// # Errors
    /// As [`adapter::merge`], or the store cannot be written.
    pub fn merged(&self, base: &Stored, adapter: &Adapter, adapter_sha256: &str) -> Result<Stored, ModelError> {
        let short = |sha256: &str| sha256.get(..32).unwrap_or(sha256).to_owned();
        let path = self.root.join(format!("{MERGED}{}-{}", short(&base.digests.all()), short(adapter_sha256)));
        if let Some(known) = self.find(&path, &path, |found| found.check_manifest(&path).is_ok())? {
            return Ok(known);
        }
        let making = self.make()?;
        adapter::merge(&base.path, adapter, making.path())?;
        Digests::of(making.path())?.write_manifest(making.path())?;
        let digests = Digests::of(making.path())?;
        self.publish(making, &path)?;
        Ok(Stored { path, digests })
    }

    /// Removes directories that were not used for longest until the rest is within the limit; those in `keep` stay.
    pub fn evict(&self, keep: &[PathBuf]) {
        if let Err(error) = self.try_evict(keep) {
            tracing::warn!(%error, store = %self.root.display(), "old weights could not be removed");
        }
    }

    fn try_evict(&self, keep: &[PathBuf]) -> io::Result<()> {
        let mut found = Vec::new();
        for path in self.entries()?.into_iter().filter(|path| !name_of(path).starts_with('.')) {
            let bytes = fs::read_dir(&path)?.map(|file| Ok(file?.metadata()?.len())).sum::<io::Result<u64>>()?;
            found.push((path.metadata()?.modified()?, bytes, path));
        }
        found.sort();
        let mut total: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in found.iter().filter(|(.., path)| !keep.iter().any(|kept| kept.starts_with(path))) {
            if total <= self.limit {
                break;
            }
            // First out of sight, so that nobody finds half of it; who has it open keeps it.
            let aside = self.make().map_err(io::Error::other)?;
            fs::rename(path, aside.path().join("evicted"))?;
            total -= bytes;
        }
        Ok(())
    }

    /// What is at `path` in the directory, if it is there and what it should be; a directory where it is not is removed.
    fn find(
        &self,
        directory: &Path,
        path: &Path,
        is_right: impl Fn(&Digests) -> bool,
    ) -> Result<Option<Stored>, ModelError> {
        if !directory.is_dir() {
            return Ok(None);
        }
        let found = if path.exists() { Digests::of(path).ok() } else { None };
        if let Some(digests) = found.filter(|digests| is_right(digests)) {
            // The time of the last use, for eviction.
            let touched = File::open(directory).and_then(|dir| dir.set_modified(SystemTime::now()));
            touched.map_err(|e| self.broken(&e))?;
            return Ok(Some(Stored { path: path.into(), digests }));
        }
        tracing::warn!(directory = %directory.display(), "the stored weights are damaged; they are made again");
        let aside = self.make()?;
        fs::rename(directory, aside.path().join("damaged")).map_err(|e| self.broken(&e))?;
        Ok(None)
    }

    fn make(&self) -> Result<Making, ModelError> {
        let make = || loop {
            let dir = tempfile::Builder::new().prefix(MAKING).tempdir_in(&self.root)?;
            let lock = match File::open(dir.path()) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            lock.lock()?;
            // Until it was locked it looked abandoned, and somebody may have removed it.
            if dir.path().exists() {
                return Ok(Making { dir, _lock: lock });
            }
        };
        make().map_err(|e: io::Error| self.broken(&e))
    }

    fn publish(&self, making: Making, path: &Path) -> Result<(), ModelError> {
        let publish = || {
            set_readable(making.path())?;
            match fs::rename(making.path(), path) {
                // Another process was faster; the name says what is in it.
                Err(_) if path.is_dir() => Ok(()),
                renamed => renamed,
            }
        };
        publish().map_err(|e| self.broken(&e))
    }

    fn entries(&self) -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(&self.root)?.map(|entry| Ok(entry?.path()));
        paths.filter(|path| path.as_ref().map_or(true, |path| path.is_dir())).collect()
    }

    fn broken(&self, error: &io::Error) -> ModelError {
        ModelError::Broken {
            file: self.root.clone(),
            reason: format!("{error}; --swap-dir must be a directory that can be written"),
        }
    }
}

/// A directory in the making; dropped, it is removed.
struct Making {
    dir: TempDir,
    _lock: File,
}

impl Making {
    fn path(&self) -> &Path {
        self.dir.path()
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The lock of a directory in the making that nobody works on any more.
fn abandoned(path: &Path) -> Option<File> {
    let making = name_of(path).starts_with(MAKING).then(|| File::open(path).ok())??;
    making.try_lock().is_ok().then_some(making)
}

#[cfg(unix)]
fn set_readable(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn set_readable(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{TinyModel, random_adapter, write_json, write_model};
    use crate::weights::Weights;

    fn model(seed: u64) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        write_model(dir.path(), &TinyModel { seed, ..TinyModel::default() });
        dir
    }

    fn count(root: &Path) -> usize {
        fs::read_dir(root).unwrap().count()
    }

    #[test]
    fn the_same_contents_are_stored_once_and_damage_is_mended() {
        let (root, source) = (tempfile::tempdir().unwrap(), model(1));
        let store = Store::open(root.path(), u64::MAX).unwrap();
        let first = store.import(source.path()).unwrap();
        assert_eq!(first.digests, Digests::of(source.path()).unwrap());
        assert_eq!(store.import(source.path()).unwrap(), first);
        assert_eq!(count(root.path()), 1);
        fs::write(first.path.join("config.json"), "{}").unwrap();
        assert_eq!(store.import(source.path()).unwrap(), first);
        assert_eq!(Digests::of(&first.path).unwrap(), first.digests);
        assert_eq!(count(root.path()), 1);
    }

    #[test]
    fn a_manifest_that_disagrees_is_refused_before_anything_is_stored() {
        let (root, source) = (tempfile::tempdir().unwrap(), model(1));
        write_json(source.path(), "manifest.json", &serde_json::json!({ "bytes": { "model.safetensors": 3 } }));
        let store = Store::open(root.path(), u64::MAX).unwrap();
        let message = store.import(source.path()).unwrap_err().to_string();
        assert!(message.contains("model.safetensors") && message.contains("promises 3"), "{message}");
        assert_eq!(count(root.path()), 0);
    }

    #[test]
    fn merged_weights_are_made_once_and_again_when_damaged() {
        let (root, source) = (tempfile::tempdir().unwrap(), model(1));
        let store = Store::open(root.path(), u64::MAX).unwrap();
        let base = store.import(source.path()).unwrap();
        let adapter = random_adapter(source.path(), 0.1, 5);
        let first = store.merged(&base, &adapter, "aa").unwrap();
        assert_ne!(first.digests.weights(), base.digests.weights());
        assert_eq!(store.merged(&base, &adapter, "aa").unwrap(), first);
        fs::write(first.path.join("model.safetensors"), "half").unwrap();
        assert_eq!(store.merged(&base, &adapter, "aa").unwrap(), first);
        Weights::open(&first.path).unwrap();
    }

    #[test]
    fn what_a_dead_maker_left_is_removed_and_a_living_one_is_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), u64::MAX).unwrap();
        let living = store.make().unwrap();
        let dead = root.path().join(format!("{MAKING}dead"));
        fs::create_dir(&dead).unwrap();
        fs::write(dead.join("model.safetensors"), "half").unwrap();
        Store::open(root.path(), u64::MAX).unwrap();
        assert!(living.path().is_dir() && !dead.exists());
    }

    #[test]
    fn the_least_recently_used_go_first_and_what_is_kept_stays() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), 0).unwrap();
        let stored: Vec<_> = (1..4).map(|seed| store.import(model(seed).path()).unwrap().path).collect();
        store.evict(&stored[1..2]);
        assert_eq!(stored.iter().map(|path| path.is_dir()).collect::<Vec<_>>(), [false, true, false]);
        assert_eq!(count(root.path()), 1);
        let again = store.import(model(1).path()).unwrap().path;
        let bytes: u64 = fs::read_dir(&again).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum();
        let roomy = Store::open(root.path(), bytes + 1).unwrap();
        roomy.evict(&[]);
        assert!(again.is_dir() && !stored[1].is_dir(), "the older one goes");
    }
}
