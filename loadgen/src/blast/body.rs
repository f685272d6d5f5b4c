//! Request bodies encoded once, whose ids and times are patched in place for each send.
//!
//! Invariant: after [`Body::stamp`] the bytes are a valid request with ids of (run, sequence); its spans say
//! exactly what the template says.

use bytes::{Bytes, BytesMut};
use infertrace_schemas::wire::{
    put_bytes_field, put_fixed32_field, put_fixed64_field, put_varint_field, varint_len,
};

use super::template::{SpanSpec, Template};
use crate::{
    content::{Attr, NO_TRACE, REQUEST_ID, request_id_digits},
    ids,
    protocol::Protocol,
};

/// Bytes of a start time as a varint: right from 1972 to 2262.
const TIME_VARINT: usize = 9;
const NONE: u32 = u32::MAX;
const BASE: i64 = 1_700_000_000_000_000_000;

/// Where a span's changing bytes stand, and what they follow from: all that stamping reads of a span.
#[derive(Clone, Copy, Debug)]
struct Patch {
    index: u16,
    trace: u16,
    parent: u16,
    start_offset_ns: i64,
    duration_ns: i64,
    trace_at: u32,
    span_at: u32,
    parent_at: u32,
    start_at: u32,
    end_at: u32,
    request_at: u32,
}

/// One frame within the request.
#[derive(Clone, Debug)]
struct FramePlace {
    crc_at: usize,
    body: std::ops::Range<usize>,
    patches: std::ops::Range<usize>,
    partition: u32,
}

/// A request that can be sent again and again with new ids.
#[derive(Debug)]
pub struct Body {
    template: Template,
    protocol: Protocol,
    partitions: u32,
    map_version: u64,
    bytes: BytesMut,
    patches: Vec<Patch>,
    frames: Vec<FramePlace>,
    batch_id_at: Option<usize>,
    trace_ids: Vec<[u8; 16]>,
}

impl Body {
    /// Encodes `template`; `partitions` and `map_version` matter to frames only.
    #[must_use]
    pub fn new(
        template: Template,
        protocol: Protocol,
        tenant: &str,
        partitions: u32,
        map_version: u64,
    ) -> Self {
        let mut body = Self {
            template,
            protocol,
            partitions,
            map_version,
            bytes: BytesMut::new(),
            patches: Vec::new(),
            frames: Vec::new(),
            batch_id_at: None,
            trace_ids: Vec::new(),
        };
        let bytes = match protocol {
            Protocol::Native => body.encode_native(tenant),
            Protocol::Frames => body.encode_frames(),
            Protocol::Otlp => body.encode_otlp(),
        };
        body.bytes = BytesMut::from(Bytes::from(bytes));
        body
    }

    /// The spans.
    #[must_use]
    pub fn template(&self) -> &Template {
        &self.template
    }

    /// Partitions by which frames are split.
    #[must_use]
    pub fn partitions(&self) -> u32 {
        if self.protocol == Protocol::Frames { self.partitions } else { 0 }
    }

    /// Writes the ids and times of request `sequence` and hands out the bytes; [`Body::reclaim`] takes them back.
    pub fn stamp(&mut self, run: u32, sequence: u64, base_time_ns: i64) -> Bytes {
        let frames = self.protocol == Protocol::Frames;
        self.trace_ids.clear();
        for trace in 0..self.template.traces {
            self.trace_ids.push(expected_trace_id(
                run,
                sequence,
                trace,
                if frames { self.partitions } else { 0 },
            ));
        }
        let bytes = &mut self.bytes[..];
        if self.frames.is_empty() {
            stamp_spans(bytes, &self.patches, &self.trace_ids, sequence, base_time_ns);
        }
        // Frame by frame, so that the checksum reads what is still in the cache.
        for frame in &self.frames {
            let patches = &self.patches[frame.patches.clone()];
            stamp_spans(bytes, patches, &self.trace_ids, sequence, base_time_ns);
            let crc = crc32c::crc32c(&bytes[frame.body.clone()]);
            put(bytes, frame.crc_at as u32, &crc.to_le_bytes());
        }
        if let Some(at) = self.batch_id_at {
            put(bytes, at as u32, &ids::trace_id(run, sequence, u16::MAX, 0));
        }
        // Taken whole: a rest left behind would share the allocation, and every send would be copied.
        std::mem::take(&mut self.bytes).freeze()
    }

