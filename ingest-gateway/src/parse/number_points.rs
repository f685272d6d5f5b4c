//! One OTLP data point in, one `Sample` out.

use infertrace_schemas::wire::{
    Fields, Value, put_bytes_field, put_fixed64_field, put_varint, put_varint_field, varint_len,
};

use super::{
    Context, ParseError, Reason, check,
    shares::{Layout, OriginRef, Record, Shares},
};

/// What all points of one metric share.
#[derive(Default)]
pub(super) struct Meta<'m> {
    pub(super) name: &'m [u8],
    pub(super) unit: &'m [u8],
    pub(super) temporality: u64,
    pub(super) monotonic: bool,
}

#[derive(Debug)]
enum Reading {
    /// The bits of a double.
    Number(u64),
    Integer(u64),
    Histogram(Histogram),
}

#[derive(Debug, Default)]
struct Histogram {
    count: u64,
    sum: u64,
    bounds: Vec<u64>,
    bucket_counts: Vec<u64>,
    min: Option<u64>,
    max: Option<u64>,
}

/// A data point that passed every check.
#[derive(Debug)]
pub(super) struct Point<'p> {
    time: u64,
    start: u64,
    /// Encoded `KeyValue`s.
    pub(super) attributes: Vec<&'p [u8]>,
    reading: Reading,
}

/// OTLP's `DATA_POINT_FLAGS_NO_RECORDED_VALUE_MASK`.
const NO_RECORDED_VALUE: u64 = 1;

impl<'p> Point<'p> {
    /// Reads a `NumberDataPoint` or `HistogramDataPoint`; `None` when it is flagged to hold no value.
    pub(super) fn read(
        bytes: &'p [u8],
        is_histogram: bool,
        context: &Context<'_>,
    ) -> Result<Option<Self>, Reason> {
        if bytes.len() > context.limits.max_span_bytes {
            return Err(Reason::TooLarge);
        }
        let (mut time, mut start, mut flags) = (0u64, 0u64, 0u64);
        let mut attributes = Vec::new();
        let mut number = None;
        let mut histogram = Histogram::default();
        for field in Fields::new(bytes) {
            let field = field.map_err(|_| Reason::Malformed)?;
            match (is_histogram, field.number, field.value) {
                (_, 2, Value::Fixed64(value)) => start = value,
                (_, 3, Value::Fixed64(value)) => time = value,
                (false, 4, Value::Fixed64(value)) => number = Some(Reading::Number(value)),
                (false, 6, Value::Fixed64(value)) => number = Some(Reading::Integer(value)),
                (false, 7, Value::Bytes(attribute)) | (true, 9, Value::Bytes(attribute)) => {
                    check::key_value(attribute, context.limits.max_depth)?;
                    attributes.push(attribute);
                }
                (false, 8, Value::Varint(value)) | (true, 10, Value::Varint(value)) => flags = value,
                (true, 4, Value::Fixed64(value)) => histogram.count = value,
                (true, 5, Value::Fixed64(value)) => histogram.sum = value,
                (true, 6, value) => fixed64s(value, &mut histogram.bucket_counts)?,
                (true, 7, value) => fixed64s(value, &mut histogram.bounds)?,
                (true, 11, Value::Fixed64(value)) => histogram.min = Some(value),
                (true, 12, Value::Fixed64(value)) => histogram.max = Some(value),
                // Exemplars are not kept: the spans they point to are in the log themselves.
                (false, 5, Value::Bytes(_)) | (true, 8, Value::Bytes(_)) => {}
                (false, 2..=8, _) | (true, 2..=12, _) => return Err(Reason::Malformed),
                _ => {}
            }
        }
        if attributes.len() > context.limits.max_attributes {
            return Err(Reason::TooManyAttributes);
        }
        let unix_nanos = i64::try_from(time).map_err(|_| Reason::ClockSkew)?;
        if !context.window.contains(unix_nanos) {
            return Err(Reason::ClockSkew);
        }
        if flags & NO_RECORDED_VALUE != 0 {
            return Ok(None);
        }
        let reading = if is_histogram {
            let (counts, bounds) = (histogram.bucket_counts.len(), histogram.bounds.len());
            if counts != bounds + 1 && (counts, bounds) != (0, 0) {
                return Err(Reason::Malformed);
            }
            Reading::Histogram(histogram)
        } else {
            number.ok_or(Reason::Malformed)?
        };
        Ok(Some(Self { time, start, attributes, reading }))
    }
}

