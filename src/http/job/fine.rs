//! vLLM's fields for single tokens and for prompts: checked, and refused by name where they cannot be honoured.

use super::bounds::Bounds;
use super::ranges::{size, within};
use crate::chat::Ending;
use crate::engine::{EngineError, Input, ModelInfo, TokenRules};
use crate::http::error::ApiError;
use crate::openai::{ChatRequest, FineFields};

/// Tokens of `stop_token_ids`; each drawn token is looked for among them.
const STOP_TOKENS: usize = 256;
/// Texts of `bad_words`, and bytes of each: the end of a reply is compared with all of them.
const BAD_WORDS: usize = 256;
const BAD_WORD_BYTES: usize = 128;
/// Bytes of a `request_id`.
const ID_BYTES: usize = 128;

/// The rules on tokens that a request asks for, with a reply of `max_tokens` at most.
///
/// # Errors
/// Names the field.
pub fn token_rules(fine: &FineFields, bounds: &Bounds<'_>, max_tokens: Option<i64>) -> Result<TokenRules, ApiError> {
    if let Some(field) = asked(fine).find(|_| !bounds.token_rules) {
        return Err(not_here(field));
    }
    let vocabulary = bounds.model.vocabulary;
    let context = i64::try_from(bounds.model.context).unwrap_or(i64::MAX);
    let min_tokens = within("min_tokens", fine.min_tokens.unwrap_or(0), 0..=max_tokens.unwrap_or(context).max(0))?;
    let tail = fine.truncate_prompt_tokens.map(|tail| within("truncate_prompt_tokens", tail, -1..=context - 1));
    let tail = match tail.transpose()? {
        Some(0) => {
            let message = "`truncate_prompt_tokens` must be at least 1, or -1 for as many tokens as fit";
            return Err(ApiError::invalid("truncate_prompt_tokens", message));
        }
        // The rest of the context is the reply's.
        Some(-1) => Some((context - max_tokens.unwrap_or(1).max(1)).max(1)),
        tail => tail,
    };
    Ok(TokenRules {
        stop_tokens: stop_tokens(fine, vocabulary)?,
        min_tokens: size(min_tokens),
        bad_words: bad_words(fine)?,
        allowed: allowed(fine, vocabulary)?,
        stop_shown: fine.include_stop_str_in_output.unwrap_or(false),
        prompt_tail: tail.map(size),
    })
}

/// The fields that ask an engine for more than OpenAI's own fields do.
fn asked(fine: &FineFields) -> impl Iterator<Item = &'static str> {
    [
        ("stop_token_ids", fine.stop_token_ids.as_ref().is_some_and(|ids| !ids.is_empty())),
        ("min_tokens", fine.min_tokens.is_some_and(|tokens| tokens != 0)),
        ("bad_words", fine.bad_words.as_ref().is_some_and(|words| !words.is_empty())),
        ("allowed_token_ids", fine.allowed_token_ids.is_some()),
        ("include_stop_str_in_output", fine.include_stop_str_in_output == Some(true)),
        ("truncate_prompt_tokens", fine.truncate_prompt_tokens.is_some()),
    ]
    .into_iter()
    .filter_map(|(field, asked)| asked.then_some(field))
}

fn not_here(field: &str) -> ApiError {
    let message = format!("this model's engine does not honour `{field}`; leave it out, or serve with --engine native");
    ApiError::invalid(field, message)
}

fn stop_tokens(fine: &FineFields, vocabulary: usize) -> Result<Vec<u32>, ApiError> {
    let ids = fine.stop_token_ids.clone().unwrap_or_default();
    if ids.len() > STOP_TOKENS {
        let message = format!("`stop_token_ids` must hold at most {STOP_TOKENS} ids, got {}", ids.len());
        return Err(ApiError::invalid("stop_token_ids", message));
    }
    known_ids("stop_token_ids", &ids, vocabulary)?;
    Ok(ids)
}

fn allowed(fine: &FineFields, vocabulary: usize) -> Result<Option<std::sync::Arc<[u32]>>, ApiError> {
    let Some(ids) = &fine.allowed_token_ids else { return Ok(None) };
    if ids.is_empty() {
        return Err(ApiError::invalid("allowed_token_ids", "`allowed_token_ids` must hold at least one id"));
    }
    known_ids("allowed_token_ids", ids, vocabulary)?;
    let mut ids = ids.clone();
    ids.sort_unstable();
    ids.dedup();
    Ok(Some(ids.into()))
}

/// Refuses ids that are not in the vocabulary; one of size 0 is not known.
///
/// # Errors
/// Names the field.
pub fn known_ids(param: &str, ids: &[u32], vocabulary: usize) -> Result<(), ApiError> {
    match ids.iter().find(|id| vocabulary > 0 && **id as usize >= vocabulary) {
        None => Ok(()),
        Some(id) => {
            let most = vocabulary - 1;
            Err(ApiError::invalid(param, format!("`{param}` takes token ids between 0 and {most}, got {id}")))
        }
    }
}

