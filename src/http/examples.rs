//! What the API document shows of every route: a request, its answer and, where it is streamed, some of the events.

use std::sync::LazyLock;

use serde_json::Value;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{Object, RefOr, Schema};

static EXAMPLES: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../openapi/examples.json")).expect("a test reads the examples")
});

/// Puts the examples of a route into its description.
pub(super) fn show(method: &str, path: &str, operation: &mut Operation) {
    let examples = &EXAMPLES[format!("{method} {path}").as_str()];
    let example = |name: &str| examples.get(name).cloned();
    if let Some(body) = &mut operation.request_body {
        body.content.values_mut().for_each(|content| content.example = example("request"));
    }
    if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200") {
        for (kind, content) in &mut answer.content {
            content.example = example(if kind == "text/event-stream" { "events" } else { "answer" });
        }
    }
}

/// Says of every field that has one value only which one that is: the tags of enums have no comment of their own.
pub(super) fn name_kinds(schema: &mut Schema) {
    match schema {
        Schema::Object(object) => object.properties.values_mut().for_each(|property| {
            if let RefOr::T(Schema::Object(tag)) = property {
                name_kind(tag);
            }
        }),
        Schema::OneOf(either) => either.items.iter_mut().for_each(name_kinds_within),
        Schema::AllOf(all) => all.items.iter_mut().for_each(name_kinds_within),
        _ => {}
    }
}

fn name_kinds_within(item: &mut RefOr<Schema>) {
    if let RefOr::T(schema) = item {
        name_kinds(schema);
    }
}

fn name_kind(tag: &mut Object) {
    if tag.description.is_none()
        && let Some([Value::String(kind)]) = tag.enum_values.as_deref()
    {
        tag.description = Some(format!("The kind is always `{kind}`."));
    }
}
