//! LoRA adapters on every replica of a fleet, by the routes that its servers have: vLLM's `/v1/load_lora_adapter` and
//! `/v1/unload_lora_adapter`, SGLang's `/load_lora_adapter` and `/unload_lora_adapter`. vLLM allows them where it was started with
//! `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=True`, SGLang with `--enable-lora`.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use reqwest::Client;
use serde_json::{Value, json};

use super::lease::{Lease, Wanted};
use super::members::Fleet;
use super::replica::Replica;
use crate::engine::EngineError;
use crate::engine::Role;
use crate::engine::upstream::dialect::{Adapters, Dialect};
use crate::engine::upstream::failure::{refusal, unreachable};
use crate::engine::upstream::models::{Card, keyed};
use crate::engine::upstream::{UpstreamEngine, client};

/// How long loading an adapter may take.
const LOADING: Duration = Duration::from_secs(300);

/// How long a replica that was taken out waits before it tries again to load what it lacks.
const AGAIN: Duration = Duration::from_secs(30);

/// What became of loading an adapter.
pub struct LoadedOn {
    /// The use of the adapter.
    pub lease: Lease,
    /// The replicas that have it.
    pub loaded: Vec<String>,
    /// The replicas that failed to load it and were taken out of the fleet, and why.
    pub failed: Vec<(String, String)>,
}

/// No replica of a role has loaded an adapter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no upstream has loaded the adapter: {0}")]
pub struct AdapterError(String);

impl Fleet {
    /// Loads an adapter on every replica of `roles` that can be reached, and waits for all of them. Replicas that fail are taken out of
    /// the fleet; those that come later load it before they get calls.
    ///
    /// # Errors
    /// For one of the roles no replica has loaded it. All stay as they were.
    pub async fn load_adapter(&self, name: &str, path: &str, roles: &[Role]) -> Result<LoadedOn, AdapterError> {
        let wanted = Wanted { name: name.into(), path: path.into(), roles: roles.to_vec() };
        let client = client().map_err(|error| AdapterError(error.to_string()))?;
        // From here on the adapter is unloaded where its use ends, also if the load is refused or its caller has given up.
        let lease = Lease { name: name.into(), orders: self.orders.clone() };
        let replicas = self.replicas.load_full();
        let able = replicas.iter().filter(|replica| roles.iter().any(|role| replica.has(*role)));
        let able = able.filter_map(|replica| replica.server.load_full().map(|server| (replica, server)));
        let loads = able.map(|(replica, server)| {
            let (client, wanted) = (&client, &wanted);
            async move {
                let result = load(client, &server, wanted).await;
                replica.set_adapter(name, result.is_ok());
                (replica, result)
            }
        });
        let (mut loaded, mut failed) = (Vec::new(), Vec::new());
        for (replica, result) in join_all(loads).await {
            match result {
                Ok(()) => loaded.push(Arc::clone(replica)),
                Err(error) => failed.push((Arc::clone(replica), error.to_string())),
            }
        }
        let reasons = failed.iter().map(|(replica, reason)| (replica.name(), reason.clone())).collect::<Vec<_>>();
        if !roles.iter().all(|role| loaded.iter().any(|replica| replica.has(*role))) {
            let reasons: Vec<_> = reasons.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
            return Err(AdapterError(match reasons.is_empty() {
                true => "none can be reached".to_owned(),
                false => reasons.join("; "),
            }));
        }
        for (replica, reason) in &failed {
            replica.take_out(Some(format!("it failed to load the adapter {name}: {reason}")));
        }
        self.wanted().push(wanted);
        let loaded = loaded.iter().map(|replica| replica.name()).collect();
        Ok(LoadedOn { lease, loaded, failed: reasons })
    }

