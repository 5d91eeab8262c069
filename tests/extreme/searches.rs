//! The largest searches that may be asked for, every value of every option, and checks with extreme arguments.

use serde_json::{Map, Value, json};

use super::corpus::{CHAT, Case, chat};

const ASKED: &str = "Write about what the river does. Use at least 12 words. Do not use any commas.";

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for strategy in ["auto", "bfs", "dfs", "best_of_n", "refine_chain"] {
        for judging in ["votes", "score", "cascade"] {
            for judge in ["model", "rules", "both"] {
                let options = json!({"strategy": strategy, "judging": judging, "judge": judge, "checks": if judge == "model" { "off" } else { "auto" }, "judge_tokens": 16});
                let fields = json!({"search_budget": 2, "search": options});
                cases.push(Case::post(format!("search: {strategy}, {judging}, {judge}"), CHAT, &chat(ASKED, &fields)));
            }
        }
        let largest = json!({
            "strategy": strategy, "branch": 8, "keep": 8, "depth": 16, "votes": 15, "threshold": 0.999, "judge_tokens": 32,
            "max_calls": 2_000, "trace": "full", "events": true, "checklist": true,
        });
        for (name, fields) in [
            ("as much as may be", json!({"n": 4, "search_budget": 8, "search": largest, "stream": true})),
            (
                "as much as may be, with logprobs",
                json!({"n": 4, "search_budget": 8, "search": largest, "stream": true, "logprobs": true, "top_logprobs": 20}),
            ),
            (
                "as much as may be, of an endless answer",
                json!({"n": 4, "search_budget": 8, "search": largest, "stream": true, "ignore_eos": true, "max_tokens": 1_000}),
            ),
        ] {
            cases.push(Case::post(format!("search: {strategy}: {name}"), CHAT, &chat(ASKED, &fields)));
        }
    }
    for mode in ["bfs", "dfs"] {
        let options = json!({"mode": "paper", "strategy": mode, "votes": 15, "branch": 8, "trace": "full"});
        cases.push(Case::post(
            format!("search: paper, {mode}"),
            CHAT,
            &chat(ASKED, &json!({"n": 4, "search_budget": 8, "search": options})),
        ));
    }
    cases.extend(options());
    cases.extend(checks());
    cases
}

/// Single fields of a request.
fn options() -> Vec<Case> {
    let deep = |depth: usize| (0..depth).fold(json!(1), |inner, _| json!({"a": inner}));
    let stops = |text: &str| json!({"stop": vec![text; 4], "max_tokens": 64, "n": 4});
    let wide: Map<String, Value> = (0..20_000).map(|i| (format!("k{i}"), json!(i))).collect();
    [
        ("four long stops", stops(&"a".repeat(100_000))),
        ("four stops of one letter", stops("e")),
        ("stops that are no characters", stops("\u{FFFD}")),
        ("a stop of combining marks", stops(&"\u{0301}".repeat(10_000))),
        ("10,000 stops", json!({"stop": vec!["a"; 10_000]})),
        ("an empty stop", json!({"stop": [""]})),
        ("all alternatives of all choices", json!({"logprobs": true, "top_logprobs": 20, "n": 4, "max_tokens": 200, "ignore_eos": true})),
        ("all of the context", json!({"max_tokens": 1_000_000, "ignore_eos": true, "n": 4})),
        ("a long user", json!({"user": "u".repeat(500_000)})),
        ("a long model", json!({"model": "m".repeat(500_000)})),
        ("an empty model", json!({"model": ""})),
        ("an alias of an alias", json!({"model": "spar-tiny:search:search"})),
        ("template variables that are deep", json!({"chat_template_kwargs": {"a": deep(60)}})),
        ("template variables that are many", json!({"chat_template_kwargs": wide})),
        ("template variables that are large", json!({"chat_template_kwargs": {"enable_thinking": "x".repeat(300_000)}})),
        ("template variables of the server", json!({"chat_template_kwargs": {"messages": [], "bos_token": "x"}})),
        ("a large ignored field", json!({"metadata": vec![json!({"a": 0}); 20_000]})),
        ("a deep ignored field", json!({"metadata": deep(100)})),
        ("many ignored fields", json!(wide)),
        ("every refused field", json!({"tools": [{}], "functions": [{}], "audio": {"a": 1}, "guided_json": {}, "bad_words": ["a"]})),
        ("an unknown effort", json!({"reasoning_effort": "h".repeat(100_000)})),
        ("a stream with usage", json!({"stream": true, "stream_options": {"include_usage": true}, "n": 4, "max_tokens": 64})),
        ("stream options alone", json!({"stream_options": {"include_usage": true}})),
        ("strategies that are long", json!({"search": {"strategy": "b".repeat(100_000)}})),
        ("search fields that are unknown", json!({"search": wide})),
        ("events without a stream", json!({"search": {"events": true}})),
        ("hot and heavy", json!({"temperature": 2, "top_p": 1e-9, "min_p": 1, "top_k": 1, "frequency_penalty": 2, "presence_penalty": -2, "repetition_penalty": 2, "max_tokens": 64, "n": 4})),
        ("cold and light", json!({"temperature": 1e-30, "top_k": i64::MAX, "frequency_penalty": -2, "repetition_penalty": 0.01, "max_tokens": 64, "n": 4})),
    ]
    .into_iter()
    .map(|(name, fields)| Case::post(format!("field: {name}"), CHAT, &chat(ASKED, &fields)))
    .collect()
}

