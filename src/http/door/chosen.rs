//! The model that a request names: which generations answer it, and whether its key may use it.

use super::keys::Tenant;
use crate::engine::generation::{Live, Pinned};
use crate::http::error::ApiError;

/// The model that a request has chosen, pinned until its end.
#[derive(Clone)]
pub struct Chosen {
    /// The served model's name, or an adapter's; without `:search`.
    pub name: String,
    /// The generations that answer.
    pub pinned: Pinned,
}

impl Chosen {
    /// The model that is asked for by the name `asked`, of those that are live next to the model called `served`; absent: that
    /// model itself.
    ///
    /// # Errors
    /// [`ApiError::UnknownModel`] or [`ApiError::ModelNotAllowed`].
    pub fn of(live: &Live, served: &str, asked: Option<&str>, tenant: &Tenant) -> Result<Self, ApiError> {
        let adapted = |asked: &str| {
            let name = asked.strip_suffix(":search").unwrap_or(asked);
            live.adapted(name).map(|pinned| Self { name: name.to_owned(), pinned })
        };
        let chosen = match asked.and_then(adapted) {
            Some(adapted) => adapted,
            None => {
                resolve(asked, served)?;
                Self { name: served.to_owned(), pinned: live.pair.clone() }
            }
        };
        match (&tenant.models, tenant.may_use(&chosen.name)) {
            (Some(allowed), false) => Err(ApiError::ModelNotAllowed { model: chosen.name, allowed: allowed.to_vec() }),
            _ => Ok(chosen),
        }
    }

    /// The name to answer with, of a route whose `answers` are never searched.
    ///
    /// # Errors
    /// Names `model` where that is a `:search` alias.
    pub fn unsearched(&self, asked: Option<&str>, answers: &str) -> Result<String, ApiError> {
        match resolve(asked, &self.name)? {
            (name, false) => Ok(name),
            (_, true) => {
                let message = format!("{answers} are not searched; use the name without `:search`");
                Err(ApiError::invalid("model", message))
            }
        }
    }
}

/// The name to answer with, and whether it is the search alias.
///
/// # Errors
/// [`ApiError::UnknownModel`].
pub fn resolve(asked: Option<&str>, served: &str) -> Result<(String, bool), ApiError> {
    match asked {
        None => Ok((served.to_owned(), false)),
        Some(name) if name == served => Ok((name.to_owned(), false)),
        Some(name) if name.strip_suffix(":search") == Some(served) => Ok((name.to_owned(), true)),
        Some(name) => Err(ApiError::UnknownModel(name.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::engine::fake::FakeEngine;
    use crate::engine::generation::{Adapters, Generation};
    use crate::prompts::Templates;

    #[test]
    fn a_name_chooses_the_model_or_an_adapter_that_the_key_may_use() {
        let generation = |id: &str| {
            let engine = Arc::new(FakeEngine::new(|_, _| Ok(String::new())));
            Arc::new(Generation::new(id, engine, Arc::new(Templates::general())))
        };
        let pair = Pinned { actor: generation("1"), refiner: generation("2") };
        let adapters: Adapters = [("mine".to_owned(), generation("3")), ("yours".to_owned(), generation("4"))].into();
        let live = Live { pair, adapters: Arc::new(adapters) };
        let allowed = |models: Option<&[&str]>| Tenant {
            models: models.map(|models| models.iter().map(|name| (*name).to_owned()).collect()),
            ..Tenant::test(1)
        };
        let chosen = |models, asked| {
            let chosen = Chosen::of(&live, "base", asked, &allowed(models));
            chosen.map(|chosen| (chosen.name, chosen.pinned.actor.id.clone(), chosen.pinned.refiner.id.clone()))
        };
        let found = |name: &str, actor: &str| Ok((name.to_owned(), actor.to_owned(), "2".to_owned()));
        let refused = |model: &str, allowed: &[&str]| {
            let allowed = allowed.iter().map(|name| (*name).to_owned()).collect();
            Err(ApiError::ModelNotAllowed { model: model.to_owned(), allowed })
        };
        assert_eq!(chosen(None, None), found("base", "1"));
        assert_eq!(chosen(None, Some("base:search")), found("base", "1"));
        assert_eq!(chosen(None, Some("mine")), found("mine", "3"));
        assert_eq!(chosen(None, Some("yours:search")), found("yours", "4"));
        assert_eq!(chosen(None, Some("other")), Err(ApiError::UnknownModel("other".into())));
        let mine = Some(["mine"].as_slice());
        assert_eq!(chosen(mine, Some("mine:search")), found("mine", "3"));
        assert_eq!(chosen(mine, None), refused("base", &["mine"]));
        assert_eq!(chosen(mine, Some("yours")), refused("yours", &["mine"]));
        assert_eq!(chosen(mine, Some("other")), Err(ApiError::UnknownModel("other".into())));
    }
}
