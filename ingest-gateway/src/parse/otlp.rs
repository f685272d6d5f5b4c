//! OTLP traces, transcoded once and straight from their bytes.
//!
//! Our `Span` was laid out so that most fields of OTLP's differ by one tag byte: those are copied in runs
//! and their tags patched. Only times, trace state and three counters are written anew; `service.name` is
//! found once a resource. Resource and scope become one `Origin` of each record that uses them.

use infertrace_schemas::{
    partition::partition_of,
    wire::{Fields, Value, put_bytes_field, put_varint, put_varint_field, varint_len},
};

use super::{
    Context, Outcome, ParseError, Reason,
    check::{self, take_bytes, take_fixed64, take_varint},
    shares::{Layout, OriginRef, Shares},
};

const UNKNOWN_SERVICE: &[u8] = b"unknown_service";
/// A longer `service.name` is refused, because it is repeated in every span.
const MAX_SERVICE_NAME_BYTES: usize = 1024;

/// Splits an encoded `ExportTraceServiceRequest` into records.
pub(crate) fn parse(request: &[u8], context: &Context<'_>) -> Result<Outcome, ParseError> {
    let wire = ParseError::wire("ExportTraceServiceRequest");
    let mut transcoder = Transcoder {
        context,
        shares: Shares::new(context, Layout::Spans, context.tenant, &[], request.len()),
        outcome: Outcome::default(),
        index: 0,
        scratch: Scratch::default(),
    };
    for field in Fields::new(request) {
        let field = field.map_err(&wire)?;
        if field.number == 1 {
            transcoder.resource_spans(field.bytes().map_err(&wire)?)?;
        }
    }
    transcoder.shares.check_output()?;
    let mut outcome = transcoder.outcome;
    outcome.records = transcoder.shares.into_records();
    Ok(outcome)
}

struct Transcoder<'a> {
    context: &'a Context<'a>,
    shares: Shares<'a>,
    outcome: Outcome,
    index: u64,
    scratch: Scratch,
}

/// A `ResourceSpans` less its spans.
#[derive(Default)]
pub(super) struct ResourcePart<'r> {
    /// Every occurrence: protobuf merges them, and so does whoever reads the origin.
    resources: Vec<&'r [u8]>,
    schema_url: &'r [u8],
    /// `service.name`, or a stand-in.
    service: &'r [u8],
    fault: Option<Reason>,
}

/// A `ScopeSpans` less its spans.
#[derive(Default)]
pub(super) struct ScopePart<'r> {
    scopes: Vec<&'r [u8]>,
    schema_url: &'r [u8],
    fault: Option<Reason>,
}

impl<'r> ResourcePart<'r> {
    /// Reads fields 1 and 3 of a `ResourceSpans` or `ResourceMetrics`.
    pub(super) fn read(message: &'r [u8], what: &'static str, depth: u32) -> Result<Self, ParseError> {
        let wire = ParseError::wire(what);
        let mut part = Self { service: UNKNOWN_SERVICE, ..Self::default() };
        for field in Fields::new(message) {
            let field = field.map_err(&wire)?;
            match field.number {
                1 => part.resources.push(field.bytes().map_err(&wire)?),
                3 => part.schema_url = field.bytes().map_err(&wire)?,
                _ => {}
            }
        }
        part.fault = part
            .resources
            .iter()
            .find_map(|resource| check::message(check::RESOURCE, resource, depth).err())
            .or_else(|| check::text(part.schema_url).err());
        if part.fault.is_none() {
            if let Some(name) = part.attribute(b"service.name").filter(|name| !name.is_empty()) {
                part.service = name;
            }
            if part.service.len() > MAX_SERVICE_NAME_BYTES {
                part.fault = Some(Reason::TooLarge);
            }
        }
        Ok(part)
    }

    /// A string attribute of the resource.
    pub(super) fn attribute(&self, key: &[u8]) -> Option<&'r [u8]> {
        self.resources
            .iter()
            .flat_map(|resource| Fields::new(resource))
            .map_while(Result::ok)
            .filter(|field| field.number == 1)
            .filter_map(|field| field.bytes().ok())
            .find_map(|attribute| string_attribute(attribute, key))
    }

    pub(super) const fn service(&self) -> &'r [u8] {
        self.service
    }

    pub(super) const fn fault(&self) -> Option<Reason> {
        self.fault
    }
}

