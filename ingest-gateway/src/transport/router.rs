//! Which handler answers which path. Both ports serve all of them.

use std::sync::Arc;

use http::{Request, Response, header::CONTENT_TYPE};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::{
    body::Body,
    grpc::{self, Call},
    http as otlp_http, stream,
};
use crate::{error::Refusal, ingest::Ingest, parse::json::Signal};

const LOGS: &str = "InferTrace takes traces and metrics; OTLP logs are not implemented";

/// Sends requests to their handlers.
#[derive(Clone)]
pub(crate) struct Router {
    ingest: Arc<Ingest>,
    /// Health and reflection.
    services: axum::Router,
}

impl Router {
    pub(crate) const fn new(ingest: Arc<Ingest>, services: axum::Router) -> Self {
        Self { ingest, services }
    }

    pub(super) fn ingest(&self) -> &Ingest {
        &self.ingest
    }

    /// Answers one request; `stop` is cancelled when its connection is to close.
    pub(super) async fn route(self, request: Request<Incoming>, stop: CancellationToken) -> Response<Body> {
        let ingest = self.ingest;
        match request.uri().path() {
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
                grpc::unary(ingest, Call::OtlpTraces, request).await
            }
            "/infertrace.v1.IngestService/Export" => grpc::unary(ingest, Call::Native, request).await,
            "/infertrace.v1.IngestService/ExportStream" => stream::export(ingest, request, stop),
            "/infertrace.v1.IngestService/GetPartitionMap" => grpc::partition_map(ingest, request).await,
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
                grpc::unary(ingest, Call::OtlpMetrics, request).await
            }
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => {
                grpc::refuse(&ingest, &Refusal::Unimplemented(LOGS.into()))
            }
            "/v1/traces" => otlp_http::export(ingest, Signal::Traces, request).await,
            "/v1/metrics" => otlp_http::export(ingest, Signal::Metrics, request).await,
            "/v1/logs" => {
                otlp_http::not_served(&ingest, request.headers(), &Refusal::Unimplemented(LOGS.into()))
            }
            "/healthz" => otlp_http::healthz(),
            "/readyz" => otlp_http::readyz(ingest).await,
            _ if is_grpc(&request) => {
                let request = request.map(axum::body::Body::new);
                match self.services.oneshot(request).await {
                    Ok(response) => response.map(Body::Axum),
                    Err(never) => match never {},
                }
            }
            path => {
                let refusal =
                    Refusal::NotFound(format!("nothing is served at {path}; OTLP goes to /v1/traces"));
                otlp_http::not_served(&ingest, request.headers(), &refusal)
            }
        }
    }
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}
