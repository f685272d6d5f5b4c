//! `/healthz`, `/readyz` and `/metrics` of a role that does not serve the API.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use axum::{Router, http::StatusCode, routing::get};
use infertrace_runtime::log::Log;
use tokio_util::sync::CancellationToken;

/// Serves until `stop`.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    log: Arc<dyn Log>,
    exposition: Arc<dyn Fn() -> String + Send + Sync>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ready = move || {
        let log = log.clone();
        async move {
            match log.ready().await {
                Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
                Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            }
        }
    };
    let metrics = move || async move {
        let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        ([(axum::http::header::CONTENT_TYPE, content_type)], exposition())
    };
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics));
    axum::serve(listener, router)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
        .context("serving health and metrics")
}

/// Binds `address`.
pub(crate) async fn bind(address: &str) -> anyhow::Result<tokio::net::TcpListener> {
    let parsed: SocketAddr =
        address.parse().with_context(|| format!("ops_addr {address:?} is not HOST:PORT"))?;
    tokio::net::TcpListener::bind(parsed).await.with_context(|| format!("cannot listen on {parsed}"))
}
