//! The API document: generated from the handlers and wire types, completed with what all operations share, served, printed
//! and committed.

use utoipa::OpenApi;
use utoipa::openapi::path::Operation;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ObjectBuilder, SchemaType};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    Components, ContentBuilder, Header, PathItem, Ref, RefOr, Response, ResponseBuilder, Schema, Type,
};
use utoipa_axum::router::OpenApiRouter;

use crate::anthropic::MessagesPrompt;
use crate::http::answer::search_header;
use crate::http::examples;
use crate::http::routes::messages::envelope::covers;
use crate::http::serve::HEALTH_ROUTES;
use crate::openai::{DrawingFields, FineFields, GuidedFields};

/// Title, tags and licence; paths come from the routes themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "spar",
        description = "OpenAI-compatible inference with judge-and-refine tree search: add `search_budget` to a chat \
                       completion.\n\nEvery error of every route is an `ErrorBody`, or a `MessagesErrorBody` under `/v1/messages`: `code` is for programs, `param` names \
                       the field that is at fault, and `message` says what to do. A path that is not served is answered \
                       with 404 and `route_not_found`."
    ),
    // Parts of several bodies, of which they are read on their own.
    components(schemas(DrawingFields, FineFields, GuidedFields, MessagesPrompt)),
    tags(
        (name = "completions", description = "Answers, plain and searched"),
        (name = "search", description = "What searches did"),
        (name = "models", description = "What is served"),
        (name = "operation", description = "Health and metrics"),
        (name = "admin", description = "Other weights while the server runs; needs the admin key"),
    )
)]
pub struct ApiDoc;

/// The document as it is committed: indented JSON with a line break at its end.
pub fn document() -> String {
    let (_, api) = crate::http::routes().split_for_parts();
    let mut text = api.to_pretty_json().expect("an API document is always JSON");
    text.push('\n');
    text
}

/// Who may call an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Every caller may.
    Open,
    /// Callers with an API key, where the server has any.
    Key,
    /// Callers with the admin key, where the server has one.
    Admin,
}

/// Completes the document of `router`, whose routes all have the same `access`: what callers must show, and the errors that
/// follow from it, from a body and from a parameter in the path. An operation's own description of a status is kept.
pub(super) fn complete<S>(access: Access, mut router: OpenApiRouter<S>) -> OpenApiRouter<S>
where
    S: Send + Sync + Clone + 'static,
{
    let api = router.get_openapi_mut();
    let mut shared = Vec::new();
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in operations(item) {
            operation.security = security(access);
            if let Some(body) = &mut operation.request_body {
                absent_is_not_null(body);
            }
            let health = HEALTH_ROUTES.contains(&path.as_str());
            show_search_header(path, operation);
            examples::show(method, path, operation);
            let body = operation.request_body.is_some();
            let modelled = !WITHOUT_MODEL.contains(&path.as_str());
            let facts = Facts { access, body, named: path.contains('{'), health, modelled };
            for error in ERRORS.iter().filter(|error| (error.occurs)(facts)) {
                let (name, response) = error.in_envelope(Envelope::of(path));
                let reference = RefOr::Ref(Ref::from_response_name(&name));
                operation.responses.responses.entry(error.status.into()).or_insert(reference);
                shared.push((name, RefOr::T(response)));
            }
        }
    }
    let components = api.components.get_or_insert_with(Components::new);
    for schema in components.schemas.values_mut() {
        if let RefOr::T(schema) = schema {
            examples::name_kinds(schema);
        }
    }
    components.responses.extend(shared);
    components.security_schemes.extend(schemes().map(|(name, scheme)| (name.to_owned(), scheme)));
    if let Some(RefOr::T(order)) = components.schemas.remove("SwapRequest") {
        let either = name_one_of(order, &["model_path", "adapter_path"]);
        components.schemas.insert("SwapRequest".into(), RefOr::T(either));
    }
    router
}

