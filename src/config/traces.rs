//! Where traces of requests are sent.

use clap::Args;
use clap::builder::FalseyValueParser;

/// Where traces of requests are sent.
#[derive(Args, Clone, Debug, Default)]
pub struct TraceArgs {
    /// Send OpenTelemetry traces to this collector by OTLP over HTTP, such as `http://127.0.0.1:4318`; /v1/traces is appended. The
    /// variables OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER and OTEL_BSP_* apply
    #[arg(long, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL", value_parser = endpoint)]
    pub otlp_endpoint: Option<String>,
    /// Put prompts and answers into the traces
    #[arg(
        long, env = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", value_parser = FalseyValueParser::new(),
        action = clap::ArgAction::SetTrue
    )]
    pub otlp_content: bool,
}

/// Reads a base address, without a slash at its end. An empty one is what a variable that is set to nothing means.
fn endpoint(text: &str) -> Result<String, String> {
    let text = text.trim().trim_end_matches('/');
    let is_web = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    match reqwest::Url::parse(text) {
        Ok(url) if is_web(&url) => Ok(text.to_owned()),
        _ if text.is_empty() => Ok(String::new()),
        _ => Err(format!("expected an address such as http://127.0.0.1:4318, got {text:?}")),
    }
}

impl TraceArgs {
    /// The address that traces are sent to, if there is one.
    pub fn address(&self) -> Option<String> {
        let base = self.otlp_endpoint.as_deref().filter(|base| !base.is_empty())?;
        Some(format!("{base}/v1/traces"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_web_address() {
        for (text, expected) in [
            ("http://127.0.0.1:4318", Some("http://127.0.0.1:4318/v1/traces")),
            (
                " https://cloud.example.com/api/public/otel/ ",
                Some("https://cloud.example.com/api/public/otel/v1/traces"),
            ),
            ("", None),
        ] {
            let args = TraceArgs { otlp_endpoint: Some(endpoint(text).unwrap()), otlp_content: false };
            assert_eq!(args.address().as_deref(), expected, "{text}");
        }
        for text in ["127.0.0.1:4318", "grpc://h:4317", "http://", "collector"] {
            assert!(endpoint(text).unwrap_err().contains("expected an address such as"), "{text}");
        }
    }
}
