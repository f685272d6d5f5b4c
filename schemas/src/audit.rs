//! What an audit compares: a count and an order-independent hash of spans.
//!
//! The hash of a span is XXH3-128 of the fields that identify it and that every tier must keep; a set's hash is the
//! sum of its spans' hashes modulo 2^128. Two tiers with the same count and hash have the same spans, whatever their
//! order; a missing, doubled or changed span changes it. Invariant: the same span gives the same hash from every tier,
//! whatever the encoding of its columns.

use std::{fmt, ops::AddAssign, str::FromStr};

use arrow::{
    array::{Array, AsArray, FixedSizeBinaryArray, RecordBatch, StringArray},
    compute::cast,
    datatypes::{DataType, Int32Type, Int64Type, TimeUnit, TimestampNanosecondType, UInt8Type},
    error::ArrowError,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use xxhash_rust::xxh3::xxh3_128;

use crate::columns::name;

/// The columns that the hash covers, and the two that say where a span came from.
pub const COLUMNS: &[&str] = &[
    name::TRACE_ID,
    name::SPAN_ID,
    name::PARENT_SPAN_ID,
    name::START_TIME,
    name::DURATION_NS,
    name::KIND,
    name::STATUS_CODE,
    name::SERVICE_NAME,
    name::OPERATION_NAME,
    name::TENANT,
    name::MODEL_NAME,
    name::PARTITION,
    name::OFFSET,
];

const TEXTS: [&str; 4] = [name::SERVICE_NAME, name::OPERATION_NAME, name::TENANT, name::MODEL_NAME];

/// A sum of hashes, in JSON as 32 hex digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash(pub u128);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Hash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self).map_err(|_| "expected 32 hex digits")
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

/// How many, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// Spans.
    pub spans: u64,
    /// Sum of their hashes modulo 2^128.
    pub hash: Hash,
}

impl Sum {
    /// Adds one span.
    pub fn add(&mut self, hash: u128) {
        self.spans += 1;
        self.hash.0 = self.hash.0.wrapping_add(hash);
    }
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.spans += other.spans;
        self.hash.0 = self.hash.0.wrapping_add(other.hash.0);
    }
}

/// A span's record and hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Partition of its record.
    pub partition: i32,
    /// Offset of its record.
    pub offset: i64,
    /// Its hash.
    pub hash: u128,
}

