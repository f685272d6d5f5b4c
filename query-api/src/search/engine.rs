//! Finds the ids of a page of traces.
//!
//! Candidates come from scans of two columns, newest spans first, and end when enough of them are certain:
//! a candidate is certain once no file or slice of time that was not scanned can hold an earlier matching span. Each is then
//! read whole, and dropped when an earlier span of it matches after all: it has its place further down.
//!
//! Invariants: a page is strictly below its cursor; a trace that stays unchanged is on exactly one page; what
//! was not searched for lack of time or because of damage is said, and the cursor leads on.

use std::{
    collections::{BTreeSet, HashMap as StdHashMap},
    sync::Arc,
    time::Duration,
};

use arrow::{
    array::{Array, AsArray, BooleanArray},
    datatypes::TimestampNanosecondType,
    record_batch::RecordBatch,
};
use datafusion::{
    error::{DataFusionError, Result},
    logical_expr::Expr,
};
use infertrace_schemas::columns::name;
use tokio::time::Instant;

use super::{
    Cursor, SpanFilters, TraceQuery,
    candidates::{Candidates, MOST_CANDIDATES, evaluate, scan, scan_warm},
    filters,
};
use crate::{
    hot::{HotBatch, TraceId},
    lake::{LakeFile, Problem, table::SpansTable},
    store::{Lake, Part, Snapshot, Store},
    trace::{Assembled, MissingColumn, SUMMARY_COLUMNS, assemble},
    warm::sql::{Condition, Span},
};

/// Candidates read whole at once.
const VERIFY_AT_ONCE: usize = 64;

/// A page asked for.
#[derive(Clone, Debug)]
pub struct PageRequest {
    /// What a span must satisfy.
    pub filters: SpanFilters,
    /// Traces at most.
    pub limit: usize,
    /// Where the page begins.
    pub cursor: Option<Cursor>,
    /// Longest to scan.
    pub budget: Duration,
    /// Rows of the first step; each further one takes twice as many.
    pub step_rows: u64,
    /// Spans of one trace that are looked at.
    pub most_spans: usize,
}

/// A trace found, with its rows.
#[derive(Debug)]
pub struct Hit {
    /// Id.
    pub trace_id: TraceId,
    /// Earliest start of a matching span.
    pub start_ns: i64,
    /// Its rows, in [`SUMMARY_COLUMNS`] at least.
    pub parts: Vec<Part>,
    /// What they make.
    pub trace: Assembled,
}

/// A page.
#[derive(Debug, Default)]
pub struct Page {
    /// Traces, newest first.
    pub hits: Vec<Hit>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<Cursor>,
    /// Whether time or memory ran out before the range was searched.
    pub truncated: bool,
    /// What could not be read.
    pub problems: Vec<Problem>,
    /// What failed without a span being missed.
    pub warnings: Vec<String>,
}

/// Finds a page of traces.
///
/// # Errors
/// When the engine refuses the expression; damage of files is not an error.
pub async fn find(store: &Store, request: &PageRequest) -> Result<Page> {
    let snapshot = store.snapshot().await;
    let mut search = Search {
        store,
        request,
        deadline: Instant::now() + request.budget,
        page: Page {
            problems: snapshot.problems.clone(),
            warnings: snapshot.warnings.clone(),
            ..Page::default()
        },
        candidates: Candidates::default(),
        decided: BTreeSet::new(),
        stopped_at: None,
        snapshot,
    };
    search.run().await?;
    Ok(search.page)
}

struct Search<'a> {
    store: &'a Store,
    request: &'a PageRequest,
    snapshot: Snapshot,
    deadline: Instant,
    page: Page,
    candidates: Candidates,
    /// Candidates already on the page, and those that the query does not find.
    decided: BTreeSet<TraceId>,
    /// The last candidate looked at, where time ran out before the next.
    stopped_at: Option<Cursor>,
}

/// What one scan reads: a batch in memory, a slice of time in ClickHouse or a file.
enum Unit {
    Batch(HotBatch),
    Slice { within: Span, rows: u64 },
    File(Arc<LakeFile>),
}

/// Whether a step was scanned whole.
enum Scanned {
    Whole,
    /// The warm tier failed: its share lies in other tiers, which are to be scanned from the newest on.
    WithoutWarm,
}

impl Unit {
    fn latest_start_ns(&self) -> i64 {
        match self {
            Self::Batch(batch) => batch.max_start_ns,
            Self::Slice { within, .. } => within.to_ns.saturating_sub(1),
            Self::File(file) => file.data.max_start_ns,
        }
    }

