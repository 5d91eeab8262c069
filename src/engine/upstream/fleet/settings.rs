//! What is known of a fleet before it is asked.

use std::fmt;
use std::time::Duration;

use crate::chat::TemplateKwargs;
use crate::engine::Role;
use crate::engine::reasoning::Form;
use crate::engine::upstream::dialect::Dialect;
use crate::engine::upstream::{Siblings, UpstreamConfig};

/// A key that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(pub String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// The roles that a replica answers for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Roles {
    /// Only drafts, not judgements and refinements.
    Actor,
    /// Only judgements and refinements, not drafts.
    Refiner,
    /// Calls of all kinds.
    #[default]
    Both,
}

impl Roles {
    /// Whether `role` is among them.
    pub fn have(self, role: Role) -> bool {
        matches!((self, role), (Self::Both, _) | (Self::Actor, Role::Actor) | (Self::Refiner, Role::Refiner))
    }

    /// The name of the roles in settings and answers.
    pub fn label(self) -> &'static str {
        match self {
            Self::Actor => "actor",
            Self::Refiner => "refiner",
            Self::Both => "both",
        }
    }
}

/// One server of a fleet.
#[derive(Clone, Debug, PartialEq)]
pub struct ReplicaConfig {
    /// Its name in logs, metrics and answers.
    pub name: String,
    /// The base URL, such as `http://127.0.0.1:8000/v1`.
    pub url: String,
    /// Sent as a bearer token.
    pub key: Option<Key>,
    /// Its share of the calls, 1 where all are equal.
    pub weight: f64,
    /// Replies that it takes at a time; `None`: as many as come.
    pub max_in_flight: Option<usize>,
    /// What it answers for.
    pub roles: Roles,
    /// The fields that it knows; `None`: recognised.
    pub dialect: Option<Dialect>,
    /// The model to ask for; `None` where it serves one.
    pub model: Option<String>,
    /// Tokens of the context; `None`: what it says.
    pub context: Option<usize>,
    /// How siblings are asked for.
    pub siblings: Siblings,
}

impl ReplicaConfig {
    /// The server at `url` with nothing else known of it; its name is the host and port.
    pub fn at(url: &str) -> Self {
        let shown = without_login(url);
        let host = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
        let name = host.split('/').next().unwrap_or(host).to_owned();
        Self {
            name,
            url: url.into(),
            key: None,
            weight: 1.0,
            max_in_flight: None,
            roles: Roles::Both,
            dialect: None,
            model: None,
            context: None,
            siblings: Siblings::Choices,
        }
    }

    /// Whether the same server is asked in the same way: the rest may change while it runs.
    pub(super) fn is_same_server(&self, other: &Self) -> bool {
        let tuned =
            Self { weight: other.weight, max_in_flight: other.max_in_flight, roles: other.roles, ..self.clone() };
        tuned == *other
    }

    pub(super) fn connection(&self, fleet: &FleetConfig) -> UpstreamConfig {
        UpstreamConfig {
            url: self.url.clone(),
            model: self.model.clone(),
            key: self.key.clone().map(|Key(key)| key),
            context: self.context,
            siblings: self.siblings,
            dialect: self.dialect,
            reasoning: fleet.reasoning,
            surmises: fleet.surmises,
            template_kwargs: fleet.template_kwargs.clone(),
        }
    }
}

/// A URL without the user name and password that it may hold.
pub fn without_login(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.into() };
    let host = rest.find('/').unwrap_or(rest.len());
    match rest[..host].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.into(),
    }
}

/// How long a fleet waits, and how often it tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// A call that receives nothing for this long has failed.
    pub silence: Duration,
    /// A call waits for a replica that can be used at most this long.
    pub nobody: Duration,
    /// A call that has not begun to be answered after this time is sent to another replica as well; `None`: never.
    pub hedge: Option<Duration>,
    /// Time between two looks at a replica.
    pub probe: Duration,
    /// How often a call is sent at most.
    pub tries: usize,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            // A server may compute on a long prompt for minutes before its first byte.
            silence: Duration::from_secs(600),
            nobody: Duration::from_secs(10),
            hedge: None,
            probe: Duration::from_secs(2),
            tries: 5,
        }
    }
}

/// Gives the list of replicas where it has changed, or says why what changed cannot be used.
pub type Reload = Box<dyn FnMut() -> Option<Result<Vec<ReplicaConfig>, String>> + Send>;

/// A fleet's settings.
#[derive(Clone, Debug, Default)]
pub struct FleetConfig {
    /// The servers that answer.
    pub replicas: Vec<ReplicaConfig>,
    /// How the text of their replies marks reasoning.
    pub reasoning: Option<Form>,
    /// Whether `<think>` at the beginning of a reply marks reasoning where nothing says how replies mark it.
    pub surmises: bool,
    /// Variables of their chat template.
    pub template_kwargs: TemplateKwargs,
    /// How long it waits, and how often it tries.
    pub patience: Patience,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_urls_show_no_login_and_keys_are_hidden() {
        let replica = ReplicaConfig { key: Some(Key("s3cret".into())), ..ReplicaConfig::at("http://me:pw@h:1/v1") };
        assert_eq!(replica.name, "h:1");
        assert_eq!(without_login(&replica.url), "http://h:1/v1");
        assert!(!format!("{:?}", replica.key).contains("s3cret"));
        assert_eq!(ReplicaConfig::at("https://host/openai/v1").name, "host");
    }

    #[test]
    fn shares_and_roles_change_without_another_connection() {
        let one = ReplicaConfig::at("http://h:1");
        let tuned = ReplicaConfig { weight: 2.0, max_in_flight: Some(3), roles: Roles::Actor, ..one.clone() };
        assert!(one.is_same_server(&tuned));
        assert!(!one.is_same_server(&ReplicaConfig { key: Some(Key("k".into())), ..one.clone() }));
        assert!(!one.is_same_server(&ReplicaConfig { model: Some("m".into()), ..one.clone() }));
    }
}
