//! What stands in for a model that is out of service while its successor is loaded.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Generation, Pinned, Role};
use crate::engine::{Capabilities, Engine, EngineError, ModelInfo, Reply, Request};

/// The stand-in's id.
pub(super) const ID: &str = "away";

/// Keeps what is known of the model, not its weights.
struct Away {
    info: ModelInfo,
    capabilities: Capabilities,
}

/// The pair with stand-ins for `roles`.
pub(super) fn without(live: &Pinned, roles: &[Role]) -> Pinned {
    let mut next = live.clone();
    for &role in roles {
        let generation = live.role(role);
        let (info, capabilities) = (generation.engine.info().clone(), generation.engine.capabilities());
        let templates = Arc::clone(&generation.templates);
        *next.role_mut(role) = Arc::new(Generation::new(ID, Arc::new(Away { info, capabilities }), templates));
    }
    next
}

#[async_trait]
impl Engine for Away {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn start(&self, _request: Request) -> Result<Vec<Reply>, EngineError> {
        Err(EngineError::Unavailable("its successor is being loaded".into()))
    }
}
