//! The orders and the reports of swaps.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::engine::generation::Role;
use crate::engine::generation::registry::Ids;

/// The roles whose weights are swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A single role.
    One(Role),
    /// Both roles get the same generation.
    Both,
}

impl Scope {
    /// The roles that are swapped.
    pub fn roles(self) -> &'static [Role] {
        match self {
            Self::One(Role::Actor) => &Role::ALL[..1],
            Self::One(Role::Refiner) => &Role::ALL[1..],
            Self::Both => &Role::ALL,
        }
    }
}

/// Which weights take over. Paths are as they were sent: nothing of them is checked yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// A model, perhaps with an adapter on it.
    Model(PathBuf, Option<NamedAdapter>),
    /// Another adapter on the model that is live.
    Adapter(NamedAdapter),
    /// The model that is live without its adapter.
    Bare,
}

/// An adapter's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedAdapter {
    /// Where it is.
    pub path: PathBuf,
    /// The name that a client gave it, if one did.
    pub name: Option<String>,
}

/// What may differ from the live model if it is declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The model's tokenizer.
    Tokenizer,
    /// The chat template.
    ChatTemplate,
    /// The judge and refine templates.
    Templates,
}

/// Where the old weights are while the new ones are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Next to the old weights where both fit into memory, else instead of them.
    #[default]
    Auto,
    /// The old weights stay live while the new ones are loaded.
    BlueGreen,
    /// The old weights are dropped first, and requests wait meanwhile.
    Drain,
}

/// How far it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// All the way.
    Publish,
    /// Everything but the switch.
    DryRun,
}

/// A swap that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The roles whose weights are swapped.
    pub scope: Scope,
    /// The weights that take over.
    pub weights: Weights,
    /// The generation that must be live, or nothing happens.
    pub expected: Option<String>,
    /// What may differ from the live model.
    pub changes: Vec<Part>,
    /// How memory is used.
    pub mode: Mode,
    /// How far it goes.
    pub intent: Intent,
}

impl Order {
    /// Checks that the expected generation is live.
    ///
    /// # Errors
    /// [`SwapError::NotLive`].
    pub(super) fn check_expected(&self, live: &Ids) -> Result<(), SwapError> {
        check_expected(self.expected.as_deref(), self.scope, live)
    }
}

pub(super) fn check_expected(expected: Option<&str>, scope: Scope, live: &Ids) -> Result<(), SwapError> {
    let live = match scope {
        Scope::One(role) => live.role(role).to_owned(),
        Scope::Both if live.actor == live.refiner => live.actor.clone(),
        Scope::Both => format!("{}+{}", live.actor, live.refiner),
    };
    match expected {
        Some(expected) if expected != live => Err(SwapError::NotLive { expected: expected.into(), live }),
        _ => Ok(()),
    }
}

/// The result of a swap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the weights are live, or were only tried out.
    pub published: bool,
    /// How memory was used.
    pub mode: Mode,
    /// The pair that was live before.
    pub before: Ids,
    /// The pair that is live now.
    pub after: Ids,
    /// The digest of the weights.
    pub sha256: String,
    /// Servers of a fleet that failed to load the weights and were taken out of it, and why.
    pub out: Vec<(String, String)>,
    /// Time from the order to the report.
    pub took: Duration,
}

impl Report {
    pub(super) fn new(published: bool, mode: Mode, before: Ids, after: Ids, sha256: String) -> Self {
        Self { published, mode, before, after, sha256, out: Vec::new(), took: Duration::ZERO }
    }
}

/// Why nothing was swapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwapError {
    /// One at a time.
    #[error("another swap is running; try again when it is done")]
    Busy,
    /// Too many old generations still answer.
    #[error(
        "{0} generations are in memory, as many as --max-generations allows; try again when requests that began with old ones have ended"
    )]
    Draining(usize),
    /// Somebody else was faster.
    #[error("`expected_generation` is {expected}, but {live} is live; look at it and ask again")]
    NotLive {
        /// The generation that was expected.
        expected: String,
        /// What is live.
        live: String,
    },
    /// It was not done in time.
    #[error("the swap did not end within the {0:?} of --swap-timeout; the old weights stay")]
    TimedOut(Duration),
    /// A rollback came.
    #[error("a rollback was asked for while this swap ran; the swap has ended without effect")]
    Ended,
    /// Nothing of this name is here.
    #[error("{0}")]
    Missing(String),
    /// The weights are not accepted.
    #[error("{0}")]
    Refused(String),
}

impl From<crate::weights::ModelError> for SwapError {
    fn from(error: crate::weights::ModelError) -> Self {
        Self::Refused(error.to_string())
    }
}
