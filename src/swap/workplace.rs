//! The directory in which a server keeps copied weights and the state of its swaps.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::engine::caches;

/// Why there is no directory for swaps.
#[derive(Debug, thiserror::Error)]
pub enum WorkplaceError {
    /// Two servers in one directory would remove each other's weights.
    #[error("{0} is in use by another server; give this one its own with --swap-dir")]
    InUse(PathBuf),
    /// None can be made.
    #[error("no directory for swaps: {0}; name one with --swap-dir")]
    NoDirectory(String),
}

/// A directory that one server works in.
pub(super) struct Workplace {
    pub(super) path: PathBuf,
    _lock: File,
    _temporary: Option<tempfile::TempDir>,
}

impl Workplace {
    /// Takes the directory that the settings name, or the usual one.
    ///
    /// # Errors
    /// [`WorkplaceError`].
    pub(super) fn open(settings: &Settings) -> Result<Self, WorkplaceError> {
        let failed = |error: std::io::Error| WorkplaceError::NoDirectory(error.to_string());
        // By port, so that two servers do not share one.
        let usual = |cache: &Path| {
            let path = cache.join(format!("swap-{}", settings.http.port));
            std::fs::create_dir_all(&path).and_then(|()| tempfile::tempfile_in(&path)).map(|_writable| path)
        };
        let path = match &settings.swap.swap_dir {
            Some(path) => path.clone(),
            // A server on a free port is somewhere else next time, and remembers nothing.
            None if settings.http.port == 0 => {
                let (temporary, lock) = caches::for_this_run().map_err(failed)?;
                return Ok(Self { path: temporary.path().into(), _lock: lock, _temporary: Some(temporary) });
            }
            None => caches::in_one(usual).map_err(failed)?,
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        lock.try_lock().map_err(|_| WorkplaceError::InUse(path.clone()))?;
        Ok(Self { path, _lock: lock, _temporary: None })
    }
}
