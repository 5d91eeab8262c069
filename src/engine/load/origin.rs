//! What is loaded, and where it came from.

use std::fmt;
use std::path::PathBuf;

use crate::engine::generation::registry::AdapterSource;

/// Where a role's weights came from, and what computes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The model's directory, or what answers in place of one.
    pub model: String,
    /// The adapter on it.
    pub adapter: Option<AdapterSource>,
    /// The engine's name.
    pub engine: &'static str,
    /// Why it is this one.
    pub why: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.model)?;
        if let Some(adapter) = &self.adapter {
            write!(f, " with the adapter {}", adapter.path.display())?;
        }
        write!(f, "; engine {}: {}", self.engine, self.why)
    }
}

/// A model's directory and that of the adapter on it, as they were named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The model's directory.
    pub model: PathBuf,
    /// The adapter's directory.
    pub adapter: Option<PathBuf>,
}
