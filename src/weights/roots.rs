//! Where weights may come from: directories that were named at the start, and nothing that a link leads out of them.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{digest, gguf};

/// Directories below which weights may be named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roots(Vec<PathBuf>);

/// A path that may not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// Nothing is allowed.
    #[error("no directory for weights is configured; start the server with --weights-root DIR")]
    None,
    /// A root that cannot be used.
    #[error("--weights-root {0}: {1}")]
    Broken(PathBuf, String),
    /// The path does not exist.
    #[error("{0} is not a directory or .gguf file below a --weights-root")]
    Missing(PathBuf),
    /// It is somewhere else.
    #[error("{0} leads outside of every --weights-root; copy it below one")]
    Outside(PathBuf),
}

impl Roots {
    /// These directories, links resolved.
    ///
    /// # Errors
    /// One of them is not a directory.
    pub fn new(directories: &[PathBuf]) -> Result<Self, RootError> {
        let resolve = |dir: &PathBuf| {
            let resolved = dir.canonicalize().map_err(|e| RootError::Broken(dir.clone(), e.to_string()))?;
            match resolved.is_dir() {
                true => Ok(resolved),
                false => Err(RootError::Broken(dir.clone(), "it is not a directory".into())),
            }
        };
        directories.iter().map(resolve).collect::<Result<_, _>>().map(Self)
    }

    /// The directory or GGUF file that `path` names, absolute or below one of the roots. Links and `..` are resolved before
    /// anything is compared, and every file that would be read must be below a root as well.
    ///
    /// # Errors
    /// The path does not exist, or is not below a root.
    pub fn resolve(&self, path: &Path) -> Result<PathBuf, RootError> {
        if self.0.is_empty() {
            return Err(RootError::None);
        }
        // Joining an absolute path replaces the root.
        let mut found = self.0.iter().filter_map(|root| root.join(path).canonicalize().ok());
        let Some(directory) = found.next() else { return Err(RootError::Missing(path.into())) };
        if !self.hold(&directory) {
            return Err(RootError::Outside(path.into()));
        }
        // A link may have another name than what it leads to; the files are read by the latter.
        if !directory.is_dir() && !gguf::is_named(&directory) {
            return Err(RootError::Missing(path.into()));
        }
        let (directory_of, names) = digest::listed(&directory).map_err(|_| RootError::Missing(path.into()))?;
        for name in names {
            let file = directory_of.join(&name).canonicalize().map_err(|_| RootError::Missing(path.join(&name)))?;
            if !self.hold(&file) {
                return Err(RootError::Outside(path.join(name)));
            }
        }
        Ok(directory)
    }

    /// Checks an open file: a link may have been put in its way since [`Roots::resolve`].
    ///
    /// # Errors
    /// It is not below a root.
    pub fn check(&self, file: &File) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        {
            use std::os::fd::AsRawFd;
            // The real place of the open file. Without /proc only the path was checked.
            if let Ok(place) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
                && !self.hold(&place)
            {
                return Err(io::Error::other("it leads outside of every --weights-root"));
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = file;
        Ok(())
    }

    fn hold(&self, resolved: &Path) -> bool {
        self.0.iter().any(|root| resolved.starts_with(root))
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_what_is_really_below_a_root_is_found() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path().canonicalize().unwrap();
        let (root, other) = (base.join("root"), base.join("other"));
        for dir in [root.join("model"), root.join("linked-file"), other.join("secret"), base.join("root-2/x")] {
            std::fs::create_dir_all(dir).unwrap();
        }
        std::fs::write(other.join("secret/config.json"), "{}").unwrap();
        symlink(&other, root.join("escape")).unwrap();
        symlink(root.join("model"), root.join("alias")).unwrap();
        symlink(other.join("secret/config.json"), root.join("linked-file/config.json")).unwrap();
        let roots = Roots::new(std::slice::from_ref(&root)).unwrap();
        let inside = Ok(root.join("model"));
        let outside = |path: &str| Err(RootError::Outside(path.into()));
        let missing = |path: &str| Err(RootError::Missing(path.into()));
        let absolute = root.join("model").display().to_string();
        let table: [(&str, Result<PathBuf, RootError>); 9] = [
            ("model", inside.clone()),
            (&absolute, inside.clone()),
            ("alias", inside.clone()),
            ("escape/../root/model", inside),
            ("../other/secret", outside("../other/secret")),
            ("escape/secret", outside("escape/secret")),
            ("../root-2/x", outside("../root-2/x")),
            ("linked-file", outside("linked-file/config.json")),
            ("nowhere", missing("nowhere")),
        ];
        for (path, expected) in table {
            assert_eq!(roots.resolve(Path::new(path)), expected, "{path}");
        }
        // A link that was put there after the check is noticed when the file is open.
        let linked = File::open(root.join("linked-file/config.json")).unwrap();
        assert!(roots.check(&linked).is_err());
        std::fs::write(root.join("model/config.json"), "{}").unwrap();
        roots.check(&File::open(root.join("alias/config.json")).unwrap()).unwrap();
        assert_eq!(Roots::default().resolve(&root), Err(RootError::None));
        assert!(Roots::new(&[base.join("nowhere")]).is_err());
    }
}
