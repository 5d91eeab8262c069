//! A request as a JSON body. What a model's plain distribution implies is left out, so that servers that know only OpenAI's own
//! fields accept it.

use serde_json::{Map, Value, json};

use super::dialect::Dialect;
use crate::chat::{Ending, Message, TemplateKwargs, TemplateOptions, Thinking};
use crate::engine::{EngineError, Input, ModelInfo, Request, Sampling, TokenRules, WireSeed};

/// The body of one request with `request.samples` choices.
///
/// # Errors
/// [`EngineError::Unsupported`] for constraints that the server has no field for.
pub(super) fn of(request: &Request, model: &ModelInfo, dialect: Dialect) -> Result<Value, EngineError> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    put("model", json!(model.name));
    put("stream", json!(true));
    put("stream_options", json!({"include_usage": true}));
    match &request.input {
        Input::Chat(turns) => {
            put("messages", turns.iter().map(turn).collect());
            if let Some(top) = request.logprobs {
                put("logprobs", json!(true));
                put("top_logprobs", json!(top));
            }
        }
        Input::Text(_) | Input::Tokens(_) => {
            match &request.input {
                Input::Tokens(ids) => put("prompt", json!(ids)),
                Input::Text(text) => put("prompt", json!(text)),
                Input::Chat(_) => {}
            }
            if let Some(top) = request.logprobs {
                put("logprobs", json!(top));
            }
        }
    }
    if request.samples > 1 {
        put("n", json!(request.samples));
    }
    // Where a reply may fill the context, servers know better than we how much of it the prompt leaves.
    let unbounded = request.max_tokens.is_none_or(|most| most >= model.context);
    match request.max_tokens {
        Some(most) if !unbounded => put("max_tokens", json!(most)),
        // Text completions are 16 tokens long by default.
        _ if !matches!(request.input, Input::Chat(_)) => put("max_tokens", json!(model.context / 2)),
        _ => {}
    }
    if !request.stop.is_empty() {
        put("stop", json!(request.stop));
    }
    sampling(&request.sampling, &mut put);
    let mut body = Value::Object(body);
    if let Some(constraint) = &request.constraint {
        dialect.constrain(&mut body, constraint)?;
    }
    dialect.adjust(&mut body);
    Ok(body)
}

/// Adds what the chat template is given. Reasoning that a call can do without is turned off only where the model is known to
/// think: servers that know only OpenAI's own fields would refuse the request.
pub(super) fn put_template_options(
    body: &mut Value,
    options: &TemplateOptions,
    defaults: &TemplateKwargs,
    model_thinks: bool,
) {
    if let Some(effort) = options.effort {
        body["reasoning_effort"] = json!(effort.name());
    }
    if options.ending != Ending::BeforeReply {
        body["add_generation_prompt"] = json!(false);
    }
    if options.ending == Ending::WithinLast {
        body["continue_final_message"] = json!(true);
    }
    if !options.tools.is_empty() {
        body["tools"] = json!(options.tools);
        options.tool_fields.iter().for_each(|(name, value)| body[name] = value.clone());
    }
    let thinking = if model_thinks { options.thinking } else { Thinking::AsTemplate };
    let kwargs = TemplateOptions { kwargs: options.kwargs.clone(), thinking, ..TemplateOptions::default() };
    let kwargs = kwargs.variables(defaults);
    if !kwargs.is_empty() {
        body["chat_template_kwargs"] = Value::Object(kwargs);
    }
}

fn turn(message: &Message) -> Value {
    json!(message)
}

