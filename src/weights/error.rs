//! Why a model directory cannot be used, in one line that names the file and what to do.

use std::path::PathBuf;

/// A model directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The path is neither a directory nor a GGUF file.
    #[error("{} is not a directory and not a .gguf file; --model takes the path of one of these", .0.display())]
    NoDirectory(PathBuf),
    /// A file that every model needs.
    #[error("{} does not exist; {remedy}", file.display())]
    Missing {
        /// The file that is missing.
        file: PathBuf,
        /// What to do.
        remedy: String,
    },
    /// A file that cannot be read or says something impossible.
    #[error("{}: {reason}", file.display())]
    Broken {
        /// The file that is damaged.
        file: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A tensor that is missing or wrong.
    #[error("{}: tensor `{tensor}`: {reason}", file.display())]
    Tensor {
        /// The file that holds it or should.
        file: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// The files are fine, but this engine cannot run such a model.
    #[error("{}: {reason}", dir.display())]
    Unsupported {
        /// The model's directory.
        dir: PathBuf,
        /// What is not supported.
        reason: String,
    },
}