/// Documents the header of searched answers.
fn show_search_header(path: &str, operation: &mut Operation) {
    if let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200")
        && search_header::ROUTES.contains(&path)
    {
        let mut header = Header::default();
        header.description = Some(search_header::DESCRIPTION.into());
        answer.headers.insert(search_header::NAME.into(), header);
    }
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let all = [
        ("GET", &mut item.get),
        ("POST", &mut item.post),
        ("PUT", &mut item.put),
        ("DELETE", &mut item.delete),
        ("PATCH", &mut item.patch),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

const API_KEY: &str = "api_key";
const ADMIN_KEY: &str = "admin_key";

fn schemes() -> [(&'static str, SecurityScheme); 2] {
    let bearer = |description: &str| {
        let mut scheme = Http::new(HttpAuthScheme::Bearer);
        scheme.description = Some(description.into());
        SecurityScheme::Http(scheme)
    };
    [
        (
            API_KEY,
            bearer(
                "A key of `--api-keys-file` or SPAR_API_KEYS; the header `x-api-key` may hold it instead. A server without keys answers everybody.",
            ),
        ),
        (ADMIN_KEY, bearer("The key of `--admin-key-file` or SPAR_ADMIN_KEY. Without it these routes answer 403.")),
    ]
}

fn security(access: Access) -> Option<Vec<SecurityRequirement>> {
    let needs = |name: &str| SecurityRequirement::new::<_, [&str; 0], &str>(name, []);
    match access {
        Access::Open => None,
        // The empty requirement says that a server may have no keys.
        Access::Key => Some(vec![needs(API_KEY), SecurityRequirement::default()]),
        Access::Admin => Some(vec![needs(ADMIN_KEY)]),
    }
}

/// What decides which errors an operation can answer with.
#[derive(Clone, Copy)]
struct Facts {
    access: Access,
    /// Whether it reads a body.
    body: bool,
    /// Whether its path holds a parameter.
    named: bool,
    /// Whether it is answered however many connections there are.
    health: bool,
    /// Whether a body or the path names the model, which a key may not be allowed.
    modelled: bool,
}

/// Routes of callers with a key that ask no model.
const WITHOUT_MODEL: &[&str] = &["/v1/checks", "/v1/searches/{id}"];

/// An error that many operations share.
struct Error {
    status: &'static str,
    name: &'static str,
    description: &'static str,
    /// What `code` says.
    codes: &'static [&'static str],
    /// A header that comes with it, and what the header says.
    header: Option<(&'static str, &'static str)>,
    occurs: fn(Facts) -> bool,
}

const RETRY_AFTER: Option<(&str, &str)> = Some(("Retry-After", "Seconds after which another try is worth it."));

const ERRORS: &[Error] = &[
    Error {
        status: "400",
        name: "Invalid",
        description: "The request is at fault. `param` names the field.",
        codes: &["invalid_value", "context_length_exceeded", "request_refused"],
        header: None,
        occurs: |facts| facts.body || facts.named,
    },
    Error {
        status: "401",
        name: "NoKey",
        description: "No API key was shown, or one that is not known.",
        codes: &["invalid_api_key"],
        header: Some(("WWW-Authenticate", "Always `Bearer`.")),
        occurs: |facts| facts.access == Access::Key,
    },
    Error {
        status: "401",
        name: "NoAdminKey",
        description: "No admin key was shown, or one that is not known.",
        codes: &["invalid_admin_key"],
        header: Some(("WWW-Authenticate", "Always `Bearer`.")),
        occurs: |facts| facts.access == Access::Admin,
    },
    Error {
        status: "403",
        name: "NotAllowed",
        description: "The server has no admin key, so these routes are off, or an API key without the admin role was shown.",
        codes: &["admin_is_off", "not_admin"],
        header: None,
        occurs: |facts| facts.access == Access::Admin,
    },
    Error {
        status: "403",
        name: "ModelNotAllowed",
        description: "The API key's entry in the file of keys names the models that it may use, and not this one.",
        codes: &["model_not_allowed"],
        header: None,
        occurs: |facts| facts.access == Access::Key && facts.modelled && (facts.body || facts.named),
    },
    Error {
        status: "405",
        name: "WrongMethod",
        description: "The path is served, but not with the method that was sent.",
        codes: &["method_not_allowed"],
        header: Some(("Allow", "The methods with which the path is served.")),
        occurs: |_| true,
    },
    Error {
        status: "408",
        name: "TooLate",
        description: "The request's time was over before there was an answer, or its body did not arrive in time \
                      (`--request-timeout`, `--body-timeout`).",
        codes: &["deadline_exceeded", "body_timeout"],
        header: None,
        occurs: |facts| facts.body,
    },
    Error {
        status: "413",
        name: "TooLarge",
        description: "The body is larger than the server takes (`--max-body`).",
        codes: &["body_too_large"],
        header: None,
        occurs: |facts| facts.body,
    },
    Error {
        status: "415",
        name: "NotJson",
        description: "The body is not declared as JSON, or it is in a coding that is not taken.",
        codes: &["unsupported_media_type", "unsupported_content_encoding"],
        header: None,
        occurs: |facts| facts.body,
    },
    Error {
        status: "421",
        name: "WrongHost",
        description: "The request names a host that is not served (`--allowed-hosts`).",
        codes: &["host_not_allowed"],
        header: None,
        occurs: |_| true,
    },
    Error {
        status: "429",
        name: "TooMany",
        description: "Too many requests run or wait, or the key has used its tokens.",
        codes: &["queue_full", "tokens_per_minute"],
        header: RETRY_AFTER,
        occurs: |facts| facts.access == Access::Key,
    },
    Error {
        status: "500",
        name: "Failed",
        description: "The server or the model failed. The cause is in the server's log.",
        codes: &["model_failed"],
        header: None,
        occurs: |_| true,
    },
    Error {
        status: "502",
        name: "UpstreamFailed",
        description: "The server that this one asks for its replies (`--engine upstream`) failed; `message` has its words.",
        codes: &["upstream_failed"],
        header: None,
        occurs: |facts| facts.access == Access::Key && facts.modelled && facts.body,
    },
    Error {
        status: "503",
        name: "Unavailable",
        description: "The model cannot answer now, the server is shutting down, or all of its connections are taken \
                      (`--max-connections`).",
        codes: &["model_not_available", "shutting_down", "swapping", "loading", "too_many_connections"],
        header: RETRY_AFTER,
        occurs: |facts| facts.access != Access::Open && facts.body,
    },
    Error {
        status: "503",
        name: "Full",
        description: "All connections of the server are taken (`--max-connections`).",
        codes: &["too_many_connections"],
        header: RETRY_AFTER,
        // Routes about health are answered beyond that limit.
        occurs: |facts| !facts.health,
    },
];

/// The envelope that an error is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Envelope {
    /// OpenAI's, of all routes but Anthropic's.
    OpenAi,
    /// Anthropic's, of its own routes.
    Anthropic,
}

impl Envelope {
    fn of(path: &str) -> Self {
        if covers(path) { Self::Anthropic } else { Self::OpenAi }
    }
}

impl Error {
    /// The error's name among the shared responses, and what it says.
    fn in_envelope(&self, envelope: Envelope) -> (String, Response) {
        match envelope {
            Envelope::OpenAi => (self.name.to_owned(), self.response("ErrorBody")),
            Envelope::Anthropic => (format!("Messages{}", self.name), self.response("MessagesErrorBody")),
        }
    }

    fn response(&self, body: &str) -> Response {
        let schema = RefOr::<Schema>::Ref(Ref::from_schema_name(body));
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let codes: Vec<String> = self.codes.iter().map(|code| format!("`{code}`")).collect();
        let description = format!("{} `code` is {}.", self.description, codes.join(" or "));
        let response = ResponseBuilder::new().description(description).content("application/json", content);
        let Some((name, says)) = self.header else { return response.build() };
        let mut header = Header::default();
        header.description = Some(says.into());
        response.header(name, header).build()
    }
}

/// A body that may be left out is documented as one that may also be `null`, which the server does not take.
fn absent_is_not_null(body: &mut RequestBody) {
    for content in body.content.values_mut() {
        let Some(RefOr::T(Schema::OneOf(either))) = &content.schema else { continue };
        let is_null = |one: &RefOr<Schema>| matches!(one, RefOr::T(Schema::Object(o)) if o.schema_type == SchemaType::new(Type::Null));
        if let [null, other] = either.items.as_slice()
            && is_null(null)
        {
            content.schema = Some(other.clone());
        }
    }
}

/// `schema`, of whose optional texts at least one must be given.
fn name_one_of(schema: Schema, names: &[&str]) -> Schema {
    let says = "One of these fields must be a text.";
    let text = || ObjectBuilder::new().schema_type(SchemaType::new(Type::String)).description(Some(says));
    let given = |name: &str| ObjectBuilder::new().property(name, text()).required(name);
    let either = names.iter().fold(AnyOfBuilder::new(), |either, name| either.item(given(name)));
    AllOfBuilder::new().item(RefOr::T(schema)).item(RefOr::T(Schema::AnyOf(either.build()))).build().into()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use axum::http::StatusCode;
    use serde_json::Value;

    use super::*;
    use crate::http::error::ApiError;

    /// An error of each kind.
    fn errors() -> Vec<ApiError> {
        let (text, time) = (String::new, Duration::from_secs(1));
        let full = ApiError::QueueFull { waiting: 1, retry_after: time };
        let spent = ApiError::TokensSpent { limit: 1, retry_after: time };
        vec![
            ApiError::Invalid { param: None, message: text() },
            ApiError::Constraint(text()),
            ApiError::TooLong { param: "prompt", message: text() },
            ApiError::BadPrompt { param: "prompt", message: text() },
            ApiError::Unauthorized,
            ApiError::AdminUnauthorized,
            ApiError::NotAdmin,
            ApiError::ModelNotAllowed { model: "a".into(), allowed: vec!["b".into()] },
            ApiError::Forbidden,
            ApiError::Conflict(text()),
            ApiError::NothingThere(text()),
            ApiError::BadWeights(text()),
            ApiError::SwapBusy(text()),
            ApiError::Swapping,
            ApiError::UnknownModel(text()),
            ApiError::UnknownSearch(text()),
            ApiError::UnknownRoute(text()),
            ApiError::WrongMethod(text()),
            ApiError::Deadline,
            ApiError::BodyTooSlow(time),
            ApiError::WrongHost(text()),
            ApiError::BodyTooLarge(1),
            ApiError::NotJson,
            ApiError::Encoded(text()),
            full,
            spent,
            ApiError::TooManyConnections(1),
            ApiError::Loading,
            ApiError::ShuttingDown,
            ApiError::Unavailable(text()),
            ApiError::bare(StatusCode::BAD_REQUEST, "/", "no"),
            ApiError::Upstream(text()),
            ApiError::Failed(text()),
        ]
    }

    #[test]
    fn every_reference_of_the_document_leads_somewhere() {
        let text = document();
        let document: Value = serde_json::from_str(&text).unwrap();
        for reference in text.split("\"$ref\": \"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(document.pointer(reference).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_code_of_an_error_is_in_the_document_with_its_status() {
        let document: Value = serde_json::from_str(&document()).unwrap();
        let mut described = BTreeSet::new();
        let operations =
            document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
        for responses in operations.map(|operation| operation["responses"].as_object().unwrap()) {
            for (status, response) in responses {
                let shared =
                    response["$ref"].as_str().map(|name| document.pointer(name.trim_start_matches('#')).unwrap());
                let words = shared.unwrap_or(response)["description"].as_str().unwrap();
                described.extend(words.split('`').skip(1).step_by(2).map(|code| (status.clone(), code.to_owned())));
            }
        }
        // A path that is not served belongs to no operation.
        described.insert(("404".into(), "route_not_found".into()));
        assert!(document["info"]["description"].as_str().unwrap().contains("404 and `route_not_found`"));
        let mut codes = BTreeSet::new();
        for error in errors() {
            let code = error.body().error.code.unwrap();
            let status = error.status().as_str().to_owned();
            assert!(described.contains(&(status.clone(), code.clone())), "{status} with {code} is not documented");
            codes.insert(code);
        }
        // The list above is complete if it has every code of the source.
        let source = include_str!("error.rs");
        let body = source.split("let (code, param) = match self {").nth(1).unwrap().split("};").next().unwrap();
        let in_source: BTreeSet<String> =
            body.split("=> (\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
        assert_eq!(codes, in_source);
    }
}
