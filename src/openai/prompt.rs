//! The texts of a text completion, and what the model expected in place of their tokens.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::whole_number::TokenId;
use crate::engine::{Input, ScoredToken, TokenProb};

/// One text or several, each as text or as its tokens' ids.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A single prompt.
    One(String),
    /// Several; the continuations of the first come first.
    Many(Vec<String>),
    /// A single prompt as its tokens' ids.
    Tokens(Vec<u32>),
    /// Several prompts as their tokens' ids.
    ManyTokens(Vec<Vec<u32>>),
}

impl From<Prompt> for Vec<Input> {
    fn from(prompt: Prompt) -> Self {
        match prompt {
            Prompt::One(text) => vec![Input::Text(text)],
            Prompt::Many(texts) => texts.into_iter().map(Input::Text).collect(),
            Prompt::Tokens(ids) => vec![Input::Tokens(ids)],
            Prompt::ManyTokens(lists) => lists.into_iter().map(Input::Tokens).collect(),
        }
    }
}

const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of lists of token ids";

// Written out rather than derived: an untagged enum would collect a long list of ids as values first.
impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Prompt;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
                Ok(Prompt::One(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<Prompt, E> {
                Ok(Prompt::One(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Prompt, A::Error> {
                match list.next_element::<First>()? {
                    None => Ok(Prompt::Many(Vec::new())),
                    Some(First::Text(text)) => rest(list, text).map(Prompt::Many),
                    Some(First::Id(id)) => {
                        let ids = rest(list, TokenId(id))?;
                        Ok(Prompt::Tokens(ids.into_iter().map(|id| id.0).collect()))
                    }
                    Some(First::Ids(ids)) => {
                        let lists = rest(list, ids.into_iter().map(TokenId).collect::<Vec<_>>())?;
                        let ids = |list: Vec<TokenId>| list.into_iter().map(|id| id.0).collect();
                        Ok(Prompt::ManyTokens(lists.into_iter().map(ids).collect()))
                    }
                }
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// All entries of a list of which the first one was read.
fn rest<'de, A: SeqAccess<'de>, T: Deserialize<'de>>(mut list: A, first: T) -> Result<Vec<T>, A::Error> {
    let mut entries = vec![first];
    while let Some(entry) = list.next_element()? {
        entries.push(entry);
    }
    Ok(entries)
}

/// The first entry of a list, which says what the others are.
enum First {
    Text(String),
    Id(u32),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for First {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = First;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string, a token id, or a list of token ids")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<First, E> {
                Ok(First::Text(text.to_owned()))
            }

            fn visit_string<E: de::Error>(self, text: String) -> Result<First, E> {
                Ok(First::Text(text))
            }

            fn visit_i64<E: de::Error>(self, id: i64) -> Result<First, E> {
                TokenId::deserialize(de::value::I64Deserializer::new(id)).map(|id| First::Id(id.0))
            }

            fn visit_u64<E: de::Error>(self, id: u64) -> Result<First, E> {
                TokenId::deserialize(de::value::U64Deserializer::new(id)).map(|id| First::Id(id.0))
            }

            fn visit_f64<E: de::Error>(self, id: f64) -> Result<First, E> {
                TokenId::deserialize(de::value::F64Deserializer::new(id)).map(|id| First::Id(id.0))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<First, A::Error> {
                let mut ids = Vec::new();
                while let Some(TokenId(id)) = list.next_element()? {
                    ids.push(id);
                }
                Ok(First::Ids(ids))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// For each of a prompt's tokens what the model expected there, by token id; nothing for the first token, before which
/// nothing is.
pub type PromptLogprobs = Vec<Option<BTreeMap<u32, PromptLogprob>>>;

/// A token that is, or might have been, at a place of the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PromptLogprob {
    /// The natural log of its probability, -9999 where that is zero.
    pub logprob: f32,
    /// Its place among all tokens by probability: 1 for the likeliest one.
    pub rank: Option<usize>,
    /// Its text; a token may hold part of a character.
    pub decoded_token: String,
}

/// The scored tokens of a prompt in vLLM's shape, with the `top` likeliest alternatives of each.
pub fn prompt_logprobs(tokens: &[ScoredToken], top: usize) -> PromptLogprobs {
    let entry = |token: &TokenProb, rank| PromptLogprob {
        logprob: token.logprob.max(-9999.0),
        rank,
        decoded_token: String::from_utf8_lossy(&token.bytes).into_owned(),
    };
    let one = |scored: &ScoredToken| {
        let logprobs = scored.logprobs.as_ref()?;
        let ranked = logprobs.top.iter().take(top).enumerate();
        let mut places: BTreeMap<u32, PromptLogprob> =
            ranked.map(|(index, token)| (token.id, entry(token, Some(index + 1)))).collect();
        places.entry(scored.id).or_insert_with(|| entry(&logprobs.token, scored.rank));
        Some(places)
    };
    tokens.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TokenLogprobs;

    #[test]
    fn a_prompt_has_openais_four_forms() {
        let read = |text: &str| serde_json::from_str::<Prompt>(text).ok();
        for (text, expected) in [
            (r#""a""#, Some(Prompt::One("a".into()))),
            (r#"["a", "b"]"#, Some(Prompt::Many(vec!["a".into(), "b".into()]))),
            ("[]", Some(Prompt::Many(Vec::new()))),
            ("[5, 6.0, 7]", Some(Prompt::Tokens(vec![5, 6, 7]))),
            ("[[5, 6], [7]]", Some(Prompt::ManyTokens(vec![vec![5, 6], vec![7]]))),
            ("[[]]", Some(Prompt::ManyTokens(vec![Vec::new()]))),
            ("[5, \"a\"]", None),
            ("[\"a\", 5]", None),
            ("[5, [6]]", None),
            ("[[5], 6]", None),
            ("[-1]", None),
            ("[0.5]", None),
            ("[4294967296]", None),
            ("[[4294967296]]", None),
            ("5", None),
            ("{}", None),
            ("[null]", None),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn a_token_of_a_prompt_has_its_rank_among_all() {
        let token = |id: u32, logprob| TokenProb { id, bytes: vec![b'a' + id as u8], logprob };
        let top = vec![token(1, -0.5), token(2, -1.0)];
        let scored = |id, logprob, rank| ScoredToken {
            id,
            bytes: vec![b'a' + id as u8],
            rank: Some(rank),
            logprobs: Some(TokenLogprobs { token: token(id, logprob), top: top.clone() }),
        };
        let first = ScoredToken { id: 0, bytes: b"a".to_vec(), rank: None, logprobs: None };
        let shown = prompt_logprobs(&[first, scored(2, -1.0, 2), scored(3, f32::NEG_INFINITY, 9)], 1);
        let places = |index: usize| -> Vec<(u32, f32, Option<usize>, String)> {
            let places = shown[index].as_ref().unwrap();
            places.iter().map(|(id, at)| (*id, at.logprob, at.rank, at.decoded_token.clone())).collect()
        };
        assert_eq!(shown[0], None);
        assert_eq!(places(1), [(1, -0.5, Some(1), "b".into()), (2, -1.0, Some(2), "c".into())]);
        assert_eq!(places(2), [(1, -0.5, Some(1), "b".into()), (3, -9999.0, Some(9), "d".into())]);
    }
}
