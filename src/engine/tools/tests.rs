//! What models of each family say, and what is read from it.

use serde_json::json;

use super::*;

pub(crate) fn offer(format: Format, choice: Choice) -> Offer {
    let weather = json!({"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"], "additionalProperties": false});
    let tools = vec![
        Tool { name: "weather".into(), description: Some("Tells the weather.".into()), parameters: weather },
        Tool { name: "now".into(), description: None, parameters: json!({"type": "object", "properties": {}}) },
    ];
    Offer { tools, choice, parallel: true, format }
}

fn call(name: &str, arguments: Value) -> Call {
    Call { name: name.into(), arguments: arguments.to_string() }
}

/// Format, reply, its text, its calls.
fn replies() -> Vec<(Format, &'static str, &'static str, Vec<Call>)> {
    let rome = || call("weather", json!({"city": "Rome"}));
    let now = || call("now", json!({}));
    vec![
        (Format::Hermes, "It is warm.", "It is warm.", vec![]),
        (
            Format::Hermes,
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
            "",
            vec![rome()],
        ),
        (
            Format::Hermes,
            "Let me look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>\n<tool_call>\n\
             {\"name\": \"now\", \"arguments\": {}}\n</tool_call>\n",
            "Let me look.",
            vec![rome(), now()],
        ),
        // A list, arguments as text, no closing mark.
        (
            Format::Hermes,
            "<tool_call>[{\"name\": \"weather\", \"arguments\": \"{\\\"city\\\":\\\"Rome\\\"}\"}, {\"name\": \"now\"}]",
            "",
            vec![rome(), now()],
        ),
        (
            Format::Hermes,
            "<tool_call>\n{\"name\": \"weather\", }\n</tool_call>",
            "<tool_call>\n{\"name\": \"weather\", }\n</tool_call>",
            vec![],
        ),
        (Format::Hermes, "a <tool_c b < c", "a <tool_c b < c", vec![]),
        (Format::Llama, "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}", "", vec![rome()]),
        (
            Format::Llama,
            "<|python_tag|>{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}; {\"name\": \"now\", \"parameters\": {}}",
            "",
            vec![rome(), now()],
        ),
        (Format::Llama, "{\"name\": \"Ann\", \"age\": 7}", "{\"name\": \"Ann\", \"age\": 7}", vec![]),
        (Format::Llama, "{ not JSON", "{ not JSON", vec![]),
        (Format::Llama, "Sure: {\"name\": \"now\"}", "Sure: {\"name\": \"now\"}", vec![]),
        (
            Format::Mistral,
            "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}, {\"name\": \"now\", \"arguments\": {}}]</s>",
            "",
            vec![rome(), now()],
        ),
        (
            Format::MistralArguments,
            "[TOOL_CALLS]weather[ARGS]{\"city\": \"Rome\"}[TOOL_CALLS]now[ARGS]{}",
            "",
            vec![rome(), now()],
        ),
        (
            Format::QwenCoder,
            "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>\n\
             </tool_call>",
            "",
            vec![call("weather", json!({"city": "Rome", "days": 3}))],
        ),
        (Format::Granite, "<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]", "", vec![now()]),
        (Format::Nemotron, "<TOOLCALL>[{\"name\": \"now\", \"arguments\": {}}]</TOOLCALL>", "", vec![now()]),
    ]
}

#[test]
fn every_family_is_read_wherever_its_reply_is_cut() {
    for (format, reply, text, calls) in replies() {
        let offer = offer(format, Choice::Auto);
        assert_eq!(read(&offer, reply), (text.to_owned(), calls.clone()), "{format:?} {reply}");
        for cut in (0..=reply.len()).filter(|cut| reply.is_char_boundary(*cut)) {
            let mut reader = Reader::new(&offer);
            let mut pieces = reader.push(&reply[..cut]);
            pieces.extend(reader.push(&reply[cut..]));
            pieces.extend(reader.finish());
            check(&pieces, text, &calls, &format!("{reply} cut at {cut}"));
        }
        let mut reader = Reader::new(&offer);
        let mut pieces: Vec<_> = reply.chars().flat_map(|c| reader.push(&c.to_string())).collect();
        pieces.extend(reader.finish());
        check(&pieces, text, &calls, reply);
    }
}

fn check(pieces: &[Piece], text: &str, calls: &[Call], name: &str) {
    let mut said = String::new();
    let mut called = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Text(more) => said.push_str(more),
            Piece::Call(call) => called.push(call.clone()),
        }
    }
    assert_eq!((said.as_str(), called.as_slice()), (text, calls), "{name}");
}

#[tokio::test]
async fn a_grammar_takes_what_its_family_says_and_nothing_that_is_broken() {
    for (format, reply, _, calls) in replies() {
        let strict = offer(format, Choice::Required);
        let auto = offer(format, Choice::Auto);
        // What models write beside the usual form is read, but grammars write the usual form.
        let usual = !calls.is_empty()
            && !reply.contains("[{\"name\": \"weather\", \"arguments\": \"{")
            && !reply.contains("</s>")
            && !reply.ends_with('\n')
            && !reply.starts_with("<|python_tag|>");
        let constrained = strict.constraint(None);
        let prose = reply.starts_with("Let me");
        assert_eq!(
            matching::matches(&constrained, Namespace::SHARED, reply).await.unwrap_or(false),
            usual && !prose,
            "{format:?} {reply}\n{constrained:?}"
        );
        let constrained = auto.constraint(None);
        let broken = reply.starts_with("<tool_call>\n{\"name\": \"weather\", }") || reply.starts_with("{");
        assert_eq!(
            matching::matches(&constrained, Namespace::SHARED, reply).await.unwrap_or(false),
            usual || (calls.is_empty() && !broken),
            "{format:?} {reply}\n{constrained:?}"
        );
    }
}