/// Reads a repeated fixed64 field, packed or not.
fn fixed64s(value: Value<'_>, out: &mut Vec<u64>) -> Result<(), Reason> {
    match value {
        Value::Fixed64(word) => out.push(word),
        Value::Bytes(packed) => {
            let (words, []) = packed.as_chunks::<8>() else { return Err(Reason::Malformed) };
            out.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        }
        _ => return Err(Reason::Malformed),
    }
    Ok(())
}

/// Writes samples into one record a partition.
pub(super) struct SampleWriter<'a> {
    shares: Shares<'a>,
    sample: Vec<u8>,
    nested: Vec<u8>,
}

impl<'a> SampleWriter<'a> {
    pub(super) fn new(context: &'a Context<'a>, request_bytes: usize) -> Self {
        Self {
            shares: Shares::new(context, Layout::Samples, context.tenant, &[], request_bytes),
            sample: Vec::new(),
            nested: Vec::new(),
        }
    }

    /// Adds an origin; returns its number.
    pub(super) fn origin(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> u32 {
        self.shares.origins().push(write)
    }

    pub(super) fn check_output(&self) -> Result<(), ParseError> {
        self.shares.check_output()
    }

    pub(super) fn into_records(self) -> Result<Vec<Record>, ParseError> {
        self.shares.check_output()?;
        Ok(self.shares.into_records())
    }

    /// Writes one sample.
    pub(super) fn write(
        &mut self,
        partition: u32,
        origin: u32,
        meta: &Meta<'_>,
        device: &[u8],
        point: &Point<'_>,
    ) -> Result<(), Reason> {
        check::text(device)?;
        self.encode(meta, device, point);
        let sample_bytes = self.sample.len();
        // Tag, length and the origin's index, at their largest.
        let room = 1 + 5 + 6 + sample_bytes;
        let (buffer, index) = self.shares.place(partition, room, OriginRef::Any(origin))?;
        let index_bytes = if index == 0 { 0 } else { 1 + varint_len(u64::from(index)) };
        buffer.push(0x0a);
        put_varint(buffer, (sample_bytes + index_bytes) as u64);
        buffer.extend_from_slice(&self.sample);
        if index != 0 {
            put_varint_field(buffer, 7, u64::from(index));
        }
        Ok(())
    }

    fn encode(&mut self, meta: &Meta<'_>, device: &[u8], point: &Point<'_>) {
        let out = &mut self.sample;
        out.clear();
        put_bytes_field(out, 1, meta.name);
        if !meta.unit.is_empty() {
            put_bytes_field(out, 2, meta.unit);
        }
        put_varint_field(out, 3, point.time);
        if point.start != 0 {
            put_varint_field(out, 4, point.start);
        }
        if !device.is_empty() {
            put_bytes_field(out, 5, device);
        }
        for attribute in &point.attributes {
            put_bytes_field(out, 6, attribute);
        }
        match &point.reading {
            Reading::Number(bits) => put_fixed64_field(out, 8, *bits),
            Reading::Integer(value) => put_varint_field(out, 9, *value),
            Reading::Histogram(histogram) => {
                self.nested.clear();
                histogram.encode(&mut self.nested);
                put_bytes_field(out, 10, &self.nested);
            }
        }
        if meta.monotonic {
            put_varint_field(out, 11, 1);
        }
        if meta.temporality != 0 {
            put_varint_field(out, 12, meta.temporality);
        }
    }
}

impl Histogram {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint_field(out, 1, self.count);
        put_fixed64_field(out, 2, self.sum);
        if !self.bounds.is_empty() {
            put_varint(out, 3 << 3 | 2);
            put_varint(out, self.bounds.len() as u64 * 8);
            for bound in &self.bounds {
                out.extend_from_slice(&bound.to_le_bytes());
            }
        }
        if !self.bucket_counts.is_empty() {
            let length: usize = self.bucket_counts.iter().map(|count| varint_len(*count)).sum();
            put_varint(out, 4 << 3 | 2);
            put_varint(out, length as u64);
            for count in &self.bucket_counts {
                put_varint(out, *count);
            }
        }
        if let Some(min) = self.min {
            put_fixed64_field(out, 5, min);
        }
        if let Some(max) = self.max {
            put_fixed64_field(out, 6, max);
        }
    }
}