    /// Takes the bytes of [`stamp`](Self::stamp) back: without a copy when nobody else holds them.
    pub fn reclaim(&mut self, bytes: Bytes) -> bool {
        match bytes.try_into_mut() {
            Ok(bytes) => {
                self.bytes = bytes;
                true
            }
            Err(shared) => {
                self.bytes = BytesMut::from(&shared[..]);
                false
            }
        }
    }

    /// A frames request from stamped bytes with each frame's body compressed.
    ///
    /// # Errors
    /// If the codec refuses.
    pub fn compress(
        &self,
        stamped: &[u8],
        compression: infertrace_sdk::Compression,
    ) -> std::io::Result<Bytes> {
        let mut request = Vec::with_capacity(stamped.len() / 2);
        for frame in &self.frames {
            let plain = &stamped[frame.body.clone()];
            let packed = compression.compress_frame(plain)?;
            let mut encoded = Vec::with_capacity(packed.len() + 40);
            put_varint_field(&mut encoded, 1, u64::from(frame.partition));
            put_varint_field(&mut encoded, 2, compression.codec());
            put_fixed32_field(&mut encoded, 3, crc32c::crc32c(&packed));
            put_varint_field(&mut encoded, 4, frame.patches.len() as u64);
            put_varint_field(&mut encoded, 5, plain.len() as u64);
            put_bytes_field(&mut encoded, 6, &packed);
            put_bytes_field(&mut request, 2, &encoded);
        }
        put_varint_field(&mut request, 4, self.map_version);
        Ok(request.into())
    }

    fn encode_native(&mut self, tenant: &str) -> Vec<u8> {
        let mut batch = Vec::new();
        let (mut patches, mut places) = (Vec::new(), Vec::new());
        for (index, span) in self.template.spans.iter().enumerate() {
            let (encoded, patch) = native_span(index as u16, span);
            put_bytes_field(&mut batch, 1, &encoded);
            places.push(batch.len() - encoded.len());
            patches.push(patch);
        }
        put_bytes_field(&mut batch, 2, &[0; 16]);
        let batch_id_at = batch.len() - 16;
        if !tenant.is_empty() {
            put_bytes_field(&mut batch, 3, tenant.as_bytes());
        }
        put_origins(&mut batch);
        let mut request = Vec::with_capacity(batch.len() + 16);
        put_bytes_field(&mut request, 1, &batch);
        let shift = request.len() - batch.len();
        self.patches = patches.into_iter().zip(places).map(|(p, at)| moved(p, at + shift)).collect();
        self.batch_id_at = Some(batch_id_at + shift);
        request
    }

    fn encode_frames(&mut self) -> Vec<u8> {
        let mut request = Vec::new();
        let (mut all, mut frames) = (Vec::new(), Vec::new());
        for partition in 0..self.partitions {
            let mut body = Vec::new();
            let mut patches = Vec::new();
            for (index, span) in self.template.spans.iter().enumerate() {
                if u32::from(span.trace) % self.partitions != partition {
                    continue;
                }
                let (encoded, patch) = native_span(index as u16, span);
                put_bytes_field(&mut body, 1, &encoded);
                patches.push(moved(patch, body.len() - encoded.len()));
            }
            if patches.is_empty() {
                continue;
            }
            put_origins(&mut body);
            let mut frame = Vec::with_capacity(body.len() + 40);
            put_varint_field(&mut frame, 1, u64::from(partition));
            put_fixed32_field(&mut frame, 3, 0);
            let crc_at = frame.len() - 4;
            put_varint_field(&mut frame, 4, patches.len() as u64);
            put_varint_field(&mut frame, 5, body.len() as u64);
            put_bytes_field(&mut frame, 6, &body);
            put_bytes_field(&mut request, 2, &frame);
            let frame_at = request.len() - frame.len();
            let body_at = request.len() - body.len();
            frames.push(FramePlace {
                crc_at: frame_at + crc_at,
                body: body_at..request.len(),
                patches: all.len()..all.len() + patches.len(),
                partition,
            });
            all.extend(patches.into_iter().map(|patch| moved(patch, body_at)));
        }
        put_varint_field(&mut request, 4, self.map_version);
        self.patches = all;
        self.frames = frames;
        request
    }

