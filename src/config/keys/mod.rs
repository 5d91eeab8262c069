//! Keys, from files and the environment: who may call, how much, and who may swap weights. Keys are never shown, and only
//! their digests are kept.

mod file;

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::error::{ConfigError, require};

/// What comes from the environment and is never shown.
#[derive(Clone, Copy, Default)]
pub struct Secrets<'a> {
    /// SPAR_API_KEYS: separated by commas.
    pub api_keys: Option<&'a str>,
    /// The value of SPAR_ADMIN_KEY.
    pub admin_key: Option<&'a str>,
}

/// How much a key may have; what is absent follows from the server's own settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyLimits {
    /// Requests that run at the same time.
    pub running: Option<usize>,
    /// Requests that wait at the same time.
    pub waiting: Option<usize>,
    /// Tokens of prompts and replies within any minute.
    pub tokens_per_minute: Option<u64>,
    /// The largest search budget that a request may ask for.
    pub max_search_budget: Option<usize>,
}

/// A key that callers may show.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What logs and metrics call it; `None` for keys without a name.
    pub name: Option<String>,
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// How much it may have.
    pub limits: KeyLimits,
    /// The models and adapters that it may use, by name; absent: all of them.
    pub models: Option<Vec<String>>,
    /// Whether it opens the admin routes, too.
    pub admin: bool,
}

impl ApiKey {
    /// A key without a name or limits of its own.
    fn plain(key: &str) -> Self {
        Self { name: None, digest: digest(key), limits: KeyLimits::default(), models: None, admin: false }
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("name", &self.name).field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// SHA-256 of a key.
pub fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

/// The keys that callers must show one of. Without any, everybody may call.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys {
    /// The keys of SPAR_API_KEYS.
    pub environment: Vec<ApiKey>,
    /// The file of further keys, which is read again when it changes.
    pub file: Option<PathBuf>,
    /// What was read from it at the start.
    pub from_file: Vec<ApiKey>,
}

impl ApiKeys {
    /// Every key, in the order of its sources.
    pub fn all(&self) -> impl Iterator<Item = &ApiKey> {
        self.environment.iter().chain(&self.from_file)
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.all().count()
    }

