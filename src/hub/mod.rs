//! Models by the names that they have on a hub such as huggingface.co: looked up in the local cache first, which other programs
//! share, and fetched where that is allowed. Nothing that runs code is fetched, and nothing is used before its checksum is right.

mod cache;
mod choose;
mod fetch;
mod listing;
mod name;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

pub use self::cache::{Cache, Cached};
pub use self::fetch::Progress;
pub use self::listing::Listing;
pub use self::name::HubName;
use crate::weights::gguf;

/// Where models are looked for, and on whose behalf.
#[derive(Clone, Debug)]
pub struct Hub {
    /// Files that are here already.
    pub cache: Cache,
    /// The hub's address, without a slash at the end.
    pub endpoint: String,
    /// Sent as a bearer token.
    pub token: Option<String>,
    /// Nothing is fetched.
    pub offline: bool,
    /// Time without any byte of an answer after which it is asked for again.
    pub patience: Duration,
}

/// Why a model is not there.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name cannot be one of a model.
    #[error("`{0}` is no name of a model: {1}")]
    Name(String, &'static str),
    /// It is not in the cache, and nothing may be fetched.
    #[error("{name} is not in {}, and nothing is fetched ({why}); run `spar pull {name}` where the network may be used", cache.display())]
    Offline {
        /// The repository's name.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
        /// What forbids it.
        why: &'static str,
    },
    /// The hub knows no such model, or does not show it.
    #[error("{endpoint} has no model `{name}`, or it is private; check the name, and set HF_TOKEN where it is yours")]
    Unknown {
        /// The hub's address.
        endpoint: String,
        /// The repository's name.
        name: String,
    },
    /// The hub wants to know who asks.
    #[error(
        "{endpoint} does not give `{name}` to everybody (status {status}); accept its terms at {endpoint}/{repository} and set HF_TOKEN to a token that may read it"
    )]
    Forbidden {
        /// The hub's address.
        endpoint: String,
        /// The repository's name.
        name: String,
        /// The repository in it.
        repository: String,
        /// The answer's status.
        status: u16,
    },
    /// The repository has nothing that can be served.
    #[error("{name}: {reason}")]
    Nothing {
        /// The repository's name.
        name: String,
        /// What it has instead.
        reason: String,
    },
    /// The connection, or an answer that makes no sense.
    #[error("{endpoint}: {reason}")]
    Network {
        /// The hub's address.
        endpoint: String,
        /// What happened, and what to do.
        reason: String,
    },
    /// A file that came is not the one that was promised.
    #[error("{file} of {name} is not what {endpoint} promised: {reason}; nothing of it is used")]
    Damaged {
        /// The hub's address.
        endpoint: String,
        /// The repository's name.
        name: String,
        /// The damaged file.
        file: String,
        /// What is different.
        reason: String,
    },
    /// The cache cannot be read or written.
    #[error("{}: {reason}", file.display())]
    Cache {
        /// The file or directory.
        file: PathBuf,
        /// What went wrong.
        reason: String,
    },
}

impl Hub {
    /// The hub of the environment: `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE`.
    ///
    /// # Errors
    /// There is no place for a cache.
    pub fn from_env(offline: bool) -> Result<Self, HubError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        let cache = Cache::from_env()?;
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let forbidden = variable("HF_HUB_OFFLINE")
            .is_some_and(|value| matches!(value.to_ascii_lowercase().as_str(), "1" | "true" | "yes" | "on"));
        Ok(Self {
            token: variable("HF_TOKEN").or_else(|| cache.token()).map(|token| token.trim().to_owned()),
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            offline: offline || forbidden,
            patience: Duration::from_secs(30),
            cache,
        })
    }

    /// The path of a model: the cache's, or what is fetched into it. `progress` is told before anything comes.
    ///
    /// # Errors
    /// [`HubError`] in one line.
    pub fn path(&self, name: &HubName, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        match self.cache.find(name)? {
            Some(path) => Ok(path),
            None => self.pull(name, progress),
        }
    }

    /// Gives the path like [`Hub::path`], but what the hub has now is fetched where it differs from the cache's.
    ///
    /// # Errors
    /// [`HubError`] in one line.
    pub fn pull(&self, name: &HubName, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        if self.offline {
            let (cache, why) = (self.cache.root.clone(), "--offline or HF_HUB_OFFLINE");
            return Err(HubError::Offline { name: name.to_string(), cache, why });
        }
        let failed = |e: std::io::Error| HubError::Network { endpoint: self.endpoint.clone(), reason: e.to_string() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(fetch::fetch(self, name, progress))
    }
}

/// The name on a hub that `typed` is: of the form `org/name`, and nothing on this machine.
pub fn named(typed: &Path) -> Option<HubName> {
    let text = typed.to_str()?;
    let local = typed.exists() || gguf::is_named(typed) || typed.is_absolute() || text.starts_with('.');
    if local { None } else { text.parse().ok() }
}
