//! A fleet as an engine.

use std::sync::Arc;

use async_trait::async_trait;

use super::call::{self, Attempts, Caller};
use super::{Fleet, Lease};
use crate::engine::upstream::replies;
use crate::engine::{
    Capabilities, ConstraintSupport, Engine, EngineError, LabelRequest, LabelScores, LabelSupport, ModelInfo,
    Namespace, Reply, Request, Role,
};

/// A fleet's model, perhaps with an adapter, as an engine.
pub struct FleetEngine {
    caller: Arc<Caller>,
    info: ModelInfo,
}

impl FleetEngine {
    /// The model of `role` alone; without a role every call goes to the replicas of the role that its purpose belongs to.
    ///
    /// # Errors
    /// No server of the role was reached.
    pub fn new(fleet: &Arc<Fleet>, role: Option<Role>, adapter: Option<Lease>) -> Result<Self, EngineError> {
        let mut info = fleet.info(role.unwrap_or(Role::Actor))?;
        if role.is_none() {
            info.context = info.context.min(fleet.info(Role::Refiner)?.context);
        }
        Ok(Self { caller: Arc::new(Caller { fleet: Arc::clone(fleet), role, adapter }), info })
    }
}

#[async_trait]
impl Engine for FleetEngine {
    async fn start(&self, request: Request) -> Result<Vec<Reply>, EngineError> {
        let mut attempts = Attempts::new(&self.caller.fleet.config.patience);
        let opened = self.caller.begin(&request, &mut attempts).await?;
        // Where a server does not keep callers apart, at least no count says what another one sent.
        let hides = request.origin.namespace != Namespace::SHARED && !self.capabilities().token_rules;
        let form = self.caller.fleet.config.reasoning;
        let source = call::steps(Arc::clone(&self.caller), request.clone(), opened, attempts);
        Ok(replies(source, &request, form, hides))
    }

    fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What every server that was reached can do.
    fn capabilities(&self) -> Capabilities {
        let replicas = self.caller.fleet.replicas.load();
        let own = replicas.iter().filter(|replica| self.caller.role.is_none_or(|role| replica.has(role)));
        let each = own.filter_map(|replica| replica.server.load_full()).map(|server| server.capabilities());
        let everything = Capabilities {
            constraints: ConstraintSupport::Regular,
            token_rules: true,
            labels: LabelSupport::Prompts,
            ..Capabilities::default()
        };
        each.fold(everything, |all, one| Capabilities {
            constraints: all.constraints.min(one.constraints),
            token_rules: all.token_rules && one.token_rules,
            labels: all.labels.min(one.labels),
            ..all
        })
    }

    async fn read_labels(&self, request: LabelRequest) -> Result<LabelScores, EngineError> {
        request.check()?;
        self.caller.read_labels(request).await
    }

    async fn health(&self) -> Result<(), EngineError> {
        let adapter = self.caller.adapter_name();
        let roles: &[Role] = match &self.caller.role {
            Some(role) => std::slice::from_ref(role),
            None => &Role::ALL,
        };
        roles.iter().try_for_each(|role| self.caller.fleet.can_answer(*role, adapter))
    }
}
