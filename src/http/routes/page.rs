//! `GET /` and `/page/{file}`: a page to try the server with, which needs nothing from elsewhere.

use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::http::error::{ApiError, NOT_MODIFIED};

/// The page runs and loads this server's files only, and calls this server only.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; connect-src 'self'; script-src 'self'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'",
);

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const JSON: &str = "application/json";
const SVG: &str = "image/svg+xml";

/// A file of the page.
struct File {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
    /// A digest of the text, in quotation marks.
    etag: String,
}

macro_rules! files {
    ($($name:literal: $kind:expr),* $(,)?) => {
        vec![$(File::new($name, $kind, include_str!(concat!("../../../assets/page/", $name)))),*]
    };
}

static FILES: LazyLock<Vec<File>> = LazyLock::new(|| {
    files! {
        "index.html": HTML,
        "style.css": CSS,
        "icon.svg": SVG,
        "examples.json": JSON,
        "kinds.json": JSON,
        "answer.js": JS,
        "api.js": JS,
        "checks.js": JS,
        "conversation.js": JS,
        "costs.js": JS,
        "diff.js": JS,
        "dom.js": JS,
        "key.js": JS,
        "kept.js": JS,
        "main.js": JS,
        "markdown.js": JS,
        "models.js": JS,
        "node.js": JS,
        "options.js": JS,
        "outline.js": JS,
        "run.js": JS,
        "snippets.js": JS,
        "store.js": JS,
        "tree.js": JS,
        "turn.js": JS,
        "welcome.js": JS,
    }
});

impl File {
    fn new(name: &'static str, kind: &'static str, text: &'static str) -> Self {
        let digest = Sha256::digest(text);
        let etag = digest[..12].iter().fold("\"".to_owned(), |etag, byte| format!("{etag}{byte:02x}")) + "\"";
        Self { name, kind, text, etag }
    }

    fn sent(&self, headers: &HeaderMap) -> Response {
        let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_known = known.split(',').map(|etag| etag.trim().trim_start_matches("W/")).any(|etag| etag == self.etag);
        let mut response = if is_known { NOT_MODIFIED.into_response() } else { Body::from(self.text).into_response() };
        let headers = response.headers_mut();
        let mut set = |name: HeaderName, value: HeaderValue| headers.insert(name, value);
        set(header::CONTENT_TYPE, HeaderValue::from_static(self.kind));
        set(header::CONTENT_SECURITY_POLICY, POLICY);
        set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        set(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        // A browser asks every time whether its copy is still the server's: an update is seen at once.
        set(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        set(header::ETAG, HeaderValue::from_str(&self.etag).expect("hexadecimal digits in quotation marks"));
        response
    }
}

/// Sends the page.
pub async fn index(headers: HeaderMap) -> Response {
    FILES.first().expect("the page is the first file").sent(&headers)
}

/// Sends one of the page's files.
///
/// # Errors
/// [`ApiError::UnknownRoute`].
pub async fn file(Path(name): Path<String>, headers: HeaderMap) -> Result<Response, ApiError> {
    let found = FILES.iter().find(|file| file.name == name);
    found.map(|file| file.sent(&headers)).ok_or_else(|| ApiError::UnknownRoute(format!("/page/{name}")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::PathBuf;

    use serde_json::{Map, Value};

    use super::*;
    use crate::verify::Check;

    fn text(name: &str) -> &'static str {
        FILES.iter().find(|file| file.name == name).unwrap().text
    }

    #[test]
    fn every_file_of_the_folder_is_served() {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/page");
        let present: BTreeSet<String> =
            folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        let served: BTreeSet<String> = FILES.iter().map(|file| file.name.to_owned()).collect();
        assert_eq!(present, served);
    }

    #[test]
    fn the_page_names_no_other_server_and_has_no_script_of_its_own() {
        let addresses = regex::Regex::new(r#"(?:src|href)="[^"]*//|@import|\burl\(|import\(?\s*["']https?:"#).unwrap();
        for file in FILES.iter() {
            assert_eq!(addresses.find(file.text).map(|found| found.as_str()), None, "{}", file.name);
            assert!(!file.text.contains("innerHTML"), "{}: texts of a model must not become markup", file.name);
        }
        let inline = regex::Regex::new(r"<style|<script>|\s(style|on\w+)=").unwrap();
        assert_eq!(inline.find(text("index.html")).map(|found| found.as_str()), None, "the policy forbids it");
    }

    #[test]
    fn the_kinds_of_checks_that_the_page_offers_are_the_verifiers() {
        let kinds: Map<String, Value> = serde_json::from_str(text("kinds.json")).unwrap();
        assert!(kinds.len() >= 20, "{}", kinds.len());
        for (id, kind) in kinds {
            let kwargs = kind["kwargs"].as_object().unwrap();
            assert!(Check::new(&id, kwargs.clone()).is_ok(), "{id}: {kwargs:?}");
            assert!(kind["name"].as_str().is_some_and(|name| !name.is_empty()), "{id}");
        }
    }
}
