//! `POST /v1/score`: how likely given labels are after a query and each of several items. Nothing is generated.

use axum::response::Response;

use super::embeddings::check_inputs;
use crate::engine::{
    Engine, EngineError, Input, Label, LabelRequest, LabelScores, LabelSupport, Origin, Purpose, Question, Spelling,
};
use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{Call, Entered, Made, enter};
use crate::http::error::ApiError;
use crate::http::job::fine::{checked_id, known_ids};
use crate::http::served;
use crate::openai::{ErrorBody, ItemScore, Prompt, ScoreRequest, ScoreResponse};

/// Items of one request.
const ITEMS: usize = 1024;
/// Labels of one request, and bytes of each.
const LABELS: usize = 64;
const LABEL_BYTES: usize = 1024;

/// A checked request.
struct Job {
    model: String,
    id: Option<String>,
    inputs: Vec<Input>,
    labels: Vec<Label>,
    normalised: bool,
}

impl Job {
    fn from_wire(body: ScoreRequest, chosen: &Chosen) -> Result<Self, ApiError> {
        let engine = chosen.pinned.actor.engine.as_ref();
        let model = chosen.unsearched(body.model.as_deref(), "scores")?;
        if engine.capabilities().labels == LabelSupport::Nothing {
            let message = "this model's engine does not give probabilities of labels; serve it with --engine native";
            return Err(ApiError::invalid("model", message));
        }
        let labels = labels(&body, engine)?;
        let inputs = inputs(&body, engine)?;
        check_inputs(&inputs, "items", engine)?;
        let id = checked_id(body.request_id.as_deref())?;
        Ok(Self { model, id, inputs, labels, normalised: body.apply_softmax.unwrap_or(true) })
    }
}

/// The labels, by their ids or as texts.
fn labels(body: &ScoreRequest, engine: &dyn Engine) -> Result<Vec<Label>, ApiError> {
    let (param, labels): (_, Vec<Spelling>) = match (&body.label_token_ids, &body.labels) {
        (Some(ids), None) => {
            known_ids("label_token_ids", ids, engine.info().vocabulary)?;
            ("label_token_ids", ids.iter().map(|id| Spelling::Token(*id)).collect())
        }
        (None, Some(texts)) => {
            if texts.iter().any(|text| !(1..=LABEL_BYTES).contains(&text.len())) {
                let message = format!("a text of `labels` must have 1 to {LABEL_BYTES} bytes");
                return Err(ApiError::invalid("labels", message));
            }
            ("labels", texts.iter().map(|text| Spelling::Text(text.clone())).collect())
        }
        (Some(_), Some(_)) => {
            let message = "`label_token_ids` and `labels` both say what is scored; send one of them";
            return Err(ApiError::invalid("labels", message));
        }
        (None, None) => {
            let message =
                "`label_token_ids` is missing: the tokens whose probabilities are asked for, or `labels` as texts";
            return Err(ApiError::invalid("label_token_ids", message));
        }
    };
    if !(1..=LABELS).contains(&labels.len()) {
        let message = format!("`{param}` must hold between 1 and {LABELS} labels, got {}", labels.len());
        return Err(ApiError::invalid(param, message));
    }
    Ok(labels.into_iter().map(|spelling| Label { spellings: vec![spelling] }).collect())
}

/// The query with each item.
fn inputs(body: &ScoreRequest, engine: &dyn Engine) -> Result<Vec<Input>, ApiError> {
    let first = body.item_first.unwrap_or(false);
    let inputs: Vec<Input> = match (&body.query, &body.items) {
        (Prompt::One(query), Prompt::Many(items)) => {
            let joined = |item: &String| if first { format!("{item}{query}") } else { format!("{query}{item}") };
            items.iter().map(|item| Input::Text(joined(item))).collect()
        }
        (Prompt::Tokens(query), Prompt::ManyTokens(items)) => {
            let joined =
                |item: &Vec<u32>| if first { [&item[..], query].concat() } else { [&query[..], item].concat() };
            items.iter().map(|item| Input::Tokens(joined(item))).collect()
        }
        (Prompt::One(_) | Prompt::Tokens(_), _) => {
            let message = "`items` must be a list of texts where `query` is a text, and a list of lists of token ids where \
                           that is a list of token ids";
            return Err(ApiError::invalid("items", message));
        }
        (Prompt::Many(_) | Prompt::ManyTokens(_), _) => {
            return Err(ApiError::invalid("query", "`query` must be one text, or one list of token ids"));
        }
    };
    if !(1..=ITEMS).contains(&inputs.len()) {
        let message = format!("`items` must hold between 1 and {ITEMS} items, got {}", inputs.len());
        return Err(ApiError::invalid("items", message));
    }
    match body.add_special_tokens {
        Some(false) => inputs.into_iter().map(|input| bare(input, engine)).collect(),
        _ => Ok(inputs),
    }
}

