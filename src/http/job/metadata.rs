//! A search that is asked for in `metadata`, where text is all that many clients can send.

use serde_json::{Map, Value};

use crate::http::error::ApiError;
use crate::openai::SearchOptions;

/// The search of a request: what its own fields say, and for each that it lacks what its metadata says.
///
/// # Errors
/// Names the entry of `metadata`.
pub fn search(
    metadata: Option<&Map<String, Value>>,
    budget: Option<i64>,
    options: Option<SearchOptions>,
) -> Result<(Option<i64>, Option<SearchOptions>), ApiError> {
    let entry = |name: &str| metadata.and_then(|pairs| pairs.get(name)).filter(|value| !value.is_null());
    let budget = match (budget, entry("search_budget")) {
        (None, Some(value)) => Some(whole_number(value)?),
        (own, _) => own,
    };
    let options = match (options, entry("search")) {
        (None, Some(value)) => Some(object(value)?),
        (own, _) => own,
    };
    Ok((budget, options))
}

fn whole_number(value: &Value) -> Result<i64, ApiError> {
    let number = match value {
        Value::String(text) => text.trim().parse().ok(),
        other => other.as_i64(),
    };
    number.ok_or_else(|| {
        let message = format!("`metadata.search_budget` must be a whole number, or one as text, got {value}");
        ApiError::invalid("metadata.search_budget", message)
    })
}

fn object(value: &Value) -> Result<SearchOptions, ApiError> {
    let text = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    // A list would be read as the values of the fields.
    if !text.trim_start().starts_with('{') {
        let message = "`metadata.search` must be an object, or one as text";
        return Err(ApiError::invalid("metadata.search", message));
    }
    let mut json = serde_json::Deserializer::from_str(&text);
    let options = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let param = if path == "." { "metadata.search".to_owned() } else { format!("metadata.search.{path}") };
        ApiError::invalid(&param, format!("`{param}`: {}", error.inner()))
    })?;
    json.end().map_err(|error| ApiError::invalid("metadata.search", format!("`metadata.search`: {error}")))?;
    Ok(options)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::search::Strategy;

    #[test]
    fn a_search_may_stand_in_metadata_as_text() {
        let found = |metadata: Value, budget| {
            let (budget, options) = search(metadata.as_object(), budget, None).unwrap();
            (budget, options.and_then(|options| options.strategy))
        };
        for (metadata, budget, expected) in [
            (json!({}), None, (None, None)),
            (json!({"search_budget": "8", "other": "x"}), None, (Some(8), None)),
            (json!({"search_budget": 8}), Some(2), (Some(2), None)),
            (json!({"search": "{\"strategy\": \"bfs\"}"}), None, (None, Some(Strategy::Bfs))),
            (json!({"search": {"strategy": "dfs"}, "search_budget": null}), None, (None, Some(Strategy::Dfs))),
        ] {
            assert_eq!(found(metadata.clone(), budget), expected, "{metadata}");
        }
        assert_eq!(search(None, Some(1), None).unwrap().0, Some(1));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (metadata, expected) in [
            (json!({"search_budget": "many"}), "metadata.search_budget"),
            (json!({"search_budget": 1.5}), "metadata.search_budget"),
            (json!({"search": "bfs"}), "metadata.search"),
            (json!({"search": [1]}), "metadata.search"),
            (json!({"search": "{\"branch\": \"wide\"}"}), "metadata.search.branch"),
            (json!({"search": "{} x"}), "metadata.search"),
        ] {
            match search(metadata.as_object(), None, None) {
                Err(ApiError::Invalid { param, .. }) => assert_eq!(param.as_deref(), Some(expected), "{metadata}"),
                other => panic!("{metadata}: {other:?}"),
            }
        }
    }
}
