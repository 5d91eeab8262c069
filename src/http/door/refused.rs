//! Fields that are not honoured: a request that asks for something by one of them is refused, so that it is not answered as
//! if it had not asked.

use std::fmt;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, Visitor};

use super::glance::Glance;

/// A field that is not honoured, and the values of it that ask for nothing.
pub struct Refused {
    name: &'static str,
    harmless: fn(&Glance) -> bool,
}

/// Reads an object and says which of its fields is refused, if any is. Nothing of it is kept.
pub struct Refusal(pub &'static [&'static [Refused]]);

const fn unless_empty(name: &'static str) -> Refused {
    Refused { name, harmless: is_empty }
}

fn is_empty(value: &Glance) -> bool {
    matches!(value, Glance::Null | Glance::Bool(false) | Glance::Empty)
}

fn is_null(value: &Glance) -> bool {
    matches!(value, Glance::Null)
}

fn is_zero(value: &Glance) -> bool {
    matches!(value, Glance::Null) || *value == Glance::Number(0.0)
}

fn is_one(value: &Glance) -> bool {
    matches!(value, Glance::Null) || *value == Glance::Number(1.0)
}

fn is_true(value: &Glance) -> bool {
    matches!(value, Glance::Null | Glance::Bool(true))
}

fn calls_nothing(value: &Glance) -> bool {
    matches!(value, Glance::Null) || value.is_text("none") || value.is_text("auto")
}

fn is_text_only(value: &Glance) -> bool {
    match value {
        Glance::Null | Glance::Empty => true,
        Glance::Same(kind) => kind == "text",
        _ => false,
    }
}

fn is_no_text(value: &Glance) -> bool {
    matches!(value, Glance::Null) || value.is_text("")
}

/// Fields that both kinds of completions refuse.
const REFUSED: &[Refused] = &[
    unless_empty("extra_body"),
    unless_empty("guided_decoding"),
    unless_empty("guided_json_object"),
    unless_empty("guided_whitespace_pattern"),
    Refused { name: "length_penalty", harmless: is_one },
    unless_empty("logits_processors"),
    Refused { name: "skip_special_tokens", harmless: is_true },
    Refused { name: "spaces_between_special_tokens", harmless: is_true },
    unless_empty("response_schema"),
    unless_empty("structural_tag"),
    unless_empty("structured_output"),
    unless_empty("use_beam_search"),
];

const REFUSED_IN_CHATS: &[Refused] = &[
    unless_empty("echo"),
    unless_empty("functions"),
    unless_empty("output_config"),
    unless_empty("output_format"),
    Refused { name: "function_call", harmless: calls_nothing },
    Refused { name: "modalities", harmless: is_text_only },
    unless_empty("audio"),
    unless_empty("web_search_options"),
    unless_empty("chat_template"),
    unless_empty("documents"),
];

const REFUSED_IN_COMPLETIONS: &[Refused] = &[
    Refused { name: "best_of", harmless: is_one },
    Refused { name: "suffix", harmless: is_no_text },
    Refused { name: "search_budget", harmless: is_zero },
    unless_empty("search"),
];

const REFUSED_IN_TOKENIZE: &[Refused] = &[unless_empty("chat_template"), unless_empty("tools")];

/// Fields of completions that the other APIs have no words for.
const REFUSED_IN_TRANSLATIONS: &[Refused] = &[
    Refused { name: "add_generation_prompt", harmless: is_true },
    unless_empty("allowed_token_ids"),
    unless_empty("bad_words"),
    unless_empty("continue_final_message"),
    unless_empty("ebnf"),
    unless_empty("echo"),
    unless_empty("grammar"),
    unless_empty("guided_choice"),
    unless_empty("guided_grammar"),
    unless_empty("guided_json"),
    unless_empty("guided_regex"),
    unless_empty("include_stop_str_in_output"),
    unless_empty("json_schema"),
    Refused { name: "min_tokens", harmless: is_zero },
    unless_empty("modalities"),
    unless_empty("prompt_logprobs"),
    unless_empty("regex"),
    unless_empty("stop_token_ids"),
    unless_empty("truncate_prompt_tokens"),
];

const REFUSED_IN_RESPONSES: &[Refused] = &[
    unless_empty("background"),
    unless_empty("conversation"),
    unless_empty("prompt"),
    unless_empty("messages"),
    unless_empty("max_tokens"),
    unless_empty("max_completion_tokens"),
    unless_empty("response_format"),
    unless_empty("logprobs"),
    Refused { name: "reasoning_effort", harmless: is_null },
];

const REFUSED_IN_MESSAGES: &[Refused] = &[
    unless_empty("container"),
    unless_empty("mcp_servers"),
    unless_empty("output_format"),
    unless_empty("max_completion_tokens"),
    unless_empty("response_format"),
    unless_empty("structured_outputs"),
    Refused { name: "parallel_tool_calls", harmless: is_true },
    unless_empty("logprobs"),
    Refused { name: "reasoning_effort", harmless: is_null },
];

/// What a response must not ask for.
pub const IN_RESPONSES: &[&[Refused]] = &[REFUSED_IN_RESPONSES, REFUSED_IN_TRANSLATIONS, REFUSED];
/// What a message must not ask for.
pub const IN_MESSAGES: &[&[Refused]] = &[REFUSED_IN_MESSAGES, REFUSED_IN_TRANSLATIONS, REFUSED];
/// What a tokenization must not ask for.
pub const IN_TOKENIZE: &[&[Refused]] = &[REFUSED_IN_TOKENIZE];
/// What a chat completion must not ask for.
pub const IN_CHATS: &[&[Refused]] = &[REFUSED_IN_CHATS, REFUSED];
/// What a text completion must not ask for.
pub const IN_COMPLETIONS: &[&[Refused]] = &[REFUSED_IN_COMPLETIONS, REFUSED];

impl<'de> DeserializeSeed<'de> for Refusal {
    /// The first field of the lists that asks for something.
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Refusal {
    type Value = Option<&'static str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self::Value, A::Error> {
        let all: Vec<&'static Refused> = self.0.iter().copied().flatten().collect();
        let mut seen = vec![false; all.len()];
        let mut asked: Option<usize> = None;
        while let Some(Known(at)) = fields.next_key_seed(Name(&all))? {
            let Some(at) = at else {
                fields.next_value::<IgnoredAny>()?;
                continue;
            };
            if std::mem::replace(&mut seen[at], true) {
                return Err(de::Error::duplicate_field(all[at].name));
            }
            let value: Glance = fields.next_value()?;
            if !(all[at].harmless)(&value) {
                asked = Some(asked.map_or(at, |before| before.min(at)));
            }
        }
        Ok(asked.map(|at| all[at].name))
    }
}

/// The place of a field's name in the lists.
struct Known(Option<usize>);

struct Name<'a>(&'a [&'static Refused]);

impl<'de> DeserializeSeed<'de> for Name<'_> {
    type Value = Known;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Known, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name<'_> {
    type Value = Known;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Known, E> {
        Ok(Known(self.0.iter().position(|field| field.name == name)))
    }
}

/// For bodies of which no field is refused.
pub const NOTHING: &[&[Refused]] = &[];

impl Refusal {
    /// Whether there is nothing to look for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