/// The string value of an encoded `KeyValue` with this key.
pub(super) fn string_attribute<'r>(key_value: &'r [u8], wanted: &[u8]) -> Option<&'r [u8]> {
    let mut key: &[u8] = &[];
    let mut value: &[u8] = &[];
    for field in Fields::new(key_value).map_while(Result::ok) {
        match (field.number, field.value) {
            (1, Value::Bytes(bytes)) => key = bytes,
            (2, Value::Bytes(bytes)) => value = bytes,
            _ => {}
        }
    }
    if key != wanted {
        return None;
    }
    Fields::new(value)
        .map_while(Result::ok)
        .filter(|field| field.number == 1)
        .find_map(|field| field.bytes().ok())
}

impl<'r> ScopePart<'r> {
    /// Reads fields 1 and 3 of a `ScopeSpans` or `ScopeMetrics`.
    pub(super) fn read(message: &'r [u8], what: &'static str, depth: u32) -> Result<Self, ParseError> {
        let wire = ParseError::wire(what);
        let mut part = Self::default();
        for field in Fields::new(message) {
            let field = field.map_err(&wire)?;
            match field.number {
                1 => part.scopes.push(field.bytes().map_err(&wire)?),
                3 => part.schema_url = field.bytes().map_err(&wire)?,
                _ => {}
            }
        }
        part.fault = part
            .scopes
            .iter()
            .find_map(|scope| check::message(check::SCOPE, scope, depth).err())
            .or_else(|| check::text(part.schema_url).err());
        Ok(part)
    }

    pub(super) const fn fault(&self) -> Option<Reason> {
        self.fault
    }
}

/// Appends the `Origin` of a resource and a scope.
pub(super) fn put_origin(out: &mut Vec<u8>, resource: &ResourcePart<'_>, scope: &ScopePart<'_>) {
    for bytes in &resource.resources {
        put_bytes_field(out, 1, bytes);
    }
    for bytes in &scope.scopes {
        put_bytes_field(out, 2, bytes);
    }
    if !resource.schema_url.is_empty() {
        put_bytes_field(out, 3, resource.schema_url);
    }
    if !scope.schema_url.is_empty() {
        put_bytes_field(out, 4, scope.schema_url);
    }
}

impl Transcoder<'_> {
    fn resource_spans(&mut self, message: &[u8]) -> Result<(), ParseError> {
        let resource = ResourcePart::read(message, "ResourceSpans", self.context.limits.max_depth)?;
        let wire = ParseError::wire("ResourceSpans");
        for field in Fields::new(message) {
            let field = field.map_err(&wire)?;
            if field.number == 2 {
                self.scope_spans(field.bytes().map_err(&wire)?, &resource)?;
            }
        }
        Ok(())
    }

    fn scope_spans(&mut self, message: &[u8], resource: &ResourcePart<'_>) -> Result<(), ParseError> {
        let wire = ParseError::wire("ScopeSpans");
        let scope = ScopePart::read(message, "ScopeSpans", self.context.limits.max_depth)?;
        let fault = resource.fault.or(scope.fault);
        let mut origin = None;
        for field in Fields::new(message) {
            let field = field.map_err(&wire)?;
            if field.number != 2 {
                continue;
            }
            let span = field.bytes().map_err(&wire)?;
            let accepted = match fault {
                Some(reason) => Err(reason),
                None => self.span(span, resource, &scope, &mut origin),
            };
            match accepted {
                Ok(()) => self.outcome.accepted += 1,
                Err(reason) => self.outcome.rejections.add(reason, self.index, 1),
            }
            self.index += 1;
            if self.index.is_multiple_of(1024) {
                self.shares.check_output()?;
            }
        }
        Ok(())
    }

    #[inline]
    fn span(
        &mut self,
        span: &[u8],
        resource: &ResourcePart<'_>,
        scope: &ScopePart<'_>,
        origin: &mut Option<u32>,
    ) -> Result<(), Reason> {
        if self.index >= self.context.limits.max_spans as u64 {
            return Err(Reason::TooManySpans);
        }
        let facts = self.scratch.scan(span, self.context)?;
        let origin = match *origin {
            Some(number) => number,
            None => *origin.insert(self.shares.origins().push(|out| put_origin(out, resource, scope))),
        };
        let partition = partition_of(&facts.trace_id, self.context.partitions);
        let length = self.scratch.copied_bytes() + facts.written_bytes(resource.service);
        // The index of the origin is known only once the record is: room for the largest.
        let room = 1 + 5 + length + 2 + 5;
        let (buffer, origin_index) = self.shares.place(partition, room, OriginRef::Any(origin))?;
        let length = length + varint_field_bytes(2, u64::from(origin_index));
        buffer.push(0x0a);
        put_varint(buffer, length as u64);
        let begin = buffer.len();
        self.scratch.copy(span, buffer);
        facts.write(resource.service, origin_index, buffer);
        debug_assert_eq!(buffer.len() - begin, length, "the length was computed before the bytes");
        Ok(())
    }
}