fn bad_words(fine: &FineFields) -> Result<Vec<String>, ApiError> {
    let words = fine.bad_words.clone().unwrap_or_default();
    let refuse = |message: String| Err(ApiError::invalid("bad_words", message));
    if words.len() > BAD_WORDS {
        return refuse(format!("`bad_words` must hold at most {BAD_WORDS} texts, got {}", words.len()));
    }
    match words.iter().map(String::len).find(|bytes| !(1..=BAD_WORD_BYTES).contains(bytes)) {
        Some(bytes) => refuse(format!("a text of `bad_words` must have 1 to {BAD_WORD_BYTES} bytes, got {bytes}")),
        None => Ok(words),
    }
}

/// Alternatives for each of the prompt's tokens, where they are asked for.
///
/// # Errors
/// Names `prompt_logprobs`.
pub fn prompt_logprobs(fine: &FineFields, bounds: &Bounds<'_>, streams: bool) -> Result<Option<usize>, ApiError> {
    let Some(top) = fine.prompt_logprobs else { return Ok(None) };
    let top = within("prompt_logprobs", top, 0..=20)?;
    let refuse = |message: &str| Err(ApiError::invalid("prompt_logprobs", format!("`prompt_logprobs` {message}")));
    match () {
        () if !bounds.scores => refuse(
            "needs an engine that scores a given text, which this model's does not; serve it with --engine native, or \
             leave the field out",
        ),
        () if streams => refuse("are part of a whole answer; send `stream: false`, or leave the field out"),
        () if fine.truncate_prompt_tokens.is_some() => {
            refuse("are those of a whole prompt; leave out `truncate_prompt_tokens`, or this field")
        }
        () => Ok(Some(size(top))),
    }
}

/// The end of the answer's id.
///
/// # Errors
/// Names `request_id`.
pub fn request_id(fine: &FineFields) -> Result<Option<String>, ApiError> {
    checked_id(fine.request_id.as_deref())
}

/// An id that a caller chose.
///
/// # Errors
/// Names `request_id`.
pub fn checked_id(id: Option<&str>) -> Result<Option<String>, ApiError> {
    let Some(id) = id else { return Ok(None) };
    let usual = |c: char| c.is_ascii_alphanumeric() || "._:-".contains(c);
    if (1..=ID_BYTES).contains(&id.len()) && id.chars().all(usual) {
        return Ok(Some(id.to_owned()));
    }
    let message = format!("`request_id` must be 1 to {ID_BYTES} letters, digits, dots, colons, underscores and dashes");
    Err(ApiError::invalid("request_id", message))
}

/// The fields that say where the prompt of a conversation ends.
#[derive(Clone, Copy)]
pub struct PromptEnd {
    /// Whether it ends where the assistant begins to speak.
    pub add_generation_prompt: Option<bool>,
    /// Whether it ends within its last message.
    pub continue_final_message: Option<bool>,
}

/// Where the prompt of a conversation ends, if the engine can end it there, which `honoured` says.
///
/// # Errors
/// Names the field.
pub fn ending(fields: PromptEnd, honoured: bool) -> Result<Ending, ApiError> {
    match (fields.continue_final_message.unwrap_or(false), fields.add_generation_prompt) {
        (true, Some(true)) => {
            let message = "`continue_final_message` continues the last message, and `add_generation_prompt` begins a new \
                           one; set one of them";
            Err(ApiError::invalid("continue_final_message", message))
        }
        (true, _) if !honoured => Err(not_here("continue_final_message")),
        (true, _) => Ok(Ending::WithinLast),
        (false, Some(false)) if !honoured => Err(not_here("add_generation_prompt")),
        (false, Some(false)) => Ok(Ending::AfterLast),
        (false, _) => Ok(Ending::BeforeReply),
    }
}

/// Refuses what a search cannot honour: its answer may be a refinement, which is read from a longer reply.
///
/// # Errors
/// Names the field.
pub fn refuse_in_search(body: &ChatRequest) -> Result<(), ApiError> {
    let of_prompt = [
        ("prompt_logprobs", body.fine.prompt_logprobs.is_some()),
        ("continue_final_message", body.continue_final_message == Some(true)),
        ("add_generation_prompt", body.add_generation_prompt == Some(false)),
    ];
    let of_prompt = of_prompt.into_iter().filter_map(|(field, asked)| asked.then_some(field));
    match asked(&body.fine).filter(|field| *field != "bad_words").chain(of_prompt).next() {
        None => Ok(()),
        Some(field) => {
            let message = format!("a search does not honour `{field}`; leave it out, or send `search_budget: 0`");
            Err(ApiError::invalid(field, message))
        }
    }
}

/// Refuses token ids of the field `param` that are not in the vocabulary, and more of them than leave room in the context.
///
/// # Errors
/// Names the field.
pub(in crate::http) fn check_prompts(
    prompts: &[Input],
    param: &'static str,
    rules: &TokenRules,
    model: &ModelInfo,
) -> Result<(), ApiError> {
    let lists = prompts.iter().filter_map(|prompt| match prompt {
        Input::Tokens(ids) => Some(ids),
        Input::Chat(_) | Input::Text(_) => None,
    });
    for ids in lists {
        known_ids(param, ids, model.vocabulary)?;
        let (tokens, limit) = (ids.len(), model.context);
        if tokens >= limit && rules.prompt_tail.is_none() {
            return Err(ApiError::from(EngineError::PromptTooLong { tokens, limit }).about(param));
        }
    }
    Ok(())
}
