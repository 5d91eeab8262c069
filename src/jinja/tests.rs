//! Templates as transformers renders them, and templates that must not take the server with them.

use std::time::{Duration, Instant};

use minijinja::{UndefinedBehavior, Value, context};
use serde_json::json;

use super::*;

fn jinja(source: &str) -> Result<Jinja, JinjaError> {
    let mut jinja = Jinja::new(UndefinedBehavior::Lenient);
    jinja.add("chat", source)?;
    Ok(jinja)
}

fn values() -> Value {
    let messages = json!([
        { "role": "system", "content": "Be brief." }, { "role": "user", "content": "a <b> & 'c' é" },
        { "role": "assistant", "content": "the" }, { "role": "user", "content": "last" },
    ]);
    let tool = json!({ "name": "f", "n": 1, "x": 1.0, "deep": { "list": [true, null, 2.5e-7, 1e22], "empty": {} } });
    context! { messages => Value::from_serialize(messages), tool => Value::from_serialize(tool), none => (), add_generation_prompt => true }
}

fn rendered(source: &str) -> Result<String, JinjaError> {
    jinja(source)?.render("chat", values())
}

#[test]
fn values_are_written_as_pythons_json_writes_them() {
    let table = [
        ("{{ messages[1].content | tojson }}", r#""a <b> & 'c' é""#),
        ("{{ messages[1].content | tojson(ensure_ascii=true) }}", r#""a <b> & 'c' \u00e9""#),
        ("{{ '\u{1f600}\u{1}\n\"' | tojson(true) }}", r#""\ud83d\ude00\u0001\n\"""#),
        (
            "{{ tool | tojson }}",
            r#"{"name": "f", "n": 1, "x": 1.0, "deep": {"list": [true, null, 2.5e-07, 1e+22], "empty": {}}}"#,
        ),
        ("{{ tool.deep | tojson(separators=(',', ':')) }}", r#"{"list":[true,null,2.5e-07,1e+22],"empty":{}}"#),
        ("{{ {'b': 1, 'a': [], 3: none} | tojson }}", r#"{"b": 1, "a": [], "3": null}"#),
        ("{{ {'b': 1, 'a': []} | tojson(sort_keys=true, indent='\t') }}", "{\n\t\"a\": [],\n\t\"b\": 1\n}"),
        ("{{ {'b': [1, {}], 'a': 2} | tojson(indent=2) }}", "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": 2\n}"),
        (
            "{{ [0.0, -0.5, 100.0, 1e16, 123456789012345678, 0.0001, 0.00001] | tojson }}",
            "[0.0, -0.5, 100.0, 1e+16, 123456789012345678, 0.0001, 1e-05]",
        ),
    ];
    for (source, expected) in table {
        assert_eq!(rendered(source).unwrap(), expected, "{source}");
    }
    for source in ["{{ nothing | tojson }}", "{{ 1 | tojson(indent=1000) }}", "{{ 1 | tojson(depth=1) }}"] {
        assert!(rendered(source).is_err(), "{source}");
    }
}

#[test]
fn templates_are_taken_as_transformers_takes_them() {
    let looped = "{%- for m in messages -%}\n    {%- if loop.first %}{% continue %}{% endif -%}\n    {{- m.role + ':' }}\n    \
                  {%- if m.role == 'assistant' -%}\n    {%- generation -%}{{ m.content }}{%- endgeneration -%}\n    {% break %}\n    \
                  {%- endif -%}\n{%- endfor -%}";
    let windows = looped.replace('\n', "\r\n");
    let scoped = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}";
    let spaced = "a  \n  {% if true %}\n  b {{ 1 }}\n  {% endif %}\nc\n";
    let long =
        format!("x\n  {{% if true %}}\n  {} end {{{{ 1 }}}}\n  {{% endif %}}\ny", "word \"q\" \\ é\n".repeat(40));
    let long_expected = format!("x\n  {} end 1\ny", "word \"q\" \\ é\n".repeat(40));
    let table: [(&str, &str); 12] = [
        (looped, "user:assistant:the"),
        (&windows, "user:assistant:the"),
        ("a\r\nb\rc{{ 'x\r\ny' }}", "a\nb\ncx\ny"),
        (scoped, "21"),
        ("{% raw %}{% generation %}{{ x ~ y }}{% endraw %}{# {% generation %} #}", "{% generation %}{{ x ~ y }}"),
        (spaced, "a  \n  b 1\nc"),
        (&long, &long_expected),
        ("{{ (-1 + 2 * 3 ** 2) ~ 'x' ~ messages[1:3]|length ~ (1 if none is none else 2) }}", "17x21"),
        (
            "{% set a, b = 1, 'z' %}{{ a ~ b }}{% with c = a + 1, d = [b, b] %}{{ c }}{{ d | join('-') }}{% endwith %}",
            "1z2z-z",
        ),
        (
            "{% set ns = namespace(n=0, t='') %}{% for m in messages if m.role in ['user'] and 'zz' not in m.content %}\
          {% set ns.n = ns.n + 1 %}{% set ns.t = ns.t ~ m.content[-1:] ~ '.' %}{% endfor %}{{ ns.n ~ ns.t }}",
            "2é.t.",
        ),
        (
            "{% macro f(n, sep='-' * 3) %}{{ n }}{{ sep }}{% if n > 0 %}{{ f(n - 1, sep=sep) }}{% endif %}{% endmacro %}{{ f(2) | trim }}",
            "2---1---0---",
        ),
        (
            "{% set t %}{{ messages | map(attribute='role') | join(',') | upper }}{% endset %}{{ t.lower().replace('user', 'U') | indent(2) }}",
            "system,U,assistant,U",
        ),
    ];
    for (source, expected) in table {
        let found = rendered(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(found, expected, "{source}\n{}", source::prepared(source));
    }
}

#[test]
fn no_template_takes_more_than_its_share() {
    let nested = |inner: &str, times: usize| {
        let mut source = inner.to_owned();
        for _ in 0..times {
            source = format!("{{% with x = x ~ x %}}{source}{{% endwith %}}");
        }
        format!("{{% set x = 'xxxxxxxx' %}}{source}")
    };
    let doubled = "{% set x = 'xxxxxxxx' %}".to_owned() + &"{% set x = x ~ x %}".repeat(60);
    let added = "{% set x = 'xxxxxxxx' %}".to_owned() + &"{% set x = x + x %}".repeat(60);
    let lists = "{% set x = [1] %}".to_owned() + &"{% set x = x + x %}".repeat(60) + "{{ 2 in x }}";
    let tree = "{% set x = [1] %}".to_owned() + &"{% set x = [x, x] %}".repeat(60) + "{{ x }}";
    let raw =
        format!("{{% set x %}}{{% for i in range(100000) %}}{}{{% endfor %}}{{% endset %}}", "text ".repeat(2000));
    let table: Vec<(&str, String)> = vec![
        ("loops", "{% for a in range(20000) %}{% for b in range(20000) %}{% endfor %}{% endfor %}".into()),
        ("doubling", doubled.clone()),
        ("sums", added),
        ("scopes", nested("{{ x | length }}", 60)),
        ("a loop that doubles", "{% set ns = namespace(x='xx') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}".into()),
        ("lists", lists),
        ("a tree", tree.clone()),
        ("a tree as JSON", tree.replace("{{ x }}", "{{ x | tojson }}")),
        ("a tree as text", tree.replace("{{ x }}", "{% set y = x ~ '' %}")),
        ("a tree compared", tree.replace("{{ x }}", "{{ x == x }}")),
        ("itself", "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}".into()),
        ("itself in a list", "{% set ns = namespace(x=[]) %}{% set ns.x = ns.x + [{'a': [ns]}] %}".into()),
        ("itself in text", "{% set ns = namespace() %}{% set ns.x = ns %}{% set y = ns ~ '' %}".into()),
        ("depth", "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}{% endfor %}".into()),
        ("depth of keys", "{% set ns = namespace(x={}) %}{% for i in range(100000) %}{% set ns.x = {'a': ns.x} %}{% endfor %}".into()),
        ("products", "{% set x = 'xxxxxxxx' * 10000000 %}".into()),
        ("products of products", "{{ ('x' * 10000) * 10000 ~ 'x' * 100000 }}".into()),
        ("a constant", format!("{{{{ 'x' * 99999{} }}}}", " ~ 'x' * 99999".repeat(200))),
        ("long lists", "{{ 2 in [1] * 1000000000000000 }}".into()),
        ("long lists joined", "{{ ([1] * 99999 * 99999) | join }}".into()),
        ("replacing", "{% set x = 'x' * 9999 %}{% set y = x | replace('x', x) %}{% set z = y | replace('x', x) %}".into()),
        ("replacing by a method", "{% set x = 'x' * 9999 %}{% set y = x.replace('x', x) %}{% set z = y.replace('x', x) %}".into()),
        ("joining", "{% set x = 'x' * 9999 %}{% set y = range(99999) | join(x) %}".into()),
        ("joining by a method", "{% set x = 'x' * 9999 %}{% set y = x.join(range(99999)) %}".into()),
        ("indents", "{{ 'x\ny' | indent(4000000000) }}".into()),
        ("widths", "{{ '%4000000000d' | format(1) }}".into()),
        ("widths by a method", "{{ '{:>4000000000}'.format(1) }}".into()),
        ("slices", "{{ [1] | slice(4000000000) | list }}".into()),
        ("batches", "{{ [1] | batch(4000000000, 'x') | list }}".into()),
        ("text", raw),
        ("output", "{% for i in range(99999) %}{% for j in range(99) %}{{ 'x' * 99 }}{% endfor %}{% endfor %}".into()),
        ("a macro that calls itself", "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('x') }}".into()),
        ("a template that includes itself", "{% include 'chat' %}".into()),
        ("searching", "{% set x = 'x' * 99999 %}{% for i in range(99999) %}{% if 'y' in x %}{% endif %}{% endfor %}".into()),
        ("upper case", "{% set x = 'x' * 99999 %}{% for i in range(99999) %}{% if x.upper() == 'y' or x|lower == x %}{% endif %}{% endfor %}".into()),
        ("lengths", "{% set x = 'x' * 99999 %}{% for i in range(99999) %}{% if x | length == 1 %}{% endif %}{% endfor %}".into()),
        ("deep brackets", format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))),
        ("a long source", "x".repeat(SOURCE + 1)),
    ];
    for (name, source) in table {
        let began = Instant::now();
        let error = rendered(&source).map(|text| text.len()).expect_err(name).to_string();
        assert!(!error.contains('\n') && error.len() < 300, "{name}: {error}");
        assert!(began.elapsed() < Duration::from_secs(20), "{name}: {:?}", began.elapsed());
    }
}

#[test]
fn a_long_conversation_is_within_the_limits() {
    let turn = |index: usize| json!({ "role": if index.is_multiple_of(2) { "user" } else { "assistant" }, "content": "word ".repeat(100) });
    let messages: Vec<_> = (0..4000).map(turn).collect();
    let source = "{%- for m in messages %}{%- set content = m.content | trim %}\
        {%- if loop.index0 == messages | length - 1 and m.role != 'system' %}{{ '' }}{% endif %}\
        {%- if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}\
        {{- '<|im_start|>' + m.role + '\n' + content ~ '<|im_end|>' ~ '\n' }}{% endfor %}";
    let text =
        jinja(source).unwrap().render("chat", context! { messages => Value::from_serialize(&messages) }).unwrap();
    assert_eq!(text.matches("<|im_end|>").count(), 4000);
}
