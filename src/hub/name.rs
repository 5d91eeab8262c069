//! Names of models on a hub: `org/name`, `org/name:Q4_K_M` and `org/name@revision`.

use std::fmt;
use std::str::FromStr;

use super::HubError;

/// The revision that is meant where none is named.
const MAIN: &str = "main";
const MOST: usize = 96;

/// A model on a hub.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HubName {
    /// Who has it.
    pub owner: String,
    /// The repository's name.
    pub model: String,
    /// Which of its GGUF files, by a part of the file's name.
    pub file: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: Option<String>,
}

impl HubName {
    /// The repository as `org/name`.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.model)
    }

    /// The revision, or the usual one.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The name that clients use for it.
    pub fn served(&self) -> String {
        match &self.file {
            Some(file) => format!("{}/{}:{file}", self.owner, self.model),
            None => self.repository(),
        }
    }
}

impl FromStr for HubName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = |reason| HubError::Name(text.into(), reason);
        let (rest, revision) = match text.split_once('@') {
            Some((rest, revision)) => (rest, Some(revision)),
            None => (text, None),
        };
        let (repository, file) = match rest.split_once(':') {
            Some((repository, file)) => (repository, Some(file)),
            None => (rest, None),
        };
        let (owner, model) = repository.split_once('/').ok_or_else(|| wrong("it has the form org/name"))?;
        let plain = |part: &str| {
            let letters = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let edges = |c: char| matches!(c, '-' | '.');
            !part.is_empty()
                && part.len() <= MOST
                && part.chars().all(letters)
                && !part.contains("..")
                && !part.contains("--")
                && !part.starts_with(edges)
                && !part.ends_with(edges)
        };
        if !plain(owner) || !plain(model) {
            return Err(wrong("org and name have letters, digits and single -, _ and . between them"));
        }
        if file.is_some_and(|file| !plain(file)) {
            return Err(wrong("after the colon is a part of a GGUF file's name, such as Q4_K_M"));
        }
        // Branches may have slashes: each of their parts is a name of its own.
        if revision.is_some_and(|revision| !revision.split('/').all(plain)) {
            return Err(wrong("after the @ is a branch, a tag or a commit"));
        }
        let owned = |part: Option<&str>| part.map(str::to_owned);
        Ok(Self { owner: owner.into(), model: model.into(), file: owned(file), revision: owned(revision) })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.served())?;
        self.revision.as_ref().map_or(Ok(()), |revision| write!(f, "@{revision}"))
    }
}
