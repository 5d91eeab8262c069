//! `GET /admin/keys`: the named API keys with their limits, and what each has used.

use axum::Json;
use axum::extract::State;

use crate::http::Shared;
use crate::http::door::keys::Tenant;
use crate::http::door::limits::Spent;
use crate::openai::{KeyList, KeyUsage};

/// The keys that have names, with their limits and the tokens that they have used.
#[utoipa::path(get, path = "/admin/keys", tag = "admin", responses((status = 200, body = KeyList, description = "The keys")))]
pub async fn keys(State(state): State<Shared>) -> Json<KeyList> {
    let usage = |tenant: &Tenant| {
        let Spent { prompt, generated, last_minute } = tenant.spending.spent();
        KeyUsage {
            name: tenant.name.as_deref().unwrap_or_default().to_owned(),
            admin: tenant.admin,
            max_running: tenant.share.running,
            max_waiting: tenant.share.waiting,
            tokens_per_minute: tenant.tokens_per_minute,
            max_search_budget: tenant.max_search_budget,
            models: tenant.models.as_deref().map(<[String]>::to_vec),
            prompt_tokens: prompt,
            generated_tokens: generated,
            tokens_last_minute: last_minute,
        }
    };
    let data = state.keys.named().iter().map(|tenant| usage(tenant)).collect();
    Json(KeyList { object: "list", data })
}