fn sampling(sampling: &Sampling, put: &mut impl FnMut(&str, Value)) {
    let plain = Sampling::default();
    put("temperature", json!(sampling.temperature));
    match sampling.wire_seed {
        WireSeed::Derived => put("seed", json!(signed(sampling.seed))),
        WireSeed::Given(seed) => put("seed", json!(seed)),
        WireSeed::Absent => {}
    }
    for (name, value, otherwise) in [
        ("top_p", sampling.top_p, plain.top_p),
        ("min_p", sampling.min_p, plain.min_p),
        ("frequency_penalty", sampling.frequency_penalty, plain.frequency_penalty),
        ("presence_penalty", sampling.presence_penalty, plain.presence_penalty),
        ("repetition_penalty", sampling.repetition_penalty, plain.repetition_penalty),
    ] {
        if value != otherwise {
            put(name, json!(value));
        }
    }
    if let Some(k) = sampling.top_k {
        put("top_k", json!(k));
    }
    if sampling.ignore_eos {
        put("ignore_eos", json!(true));
    }
    if !sampling.logit_bias.is_empty() {
        let bias: Map<String, Value> =
            sampling.logit_bias.iter().map(|(id, bias)| (id.to_string(), json!(bias))).collect();
        put("logit_bias", Value::Object(bias));
    }
    token_rules(&sampling.rules, put);
}

/// vLLM's fields for rules on tokens, for the servers that know them.
fn token_rules(rules: &TokenRules, put: &mut impl FnMut(&str, Value)) {
    let TokenRules { stop_tokens, min_tokens, bad_words, allowed, stop_shown, prompt_tail } = rules;
    if !stop_tokens.is_empty() {
        put("stop_token_ids", json!(stop_tokens));
    }
    if *min_tokens > 0 {
        put("min_tokens", json!(min_tokens));
    }
    if !bad_words.is_empty() {
        put("bad_words", json!(bad_words));
    }
    if let Some(allowed) = allowed {
        put("allowed_token_ids", json!(**allowed));
    }
    if *stop_shown {
        put("include_stop_str_in_output", json!(true));
    }
    if let Some(tail) = prompt_tail {
        put("truncate_prompt_tokens", json!(tail));
    }
}