    fn rows(&self) -> u64 {
        match self {
            Self::Batch(batch) => batch.batch.num_rows() as u64,
            Self::Slice { rows, .. } => *rows,
            Self::File(file) => file.data.rows,
        }
    }
}

impl Search<'_> {
    async fn run(&mut self) -> Result<()> {
        let mut units = self.units().await;
        let mut done = 0;
        let mut step_rows = self.request.step_rows.max(1);
        // Everything that starts at or after this was scanned.
        let mut scanned_from = i64::MAX;
        loop {
            let mut rows = 0;
            let taken = units[done..]
                .iter()
                .take_while(|unit| {
                    let more = rows < step_rows;
                    rows += unit.rows();
                    more
                })
                .count();
            match tokio::time::timeout_at(self.deadline, self.scan(&units[done..done + taken])).await {
                Ok(scanned) => match scanned? {
                    Scanned::Whole => done += taken,
                    Scanned::WithoutWarm => {
                        (units, done, scanned_from) = (self.units().await, 0, i64::MAX);
                        continue;
                    }
                },
                Err(_) => {
                    self.page.truncated = true;
                    break;
                }
            }
            scanned_from = units.get(done).map_or(i64::MIN, |unit| unit.latest_start_ns().saturating_add(1));
            self.take_certain(scanned_from).await?;
            let is_full = self.page.hits.len() > self.request.limit;
            if is_full || done == units.len() || self.page.truncated {
                break;
            }
            if self.candidates.len() > MOST_CANDIDATES || Instant::now() >= self.deadline {
                self.page.truncated = true;
                break;
            }
            step_rows *= 2;
        }
        self.finish(scanned_from);
        Ok(())
    }

    /// Everything that may hold a match, latest span first.
    async fn units(&mut self) -> Vec<Unit> {
        let filters = &self.request.filters;
        let from = filters.start_ns.unwrap_or(i64::MIN);
        let latest = self.request.cursor.map_or(i64::MAX, |cursor| cursor.start_ns);
        let to = filters.end_ns.unwrap_or(i64::MAX).min(latest);
        let mut units = Vec::new();
        if let Some(hot) = &self.snapshot.hot {
            match hot.batches(from, to).await {
                Ok(batches) => units.extend(batches.into_iter().map(Unit::Batch)),
                Err(error) => self.page.problems.push(Problem::hot(error.to_string())),
            }
        }
        if let Some(warm) = &self.snapshot.warm {
            let is_wanted = |slice: &(Span, u64)| slice.0.from_ns <= to && slice.0.to_ns > from;
            let slices = warm.slices(self.request.step_rows).into_iter().filter(is_wanted);
            units.extend(slices.map(|(within, rows)| Unit::Slice { within, rows }));
        }
        let is_wanted = |file: &Arc<LakeFile>| {
            filters.may_match(file) && file.data.may_start_within(from, to.saturating_add(1))
        };
        // Rows that two tiers hold, as of files that one covers in part, are found twice, which changes nothing.
        units.extend(self.snapshot.files_to_read().into_iter().filter(is_wanted).map(Unit::File));
        units.sort_by_key(|unit| std::cmp::Reverse(unit.latest_start_ns()));
        units
    }

    /// Cuts the page to its limit and says where the next one begins.
    fn finish(&mut self, scanned_from: i64) {
        let limit = self.request.limit;
        if self.page.hits.len() > limit {
            self.page.hits.truncate(limit);
            self.page.next =
                self.page.hits.last().map(|last| Cursor { start_ns: last.start_ns, trace_id: last.trace_id });
        } else if self.stopped_at.is_some() {
            self.page.next = self.stopped_at;
        } else if self.page.truncated && scanned_from < i64::MAX {
            self.page.next = Some(Cursor { start_ns: scanned_from, trace_id: [0; 16] });
        }
    }

    /// Adds the matches of one step to the candidates.
    async fn scan(&mut self, step: &[Unit]) -> Result<Scanned> {
        let latest = self.request.cursor.map(|cursor| cursor.start_ns);
        let mut batches = Vec::new();
        let mut files = Vec::new();
        let mut slices: Option<Span> = None;
        for unit in step {
            match unit {
                Unit::Batch(batch) => batches.push(batch.batch.clone()),
                // Slices of a step follow one another: one statement scans them.
                Unit::Slice { within, .. } => {
                    let known = slices.unwrap_or(*within);
                    let (from_ns, to_ns) = (known.from_ns.min(within.from_ns), known.to_ns.max(within.to_ns));
                    slices = Some(Span { from_ns, to_ns });
                }
                Unit::File(file) => files.push(Arc::clone(file)),
            }
        }
        if !batches.is_empty() {
            let expression = self.request.filters.expression(latest);
            let table = SpansTable::of_batches(batches);
            let found = scan(&self.store.context, &self.store.scans, table, expression).await;
            self.merge(found.map_err(DataFusionError::Execution)?);
        }
        if let Some(within) = slices
            && let Some(warm) = &self.store.warm
        {
            let filters = &self.request.filters;
            let condition = Condition::new(filters, latest);
            match scan_warm(warm, self.store, filters, &condition, within).await {
                Ok(found) => self.merge(vec![found]),
                Err(reason) => {
                    self.snapshot.lose_warm(warm, &reason);
                    self.note(self.snapshot.problems.clone(), self.snapshot.warnings.clone());
                    return Ok(Scanned::WithoutWarm);
                }
            }
        }
        if let Some(lake) = &self.store.lake
            && !files.is_empty()
        {
            self.scan_files(lake, files, latest).await?;
        }
        Ok(Scanned::Whole)
    }

    /// Adds to what the page says it lacks, each thing once.
    fn note(&mut self, problems: Vec<Problem>, warnings: Vec<String>) {
        for problem in problems {
            if !self.page.problems.contains(&problem) {
                self.page.problems.push(problem);
            }
        }
        for warning in warnings {
            if !self.page.warnings.contains(&warning) {
                self.page.warnings.push(warning);
            }
        }
    }

    async fn scan_files(
        &mut self,
        lake: &Lake,
        files: Vec<Arc<LakeFile>>,
        latest: Option<i64>,
    ) -> Result<()> {
        let deletions = &self.snapshot.files.deletions;
        let is_touched = |file: &Arc<LakeFile>| deletions.may_touch_tenants(&file.data, file.deletions);
        let mut expression = self.request.filters.expression(latest);
        if files.iter().any(is_touched) {
            expression = expression.into_iter().chain(filters::kept(deletions)).reduce(Expr::and);
        }
        let table = |files: Vec<Arc<LakeFile>>| SpansTable::of_files(files, Arc::clone(&lake.cache));
        match scan(&self.store.context, &self.store.scans, table(files.clone()), expression.clone()).await {
            Ok(found) => self.merge(found),
            Err(together) if files.len() == 1 => self.name_damaged(&files[0], together),
            // Some file of the step is damaged: each on its own tells which, and the others still count.
            Err(_) => {
                for file in files {
                    match scan(
                        &self.store.context,
                        &self.store.scans,
                        table(vec![Arc::clone(&file)]),
                        expression.clone(),
                    )
                    .await
                    {
                        Ok(found) => self.merge(found),
                        Err(detail) => self.name_damaged(&file, detail),
                    }
                }
            }
        }
        Ok(())
    }

    fn name_damaged(&mut self, file: &LakeFile, detail: String) {
        tracing::warn!(path = %file.path, %detail, "a data file of the lake cannot be searched");
        self.page.problems.push(Problem::lake(file.path.to_string(), detail));
    }

    fn merge(&mut self, found: Vec<Candidates>) {
        let deletions = Arc::clone(&self.snapshot.files.deletions);
        for part in found {
            for (id, start) in part.into_iter().filter(|(id, _)| !deletions.has_trace(id)) {
                let known = self.candidates.entry(id).or_insert(start);
                *known = start.min(*known);
            }
        }
    }

    /// Takes candidates that start at or after `from` onto the page, in order, each read whole.
    async fn take_certain(&mut self, from: i64) -> Result<()> {
        let cursor = self.request.cursor;
        let mut certain: Vec<(i64, TraceId)> = self
            .candidates
            .iter()
            .filter(|(id, start)| **start >= from && cursor.is_none_or(|cursor| cursor.precedes(**start, id)))
            .filter(|(id, _)| !self.decided.contains(*id))
            .map(|(id, start)| (*start, *id))
            .collect();
        // Only the newest are needed, but some may turn out to belong further down.
        let mut keep = (self.request.limit + 1).saturating_sub(self.page.hits.len()) + VERIFY_AT_ONCE;
        while !certain.is_empty() && self.page.hits.len() <= self.request.limit {
            let newest_first = |a: &(i64, TraceId), b: &(i64, TraceId)| b.cmp(a);
            if certain.len() > keep {
                certain.select_nth_unstable_by(keep - 1, newest_first);
            }
            let rest = certain.split_off(keep.min(certain.len()));
            certain.sort_unstable_by(newest_first);
            for chunk in certain.chunks(VERIFY_AT_ONCE) {
                if self.page.hits.len() > self.request.limit {
                    break;
                }
                self.verify(chunk).await?;
                // A query that finds few of many candidates has each of them read.
                if Instant::now() >= self.deadline && self.page.hits.len() <= self.request.limit {
                    self.page.truncated = true;
                    self.stopped_at = chunk.last().map(|&(start_ns, trace_id)| Cursor { start_ns, trace_id });
                    return Ok(());
                }
            }
            certain = rest;
            keep = VERIFY_AT_ONCE;
        }
        Ok(())
    }

    /// Reads candidates whole and takes those whose place this is.
    async fn verify(&mut self, chunk: &[(i64, TraceId)]) -> Result<()> {
        let ids: Vec<TraceId> = chunk.iter().map(|(_, id)| *id).collect();
        let mut columns = SUMMARY_COLUMNS.to_vec();
        let query = self.request.filters.query.as_deref();
        let of_query = query.map(TraceQuery::columns).unwrap_or_default();
        for column in self.request.filters.columns().into_iter().chain(of_query) {
            if !columns.contains(&column) {
                columns.push(column);
            }
        }
        let found = self.store.rows(&self.snapshot, &ids, &Some(Arc::new(columns))).await;
        self.note(found.problems, found.warnings);
        let wanted: BTreeSet<TraceId> = ids.into_iter().collect();
        let mut earliest: StdHashMap<TraceId, i64> = StdHashMap::new();
        let mut by_trace: StdHashMap<TraceId, Vec<Part>> = StdHashMap::new();
        for part in found.parts {
            let matches = self.matching_rows(&part.rows.batch)?;
            split_by_trace(&part, &matches, &wanted, &mut earliest, &mut by_trace);
        }
        for &(start_ns, trace_id) in chunk {
            if let Some(&earliest) = earliest.get(&trace_id)
                && earliest < start_ns
            {
                // Its place is further down, on this page or a later one.
                self.candidates.insert(trace_id, earliest);
                continue;
            }
            self.decided.insert(trace_id);
            let parts = by_trace.remove(&trace_id).unwrap_or_default();
            if !parts.is_empty() && !earliest.contains_key(&trace_id) {
                // The scan was mistaken: no span of it matches.
                continue;
            }
            let external = |error: MissingColumn| DataFusionError::External(Box::new(error));
            let trace = assemble(&parts, self.request.most_spans).map_err(external)?;
            if let Some(query) = query
                && !query.matches(&trace, &parts).map_err(external)?
            {
                continue;
            }
            self.page.hits.push(Hit { trace_id, start_ns, parts, trace });
        }
        Ok(())
    }

    fn matching_rows(&self, batch: &RecordBatch) -> Result<Option<BooleanArray>> {
        let filter = self.request.filters.physical(&self.store.context, &batch.schema())?;
        filter.map(|filter| evaluate(&filter, batch)).transpose()
    }
}

