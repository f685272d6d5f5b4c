//! The warm tier: spans of the last days in ClickHouse, as the sink put them there.
//!
//! [`state`] is what it holds, by offsets and days, as [`look`] finds it; [`sql`] says what to ask, [`rows`] makes columns of answers. The
//! sink and this reader share tables and, in the log, the position of the sink's group; neither knows the other.
//!
//! Invariants: a server that is away is asked by [`Warm::follow`] alone, so it costs no request more than one time-out,
//! and is back within a second of its return; what it held meanwhile is named in answers unless other tiers hold it.

mod look;
mod rows;
pub(crate) mod sql;
pub(crate) mod state;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{AsArray, BooleanArray, RecordBatch},
    compute::filter_record_batch,
    datatypes::{Int32Type, Int64Type},
    error::ArrowError,
};
use infertrace_runtime::{
    clickhouse::{Client, Error},
    clock::Clock,
    log::Log,
};
use infertrace_schemas::columns::{conform, name};
use parking_lot::RwLock;
use serde_json::{Value as Json, json};
use tokio::{runtime::Handle, sync::Mutex};
use tokio_util::sync::CancellationToken;

use self::{
    look::Progress,
    sql::{Condition, Span, Statement, Statements},
    state::WarmState,
};
use crate::{
    config::WarmConfig,
    hot::{Coverage, Rows, TraceId},
    lake::{contained, lookup::Columns},
    metrics::WarmMetrics,
};

/// How often a server that is away is asked whether it is back.
const AWAY_INTERVAL: Duration = Duration::from_millis(500);
/// The ClickHouse to read, which the sink fills.
#[derive(Clone, Debug)]
pub struct WarmSource {
    /// Speaks to the server; its time-out bounds searches.
    pub client: Client,
    /// Database: letters, digits and `_`.
    pub database: String,
    /// The sink's consumer group on the spans topic: its position says what is in the tables.
    pub group: String,
    /// Days after which the tables drop spans; 0 for never.
    pub ttl_days: u32,
}

/// What is known of the server.
#[derive(Clone, Debug, Default)]
struct Known {
    state: Arc<WarmState>,
    /// Offsets that the sink says it inserted, whether the server answers or not; `None` where it does not say.
    inserted: Option<Coverage>,
    /// Why it is not asked; `None` when it answers.
    away: Option<String>,
    was_asked: bool,
}

/// The reader of the warm tier.
pub struct Warm {
    source: WarmSource,
    statements: Statements,
    lookup_timeout: Duration,
    log: Option<Arc<dyn Log>>,
    clock: Arc<dyn Clock>,
    runtime: Handle,
    metrics: WarmMetrics,
    known: RwLock<Known>,
    progress: Mutex<Progress>,
}

impl Warm {
    /// A reader that knows nothing until it is followed or asked, and decodes on `runtime`. Without a log nothing is
    /// relied on: every tier is read.
    #[must_use]
    pub fn new(
        source: WarmSource,
        config: &WarmConfig,
        log: Option<Arc<dyn Log>>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
        metrics: WarmMetrics,
    ) -> Self {
        let timeout_s = config.scan_timeout_ms.div_ceil(1_000).max(1);
        let statements = Statements { database: source.database.clone(), timeout_s };
        let known = Known { away: Some("it was not asked yet".to_owned()), ..Known::default() };
        Self {
            statements,
            lookup_timeout: Duration::from_millis(config.lookup_timeout_ms),
            source,
            log,
            clock,
            runtime,
            metrics,
            known: RwLock::new(known),
            progress: Mutex::default(),
        }
    }

    /// Which server it is, for answers.
    #[must_use]
    pub fn name(&self) -> String {
        format!("ClickHouse at {}", self.source.client.server())
    }

    /// Why it is not asked, if it is not.
    #[must_use]
    pub fn away(&self) -> Option<String> {
        self.known.read().away.clone()
    }

    /// Figures for the status page.
    #[must_use]
    pub fn status(&self) -> Json {
        let known = self.known.read();
        let partitions = known.state.coverage.0.iter().map(|(partition, held)| {
            json!({"partition": partition, "from_offset": held.start, "next_offset": held.end})
        });
        json!({
            "server": self.source.client.server(),
            "database": self.source.database,
            "days": known.state.days.len(),
            "spans": known.state.rows(),
            "partitions": partitions.collect::<Vec<_>>(),
            "error": known.away,
        })
    }

