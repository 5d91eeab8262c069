//! Tests of parsers with malformed inputs, and of what the general templates render.

use proptest::prelude::*;

use super::*;

fn compact(judge: &str, refine: &str) -> TemplateText {
    TemplateText {
        version: "compact".into(),
        judge: judge.into(),
        refine: refine.into(),
        verdict: "=>".into(),
        start: "{".into(),
        end: "}".into(),
        ..TemplateText::default()
    }
}

#[test]
fn the_last_marker_and_the_first_whole_word_decide() {
    use Verdict::{No, Yes};
    let templates = Templates::general();
    let cases = [
        ("Final Judgement: Yes", Some(Yes)),
        ("Final Judgement: No", Some(No)),
        ("Final Judgement Yes", Some(Yes)),
        ("Final Judgement:Yes.", Some(Yes)),
        ("Final Judgement: **No**", Some(No)),
        ("**Final Judgement**\n\n\"Yes\"", Some(Yes)),
        ("Final Judgement: Yes, not No", Some(Yes)),
        ("Final Judgement: it is a No, since", Some(No)),
        ("Yes. Yes. Final Judgement: No", Some(No)),
        ("I write Final Judgement: Yes if all is well.\nFinal Judgement: No", Some(No)),
        ("Final Judgement: Nothing is missing", None),
        ("Final Judgement: Yesterday", None),
        ("Final Judgement: yes", None),
        ("Final Judgement:", None),
        ("Final Judgement", None),
        ("final judgement: Yes", None),
        ("Yes", None),
        ("", None),
        ("Final Judgement: ¿No?", Some(No)),
        ("Final Judgement: 是", None),
        ("Final Judgement: No\u{301}", Some(No)),
        ("Final Judgement\u{0}\u{feff}: Yes", Some(Yes)),
    ];
    for (critique, expected) in cases {
        assert_eq!(templates.parse_verdict(critique), expected, "{critique:?}");
    }
}

#[test]
fn the_last_complete_pair_of_markers_holds_the_response() {
    let templates = Templates::general();
    let cases = [
        ("Fix.\n[[start]]\nhello\n[[end]]", Some(("Fix.", "hello"))),
        ("[[start]]a\nb[[end]] bye", Some(("", "a\nb"))),
        ("between [[start]] and [[end]]: [[start]] real [[end]]", Some(("between [[start]] and [[end]]:", "real"))),
        ("[[start]] one [[start]] two [[end]]", Some(("[[start]] one", "two"))),
        ("[[start]][[end]]", None),
        ("[[start]] \n\t [[end]]", None),
        ("[[end]] no [[start]]", None),
        ("[[start]] cut off", None),
        ("no markers", None),
        ("", None),
        ("[[Start]] x [[End]]", None),
        ("[[start]]é漢🙂[[end]]", Some(("", "é漢🙂"))),
        ("[[start]] [[end] [[end]]", Some(("", "[[end]"))),
    ];
    for (reply, expected) in cases {
        let parsed = templates.parse_refinement(reply);
        let texts = parsed.as_ref().map(|r| (r.reflection.as_str(), r.response.as_str()));
        assert_eq!(texts, expected, "{reply:?}");
    }
}

#[test]
fn a_template_that_hides_what_is_judged_is_refused() {
    let cases = [
        ("{{ prompt }}", "go", "does not hold the response"),
        ("{{ response }}", "go", "does not hold the prompt"),
        ("{{ prompt }} {{ respones }}", "go", "undefined"),
        ("{{ prompt }} {{ response", "go", "judge"),
        ("{{ prompt }} {{ response }}", "{{ critic }}", "refine"),
    ];
    for (judge, refine, reason) in cases {
        let error = Templates::new(compact(judge, refine), "spar.json").unwrap_err().to_string();
        assert!(error.contains("spar.json") && error.contains(reason), "{error}");
    }
    let unmarked = TemplateText { end: " ".into(), ..compact("{{ prompt }} {{ response }}", "go") };
    assert!(Templates::new(unmarked, "spar.json").unwrap_err().reason.contains("`end` is empty"));
}

#[test]
fn a_template_that_fails_for_one_conversation_gives_way_to_the_general_one() {
    let judge = "{{ prompt }} {{ response }}{% if messages | length == 3 %}{{ nobody }}{% endif %}";
    let templates = Templates::new(compact(judge, "go"), "spar.json").unwrap();
    assert_eq!(templates.judge(&[Message::user("p")], "r")[0].content, "p r");
    let three = [Message::user("a"), Message::assistant("b"), Message::user("c")];
    let turn = &templates.judge(&three, "the answer")[0].content;
    assert!(turn.contains("the answer") && turn.contains("=>: Yes"), "{turn}");
}

#[test]
fn rules_join_a_critique_before_the_verdict() {
    let templates = Templates::general();
    let failed = ["use no comma".to_owned(), "answer in at least 5 words".to_owned()];
    let joined = templates.rule_critique(&failed, Some("Looks fine.\nFinal Judgement: Yes"));
    assert_eq!(
        joined,
        "Looks fine.\n\nAn exact check found instructions that are not followed:\n- use no comma\n- answer in at \
         least 5 words\nFinal Judgement: No"
    );
    assert_eq!(templates.parse_verdict(&joined), Some(Verdict::No));
    assert_eq!(templates.parse_verdict(&templates.rule_critique(&[], None)), Some(Verdict::Yes));
}

#[test]
fn the_general_texts_are_the_recorded_version() {
    let templates = Templates::general();
    let conversation = [
        Message::new(Role::System, "Answer in capitals."),
        Message::user("Name a river."),
        Message::assistant("THE ELBE."),
        Message::user("Name another, in two words."),
    ];
    let shown = |turns: Vec<Message>| {
        turns.iter().map(|turn| format!("=== {:?}\n{}\n", turn.role, turn.content)).collect::<String>()
    };
    let single = shown(templates.judge(&conversation[1..2], "The Elbe."));
    let several = shown(templates.refine(&conversation, "THE Oder.", "One letter.\nFinal Judgement: No"));
    insta::assert_snapshot!(templates.text.version.clone(), format!("{single}\n{several}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text_is_read(
        text in r"(?s)(Final Judgement|\[\[start\]\]|\[\[end\]\]|Yes|No|[\[\]: \n]|.){0,12}"
    ) {
        let templates = Templates::general();
        templates.parse_verdict(&text);
        if let Some(refinement) = templates.parse_refinement(&text) {
            prop_assert!(text[refinement.offset..].starts_with(&refinement.response));
            prop_assert!(!refinement.response.contains("[[end]]") && !refinement.response.contains("[[start]]"));
        }
    }

    #[test]
    fn any_conversation_is_rendered(
        turns in proptest::collection::vec((0..3usize, r"(?s).{0,20}|\{\{ x \}\}|\{% if %\}"), 0..5),
        response in r"(?s).{0,20}",
    ) {
        let role = |i: usize| [Role::System, Role::User, Role::Assistant][i];
        let turns: Vec<_> = turns.into_iter().map(|(i, content)| Message::new(role(i), content)).collect();
        let templates = Templates::general();
        let conversation = templates.refine(&turns, &response, "critique");
        prop_assert_eq!(conversation.len(), 3);
        prop_assert!(conversation[0].content.contains(&response));
    }
}
