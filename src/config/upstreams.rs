//! The file of upstreams, in TOML, and the list that it makes of the command line's addresses.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::engine::{DialectBy, SiblingsBy, UpstreamArgs};
use crate::engine::upstream::fleet::{Key, Reload, ReplicaConfig, Roles};
use crate::weights::files;

/// Bytes of the file at most.
const MOST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamFile {
    upstreams: Vec<Entry>,
}

/// One server of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    url: String,
    name: Option<String>,
    key_file: Option<PathBuf>,
    key_env: Option<String>,
    weight: Option<f64>,
    max_in_flight: Option<usize>,
    #[serde(default)]
    role: RoleBy,
    #[serde(default)]
    dialect: DialectBy,
    model: Option<String>,
    context: Option<usize>,
    siblings: Option<SiblingsBy>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleBy {
    Actor,
    Refiner,
    #[default]
    Both,
}

/// The servers that the settings name: those of the addresses, and those of the file.
///
/// # Errors
/// Names the file and the entry at fault.
pub(crate) fn replicas(args: &UpstreamArgs, key: Option<&str>) -> Result<Vec<ReplicaConfig>, String> {
    let defaults = Defaults { args, key };
    let mut replicas: Vec<ReplicaConfig> = args.upstream_url.iter().map(|url| defaults.at(url)).collect();
    if let Some(file) = &args.upstreams {
        let text = read(file)?;
        let entries = defaults.parse(&text).map_err(|reason| format!("--upstreams {}: {reason}", file.display()))?;
        replicas.extend(entries);
    }
    unique(&replicas).map(|()| replicas)
}

/// Reads the list again where the file, or a key that it names, has changed.
pub(crate) fn reload(args: &UpstreamArgs, key: Option<&str>, now: &[ReplicaConfig]) -> Option<Reload> {
    args.upstreams.as_ref()?;
    let (args, key) = (args.clone(), key.map(str::to_owned));
    let mut known = Ok(now.to_vec());
    Some(Box::new(move || {
        let found = replicas(&args, key.as_deref());
        if found == known {
            return None;
        }
        known.clone_from(&found);
        Some(found)
    }))
}

fn read(file: &Path) -> Result<String, String> {
    let bytes = files::read(file, MOST).map_err(|error| format!("--upstreams {}: {error}", file.display()))?;
    String::from_utf8(bytes).map_err(|_| format!("--upstreams {}: it is not UTF-8", file.display()))
}

/// Metrics and answers name a server by its name alone.
fn unique(replicas: &[ReplicaConfig]) -> Result<(), String> {
    let mut urls = HashMap::new();
    for replica in replicas {
        if let Some(other) = urls.insert(replica.name.as_str(), &replica.url) {
            let (name, url) = (&replica.name, &replica.url);
            return Err(match other == url {
                true => format!("the upstream {name} is there twice; leave one of them out"),
                false => format!("two upstreams are called {name}; give one another `name` in the file of --upstreams"),
            });
        }
    }
    Ok(())
}

/// What holds for every server that does not say otherwise.
struct Defaults<'a> {
    args: &'a UpstreamArgs,
    key: Option<&'a str>,
}

impl Defaults<'_> {
    fn at(&self, url: &str) -> ReplicaConfig {
        ReplicaConfig {
            key: self.key.map(|key| Key(key.to_owned())),
            dialect: self.args.upstream_dialect.dialect(),
            model: self.args.upstream_model.clone(),
            context: self.args.upstream_context,
            siblings: self.args.upstream_siblings.siblings(),
            ..ReplicaConfig::at(url)
        }
    }

    fn parse(&self, text: &str) -> Result<Vec<ReplicaConfig>, String> {
        let file: UpstreamFile = toml::from_str(text).map_err(|error| place(text, &error))?;
        if file.upstreams.is_empty() && self.args.upstream_url.is_empty() {
            return Err("it names no upstream; add one as [[upstreams]] with a `url`".into());
        }
        file.upstreams.into_iter().map(|entry| self.replica(entry)).collect()
    }

    fn replica(&self, entry: Entry) -> Result<ReplicaConfig, String> {
        let mut replica = self.at(&entry.url);
        let wrong = |reason: String| format!("the upstream {}: {reason}", ReplicaConfig::at(&entry.url).name);
        if !entry.url.starts_with("http://") && !entry.url.starts_with("https://") {
            return Err(wrong("`url` must look like http://127.0.0.1:8000/v1".into()));
        }
        let letters = |c: char| c.is_ascii_alphanumeric() || "-_.:[]".contains(c);
        if let Some(name) = entry.name {
            if !(1..=64).contains(&name.len()) || !name.chars().all(letters) {
                return Err(wrong("`name` must be between 1 and 64 letters, digits and any of -_.:[]".into()));
            }
            replica.name = name;
        }
        let key = match (&entry.key_file, &entry.key_env) {
            (Some(_), Some(_)) => return Err(wrong("name either `key_file` or `key_env`".into())),
            (Some(file), None) => {
                let read = std::fs::read_to_string(file);
                Some(read.map_err(|error| wrong(format!("`key_file` {}: {error}", file.display())))?)
            }
            (None, Some(name)) => {
                Some(std::env::var(name).map_err(|_| wrong(format!("`key_env` {name} is not in the environment")))?)
            }
            (None, None) => None,
        };
        if let Some(key) = key {
            let key = key.trim();
            if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(wrong("its key must be printable ASCII without spaces, and not empty".into()));
            }
            replica.key = Some(Key(key.to_owned()));
        }
        replica.weight = entry.weight.unwrap_or(1.0);
        if !(0.001..=1000.0).contains(&replica.weight) {
            return Err(wrong(format!("`weight` must be between 0.001 and 1000, got {}", replica.weight)));
        }
        if entry.max_in_flight == Some(0) {
            return Err(wrong("`max_in_flight` must be at least 1; remove the entry to send it no calls".into()));
        }
        if entry.context == Some(0) {
            return Err(wrong("`context` must be at least 1, got 0".into()));
        }
        replica.max_in_flight = entry.max_in_flight;
        replica.roles = match entry.role {
            RoleBy::Actor => Roles::Actor,
            RoleBy::Refiner => Roles::Refiner,
            RoleBy::Both => Roles::Both,
        };
        replica.dialect = entry.dialect.dialect().or(replica.dialect);
        replica.model = entry.model.or(replica.model);
        replica.context = entry.context.or(replica.context);
        replica.siblings = entry.siblings.map_or(replica.siblings, SiblingsBy::siblings);
        Ok(replica)
    }
}

