//! The cache that programs share: a directory for each repository, with files by their checksums (`blobs`), the files of a commit
//! as links to these (`snapshots`), and the commits of branches (`refs`).

use std::fs;
use std::path::{Path, PathBuf};

use super::choose::{self, Wanted};
use super::{HubError, HubName};

const PREFIX: &str = "models--";

/// A cache of downloaded files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Its directory, `hub` below `HF_HOME`.
    pub root: PathBuf,
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Its name, with the file where it is one of GGUF's.
    pub name: HubName,
    /// The directory of the commit, or the GGUF file.
    pub path: PathBuf,
    /// Bytes of its weights.
    pub bytes: u64,
}

impl Cache {
    /// Where the environment says: `HF_HUB_CACHE`, `hub` below `HF_HOME`, or else in the user's cache.
    ///
    /// # Errors
    /// None of the variables says anything.
    pub fn from_env() -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let caches = || variable("XDG_CACHE_HOME").or_else(|| variable("HOME").map(|home| home.join(".cache")));
        let home = || variable("HF_HOME").or_else(|| caches().map(|caches| caches.join("huggingface")));
        let root = variable("HF_HUB_CACHE").or_else(|| home().map(|home| home.join("hub")));
        let nowhere = || HubError::Cache {
            file: "models".into(),
            reason: "there is no place for them; set HF_HOME to a directory".into(),
        };
        root.map(|root| Self { root }).ok_or_else(nowhere)
    }

    /// The token that `hf auth login` wrote beside it.
    pub(super) fn token(&self) -> Option<String> {
        let token = fs::read_to_string(self.root.parent()?.join("token")).ok()?;
        Some(token.trim().to_owned()).filter(|token| !token.is_empty())
    }

    /// The directory of a repository.
    pub(super) fn repository(&self, name: &HubName) -> PathBuf {
        self.root.join(format!("{PREFIX}{}--{}", name.owner, name.model))
    }

    /// The path of a model, if all of its files are here.
    ///
    /// # Errors
    /// Several of its files may be meant.
    pub fn find(&self, name: &HubName) -> Result<Option<PathBuf>, HubError> {
        match self.snapshot(name) {
            Some(snapshot) => whole(name, &snapshot),
            None => Ok(None),
        }
    }

    /// The directory of the commit that a name means, if there is one.
    fn snapshot(&self, name: &HubName) -> Option<PathBuf> {
        let repository = self.repository(name);
        let commit = fs::read_to_string(repository.join("refs").join(name.revision())).ok();
        let commit = commit.map(|commit| commit.trim().to_owned());
        // A commit may be named itself, and is its own directory.
        let commit = commit.unwrap_or_else(|| name.revision().to_owned());
        let is_one_name = Path::new(&commit).file_name() == Some(commit.as_ref());
        let snapshot = repository.join("snapshots").join(&commit);
        (is_one_name && snapshot.is_dir()).then_some(snapshot)
    }

    /// Every whole model, by name.
    ///
    /// # Errors
    /// The cache cannot be listed.
    pub fn models(&self) -> Result<Vec<Cached>, HubError> {
        let mut found = Vec::new();
        for repository in names(&self.root)? {
            let Some((owner, model)) = repository.strip_prefix(PREFIX).and_then(|rest| rest.split_once("--")) else {
                continue;
            };
            let Ok(plain) = format!("{owner}/{model}").parse::<HubName>() else { continue };
            for revision in names(&self.repository(&plain).join("refs"))? {
                let revision = (revision != plain.revision()).then_some(revision);
                let name = HubName { revision, ..plain.clone() };
                let Some(snapshot) = self.snapshot(&name) else { continue };
                found.extend(in_snapshot(&name, &snapshot)?);
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }
}

/// The models of one commit: its safetensors, and each of its GGUF files.
fn in_snapshot(name: &HubName, snapshot: &Path) -> Result<Vec<Cached>, HubError> {
    let files = names(snapshot)?;
    let mut found = Vec::new();
    for label in choose::labels(&files) {
        let one = HubName { file: Some(label), ..name.clone() };
        if let Some(path) = whole(&one, snapshot)? {
            let parts = crate::weights::gguf::parts(&path);
            found.push(Cached { name: one, bytes: bytes(parts.iter()), path });
        }
    }
    if files.iter().any(|file| file.ends_with(".safetensors"))
        && let Some(path) = whole(name, snapshot)?
        && path == snapshot
    {
        let weights: Vec<PathBuf> =
            files.iter().filter(|file| file.ends_with(".safetensors")).map(|file| path.join(file)).collect();
        found.push(Cached { name: name.clone(), bytes: bytes(weights.iter()), path });
    }
    Ok(found)
}

fn bytes<'a>(files: impl Iterator<Item = &'a PathBuf>) -> u64 {
    files.filter_map(|file| fs::metadata(file).ok()).map(|metadata| metadata.len()).sum()
}

/// The path of a model in a commit's directory, if all of its files are there: a program that was killed leaves some of them.
fn whole(name: &HubName, snapshot: &Path) -> Result<Option<PathBuf>, HubError> {
    let files = names(snapshot)?;
    let wanted = match choose::wanted(name, &files) {
        Ok(wanted) => wanted,
        // What is missing may be on the hub.
        Err(_) => return Ok(None),
    };
    let there = |file: &String| snapshot.join(file).is_file();
    let index = snapshot.join(choose::INDEX);
    match wanted {
        Wanted::Gguf(parts) => {
            let first = snapshot.join(&parts[0]);
            let all = crate::weights::gguf::parts(&first).iter().all(|part| part.is_file());
            Ok(all.then_some(first))
        }
        Wanted::Directory(files) => {
            let shards = if index.is_file() { choose::shards(&index)? } else { Vec::new() };
            let needed = ["config.json", "tokenizer.json"].map(str::to_owned);
            let all = files.iter().chain(&shards).chain(&needed).all(there);
            Ok(all.then(|| snapshot.to_owned()))
        }
    }
}

/// The names in a directory, in order; none where there is no directory.
fn names(directory: &Path) -> Result<Vec<String>, HubError> {
    let failed = |e: std::io::Error| HubError::Cache { file: directory.into(), reason: e.to_string() };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let name =
        |entry: std::io::Result<fs::DirEntry>| entry.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = entries.map(name).collect::<Result<_, _>>().map_err(failed)?;
    names.sort();
    Ok(names)
}
