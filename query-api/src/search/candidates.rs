//! Scans for candidates: ids of traces with a matching span, and the earliest start of one.

use std::sync::Arc;

use ahash::RandomState;
use arrow::{
    array::{Array, AsArray, BooleanArray},
    compute::filter_record_batch,
    datatypes::{DataType, TimeUnit, TimestampNanosecondType},
    record_batch::RecordBatch,
};
use datafusion::{error::DataFusionError, physical_expr::PhysicalExpr, prelude::SessionContext};
use futures::StreamExt;
use hashbrown::HashMap;
use infertrace_schemas::columns::name;
use tokio::runtime::Handle;

use super::SpanFilters;
use crate::{
    hot::TraceId,
    lake::{contained, table::SpansTable},
    store::Store,
    warm::{
        Warm,
        sql::{Condition, Span},
    },
};

/// Candidates kept at most.
pub(super) const MOST_CANDIDATES: usize = 4_000_000;
/// Rows of one step that ClickHouse leaves to be decided here, at most.
const MOST_UNDECIDED: usize = 500_000;

/// Ids with the earliest start of a matching span.
pub(super) type Candidates = HashMap<TraceId, i64, RandomState>;

/// Lets ClickHouse scan a range of time. What its SQL cannot decide is decided here.
///
/// # Errors
/// A sentence: the server's failure, rows that are not as expected, or more of them than are taken at once.
pub(super) async fn scan_warm(
    warm: &Warm,
    store: &Store,
    filters: &SpanFilters,
    condition: &Condition,
    within: Span,
) -> Result<Candidates, String> {
    let mut found = Candidates::default();
    let certain = warm.candidates(condition, within, MOST_CANDIDATES + 1);
    let undecided = async {
        if condition.is_exact() { Ok(None) } else { warm.undecided(condition, within, MOST_UNDECIDED).await }
    };
    let (certain, undecided) = tokio::try_join!(certain, undecided)?;
    if let Some(certain) = certain {
        collect(&certain, &mut found)?;
    }
    if found.len() > MOST_CANDIDATES {
        return Err(format!("more than {MOST_CANDIDATES} traces of one step match; add filters"));
    }
    if let Some(rows) = undecided {
        if rows.num_rows() >= MOST_UNDECIDED {
            return Err(format!(
                "its SQL leaves more than {MOST_UNDECIDED} rows of one step open; add filters"
            ));
        }
        debug_assert_eq!(condition.columns()[..2], [name::TRACE_ID, name::START_TIME]);
        let filter =
            filters.physical(&store.context, &rows.schema()).map_err(|error| error.strip_backtrace())?;
        let decide = async move {
            let text = |error: DataFusionError| error.strip_backtrace();
            let matches = filter.map(|filter| evaluate(&filter, &rows)).transpose().map_err(text)?;
            matches.map_or(Ok(rows.clone()), |matches| {
                filter_record_batch(&rows, &matches).map_err(|error| error.to_string())
            })
        };
        collect(&contained(&store.scans, decide).await?, &mut found)?;
    }
    Ok(found)
}

/// Which rows satisfy a filter.
pub(super) fn evaluate(
    filter: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
) -> datafusion::error::Result<BooleanArray> {
    let matches = filter.evaluate(batch)?.into_array(batch.num_rows())?;
    Ok(matches.as_boolean().clone())
}

/// Scans a table for ids and starts of matching spans, one set of candidates a stream.
pub(super) async fn scan(
    context: &SessionContext,
    scans: &Handle,
    table: SpansTable,
    expression: Option<datafusion::logical_expr::Expr>,
) -> Result<Vec<Candidates>, String> {
    let text = |error: DataFusionError| error.strip_backtrace();
    let mut frame = context.read_table(Arc::new(table)).map_err(text)?;
    if let Some(expression) = expression {
        frame = frame.filter(expression).map_err(text)?;
    }
    let frame = frame.select_columns(&[name::TRACE_ID, name::START_TIME]).map_err(text)?;
    let streams = frame.execute_stream_partitioned().await.map_err(text)?;
    let tasks = streams.into_iter().map(|mut stream| {
        let work = async move {
            let mut candidates = Candidates::default();
            while let Some(batch) = stream.next().await {
                let batch = batch.map_err(|error| error.strip_backtrace())?;
                collect(&batch, &mut candidates)?;
            }
            Ok(candidates)
        };
        contained(scans, work)
    });
    futures::future::try_join_all(tasks).await
}

fn collect(batch: &RecordBatch, candidates: &mut Candidates) -> Result<(), String> {
    let wrong = |column: &str| format!("column {column} has another type than the schema says");
    let ids = batch.column(0).as_fixed_size_binary_opt().ok_or_else(|| wrong(name::TRACE_ID))?;
    let is_time = matches!(batch.column(1).data_type(), DataType::Timestamp(TimeUnit::Nanosecond, _));
    let starts = batch.column(1).as_primitive_opt::<TimestampNanosecondType>().filter(|_| is_time);
    let starts = starts.ok_or_else(|| wrong(name::START_TIME))?;
    let mut last: Option<(TraceId, i64)> = None;
    for row in 0..batch.num_rows() {
        let id = TraceId::try_from(ids.value(row)).map_err(|_| wrong(name::TRACE_ID))?;
        let start = starts.value(row);
        // Rows are sorted by trace: most follow one of the same trace with an earlier start.
        if last.is_some_and(|(known, earliest)| known == id && earliest <= start) {
            continue;
        }
        let known = candidates.entry(id).or_insert(start);
        *known = start.min(*known);
        last = Some((id, *known));
    }
    Ok(())
}
