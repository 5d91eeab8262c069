//! A client's JSON schema as it is compiled: the options that it may set, and how much white space replies may hold.

use serde_json::{Map, Value, json};

/// The keyword under which a schema carries options for llguidance.
pub const OPTIONS: &str = "x-guidance";

/// White space between two parts of a JSON reply: a space, or one or two line breaks with indentation. Without a bound a
/// model at temperature 0 may write line breaks until its tokens are used up.
const BOUNDED: &str = r" |(\r?\n){1,2}[ \t]{0,32}";

/// How much white space there may be between the parts of a JSON text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spaces {
    /// All white space that JSON allows: for texts that are checked.
    Any,
    /// A space, or up to two line breaks and an indentation: for texts that are generated.
    Bounded,
}

/// Checks the options that a schema carries. Those that change what JSON is, such as a separator that is an expression, are
/// refused.
///
/// # Errors
/// A sentence that names the option and what it may be.
pub fn check_options(options: &Value) -> Result<(), String> {
    let Value::Object(options) = options else {
        return Err(format!("`{OPTIONS}` must be an object, got {}", shortened(options)));
    };
    for (name, value) in options {
        let expected = match name.as_str() {
            "whitespace_flexible" | "coerce_one_of" | "lenient" if value.is_boolean() => continue,
            "whitespace_flexible" | "coerce_one_of" | "lenient" => "true or false",
            "item_separator" if value == "," || value == ", " => continue,
            "item_separator" => r#""," or ", ""#,
            "key_separator" if value == ":" || value == ": " => continue,
            "key_separator" => r#"":" or ": ""#,
            _ => {
                let known = "whitespace_flexible, coerce_one_of, lenient, item_separator and key_separator";
                return Err(format!("`{OPTIONS}` may hold {known}, not {}", shortened(&json!(name))));
            }
        };
        return Err(format!("`{OPTIONS}.{name}` must be {expected}, got {}", shortened(value)));
    }
    Ok(())
}

/// The values of `format` that the compiler knows; texts keep to these.
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

/// `schema` without the values of `format` that the compiler does not know: they are annotations.
pub fn with_known_formats(schema: &Value) -> Value {
    let mut schema = schema.clone();
    drop_unknown_formats(&mut schema);
    schema
}

fn drop_unknown_formats(schema: &mut Value) {
    match schema {
        Value::Array(schemas) => schemas.iter_mut().for_each(drop_unknown_formats),
        Value::Object(keywords) => {
            let unknown = |format: &Value| format.as_str().is_some_and(|name| !FORMATS.contains(&name));
            if keywords.get("format").is_some_and(unknown) {
                keywords.remove("format");
            }
            for (keyword, value) in keywords {
                match (keyword.as_str(), value) {
                    // Their values are data, not schemas.
                    ("const" | "enum" | "default" | "examples" | OPTIONS, _) => {}
                    // Their names are not keywords.
                    (
                        "properties" | "patternProperties" | "dependentSchemas" | "$defs" | "definitions",
                        Value::Object(schemas),
                    ) => schemas.values_mut().for_each(drop_unknown_formats),
                    (_, value) => drop_unknown_formats(value),
                }
            }
        }
        _ => {}
    }
}

/// `schema` with its options and with the formats that are known. Options about white space are replaced by those for `spaces`.
pub fn with_spaces(schema: &Value, spaces: Spaces) -> Value {
    let mut schema = match &with_known_formats(schema) {
        Value::Bool(true) => Map::new(),
        Value::Object(keywords) => keywords.clone(),
        // Nothing matches it, however it is spaced.
        other => return other.clone(),
    };
    let mut options = match schema.remove(OPTIONS) {
        Some(Value::Object(options)) => options,
        _ => Map::new(),
    };
    match spaces {
        // A text that keeps to narrower options is JSON as well.
        Spaces::Any => {
            for option in ["whitespace_flexible", "item_separator", "key_separator"] {
                options.remove(option);
            }
        }
        Spaces::Bounded if options.get("whitespace_flexible") == Some(&Value::Bool(false)) => {}
        Spaces::Bounded => {
            options.insert("whitespace_pattern".into(), BOUNDED.into());
        }
    }
    schema.insert(OPTIONS.into(), options.into());
    schema.into()
}

/// A value for a message.
fn shortened(value: &Value) -> String {
    const SHOWN: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::grammar::matches;
    use crate::engine::{Constraint, Namespace};

    #[test]
    fn options_that_keep_json_json_are_honoured() {
        for (options, expected) in [
            (json!({}), Ok(())),
            (json!({"whitespace_flexible": false, "lenient": true, "coerce_one_of": true}), Ok(())),
            (json!({"item_separator": ", ", "key_separator": ": "}), Ok(())),
            (json!(5), Err("must be an object")),
            (json!({"item_separator": "a?".repeat(3000)}), Err("`x-guidance.item_separator` must be \",\"")),
            (json!({"key_separator": ".*"}), Err("`x-guidance.key_separator` must be \":\"")),
            (json!({"whitespace_pattern": ".*"}), Err("not \"whitespace_pattern\"")),
            (json!({"whitespace_flexible": "no"}), Err("must be true or false")),
            (json!({"json_allowed_escapes": "x"}), Err("not \"json_allowed_escapes\"")),
        ] {
            match (check_options(&options), expected) {
                (Ok(()), Ok(())) => {}
                (Err(message), Err(part)) => assert!(message.contains(part) && message.len() < 300, "{message}"),
                (got, expected) => panic!("{options}: {got:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn a_format_that_is_not_known_is_an_annotation() {
        let schema = json!({
            "format": "int32", "const": {"format": "int32"},
            "properties": {"format": {"type": "string", "format": "date"}, "a": {"format": "binary", "minLength": 1}},
            "items": [{"anyOf": [{"format": "int64", "type": "integer"}]}], "x": {"y": {"format": "password"}},
        });
        let expected = json!({
            "const": {"format": "int32"},
            "properties": {"format": {"type": "string", "format": "date"}, "a": {"minLength": 1}},
            "items": [{"anyOf": [{"type": "integer"}]}], "x": {"y": {}},
        });
        assert_eq!(with_known_formats(&schema), expected);
    }

    #[tokio::test]
    async fn the_formats_that_are_kept_are_those_that_compile() {
        for format in FORMATS {
            let schema = Constraint::JsonSchema(json!({"type": "string", "format": format}));
            assert!(matches(&schema, Namespace::SHARED, "\"no, it is no such thing\"").await.is_ok(), "{format}");
        }
    }

    #[test]
    fn a_schema_keeps_its_options_beside_the_servers() {
        let compact = json!({"type": "object", "x-guidance": {"whitespace_flexible": false, "lenient": true}});
        assert_eq!(with_spaces(&compact, Spaces::Bounded), compact);
        let free = json!({"type": "object", "x-guidance": {"lenient": true}});
        assert_eq!(with_spaces(&compact, Spaces::Any), free);
        let bounded = json!({"x-guidance": {"whitespace_pattern": BOUNDED}});
        assert_eq!(with_spaces(&json!(true), Spaces::Bounded), bounded);
        assert_eq!(with_spaces(&json!(false), Spaces::Bounded), json!(false));
    }
}
