//! The API document: generated from the handlers and wire types, served, printed and committed.

use utoipa::OpenApi;

use crate::openai::DrawingFields;

/// Title, tags and licence; paths come from the routes themselves.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "spar",
        description = "OpenAI-compatible inference with judge-and-refine tree search: add `search_budget` to a chat completion."
    ),
    // Part of two bodies, of which it is read on its own.
    components(schemas(DrawingFields)),
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
    let (_, api) = super::routes().split_for_parts();
    let mut text = api.to_pretty_json().expect("an API document is always JSON");
    text.push('\n');
    text
}
