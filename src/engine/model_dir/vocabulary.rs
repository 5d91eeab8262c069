//! Tokenizers. Equal files share one in memory: roles and generations mostly have the same, and a large one takes a second and
//! a hundred megabytes to read.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tokenizers::Tokenizer;

use super::ModelError;
use super::growth;
use super::longest::longest;
use crate::engine::pieces::Pieces;
use crate::weights::digest::hex;
use crate::weights::files;

/// A tokenizer and what follows from it alone.
pub(super) struct Vocabulary {
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) pieces: Arc<Pieces>,
    /// The most bytes of text that become one token, where there is a bound.
    pub(super) longest: Option<usize>,
    digest: OnceLock<String>,
}

type Open = HashMap<[u8; 32], Weak<Vocabulary>>;

/// What is in use, by the file's SHA-256.
static OPEN: OnceLock<Mutex<Open>> = OnceLock::new();

impl Vocabulary {
    /// Reads a `tokenizer.json`, or takes what was read of an equal one that is in use.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(super) fn open(file: &Path) -> Result<Arc<Self>, ModelError> {
        if !file.is_file() {
            let remedy = "save the model's fast tokenizer there".into();
            return Err(ModelError::Missing { file: file.into(), remedy });
        }
        let broken = |reason: String| ModelError::Broken { file: file.into(), reason };
        Self::of(&files::read(file, files::LARGE).map_err(|e| broken(e.to_string()))?, file)
    }

    /// Reads the contents of a `tokenizer.json`, or takes what was read of equal ones that are in use. Errors name `file`.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub(super) fn of(bytes: &[u8], file: &Path) -> Result<Arc<Self>, ModelError> {
        let broken = |reason: String| ModelError::Broken { file: file.into(), reason };
        let sha256 = Sha256::digest(bytes).into();
        let open = || OPEN.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = open().get(&sha256).and_then(Weak::upgrade) {
            return Ok(shared);
        }
        let read = Arc::new(Self::read(bytes).map_err(broken)?);
        let mut open = open();
        open.retain(|_, vocabulary| vocabulary.strong_count() > 0);
        open.insert(sha256, Arc::downgrade(&read));
        Ok(read)
    }

    fn read(bytes: &[u8]) -> Result<Self, String> {
        let file = serde_json::from_slice::<Value>(bytes).map_err(|e| format!("not valid JSON: {e}"))?;
        growth::check(&file)?;
        drop(file);
        let broken = |e: tokenizers::Error| e.to_string().replace('\n', " ");
        let mut tokenizer = Tokenizer::from_bytes(bytes).map_err(broken)?;
        // Files may ask for padding or truncation, which are for training.
        growth::check_characters(&tokenizer)?;
        tokenizer.with_padding(None).with_truncation(None).map_err(broken)?;
        let pieces = Arc::new(Pieces::new(&tokenizer)?);
        let longest = longest(&tokenizer, &pieces);
        Ok(Self { tokenizer: Arc::new(tokenizer), pieces, longest, digest: OnceLock::new() })
    }

    /// SHA-256 of the tokenizer as it is written, whatever the file's layout.
    pub(super) fn digest(&self) -> &str {
        self.digest.get_or_init(|| hex(&Sha256::digest(self.tokenizer.to_string(false).unwrap_or_default())))
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::AddedToken;

    use super::*;
    use crate::testing;

    #[test]
    fn equal_files_share_one_as_long_as_it_is_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let [one, other, spaced] = ["a", "b", "c"].map(|name| dir.path().join(name));
        // Other tests use the plain one meanwhile.
        let mut tokenizer = testing::tokenizer();
        tokenizer.add_special_tokens(&[AddedToken::from("<|of this test|>", true)]);
        tokenizer.save(&one, false).unwrap();
        std::fs::copy(&one, &other).unwrap();
        tokenizer.save(&spaced, true).unwrap();
        let [first, second, third] = [&one, &other, &spaced].map(|file| Vocabulary::open(file).unwrap());
        assert!(Arc::ptr_eq(&first, &second) && !Arc::ptr_eq(&first, &third));
        assert_eq!(first.digest(), third.digest());
        let gone = Arc::downgrade(&first);
        drop((first, second));
        assert!(gone.upgrade().is_none());
        Vocabulary::open(&one).unwrap();
    }
}