/// Hands every span of `batch`, which has [`COLUMNS`], to `each`.
///
/// # Errors
/// When a column is missing or has a type that is none of ours.
pub fn rows(batch: &RecordBatch, mut each: impl FnMut(Row)) -> Result<(), ArrowError> {
    let column = |name: &str| {
        let found = batch.column_by_name(name);
        found.ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
    };
    let bytes = |name: &str| -> Result<FixedSizeBinaryArray, ArrowError> {
        let array = column(name)?;
        let fixed = array.as_fixed_size_binary_opt().cloned();
        fixed.ok_or_else(|| {
            ArrowError::SchemaError(format!("{name} is {}, not fixed-size binary", array.data_type()))
        })
    };
    let number = |name: &str, to: DataType| cast(column(name)?, &to);
    let text = |name: &str| -> Result<StringArray, ArrowError> {
        Ok(cast(column(name)?, &DataType::Utf8)?.as_string::<i32>().clone())
    };
    let (traces, spans, parents) =
        (bytes(name::TRACE_ID)?, bytes(name::SPAN_ID)?, bytes(name::PARENT_SPAN_ID)?);
    let starts = number(name::START_TIME, DataType::Timestamp(TimeUnit::Nanosecond, None))?;
    let starts = starts.as_primitive::<TimestampNanosecondType>();
    let durations = number(name::DURATION_NS, DataType::Int64)?;
    let durations = durations.as_primitive::<Int64Type>();
    let (kinds, states) = (number(name::KIND, DataType::UInt8)?, number(name::STATUS_CODE, DataType::UInt8)?);
    let (kinds, states) = (kinds.as_primitive::<UInt8Type>(), states.as_primitive::<UInt8Type>());
    let partitions = number(name::PARTITION, DataType::Int32)?;
    let partitions = partitions.as_primitive::<Int32Type>();
    let offsets = number(name::OFFSET, DataType::Int64)?;
    let offsets = offsets.as_primitive::<Int64Type>();
    let texts = TEXTS.iter().map(|name| text(name)).collect::<Result<Vec<_>, _>>()?;
    let mut buffer = Vec::with_capacity(256);
    for row in 0..batch.num_rows() {
        buffer.clear();
        buffer.extend_from_slice(traces.value(row));
        buffer.extend_from_slice(spans.value(row));
        buffer.extend_from_slice(if parents.is_null(row) { &[0; 8] } else { parents.value(row) });
        buffer.extend_from_slice(&starts.value(row).to_le_bytes());
        buffer.extend_from_slice(&durations.value(row).to_le_bytes());
        buffer.extend_from_slice(&[kinds.value(row), states.value(row)]);
        for text in &texts {
            // A null and an empty text mean the same.
            let value = if text.is_null(row) { "" } else { text.value(row) };
            buffer.extend_from_slice(&(value.len() as u32).to_le_bytes());
            buffer.extend_from_slice(value.as_bytes());
        }
        each(Row { partition: partitions.value(row), offset: offsets.value(row), hash: xxh3_128(&buffer) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, RecordBatch};
    use infertrace_proto::v1::{Span, SpanBatch};
    use prost::Message as _;

    use super::*;
    use crate::reader::{Position, SpanReader};

    fn batch(spans: &[(u8, &str, u64)]) -> RecordBatch {
        let spans = spans.iter().map(|&(id, service, duration)| Span {
            trace_id: vec![id; 16].into(),
            span_id: vec![id; 8].into(),
            service_name: service.to_owned(),
            operation_name: "op".to_owned(),
            start_time_unix_nano: 1_700_000_000_000_000_000,
            duration_nanos: duration as i64,
            ..Span::default()
        });
        let payload = SpanBatch { spans: spans.collect(), ..SpanBatch::default() }.encode_to_vec();
        let mut reader = SpanReader::new();
        let pushed = reader.push(&payload, Position { partition: 2, offset: 7 }).expect("a good record");
        assert_eq!(pushed.rejected, 0);
        reader.finish()
    }

    fn sum(batch: &RecordBatch) -> Sum {
        let mut sum = Sum::default();
        rows(batch, |row| {
            assert_eq!((row.partition, row.offset), (2, 7));
            sum.add(row.hash);
        })
        .expect("our columns");
        sum
    }

    /// Scenario: the same spans in another order and with plain instead of dictionary columns; one missing, doubled
    /// or changed. Guarantee: the sums are equal in the first cases and differ in every other.
    #[test]
    fn the_sum_depends_on_the_spans_and_on_nothing_else() {
        let all = [(1, "a", 5), (2, "b", 6), (3, "a", 7)];
        let expected = sum(&batch(&all));
        assert_eq!(expected.spans, 3);
        let mut turned = all;
        turned.reverse();
        assert_eq!(sum(&batch(&turned)), expected);
        let dictionary = batch(&all);
        let plain: Vec<(&str, ArrayRef)> = COLUMNS
            .iter()
            .map(|name| {
                let column = dictionary.column_by_name(name).expect("a column");
                let is_dictionary = matches!(column.data_type(), DataType::Dictionary(..));
                let plain = if is_dictionary {
                    cast(column, &DataType::Utf8).expect("text")
                } else {
                    Arc::clone(column)
                };
                (*name, plain)
            })
            .collect();
        assert_eq!(sum(&RecordBatch::try_from_iter(plain).expect("a batch")), expected);
        let mut parts = sum(&batch(&all[..1]));
        parts += sum(&batch(&all[1..]));
        assert_eq!(parts, expected);
        for other in [
            &[(1, "a", 5), (2, "b", 6)][..],
            &[(1, "a", 5), (2, "b", 6), (3, "a", 7), (3, "a", 7)],
            &[(1, "a", 5), (2, "b", 6), (3, "a", 8)],
            &[(1, "a", 5), (2, "c", 6), (3, "a", 7)],
        ] {
            assert_ne!(sum(&batch(other)), expected);
        }
        let json = serde_json::to_string(&expected).expect("json");
        assert_eq!(serde_json::from_str::<Sum>(&json).expect("reads"), expected);
    }
}
