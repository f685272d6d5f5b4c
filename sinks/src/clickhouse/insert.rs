//! Columns into inserts: one a table, day and piece of a range, each with the token by which ClickHouse knows it again.
//!
//! A day is a partition of the tables, so an insert is one part: it is there whole or not at all, late data of many days
//! never meets the limit of partitions an insert, and how many rows of it are there tells whether it was applied.
//! Invariant: inserts and tokens are a function of the plan and the records.

use std::collections::BTreeMap;

use arrow::{
    array::{Array as _, AsArray as _, RecordBatch, UInt32Array},
    compute::take_record_batch,
    datatypes::{DataType, Int32Type, Int64Type, TimestampNanosecondType},
    error::ArrowError,
    ipc::writer::StreamWriter,
};
use bytes::Bytes;
use infertrace_schemas::{columns::name, lake::EventDate};

use super::config::Compression;

/// One insert, ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Insert {
    pub(super) table: &'static str,
    /// The columns' names, quoted.
    pub(super) columns: String,
    pub(super) token: String,
    pub(super) rows: u64,
    pub(super) body: Bytes,
    /// Finds its rows; `None` where writing them twice changes nothing.
    pub(super) trace: Option<Trace>,
}

/// Where the rows of an insert are in their table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trace {
    pub(super) partition: i32,
    /// First and last offset.
    pub(super) offsets: (i64, i64),
    pub(super) time_column: &'static str,
    pub(super) day: EventDate,
}

impl Trace {
    /// Condition that finds the rows.
    pub(super) fn condition(&self) -> String {
        let day = i64::from(self.day.0) * 86_400;
        let column = self.time_column;
        format!(
            "_partition = {} AND _offset BETWEEN {} AND {} AND {column} >= toDateTime64({day}, 9, 'UTC') \
             AND {column} < toDateTime64({}, 9, 'UTC')",
            self.partition,
            self.offsets.0,
            self.offsets.1,
            day + 86_400
        )
    }
}

/// A table's rows of a range, before they are cut by days.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) table: &'static str,
    /// Name of the column that says on which day a row is.
    pub(super) time_column: &'static str,
    pub(super) batch: RecordBatch,
    /// Whether writing rows twice changes nothing.
    pub(super) is_idempotent: bool,
}

/// What the tokens of a range begin with: state, topic, partition and offsets.
pub(super) fn token_of(origin: &str, topic: &str, partition: u32, start: u64, end: u64) -> String {
    format!("{origin}/{topic}/{partition}/{start}-{}", end.saturating_sub(1))
}

/// The inserts of a range, in the order in which they are to be made.
pub(super) fn inserts_of(
    token: &str,
    rows: &[Rows],
    compression: Compression,
) -> Result<Vec<Insert>, ArrowError> {
    let mut inserts = Vec::with_capacity(rows.len());
    let mut pieces: BTreeMap<&str, usize> = BTreeMap::new();
    for rows in rows.iter().filter(|rows| rows.batch.num_rows() > 0) {
        let piece = pieces.entry(rows.table).or_default();
        for (day, batch) in by_day(rows)? {
            let columns: Vec<String> =
                batch.schema_ref().fields().iter().map(|field| format!("`{}`", field.name())).collect();
            let trace =
                if rows.is_idempotent { None } else { Some(trace_of(&batch, rows.time_column, day)?) };
            inserts.push(Insert {
                table: rows.table,
                columns: columns.join(", "),
                token: format!("{token}/{day}/{piece}"),
                rows: batch.num_rows() as u64,
                body: body_of(&batch, compression)?,
                trace,
            });
        }
        *piece += 1;
    }
    Ok(inserts)
}

fn column<'b>(batch: &'b RecordBatch, name: &str) -> Result<&'b arrow::array::ArrayRef, ArrowError> {
    batch.column_by_name(name).ok_or_else(|| ArrowError::SchemaError(format!("column {name} is missing")))
}

fn by_day(rows: &Rows) -> Result<Vec<(EventDate, RecordBatch)>, ArrowError> {
    let times = column(&rows.batch, rows.time_column)?;
    let days: Vec<EventDate> = match times.data_type() {
        DataType::Timestamp(arrow::datatypes::TimeUnit::Second, _) => {
            let seconds = times.as_primitive::<arrow::datatypes::TimestampSecondType>().values();
            seconds.iter().map(|seconds| EventDate(seconds.div_euclid(86_400) as i32)).collect()
        }
        _ => {
            let nanos = times.as_primitive::<TimestampNanosecondType>().values();
            nanos.iter().map(|nanos| EventDate::of_nanos(*nanos)).collect()
        }
    };
    let first = days[0];
    if days.iter().all(|day| *day == first) {
        return Ok(vec![(first, rows.batch.clone())]);
    }
    let mut rows_of: BTreeMap<EventDate, Vec<u32>> = BTreeMap::new();
    for (row, day) in days.into_iter().enumerate() {
        rows_of.entry(day).or_default().push(row as u32);
    }
    let taken = |(day, wanted)| Ok((day, take_record_batch(&rows.batch, &UInt32Array::from(wanted))?));
    rows_of.into_iter().map(taken).collect()
}

