//! How a request shapes its draws, where that is more than a number in a range: stop strings and biases. Every token that is
//! drawn goes through all of them, so their number and size are bounded.

use super::ranges::within;
use crate::http::error::ApiError;
use crate::openai::{DrawingFields, Stop};

/// Stop strings of one request. OpenAI takes 4, and other servers as many as are sent.
const STOPS: usize = 64;
/// Bytes of one stop string.
const STOP_BYTES: usize = 1024;
/// Tokens of one `logit_bias`.
const BIASED_TOKENS: usize = 4096;

/// Where an answer ends.
///
/// # Errors
/// Names the field.
pub fn stop(stop: Option<&Stop>) -> Result<Vec<String>, ApiError> {
    let strings = match stop {
        None => return Ok(Vec::new()),
        Some(Stop::One(one)) => vec![one.clone()],
        Some(Stop::Many(many)) => many.clone(),
    };
    if strings.len() > STOPS || strings.iter().any(String::is_empty) {
        let message = format!("`stop` must be at most {STOPS} strings, none of them empty, got {}", strings.len());
        return Err(ApiError::invalid("stop", message));
    }
    if let Some(long) = strings.iter().map(String::len).find(|bytes| *bytes > STOP_BYTES) {
        let message = format!("a string of `stop` must have at most {STOP_BYTES} bytes, got {long}");
        return Err(ApiError::invalid("stop", message));
    }
    Ok(strings)
}

/// What is added to the scores of single tokens, of which there are `vocabulary`.
///
/// # Errors
/// Names the field.
pub fn logit_bias(fields: &DrawingFields, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let biased = fields.logit_bias.iter().flatten().count();
    if biased > BIASED_TOKENS {
        let message = format!("`logit_bias` must hold at most {BIASED_TOKENS} tokens, got {biased}");
        return Err(ApiError::invalid("logit_bias", message));
    }
    let entry = |(token, bias): (&String, &f64)| {
        let id: Option<u32> = token.parse().ok().filter(|id| vocabulary == 0 || (*id as usize) < vocabulary);
        let id = id.ok_or_else(|| {
            let message =
                format!("`logit_bias` takes token ids between 0 and {}, got {token:?}", vocabulary.max(1) - 1);
            ApiError::invalid("logit_bias", message)
        })?;
        Ok((id, within("logit_bias", *bias, -100.0..=100.0)? as f32))
    };
    fields.logit_bias.iter().flatten().map(entry).collect()
}
