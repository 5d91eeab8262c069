//! Directories of weights that are ours: copied or merged once, named after their contents, never changed, evicted by size.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::adapter::{self, Adapter};
use super::digest::MayRead;
use super::{Digests, ModelError, digest, files, gguf, spread};

/// Directories in the making, locked by their makers. A dead maker's are removed: its lock is free.
const MAKING: &str = ".making-";
const MERGED: &str = "merged-";

/// A directory of such directories.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    limit: u64,
    /// Ends what is being copied.
    stop: CancellationToken,
}

/// How a directory is imported.
#[derive(Clone, Copy)]
pub struct Import<'a> {
    /// Which open files may be read.
    pub may_read: MayRead<'a>,
    /// Directories of the store that stay where old ones make room; without it nothing is removed.
    pub keep: Option<&'a [PathBuf]>,
}

/// A directory in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The path of the stored weights.
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
        let store = Self { root: root.into(), limit, stop: CancellationToken::new() };
        fs::create_dir_all(&store.root).map_err(|e| store.broken(&e))?;
        for entry in store.entries().map_err(|e| store.broken(&e))? {
            // The lock is held until the directory is removed, so that no maker takes it meanwhile.
            if let Some(_lock) = abandoned(&entry) {
                tracing::warn!(directory = %entry.display(), "removing what a killed process has left half made");
                fs::remove_dir_all(&entry).map_err(|e| store.broken(&e))?;
            }
        }
        Ok(store)
    }

    /// Returns the same store, in which nothing is begun or finished once `stop` is cancelled.
    pub fn until(&self, stop: CancellationToken) -> Self {
        Self { stop, ..self.clone() }
    }

    /// Copies a directory's files, or a GGUF file with its parts, unless the store has the same contents already. What is copied
    /// is what was checked: a directory that changes meanwhile is refused.
    ///
    /// # Errors
    /// It cannot be read, its manifest disagrees, or it changed.
    pub fn import(&self, source: &Path) -> Result<Stored, ModelError> {
        self.import_as(source, Import { may_read: &|_| Ok(()), keep: None })
    }

    /// Does what [`Store::import`] does. Old directories go first where there is no room, and a user who may not read
    /// the originals may not read the copies.
    ///
    /// # Errors
    /// The source cannot be read, its manifest disagrees, it changed, or there is no room.
    pub fn import_as(&self, source: &Path, import: Import<'_>) -> Result<Stored, ModelError> {
        let before = Digests::read(source, import.may_read)?;
        before.check_manifest(source)?;
        let directory = self.root.join(before.all());
        let place = |directory: &Path| match source.file_name().filter(|_| gguf::is_named(source)) {
            Some(file) => directory.join(file),
            None => directory.into(),
        };
        if let Some(known) = self.find(&directory, &place(&directory), |found| found.all() == before.all())? {
            return Ok(known);
        }
        let needed = before.0.values().map(|file| file.bytes).sum();
        if let Some(keep) = import.keep {
            self.make_room(needed, keep);
        }
        self.check_free(needed)?;
        let making = self.make()?;
        let (from, names) = digest::listed(source)?;
        let copy = |name: &String| self.copy(&from.join(name), &making.path().join(name), import.may_read);
        let bytes = |name: &String| before.0.get(name).map_or(0, |file| file.bytes as usize);
        spread::over(&names, bytes, copy).into_iter().collect::<Result<(), _>>()?;
        let digests = Digests::of(&place(making.path()))?;
        if digests != before {
            let reason = "it changed while it was copied; write a new directory and rename it when it is whole".into();
            return Err(ModelError::Broken { file: source.into(), reason });
        }
        self.publish(making, &directory, &from)?;
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
        self.check_free(base.digests.0.values().map(|file| file.bytes).sum())?;
        let making = self.make()?;
        adapter::merge(&base.path, adapter, making.path())?;
        for name in digest::files(making.path())? {
            keep_private(&base.path.join(&name), &making.path().join(&name)).map_err(|e| self.broken(&e))?;
        }
        Digests::of(making.path())?.write_manifest(making.path())?;
        let digests = Digests::of(making.path())?;
        self.publish(making, &path, &base.path)?;
        Ok(Stored { path, digests })
    }

    /// The directories in the store.
    pub fn directories(&self) -> Vec<PathBuf> {
        let finished = |path: &PathBuf| !name_of(path).starts_with('.');
        self.entries().unwrap_or_default().into_iter().filter(finished).collect()
    }

    /// Removes what is neither in `before` nor in use by `keep`.
    pub fn remove_since(&self, before: &[PathBuf], keep: &[PathBuf]) {
        let used = |path: &PathBuf| before.contains(path) || keep.iter().any(|kept| kept.starts_with(path));
        for path in self.directories().into_iter().filter(|path| !used(path)) {
            if let Err(error) = self.remove(&path) {
                tracing::warn!(%error, directory = %path.display(), "refused weights could not be removed");
            }
        }
    }

    /// Removes directories that were not used for longest until the rest is within the limit; those in `keep` stay.
    pub fn evict(&self, keep: &[PathBuf]) {
        self.make_room(0, keep);
    }

    /// Does what [`Store::evict`] does, until `bytes` more are within the limit.
    fn make_room(&self, bytes: u64, keep: &[PathBuf]) {
        if let Err(error) = self.try_evict(self.limit.saturating_sub(bytes), keep) {
            tracing::warn!(%error, store = %self.root.display(), "old weights could not be removed");
        }
    }

    fn try_evict(&self, limit: u64, keep: &[PathBuf]) -> io::Result<()> {
        let mut found = Vec::new();
        for path in self.entries()?.into_iter().filter(|path| !name_of(path).starts_with('.')) {
            let bytes = fs::read_dir(&path)?.map(|file| Ok(file?.metadata()?.len())).sum::<io::Result<u64>>()?;
            found.push((path.metadata()?.modified()?, bytes, path));
        }
        found.sort();
        let mut total: u64 = found.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in found.iter().filter(|(.., path)| !keep.iter().any(|kept| kept.starts_with(path))) {
            if total <= limit {
                break;
            }
            self.remove(path)?;
            total -= bytes;
        }
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        // The directory is moved aside first, so that no reader finds half of it; a process that has it open keeps it.
        let aside = self.make_aside()?;
        fs::rename(path, aside.path().join("evicted"))
    }

    /// Checks that the disk has room for `bytes` more.
    fn check_free(&self, bytes: u64) -> Result<(), ModelError> {
        #[cfg(unix)]
        if let Ok(disk) = rustix::fs::statvfs(&self.root) {
            let free = disk.f_bavail.saturating_mul(disk.f_frsize);
            if bytes > free {
                let reason = format!(
                    "{bytes} bytes of weights do not fit into the {free} that are free there; make room, lower \
                     --swap-dir-bytes, or name another directory with --swap-dir"
                );
                return Err(ModelError::Broken { file: self.root.clone(), reason });
            }
        }
        #[cfg(not(unix))]
        let _ = bytes;
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
        self.check_stop()?;
        self.make_aside().map_err(|e| self.broken(&e))
    }

    fn make_aside(&self) -> io::Result<Making> {
        loop {
            let dir = tempfile::Builder::new().prefix(MAKING).tempdir_in(&self.root)?;
            let lock = match File::open(dir.path()) {
                Ok(lock) => lock,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            lock.lock()?;
            // Until it was locked it looked abandoned, and another process may have removed it.
            if dir.path().exists() {
                return Ok(Making { dir, _lock: lock });
            }
        }
    }

    fn check_stop(&self) -> Result<(), ModelError> {
        match self.stop.is_cancelled() {
            true => {
                Err(ModelError::Broken { file: self.root.clone(), reason: "nobody waits for it any longer".into() })
            }
            false => Ok(()),
        }
    }

    /// Makes a directory visible that was made of what `source` holds.
    fn publish(&self, making: Making, path: &Path, source: &Path) -> Result<(), ModelError> {
        self.check_stop()?;
        let publish = || {
            set_readable(making.path(), source)?;
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

    /// Copies a file. Which of the two is at fault decides what the error names.
    fn copy(&self, from: &Path, to: &Path, may_read: MayRead<'_>) -> Result<(), ModelError> {
        let unreadable = |e: &io::Error| ModelError::Broken { file: from.into(), reason: e.to_string() };
        let mut source = files::open(from).map_err(|e| unreadable(&e))?;
        may_read(&source).map_err(|e| unreadable(&e))?;
        let mut copy = File::options().write(true).create(true).truncate(true).open(to).map_err(|e| self.broken(&e))?;
        keep_private_file(&source, &copy).map_err(|e| self.broken(&e))?;
        loop {
            self.check_stop()?;
            match io::copy(&mut io::Read::take(&mut source, PORTION), &mut copy) {
                Err(e) if no_room(&e) => return Err(self.broken(&e)),
                Err(e) => return Err(unreadable(&e)),
                Ok(0) => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    fn broken(&self, error: &io::Error) -> ModelError {
        ModelError::Broken {
            file: self.root.clone(),
            reason: match no_room(error) {
                true => format!(
                    "{error}; make room there, lower --swap-dir-bytes, or name another directory with --swap-dir"
                ),
                false => format!("{error}; --swap-dir must be a directory that can be written"),
            },
        }
    }
}

/// Bytes that are copied between two checks of the token that stops it.
const PORTION: u64 = 64 << 20;

/// Whether nothing more can be written where the store is.
fn no_room(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge | ReadOnlyFilesystem)
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

/// The lock of a directory in the making whose maker has died.
fn abandoned(path: &Path) -> Option<File> {
    let making = name_of(path).starts_with(MAKING).then(|| File::open(path).ok())??;
    making.try_lock().is_ok().then_some(making)
}

/// Takes the rights off a copy that others do not have on the original.
#[cfg(unix)]
fn keep_private_file(original: &File, copy: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = |file: &File| Ok::<_, io::Error>(file.metadata()?.permissions().mode());
    copy.set_permissions(fs::Permissions::from_mode(mode(copy)? & (mode(original)? | 0o600) & 0o777))
}

#[cfg(not(unix))]
fn keep_private_file(_original: &File, _copy: &File) -> io::Result<()> {
    Ok(())
}

/// Does what [`keep_private_file`] does, where there is an original.
fn keep_private(original: &Path, copy: &Path) -> io::Result<()> {
    if !original.is_file() {
        return Ok(());
    }
    keep_private_file(&files::open(original)?, &files::open(copy)?)
}

/// Lets those list the directory who may list the source.
#[cfg(unix)]
fn set_readable(dir: &Path, source: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = source.metadata().map_or(0o700, |source| source.permissions().mode());
    fs::set_permissions(dir, fs::Permissions::from_mode(mode & 0o755 | 0o700))
}

#[cfg(not(unix))]
fn set_readable(_dir: &Path, _source: &Path) -> io::Result<()> {
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
    fn a_full_disk_is_the_stores_fault_and_a_missing_file_the_sources() {
        let (root, source) = (tempfile::tempdir().unwrap(), model(1));
        let store = Store::open(root.path(), u64::MAX).unwrap();
        let (config, full) = (source.path().join("config.json"), Path::new("/dev/full"));
        let message = store.copy(&config, full, &|_| Ok(())).unwrap_err().to_string();
        let named = root.path().display().to_string();
        assert!(message.starts_with(&named) && message.contains("make room"), "{message}");
        let missing = source.path().join("none");
        let message = store.copy(&missing, &root.path().join("none"), &|_| Ok(())).unwrap_err().to_string();
        assert!(message.starts_with(&missing.display().to_string()), "{message}");
        let message = store.check_free(u64::MAX).unwrap_err().to_string();
        assert!(message.starts_with(&named) && message.contains("do not fit"), "{message}");
        assert_eq!(count(root.path()), 0);
    }

    #[test]
    fn old_weights_go_before_new_ones_come_and_what_was_refused_goes_at_once() {
        let root = tempfile::tempdir().unwrap();
        let bytes = |path: &Path| -> u64 {
            fs::read_dir(path).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
        };
        let roomy = Store::open(root.path(), u64::MAX).unwrap();
        let first = roomy.import(model(1).path()).unwrap().path;
        let second = roomy.import(model(2).path()).unwrap().path;
        let store = Store::open(root.path(), 2 * bytes(&first) + 100).unwrap();
        let import = Import { may_read: &|_| Ok(()), keep: Some(std::slice::from_ref(&first)) };
        let before = store.directories();
        let third = store.import_as(model(3).path(), import).unwrap().path;
        assert!(first.is_dir() && !second.exists() && third.is_dir());
        store.remove_since(&before, &[]);
        assert!(first.is_dir() && !third.exists());
        assert_eq!(count(root.path()), 1);
        let stopped = CancellationToken::new();
        stopped.cancel();
        assert!(store.until(stopped).import(model(3).path()).is_err());
        assert_eq!(count(root.path()), 1);
        let outside = Import { may_read: &|_| Err(io::Error::other("outside")), keep: None };
        assert!(store.import_as(model(3).path(), outside).unwrap_err().to_string().contains("outside"));
    }

    #[cfg(unix)]
    #[test]
    fn copies_are_no_more_public_than_their_originals() {
        use std::os::unix::fs::PermissionsExt;
        let (root, source) = (tempfile::tempdir().unwrap(), model(1));
        let store = Store::open(root.path(), u64::MAX).unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(source.path(), 0o750);
        set(&source.path().join("config.json"), 0o600);
        set(&source.path().join("model.safetensors"), 0o440);
        set(&source.path().join("spar.json"), 0o666);
        let stored = store.import(source.path()).unwrap();
        let adapter = random_adapter(source.path(), 0.1, 5);
        let merged = store.merged(&stored, &adapter, "aa").unwrap();
        for (directory, weights) in [(stored.path, 0o640), (merged.path, 0o640)] {
            let modes = ["", "config.json", "model.safetensors"].map(|name| mode(&directory.join(name)));
            assert_eq!(modes, [0o750, 0o600, weights], "{}", directory.display());
            assert_eq!(mode(&directory.join("spar.json")) & 0o022, 0, "as the process makes files");
        }
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
