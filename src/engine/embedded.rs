//! The default model, spar-tiny: carried inside the program, unpacked once per user and version.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use super::caches;
use crate::weights::files;

/// The name that clients use.
pub const NAME: &str = "spar-tiny";

macro_rules! asset {
    ($path:literal) => {
        ($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/spar-tiny/", $path)).as_slice())
    };
}

/// Every file of both models. A file that is missing in the source tree fails the build here, by its name.
const FILES: [(&str, &[u8]); 12] = [
    asset!("actor/config.json"),
    asset!("actor/generation_config.json"),
    asset!("actor/model.safetensors"),
    asset!("actor/spar.json"),
    asset!("actor/tokenizer.json"),
    asset!("actor/tokenizer_config.json"),
    asset!("refiner/config.json"),
    asset!("refiner/generation_config.json"),
    asset!("refiner/model.safetensors"),
    asset!("refiner/spar.json"),
    asset!("refiner/tokenizer.json"),
    asset!("refiner/tokenizer_config.json"),
];

/// What is being unpacked.
const UNPACKING: &str = ".unpacking-";
/// What was found changed.
const DAMAGED: &str = ".damaged-";

/// The unpacked default model. Keep it while the model may be loaded again: it may own its files.
pub struct Embedded {
    directory: PathBuf,
    _temporary: Option<TempDir>,
}

/// The default model could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[error(
    "the built-in model cannot be unpacked: {0}; set XDG_CACHE_HOME to a directory that can be written, or pass --model"
)]
pub struct UnpackError(#[from] std::io::Error);

impl Embedded {
    /// Unpacks the model into the user's cache directory or a private one for temporary files, where the next start finds it,
    /// or else into one that ends with the process.
    ///
    /// # Errors
    /// Fails when none of them can be written.
    pub fn unpack() -> Result<Self, UnpackError> {
        match caches::in_one(unpack_into) {
            Ok(directory) => Ok(Self { directory, _temporary: None }),
            Err(error) => {
                tracing::debug!(%error, "no cache can be used");
                let temporary = tempfile::tempdir()?;
                Ok(Self { directory: unpack_into(temporary.path())?, _temporary: Some(temporary) })
            }
        }
    }

    /// The model that answers.
    pub fn actor(&self) -> PathBuf {
        self.directory.join("actor")
    }

    /// The model that judges and rewrites.
    pub fn refiner(&self) -> PathBuf {
        self.directory.join("refiner")
    }
}

/// Unpacks into a subdirectory named after the contents, unless it is there already, whole and unchanged.
fn unpack_into(base: &Path) -> std::io::Result<PathBuf> {
    let target = base.join(format!("{NAME}-{}", digest()));
    if is_whole(&target) {
        return Ok(target);
    }
    std::fs::create_dir_all(base)?;
    caches::sweep(base, &[UNPACKING, DAMAGED]);
    let fresh = tempfile::Builder::new().prefix(UNPACKING).tempdir_in(base)?;
    for (path, contents) in FILES {
        let path = fresh.path().join(path);
        path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
        std::fs::write(path, contents)?;
    }
    // What was changed is moved away, never written to: a running server may have its weights mapped.
    let aside = tempfile::Builder::new().prefix(DAMAGED).tempdir_in(base)?;
    if target.exists() && !is_whole(&target) {
        std::fs::rename(&target, aside.path().join("model"))?;
    }
    match std::fs::rename(fresh.path(), &target) {
        // Another process was faster.
        Err(_) if is_whole(&target) => Ok(target),
        renamed => renamed.map(|()| target),
    }
}

/// Whether every file exists with its content. Pipes and files of another length are not read, since reading a pipe may block.
fn is_whole(directory: &Path) -> bool {
    let same = |path: &str, contents: &[u8]| {
        files::read(&directory.join(path), contents.len() as u64).is_ok_and(|found| found == contents)
    };
    FILES.iter().all(|(path, contents)| same(path, contents))
}

/// 16 hexadecimal digits of the contents' SHA-256.
fn digest() -> String {
    let mut hash = Sha256::new();
    for (path, contents) in FILES {
        hash.update(format!("{path} {}\n", contents.len()));
        hash.update(contents);
    }
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::model_dir::ModelDir;

    fn entries(base: &Path) -> usize {
        std::fs::read_dir(base).unwrap().count()
    }

    #[test]
    fn both_models_are_whole_directories() {
        let base = tempfile::tempdir().unwrap();
        let embedded = Embedded { directory: unpack_into(base.path()).unwrap(), _temporary: None };
        for directory in [embedded.actor(), embedded.refiner()] {
            ModelDir::open(directory).unwrap();
        }
    }

    #[test]
    fn a_second_start_finds_it_and_damage_is_repaired() {
        let base = tempfile::tempdir().unwrap();
        let first = unpack_into(base.path()).unwrap();
        let weights = first.join("actor/model.safetensors");
        let written = std::fs::metadata(&weights).unwrap().modified().unwrap();
        assert_eq!(unpack_into(base.path()).unwrap(), first);
        assert_eq!(std::fs::metadata(&weights).unwrap().modified().unwrap(), written);
        std::fs::write(&weights, "damaged").unwrap();
        let texts = first.join("refiner/spar.json");
        std::fs::remove_file(&texts).unwrap();
        // A pipe that nothing writes to would be waited for.
        #[cfg(unix)]
        rustix::fs::mknodat(rustix::fs::CWD, &texts, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(unpack_into(base.path()).unwrap(), first);
        assert!(is_whole(&first));
        assert_eq!(entries(base.path()), 1);
    }

    #[test]
    fn many_starts_at_once_agree() {
        let base = tempfile::tempdir().unwrap();
        let directories: Vec<PathBuf> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| unpack_into(base.path()).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(directories.iter().all(|directory| *directory == directories[0]));
        assert!(is_whole(&directories[0]));
        assert_eq!(entries(base.path()), 1);
    }
}