/// Bytes of a varint field whose tag takes `tag_bytes`; a zero is left out.
const fn varint_field_bytes(tag_bytes: usize, value: u64) -> usize {
    if value == 0 { 0 } else { tag_bytes + varint_len(value) }
}

/// What of a span is not copied.
struct Facts<'s> {
    trace_id: [u8; 16],
    start: u64,
    duration: u64,
    trace_state: &'s [u8],
    dropped_attributes: u64,
    dropped_events: u64,
    dropped_links: u64,
}

impl Facts<'_> {
    #[inline]
    fn written_bytes(&self, service: &[u8]) -> usize {
        let trace_state = match self.trace_state.len() {
            0 => 0,
            length => 2 + varint_len(length as u64) + length,
        };
        1 + varint_len(service.len() as u64)
            + service.len()
            + varint_field_bytes(1, self.start)
            + varint_field_bytes(1, self.duration)
            + trace_state
            + varint_field_bytes(2, self.dropped_attributes)
            + varint_field_bytes(2, self.dropped_events)
            + varint_field_bytes(2, self.dropped_links)
    }

    #[inline]
    fn write(&self, service: &[u8], origin: u32, out: &mut Vec<u8>) {
        put_bytes_field(out, 4, service);
        if self.start != 0 {
            put_varint_field(out, 6, self.start);
        }
        if self.duration != 0 {
            put_varint_field(out, 7, self.duration);
        }
        for (number, value) in [
            (17, self.dropped_events),
            (18, self.dropped_links),
            (20, self.dropped_attributes),
            (21, u64::from(origin)),
        ] {
            if value != 0 {
                put_varint_field(out, number, value);
            }
        }
        if !self.trace_state.is_empty() {
            put_bytes_field(out, 19, self.trace_state);
        }
    }
}

/// Which bytes of a span are copied, and which of them change. Reused from span to span.
#[derive(Default)]
struct Scratch {
    /// Start and end of each run, ascending.
    runs: Vec<(usize, usize)>,
    /// Position of a tag byte inside the runs, ascending, and its new value.
    patches: Vec<(usize, u8)>,
}

impl Scratch {
    #[inline]
    fn copied_bytes(&self) -> usize {
        self.runs.iter().map(|(start, end)| end - start).sum()
    }

    #[inline]
    fn copy(&self, span: &[u8], out: &mut Vec<u8>) {
        let mut patches = self.patches.iter().peekable();
        for &(start, end) in &self.runs {
            let begin = out.len();
            out.extend_from_slice(&span[start..end]);
            let copied = &mut out[begin..];
            while let Some(&(position, tag)) = patches.next_if(|(position, _)| *position < end) {
                copied[position - start] = tag;
            }
        }
    }