    /// What the tier holds, or why it cannot be asked and the offsets that are out of reach by that.
    pub(crate) fn view(&self) -> Result<Arc<WarmState>, Away> {
        let known = self.known.read();
        match &known.away {
            None => Ok(Arc::clone(&known.state)),
            Some(reason) => Err(Away { reason: reason.clone(), held: known.inserted.clone() }),
        }
    }

    /// Looks at the server, unless that was ever done.
    pub(crate) async fn look_first(&self) {
        if self.known.read().was_asked {
            return;
        }
        let mut progress = self.progress.lock().await;
        if !self.known.read().was_asked {
            self.refresh(&mut progress).await;
        }
    }

    /// Looks at the server regularly until `stop`, sooner while it is away.
    pub(crate) async fn follow(&self, interval: Duration, stop: &CancellationToken) {
        let mut was_away = false;
        loop {
            self.refresh(&mut *self.progress.lock().await).await;
            let away = self.known.read().away.clone();
            match (&away, was_away) {
                (Some(reason), false) => {
                    tracing::warn!(server = self.source.client.server(), reason, "the warm tier is away")
                }
                (None, true) => tracing::info!(server = self.source.client.server(), "the warm tier is back"),
                _ => {}
            }
            was_away = away.is_some();
            let deadline = Instant::now() + interval;
            // A request may find it away at any time.
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(AWAY_INTERVAL.min(left)) => {}
                }
                if self.is_away() || Instant::now() >= deadline {
                    break;
                }
            }
        }
    }

    /// # Errors
    /// Why it is not asked.
    fn present(&self) -> Result<(), String> {
        self.away().map_or(Ok(()), Err)
    }

    fn is_away(&self) -> bool {
        self.known.read().away.is_some()
    }

    /// The rows of `ids`, except those in `held`, with all columns or those named.
    ///
    /// # Errors
    /// A sentence; a server that gave no answer is not asked again until it is back.
    pub(crate) async fn lookup(
        &self,
        ids: &[TraceId],
        held: &Coverage,
        columns: &Columns,
    ) -> Result<Vec<Rows>, String> {
        self.present()?;
        let found = tokio::time::timeout(self.lookup_timeout, self.find(ids, held, columns)).await;
        found.unwrap_or_else(|_| {
            Err(self
                .gone(format!("it did not answer a look-up within {} ms", self.lookup_timeout.as_millis())))
        })
    }

    async fn find(&self, ids: &[TraceId], held: &Coverage, columns: &Columns) -> Result<Vec<Rows>, String> {
        let minutes = self.numbers("the minutes of traces", &self.statements.minutes(ids)).await?;
        let minutes: BTreeSet<i64> = minutes.iter().filter_map(|row| row.first().copied()).collect();
        if minutes.is_empty() {
            return Ok(Vec::new());
        }
        let minutes: Vec<i64> = minutes.into_iter().collect();
        let asked = match columns {
            Some(columns) => columns.as_ref().clone(),
            None => name::ALL.iter().copied().filter(|column| *column != name::TOKENS).collect(),
        };
        let spans = self.statements.rows("spans", &asked, ids, &minutes);
        let tokens = self.statements.rows("tokens", &rows::token_columns(), ids, &minutes);
        let timelines = async {
            if columns.is_some() { Ok(None) } else { self.batch("timelines of traces", &tokens).await }
        };
        let (spans, timelines) = tokio::try_join!(self.batch("spans of traces", &spans), timelines)?;
        let Some(spans) = spans else { return Ok(Vec::new()) };
        let (held, is_whole) = (held.clone(), columns.is_none());
        let decode = move || {
            let mut spans = outside(&rows::of_spans(&spans)?, &held)?;
            if is_whole {
                spans = conform(&rows::with_tokens(&spans, timelines.as_ref())?)?;
            }
            Ok::<_, ArrowError>(spans)
        };
        let work = async move { decode().map_err(|error| format!("its rows are not as expected: {error}")) };
        let batch = contained(&self.runtime, work).await?;
        let rows: Vec<u32> = (0..batch.num_rows() as u32).collect();
        Ok(if rows.is_empty() { Vec::new() } else { vec![Rows { batch, rows }] })
    }

    /// Ids and earliest starts of traces that certainly satisfy `condition` in the range, at most `limit`, as a batch of two columns.
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub(crate) async fn candidates(
        &self,
        condition: &Condition,
        within: Span,
        limit: usize,
    ) -> Result<Option<RecordBatch>, String> {
        self.present()?;
        self.batch("a search", &self.statements.candidates(condition, within, limit)).await
    }

    /// Rows between the bounds of `condition`, which the caller decides, in [`Condition::columns`].
    ///
    /// # Errors
    /// As [`Self::lookup`].
    pub(crate) async fn undecided(
        &self,
        condition: &Condition,
        within: Span,
        limit: usize,
    ) -> Result<Option<RecordBatch>, String> {
        self.present()?;
        let found = self.batch("a search", &self.statements.undecided(condition, within, limit)).await?;
        let Some(found) = found else { return Ok(None) };
        let work = async move {
            let rows = rows::of_spans(&found);
            rows.map(Some).map_err(|error| format!("its rows are not as expected: {error}"))
        };
        contained(&self.runtime, work).await
    }

    async fn batch(&self, what: &str, statement: &Statement) -> Result<Option<RecordBatch>, String> {
        let answer = self.ask(what, statement).await?;
        let work = async move {
            rows::read(&answer).map_err(|error| format!("its answer is no Arrow stream: {error}"))
        };
        contained(&self.runtime, work).await
    }

    async fn text(&self, what: &str, statement: &Statement) -> Result<String, String> {
        Ok(String::from_utf8_lossy(&self.ask(what, statement).await?).into_owned())
    }

    /// Rows of whole numbers.
    async fn numbers(&self, what: &str, statement: &Statement) -> Result<Vec<Vec<i64>>, String> {
        let answer = self.text(what, statement).await?;
        let row = |line: &str| line.split('\t').map(|number| number.parse().ok()).collect::<Option<Vec<_>>>();
        answer.lines().map(row).collect::<Option<_>>().ok_or_else(|| {
            let start: String = answer.chars().take(80).collect();
            format!("it answered {start:?} to {what}; is the URL that of ClickHouse's HTTP interface?")
        })
    }

    async fn ask(&self, what: &str, statement: &Statement) -> Result<bytes::Bytes, String> {
        let began = Instant::now();
        let answer = self.source.client.query(what, &statement.sql, &statement.parameters).await;
        let outcome = if answer.is_ok() { "answered" } else { "failed" };
        self.metrics.queries.get_or_create(&[("outcome", outcome)]).inc();
        self.metrics.seconds.observe(began.elapsed().as_secs_f64());
        answer.map_err(|error| match error {
            Error::NoAnswer { .. } => self.gone(error.to_string()),
            error => error.to_string(),
        })
    }

    /// Notes that the server gave no answer.
    fn gone(&self, reason: String) -> String {
        self.known.write().away = Some(reason.clone());
        self.metrics.available.set(0);
        reason
    }
}

/// Why the tier is not asked.
#[derive(Clone, Debug)]
pub(crate) struct Away {
    pub(crate) reason: String,
    /// Offsets whose spans are there; `None` where that is not known.
    pub(crate) held: Option<Coverage>,
}

/// The rows whose offset lies outside of what the hot tier holds.
fn outside(batch: &RecordBatch, held: &Coverage) -> Result<RecordBatch, ArrowError> {
    if held.0.is_empty() {
        return Ok(batch.clone());
    }
    let missing = |column: &str| ArrowError::SchemaError(format!("there is no column {column}"));
    let partitions = batch
        .column_by_name(name::PARTITION)
        .and_then(|column| column.as_primitive_opt::<Int32Type>())
        .ok_or_else(|| missing(name::PARTITION))?;
    let offsets = batch
        .column_by_name(name::OFFSET)
        .and_then(|column| column.as_primitive_opt::<Int64Type>())
        .ok_or_else(|| missing(name::OFFSET))?;
    let is_outside = |(partition, offset): (&i32, &i64)| !held.of(*partition).contains(offset);
    let mask: BooleanArray =
        partitions.values().iter().zip(offsets.values()).map(|place| Some(is_outside(place))).collect();
    filter_record_batch(batch, &mask)
}