/// Rules with arguments at their edges.
fn checks() -> Vec<Case> {
    let rule = |id: &str, kwargs: Value| json!([{"id": id, "kwargs": kwargs}]);
    let words =
        |number: Value| rule("length_constraints:number_words", json!({"num_words": number, "relation": "at least"}));
    let keywords = |words: Vec<String>| rule("keywords:existence", json!({"keywords": words}));
    let ids = [
        "punctuation:no_comma",
        "change_case:english_lowercase",
        "detectable_format:json_format",
        "startend:quotation",
        "combination:two_responses",
        "detectable_format:title",
    ];
    [
        ("none", json!([])),
        ("64 of one", json!(vec![json!({"id": "punctuation:no_comma"}); 64])),
        ("65 of one", json!(vec![json!({"id": "punctuation:no_comma"}); 65])),
        ("10,000 of one", json!(vec![json!({"id": "punctuation:no_comma"}); 10_000])),
        ("all that contradict each other", ids.iter().map(|id| json!({"id": id})).collect()),
        ("a long id", rule(&"i".repeat(100_000), json!({}))),
        ("an empty id", rule("", json!({}))),
        ("no words", words(json!(0))),
        ("the most words", words(json!(u64::MAX))),
        ("fewer than no words", words(json!(i64::MIN))),
        ("words by a fraction", words(json!(1e300))),
        (
            "a paragraph far away",
            rule(
                "length_constraints:nth_paragraph_first_word",
                json!({"num_paragraphs": 1_000_000, "nth_paragraph": 1_000_000, "first_word": "a"}),
            ),
        ),
        (
            "a long letter",
            rule(
                "keywords:letter_frequency",
                json!({"letter": "a".repeat(100_000), "let_frequency": 2, "let_relation": "at least"}),
            ),
        ),
        (
            "a letter of four bytes",
            rule(
                "keywords:letter_frequency",
                json!({"letter": "𝕏", "let_frequency": u32::MAX, "let_relation": "at least"}),
            ),
        ),
        ("a long phrase at the end", rule("startend:end_checker", json!({"end_phrase": "a ".repeat(50_000)}))),
        (
            "a long prompt to repeat",
            rule("combination:repeat_prompt", json!({"prompt_to_repeat": "a ".repeat(50_000)})),
        ),
        (
            "a span beyond the prompt",
            rule("repeat:repeat_span", json!({"prompt_to_repeat": "a b", "n_start": i64::MIN, "n_end": i64::MAX})),
        ),
        ("a range that is upside down", rule("count:word_count_range", json!({"min_words": u32::MAX, "max_words": 0}))),
        (
            "an overlap with a long text",
            rule("ratio:overlap", json!({"reference_text": "abc ".repeat(50_000), "percentage": 50})),
        ),
        ("kwargs that are deep", rule("punctuation:no_comma", (0..60).fold(json!(1), |inner, _| json!({"a": inner})))),
        ("plain keywords", keywords((0..500).map(|i| format!("word{i}")).collect())),
        ("keywords: many large expressions", keywords((0..200).map(|i| format!("\\w{{80}}x{i}")).collect())),
        ("keywords: one expression that doubles", keywords(vec!["(a|aa)+$".into()])),
        ("keywords: one expression that is deep", keywords(vec!["(".repeat(5_000) + "a" + &")".repeat(5_000)])),
        ("keywords: one expression that is large", keywords(vec!["((a{100}){100}){100}".into()])),
        ("keywords: one that is long", keywords(vec!["a".repeat(300_000)])),
        ("keywords: one that is no expression", keywords(vec!["[".into()])),
        (
            "forbidden: many large expressions",
            rule(
                "keywords:forbidden_words",
                json!({"forbidden_words": (0..200).map(|i| format!("\\pL{{80}}y{i}")).collect::<Vec<_>>()}),
            ),
        ),
    ]
    .into_iter()
    .flat_map(|(name, checks)| {
        [("budget 0", json!({"search_budget": 0})), ("budget 2", json!({"search_budget": 2}))].map(
            |(budget, mut fields)| {
                fields["search"] = json!({"checks": checks});
                Case::post(format!("checks: {name}, {budget}"), CHAT, &chat(ASKED, &fields))
            },
        )
    })
    .collect()
}
