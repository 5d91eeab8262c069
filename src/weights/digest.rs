//! What a directory of weights is: the SHA-256 of each of its files, of all of them, and of the weights alone.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ModelError, files, gguf, spread};

/// What a directory that was written by a program may say of its own files: `manifest.json`.
const MANIFEST: &str = "manifest.json";

/// Says whether an open file may be read: a path may lead elsewhere than when it was checked.
pub(super) type MayRead<'a> = &'a (dyn Fn(&std::fs::File) -> std::io::Result<()> + Sync);

/// The files of a directory by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Digests(pub BTreeMap<String, FileDigest>);

/// Size and digest of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileDigest {
    /// The file's size.
    pub bytes: u64,
    /// SHA-256 in hexadecimal digits.
    pub sha256: String,
}

/// The part of `manifest.json` that is checked; everything else in it is for people.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Manifest {
    /// SHA-256 by file.
    #[serde(default)]
    sha256: BTreeMap<String, String>,
    /// Size by file.
    #[serde(default)]
    bytes: BTreeMap<String, u64>,
}

/// Whether a file belongs to a model or an adapter: what engines read, and the manifest. Logs and checkpoints of an
/// optimizer next to it do not.
pub fn belongs(name: &str) -> bool {
    const NAMES: [&str; 13] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "spar.json",
        "adapter_config.json",
        MANIFEST,
    ];
    NAMES.contains(&name) || name.ends_with(".safetensors") || name.ends_with(".safetensors.index.json")
}

fn is_weights(name: &str) -> bool {
    name.ends_with(".safetensors") || gguf::is_named(Path::new(name))
}

impl Digests {
    /// Reads every file of the directory that belongs to a model or an adapter, or the parts of a GGUF file.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn of(path: &Path) -> Result<Self, ModelError> {
        Self::read(path, &|_| Ok(()))
    }

    /// Does what [`Digests::of`] does, with files that `may_read` accepts once they are open.
    ///
    /// # Errors
    /// A file that cannot be read, or may not be.
    pub(super) fn read(path: &Path, may_read: MayRead<'_>) -> Result<Self, ModelError> {
        let (dir, names) = listed(path)?;
        let sized = |name: String| {
            let bytes = dir.join(&name).metadata().map_or(0, |metadata| metadata.len());
            (name, bytes as usize)
        };
        let names: Vec<(String, usize)> = names.into_iter().map(sized).collect();
        let digest = |(name, _): &(String, usize)| {
            let path = dir.join(name);
            let mut hash = Sha256::new();
            let read = files::open(&path).and_then(|mut file| {
                may_read(&file)?;
                std::io::copy(&mut file, &mut hash)
            });
            let bytes = read.map_err(|e| ModelError::Broken { file: path, reason: e.to_string() })?;
            Ok((name.clone(), FileDigest { bytes, sha256: hex(&hash.finalize()) }))
        };
        spread::over(&names, |&(_, bytes)| bytes, digest).into_iter().collect::<Result<_, _>>().map(Self)
    }

    /// One name for all of the files, the manifest excepted: a manifest changes nothing that is computed.
    pub fn all(&self) -> String {
        self.name_of(|name| name != MANIFEST)
    }

    /// One name for the tensors: what an adapter was trained on.
    pub fn weights(&self) -> String {
        self.name_of(is_weights)
    }

    /// Writes `manifest.json` with these digests.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_manifest(&self, dir: &Path) -> Result<(), ModelError> {
        let mut manifest = Manifest::default();
        for (name, file) in self.0.iter().filter(|(name, _)| *name != MANIFEST) {
            manifest.sha256.insert(name.clone(), file.sha256.clone());
            manifest.bytes.insert(name.clone(), file.bytes);
        }
        let path = dir.join(MANIFEST);
        let text = serde_json::to_vec_pretty(&manifest).map_err(std::io::Error::other);
        let written = text.and_then(|text| replace(&path, &text));
        written.map_err(|e| ModelError::Broken { file: path, reason: e.to_string() })
    }

    fn name_of(&self, counts: impl Fn(&str) -> bool) -> String {
        let mut hash = Sha256::new();
        for (name, file) in self.0.iter().filter(|(name, _)| counts(name)) {
            hash.update(format!("{name} {} {}\n", file.bytes, file.sha256));
        }
        hex(&hash.finalize())
    }

    /// Compares with `manifest.json`: the directory's own, or that of the directory above, which names this one's files
    /// as `actor/config.json`. Without a manifest everything passes.
    ///
    /// # Errors
    /// The first file that is missing or not what the manifest says.
    pub fn check_manifest(&self, dir: &Path) -> Result<(), ModelError> {
        if gguf::is_named(dir) {
            // A file has no manifest of its own.
            return Ok(());
        }
        let own = dir.join(MANIFEST);
        let above = dir.parent().map(|above| above.join(MANIFEST)).filter(|path| path.is_file());
        let (path, prefix) = match above {
            _ if own.is_file() => (own, String::new()),
            Some(above) => {
                (above, dir.file_name().map(|name| format!("{}/", name.to_string_lossy())).unwrap_or_default())
            }
            None => return Ok(()),
        };
        let broken = |reason: String| ModelError::Broken { file: path.clone(), reason };
        let text = files::read(&path, files::SMALL).map_err(|e| broken(e.to_string()))?;
        let manifest: Manifest = serde_json::from_slice(&text).map_err(|e| broken(format!("no manifest: {e}")))?;
        let name_here = |name: &str| name.strip_prefix(prefix.as_str()).filter(|n| !n.contains('/')).map(str::to_owned);
        for (promised, size) in &manifest.bytes {
            let Some(name) = name_here(promised) else { continue };
            let found = self.0.get(&name).map(|file| file.bytes);
            if found.is_some_and(|found| found != *size) || (found.is_none() && belongs(&name)) {
                let found = found.map_or("is missing".into(), |found| format!("has {found} bytes"));
                return Err(ModelError::Broken {
                    file: dir.join(&name),
                    reason: format!("it {found}, {} promises {size}: copy it again", path.display()),
                });
            }
        }
        for (promised, sha256) in &manifest.sha256 {
            let Some(name) = name_here(promised) else { continue };
            let found = self.0.get(&name).map(|file| file.sha256.as_str());
            if found.is_some_and(|found| found != sha256) || (found.is_none() && belongs(&name)) {
                let found = found.map_or("it is missing".into(), |found| format!("its SHA-256 is {found}"));
                return Err(ModelError::Broken {
                    file: dir.join(&name),
                    reason: format!("{found}, {} promises {sha256}: copy it again", path.display()),
                });
            }
        }
        Ok(())
    }
}

