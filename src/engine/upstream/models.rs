//! The models that a server lists, and which of them is meant.

use reqwest::{Client, RequestBuilder, Response};
use serde::Deserialize;

use super::failure::{refused, unreachable};
use crate::engine::{EngineError, TraceContext};

#[derive(Deserialize)]
struct Models {
    data: Vec<Card>,
}

/// What a server says of one of its models.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Card {
    pub id: String,
    pub max_model_len: Option<usize>,
    pub owned_by: Option<String>,
    /// The model that an adapter is on.
    pub parent: Option<String>,
}

pub(super) fn keyed(request: RequestBuilder, key: Option<&str>) -> RequestBuilder {
    match key {
        Some(key) => request.bearer_auth(key),
        None => request,
    }
}

/// The request with the span that it belongs to, so that the server's spans join the caller's trace.
pub(super) fn traced(request: RequestBuilder, trace: Option<TraceContext>) -> RequestBuilder {
    match trace {
        Some(trace) => request.header(TraceContext::HEADER, trace.to_string()),
        None => request,
    }
}

pub(super) async fn models(client: &Client, base: &str, key: Option<&str>) -> Result<Vec<Card>, EngineError> {
    listed(ask_for_models(client, base, key).await?, base).await
}

pub(super) async fn ask_for_models(client: &Client, base: &str, key: Option<&str>) -> Result<Response, EngineError> {
    let response = keyed(client.get(format!("{base}/models")), key).send().await;
    response.map_err(|error| unreachable(base, &error))
}

pub(super) async fn listed(response: Response, base: &str) -> Result<Vec<Card>, EngineError> {
    if !response.status().is_success() {
        return Err(refused(response).await);
    }
    let models: Models = response.json().await.map_err(|error| {
        EngineError::Unavailable(format!("{base}/models does not list models as OpenAI does: {error}"))
    })?;
    Ok(models.data)
}

pub(super) fn choose(cards: Vec<Card>, asked: Option<&str>, base: &str) -> Result<Card, EngineError> {
    // Our own servers list a preset that searches after each model.
    let plain: Vec<Card> = cards.into_iter().filter(|card| !card.id.ends_with(":search")).collect();
    let names = plain.iter().map(|card| card.id.as_str()).collect::<Vec<_>>().join(", ");
    match asked {
        Some(asked) => plain.into_iter().find(|card| card.id == asked).ok_or_else(|| {
            EngineError::Invalid(format!("{base} does not serve the model {asked:?}; it serves: {names}"))
        }),
        None => alone(plain, base, &names),
    }
}

/// The only model. A server lists the adapters that it has loaded next to their base model.
fn alone(plain: Vec<Card>, base: &str, names: &str) -> Result<Card, EngineError> {
    let mut bare = plain.into_iter().filter(|card| card.parent.is_none());
    match (bare.next(), bare.next()) {
        (Some(card), None) => Ok(card),
        (Some(_), Some(_)) => {
            Err(EngineError::Invalid(format!("{base} serves several models, name one of them: {names}")))
        }
        (None, _) => Err(EngineError::Unavailable(format!("{base} serves no model"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_model_is_chosen() {
        let card = |id: &str, parent: Option<&str>| Card {
            id: id.into(),
            max_model_len: None,
            owned_by: None,
            parent: parent.map(str::to_owned),
        };
        let cards = |ids: &[&str]| ids.iter().map(|id| card(id, None)).collect();
        let chosen = |ids, asked| choose(cards(ids), asked, "http://h").map(|card| card.id).map_err(|e| e.to_string());
        assert_eq!(chosen(&["a", "a:search"], None), Ok("a".into()));
        assert_eq!(chosen(&["a", "b"], Some("b")), Ok("b".into()));
        assert!(chosen(&["a", "b"], None).unwrap_err().contains("name one of them: a, b"));
        assert!(chosen(&["a"], Some("c")).unwrap_err().contains("it serves: a"));
        assert!(chosen(&[], None).unwrap_err().contains("serves no model"));
        let adapted = vec![card("a", None), card("lora", Some("a"))];
        assert_eq!(choose(adapted, None, "http://h").unwrap().id, "a");
    }
}