/// The rows of parts by the traces of `ids` that they belong to.
pub(crate) fn by_trace(parts: &[Part], ids: &[TraceId]) -> StdHashMap<TraceId, Vec<Part>> {
    let wanted: BTreeSet<TraceId> = ids.iter().copied().collect();
    let mut by_trace = StdHashMap::new();
    for part in parts {
        split_by_trace(part, &None, &wanted, &mut StdHashMap::new(), &mut by_trace);
    }
    by_trace
}

/// Deals the rows of a part out to their traces and notes the earliest match of each.
fn split_by_trace(
    part: &Part,
    matches: &Option<BooleanArray>,
    wanted: &BTreeSet<TraceId>,
    earliest: &mut StdHashMap<TraceId, i64>,
    by_trace: &mut StdHashMap<TraceId, Vec<Part>>,
) {
    let batch = &part.rows.batch;
    let Some(ids) = batch.column_by_name(name::TRACE_ID).and_then(|column| column.as_fixed_size_binary_opt())
    else {
        return;
    };
    let Some(starts) = batch
        .column_by_name(name::START_TIME)
        .and_then(|column| column.as_primitive_opt::<TimestampNanosecondType>())
    else {
        return;
    };
    let mut rows: StdHashMap<TraceId, Vec<u32>> = StdHashMap::new();
    for &row in &part.rows.rows {
        let at = row as usize;
        let Ok(id) = TraceId::try_from(ids.value(at)) else { continue };
        if !wanted.contains(&id) {
            continue;
        }
        rows.entry(id).or_default().push(row);
        if matches.as_ref().is_none_or(|matches| matches.is_valid(at) && matches.value(at)) {
            let start = starts.value(at);
            let known = earliest.entry(id).or_insert(start);
            *known = start.min(*known);
        }
    }
    for (id, rows) in rows {
        let rows = crate::hot::Rows { batch: batch.clone(), rows };
        by_trace.entry(id).or_default().push(Part { tier: part.tier, rows });
    }
}