fn place(text: &str, error: &toml::de::Error) -> String {
    let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
    let message = error.message().replace('\n', " ");
    line.map_or_else(|| message.clone(), |line| format!("line {line}: {message}"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::engine::upstream::Siblings;
    use crate::engine::upstream::dialect::Dialect;

    fn parsed(text: &str) -> Result<Vec<ReplicaConfig>, String> {
        let args = UpstreamArgs { upstream_model: Some("m".into()), ..UpstreamArgs::default() };
        Defaults { args: &args, key: Some("usual") }.parse(text)
    }

    #[test]
    fn every_key_of_the_file_is_taken() {
        let mut key = tempfile::NamedTempFile::new().unwrap();
        writeln!(key, "secret").unwrap();
        let file = key.path().display();
        let text = format!(
            "[[upstreams]]\nurl = \"http://a:1/v1\"\n\n[[upstreams]]\nname = \"second\"\nurl = \"http://b:1\"\n\
             key_file = \"{file}\"\nweight = 2.5\nmax_in_flight = 8\nrole = \"refiner\"\ndialect = \"sglang\"\n\
             model = \"other\"\ncontext = 99\nsiblings = \"requests\"\n"
        );
        let found = parsed(&text).unwrap();
        let first = ReplicaConfig {
            key: Some(Key("usual".into())),
            model: Some("m".into()),
            ..ReplicaConfig::at("http://a:1/v1")
        };
        let second = ReplicaConfig {
            name: "second".into(),
            url: "http://b:1".into(),
            key: Some(Key("secret".into())),
            weight: 2.5,
            max_in_flight: Some(8),
            roles: Roles::Refiner,
            dialect: Some(Dialect::Sglang),
            model: Some("other".into()),
            context: Some(99),
            siblings: Siblings::Requests,
        };
        assert_eq!(found, [first, second]);
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let entry = |more: &str| format!("[[upstreams]]\nurl = \"http://a:1\"\n{more}\n");
        for (text, expected) in [
            ("upstreams = []".to_owned(), "names no upstream"),
            ("[[upstreams]]\nname = \"a\"".to_owned(), "missing field `url`"),
            ("[[upstreams]]\nurl = \"a:1\"".to_owned(), "`url` must look like"),
            (entry("wieght = 1"), "unknown field `wieght`"),
            (entry("weight = 0"), "`weight` must be between 0.001 and 1000, got 0"),
            (entry("max_in_flight = 0"), "`max_in_flight` must be at least 1"),
            (entry("context = 0"), "`context` must be at least 1"),
            (entry("role = \"judge\""), "line 3"),
            (entry("dialect = \"other\""), "line 3"),
            (entry("name = \"a b\""), "`name` must be"),
            (entry("key_file = \"/no/such/file\""), "`key_file` /no/such/file"),
            (entry("key_env = \"SPAR_TEST_NO_SUCH_KEY\""), "SPAR_TEST_NO_SUCH_KEY is not in the environment"),
            (entry("key_env = \"A\"\nkey_file = \"b\""), "either `key_file` or `key_env`"),
        ] {
            let reason = parsed(&text).unwrap_err();
            assert!(reason.contains(expected), "{text}: {reason}");
        }
        let same = [ReplicaConfig::at("http://a:1"), ReplicaConfig::at("http://a:1")];
        assert!(unique(&same).unwrap_err().contains("twice"));
        let named = [ReplicaConfig::at("http://a:1"), ReplicaConfig::at("http://a:1/other")];
        assert!(unique(&named).unwrap_err().contains("another `name`"));
    }

    #[test]
    fn a_file_is_read_again_when_it_changes() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "[[upstreams]]\nurl = \"http://a:1\"\n").unwrap();
        let args = UpstreamArgs { upstreams: Some(file.path().into()), ..UpstreamArgs::default() };
        let first = replicas(&args, None).unwrap();
        let mut again = reload(&args, None, &first).unwrap();
        assert!(again().is_none(), "nothing has changed");
        writeln!(file, "weight = 3.0").unwrap();
        assert_eq!(again().unwrap().unwrap()[0].weight, 3.0);
        assert!(again().is_none());
        writeln!(file, "what").unwrap();
        assert!(again().unwrap().unwrap_err().contains("line 4"));
        assert!(again().is_none(), "it is said once");
    }
}