impl FileDigest {
    /// The digest of a file's contents.
    pub fn of(contents: &[u8]) -> Self {
        Self { bytes: contents.len() as u64, sha256: hex(&Sha256::digest(contents)) }
    }
}

/// Writes a file under another name, waits until it is on the disk, and renames it: a reader of `path` sees the old
/// file or the new one.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
    let mut file = builder.tempfile_in(directory)?;
    file.write_all(contents)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The names of the files of `dir` that belong to a model or an adapter, in order.
///
/// # Errors
/// `dir` cannot be listed.
pub fn files(dir: &Path) -> Result<Vec<String>, ModelError> {
    let broken = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => ModelError::NoDirectory(dir.into()),
        _ => ModelError::Broken { file: dir.into(), reason: e.to_string() },
    };
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(broken)? {
        let name = entry.map_err(broken)?.file_name().to_string_lossy().into_owned();
        if belongs(&name) && dir.join(&name).is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The paths and names of the files of a model or an adapter: a directory's files, or the parts of a GGUF file.
///
/// # Errors
/// Fails as [`files`] does.
pub fn listed(path: &Path) -> Result<(PathBuf, Vec<String>), ModelError> {
    if !gguf::is_named(path) {
        return Ok((path.into(), files(path)?));
    }
    let name = |part: &PathBuf| part.file_name().map(|name| name.to_string_lossy().into_owned());
    let names = gguf::parts(path).iter().filter_map(name).collect();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((directory.unwrap_or(Path::new(".")).into(), names))
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{TinyModel, write_json, write_model};

    #[test]
    fn a_digest_names_contents_and_nothing_else() {
        let [one, two] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        for dir in [&one, &two] {
            write_model(dir.path(), &TinyModel::default());
        }
        std::fs::write(two.path().join("train.log"), "loss").unwrap();
        let (a, b) = (Digests::of(one.path()).unwrap(), Digests::of(two.path()).unwrap());
        assert_eq!((a.all(), a.weights()), (b.all(), b.weights()));
        write_json(two.path(), "generation_config.json", &json!({}));
        let c = Digests::of(two.path()).unwrap();
        assert!(c.all() != a.all() && c.weights() == a.weights());
        write_model(two.path(), &TinyModel { seed: 2, ..TinyModel::default() });
        assert_ne!(Digests::of(two.path()).unwrap().weights(), a.weights());
    }

    #[test]
    fn a_manifest_is_kept_or_the_file_is_named() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("actor");
        std::fs::create_dir(&dir).unwrap();
        write_model(&dir, &TinyModel::default());
        let digests = Digests::of(&dir).unwrap();
        let config = &digests.0["config.json"];
        digests.check_manifest(&dir).unwrap();
        let table = [
            (json!({ "sha256": { "config.json": config.sha256 }, "bytes": { "config.json": config.bytes } }), None),
            (json!({ "sha256": { "config.json": "00" } }), Some("promises 00")),
            (json!({ "bytes": { "config.json": 1 } }), Some("promises 1")),
            (json!({ "sha256": { "merges.txt": "00" } }), Some("it is missing")),
            (json!({ "sha256": { "report.json": "00" } }), None),
            (json!("x"), Some("no manifest")),
        ];
        for (manifest, expected) in table {
            write_json(&dir, MANIFEST, &manifest);
            let message = digests.check_manifest(&dir).err().map(|e| e.to_string()).unwrap_or_default();
            assert_eq!(message.is_empty(), expected.is_none(), "{message}");
            assert!(message.contains(expected.unwrap_or_default()), "{message}");
        }
        std::fs::remove_file(dir.join(MANIFEST)).unwrap();
        write_json(
            root.path(),
            MANIFEST,
            &json!({ "sha256": { "refiner/config.json": "1", "actor/config.json": "00" } }),
        );
        assert!(digests.check_manifest(&dir).unwrap_err().to_string().contains("promises 00"));
    }
}
