//! `POST /v1/decisions`: typed questions about an input, answered with probabilities. Nothing is generated.

use axum::response::Response;
use futures::{StreamExt, TryStreamExt, stream};

use super::score::shares;
use crate::engine::{Engine, EngineError, Label, LabelRequest, LabelScores, LabelSupport, Origin, Purpose, Question};
use crate::http::door::admit::fits;
use crate::http::door::chosen::Chosen;
use crate::http::door::enter::{Call, Entered, Made, enter};
use crate::http::error::ApiError;
use crate::openai::{
    ChoiceProbability, ChoiceValue, Content, DecisionAnswer, DecisionInput, DecisionInputDetails, DecisionQuestion,
    DecisionRequest, DecisionResponse, DecisionUsage, ErrorBody, LevelProbability,
};
use crate::prompts::{Templates, decide, verdict_labels};

/// Questions of one request.
const QUESTIONS: usize = 128;
/// Questions that are read at a time: the first leaves the input's keys and values to the others.
const AT_ONCE: usize = 8;
/// Levels of a scale.
const LEVELS: std::ops::RangeInclusive<usize> = 2..=10;

/// A checked request.
struct Job {
    model: String,
    asked: Vec<Asked>,
}

/// A checked question.
struct Asked {
    name: Option<String>,
    answers: Answers,
    question: Question,
}

/// What may be answered.
enum Answers {
    YesOrNo,
    Values(Vec<ChoiceValue>),
    Levels(Vec<String>),
}

impl Answers {
    fn labels(&self) -> Vec<Label> {
        match self {
            Self::YesOrNo => verdict_labels(),
            Self::Values(values) => decide::option_labels(values.len()),
            Self::Levels(levels) => decide::option_labels(levels.len()),
        }
    }
}

impl Job {
    fn from_wire(body: DecisionRequest, chosen: &Chosen) -> Result<Self, ApiError> {
        let judge = &chosen.pinned.refiner;
        let (engine, templates) = (judge.engine.as_ref(), judge.templates.as_ref());
        let model = chosen.unsearched(body.model.as_deref(), "decisions")?;
        if engine.capabilities().labels == LabelSupport::Nothing {
            let message = "this model's engine does not give probabilities of answers; serve it with --engine native";
            return Err(ApiError::invalid("model", message));
        }
        let input = text(&body.input)?;
        fits(engine, input.len()).map_err(|error| error.about("input"))?;
        let count = body.questions.len();
        if !(1..=QUESTIONS).contains(&count) {
            let message = format!("`questions` must hold between 1 and {QUESTIONS} questions, got {count}");
            return Err(ApiError::invalid("questions", message));
        }
        let asked = body.questions.into_iter().enumerate();
        let asked: Vec<Asked> = asked
            .map(|(index, question)| Asked::from_wire(index, question, &input, templates))
            .collect::<Result<_, _>>()?;
        Ok(Self { model, asked })
    }
}

/// The text of an input.
fn text(input: &DecisionInput) -> Result<String, ApiError> {
    let messages = match input {
        DecisionInput::Text(text) => return Ok(text.clone()),
        DecisionInput::Messages(messages) => messages,
    };
    let mut texts = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        if message.role != "user" {
            let param = format!("input[{index}].role");
            return Err(ApiError::invalid(&param, format!("`{param}` must be user, got {:?}", message.role)));
        }
        match &message.content {
            Content::Text(text) => texts.push(text.as_str()),
            Content::Parts(parts) => {
                for (at, part) in parts.iter().enumerate() {
                    let param = format!("input[{index}].content[{at}]");
                    match (part.kind.as_str(), &part.text) {
                        ("input_text" | "text", Some(text)) => texts.push(text),
                        (kind, _) => {
                            let message =
                                format!("`{param}` is of type {kind:?}; only input_text with `text` is served here");
                            return Err(ApiError::invalid(&param, message));
                        }
                    }
                }
            }
        }
    }
    Ok(texts.join("\n\n"))
}

/// An option with what is said of it.
fn described(option: &str, description: Option<&String>) -> String {
    description.map_or_else(|| option.to_owned(), |description| format!("{option}: {description}"))
}