    /// Whether everybody may call.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether one of them opens the admin routes.
    pub fn has_admin(&self) -> bool {
        self.all().any(|key| key.admin)
    }
}

/// The keys that callers must show one of.
pub(super) fn api_keys(file: Option<&Path>, secret: Option<&str>) -> Result<ApiKeys, ConfigError> {
    let words = secret.unwrap_or_default().split([',', '\n']).map(str::trim).filter(|key| !key.is_empty());
    let environment: Vec<ApiKey> = words.map(ApiKey::plain).collect();
    // What was meant to protect the server must not open it.
    require(secret.is_none() || !environment.is_empty(), || {
        "SPAR_API_KEYS is set but holds no key: name at least one, or unset it so that everybody may call".into()
    })?;
    require(secret.is_none_or(str::is_ascii), || "API keys must be ASCII, and one of SPAR_API_KEYS is not".into())?;
    let from_file = file.map(read_keys).transpose()?.unwrap_or_default();
    let keys = ApiKeys { environment, file: file.map(Path::to_owned), from_file };
    unique(&keys.environment, &keys.from_file)?;
    Ok(keys)
}

/// The keys of a file, in the format that its name says: TOML, JSON, or else a key on each line.
///
/// # Errors
/// One line that names the file and, where it is known, the entry.
pub fn read_keys(path: &Path) -> Result<Vec<ApiKey>, ConfigError> {
    let failed = |reason: String| ConfigError(format!("--api-keys-file {}: {reason}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
    let keys = match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => file::toml(&text),
        Some("json") => file::json(&text),
        _ => lines(&text),
    };
    let keys = keys.map_err(failed)?;
    require(!keys.is_empty(), || format!("--api-keys-file {} holds no key", path.display()))?;
    Ok(keys)
}

fn lines(text: &str) -> Result<Vec<ApiKey>, String> {
    let lines = || text.lines().map(str::trim).filter(|key| !key.is_empty());
    if lines().next().is_some_and(|first| first.starts_with(['[', '{'])) {
        return Err("it looks like TOML or JSON; a file of that format must be named *.toml or *.json".into());
    }
    match lines().all(str::is_ascii) {
        true => Ok(lines().map(ApiKey::plain).collect()),
        false => Err("API keys must be ASCII".into()),
    }
}

/// Two entries of one key would be two callers; the same key twice is meant once.
///
/// # Errors
/// Names the entry whose key another one has.
pub fn unique(environment: &[ApiKey], from_file: &[ApiKey]) -> Result<(), ConfigError> {
    for (index, key) in from_file.iter().enumerate() {
        let others = environment.iter().chain(&from_file[..index]);
        let same =
            others.clone().any(|other| other.digest == key.digest && (other.name.is_some() || key.name.is_some()));
        let called = key.name.as_deref().unwrap_or("without a name");
        require(!same, || {
            format!("--api-keys-file: the key of the entry `{called}` is there twice; give each its own")
        })?;
    }
    Ok(())
}

/// The key to the admin routes.
pub(super) fn admin_key(file: Option<&Path>, secret: Option<&str>) -> Result<Option<SecretString>, ConfigError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|e| ConfigError(format!("--admin-key-file {}: {e}", path.display())))
    };
    let file = file.map(read).transpose()?;
    let keys = [file.as_deref(), secret].map(|key| key.map(str::trim));
    require(keys[0] != Some(""), || "--admin-key-file holds no key".into())?;
    require(keys[0].is_none() || keys[1].is_none(), || {
        "the admin key is given twice: by SPAR_ADMIN_KEY and by --admin-key-file".into()
    })?;
    let key = keys.into_iter().flatten().find(|key| !key.is_empty());
    require(key.is_none_or(|key| key.bytes().all(|byte| byte.is_ascii_graphic())), || {
        "the admin key must be one line of printable ASCII without spaces".into()
    })?;
    Ok(key.map(SecretString::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Result<Vec<ApiKey>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let keys = read_keys(&path).map_err(|error| error.to_string())?;
        unique(&[ApiKey::plain("taken")], &keys).map_err(|error| error.to_string())?;
        Ok(keys)
    }

    #[test]
    fn a_plain_file_has_a_key_on_each_line() {
        let keys = read("keys.txt", "alpha\n\n  beta \nalpha\n").unwrap();
        assert_eq!(keys, ["alpha", "beta", "alpha"].map(ApiKey::plain));
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let sha256: String = digest("second").iter().map(|byte| format!("{byte:02x}")).collect();
        let toml = format!(
            "[[keys]]\nname = \"team-a\"\nkey = \"first\"\nrunning = 4\nwaiting = 0\ntokens_per_minute = 100\n\
             max_search_budget = 0\nmodels = [\"base\", \"mine\"]\nadmin = true\n\n[[keys]]\nname = \"b\"\nsha256 = \"{}\"\n",
            sha256.to_uppercase()
        );
        let json = format!(
            r#"{{"keys": [{{"name": "team-a", "key": "first", "running": 4, "waiting": 0, "tokens_per_minute": 100,
                "max_search_budget": 0, "models": ["base", "mine"], "admin": true}}, {{"name": "b", "sha256": "{sha256}"}}]}}"#
        );
        let limits =
            KeyLimits { running: Some(4), waiting: Some(0), tokens_per_minute: Some(100), max_search_budget: Some(0) };
        let models = Some(vec!["base".to_owned(), "mine".to_owned()]);
        let first = ApiKey { name: Some("team-a".into()), digest: digest("first"), limits, models, admin: true };
        let second = ApiKey { name: Some("b".into()), ..ApiKey::plain("second") };
        let expected = [first, second];
        assert_eq!(read("keys.toml", &toml).unwrap(), expected);
        assert_eq!(read("keys.json", &json).unwrap(), expected);
        assert!(!format!("{expected:?}").contains(&sha256));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let table = [
            ("none.txt", "\n\n", "holds no key"),
            ("keys.txt", "[[keys]]\nname = \"a\"", "must be named *.toml or *.json"),
            ("keys.txt", "schlüssel", "ASCII"),
            ("keys.toml", "", "missing field `keys`"),
            ("keys.toml", "keys = []", "holds no key"),
            ("keys.toml", "[[keys]]\nname = \"a\"", "entry `a`: name either `key` or `sha256`"),
            ("keys.toml", "[[keys]]\nname = \"a\"\nkey = \"k\"\nsha256 = \"00\"", "either `key` or `sha256`"),
            ("keys.toml", "[[keys]]\nname = \"a\"\nsha256 = \"00\"", "entry `a`: `sha256` must be 64 hexadecimal"),
            ("keys.toml", "[[keys]]\nname = \"a b\"\nkey = \"k\"", "`name` must be between 1 and 64"),
            ("keys.toml", "[[keys]]\nname = \"a\"\nkey = \"a b\"", "entry `a`: `key` must be printable ASCII"),
            (
                "keys.toml",
                "[[keys]]\nname = \"a\"\nkey = \"k\"\nrunning = 0",
                "entry `a`: `running` must be at least 1",
            ),
            ("keys.toml", "[[keys]]\nname = \"a\"\nkey = \"k\"\ntokens_per_minute = 0", "`tokens_per_minute` must be"),
            ("keys.toml", "[[keys]]\nname = \"a\"\nkey = \"k\"\nmodels = []", "`models` must name at least one model"),
            ("keys.toml", "[[keys]]\nname = \"a\"\nkey = \"k\"\nmodels = [\"m:search\"]", "name `m` instead"),
            ("keys.toml", "[[keys]]\nname = \"a\"\nkey = \"k\"\nlimit = 3", "unknown field `limit`"),
            ("keys.toml", "[[keys]]\nkey = \"k\"", "missing field `name`"),
            (
                "keys.toml",
                "[[keys]]\nname = \"a\"\nkey = \"k\"\n[[keys]]\nname = \"a\"\nkey = \"l\"",
                "`a` is there twice",
            ),
            (
                "keys.toml",
                "[[keys]]\nname = \"a\"\nkey = \"k\"\n[[keys]]\nname = \"b\"\nkey = \"k\"",
                "`b` is there twice",
            ),
            ("keys.toml", "[[keys]]\nname = \"a\"\nkey = \"taken\"", "`a` is there twice"),
            ("keys.json", "5", "invalid type"),
            ("keys.json", "{", "EOF"),
        ];
        for (name, text, expected) in table {
            let message = read(name, text).unwrap_err();
            assert!(message.contains(expected) && message.contains("--api-keys-file"), "{text:?}: {message}");
            assert!(!message.contains('\n'), "{message}");
        }
    }
}
