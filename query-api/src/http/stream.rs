//! `GET /api/v1/stream/traces`: summaries of traces as their spans arrive, as server-sent events.
//!
//! [`Tail`] works only while somebody listens and summarises each trace once for all listeners. A trace is sent
//! again when it grows: clients replace what they have by `trace_id`. Invariants: the buffer is bounded; who
//! reads too slowly is told how many events were missed, and so is everyone when too many traces come at once.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::{RawQuery, State},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use infertrace_analytics::cost::Pricer;
use serde_json::{Value as Json, json};
use tokio::sync::{Notify, OwnedSemaphorePermit, broadcast};
use tokio_util::sync::CancellationToken;

use super::{App, error::ApiError, params};
use crate::{
    hot::{HotTier, Touched, TraceId},
    metrics::HttpMetrics,
    store::{Part, Tier},
    trace::{assemble, render},
};

const BUFFERED_EVENTS: usize = 1_024;
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);
pub(super) const RECONNECT: Duration = Duration::from_secs(2);
/// Spans of a trace that its live summary looks at.
const MOST_SPANS: usize = 10_000;

/// One event for every listener.
#[derive(Clone, Debug)]
enum TailEvent {
    Trace { summary: Arc<Json> },
    Skipped(usize),
}

/// The live end of the hot tier.
pub(crate) struct Tail {
    events: broadcast::Sender<TailEvent>,
    wanted: Notify,
    pricer: Arc<Pricer>,
}

impl Tail {
    pub(crate) fn new(pricer: Arc<Pricer>) -> Self {
        Self { events: broadcast::channel(BUFFERED_EVENTS).0, wanted: Notify::new(), pricer }
    }

    fn listen(&self) -> broadcast::Receiver<TailEvent> {
        let receiver = self.events.subscribe();
        self.wanted.notify_one();
        receiver
    }

    /// Summarises for listeners until `shutdown`.
    pub(crate) async fn run(&self, hot: Arc<dyn HotTier>, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.wanted.notified() => {}
            }
            let mut touched = hot.subscribe();
            while self.events.receiver_count() > 0 {
                let received = tokio::select! {
                    () = shutdown.cancelled() => return,
                    received = touched.recv() => received,
                };
                match received {
                    Ok(touched) => self.send(hot.as_ref(), &touched).await,
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        let _ = self.events.send(TailEvent::Skipped(missed as usize));
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        }
    }

    async fn send(&self, hot: &dyn HotTier, touched: &Touched) {
        let Ok(view) = hot.view().await else { return };
        for id in &touched.ids {
            let Ok(rows) = view.lookup(&[*id]).await else { return };
            let parts: Vec<Part> = rows.into_iter().map(|rows| Part { tier: Tier::Hot, rows }).collect();
            if let Some(summary) = summarise(id, &parts, &self.pricer) {
                // Nobody listening any more is fine.
                let _ = self.events.send(TailEvent::Trace { summary: Arc::new(summary) });
            }
        }
        if touched.skipped > 0 {
            let _ = self.events.send(TailEvent::Skipped(touched.skipped));
        }
    }
}

fn summarise(id: &TraceId, parts: &[Part], pricer: &Pricer) -> Option<Json> {
    let trace = assemble(parts, MOST_SPANS).ok()?;
    Some(Json::Object(render::listed(id, &trace, parts, pricer)))
}

/// What a listener wants to see.
struct Wanted {
    service: Option<String>,
    model: Option<String>,
    status: Option<String>,
}

impl Wanted {
    fn wants(&self, summary: &Json) -> bool {
        let lists = |key: &str, name: &str| {
            summary[key]
                .as_array()
                .is_some_and(|names| names.iter().any(|known| known.as_str() == Some(name)))
        };
        self.service.as_deref().is_none_or(|service| lists("services", service))
            && self.model.as_deref().is_none_or(|model| lists("models", model))
            && self.status.as_deref().is_none_or(|status| summary["status"].as_str() == Some(status))
    }
}

/// Ends the stream's permit and gauge with the stream.
pub(super) struct Open {
    _permit: OwnedSemaphorePermit,
    metrics: HttpMetrics,
}

impl Open {
    /// One more stream, unless there are too many.
    pub(super) fn new(app: &App) -> Result<Self, ApiError> {
        let permit =
            Arc::clone(&app.streams).try_acquire_owned().map_err(|_| ApiError::busy("live streams"))?;
        app.metrics.streams.inc();
        Ok(Self { _permit: permit, metrics: app.metrics.clone() })
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.metrics.streams.dec();
    }
}

pub(super) async fn stream(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let query = params::Params::parse(query.as_deref(), &["service", "model", "status"], &[])?;
    let status = match query.get("status").map(str::to_ascii_uppercase) {
        Some(status) if !matches!(status.as_str(), "OK" | "ERROR" | "UNSET") => {
            return Err(ApiError::bad_parameter("status", "expected ok, error or unset"));
        }
        status => status,
    };
    let own = |name| query.get(name).map(str::to_owned);
    let wanted = Wanted { service: own("service"), model: own("model"), status };
    let open = Open::new(&app)?;
    let events = events(app.tail.listen(), wanted, open);
    let stopped = app.shutdown.clone().cancelled_owned();
    let first = stream::once(async { Ok(Event::default().event("ready").retry(RECONNECT).data("{}")) });
    let events = first.chain(events).take_until(stopped);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn events(
    receiver: broadcast::Receiver<TailEvent>,
    wanted: Wanted,
    open: Open,
) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold((receiver, wanted, open), |(mut receiver, wanted, open)| async move {
        loop {
            let event = match receiver.recv().await {
                Ok(TailEvent::Trace { summary }) if wanted.wants(&summary) => {
                    Event::default().event("trace").data(summary.to_string())
                }
                Ok(TailEvent::Trace { .. }) => continue,
                Ok(TailEvent::Skipped(traces)) => {
                    Event::default().event("skipped").data(json!({"traces": traces}).to_string())
                }
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    Event::default().event("lagged").data(json!({"missed": missed}).to_string())
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            };
            return Some((Ok(event), (receiver, wanted, open)));
        }
    })
}
