//! Records of the samples topic into rows of `samples`.

use std::collections::BTreeMap;

use arrow::{datatypes::DataType, error::ArrowError};
use infertrace_proto::v1::{GpuSampleBatch, KeyValue, Sample, Temporality, sample::Value};
use infertrace_runtime::log::Record;
use infertrace_schemas::value::{AnyValue, plain_json};
use prost::Message as _;
use serde::Serialize;

use super::rows::{Encoded, Placed, Shape, list, map, of, text, time};

/// One reading as its row.
#[derive(Serialize)]
struct Row<'b> {
    name: &'b str,
    unit: &'b str,
    tenant: &'b str,
    device_id: &'b str,
    time: i64,
    start_time: i64,
    temporality: &'static str,
    monotonic: bool,
    number: Option<f64>,
    integer: Option<i64>,
    count: Option<u64>,
    sum: Option<f64>,
    min: Option<f64>,
    max: Option<f64>,
    bounds: &'b [f64],
    bucket_counts: &'b [u64],
    attributes: BTreeMap<&'b str, String>,
    resource: BTreeMap<&'b str, String>,
}

fn shape() -> Shape {
    let maybe = |name, data_type| of(name, data_type).with_nullable(true);
    let fields = vec![
        text("name"),
        text("unit"),
        text("tenant"),
        text("device_id"),
        time("time"),
        time("start_time"),
        text("temporality"),
        of("monotonic", DataType::Boolean),
        maybe("number", DataType::Float64),
        maybe("integer", DataType::Int64),
        maybe("count", DataType::UInt64),
        maybe("sum", DataType::Float64),
        maybe("min", DataType::Float64),
        maybe("max", DataType::Float64),
        list("bounds", DataType::Float64),
        list("bucket_counts", DataType::UInt64),
        map("attributes", DataType::Utf8),
        map("resource", DataType::Utf8),
    ];
    Shape::new("samples", "time", fields, &[])
}

/// Decodes a range.
pub(super) fn encode(records: Vec<Record>, partition: i32) -> Result<Encoded, ArrowError> {
    let mut encoded = Encoded::default();
    let mut batches: Vec<(GpuSampleBatch, i64)> = Vec::with_capacity(records.len());
    for record in records {
        let Some(payload) = &record.payload else { continue };
        match GpuSampleBatch::decode(payload.clone()) {
            Ok(batch) => batches.push((batch, record.offset.0.cast_signed())),
            Err(error) => encoded.poison(record, format!("not a batch of samples: {error}")),
        }
    }
    let rows: Vec<Placed<Row<'_>>> = batches
        .iter()
        .flat_map(|(batch, offset)| {
            let resources: Vec<BTreeMap<&str, String>> = batch
                .origins
                .iter()
                .map(|origin| {
                    texts(origin.resource.as_ref().map_or(&[][..], |resource| resource.attributes.as_slice()))
                })
                .collect();
            batch.samples.iter().map(move |sample| {
                let resource = resources.get(sample.origin as usize).cloned().unwrap_or_default();
                Placed { value: row(batch, sample, resource), partition, offset: *offset }
            })
        })
        .collect();
    if !rows.is_empty() {
        encoded.rows.push(shape().rows(&rows)?);
    }
    Ok(encoded)
}

fn row<'b>(batch: &'b GpuSampleBatch, sample: &'b Sample, resource: BTreeMap<&'b str, String>) -> Row<'b> {
    let histogram = match &sample.value {
        Some(Value::Histogram(histogram)) => Some(histogram),
        _ => None,
    };
    Row {
        name: &sample.name,
        unit: &sample.unit,
        tenant: &batch.tenant,
        device_id: &sample.device_id,
        time: sample.time_unix_nano,
        start_time: sample.start_time_unix_nano,
        temporality: match sample.temporality() {
            Temporality::Unspecified => "",
            Temporality::Delta => "delta",
            Temporality::Cumulative => "cumulative",
        },
        monotonic: sample.monotonic,
        number: if let Some(Value::Number(number)) = sample.value { Some(number) } else { None },
        integer: if let Some(Value::Integer(integer)) = sample.value { Some(integer) } else { None },
        count: histogram.map(|histogram| histogram.count),
        sum: histogram.map(|histogram| histogram.sum),
        min: histogram.and_then(|histogram| histogram.min),
        max: histogram.and_then(|histogram| histogram.max),
        bounds: histogram.map_or(&[], |histogram| &histogram.bounds),
        bucket_counts: histogram.map_or(&[], |histogram| &histogram.bucket_counts),
        attributes: texts(&sample.attributes),
        resource,
    }
}

/// Attributes as text: strings as they are, everything else as JSON.
fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, String> {
    let text_of = |pair: &KeyValue| {
        let encoded = pair.value.as_ref().map(prost::Message::encode_to_vec).unwrap_or_default();
        let value = AnyValue::parse(&encoded).ok()?;
        Some(match plain_json(&value).0 {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        })
    };
    attributes.iter().map(|pair| (pair.key.as_str(), text_of(pair).unwrap_or_default())).collect()
}
