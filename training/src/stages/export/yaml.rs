//! YAML of plain settings: one line per key, with JSON as the value, which YAML includes.

use serde_json::{Map, Value};

/// The settings as a file. `null` is left out.
pub(super) fn text(comment: &str, settings: &Map<String, Value>) -> String {
    let comment: String = comment.lines().map(|line| format!("# {line}\n")).collect();
    let lines = settings.iter().filter(|(_, value)| !value.is_null());
    comment + &lines.map(|(key, value)| format!("{key}: {}\n", scalar(value))).collect::<String>()
}

/// YAML 1.1 reads `2e-7` as a text, and `2.0e-7` as a number.
fn scalar(value: &Value) -> String {
    let text = value.to_string();
    match (value, text.split_once('e')) {
        (Value::Number(_), Some((digits, exponent))) => {
            let digits = if digits.contains('.') { digits.to_owned() } else { format!("{digits}.0") };
            let exponent = if exponent.starts_with(['-', '+']) { exponent.to_owned() } else { format!("+{exponent}") };
            format!("{digits}e{exponent}")
        }
        (Value::Array(values), _) => format!("[{}]", values.iter().map(scalar).collect::<Vec<_>>().join(", ")),
        (Value::Object(fields), _) => {
            let field = |(key, value): (&String, &Value)| format!("{key}: {}", scalar(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_are_numbers_in_yaml_too() {
        let table = [
            (json!(2e-7), "2.0e-7"),
            (json!(1.5e-5), "0.000015"),
            (json!(1e30), "1.0e+30"),
            (json!(0.1), "0.1"),
            (json!(3), "3"),
            (json!(true), "true"),
            (json!("a \"b\": c"), r#""a \"b\": c""#),
            (json!([0.5, "x"]), r#"[0.5, "x"]"#),
            (json!([{ "path": "d", "rate": 1e-9 }]), r#"[{path: "d", rate: 1.0e-9}]"#),
        ];
        for (value, expected) in table {
            assert_eq!(scalar(&value), expected);
        }
        let settings = json!({ "a": 1, "b": null });
        assert_eq!(text("one\ntwo", settings.as_object().unwrap()), "# one\n# two\na: 1\n");
    }
}