#[tokio::test]
async fn a_named_function_and_a_single_call_are_all_that_a_grammar_leaves() {
    for (name, format) in Format::NAMES {
        let only = Offer { parallel: false, ..offer(format, Choice::Named("now".into())) };
        let constraint = only.constraint(None);
        let (one, two) = match format {
            Format::Hermes => (
                "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
                "\n<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>",
            ),
            Format::Llama => ("{\"name\": \"now\", \"parameters\": {}}", "; {\"name\": \"now\", \"parameters\": {}}"),
            Format::Mistral => (
                "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}]",
                "[TOOL_CALLS][{\"name\": \"now\", \"arguments\": {}}]",
            ),
            Format::MistralArguments => ("[TOOL_CALLS]now[ARGS]{}", "[TOOL_CALLS]now[ARGS]{}"),
            Format::QwenCoder => (
                "<tool_call>\n<function=now>\n</function>\n</tool_call>",
                "\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            ),
            Format::Granite => ("<|tool_call|>[{\"name\": \"now\", \"arguments\": {}}]", "<|tool_call|>[]"),
            Format::Nemotron => {
                ("<TOOLCALL>[{\"name\": \"now\", \"arguments\": {}}]</TOOLCALL>", "<TOOLCALL>[]</TOOLCALL>")
            }
        };
        assert!(
            matching::matches(&constraint, Namespace::SHARED, one).await.unwrap_or(false),
            "{name}: {one}\n{constraint:?}"
        );
        assert_eq!(read(&only, one).1, vec![call("now", json!({}))], "{name}");
        for other in [format!("{one}{two}"), one.replace("now", "weather"), "Hello".into()] {
            assert!(
                !matching::matches(&constraint, Namespace::SHARED, &other).await.unwrap_or(false),
                "{name}: {other}\n{constraint:?}"
            );
        }
    }
}

#[tokio::test]
async fn an_answer_may_have_its_own_form_where_the_model_decides() {
    let answer =
        Constraint::JsonSchema(json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": false}));
    for (name, format) in Format::NAMES {
        let constraint = offer(format, Choice::Auto).constraint(Some(&answer));
        assert!(
            matching::matches(&constraint, Namespace::SHARED, "{\"a\":1}").await.unwrap_or(false),
            "{name}\n{constraint:?}"
        );
        assert!(!matching::matches(&constraint, Namespace::SHARED, "Hello").await.unwrap_or(false), "{name}");
    }
}

#[tokio::test]
async fn faults_name_what_is_wrong_with_a_call() {
    let hermes = |name: &str, arguments: &str| {
        format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
    };
    let auto = offer(Format::Hermes, Choice::Auto);
    for (reply, expected) in [
        ("Hello.".into(), vec![]),
        (hermes("weather", r#"{"city": "Rome"}"#), vec![]),
        (hermes("weather", "{}"), vec!["give `weather` arguments that match its schema"]),
        (hermes("wether", "{}"), vec!["call a function that exists, not `wether`"]),
    ] {
        assert_eq!(auto.faults(&reply, Namespace::SHARED).await, expected, "{reply}");
    }
    let required = offer(Format::Hermes, Choice::Required);
    assert_eq!(required.faults("Hello.", Namespace::SHARED).await, ["call one of these functions: weather, now"]);
    let twice = hermes("now", "{}") + "\n" + &hermes("now", "{}");
    assert_eq!(Offer { parallel: false, ..auto }.faults(&twice, Namespace::SHARED).await, ["call one function only"]);
}

#[test]
fn a_template_tells_its_format() {
    for (template, expected) in [
        ("{{ '<tool_call>' }}", Format::Hermes),
        ("<tool_call>\n<function=", Format::QwenCoder),
        ("[TOOL_CALLS] [ARGS]", Format::MistralArguments),
        ("[TOOL_CALLS]", Format::Mistral),
        ("<|python_tag|>", Format::Llama),
        ("<|tool_call|>", Format::Granite),
        ("<TOOLCALL>", Format::Nemotron),
        ("{% for m in messages %}", Format::Hermes),
    ] {
        assert_eq!(Format::find(|mark| template.contains(mark)), expected, "{template}");
    }
    for (name, format) in Format::NAMES {
        assert_eq!(name.parse(), Ok(format));
    }
    assert!("json".parse::<Format>().unwrap_err().contains("hermes"));
    for (token, mark) in [
        ("<tool_call>", true),
        ("[TOOL_CALLS]", true),
        ("<|python_tag|>", true),
        ("</s>", false),
        ("<|eot_id|>", false),
    ] {
        assert_eq!(Format::is_mark(token), mark, "{token}");
    }
}
