//! A key with its name, its limits and what it has used.

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::TenantId;
use crate::engine::Namespace;
use crate::http::door::limits::{Share, Spending};
use crate::http::error::ApiError;
use crate::openai::ChatRequest;
use crate::telemetry::metrics::{self, KeyGauge};

/// A caller, with what it may have.
#[derive(Clone, Debug)]
pub struct Tenant {
    /// The tenant's id.
    pub id: TenantId,
    /// The name of its entry in the file of keys, for logs and metrics.
    pub name: Option<Arc<str>>,
    /// What it may have of the gate.
    pub share: Share,
    /// Tokens within a minute.
    pub tokens_per_minute: Option<u64>,
    /// The largest search budget that it may ask for.
    pub max_search_budget: Option<usize>,
    /// The models and adapters that it may use; absent: all of them.
    pub models: Option<Arc<[String]>>,
    /// Whether the admin routes are open to it.
    pub admin: bool,
    /// Tokens that it has used lately.
    pub spending: Arc<Spending>,
}

impl Tenant {
    /// Everybody, where no key is needed.
    pub fn anonymous(running: usize, waiting: usize) -> Self {
        Self {
            id: TenantId::default(),
            name: None,
            share: Share { running, waiting },
            tokens_per_minute: None,
            max_search_budget: None,
            models: None,
            admin: false,
            spending: Arc::default(),
        }
    }

    /// Whether no key was needed.
    pub fn is_anonymous(&self) -> bool {
        self.id == TenantId::default()
    }

    /// Whether it may use the model or adapter called `name`.
    pub fn may_use(&self, name: &str) -> bool {
        self.models.as_ref().is_none_or(|models| models.iter().any(|allowed| allowed == name))
    }

    /// Its limit, and how long it must wait because it has used that many tokens within the last minute.
    pub fn must_wait(&self) -> Option<(u64, Duration)> {
        let limit = self.tokens_per_minute?;
        Some((limit, self.spending.wait(limit)?))
    }

    /// Counts tokens that it has used; whether of prompts or of replies is for the metrics.
    pub fn uses(&self, kind: metrics::TokenKind, tokens: usize) {
        self.spending.add_kind(kind, tokens);
        if let Some(name) = &self.name {
            metrics::key_tokens(name, kind, tokens);
        }
    }

    /// Whether anything counts its tokens.
    pub fn is_metered(&self) -> bool {
        self.tokens_per_minute.is_some() || self.name.is_some()
    }

    /// Counts one of its requests that runs.
    pub(in crate::http) fn running_gauge(&self) -> Option<KeyGauge> {
        self.name.as_ref().map(KeyGauge::running)
    }

    /// Counts one of its requests that waits.
    pub(in crate::http) fn waiting_gauge(&self) -> Option<KeyGauge> {
        self.name.as_ref().map(KeyGauge::waiting)
    }

    /// The namespace of the kept prefixes that its calls may find: its own of the same salt. `secret` keeps clients from
    /// choosing a salt
    /// that would give them another one's.
    pub fn namespace(&self, salt: Option<&str>, shared: bool, secret: &[u8; 32]) -> Namespace {
        let own = !shared && !self.is_anonymous();
        if !own && salt.is_none() {
            return Namespace::SHARED;
        }
        let mut hash = Sha256::new_with_prefix(secret);
        hash.update(if own { self.id.0 } else { [0; 32] });
        hash.update(salt.unwrap_or_default());
        Namespace::of(hash.finalize().into())
    }

    /// Applies the key's cap on budgets to a request. A search that names no budget gets as much as the key may have.
    ///
    /// # Errors
    /// Names `search_budget`.
    pub fn cap_budget(&self, asked: &mut ChatRequest, searches: bool, default: usize) -> Result<(), ApiError> {
        let Some(most) = self.max_search_budget.filter(|_| searches) else { return Ok(()) };
        let cap = i64::try_from(most).unwrap_or(i64::MAX);
        match asked.search_budget {
            _ if most == 0 => {
                Err(ApiError::invalid("search_budget", "this key may not search: ask for a plain answer"))
            }
            Some(budget) if budget > cap => {
                let message = format!("`search_budget` must be between 0 and {cap} for this key, got {budget}");
                Err(ApiError::invalid("search_budget", message))
            }
            None if default > most => {
                asked.search_budget = Some(cap);
                Ok(())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// A key of a test.
    #[cfg(test)]
    pub fn test(id: u8) -> Self {
        Self { id: TenantId([id; 32]), ..Self::anonymous(99, 99) }
    }
}

/// A salt as a request names it.
///
/// # Errors
/// Names `cache_salt`.
pub fn checked_salt(salt: &str) -> Result<String, ApiError> {
    if (1..=256).contains(&salt.len()) {
        return Ok(salt.to_owned());
    }
    let message = format!("`cache_salt` must be between 1 and 256 bytes, got {}", salt.len());
    Err(ApiError::invalid("cache_salt", message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_salt_has_a_namespace_of_its_own() {
        let secret = [7; 32];
        let (a, b, anybody) = (Tenant::test(1), Tenant::test(2), Tenant::anonymous(1, 1));
        let own = |tenant: &Tenant, salt| tenant.namespace(salt, false, &secret);
        let all = [own(&a, None), own(&b, None), own(&a, Some("s")), own(&b, Some("s")), own(&anybody, Some("s"))];
        for (index, one) in all.iter().enumerate() {
            assert!(*one != Namespace::SHARED && !all[..index].contains(one), "{index}");
        }
        assert_eq!(own(&a, None), own(&a, None));
        assert_eq!(own(&anybody, None), Namespace::SHARED);
        let shared = |tenant: &Tenant, salt| tenant.namespace(salt, true, &secret);
        assert_eq!(shared(&a, None), Namespace::SHARED);
        assert_eq!(shared(&a, Some("s")), shared(&b, Some("s")));
        assert_ne!(a.namespace(None, false, &[8; 32]), own(&a, None));
    }

    #[test]
    fn a_key_caps_budgets() {
        let capped = |most, asked, searches| {
            let tenant = Tenant { max_search_budget: most, ..Tenant::test(1) };
            let mut request = ChatRequest { search_budget: asked, ..ChatRequest::default() };
            tenant.cap_budget(&mut request, searches, 16).map(|()| request.search_budget).map_err(|e| e.to_string())
        };
        assert_eq!(capped(None, Some(64), true), Ok(Some(64)));
        assert_eq!(capped(Some(8), Some(8), true), Ok(Some(8)));
        assert_eq!(capped(Some(8), None, true), Ok(Some(8)));
        assert_eq!(capped(Some(32), None, true), Ok(None));
        assert_eq!(capped(Some(8), Some(0), false), Ok(Some(0)));
        assert_eq!(capped(Some(0), None, false), Ok(None));
        assert!(capped(Some(8), Some(9), true).unwrap_err().contains("between 0 and 8 for this key, got 9"));
        assert!(capped(Some(0), Some(1), true).unwrap_err().contains("may not search"));
    }
}
