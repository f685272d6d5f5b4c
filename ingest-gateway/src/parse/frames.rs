//! Frames: batches that their sender split by partition and compressed.
//!
//! `validate = frame` checks the CRC and wraps the body unopened. `validate = full` opens it too: when every
//! span is good and in its right partition the body still goes on as it came, otherwise the good spans are
//! re-encoded. A body larger than the log's record is opened and split in either mode.

use infertrace_proto::v1::Codec;
use infertrace_schemas::{
    frame::decompress,
    wire::{Fields, Value, WireError, put_bytes_field, put_varint, put_varint_field, varint_len},
};

use super::{
    Context, Outcome, ParseError, Reason, native,
    shares::{Record, begin_record, seal_record},
};
use crate::config::FrameCheck;

/// An `ExportRequest`, unopened.
#[derive(Debug, Default)]
pub(crate) struct Export<'a> {
    pub(crate) batch: Option<&'a [u8]>,
    pub(crate) frames: Vec<Frame<'a>>,
    pub(crate) sequence: u64,
    pub(crate) partition_map_version: u64,
}

/// A `Frame`, unopened.
#[derive(Debug, Default)]
pub(crate) struct Frame<'a> {
    partition: u64,
    codec: u64,
    crc32c: u32,
    span_count: u64,
    uncompressed_size: u64,
    body: &'a [u8],
}

/// Reads the outer structure of an `ExportRequest`.
pub(crate) fn read_export<'a>(request: &'a [u8], max_frames: usize) -> Result<Export<'a>, ParseError> {
    let wire = ParseError::wire("ExportRequest");
    let mut export = Export::default();
    for field in Fields::new(request) {
        let field = field.map_err(&wire)?;
        match field.number {
            1 => {
                let batch = field.bytes().map_err(&wire)?;
                if export.batch.replace(batch).is_some() {
                    return Err(ParseError::Invalid("an ExportRequest holds one batch".into()));
                }
            }
            2 => {
                if export.frames.len() == max_frames {
                    return Err(ParseError::Invalid(format!("more than {max_frames} frames in one request")));
                }
                export
                    .frames
                    .push(read_frame(field.bytes().map_err(&wire)?).map_err(ParseError::wire("Frame"))?);
            }
            3 => export.sequence = field.varint().map_err(&wire)?,
            4 => export.partition_map_version = field.varint().map_err(&wire)?,
            _ => {}
        }
    }
    if export.batch.is_some() && !export.frames.is_empty() {
        return Err(ParseError::Invalid("an ExportRequest holds either a batch or frames, not both".into()));
    }
    Ok(export)
}

/// The sequence of a request that cannot be read otherwise, as far as it can be found.
pub(crate) fn sequence_of(request: &[u8]) -> u64 {
    Fields::new(request)
        .map_while(Result::ok)
        .filter_map(|field| match (field.number, field.value) {
            (3, Value::Varint(sequence)) => Some(sequence),
            _ => None,
        })
        .last()
        .unwrap_or(0)
}

fn read_frame(message: &[u8]) -> Result<Frame<'_>, WireError> {
    let mut frame = Frame::default();
    for field in Fields::new(message) {
        let field = field?;
        match field.number {
            1 => frame.partition = field.varint()?,
            2 => frame.codec = field.varint()?,
            3 => frame.crc32c = field.fixed32()?,
            4 => frame.span_count = field.varint()?,
            5 => frame.uncompressed_size = field.varint()?,
            6 => frame.body = field.bytes()?,
            _ => {}
        }
    }
    Ok(frame)
}

