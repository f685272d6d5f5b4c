//! The HTTP API: routes, the guard around them and what they share.
//!
//! Invariants: every error is a problem document; a request holds a permit while it works and gives it back
//! when its client leaves; nothing here waits without a time-out but the live streams.

mod aggregates;
mod assets;
mod compat;
mod error;
mod insight_stream;
mod insights;
mod jaeger;
mod mcp;
mod names;
mod operations;
mod params;
mod prometheus;
mod respond;
mod search;
mod server;
mod stream;
mod tempo;
mod traces;
mod triage;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderValue, Method, Uri, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use infertrace_analytics::cost::Pricer;
use infertrace_runtime::{clock::Clock, log::Log};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use server::serve;
pub(crate) use stream::Tail;

use crate::{Readiness, config::Config, insights::Insights, metrics::HttpMetrics, store::Store};
use error::ApiError;

/// Where the live streams are.
const TRACE_STREAM: &str = "/api/v1/stream/traces";
const INSIGHT_STREAM: &str = "/api/v1/insights/stream";

/// Below these every path is one of an API, never a page.
const APIS: [&str; 4] = ["/api/", "/jaeger/", "/prometheus/", "/tempo/"];

/// Every route and what answers it.
macro_rules! routes {
    ($($path:literal => $handler:expr,)*) => {
        /// Paths of the API, as the description names them.
        #[must_use]
        pub fn paths() -> &'static [&'static str] {
            &[$($path),*]
        }

        fn api() -> Router<Arc<App>> {
            Router::new()$(.route($path, $handler))*
        }
    };
}

routes! {
    "/api/v1/traces" => get(search::search),
    "/api/v1/traces/{trace_id}" => get(traces::trace),
    "/api/v1/services" => get(names::services),
    "/api/v1/models" => get(names::models),
    "/api/v1/status" => get(operations::status),
    "/api/v1/stream/traces" => get(stream::stream),
    "/api/v1/insights" => get(insights::list),
    "/api/v1/insights/stream" => get(insight_stream::stream),
    "/api/v1/insights/{id}" => get(insights::one),
    "/api/v1/insights/{id}/triage" => put(triage::put)
        .delete(triage::delete)
        .layer(DefaultBodyLimit::max(triage::MOST_BODY_BYTES)),
    "/api/v1/baselines" => get(aggregates::baselines),
    "/api/v1/rollups" => get(aggregates::rollups),
    "/healthz" => get(operations::healthz),
    "/readyz" => get(operations::readyz),
    "/metrics" => get(operations::metrics),
    "/openapi.json" => get(operations::openapi),
}

/// What handlers share.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) store: Store,
    /// Where decisions about insights go.
    pub(crate) log: Option<Arc<dyn Log>>,
    pub(crate) insights: Arc<Insights>,
    pub(crate) pricer: Arc<Pricer>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) readiness: Readiness,
    pub(crate) exposition: Arc<dyn Fn() -> String + Send + Sync>,
    pub(crate) metrics: HttpMetrics,
    pub(crate) tail: Tail,
    pub(crate) requests: Semaphore,
    pub(crate) searches: Semaphore,
    pub(crate) streams: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
}

/// The whole service as a router.
pub(crate) fn router(app: Arc<App>) -> Router {
    api()
        .route(mcp::PATH, post(mcp::post).layer(DefaultBodyLimit::max(mcp::MOST_BODY_BYTES)))
        .nest(jaeger::PREFIX, jaeger::router())
        .nest(prometheus::PREFIX, prometheus::router())
        .nest(tempo::PREFIX, tempo::router())
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .fallback(fallback)
        .layer(from_fn_with_state(Arc::clone(&app), guard))
        .with_state(app)
}

/// Pages and files of the UI; unknown paths of the API.
async fn fallback(method: Method, uri: Uri, request: Request) -> Response {
    if method != Method::GET && method != Method::HEAD {
        return ApiError::wrong_method().into_response();
    }
    let path = uri.path();
    if path == "/api" || APIS.iter().any(|api| path.starts_with(api)) {
        return ApiError::no_route(path).into_response();
    }
    assets::embedded().serve(path, request.headers())
}

/// Counts, limits and times every request.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("ui", |path| path.as_str()).to_owned();
    let begun = Instant::now();
    let mut response = guarded(&app, &route, request, next).await;
    let status = response.status().as_u16().to_string();
    app.metrics.requests.get_or_create(&[("route", route.clone()), ("status", status)]).inc();
    app.metrics.seconds.get_or_create(&[("route", route)]).observe(begun.elapsed().as_secs_f64());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn guarded(app: &App, route: &str, request: Request, next: Next) -> Response {
    // Health must be told under load too, and a stream has a limit of its own.
    if matches!(route, "/healthz" | "/readyz" | "/metrics" | "ui" | TRACE_STREAM | INSIGHT_STREAM) {
        return next.run(request).await;
    }
    let Ok(_permit) = app.requests.try_acquire() else {
        return ApiError::busy("requests").into_response();
    };
    let timeout_ms = app.config.limits.request_timeout_ms;
    match tokio::time::timeout(Duration::from_millis(timeout_ms), next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::timed_out(timeout_ms).into_response(),
    }
}
