//! The way of spans to the collector: batches by OTLP over HTTP, sent by the server's own HTTP client.

use std::time::Duration;

use anyhow::Context;
use async_trait::async_trait;
use axum::body::Bytes;
use axum::http::{Request, Response};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;

/// Time to send one batch.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Collects spans and sends them to `address` in batches.
pub(super) fn provider(address: &str) -> anyhow::Result<SdkTracerProvider> {
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let sender = Sender { client, runtime: Handle::try_current().context("no runtime is there to send them")? };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(sender)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(address)
        .build()?;
    let resource = Resource::builder();
    // A name in the environment has precedence.
    let resource = match std::env::var_os("OTEL_SERVICE_NAME") {
        Some(_) => resource,
        None => resource.with_service_name("spar"),
    };
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build())
}

/// Batches are made by a thread outside of the runtime, in which the client's connections live.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let send = async move {
            let response = client.execute(request.try_into()?).await?;
            let mut answer = Response::builder().status(response.status());
            if let Some(headers) = answer.headers_mut() {
                headers.clone_from(response.headers());
            }
            Ok::<_, HttpError>(answer.body(response.bytes().await?)?)
        };
        self.runtime.spawn(send).await?
    }
}