    fn encode_otlp(&mut self) -> Vec<u8> {
        let mut request = Vec::new();
        let mut all = Vec::new();
        for (_, service) in services() {
            let mut scope_spans = Vec::new();
            let mut scope = Vec::new();
            put_bytes_field(&mut scope, 1, b"infertrace-loadgen");
            put_bytes_field(&mut scope_spans, 1, &scope);
            let mut patches = Vec::new();
            for (index, span) in self.template.spans.iter().enumerate() {
                if span.service != service {
                    continue;
                }
                let (encoded, patch) = otlp_span(index as u16, span);
                put_bytes_field(&mut scope_spans, 2, &encoded);
                patches.push(moved(patch, scope_spans.len() - encoded.len()));
            }
            let mut resource = Vec::new();
            put_attribute(&mut resource, 1, "service.name", &Attr::Str(service.to_owned()));
            put_attribute(&mut resource, 1, "deployment.environment.name", &Attr::Str("blast".into()));
            let mut resource_spans = Vec::new();
            put_bytes_field(&mut resource_spans, 1, &resource);
            put_bytes_field(&mut resource_spans, 2, &scope_spans);
            put_bytes_field(&mut request, 1, &resource_spans);
            let at = request.len() - scope_spans.len();
            all.extend(patches.into_iter().map(|patch| moved(patch, at)));
        }
        self.patches = all;
        request
    }
}

/// The trace id that a request's trace has; with frames (`partitions` > 0) it lies in partition `trace % partitions`.
#[must_use]
#[inline]
pub fn expected_trace_id(run: u32, sequence: u64, trace: u16, partitions: u32) -> [u8; 16] {
    if partitions == 0 {
        ids::trace_id(run, sequence, trace, 0)
    } else {
        ids::trace_id_in(run, sequence, trace, u32::from(trace) % partitions, partitions)
    }
}

/// Writes ids and times of the spans that `patches` stand for.
fn stamp_spans(
    bytes: &mut [u8],
    patches: &[Patch],
    trace_ids: &[[u8; 16]],
    sequence: u64,
    base_time_ns: i64,
) {
    for patch in patches {
        put(bytes, patch.trace_at, &trace_ids[usize::from(patch.trace)]);
        put(bytes, patch.span_at, &ids::span_id(sequence, patch.index));
        if patch.parent_at != NONE {
            put(bytes, patch.parent_at, &ids::span_id(sequence, patch.parent));
        }
        if patch.request_at != NONE {
            put(bytes, patch.request_at, &request_id_digits(&trace_ids[usize::from(patch.trace)]));
        }
        let start = (base_time_ns + patch.start_offset_ns) as u64;
        if patch.end_at == NONE {
            put(bytes, patch.start_at, &time_varint(start));
        } else {
            put(bytes, patch.start_at, &start.to_le_bytes());
            put(bytes, patch.end_at, &(start + patch.duration_ns as u64).to_le_bytes());
        }
    }
}

#[inline]
fn put(bytes: &mut [u8], at: u32, value: &[u8]) {
    bytes[at as usize..at as usize + value.len()].copy_from_slice(value);
}

#[inline]
fn time_varint(value: u64) -> [u8; TIME_VARINT] {
    debug_assert_eq!(varint_len(value), TIME_VARINT);
    std::array::from_fn(|i| (value >> (7 * i)) as u8 & 0x7f | if i + 1 < TIME_VARINT { 0x80 } else { 0 })
}

fn moved(patch: Patch, by: usize) -> Patch {
    let by = by as u32;
    let shift = |at: u32| if at == NONE { NONE } else { at + by };
    Patch {
        trace_at: patch.trace_at + by,
        span_at: patch.span_at + by,
        parent_at: shift(patch.parent_at),
        start_at: patch.start_at + by,
        end_at: shift(patch.end_at),
        request_at: shift(patch.request_at),
        ..patch
    }
}