/// Servers read a seed as a signed number, and some refuse negative ones: such a seed loses its lowest bit.
fn signed(seed: u64) -> i64 {
    i64::try_from(seed).unwrap_or((seed >> 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::{Chat, Effort};
    use crate::engine::{Constraint, Purpose};

    fn model() -> ModelInfo {
        ModelInfo::new("m", 100, 0)
    }

    fn body(request: &Request) -> Value {
        of(request, &model(), Dialect::OpenAi).unwrap()
    }

    #[test]
    fn seeds_travel_as_they_are_unless_they_would_be_negative() {
        for (seed, expected) in
            [(0, 0), (1, 1), (3, 3), (i64::MAX as u64, i64::MAX), (u64::MAX, i64::MAX), (1 << 63, 1 << 62)]
        {
            assert_eq!(signed(seed), expected, "{seed}");
        }
        let seed = |wire_seed| {
            let sampling = Sampling { seed: 9, wire_seed, ..Sampling::default() };
            body(&Request { sampling, ..Request::chat(Purpose::Answer, Vec::new()) }).get("seed").cloned()
        };
        assert_eq!(seed(WireSeed::Derived), Some(json!(9)));
        assert_eq!(seed(WireSeed::Given(-1)), Some(json!(-1)));
        assert_eq!(seed(WireSeed::Absent), None);
    }

    #[test]
    fn a_plain_request_is_openais_alone() {
        let request = Request::chat(Purpose::Answer, vec![Message::user("hi")]);
        let expected = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true},
            "messages": [{"role": "user", "content": "hi"}], "temperature": 1.0, "seed": 0});
        assert_eq!(body(&request), expected);
    }

    #[test]
    fn every_field_has_its_place() {
        let sampling = Sampling {
            temperature: 0.5,
            top_p: 0.25,
            top_k: Some(3),
            min_p: 0.125,
            frequency_penalty: 1.0,
            presence_penalty: -1.0,
            repetition_penalty: 1.5,
            logit_bias: vec![(7, -100.0)],
            seed: u64::MAX,
            wire_seed: WireSeed::Derived,
            ignore_eos: true,
            rules: TokenRules {
                stop_tokens: vec![5],
                min_tokens: 3,
                bad_words: vec!["no".into()],
                allowed: Some([5, 7].into()),
                stop_shown: true,
                prompt_tail: Some(9),
            },
        };
        let request = Request {
            sampling,
            samples: 4,
            max_tokens: Some(9),
            stop: vec!["END".into()],
            logprobs: Some(2),
            constraint: Some(Constraint::JsonSchema(json!({"type": "array"}))),
            ..Request::chat(Purpose::Judge, vec![Message::user("hi")])
        };
        let body = body(&request);
        for (name, value) in [
            ("temperature", json!(0.5)),
            ("top_p", json!(0.25)),
            ("top_k", json!(3)),
            ("min_p", json!(0.125)),
            ("frequency_penalty", json!(1.0)),
            ("presence_penalty", json!(-1.0)),
            ("repetition_penalty", json!(1.5)),
            ("logit_bias", json!({"7": -100.0})),
            ("seed", json!(i64::MAX)),
            ("ignore_eos", json!(true)),
            ("stop_token_ids", json!([5])),
            ("min_tokens", json!(3)),
            ("bad_words", json!(["no"])),
            ("allowed_token_ids", json!([5, 7])),
            ("include_stop_str_in_output", json!(true)),
            ("truncate_prompt_tokens", json!(9)),
            ("n", json!(4)),
            ("max_tokens", json!(9)),
            ("stop", json!(["END"])),
            ("logprobs", json!(true)),
            ("top_logprobs", json!(2)),
        ] {
            assert_eq!(body[name], value, "{name}");
        }
        assert_eq!(body["response_format"]["json_schema"]["schema"], json!({"type": "array"}));
    }

    #[test]
    fn thinking_is_turned_off_where_the_model_is_known_to_think() {
        let kwargs = |value: Value| value.as_object().unwrap().clone();
        let asked = TemplateOptions::new(kwargs(json!({"enable_thinking": true})), Some(Effort::High));
        let quiet = Chat::without_thinking(Vec::new()).options;
        let off = json!({"enable_thinking": false, "thinking": false});
        let table = [
            (TemplateOptions::default(), json!({}), true, json!({})),
            (quiet.clone(), json!({}), false, json!({})),
            (quiet.clone(), json!({}), true, json!({"chat_template_kwargs": off})),
            (
                quiet,
                json!({"a": 1}),
                true,
                json!({"chat_template_kwargs": {"a": 1, "enable_thinking": false, "thinking": false}}),
            ),
            (TemplateOptions::default(), json!({"a": 1}), false, json!({"chat_template_kwargs": {"a": 1}})),
            (
                asked,
                json!({"enable_thinking": false}),
                true,
                json!({"chat_template_kwargs": {"enable_thinking": true}, "reasoning_effort": "high"}),
            ),
            (
                TemplateOptions::new(TemplateKwargs::new(), Some(Effort::None)),
                json!({}),
                false,
                json!({"reasoning_effort": "none"}),
            ),
        ];
        for (options, defaults, thinks, expected) in table {
            let mut body = json!({});
            put_template_options(&mut body, &options, &kwargs(defaults), thinks);
            assert_eq!(body, expected, "{options:?}");
        }
    }

    #[test]
    fn a_reply_that_may_fill_the_context_names_no_limit() {
        let chat = |max_tokens| Request { max_tokens, ..Request::chat(Purpose::Answer, Vec::new()) };
        assert_eq!(body(&chat(Some(100))).get("max_tokens"), None);
        let text = Request { input: Input::Text("once".into()), ..chat(None) };
        assert_eq!((&body(&text)["prompt"], &body(&text)["max_tokens"]), (&json!("once"), &json!(50)));
        let ids = Request { input: Input::Tokens(vec![5, 6]), ..chat(None) };
        assert_eq!((&body(&ids)["prompt"], &body(&ids)["max_tokens"]), (&json!([5, 6]), &json!(50)));
    }

    #[test]
    fn other_constraints_are_refused() {
        let request =
            Request { constraint: Some(Constraint::Regex("a".into())), ..Request::chat(Purpose::Answer, Vec::new()) };
        assert!(matches!(of(&request, &model(), Dialect::OpenAi), Err(EngineError::Unsupported(_))));
    }
}
