//! `GET /api/v1/insights/stream`: insights as they open, change and resolve and as people decide about them, as server-sent events.
//!
//! An event's id names positions in the topic, so a client that reconnects with `Last-Event-ID`, to this node or another,
//! gets the latest state of everything that changed meanwhile, and then what comes. Invariants: nothing between is lost;
//! who reads too slowly is not dropped but reads the store again, so only intermediate revisions are left out.

use std::{collections::VecDeque, convert::Infallible, sync::Arc};

use axum::{
    extract::{RawQuery, State},
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, StreamExt, stream};
use infertrace_runtime::clock::Clock;
use tokio::sync::broadcast;

use super::{
    App,
    error::ApiError,
    insights, params,
    stream::{KEEP_ALIVE, Open, RECONNECT},
};
use crate::insights::{
    Insights,
    store::{Held, InsightFilter, Positions},
};

const FILTERS: &[&str] = &["model", "tenant", "kind", "severity"];

/// One listener.
struct Listener {
    insights: Arc<Insights>,
    clock: Arc<dyn Clock>,
    filter: InsightFilter,
    /// What the listener knows once the backlog is sent.
    known: Positions,
    backlog: VecDeque<Arc<Held>>,
    changes: broadcast::Receiver<Arc<Held>>,
    _open: Open,
}

impl Listener {
    fn new(app: &App, filter: InsightFilter, since: Option<Positions>, open: Open) -> Self {
        let (insights, clock) = (Arc::clone(&app.insights), Arc::clone(&app.clock));
        let (missed, known, changes) = insights.follow(since.as_ref());
        Self { insights, clock, filter, known, backlog: missed.into(), changes, _open: open }
    }

    fn event(&self, held: &Held) -> Event {
        let event = Event::default()
            .event("insight")
            .data(insights::insight_json(held, self.clock.now_unix_millis()).to_string());
        // Events of a backlog are not in the topic's order, so only its last one stands for all of it.
        if self.backlog.is_empty() { event.id(self.known.to_text()) } else { event }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(held) = self.backlog.pop_front() {
                if self.filter.matches(&held) {
                    return Some(self.event(&held));
                }
            }
            match self.changes.recv().await {
                Ok(held) => {
                    self.known.pass_change(&held);
                    if self.filter.matches(&held) {
                        return Some(self.event(&held));
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    let (missed, known, changes) = self.insights.follow(Some(&self.known));
                    (self.backlog, self.known, self.changes) = (missed.into(), known, changes);
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Positions>, ApiError> {
    let Some(text) = headers.get("last-event-id").and_then(|text| text.to_str().ok()) else {
        return Ok(None);
    };
    let positions = Positions::parse(text)
        .ok_or_else(|| ApiError::bad_parameter("Last-Event-ID", "not an event id of this stream"))?;
    Ok(Some(positions))
}

pub(super) async fn stream(
    State(app): State<Arc<App>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let query = params::Params::parse(query.as_deref(), FILTERS, &[])?;
    let filter = insights::names(&query)?;
    let since = last_event_id(&headers)?;
    let open = Open::new(&app)?;
    let listener = Listener::new(&app, filter, since, open);
    let mut ready = Event::default().event("ready").retry(RECONNECT).data("{}");
    if listener.backlog.is_empty() {
        ready = ready.id(listener.known.to_text());
    }
    let first = stream::once(async { Ok(ready) });
    let stopped = app.shutdown.clone().cancelled_owned();
    let events = first.chain(events(listener)).take_until(stopped);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn events(listener: Listener) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok(event), listener))
    })
}