fn services() -> [(u64, &'static str); 4] {
    [(0, "api-gateway"), (1, "preprocessor"), (2, "model-server"), (3, "postprocessor")]
}

fn put_origins(out: &mut Vec<u8>) {
    for (_, service) in services() {
        let mut resource = Vec::new();
        put_attribute(&mut resource, 1, "service.name", &Attr::Str(service.to_owned()));
        put_attribute(&mut resource, 1, "deployment.environment.name", &Attr::Str("blast".into()));
        let mut scope = Vec::new();
        put_bytes_field(&mut scope, 1, b"infertrace-loadgen");
        let mut origin = Vec::new();
        put_bytes_field(&mut origin, 1, &resource);
        put_bytes_field(&mut origin, 2, &scope);
        put_bytes_field(out, 4, &origin);
    }
}

fn native_span(index: u16, span: &SpanSpec) -> (Vec<u8>, Patch) {
    let mut out = Vec::with_capacity(700);
    let (trace_at, span_at, parent_at) = put_ids(&mut out, 1, 2, 3, span);
    put_bytes_field(&mut out, 4, span.service.as_bytes());
    put_bytes_field(&mut out, 5, span.operation.as_bytes());
    put_varint_field(&mut out, 6, BASE as u64);
    let start_at = (out.len() - TIME_VARINT) as u32;
    put_varint_field(&mut out, 7, span.duration_ns as u64);
    let request_at = put_attributes(&mut out, 11, span);
    put_varint_field(&mut out, 14, u64::from(span.kind));
    put_status(&mut out, span);
    let origin = services().iter().find(|(_, service)| *service == span.service).map_or(0, |(i, _)| *i);
    if origin > 0 {
        put_varint_field(&mut out, 21, origin);
    }
    (out, patch(index, span, [trace_at, span_at, parent_at, start_at, NONE, request_at]))
}

fn otlp_span(index: u16, span: &SpanSpec) -> (Vec<u8>, Patch) {
    let mut out = Vec::with_capacity(700);
    let (trace_at, span_at, parent_at) = put_ids(&mut out, 1, 2, 4, span);
    put_bytes_field(&mut out, 5, span.operation.as_bytes());
    put_varint_field(&mut out, 6, u64::from(span.kind));
    put_fixed64_field(&mut out, 7, 0);
    let start_at = out.len() as u32 - 8;
    put_fixed64_field(&mut out, 8, 0);
    let end_at = out.len() as u32 - 8;
    let request_at = put_attributes(&mut out, 9, span);
    put_status(&mut out, span);
    (out, patch(index, span, [trace_at, span_at, parent_at, start_at, end_at, request_at]))
}

fn patch(index: u16, span: &SpanSpec, places: [u32; 6]) -> Patch {
    let [trace_at, span_at, parent_at, start_at, end_at, request_at] = places;
    Patch {
        index,
        trace: span.trace,
        parent: span.parent.unwrap_or(0),
        start_offset_ns: span.start_offset_ns,
        duration_ns: span.duration_ns,
        trace_at,
        span_at,
        parent_at,
        start_at,
        end_at,
        request_at,
    }
}

fn put_ids(out: &mut Vec<u8>, trace: u32, id: u32, parent: u32, span: &SpanSpec) -> (u32, u32, u32) {
    put_bytes_field(out, trace, &[0; 16]);
    let trace_at = out.len() as u32 - 16;
    put_bytes_field(out, id, &[0; 8]);
    let span_at = out.len() as u32 - 8;
    let mut parent_at = NONE;
    if span.parent.is_some() {
        put_bytes_field(out, parent, &[0; 8]);
        parent_at = out.len() as u32 - 8;
    }
    (trace_at, span_at, parent_at)
}

fn put_status(out: &mut Vec<u8>, span: &SpanSpec) {
    if span.status != 0 {
        let mut status = Vec::new();
        put_varint_field(&mut status, 3, u64::from(span.status));
        put_bytes_field(out, 15, &status);
    }
}

/// Where the digits of the request id stand.
fn put_attributes(out: &mut Vec<u8>, number: u32, span: &SpanSpec) -> u32 {
    let mut request_at = NONE;
    for (key, value) in &span.attributes {
        put_attribute(out, number, key, value);
        if *key == REQUEST_ID {
            request_at = (out.len() - size_of_val(&request_id_digits(&NO_TRACE))) as u32;
        }
    }
    request_at
}

fn put_attribute(out: &mut Vec<u8>, number: u32, key: &str, value: &Attr) {
    let mut any = Vec::with_capacity(32);
    match value {
        Attr::Str(text) => put_bytes_field(&mut any, 1, text.as_bytes()),
        Attr::Bool(truth) => put_varint_field(&mut any, 2, u64::from(*truth)),
        Attr::Int(integer) => put_varint_field(&mut any, 3, *integer as u64),
        Attr::Double(number) => put_fixed64_field(&mut any, 4, number.to_bits()),
    }
    let mut pair = Vec::with_capacity(64);
    put_bytes_field(&mut pair, 1, key.as_bytes());
    put_bytes_field(&mut pair, 2, &any);
    put_bytes_field(out, number, &pair);
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
