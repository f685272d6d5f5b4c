//! What the warm tier holds now: the sink's positions from the log, columns, days and first offsets from ClickHouse.
//!
//! Invariant: positions are read before the tables, so every row of a covered offset is there when the days are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use infertrace_schemas::{columns::name, topics};

use super::{
    Warm, rows,
    sql::Span,
    state::{Day, WarmState},
};
use crate::hot::Coverage;

/// First offsets are looked for again no sooner: that reads two columns of a day, or of the whole table.
const OFFSETS_INTERVAL: Duration = Duration::from_secs(60);

/// What is remembered between two looks.
#[derive(Default)]
pub(super) struct Progress {
    first_offsets: BTreeMap<i32, i64>,
    offsets_read: Option<Instant>,
    rows: u64,
}

impl Warm {
    /// Looks at what the sink inserted and what the tables hold; a failure is kept as the reason.
    pub(super) async fn refresh(&self, progress: &mut Progress) {
        // Before the tables: rows of these offsets are there when the tables are looked at.
        let ends = self.inserted_ends().await;
        let looked = tokio::time::timeout(self.lookup_timeout, self.look()).await;
        let late = || Err(format!("it did not answer within {} ms", self.lookup_timeout.as_millis()));
        let mut looked = looked.unwrap_or_else(|_| late());
        if let (Ok(state), Some(ends)) = (&mut looked, &ends) {
            state.coverage = self.coverage(state, progress, ends).await;
        }
        self.metrics.available.set(i64::from(looked.is_ok()));
        let mut known = self.known.write();
        let first = |partition| progress.first_offsets.get(&partition).copied().unwrap_or(0);
        known.inserted = ends.as_ref().map(|ends| covered(ends, first));
        known.was_asked = true;
        match looked {
            Ok(state) => {
                known.state = Arc::new(state);
                known.away = None;
            }
            Err(reason) => known.away = Some(reason),
        }
    }

    /// Where the sink goes on in each partition; nothing is relied on where that is not known.
    async fn inserted_ends(&self) -> Option<BTreeMap<i32, i64>> {
        let log = self.log.as_ref()?;
        match log.committed_in(&self.source.group, topics::SPANS).await {
            Ok(ends) => {
                let numbered = (0..).zip(ends);
                Some(numbered.filter_map(|(partition, end)| Some((partition, end?.0 as i64))).collect())
            }
            Err(error) => {
                tracing::warn!(%error, group = self.source.group, "where the ClickHouse sink stands is not known");
                None
            }
        }
    }

    /// The days, with nothing covered.
    async fn look(&self) -> Result<WarmState, String> {
        self.check_schema().await?;
        let days = self.numbers("the days of spans", &self.statements.days()).await?;
        let days: Vec<Day> = days
            .iter()
            .filter_map(|row| {
                let [first_ns, last_ns, rows] = row[..] else { return None };
                Some(Day { first_ns, last_ns, rows: rows.max(0).unsigned_abs() })
            })
            .collect();
        let kept_from = WarmState::kept_from(self.clock.now_unix_nanos(), self.source.ttl_days);
        Ok(WarmState { days, kept_from, coverage: Coverage::default() })
    }

    /// What can be relied on: from the first offset of each partition to its end.
    async fn coverage(
        &self,
        state: &WarmState,
        progress: &mut Progress,
        ends: &BTreeMap<i32, i64>,
    ) -> Coverage {
        let rows = state.rows();
        // Rows that went may have been the first ones.
        if rows < progress.rows {
            progress.first_offsets.clear();
            progress.offsets_read = None;
        }
        progress.rows = rows;
        let is_known = |partition: &i32| progress.first_offsets.contains_key(partition);
        let is_due = progress.offsets_read.is_none_or(|at| at.elapsed() >= OFFSETS_INTERVAL);
        if rows > 0 && is_due && !ends.keys().all(is_known) {
            progress.offsets_read = Some(Instant::now());
            match self.first_offsets(state, ends).await {
                Ok(first) => progress.first_offsets = first,
                Err(reason) => {
                    tracing::warn!(reason, "the warm tier is read beside the lake, not instead of it")
                }
            }
        }
        covered(ends, |partition| progress.first_offsets.get(&partition).copied().unwrap_or(i64::MAX))
    }

    /// The first offset of each partition among the rows of the oldest day, which are the oldest rows as a rule; of the whole
    /// table where that day lacks a partition. A later offset than the first is no mistake: less is relied on.
    async fn first_offsets(
        &self,
        state: &WarmState,
        ends: &BTreeMap<i32, i64>,
    ) -> Result<BTreeMap<i32, i64>, String> {
        let oldest = state.days.iter().min_by_key(|day| day.first_ns);
        let day = oldest.map(|day| Span { from_ns: day.first_ns, to_ns: day.last_ns.saturating_add(1) });
        let mut first = BTreeMap::new();
        for within in [day, None] {
            let rows =
                self.numbers("the first offsets of spans", &self.statements.first_offsets(within)).await?;
            first = rows
                .iter()
                .filter_map(|row| Some((i32::try_from(*row.first()?).ok()?, *row.get(1)?)))
                .collect();
            if ends.keys().all(|partition| first.contains_key(partition)) {
                break;
            }
        }
        Ok(first)
    }

    /// Looks that every column is there that is asked for.
    async fn check_schema(&self) -> Result<(), String> {
        let answer = self.text("the tables", &self.statements.schema()).await?;
        let found: BTreeSet<(&str, &str)> = answer.lines().filter_map(|line| line.split_once('\t')).collect();
        let spans =
            name::ALL.iter().filter(|column| **column != name::TOKENS).map(|column| ("spans", *column));
        let tokens = rows::token_columns().into_iter().map(|column| ("tokens", column));
        let times = [("trace_times", "trace_low"), ("trace_times", "minute")];
        let missing: Vec<String> = spans
            .chain(tokens)
            .chain(times)
            .filter(|column| !found.contains(column))
            .map(|(table, column)| format!("{table}.{column}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let shown = missing.iter().take(4).cloned().collect::<Vec<_>>().join(", ");
        let more = if missing.len() > 4 { format!(" and {} more", missing.len() - 4) } else { String::new() };
        Err(format!(
            "database {} has no {shown}{more}: run `infertrace clickhouse migrate`, and see that the user may SELECT there",
            self.source.database
        ))
    }
}

/// What lies between the first offsets and the ends.
fn covered(ends: &BTreeMap<i32, i64>, first: impl Fn(i32) -> i64) -> Coverage {
    let range = |(&partition, &end): (&i32, &i64)| (partition, first(partition).min(end)..end);
    Coverage(ends.iter().map(range).filter(|(_, range)| !range.is_empty()).collect())
}
