//! Random but valid OTLP requests.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::harness::NOW;

pub struct Random(StdRng);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    fn text(&mut self) -> String {
        // Lengths around the boundaries of one- and two-byte lengths, and letters of all widths.
        let length =
            *[0, 1, 5, 17, 40, 126, 127, 128, 140, 300].get(self.0.random_range(0..10)).expect("in range");
        (0..length)
            .map(|_| {
                *['a', 'Z', '0', '_', '"', '\\', '\n', 'é', '漢', '🦀']
                    .get(self.0.random_range(0..10))
                    .expect("in range")
            })
            .collect()
    }

    fn number(&mut self) -> i64 {
        let shift = self.0.random_range(0..64);
        self.0.random::<i64>() >> shift
    }

    fn value(&mut self, depth: u32) -> Option<AnyValue> {
        let kinds = if depth == 0 { 6 } else { 8 };
        let value = match self.0.random_range(0..kinds) {
            0 => Value::StringValue(self.text()),
            1 => Value::BoolValue(self.0.random()),
            2 => Value::IntValue(self.number()),
            3 => Value::DoubleValue(self.number() as f64 / 7.0),
            4 => Value::BytesValue((0..self.0.random_range(0..20)).map(|_| self.0.random()).collect()),
            5 => return if self.0.random() { None } else { Some(AnyValue { value: None }) },
            6 => Value::ArrayValue(ArrayValue {
                values: (0..self.0.random_range(0..4)).filter_map(|_| self.value(depth - 1)).collect(),
            }),
            _ => Value::KvlistValue(KeyValueList { values: self.attributes(depth - 1) }),
        };
        Some(AnyValue { value: Some(value) })
    }

    fn attributes(&mut self, depth: u32) -> Vec<KeyValue> {
        (0..self.0.random_range(0..6))
            .map(|_| KeyValue { key: self.text(), value: self.value(depth), ..KeyValue::default() })
            .collect()
    }

    fn id<const N: usize>(&mut self) -> Vec<u8> {
        let mut id: [u8; N] = std::array::from_fn(|_| self.0.random());
        id[0] |= 1;
        id.to_vec()
    }

    fn small(&mut self) -> u32 {
        if self.0.random() { 0 } else { self.0.random::<u32>() >> self.0.random_range(0..32) }
    }

    fn span(&mut self) -> Span {
        let start = NOW as u64 - self.0.random_range(0..1_000_000_000);
        Span {
            trace_id: self.id::<16>(),
            span_id: self.id::<8>(),
            trace_state: if self.0.random() { String::new() } else { self.text() },
            parent_span_id: if self.0.random() { Vec::new() } else { self.id::<8>() },
            flags: self.small(),
            name: self.text(),
            kind: self.0.random_range(0..6),
            start_time_unix_nano: start,
            end_time_unix_nano: start + u64::from(self.small()),
            attributes: self.attributes(3),
            dropped_attributes_count: self.small(),
            events: (0..self.0.random_range(0..3))
                .map(|_| span::Event {
                    time_unix_nano: self.0.random(),
                    name: self.text(),
                    attributes: self.attributes(1),
                    dropped_attributes_count: self.small(),
                })
                .collect(),
            dropped_events_count: self.small(),
            links: (0..self.0.random_range(0..3))
                .map(|_| span::Link {
                    trace_id: self.id::<16>(),
                    span_id: self.id::<8>(),
                    trace_state: self.text(),
                    attributes: self.attributes(1),
                    dropped_attributes_count: self.small(),
                    flags: self.small(),
                })
                .collect(),
            dropped_links_count: self.small(),
            status: if self.0.random() {
                None
            } else {
                Some(Status { message: self.text(), code: self.0.random_range(0..3) })
            },
        }
    }

    pub fn request(&mut self) -> ExportTraceServiceRequest {
        let resource_spans = (0..self.0.random_range(0..3))
            .map(|_| ResourceSpans {
                resource: if self.0.random_range(0..5) == 0 {
                    None
                } else {
                    let mut attributes = self.attributes(2);
                    if self.0.random() {
                        attributes.push(crate::harness::string("service.name", &self.text()));
                    }
                    Some(Resource {
                        attributes,
                        dropped_attributes_count: self.small(),
                        ..Resource::default()
                    })
                },
                scope_spans: (0..self.0.random_range(0..3))
                    .map(|_| ScopeSpans {
                        scope: if self.0.random() {
                            None
                        } else {
                            Some(InstrumentationScope {
                                name: self.text(),
                                version: self.text(),
                                attributes: self.attributes(1),
                                dropped_attributes_count: self.small(),
                            })
                        },
                        spans: (0..self.0.random_range(0..5)).map(|_| self.span()).collect(),
                        schema_url: self.text(),
                    })
                    .collect(),
                schema_url: self.text(),
            })
            .collect();
        ExportTraceServiceRequest { resource_spans }
    }
}