    /// The one validating pass over an OTLP span's bytes.
    #[inline]
    fn scan<'s>(&mut self, span: &'s [u8], context: &Context<'_>) -> Result<Facts<'s>, Reason> {
        if span.len() > context.limits.max_span_bytes {
            return Err(Reason::TooLarge);
        }
        self.runs.clear();
        self.patches.clear();
        let depth = context.limits.max_depth;
        let (mut trace_id, mut span_id, mut trace_state): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
        let (mut start, mut end) = (0u64, 0u64);
        let (mut dropped_attributes, mut dropped_events, mut dropped_links) = (0u64, 0u64, 0u64);
        let mut parents = 0u32;
        let mut attributes = 0usize;
        let mut run_start = 0usize;
        let mut rest = span;
        while let Some((&tag, tail)) = rest.split_first() {
            let position = span.len() - rest.len();
            let at = rest;
            rest = tail;
            // An arm that falls through leaves the field in the run; the others end the run before it.
            match tag {
                0x4a => {
                    attributes += 1;
                    check::key_value(take_bytes(&mut rest)?, depth)?;
                    self.patches.push((position, 0x5a));
                    continue;
                }
                0x0a => {
                    trace_id = take_bytes(&mut rest)?;
                    continue;
                }
                0x12 => {
                    span_id = take_bytes(&mut rest)?;
                    continue;
                }
                0x22 => {
                    parents += 1;
                    let parent = take_bytes(&mut rest)?;
                    let is_root = match parent.len() {
                        0 => true,
                        8 => parent == [0; 8],
                        _ => return Err(Reason::BadParentSpanId),
                    };
                    if !is_root {
                        self.patches.push((position, 0x1a));
                        continue;
                    }
                }
                0x2a => {
                    check::text(take_bytes(&mut rest)?)?;
                    continue;
                }
                0x30 => {
                    take_varint(&mut rest)?;
                    self.patches.push((position, 0x70));
                    continue;
                }
                0x5a => {
                    check::message(check::EVENT, take_bytes(&mut rest)?, depth)?;
                    self.patches.push((position, 0x62));
                    continue;
                }
                0x6a => {
                    check::message(check::LINK, take_bytes(&mut rest)?, depth)?;
                    continue;
                }
                0x7a => {
                    check::message(check::STATUS, take_bytes(&mut rest)?, depth)?;
                    continue;
                }
                0x39 => start = take_fixed64(&mut rest)?,
                0x41 => end = take_fixed64(&mut rest)?,
                0x1a => {
                    trace_state = take_bytes(&mut rest)?;
                    check::text(trace_state)?;
                }
                0x50 => dropped_attributes = take_varint(&mut rest)? & u64::from(u32::MAX),
                0x60 => dropped_events = take_varint(&mut rest)? & u64::from(u32::MAX),
                0x70 => dropped_links = take_varint(&mut rest)? & u64::from(u32::MAX),
                _ => {
                    let mut fields = Fields::new(at);
                    let field = fields.next().ok_or(Reason::Malformed)?.map_err(|_| Reason::Malformed)?;
                    rest = fields.rest();
                    match (field.number, field.value) {
                        (16, Value::Fixed32(_)) if at[..2] == [0x85, 0x01] => continue,
                        // Known fields with another wire type, or with an overlong tag that no encoder writes.
                        (1..=16, _) => return Err(Reason::Malformed),
                        // Our own span uses these numbers for other things: they are not copied.
                        _ => {}
                    }
                }
            }
            if run_start < position {
                self.runs.push((run_start, position));
            }
            run_start = span.len() - rest.len();
        }
        if run_start < span.len() {
            self.runs.push((run_start, span.len()));
        }
        if attributes > context.limits.max_attributes {
            return Err(Reason::TooManyAttributes);
        }
        let trace_id = check::trace_id(trace_id)?;
        check::span_id(span_id)?;
        if parents > 1 {
            return Err(Reason::Malformed);
        }
        let (start, duration) = match (i64::try_from(start), i64::try_from(end)) {
            (Ok(start), Ok(end)) => (start, end - start),
            _ => return Err(Reason::ClockSkew),
        };
        context.window.check(start, duration)?;
        Ok(Facts {
            trace_id,
            start: start.cast_unsigned(),
            duration: duration.cast_unsigned(),
            trace_state,
            dropped_attributes,
            dropped_events,
            dropped_links,
        })
    }
}