    /// Unloads an adapter everywhere.
    pub(super) async fn unload(&self, client: &Client, name: &str) {
        self.wanted().retain(|wanted| wanted.name != name);
        let replicas = self.replicas.load_full();
        let unloads = replicas.iter().filter(|replica| replica.adapters().iter().any(|loaded| loaded == name));
        let unloads = unloads.filter_map(|replica| replica.server.load_full().map(|server| (replica, server)));
        join_all(unloads.map(|(replica, server)| async move {
            replica.set_adapter(name, false);
            let (url, body) = (route(&server, "unload_lora_adapter"), json!({"lora_name": name}));
            match order(client, &server, &url, &body).await {
                Ok(()) => tracing::info!(upstream = replica.name(), adapter = name, "an adapter is unloaded"),
                Err(error) => {
                    tracing::warn!(upstream = replica.name(), adapter = name, %error, "an adapter cannot be unloaded");
                }
            }
        }))
        .await;
        for replica in replicas.iter().filter(|replica| self.missing(replica).is_empty()) {
            replica.take_out(None);
        }
    }

    /// Notices adapters that a server has lost, since it was started again.
    pub(super) fn notice_adapters(&self, replica: &Replica, server: &UpstreamEngine, cards: Option<&[Card]>) {
        // Only vLLM lists its adapters for certain.
        if let (Some(cards), Adapters::AsModel) = (cards, server.dialect.adapters()) {
            replica.keep_adapters(|name| cards.iter().any(|card| card.id == name));
        }
    }

    /// Loads the adapters that a replica lacks: it comes late, was started again, or has failed before.
    pub(super) async fn complete_adapters(&self, client: &Client, replica: &Replica, server: &UpstreamEngine) {
        if replica.out_for().is_some_and(|out| out < AGAIN) {
            return;
        }
        let missing = self.missing(replica);
        let mut fault = None;
        for wanted in &missing {
            match load(client, server, wanted).await {
                Ok(()) => replica.set_adapter(&wanted.name, true),
                Err(error) => fault = Some(format!("it failed to load the adapter {}: {error}", wanted.name)),
            }
        }
        if !missing.is_empty() {
            replica.take_out(fault);
        }
    }

    fn missing(&self, replica: &Replica) -> Vec<Wanted> {
        let loaded = replica.adapters();
        let lacks =
            |wanted: &&Wanted| wanted.roles.iter().any(|role| replica.has(*role)) && !loaded.contains(&wanted.name);
        self.wanted().iter().filter(lacks).cloned().collect()
    }
}

async fn load(client: &Client, server: &UpstreamEngine, wanted: &Wanted) -> Result<(), EngineError> {
    if server.dialect.adapters() == Adapters::None {
        let dialect = server.dialect.name();
        return Err(EngineError::Unsupported(format!(
            "a server of the dialect {dialect} loads no adapter while it runs; vLLM and SGLang do"
        )));
    }
    let url = route(server, "load_lora_adapter");
    let loaded = order(client, server, &url, &json!({"lora_name": wanted.name, "lora_path": wanted.path})).await;
    match loaded {
        // Names are given once, so a server that has it has this one: an earlier answer was lost.
        Err(error) if error.to_string().contains("already") => Ok(()),
        other => other,
    }
}

/// The address of a route on adapters: vLLM's are below `/v1`, SGLang's are not.
fn route(server: &UpstreamEngine, name: &str) -> String {
    let base = &server.base;
    match server.dialect {
        Dialect::Sglang => format!("{}/{name}", base.strip_suffix("/v1").unwrap_or(base)),
        _ => format!("{base}/{name}"),
    }
}

/// Sends an order. SGLang says in its answer whether it was carried out.
async fn order(client: &Client, server: &UpstreamEngine, url: &str, body: &Value) -> Result<(), EngineError> {
    let request = keyed(client.post(url).json(body), server.key.as_deref()).timeout(LOADING);
    let response = request.send().await.map_err(|error| unreachable(&server.base, &error))?;
    if !response.status().is_success() {
        return Err(refusal(response).await.error);
    }
    let text = response.text().await.unwrap_or_default();
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    match answer["success"] == false {
        true => Err(EngineError::Upstream(answer["error_message"].as_str().unwrap_or("it says no more").to_owned())),
        false => Ok(()),
    }
}
