//! Where files that can be made again are kept between starts: in the user's cache, or else in a private directory for
//! temporary files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

/// Directories that end with the process begin like this; a killed process leaves its own.
const RUN: &str = "run-";
/// A directory that is half made for longer than this has been abandoned.
const ABANDONED: Duration = Duration::from_secs(3600);

/// Calls `make` with one cache after another until it succeeds.
///
/// # Errors
/// That of the last cache.
pub(crate) fn in_one<T>(make: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    if let Some(cache) = of_user() {
        match std::fs::create_dir_all(&cache).and_then(|()| make(&cache)) {
            Ok(made) => return Ok(made),
            Err(error) => tracing::debug!(%error, cache = %cache.display(), "the cache directory cannot be used"),
        }
    }
    make(&temporary()?)
}

/// Makes a directory for this process alone, which is removed at its end. Directories that killed processes left are removed as well.
///
/// # Errors
/// The directory cannot be made.
pub(crate) fn for_this_run() -> io::Result<(TempDir, File)> {
    let base = temporary()?;
    for entry in std::fs::read_dir(&base)? {
        let path = entry?.path();
        let ours = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(RUN));
        // Its maker holds the lock as long as it lives.
        if ours && File::open(path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok()) {
            tracing::info!(directory = %path.display(), "removing what a killed process has left");
            std::fs::remove_dir_all(&path)?;
        }
    }
    loop {
        let directory = tempfile::Builder::new().prefix(RUN).tempdir_in(&base)?;
        let lock = File::create(directory.path().join("lock"))?;
        lock.lock()?;
        // Until it was locked it looked abandoned, and another start may have removed it.
        if directory.path().join("lock").exists() {
            return Ok((directory, lock));
        }
    }
}

/// Removes directories that begin with one of `prefixes` and were not written for long: their makers were killed.
pub(crate) fn sweep(base: &Path, prefixes: &[&str]) {
    let old = |path: &Path| {
        let written = path.symlink_metadata().and_then(|metadata| metadata.modified());
        written.is_ok_and(|written| SystemTime::now().duration_since(written).is_ok_and(|age| age > ABANDONED))
    };
    for entry in std::fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let abandoned = prefixes.iter().any(|prefix| name.starts_with(prefix)) && old(&entry.path());
        if abandoned && let Err(error) = std::fs::remove_dir_all(entry.path()) {
            tracing::debug!(%error, directory = %entry.path().display(), "what is half made stays");
        }
    }
}

/// Returns the directory where this user's programs keep what they can make again.
fn of_user() -> Option<PathBuf> {
    // As the XDG specification says, a relative path does not count.
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    caches.or_else(|| absolute("LOCALAPPDATA")).map(|caches| caches.join("spar"))
}

/// Returns a directory for temporary files that no other user can read or write.
fn temporary() -> io::Result<PathBuf> {
    private(&std::env::temp_dir())
}

#[cfg(unix)]
fn private(base: &Path) -> io::Result<PathBuf> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let user = rustix::process::getuid().as_raw();
    let path = base.join(format!("spar-{user}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Anybody may make a directory or a link of this name.
    let found = path.symlink_metadata()?;
    match found.is_dir() && found.uid() == user && found.mode() & 0o077 == 0 {
        true => Ok(path),
        false => Err(io::Error::other(format!("{} is not a private directory of this user", path.display()))),
    }
}

#[cfg(not(unix))]
fn private(base: &Path) -> io::Result<PathBuf> {
    let path = base.join("spar");
    std::fs::create_dir_all(&path)?;
    Ok(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_a_private_directory_is_used() {
        let base = tempfile::tempdir().unwrap();
        let path = private(base.path()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(private(base.path()).unwrap(), path);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private(base.path()).is_err());
        std::fs::remove_dir(&path).unwrap();
        symlink(base.path(), &path).unwrap();
        assert!(private(base.path()).is_err());
    }

    #[test]
    fn what_is_half_made_for_long_is_removed() {
        let base = tempfile::tempdir().unwrap();
        for name in [".unpacking-old", ".unpacking-new", "model"] {
            std::fs::create_dir(base.path().join(name)).unwrap();
        }
        let past = SystemTime::now() - 2 * ABANDONED;
        for name in [".unpacking-old", "model"] {
            File::open(base.path().join(name)).unwrap().set_modified(past).unwrap();
        }
        sweep(base.path(), &[".unpacking-", ".damaged-"]);
        let left = [".unpacking-old", ".unpacking-new", "model"].map(|name| base.path().join(name).exists());
        assert_eq!(left, [false, true, true]);
    }
}
