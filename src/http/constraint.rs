//! What an answer must match: `response_format` and `structured_outputs` become one constraint.

use serde_json::{Value, json};

use super::error::ApiError;
use super::job::Constrains;
use crate::engine::Constraint;
use crate::engine::grammar::limits;
use crate::openai::{ChatRequest, ResponseFormat, StructuredOutputs};

/// What an answer must match, and the field that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The field, such as `structured_outputs.regex`.
    pub param: &'static str,
    /// What it asks for.
    pub constraint: Constraint,
}

/// The constraint that `body` asks for, if the model honours it. It is within the limits of
/// [`limits`](crate::engine::grammar::limits), but not compiled yet.
///
/// # Errors
/// Names the field.
pub fn from_wire(body: &ChatRequest, honoured: Constrains) -> Result<Option<Asked>, ApiError> {
    let format = body.response_format.as_ref().map_or(Ok(None), response_format)?;
    let outputs = body.structured_outputs.as_ref().map_or(Ok(None), structured_outputs)?;
    let (field, asked) = match (format, outputs) {
        (None, None) => return Ok(None),
        (Some(asked), None) => ("response_format", asked),
        (None, Some(asked)) => ("structured_outputs", asked),
        (Some(_), Some(_)) => {
            let message =
                "`structured_outputs` and `response_format` both say what the answer must match; send one of them";
            return Err(ApiError::invalid("structured_outputs", message));
        }
    };
    match (honoured, &asked.constraint) {
        (Constrains::Everything, _) | (Constrains::Json, Constraint::JsonSchema(_)) => Ok(Some(asked)),
        (Constrains::Json, _) => {
            let message = format!("this model's engine takes JSON schemas only; leave `{field}` out");
            Err(ApiError::invalid(field, message))
        }
        (Constrains::Nothing, _) => Err(ApiError::invalid(
            field,
            format!("this model's engine cannot constrain its answer; leave `{field}` out"),
        )),
    }
}

fn response_format(format: &ResponseFormat) -> Result<Option<Asked>, ApiError> {
    let param = "response_format";
    let any_object = || json!({"type": "object"});
    match (format.kind.as_str(), &format.json_schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(Asked { param, constraint: Constraint::JsonSchema(any_object()) })),
        ("json_schema", Some(named)) => {
            let schema = named.schema.clone().unwrap_or_else(any_object);
            json_schema(param, "response_format.json_schema.schema", schema).map(Some)
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

fn structured_outputs(outputs: &StructuredOutputs) -> Result<Option<Asked>, ApiError> {
    match (&outputs.json, &outputs.regex, &outputs.choice) {
        (None, None, None) => Ok(None),
        (Some(schema), None, None) => {
            let param = "structured_outputs.json";
            json_schema(param, param, schema.clone()).map(Some)
        }
        (None, Some(regex), None) => {
            let param = "structured_outputs.regex";
            limits::check_regex(regex).map_err(|reason| ApiError::Constraint(reason).of_constraint(param))?;
            Ok(Some(Asked { param, constraint: Constraint::Regex(regex.clone()) }))
        }
        (None, None, Some(texts)) => choice(texts).map(Some),
        _ => {
            let message = "`structured_outputs` must hold exactly one of json, regex and choice";
            Err(ApiError::invalid("structured_outputs", message))
        }
    }
}

fn choice(texts: &[String]) -> Result<Asked, ApiError> {
    let param = "structured_outputs.choice";
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        let message = format!("`{param}` must hold at least one text, none of them empty");
        return Err(ApiError::invalid(param, message));
    }
    let bytes: usize = texts.iter().map(String::len).sum();
    if texts.len() > limits::CHOICES || bytes > limits::CHOICE_BYTES {
        let (most, room) = (limits::CHOICES, limits::CHOICE_BYTES);
        let got = texts.len();
        let message =
            format!("`{param}` must hold at most {most} texts of {room} bytes together, got {got} of {bytes}");
        return Err(ApiError::invalid(param, message));
    }
    let escaped: Vec<String> = texts.iter().map(|text| regex::escape(text)).collect();
    Ok(Asked { param, constraint: Constraint::Regex(escaped.join("|")) })
}

/// A schema that stands in `place` of the field `param`.
fn json_schema(param: &'static str, place: &str, schema: Value) -> Result<Asked, ApiError> {
    if !(schema.is_object() || schema.is_boolean()) {
        return Err(ApiError::invalid(place, format!("`{place}` must be a JSON schema: an object")));
    }
    limits::check_schema(&schema).map_err(|reason| ApiError::Constraint(reason).of_constraint(param))?;
    Ok(Asked { param, constraint: Constraint::JsonSchema(schema) })
}
