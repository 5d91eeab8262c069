//! What an answer must match: `response_format`, `structured_outputs` and other servers' fields become one constraint.

use serde_json::{Value, json};

use super::strict::closed;
use crate::engine::grammar::{gbnf, limits};
use crate::engine::{Constraint, ConstraintSupport};
use crate::http::error::ApiError;
use crate::openai::{ChatRequest, CompletionRequest, GuidedFields, ResponseFormat, StructuredOutputs};

/// What an answer must match, and the field that says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The field, such as `structured_outputs.regex`.
    pub param: &'static str,
    /// What it asks for.
    pub constraint: Constraint,
}

/// The fields of a request that say what its answer must match.
#[derive(Clone, Copy)]
pub struct Fields<'a> {
    format: Option<&'a ResponseFormat>,
    outputs: Option<&'a StructuredOutputs>,
    guided: &'a GuidedFields,
}

impl<'a> From<&'a ChatRequest> for Fields<'a> {
    fn from(body: &'a ChatRequest) -> Self {
        let (format, outputs) = (body.response_format.as_ref(), body.structured_outputs.as_ref());
        Self { format, outputs, guided: &body.guided }
    }
}

impl<'a> From<&'a CompletionRequest> for Fields<'a> {
    fn from(body: &'a CompletionRequest) -> Self {
        let (format, outputs) = (body.response_format.as_ref(), body.structured_outputs.as_ref());
        Self { format, outputs, guided: &body.guided }
    }
}

/// The constraint that a request asks for, if the model honours it. It is within the limits of
/// [`limits`], but not compiled yet.
///
/// # Errors
/// Names the field, or two that both say what the answer must match.
pub fn from_wire<'a>(fields: impl Into<Fields<'a>>, honoured: ConstraintSupport) -> Result<Option<Asked>, ApiError> {
    let Fields { format, outputs, guided } = fields.into();
    let format = format.map_or(Ok(None), response_format)?.map(|asked| ("response_format", asked));
    let outputs = outputs.map_or(Ok(None), structured_outputs)?.map(|asked| ("structured_outputs", asked));
    let mut asked = format.into_iter().chain(outputs).collect::<Vec<_>>();
    asked.extend(other_servers(guided)?.into_iter().map(|asked| (asked.param, asked)));
    let mut asked = asked.into_iter();
    let Some((field, asked)) = asked.next().map(|first| (first, asked.next())).map_or(Ok(None), alone)? else {
        return Ok(None);
    };
    match (honoured, &asked.constraint) {
        (ConstraintSupport::Everything, _)
        | (ConstraintSupport::Json | ConstraintSupport::Regular, Constraint::JsonSchema(_)) => Ok(Some(asked)),
        (ConstraintSupport::Regular, Constraint::Regex(_)) => Ok(Some(asked)),
        (ConstraintSupport::Regular, _) => {
            let message = format!(
                "this model's engine takes JSON schemas and regular expressions, no grammar; leave `{field}` out"
            );
            Err(ApiError::invalid(field, message))
        }
        (ConstraintSupport::Json, _) => {
            let message = format!("this model's engine takes JSON schemas only; leave `{field}` out");
            Err(ApiError::invalid(field, message))
        }
        (ConstraintSupport::Nothing, _) => Err(ApiError::invalid(
            field,
            format!("this model's engine cannot constrain its answer; leave `{field}` out"),
        )),
    }
}

