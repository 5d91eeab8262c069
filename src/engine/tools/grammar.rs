//! Grammars of calls, so that a constrained reply never holds one that cannot be read.

use serde_json::{Value, json};

use super::{Choice, Format, Offer};
use crate::constraint::{lark_regex, lark_schema, with_known_formats};
use crate::engine::Constraint;

/// The grammar of a reply in llguidance's Lark: an answer or calls where the model decides, else calls.
pub(super) fn lark(offer: &Offer, answer: Option<&Constraint>) -> String {
    let marks = offer.format.marks();
    let (open, close) = (quoted(marks.open[0]), marks.close.first().map(|close| quoted(close)).unwrap_or_default());
    // What follows the opening mark, and a further call with everything that stands between the two.
    let (first, more, end) = match offer.format {
        Format::Hermes => {
            (format!(r#""\n" call "\n" {close}"#), format!(r#""\n" {open} "\n" call "\n" {close}"#), String::new())
        }
        Format::QwenCoder => {
            (format!(r#""\n" call {close}"#), format!(r#""\n" {open} "\n" call {close}"#), String::new())
        }
        Format::Llama => ("call".into(), r#""; " call"#.into(), String::new()),
        Format::Mistral | Format::Granite => (r#""[" call"#.into(), r#"", " call"#.into(), r#""]""#.into()),
        Format::Nemotron => (r#""[" call"#.into(), r#"", " call"#.into(), format!(r#""]" {close}"#)),
        Format::MistralArguments => ("call".into(), format!("{open} call"), String::new()),
    };
    let more = if offer.parallel { format!("({more})*") } else { String::new() };
    let calls = format!("{first} {more} {end}");
    let bare = offer.format.is_bare();
    let mut lark = String::new();
    match (&offer.choice, bare) {
        // The first character decides: an answer does not begin as a call does. An answer in JSON does, so calls then need their
        // mark.
        (Choice::Auto, true) if answer.is_none() => {
            lark += &format!("start: calls | FREE\nFREE: /[^{{<][\\s\\S]*|/\ncalls: {calls}\n");
        }
        (Choice::Auto, _) => {
            let free = if answer.is_some() { "answer" } else { "FREE" };
            let head = if answer.is_some() { format!("head: {open}") } else { format!("head[lazy]: FREE {open}") };
            lark += &format!("start: {free} | head calls\n{head}\ncalls: {calls}\nFREE: /[\\s\\S]*/\n");
        }
        (_, true) => lark += &format!("start: {calls}\n"),
        (_, false) => lark += &format!("start: {open} {calls}\n"),
    }
    match answer.filter(|_| offer.choice == Choice::Auto) {
        Some(Constraint::JsonSchema(schema)) => lark += &format!("answer: {}\n", lark_schema(schema)),
        Some(Constraint::Regex(regex)) => lark += &format!("answer: {}\n", lark_regex(regex)),
        // Its rules have names of their own, and its first one is the answer.
        Some(Constraint::Lark(grammar)) => lark += &grammar.replacen("start:", "answer:", 1),
        Some(Constraint::Calls { .. }) | None => {}
    }
    let callable: Vec<_> = offer.callable().collect();
    let names: Vec<_> = (0..callable.len()).map(|index| format!("call{index}")).collect();
    lark += &format!("call: {}\n", names.join(" | "));
    for (index, tool) in callable.iter().enumerate() {
        let body = match offer.format {
            Format::MistralArguments => format!("{} args{index}", quoted(&format!("{}[ARGS]", tool.name))),
            Format::QwenCoder => qwen_coder(index, &tool.name, &tool.parameters, &mut lark),
            _ => {
                let name = Value::from(tool.name.as_str());
                let before = quoted(&format!("{{\"name\": {name}, \"{}\": ", marks.arguments));
                format!(r#"{before} args{index} "}}""#)
            }
        };
        lark += &format!("call{index}: {body}\n");
        if offer.format != Format::QwenCoder {
            lark += &format!("args{index}: %json {}\n", as_written(&tool.parameters));
        }
    }
    lark
}

/// The schema with the white space that models write between keys and values, and no other: a small model would fill its
/// room with line breaks.
fn as_written(schema: &Value) -> Value {
    let mut schema = with_known_formats(schema);
    if let Value::Object(fields) = &mut schema {
        let spaces = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        fields.insert("x-guidance".into(), spaces);
    }
    schema
}

/// Parameters one after the other, those that are not required each left out or given.
fn qwen_coder(index: usize, name: &str, schema: &Value, lark: &mut String) -> String {
    let required = |key: &str| {
        schema["required"].as_array().is_some_and(|required| required.iter().any(|name| name.as_str() == Some(key)))
    };
    let mut body = quoted(&format!("<function={name}>\n"));
    for (at, (key, property)) in schema["properties"].as_object().into_iter().flatten().enumerate() {
        let rule = format!("value{index}_{at}");
        let open = quoted(&format!("<parameter={key}>\n"));
        let text = property["type"] == "string" && property["enum"].is_null();
        if text {
            lark.push_str(&format!("{rule}[lazy]: /[\\s\\S]*/ \"\\n</parameter>\\n\"\n"));
        } else if let (Some(values), true) = (property["enum"].as_array(), property["type"] == "string") {
            let values: Vec<_> = values.iter().filter_map(Value::as_str).map(quoted).collect();
            lark.push_str(&format!("{rule}: ({}) \"\\n</parameter>\\n\"\n", values.join(" | ")));
        } else {
            lark.push_str(&format!(
                "{rule}: json{index}_{at} \"\\n</parameter>\\n\"\njson{index}_{at}: %json {}\n",
                as_written(property)
            ));
        }
        let optional = if required(key) { "" } else { "?" };
        body += &format!(" ({open} {rule}){optional}");
    }
    body + " \"</function>\\n\""
}

/// A string literal of Lark.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}
