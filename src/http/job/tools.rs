//! The functions that a request offers, and calls as an answer shows them.

use std::collections::HashSet;
use std::sync::Arc;

use rand::distr::{Alphanumeric, SampleString};
use serde_json::{Map, Value, json};

use super::strict::closed;
use crate::engine::grammar::limits;
use crate::engine::tools::{Call, Choice, Format, Offer, Tool};
use crate::http::error::ApiError;
use crate::openai::{AllowedSet, AllowedTools, ChatRequest, FunctionCall, ToolCallEntry, ToolChoice, ToolSpec};

/// Functions of one request, as OpenAI bounds them.
const MOST: usize = 128;
/// Characters of a call's id: Mistral's templates take no other length.
const ID: usize = 9;

/// The functions that `body` offers; `None` where it offers none, or none may be called.
///
/// # Errors
/// Names the field.
pub fn from_wire(body: &ChatRequest, format: Format) -> Result<Option<Arc<Offer>>, ApiError> {
    let specs = body.tools.as_deref().unwrap_or_default();
    if specs.len() > MOST {
        let message = format!("`tools` must hold at most {MOST} functions, got {}", specs.len());
        return Err(ApiError::invalid("tools", message));
    }
    let mut names = HashSet::new();
    let mut tools: Vec<Tool> = specs.iter().enumerate().map(|spec| tool(spec, &mut names)).collect::<Result<_, _>>()?;
    let chosen = match &body.tool_choice {
        Some(ToolChoice::Allowed(AllowedTools { allowed_tools, .. })) => {
            tools = allowed(allowed_tools, tools)?;
            Some(Chosen::Word(&allowed_tools.mode))
        }
        Some(ToolChoice::Word(word)) => Some(Chosen::Word(word)),
        Some(ToolChoice::Named(named)) => Some(Chosen::Named(&named.function.name)),
        None => None,
    };
    let Some(choice) = choice(chosen, &tools)? else { return Ok(None) };
    let parallel = body.parallel_tool_calls.unwrap_or(true);
    Ok((!tools.is_empty()).then(|| Arc::new(Offer { tools, choice, parallel, format })))
}

fn tool<'a>((index, spec): (usize, &'a ToolSpec), names: &mut HashSet<&'a str>) -> Result<Tool, ApiError> {
    let at = format!("tools[{index}]");
    let refuse = |field: &str, message: &str| {
        let param = format!("{at}.{field}");
        ApiError::invalid(&param, format!("`{param}` {message}"))
    };
    if spec.kind != "function" {
        return Err(refuse("type", &format!("must be function, got {:?}", spec.kind)));
    }
    let name = spec.function.name.as_str();
    let usual = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !(1..=64).contains(&name.len()) || !name.chars().all(usual) {
        return Err(refuse("function.name", "must be 1 to 64 letters, digits, underscores, dots and dashes"));
    }
    if !names.insert(name) {
        return Err(refuse("function.name", &format!("{name:?} is the name of an earlier function as well")));
    }
    let parameters = match &spec.function.parameters {
        None | Some(Value::Null) => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(Value::Object(schema)) if schema.is_empty() => json!({"type": "object"}),
        Some(schema @ Value::Object(fields)) => {
            let kind = fields.get("type");
            if kind.is_some_and(|kind| kind != "object") {
                return Err(refuse("function.parameters", "must be the JSON schema of an object"));
            }
            let mut schema = schema.clone();
            if kind.is_none() && fields.contains_key("properties") {
                schema["type"] = "object".into();
            }
            schema
        }
        Some(_) => return Err(refuse("function.parameters", "must be a JSON schema: an object")),
    };
    let parameters = if spec.function.strict == Some(true) { closed(parameters) } else { parameters };
    limits::check_schema(&parameters)
        .map_err(|reason| refuse("function.parameters", &format!("cannot be used: {reason}")))?;
    Ok(Tool { name: name.into(), description: spec.function.description.clone(), parameters })
}

/// What a choice says of the functions that it leaves.
enum Chosen<'a> {
    /// `none`, `auto` or `required`.
    Word(&'a str),
    /// The function of this name.
    Named(&'a str),
}

/// Those of the functions that a choice allows.
fn allowed(set: &AllowedSet, tools: Vec<Tool>) -> Result<Vec<Tool>, ApiError> {
    let refuse = |field: &str, message: String| {
        let param = format!("tool_choice.allowed_tools.{field}");
        ApiError::invalid(&param, format!("`{param}` {message}"))
    };
    if !["auto", "required"].contains(&set.mode.as_str()) {
        return Err(refuse("mode", format!("must be auto or required, got {:?}", set.mode)));
    }
    let names: Vec<&str> = set.tools.iter().map(|tool| tool.function.name.as_str()).collect();
    if let Some(name) = names.iter().find(|name| !tools.iter().any(|tool| tool.name == **name)) {
        return Err(refuse("tools", format!("names {name:?}, which is not among `tools`")));
    }
    if names.is_empty() {
        return Err(refuse("tools", "must name at least one function".into()));
    }
    Ok(tools.into_iter().filter(|tool| names.contains(&tool.name.as_str())).collect())
}

/// `None`: nothing may be called.
fn choice(choice: Option<Chosen<'_>>, tools: &[Tool]) -> Result<Option<Choice>, ApiError> {
    let refuse = |message: String| Err(ApiError::invalid("tool_choice", message));
    let chosen = match choice {
        None => Choice::Auto,
        Some(Chosen::Word(word)) => match word {
            "none" => return Ok(None),
            "auto" => Choice::Auto,
            "required" => Choice::Required,
            other => {
                let message = "`tool_choice` must be none, auto, required, or an object that names a function";
                return refuse(format!("{message}, got {other:?}"));
            }
        },
        Some(Chosen::Named(name)) => Choice::Named(name.to_owned()),
    };
    match &chosen {
        Choice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            refuse(format!("`tool_choice` names {name:?}, which is not among `tools`"))
        }
        Choice::Required if tools.is_empty() => {
            refuse("`tool_choice` is required, but `tools` offers no function".into())
        }
        _ => Ok(Some(chosen)),
    }
}

/// OpenAI's fields on the use of functions, for an upstream.
pub fn upstream_fields(body: &ChatRequest) -> Map<String, Value> {
    let mut fields = Map::new();
    match &body.tool_choice {
        // Only the functions that it allows are sent.
        Some(ToolChoice::Allowed(allowed)) => {
            fields.insert("tool_choice".into(), allowed.allowed_tools.mode.as_str().into());
        }
        Some(choice) => {
            fields.insert("tool_choice".into(), json!(choice));
        }
        None => {}
    }
    if let Some(parallel) = body.parallel_tool_calls {
        fields.insert("parallel_tool_calls".into(), parallel.into());
    }
    fields
}

/// A call as an answer shows it, under a new id.
pub fn entry(call: Call) -> ToolCallEntry {
    let id = Alphanumeric.sample_string(&mut rand::rng(), ID);
    let function = FunctionCall { name: call.name, arguments: call.arguments };
    ToolCallEntry { id, kind: "function".into(), function }
}
