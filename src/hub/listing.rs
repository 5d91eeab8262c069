//! What a repository holds: the hub's answer, of which nothing is believed before it is checked.

use serde::Deserialize;

use super::choose::{self, Wanted};
use super::{HubError, HubName};

/// The files of a model that are fetched, with what they must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The commit's hash.
    pub commit: String,
    /// The repository's files.
    pub files: Vec<Remote>,
    pub(super) wanted: Wanted,
}

/// A file on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The file's name.
    pub name: String,
    /// The file's size in bytes.
    pub bytes: u64,
    /// Its contents' checksum.
    pub checksum: Checksum,
}

/// A checksum, in hexadecimal digits, which is also the file's name in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The checksum of large files.
    Sha256(String),
    /// Git's own, of small ones: SHA-1 of a header and the contents.
    Git(String),
}

impl Checksum {
    /// The checksum's digits.
    pub fn digits(&self) -> &str {
        let (Self::Sha256(digits) | Self::Git(digits)) = self;
        digits
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Sibling {
    #[serde(rename = "rfilename")]
    name: String,
    size: Option<u64>,
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: u64,
}

impl Listing {
    /// Reads the hub's answer and chooses the files.
    pub(super) fn read(name: &HubName, endpoint: &str, answer: &[u8]) -> Result<Self, HubError> {
        let strange = |reason: String| HubError::Network { endpoint: endpoint.into(), reason };
        let Answer { sha, siblings } = serde_json::from_slice(answer)
            .map_err(|e| strange(format!("its answer about {name} cannot be read: {e}; check HF_ENDPOINT")))?;
        if !is_hexadecimal(&sha, 40) {
            return Err(strange(format!("its answer about {name} names no commit")));
        }
        let names: Vec<String> = siblings.iter().map(|sibling| sibling.name.clone()).collect();
        let wanted = choose::wanted(name, &names)?;
        let remote = |file: &String| {
            let sibling = siblings.iter().find(|sibling| sibling.name == *file);
            let sibling = sibling.ok_or_else(|| strange(format!("it does not list {file}")))?;
            let (bytes, checksum) = match (&sibling.lfs, sibling.size, &sibling.blob_id) {
                (Some(lfs), ..) => (lfs.size, Checksum::Sha256(lfs.sha256.clone())),
                (None, Some(size), Some(id)) => (size, Checksum::Git(id.clone())),
                _ => return Err(strange(format!("it gives {file} neither a size nor a checksum"))),
            };
            let digits = if matches!(checksum, Checksum::Sha256(_)) { 64 } else { 40 };
            if !is_hexadecimal(checksum.digits(), digits) {
                return Err(strange(format!("the checksum of {file} is none")));
            }
            Ok(Remote { name: file.clone(), bytes, checksum })
        };
        let files = wanted.files().iter().map(remote).collect::<Result<_, _>>()?;
        Ok(Self { commit: sha, files, wanted })
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).fold(0, u64::saturating_add)
    }
}

fn is_hexadecimal(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
