//! Keys, from files and the environment; never shown.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

use super::{ConfigError, HttpArgs, SwapArgs, require};

/// What comes from the environment and is never shown.
#[derive(Clone, Copy, Default)]
pub struct Secrets<'a> {
    /// SPAR_API_KEYS: separated by commas.
    pub api_keys: Option<&'a str>,
    /// The value of SPAR_ADMIN_KEY.
    pub admin_key: Option<&'a str>,
}

/// The keys that callers must show one of.
pub(super) fn api_keys(http: &HttpArgs, env_keys: Option<&str>) -> Result<Vec<SecretString>, ConfigError> {
    let mut text = env_keys.unwrap_or_default().replace(',', "\n");
    if let Some(path) = &http.api_keys_file {
        let file = std::fs::read_to_string(path)
            .map_err(|e| ConfigError(format!("--api-keys-file {}: {e}", path.display())))?;
        text.push('\n');
        text.push_str(&file);
    }
    let keys: Vec<SecretString> =
        text.lines().map(str::trim).filter(|key| !key.is_empty()).map(SecretString::from).collect();
    // A file that was meant to protect the server must not open it.
    require(http.api_keys_file.is_none() || !keys.is_empty(), || "--api-keys-file holds no key".into())?;
    require(keys.iter().all(|key| key.expose_secret().is_ascii()), || "API keys must be ASCII".into())?;
    Ok(keys)
}

/// The key to the admin routes.
pub(super) fn admin_key(swap: &SwapArgs, secret: Option<&str>) -> Result<Option<SecretString>, ConfigError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|e| ConfigError(format!("--admin-key-file {}: {e}", path.display())))
    };
    let file = swap.admin_key_file.as_ref().map(read).transpose()?;
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