impl Asked {
    fn from_wire(index: usize, asked: DecisionQuestion, input: &str, templates: &Templates) -> Result<Self, ApiError> {
        let refuse = |field: &str, message: &str| {
            let param = format!("questions[{index}].{field}");
            ApiError::invalid(&param, format!("`{param}` {message}"))
        };
        let DecisionQuestion { kind, name, instructions, choices, levels } = asked;
        let (answers, options) = match (kind.as_str(), choices, levels) {
            ("predicate", None, None) => (Answers::YesOrNo, Vec::new()),
            ("choice", Some(choices), None) => {
                if !(2..=decide::MOST_OPTIONS).contains(&choices.len()) {
                    let most = decide::MOST_OPTIONS;
                    let message = format!("must hold between 2 and {most} values, got {}", choices.len());
                    return Err(refuse("choices", &message));
                }
                let shown = |value: &ChoiceValue| match value {
                    ChoiceValue::Text(text) => text.clone(),
                    ChoiceValue::Flag(flag) => flag.to_string(),
                };
                let options =
                    choices.iter().map(|one| described(&shown(&one.value), one.description.as_ref())).collect();
                let values: Vec<ChoiceValue> = choices.into_iter().map(|choice| choice.value).collect();
                if values.iter().enumerate().any(|(at, value)| values[..at].contains(value)) {
                    return Err(refuse("choices", "holds a value twice"));
                }
                (Answers::Values(values), options)
            }
            ("score", None, Some(levels)) => {
                if !LEVELS.contains(&levels.len()) {
                    let (least, most) = (LEVELS.start(), LEVELS.end());
                    let message = format!("must hold between {least} and {most} levels, got {}", levels.len());
                    return Err(refuse("levels", &message));
                }
                let options = levels.iter().map(|one| described(&one.label, one.description.as_ref())).collect();
                (Answers::Levels(levels.into_iter().map(|level| level.label).collect()), options)
            }
            ("choice", None, _) => return Err(refuse("choices", "is missing: the values of which one is right")),
            ("score", _, None) => {
                return Err(refuse("levels", "is missing: the levels from the lowest to the highest"));
            }
            ("predicate" | "score", Some(_), _) => return Err(refuse("choices", "needs `type: choice`")),
            ("predicate" | "choice", _, Some(_)) => return Err(refuse("levels", "needs `type: score`")),
            (kind, _, _) => return Err(refuse("type", &format!("must be predicate, choice or score, got {kind:?}"))),
        };
        let question = templates.decide(input, &instructions, &options);
        let question = question.ok_or_else(|| refuse("instructions", "cannot be asked about this input"))?;
        Ok(Self { name, answers, question })
    }

    /// The answer, by the probabilities of what may be answered.
    fn answer(self, found: &LabelScores) -> DecisionAnswer {
        let name = self.name;
        let probabilities = shares(found.logprobs.first().map(Vec::as_slice).unwrap_or_default());
        let likeliest = probabilities
            .iter()
            .copied()
            .enumerate()
            .fold((0, 0.0), |best, (at, p)| if p > best.1 { (at, p) } else { best });
        match self.answers {
            Answers::YesOrNo => {
                DecisionAnswer::Predicate { name, probability: probabilities.first().copied().unwrap_or(0.0) }
            }
            Answers::Values(values) => DecisionAnswer::Choice {
                name,
                choice: values[likeliest.0].clone(),
                confidence: likeliest.1,
                probabilities: values
                    .into_iter()
                    .zip(probabilities)
                    .map(|(value, probability)| ChoiceProbability { value, probability })
                    .collect(),
            },
            Answers::Levels(levels) => DecisionAnswer::Score {
                name,
                score: probabilities.iter().enumerate().map(|(level, p)| level as f64 * p).sum(),
                confidence: likeliest.1,
                probabilities: levels
                    .into_iter()
                    .zip(probabilities)
                    .enumerate()
                    .map(|(value, (label, probability))| LevelProbability { value, label, probability })
                    .collect(),
            },
        }
    }
}

/// Answers typed questions about an input with probabilities, in the shape of OpenAI's Decisions API. The model that judges
/// searches answers, and nothing is generated.
#[utoipa::path(
    post, path = "/v1/decisions", tag = "completions", request_body = DecisionRequest,
    responses(
        (status = 200, body = DecisionResponse, description = "The answers"),
        (status = 404, body = ErrorBody, description = "No such model"),
    ),
)]
pub async fn decide(call: Call) -> Result<Response, ApiError> {
    let make = |asked, chosen: &Chosen| {
        let job = Job::from_wire(asked, chosen)?;
        let bytes = job.asked.iter().map(|asked| asked.question.input.bytes()).sum();
        Ok(Made::plain(job, bytes))
    };
    let entered = enter(call, make).await?;
    let behalf = entered.behalf(None);
    let Entered { job: Job { model, asked }, chosen, clock, permit: _permit, .. } = entered;
    let engine = behalf.on(chosen.pinned.refiner.engine.as_ref());
    let one = |asked: Asked| {
        let (labels, questions) = (asked.answers.labels(), vec![asked.question.clone()]);
        let request = LabelRequest { purpose: Purpose::Judge, questions, labels, origin: Origin::default() };
        let read = engine.read_labels(request);
        async move { Ok::<_, EngineError>((asked, read.await?)) }
    };
    let mut asked = asked.into_iter();
    let read = async {
        // The others find what it has computed of the input.
        let mut found: Vec<(Asked, LabelScores)> = Vec::new();
        if let Some(first) = asked.next() {
            found.push(one(first).await?);
        }
        let others: Vec<_> = asked.map(one).collect();
        found.extend(stream::iter(others).buffered(AT_ONCE).try_collect::<Vec<_>>().await?);
        Ok(found)
    };
    let found = clock.bound(read).await.map_err(|error: ApiError| error.about("input"))?;
    let mut usage = DecisionUsage::default();
    let mut answers = Vec::new();
    for (asked, scores) in found {
        usage.input_tokens += scores.prompt_tokens;
        usage.input_tokens_details = DecisionInputDetails {
            cached_tokens: usage.input_tokens_details.cached_tokens + scores.cached_tokens,
            ..usage.input_tokens_details
        };
        answers.push(asked.answer(&scores));
    }
    usage.total_tokens = usage.input_tokens;
    Ok(chosen.answers(DecisionResponse { model, answers, usage }))
}
