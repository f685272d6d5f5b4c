//! `PUT` and `DELETE /api/v1/insights/{id}/triage`: what people decided about an insight.
//!
//! A decision is a record of the triage topic; every node reads it back from there, and so does the delivery. Invariant:
//! an answer with status 200 means that the decision is durable, not that every node has read it yet.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, RawQuery, State, rejection::BytesRejection},
    http::HeaderMap,
    response::Response,
};
use infertrace_runtime::log::{Log, LogError, Millis, NewRecord, Offset, TopicPartition};
use infertrace_schemas::{
    avro::{SchemaIds, Standing, Triage, TriageStatus},
    topics,
};
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::{App, error::ApiError, insights::insight_json, params, respond};
use crate::insights::store::Held;

/// Bytes of a body at most.
pub(super) const MOST_BODY_BYTES: usize = 16 << 10;
/// Where every decision stands, so that they have one order.
const PARTITION: u32 = 0;
const MOST_AUTHOR_CHARS: usize = 200;
const MOST_NOTE_CHARS: usize = 2_000;
/// A mute ends: what is to be silent for longer is resolved, or its detector set otherwise.
const LONGEST_MUTE_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// A decision as a client sends it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Decision {
    status: Status,
    muted_until_unix_nano: Option<String>,
    author: String,
    note: String,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
enum Status {
    #[default]
    #[serde(rename = "OPEN")]
    Open,
    #[serde(rename = "ACKNOWLEDGED")]
    Acknowledged,
    #[serde(rename = "RESOLVED")]
    Resolved,
}

const fn status_name(status: TriageStatus) -> &'static str {
    match status {
        TriageStatus::Open => "OPEN",
        TriageStatus::Acknowledged => "ACKNOWLEDGED",
        TriageStatus::Resolved => "RESOLVED",
    }
}

const fn standing_name(standing: Standing) -> &'static str {
    match standing {
        Standing::Open => "OPEN",
        Standing::Acknowledged => "ACKNOWLEDGED",
        Standing::Muted => "MUTED",
        Standing::Resolved => "RESOLVED",
    }
}

/// The decision about an insight, and where that leaves it; null where there is none.
pub(super) fn triage_json(held: &Held, now_ms: i64) -> Json {
    let Some(triage) = &held.triage else { return Json::Null };
    json!({
        "status": status_name(triage.status),
        "standing": standing_name(held.standing(now_ms)),
        "muted_until_unix_nano": triage.muted_until_unix_nanos.map(|until| until.to_string()),
        "severity": super::insights::severity_name(triage.severity),
        "decided_unix_nano": triage.decided_unix_nanos.to_string(),
        "author": triage.author,
        "note": triage.note,
    })
}

impl Decision {
    fn read(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map_err(|error| ApiError::bad_body(error.to_string()))
    }

    /// The record about `held`, decided at `now_ns`.
    fn about(self, held: &Held, now_ns: i64) -> Result<Triage, ApiError> {
        let bound = |name: &str, text: &str, most: usize| {
            if text.chars().count() > most {
                return Err(ApiError::bad_body(format!("{name} has more than {most} characters")));
            }
            Ok(())
        };
        bound("author", &self.author, MOST_AUTHOR_CHARS)?;
        bound("note", &self.note, MOST_NOTE_CHARS)?;
        let until = self.muted_until_unix_nano.map(|text| mute_end(&text, now_ns)).transpose()?;
        Ok(Triage {
            insight_id: held.insight.id.clone(),
            status: match self.status {
                Status::Open => TriageStatus::Open,
                Status::Acknowledged => TriageStatus::Acknowledged,
                Status::Resolved => TriageStatus::Resolved,
            },
            muted_until_unix_nanos: until,
            severity: held.insight.severity,
            decided_unix_nanos: now_ns,
            author: self.author,
            note: self.note,
        })
    }
}

fn mute_end(text: &str, now_ns: i64) -> Result<i64, ApiError> {
    let name = "muted_until_unix_nano";
    let until: i64 = text.parse().map_err(|_| {
        ApiError::bad_body(format!("{name} is not a decimal string of nanoseconds since 1970"))
    })?;
    if until <= now_ns {
        return Err(ApiError::bad_body(format!("{name} is not after {now_ns}, the server's time")));
    }
    if until.saturating_sub(now_ns) / 1_000_000 > LONGEST_MUTE_MS {
        return Err(ApiError::bad_body(format!(
            "{name} is more than 30 days ahead; resolve the insight instead"
        )));
    }
    Ok(until)
}

pub(super) async fn put(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    params::Params::parse(query.as_deref(), &[], &[])?;
    let (log, held) = target(&app, &id)?;
    let body = body.map_err(|rejection| ApiError::bad_body(rejection.body_text()))?;
    let triage = Decision::read(&body)?.about(&held, app.clock.now_unix_nanos())?;
    let payload =
        SchemaIds::current::<Triage>().encode(&triage).map_err(|error| ApiError::internal(&error))?;
    decide(&app, log, &headers, &held, Some((triage, payload.into()))).await
}

pub(super) async fn delete(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    params::Params::parse(query.as_deref(), &[], &[])?;
    let (log, held) = target(&app, &id)?;
    decide(&app, log, &headers, &held, None).await
}

/// Where decisions go, and the insight that this one is about.
fn target<'a>(app: &'a App, id: &str) -> Result<(&'a Arc<dyn Log>, Arc<Held>), ApiError> {
    if !app.config.insights.triage {
        return Err(ApiError::no_triage("query.insights.triage is off"));
    }
    let log = app.log.as_ref().ok_or_else(|| ApiError::no_triage("this node reads no log"))?;
    let held = app.insights.read().get(id).ok_or_else(|| ApiError::no_insight(id))?;
    Ok((log, held))
}

/// Writes a decision, or with `None` takes the last one back, and answers with the insight as it then is.
async fn decide(
    app: &App,
    log: &Arc<dyn Log>,
    headers: &HeaderMap,
    held: &Held,
    decision: Option<(Triage, Bytes)>,
) -> Result<Response, ApiError> {
    let (triage, payload) = decision.unzip();
    let now_ms = app.clock.now_unix_millis();
    let record = NewRecord {
        to: TopicPartition::new(topics::TRIAGE, PARTITION),
        key: Some(Bytes::copy_from_slice(held.insight.id.as_bytes())),
        payload,
        headers: Vec::new(),
        timestamp: Millis(now_ms),
    };
    let offset = append(log.as_ref(), record).await.map_err(|error| refusal(&error))?;
    let status = triage.as_ref().map_or("none", |triage| status_name(triage.status));
    tracing::info!(insight = held.insight.id, status, offset = offset.0, "a person decided about an insight");
    let decided = held.decided(offset.0, triage.map(Arc::new));
    let answer = insight_json(&decided, now_ms).to_string();
    Ok(respond::json(headers, answer.into_bytes(), app.config.limits.max_response_bytes).await)
}

async fn append(log: &dyn Log, record: NewRecord) -> Result<Offset, LogError> {
    log.append(record)?.await
}

fn refusal(error: &LogError) -> ApiError {
    match error {
        LogError::Ambiguous(_) => {
            ApiError::log_away("whether the decision was written is not known; look before deciding again")
        }
        error if error.is_retriable() => {
            tracing::warn!(%error, "a decision about an insight could not be written");
            ApiError::log_away("the log takes no records now; the decision was not written")
        }
        error => ApiError::internal(error),
    }
}
