//! vLLM's admin routes for adapters: served under names of their own, or put on the live weights.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;

use super::admin::{RoleName, read, simple, swapper};
use crate::config::check_adapter_name;
use crate::engine::generation::Role;
use crate::http::Shared;
use crate::http::error::ApiError;
use crate::openai::ErrorBody;
use crate::swap::{NamedAdapter, Scope, Taken, Weights};

/// The body of vLLM's route that loads an adapter.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct LoadLoraRequest {
    /// What the adapter is called.
    pub lora_name: String,
    /// Its directory below a configured root.
    pub lora_path: String,
    /// Whether it may replace an adapter of the same name.
    #[serde(default)]
    pub load_inplace: bool,
    /// The role whose live weights get the adapter, in place of the one that is on them; absent, as vLLM has no such field: the
    /// adapter is served under its own name, next to the live model.
    pub role: Option<RoleName>,
}

/// The body of vLLM's route that unloads an adapter.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct UnloadLoraRequest {
    /// What the adapter was called when it was loaded.
    pub lora_name: String,
}

/// Serves a LoRA adapter on the live actor under its own name, which requests send as their `model`. With `role` the adapter is put
/// on the live weights of that role instead, for all requests.
#[utoipa::path(
    post, path = "/v1/load_lora_adapter", tag = "admin", request_body = LoadLoraRequest,
    responses(
        (status = 200, body = String, content_type = "text/plain; charset=utf-8", description = "The adapter is served, or live"),
        (status = 409, body = ErrorBody, description = "A rollback has ended the swap: `generation_not_live`"),
        (status = 422, body = ErrorBody, description = "The adapter is not accepted; the old weights stay: `weights_refused`"),
        (status = 429, body = ErrorBody, description = "Another swap runs: `swap_running`"),
    ),
)]
pub async fn load_lora(State(state): State<Shared>, headers: HeaderMap, body: Body) -> Result<String, ApiError> {
    let LoadLoraRequest { lora_name: name, lora_path, load_inplace, role } = read(&state, &headers, body).await?;
    let swapper = swapper(&state)?;
    let path = lora_path.into();
    match role {
        Some(role) => {
            let adapter = NamedAdapter { path, name: Some(name.clone()) };
            swapper.swap(simple(role.into(), Weights::Adapter(adapter))).await?;
        }
        None => {
            check_adapter_name(&name).map_err(|reason| ApiError::invalid("lora_name", reason))?;
            let taken = if load_inplace { Taken::IsReplaced } else { Taken::Stays };
            if name == state.served.name {
                let message = format!("`lora_name` must not be the served model's name, got {name:?}");
                return Err(ApiError::invalid("lora_name", message));
            }
            if swapper.serves_adapter(&name) && taken == Taken::Stays {
                let message = format!(
                    "the LoRA adapter {name:?} is loaded already; unload it first, or send `load_inplace: true`"
                );
                return Err(ApiError::invalid("lora_name", message));
            }
            swapper.serve_adapter(name.clone(), path, taken).await?;
        }
    }
    Ok(format!("Success: LoRA adapter '{name}' added successfully."))
}

/// Serves an adapter no more, or takes it off the live weights that it is on. Requests that run end with it.
#[utoipa::path(
    post, path = "/v1/unload_lora_adapter", tag = "admin", request_body = UnloadLoraRequest,
    responses(
        (status = 200, body = String, content_type = "text/plain; charset=utf-8", description = "The adapter is served no more"),
        (status = 404, body = ErrorBody, description = "No such adapter is on the live weights: `not_found`"),
        (status = 409, body = ErrorBody, description = "A rollback has ended the swap: `generation_not_live`"),
        (status = 422, body = ErrorBody, description = "The weights without it are not accepted; the old ones stay: `weights_refused`"),
        (status = 429, body = ErrorBody, description = "Another swap runs: `swap_running`"),
    ),
)]
pub async fn unload_lora(State(state): State<Shared>, headers: HeaderMap, body: Body) -> Result<String, ApiError> {
    let asked: UnloadLoraRequest = read(&state, &headers, body).await?;
    let swapper = swapper(&state)?;
    let removed = format!("Success: LoRA adapter '{}' removed successfully.", asked.lora_name);
    if swapper.serves_adapter(&asked.lora_name) {
        swapper.forget_adapter(asked.lora_name).await?;
        return Ok(removed);
    }
    let has = |role: Role| swapper.adapter_name(role).as_deref() == Some(asked.lora_name.as_str());
    let live = swapper.live();
    let scope = match Role::ALL.map(has) {
        [true, true] if live.actor == live.refiner => Scope::Both,
        [true, _] => Scope::One(Role::Actor),
        [_, true] => Scope::One(Role::Refiner),
        [false, false] => {
            return Err(ApiError::NothingThere(format!("The lora adapter '{}' cannot be found.", asked.lora_name)));
        }
    };
    swapper.swap(simple(scope, Weights::Bare)).await?;
    Ok(removed)
}