type Named = (&'static str, Asked);

/// The first, where there is no second one.
fn alone((first, second): (Named, Option<Named>)) -> Result<Option<Named>, ApiError> {
    match second {
        None => Ok(Some(first)),
        Some((field, _)) => {
            let other = first.0;
            let message = format!("`{field}` and `{other}` both say what the answer must match; send one of them");
            Err(ApiError::invalid(field, message))
        }
    }
}

fn any_object() -> Value {
    json!({"type": "object"})
}

fn response_format(format: &ResponseFormat) -> Result<Option<Asked>, ApiError> {
    let param = "response_format";
    let refuse = |field: &str, message: &str| {
        let field = format!("response_format.{field}");
        Err(ApiError::invalid(&field, format!("`{field}` {message}")))
    };
    match (format.kind.as_str(), &format.json_schema, &format.schema) {
        ("text" | "json_object", Some(_), _) => refuse("json_schema", "needs `type: json_schema`"),
        ("text", None, Some(_)) => refuse("schema", "needs `type: json_object`"),
        ("text", None, None) => Ok(None),
        ("json_object", None, None) => Ok(Some(Asked { param, constraint: Constraint::JsonSchema(any_object()) })),
        ("json_object", None, Some(schema)) => json_schema(param, "response_format.schema", schema).map(Some),
        ("json_schema", Some(_), Some(_)) => {
            refuse("schema", "and `response_format.json_schema` both hold a schema; send one of them")
        }
        ("json_schema", None, Some(schema)) => json_schema(param, "response_format.schema", schema).map(Some),
        ("json_schema", Some(named), None) => {
            let schema = named.schema.clone().unwrap_or_else(any_object);
            let schema = if named.strict == Some(true) { closed(schema) } else { schema };
            json_schema(param, "response_format.json_schema.schema", &schema).map(Some)
        }
        ("json_schema", None, None) => refuse("json_schema", "is missing: it holds the name and the schema"),
        (kind, _, _) => refuse("type", &format!("must be text, json_object or json_schema, got {kind:?}")),
    }
}

fn structured_outputs(outputs: &StructuredOutputs) -> Result<Option<Asked>, ApiError> {
    let StructuredOutputs { json, regex: expression, choice: texts, grammar, json_object, disable_any_whitespace } =
        outputs;
    let any_json = json_object.unwrap_or(false).then(any_object);
    let asked = [
        json.as_ref().map(|schema| json_schema("structured_outputs.json", "structured_outputs.json", schema)),
        expression.as_ref().map(|expression| regex("structured_outputs.regex", expression)),
        texts.as_ref().map(|texts| choice("structured_outputs.choice", texts)),
        grammar.as_ref().map(|grammar| gbnf_grammar("structured_outputs.grammar", grammar)),
        any_json.map(|schema| json_schema("structured_outputs.json_object", "structured_outputs.json_object", &schema)),
    ];
    let mut asked = asked.into_iter().flatten();
    let compact = disable_any_whitespace.unwrap_or(false);
    let Some(first) = asked.next().transpose()? else {
        return match compact {
            false => Ok(None),
            true => Err(needs_json()),
        };
    };
    if asked.next().is_some() {
        let message = "`structured_outputs` must hold exactly one of json, regex, choice, grammar and json_object";
        return Err(ApiError::invalid("structured_outputs", message));
    }
    match (compact, first) {
        (false, asked) => Ok(Some(asked)),
        (true, Asked { param, constraint: Constraint::JsonSchema(schema) }) => {
            Ok(Some(Asked { param, constraint: Constraint::JsonSchema(without_spaces(schema)) }))
        }
        (true, _) => Err(needs_json()),
    }
}

fn needs_json() -> ApiError {
    let field = "structured_outputs.disable_any_whitespace";
    ApiError::invalid(field, format!("`{field}` needs `structured_outputs.json` or `structured_outputs.json_object`"))
}

/// A schema for JSON without white space between its parts.
fn without_spaces(schema: Value) -> Value {
    let mut schema = match schema {
        Value::Object(keywords) => keywords,
        Value::Bool(true) => serde_json::Map::new(),
        other => return other,
    };
    let options = schema.entry("x-guidance").or_insert_with(|| json!({}));
    options["whitespace_flexible"] = false.into();
    schema.into()
}

/// What llama.cpp's, SGLang's and vLLM's older fields ask for, in a fixed order.
fn other_servers(guided: &GuidedFields) -> Result<Vec<Asked>, ApiError> {
    let schema = |param, schema: &Option<Value>| schema.as_ref().map(|schema| json_schema(param, param, schema));
    // llama.cpp's clients send an empty grammar where they want none.
    let grammar = |param, text: &Option<String>| {
        text.as_ref().filter(|text| !text.is_empty()).map(|text| gbnf_grammar(param, text))
    };
    let expression = |param, text: &Option<String>| text.as_ref().map(|text| regex(param, text));
    [
        schema("json_schema", &guided.json_schema),
        grammar("grammar", &guided.grammar),
        grammar("ebnf", &guided.ebnf),
        expression("regex", &guided.regex),
        schema("guided_json", &guided.guided_json),
        expression("guided_regex", &guided.guided_regex),
        guided.guided_choice.as_ref().map(|texts| choice("guided_choice", texts)),
        grammar("guided_grammar", &guided.guided_grammar),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn regex(param: &'static str, expression: &str) -> Result<Asked, ApiError> {
    limits::check_regex(expression).map_err(|reason| ApiError::Constraint(reason).of_constraint(param))?;
    Ok(Asked { param, constraint: Constraint::Regex(expression.to_owned()) })
}

fn gbnf_grammar(param: &'static str, grammar: &str) -> Result<Asked, ApiError> {
    let lark = gbnf::to_lark(grammar).map_err(|reason| ApiError::Constraint(reason).of_constraint(param))?;
    Ok(Asked { param, constraint: Constraint::Lark(lark) })
}

fn choice(param: &'static str, texts: &[String]) -> Result<Asked, ApiError> {
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

/// A schema that stands in `place` of the field `param`, as an object or as the text of one.
fn json_schema(param: &'static str, place: &str, schema: &Value) -> Result<Asked, ApiError> {
    let schema = match schema {
        Value::String(text) => serde_json::from_str(text).map_err(|error| {
            ApiError::invalid(place, format!("`{place}` must be a JSON schema, an object or its text: {error}"))
        })?,
        schema => schema.clone(),
    };
    if !(schema.is_object() || schema.is_boolean()) {
        return Err(ApiError::invalid(place, format!("`{place}` must be a JSON schema: an object, or its text")));
    }
    limits::check_schema(&schema).map_err(|reason| ApiError::Constraint(reason).of_constraint(param))?;
    Ok(Asked { param, constraint: Constraint::JsonSchema(schema) })
}
