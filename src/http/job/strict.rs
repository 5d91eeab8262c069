//! `strict`: objects have the properties that their schema names, and no others.

use serde_json::{Map, Value};

/// Places of a schema that hold one schema, a list of them, or schemas by name. The parts of `allOf` describe one object together, so none
/// of them is closed alone.
const ONE: &[&str] = &["items", "additionalProperties"];
const LISTS: &[&str] = &["anyOf", "oneOf", "prefixItems"];
const NAMED: &[&str] = &["properties", "patternProperties", "$defs", "definitions"];

/// `schema` with `additionalProperties: false` in every object that names properties and does not say whether there may be others.
/// OpenAI requires this of strict schemas; without it a model may add properties until its tokens run out.
pub fn closed(mut schema: Value) -> Value {
    close(&mut schema);
    schema
}

fn close(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    for name in ONE {
        if let Some(part) = fields.get_mut(*name) {
            close(part);
        }
    }
    for name in LISTS {
        if let Some(Value::Array(parts)) = fields.get_mut(*name) {
            parts.iter_mut().for_each(close);
        }
    }
    for name in NAMED {
        if let Some(Value::Object(named)) = fields.get_mut(*name) {
            named.values_mut().for_each(close);
        }
    }
    if is_open(fields) {
        fields.insert("additionalProperties".into(), false.into());
    }
}

fn is_open(fields: &Map<String, Value>) -> bool {
    let says = |name: &str| fields.contains_key(name);
    says("properties") && !says("additionalProperties") && !says("unevaluatedProperties") && !says("allOf")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_are_closed_where_they_do_not_say_otherwise() {
        let number = json!({"type": "integer"});
        for (schema, expected) in [
            (
                json!({"type": "object", "properties": {"n": number}}),
                json!({"type": "object", "properties": {"n": number}, "additionalProperties": false}),
            ),
            (
                json!({"properties": {"n": number}, "additionalProperties": true}),
                json!({"properties": {"n": number}, "additionalProperties": true}),
            ),
            (json!({"type": "object"}), json!({"type": "object"})),
            (
                json!({"type": "array", "items": {"properties": {"a": {"properties": {}}}}}),
                json!({"type": "array", "items": {"additionalProperties": false, "properties":
                    {"a": {"properties": {}, "additionalProperties": false}}}}),
            ),
            (
                json!({"$defs": {"p": {"properties": {}}}, "anyOf": [{"$ref": "#/$defs/p"}, {"properties": {}}]}),
                json!({"$defs": {"p": {"properties": {}, "additionalProperties": false}},
                    "anyOf": [{"$ref": "#/$defs/p"}, {"properties": {}, "additionalProperties": false}]}),
            ),
            (
                json!({"allOf": [{"properties": {"a": number}}, {"properties": {"b": number}}]}),
                json!({"allOf": [{"properties": {"a": number}}, {"properties": {"b": number}}]}),
            ),
            // A property may have any name.
            (
                json!({"properties": {"items": number, "properties": number}}),
                json!({"properties": {"items": number, "properties": number}, "additionalProperties": false}),
            ),
            (json!(true), json!(true)),
        ] {
            assert_eq!(closed(schema.clone()), expected, "{schema}");
        }
    }
}