/// Turns frames into records; their partition map must have been checked.
pub(crate) fn parse(
    frames: &[Frame<'_>],
    check: FrameCheck,
    context: &Context<'_>,
) -> Result<Outcome, ParseError> {
    let mut outcome = Outcome::default();
    let mut index = 0u64;
    // Opening is bounded for the request as a whole, not only frame by frame.
    let mut may_open = context.limits.max_body_bytes as u64;
    for frame in frames {
        // A count that is out of all reason must not distort the sums.
        let spans = frame.span_count.min(context.limits.max_spans as u64).max(1);
        match accept(frame, check, context, &mut may_open) {
            Ok(Accepted::Whole(record)) => {
                outcome.accepted += record.spans;
                outcome.records.push(record);
            }
            Ok(Accepted::Opened(opened)) => {
                outcome.accepted += opened.accepted;
                outcome.rejections.absorb(&opened.rejections, index);
                outcome.records.extend(opened.records);
            }
            Err(Fault::Frame(reason)) => outcome.rejections.add(reason, index, spans),
            Err(Fault::Request(error)) => return Err(error),
        }
        index += spans;
    }
    Ok(outcome)
}

enum Accepted {
    Whole(Record),
    Opened(Outcome),
}

enum Fault {
    Frame(Reason),
    Request(ParseError),
}

impl From<Reason> for Fault {
    fn from(reason: Reason) -> Self {
        Self::Frame(reason)
    }
}

fn accept(
    frame: &Frame<'_>,
    check: FrameCheck,
    context: &Context<'_>,
    may_open: &mut u64,
) -> Result<Accepted, Fault> {
    let codec = check_header(frame, context)?;
    if crc32c::crc32c(frame.body) != frame.crc32c {
        return Err(Reason::BadCrc.into());
    }
    let fits = wrapped_bytes(frame, context.tenant) <= context.max_record_bytes;
    if fits && check == FrameCheck::Frame {
        return Ok(Accepted::Whole(wrap(frame, context)));
    }
    if frame.uncompressed_size > *may_open {
        return Err(Reason::TooLarge.into());
    }
    *may_open -= frame.uncompressed_size;
    let limit = context.limits.max_body_bytes;
    let body = decompress(codec, frame.body, frame.uncompressed_size, limit).map_err(|_| Reason::BadFrame)?;
    let opened = match native::parse(&body, context) {
        Ok(opened) => opened,
        Err(error @ ParseError::Expands { .. }) => return Err(Fault::Request(error)),
        Err(_) => return Err(Reason::Malformed.into()),
    };
    let as_declared = opened.rejections.total() == 0
        && opened.accepted == frame.span_count
        && opened.records.iter().all(|record| u64::from(record.partition) == frame.partition);
    Ok(if fits && as_declared { Accepted::Whole(wrap(frame, context)) } else { Accepted::Opened(opened) })
}

fn check_header(frame: &Frame<'_>, context: &Context<'_>) -> Result<Codec, Reason> {
    // Ids alone take 30 bytes of a span, so a count can be checked without opening the frame.
    const SMALLEST_SPAN_BYTES: u64 = 30;
    let codec = i32::try_from(frame.codec)
        .ok()
        .and_then(|codec| Codec::try_from(codec).ok())
        .ok_or(Reason::BadFrame)?;
    let plausible = frame.partition < u64::from(context.partitions)
        && frame.span_count >= 1
        && frame.span_count <= context.limits.max_spans as u64
        && frame.uncompressed_size / SMALLEST_SPAN_BYTES >= frame.span_count
        && !frame.body.is_empty()
        && (codec != Codec::None || frame.uncompressed_size == frame.body.len() as u64);
    if !plausible {
        return Err(Reason::BadFrame);
    }
    if frame.uncompressed_size > context.limits.max_body_bytes as u64 {
        return Err(Reason::TooLarge);
    }
    Ok(codec)
}

fn packed_bytes(frame: &Frame<'_>) -> usize {
    let codec = if frame.codec == 0 { 0 } else { 1 + varint_len(frame.codec) };
    codec
        + (1 + varint_len(frame.span_count))
        + (1 + varint_len(frame.uncompressed_size))
        + (1 + varint_len(frame.body.len() as u64) + frame.body.len())
}

/// Upper bound of the record that [`wrap`] makes.
fn wrapped_bytes(frame: &Frame<'_>, tenant: &str) -> usize {
    18 + 2 + tenant.len() + 1 + 10 + packed_bytes(frame)
}

/// `SpanBatch { batch_id, tenant, packed }`.
fn wrap(frame: &Frame<'_>, context: &Context<'_>) -> Record {
    let mut payload = context.pool.take();
    begin_record(&mut payload, context.tenant);
    payload.push(0x2a);
    put_varint(&mut payload, packed_bytes(frame) as u64);
    if frame.codec != 0 {
        put_varint_field(&mut payload, 1, frame.codec);
    }
    put_varint_field(&mut payload, 2, frame.span_count);
    put_varint_field(&mut payload, 3, frame.uncompressed_size);
    put_bytes_field(&mut payload, 4, frame.body);
    seal_record(&mut payload, 0);
    Record { partition: frame.partition as u32, spans: frame.span_count, payload }
}
