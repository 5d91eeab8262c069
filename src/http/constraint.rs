//! What an answer must match: `response_format` and `structured_outputs` become one constraint.

use serde_json::{Value, json};

use super::error::ApiError;
use super::job::Constrains;
use crate::engine::Constraint;
use crate::openai::{ChatRequest, ResponseFormat, StructuredOutputs};

/// The constraint that `body` asks for, if the model honours it.
///
/// # Errors
/// Names the field.
pub fn from_wire(body: &ChatRequest, honoured: Constrains) -> Result<Option<Constraint>, ApiError> {
    let format = body.response_format.as_ref().map_or(Ok(None), response_format)?;
    let outputs = body.structured_outputs.as_ref().map_or(Ok(None), structured_outputs)?;
    let (param, constraint) = match (format, outputs) {
        (None, None) => return Ok(None),
        (Some(constraint), None) => ("response_format", constraint),
        (None, Some(constraint)) => ("structured_outputs", constraint),
        (Some(_), Some(_)) => {
            let message =
                "`structured_outputs` and `response_format` both say what the answer must match; send one of them";
            return Err(ApiError::invalid("structured_outputs", message));
        }
    };
    match (honoured, &constraint) {
        (Constrains::Everything, _) | (Constrains::Json, Constraint::JsonSchema(_)) => Ok(Some(constraint)),
        (Constrains::Json, _) => {
            let message = format!("this model's engine takes JSON schemas only; leave `{param}` out");
            Err(ApiError::invalid(param, message))
        }
        (Constrains::Nothing, _) => Err(ApiError::invalid(
            param,
            format!("this model's engine cannot constrain its answer; leave `{param}` out"),
        )),
    }
}

fn response_format(format: &ResponseFormat) -> Result<Option<Constraint>, ApiError> {
    let any_object = || json!({"type": "object"});
    match (format.kind.as_str(), &format.json_schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(Constraint::JsonSchema(any_object()))),
        ("json_schema", Some(named)) => {
            let schema = named.schema.clone().unwrap_or_else(any_object);
            Ok(Some(Constraint::JsonSchema(checked("response_format.json_schema.schema", schema)?)))
        }
        ("json_schema", None) => {
            let message = "`response_format.json_schema` is missing: it holds the name and the schema";
            Err(ApiError::invalid("response_format.json_schema", message))
        }
        (kind, _) => {
            let message = format!("`response_format.type` must be text, json_object or json_schema, got {kind:?}");
            Err(ApiError::invalid("response_format.type", message))
        }
    }
}

fn structured_outputs(outputs: &StructuredOutputs) -> Result<Option<Constraint>, ApiError> {
    match (&outputs.json, &outputs.regex, &outputs.choice) {
        (None, None, None) => Ok(None),
        (Some(schema), None, None) => {
            Ok(Some(Constraint::JsonSchema(checked("structured_outputs.json", schema.clone())?)))
        }
        (None, Some(regex), None) => {
            // The engines' dialect is this crate's, less what looks around.
            regex::Regex::new(regex).map_err(|error| {
                let message = format!("`structured_outputs.regex` is no regular expression: {error}");
                ApiError::invalid("structured_outputs.regex", message)
            })?;
            Ok(Some(Constraint::Regex(regex.clone())))
        }
        (None, None, Some(choice)) => {
            if choice.is_empty() || choice.iter().any(String::is_empty) {
                let message = "`structured_outputs.choice` must hold at least one text, none of them empty";
                return Err(ApiError::invalid("structured_outputs.choice", message));
            }
            let texts: Vec<String> = choice.iter().map(|text| regex::escape(text)).collect();
            Ok(Some(Constraint::Regex(texts.join("|"))))
        }
        _ => {
            let message = "`structured_outputs` must hold exactly one of json, regex and choice";
            Err(ApiError::invalid("structured_outputs", message))
        }
    }
}

fn checked(param: &str, schema: Value) -> Result<Value, ApiError> {
    if schema.is_object() || schema.is_boolean() {
        return Ok(schema);
    }
    Err(ApiError::invalid(param, format!("`{param}` must be a JSON schema: an object")))
}
