//! What stands in for a model that is out of service while its successor is loaded.

use std::sync::Arc;

use async_trait::async_trait;
use tokenizers::Tokenizer;

use super::{Generation, Pinned, Role};
use crate::engine::{Engine, EngineError, ModelInfo, Reply, Request};

/// The stand-in's id.
pub(super) const ID: &str = "away";

/// Keeps what is known of the model, not its weights.
struct Away {
    info: ModelInfo,
    tokenizer: Option<Arc<Tokenizer>>,
    constrains: bool,
}

/// The pair with stand-ins for `roles`.
pub(super) fn without(live: &Pinned, roles: &[Role]) -> Pinned {
    let mut next = live.clone();
    for &role in roles {
        let generation = live.role(role);
        let engine = Away {
            info: generation.engine.info().clone(),
            tokenizer: generation.engine.tokenizer(),
            constrains: generation.engine.constrains(),
        };
        let templates = Arc::clone(&generation.templates);
        *next.role_mut(role) = Arc::new(Generation { id: ID.into(), engine: Arc::new(engine), templates });
    }
    next
}

#[async_trait]
impl Engine for Away {
    async fn start(&self, _request: Request) -> Result<Vec<Reply>, EngineError> {
        Err(EngineError::Unavailable("its successor is being loaded".into()))
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenizer(&self) -> Option<Arc<Tokenizer>> {
        self.tokenizer.clone()
    }

    fn constrains(&self) -> bool {
        self.constrains
    }
}