/// The tokens of a text without those that the tokenizer puts around it.
fn bare(input: Input, engine: &dyn Engine) -> Result<Input, ApiError> {
    let Input::Text(text) = input else { return Ok(input) };
    let refuse = |reason: &str| {
        let message = format!("`add_special_tokens: false` cannot be honoured: {reason}");
        ApiError::invalid("add_special_tokens", message)
    };
    let tokenizer = engine.info().tokenizer().cloned().ok_or_else(|| refuse("this model's engine has no tokenizer"))?;
    let encoding = tokenizer.encode_fast(text, false).map_err(|error| refuse(&error.to_string()))?;
    Ok(Input::Tokens(encoding.get_ids().to_vec()))
}

/// How likely each label is after each item.
fn item_scores(found: &LabelScores, normalised: bool) -> Vec<ItemScore> {
    let one = |(index, logprobs): (usize, &Vec<f32>)| {
        let plain = || logprobs.iter().map(|&logprob| f64::from(logprob).exp()).collect();
        let probabilities: Vec<f64> = if normalised { shares(logprobs) } else { plain() };
        ItemScore { index, object: "score", score: probabilities.first().copied().unwrap_or_default(), probabilities }
    };
    found.logprobs.iter().enumerate().map(one).collect()
}

/// Probabilities divided by their sum. Where all are impossible, none is likelier than the others.
pub fn shares(logprobs: &[f32]) -> Vec<f64> {
    let peak = logprobs.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if !peak.is_finite() {
        return vec![1.0 / logprobs.len().max(1) as f64; logprobs.len()];
    }
    let weights: Vec<f64> = logprobs.iter().map(|&logprob| f64::from(logprob - peak).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// The probabilities of given labels after a query and each of several items, in the shape of vLLM's generative scoring.
/// Nothing is generated.
#[utoipa::path(
    post, path = "/v1/score", tag = "completions", request_body = ScoreRequest,
    responses(
        (status = 200, body = ScoreResponse, description = "The scores"),
        (status = 404, body = ErrorBody, description = "No such model"),
    ),
)]
pub async fn score(call: Call) -> Result<Response, ApiError> {
    let make = |asked, chosen: &Chosen| {
        let job = Job::from_wire(asked, chosen)?;
        let bytes = job.inputs.iter().map(Input::bytes).sum();
        Ok(Made::plain(job, bytes))
    };
    let entered = enter(call, make).await?;
    let behalf = entered.behalf(None);
    let Entered { job: Job { model, id, inputs, labels, normalised }, chosen, clock, permit: _permit, .. } = entered;
    let engine = behalf.on(chosen.pinned.actor.engine.as_ref());
    let questions = inputs.into_iter().map(|input| Question { input, reply: String::new() }).collect();
    let request = LabelRequest { purpose: Purpose::Answer, questions, labels, origin: Origin::default() };
    let found = clock.bound(async { engine.read_labels(request).await.map_err(refused) }).await?;
    let answer = ScoreResponse {
        id: served::answer_id("score", id.as_deref()),
        object: "list",
        created: served::now(),
        model,
        data: item_scores(&found, normalised),
        usage: found.prompt_tokens.into(),
    };
    Ok(chosen.answers(answer))
}

/// An engine's error as one about the fields of this request.
fn refused(error: EngineError) -> ApiError {
    match error {
        // A label that adds no token, and what only another engine reads.
        EngineError::Invalid(reason) | EngineError::Unsupported(reason) => {
            ApiError::invalid("labels", format!("the labels cannot be read: {reason}"))
        }
        error => ApiError::from(error).about("items"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_model_or_add_up_to_1() {
        let ln = |p: f32| p.ln();
        let found = LabelScores {
            logprobs: vec![vec![ln(0.3), ln(0.1)], vec![f32::NEG_INFINITY; 2]],
            ..LabelScores::default()
        };
        let shown = |normalised| -> Vec<Vec<f64>> {
            let scores = item_scores(&found, normalised);
            assert!(scores.iter().all(|item| item.score == item.probabilities[0]));
            scores.into_iter().map(|item| item.probabilities).collect()
        };
        let close = |got: &[f64], expected: [f64; 2]| got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6);
        let (plain, normalised) = (shown(false), shown(true));
        assert!(close(&plain[0], [0.3, 0.1]) && close(&plain[1], [0.0, 0.0]), "{plain:?}");
        assert!(close(&normalised[0], [0.75, 0.25]) && close(&normalised[1], [0.5, 0.5]), "{normalised:?}");
    }
}
