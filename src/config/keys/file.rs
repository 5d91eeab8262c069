//! A file of keys with names, limits and roles, in TOML or JSON.

use serde::Deserialize;

use super::{ApiKey, KeyLimits, digest};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    keys: Vec<Entry>,
}

/// One key. Exactly one of `key` and `sha256` is there.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    key: Option<String>,
    sha256: Option<String>,
    running: Option<usize>,
    waiting: Option<usize>,
    tokens_per_minute: Option<u64>,
    max_search_budget: Option<usize>,
    models: Option<Vec<String>>,
    #[serde(default)]
    admin: bool,
}

pub(super) fn toml(text: &str) -> Result<Vec<ApiKey>, String> {
    // Its messages show the line at fault, in which a key may stand.
    let file: KeyFile = ::toml::from_str(text).map_err(|error| place(text, &error))?;
    checked(file)
}

pub(super) fn json(text: &str) -> Result<Vec<ApiKey>, String> {
    let file: KeyFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    checked(file)
}

fn place(text: &str, error: &::toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
}

fn checked(file: KeyFile) -> Result<Vec<ApiKey>, String> {
    let mut keys: Vec<ApiKey> = Vec::with_capacity(file.keys.len());
    for entry in file.keys {
        let name = entry.name.clone();
        if keys.iter().any(|other| other.name.as_deref() == Some(&name)) {
            return Err(format!("the name `{name}` is there twice; give each entry its own"));
        }
        keys.push(entry.checked().map_err(|reason| format!("entry `{name}`: {reason}"))?);
    }
    Ok(keys)
}

impl Entry {
    fn checked(self) -> Result<ApiKey, String> {
        let letters = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=64).contains(&self.name.len()) || !self.name.chars().all(letters) {
            return Err("`name` must be between 1 and 64 letters, digits and any of -_.".into());
        }
        let digest = match (&self.key, &self.sha256) {
            (Some(key), None) if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) => {
                return Err("`key` must be printable ASCII without spaces, and not empty".into());
            }
            (Some(key), None) => digest(key),
            (None, Some(hex)) => bytes(hex).ok_or("`sha256` must be 64 hexadecimal digits: the key's SHA-256")?,
            (Some(_), Some(_)) | (None, None) => return Err("name either `key` or `sha256`".into()),
        };
        if self.running == Some(0) {
            return Err("`running` must be at least 1; remove the entry to shut its key out".into());
        }
        if self.tokens_per_minute == Some(0) {
            return Err("`tokens_per_minute` must be at least 1; remove the entry to shut its key out".into());
        }
        let models = self.models.as_deref();
        if models.is_some_and(<[String]>::is_empty) {
            return Err("`models` must name at least one model; leave it out to allow all of them".into());
        }
        if let Some(name) = models.unwrap_or_default().iter().find_map(|name| name.strip_suffix(":search")) {
            return Err(format!("a name in `models` allows its `:search` alias, too; name `{name}` instead"));
        }
        let Self { running, waiting, tokens_per_minute, max_search_budget, models, admin, .. } = self;
        let limits = KeyLimits { running, waiting, tokens_per_minute, max_search_budget };
        Ok(ApiKey { name: Some(self.name), digest, limits, models, admin })
    }
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut bytes = [0; 32];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[index * 2..index * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}
