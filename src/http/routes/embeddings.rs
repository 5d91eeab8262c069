//! `POST /v1/embeddings`: texts become vectors of the served model.

use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::engine::embedding::Pooling;
use crate::engine::{EmbedRequest, Embeddings, Engine, Input, ModelInfo, Origin, TokenRules};
use crate::http::door::admit::fits;
use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{Call, Entered, Made, enter};
use crate::http::error::ApiError;
use crate::http::job::fine::check_prompts;
use crate::openai::{Embedding, EmbeddingRequest, EmbeddingResponse, ErrorBody, Vector};

/// Texts of one request, as OpenAI bounds them.
const TEXTS: usize = 2048;

/// A checked request.
struct Job {
    model: String,
    inputs: Vec<Input>,
    pooling: Pooling,
    base64: bool,
    dimensions: Option<i64>,
}

impl Job {
    fn from_wire(body: EmbeddingRequest, chosen: &Chosen) -> Result<Self, ApiError> {
        let engine = chosen.pinned.actor.engine.as_ref();
        let model = chosen.unsearched(body.model.as_deref(), "embeddings")?;
        if !engine.capabilities().embeds {
            let message = "this model's engine gives no embeddings; serve it with --engine native on the CPU";
            return Err(ApiError::invalid("model", message));
        }
        let base64 = match body.encoding_format.as_deref() {
            None | Some("float") => false,
            Some("base64") => true,
            Some(other) => {
                let message = format!("`encoding_format` must be float or base64, got {other:?}");
                return Err(ApiError::invalid("encoding_format", message));
            }
        };
        let pooling = match body.pooling.as_deref() {
            None | Some("mean") => Pooling::Mean,
            Some("last") => Pooling::Last,
            Some(other) => {
                return Err(ApiError::invalid("pooling", format!("`pooling` must be mean or last, got {other:?}")));
            }
        };
        let inputs = Vec::from(body.input);
        if !(1..=TEXTS).contains(&inputs.len()) {
            let message = format!("`input` must hold between 1 and {TEXTS} texts, got {}", inputs.len());
            return Err(ApiError::invalid("input", message));
        }
        check_inputs(&inputs, "input", engine)?;
        Ok(Self { model, inputs, pooling, base64, dimensions: body.dimensions })
    }

    fn response(self, found: Embeddings) -> Result<EmbeddingResponse, ApiError> {
        let length = found.vectors.first().map_or(0, Vec::len);
        if let Some(asked) = self.dimensions.filter(|asked| usize::try_from(*asked).ok() != Some(length)) {
            let message = format!(
                "`dimensions` must be {length}, the length of this model's vectors, which cannot be shortened; got {asked}"
            );
            return Err(ApiError::invalid("dimensions", message));
        }
        let shown = |vector: Vec<f32>| match self.base64 {
            false => Vector::Numbers(vector),
            true => {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Vector::Base64(STANDARD.encode(bytes))
            }
        };
        let one = |(index, vector)| Embedding { object: "embedding", index, embedding: shown(vector) };
        let data = found.vectors.into_iter().enumerate().map(one).collect();
        Ok(EmbeddingResponse { object: "list", data, model: self.model, usage: found.prompt_tokens.into() })
    }
}

/// Refuses ids that are not in the vocabulary, and texts that cannot fit, of the field `param`.
pub fn check_inputs(inputs: &[Input], param: &'static str, engine: &dyn Engine) -> Result<(), ApiError> {
    // A text that nothing follows may fill the context.
    let model = ModelInfo { context: engine.info().context.saturating_add(1), ..engine.info().clone() };
    check_prompts(inputs, param, &TokenRules::default(), &model)?;
    let fit = |input: &Input| match input {
        Input::Text(text) => fits(engine, text.len()),
        Input::Chat(_) | Input::Tokens(_) => Ok(()),
    };
    inputs.iter().try_for_each(fit).map_err(|error| error.about(param))
}

/// Vectors of texts, each of length 1: the mean of what the model's last layer holds of the text's tokens, or that of the last
/// one.
#[utoipa::path(
    post, path = "/v1/embeddings", tag = "completions", request_body = EmbeddingRequest,
    responses(
        (status = 200, body = EmbeddingResponse, description = "The vectors"),
        (status = 404, body = ErrorBody, description = "No such model"),
    ),
)]
pub async fn embed(call: Call) -> Result<Response, ApiError> {
    let make = |asked, chosen: &Chosen| {
        let job = Job::from_wire(asked, chosen)?;
        let bytes = job.inputs.iter().map(Input::bytes).sum();
        Ok(Made::plain(job, bytes))
    };
    let entered = enter(call, make).await?;
    let behalf = entered.behalf(None);
    let Entered { mut job, chosen, clock, permit: _permit, .. } = entered;
    let engine = behalf.on(chosen.pinned.actor.engine.as_ref());
    let inputs = std::mem::take(&mut job.inputs);
    let request = EmbedRequest { inputs, pooling: job.pooling, origin: Origin::default() };
    let found = clock.bound(async { Ok(engine.embed(request).await?) }).await;
    Ok(chosen.answers(job.response(found.map_err(|error| error.about("input"))?)?))
}
