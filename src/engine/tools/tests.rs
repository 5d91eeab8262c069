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
        assert_eq!(read(&offer, reply, FinishReason::Stop), (text.to_owned(), calls.clone()), "{format:?} {reply}");
        for cut in (0..=reply.len()).filter(|cut| reply.is_char_boundary(*cut)) {
            let mut reader = Reader::new(&offer);
            let mut pieces = reader.push(&reply[..cut]);
            pieces.extend(reader.push(&reply[cut..]));
            pieces.extend(reader.finish(FinishReason::Stop));
            check(&pieces, text, &calls, &format!("{reply} cut at {cut}"));
        }
        let mut reader = Reader::new(&offer);
        let mut pieces: Vec<_> = reply.chars().flat_map(|c| reader.push(&c.to_string())).collect();
        pieces.extend(reader.finish(FinishReason::Stop));
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
        // Other forms that models write are read as well, but grammars allow the usual form only.
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
        assert_eq!(read(&only, one, FinishReason::Stop).1, vec![call("now", json!({}))], "{name}");
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

#[tokio::test]
async fn a_call_that_cannot_be_read_is_a_fault() {
    let table = [
        (Format::Hermes, "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": Rome}}\n</tool_call>", true),
        (Format::Hermes, "So.\n<tool_call>{\"name\": \"weather\", \"arguments\": {city: 1}}</tool_call>", true),
        (Format::Mistral, "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {city}}]", true),
        (Format::Hermes, "The mark <tool_call> begins a call.", false),
        (Format::Hermes, "It is {warm}.", false),
    ];
    for (format, reply, expected) in table {
        let offer = offer(format, Choice::Auto);
        let faults = offer.faults(reply, Namespace::SHARED).await;
        assert_eq!(
            (faults.len(), offer.is_plain_answer(reply)),
            (usize::from(expected), !expected),
            "{reply}: {faults:?}"
        );
    }
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

#[test]
fn a_reply_that_is_cut_off_shows_nothing_of_the_call_it_was_in() {
    let whole = |format| match format {
        Format::Hermes => "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}\n</tool_call>",
        Format::Llama => "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}",
        Format::Mistral => "[TOOL_CALLS][{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}]",
        Format::MistralArguments => "[TOOL_CALLS]weather[ARGS]{\"city\": \"Rome\"}",
        Format::QwenCoder => {
            "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
        }
        Format::Granite => "<|tool_call|>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}]",
        Format::Nemotron => "<TOOLCALL>[{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}]</TOOLCALL>",
    };
    for (_, format) in Format::NAMES {
        let marked = format!("<|python_tag|>{}", whole(Format::Llama));
        let more: &[&str] = if format == Format::Llama { &[&marked] } else { &[] };
        for call in more.iter().copied().chain([whole(format)]) {
            for before in ["", "Let me look. "] {
                // Without a mark a call is a whole reply.
                if call.starts_with('{') && !before.is_empty() {
                    continue;
                }
                let offer = offer(format, Choice::Auto);
                let reply = format!("{before}{call}");
                for cut in before.len()..reply.len() {
                    let (text, calls) = read(&offer, &reply[..cut], FinishReason::Length);
                    assert_eq!(text.trim_end(), before.trim_end(), "{format:?}: {:?}", &reply[..cut]);
                    let mut reader = Reader::new(&offer);
                    let mut pieces: Vec<_> = reply[..cut].chars().flat_map(|c| reader.push(&c.to_string())).collect();
                    pieces.extend(reader.finish(FinishReason::Length));
                    check(&pieces, &text, &calls, &reply[..cut]);
                }
            }
        }
    }
}

#[test]
fn a_cut_after_a_whole_call_keeps_it_and_an_answer_in_json_stays() {
    let call = "{\"name\": \"now\", \"parameters\": {}}";
    let llama = offer(Format::Llama, Choice::Auto);
    let cut = |reply: &str| read(&llama, reply, FinishReason::Length);
    for more in ["", "; ", "; {\"na", "; {\"name\": \"weather\", \"parameters\": {\"ci"] {
        assert_eq!(cut(&format!("{call}{more}")), (String::new(), vec![self::call("now", json!({}))]), "{more}");
    }
    for answer in ["{\"answer\": \"It is", "{\"name\": \"Ann\", \"ag", "[{\"city\": \"Rome\"}, {\"ci", "[1, 2", "{ 5"] {
        assert_eq!(cut(answer), (answer.to_owned(), vec![]));
    }
    let hermes = offer(Format::Hermes, Choice::Auto);
    assert_eq!(read(&hermes, "a < b", FinishReason::Length).0, "a < b");
}

#[tokio::test]
async fn a_call_that_breaks_off_is_a_fault() {
    let offer = offer(Format::Hermes, Choice::Auto);
    let broken = "<tool_call>\n{\"name\": \"weather\", \"argum";
    assert!(!offer.is_plain_answer(broken));
    assert_eq!(offer.faults(broken, Namespace::SHARED).await, ["write the call to its end"]);
    assert!(offer.is_plain_answer("It is warm.") && offer.faults("It is warm.", Namespace::SHARED).await.is_empty());
}