fn trace_of(batch: &RecordBatch, time_column: &'static str, day: EventDate) -> Result<Trace, ArrowError> {
    let partitions = column(batch, name::PARTITION)?.as_primitive::<Int32Type>();
    let offsets = column(batch, name::OFFSET)?.as_primitive::<Int64Type>().values();
    let range = offsets.iter().fold((i64::MAX, i64::MIN), |(low, high), at| (low.min(*at), high.max(*at)));
    Ok(Trace { partition: partitions.value(0), offsets: range, time_column, day })
}

fn body_of(batch: &RecordBatch, compression: Compression) -> Result<Bytes, ArrowError> {
    let mut plain = Vec::with_capacity(batch.get_array_memory_size());
    let mut writer = StreamWriter::try_new(&mut plain, batch.schema_ref())?;
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    let failed = |error: std::io::Error| ArrowError::IoError("compressing an insert".to_owned(), error);
    Ok(match compression {
        Compression::None => plain.into(),
        Compression::Lz4 => {
            let mut encoder = lz4_flex::frame::FrameEncoder::new(Vec::with_capacity(plain.len() / 3));
            std::io::Write::write_all(&mut encoder, &plain).map_err(failed)?;
            encoder.finish().map_err(|error| failed(error.into()))?.into()
        }
        Compression::Zstd => zstd::bulk::compress(&plain, 1).map_err(failed)?.into(),
    })
}

/// The `Content-Encoding` of bodies.
pub(super) const fn encoding_of(compression: Compression) -> Option<&'static str> {
    match compression {
        Compression::None => None,
        Compression::Lz4 => Some("lz4"),
        Compression::Zstd => Some("zstd"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{Int32Array, Int64Array, TimestampNanosecondArray},
        ipc::reader::StreamReader,
    };

    use super::*;

    const DAY_NS: i64 = 86_400_000_000_000;

    fn rows(days: &[i64]) -> Rows {
        let count = days.len();
        let times: TimestampNanosecondArray = days.iter().map(|day| Some(day * DAY_NS + 5)).collect();
        let batch = RecordBatch::try_from_iter([
            ("time", Arc::new(times.with_timezone("UTC")) as arrow::array::ArrayRef),
            (name::PARTITION, Arc::new(Int32Array::from(vec![3; count]))),
            (name::OFFSET, Arc::new(Int64Array::from_iter_values(40..40 + count as i64))),
        ]);
        Rows { table: "spans", time_column: "time", batch: batch.expect("a batch"), is_idempotent: false }
    }

    /// Scenario: a range over three days, and a second piece of it; every compression. Guarantee: an insert a day and
    /// piece with a token of its own, that finds its own rows; all rows are in them once; the same again for the same.
    #[test]
    fn a_range_is_cut_by_days() {
        let all = [rows(&[2, 1, 2, -1]), rows(&[2])];
        let token = token_of("a1", "t", 3, 40, 45);
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            let inserts = inserts_of(&token, &all, compression).expect("inserts");
            let tokens: Vec<&str> = inserts.iter().map(|insert| insert.token.as_str()).collect();
            assert_eq!(
                tokens,
                [
                    "a1/t/3/40-44/1969-12-31/0",
                    "a1/t/3/40-44/1970-01-02/0",
                    "a1/t/3/40-44/1970-01-03/0",
                    "a1/t/3/40-44/1970-01-03/1"
                ]
            );
            assert_eq!(inserts.iter().map(|insert| insert.rows).collect::<Vec<_>>(), [1, 1, 2, 1]);
            let again = inserts_of(&token, &all, compression).expect("inserts");
            assert!(inserts.iter().zip(&again).all(|(one, two)| one.body == two.body));
        }
        let plain = inserts_of(&token, &all, Compression::None).expect("inserts");
        let trace = plain[2].trace.as_ref().expect("a trace");
        assert_eq!((trace.partition, trace.offsets), (3, (40, 42)));
        assert!(
            trace
                .condition()
                .contains("_offset BETWEEN 40 AND 42 AND time >= toDateTime64(172800, 9, 'UTC')")
        );
        let read = StreamReader::try_new(plain[2].body.as_ref(), None).expect("a stream");
        assert_eq!(read.map(|batch| batch.expect("rows").num_rows()).sum::<usize>(), 2);
    }
}
