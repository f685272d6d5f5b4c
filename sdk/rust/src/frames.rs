//! Splits a batch by partition and packs each share as a frame, ready to be forwarded unopened.
//!
//! Invariant: every span of the batch is in exactly one frame, in the partition of its trace id.

use crate::{Compression, batch::SpanBatch, wire};

/// The partitions of the spans topic, as the gateway handed them out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionMap {
    /// Version, sent with each request.
    pub version: u64,
    /// Number of partitions.
    pub partitions: u32,
}

/// Encodes the frames of `batch` as `ExportRequest.frames` fields.
pub(crate) fn encode_frames(
    batch: &SpanBatch,
    map: PartitionMap,
    compression: Compression,
) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::with_capacity(batch.byte_len() + 64);
    for (partition, share) in split(batch, map.partitions).into_iter().enumerate() {
        if share.spans > 0 {
            put_frame(&mut request, partition as u32, &share, compression)?;
        }
    }
    Ok(request)
}

#[derive(Clone, Debug, Default)]
struct Share {
    body: Vec<u8>,
    spans: u64,
}

fn split(batch: &SpanBatch, partitions: u32) -> Vec<Share> {
    let partitions = partitions.max(1);
    let count = partitions as usize;
    let partition_of = |hash: u64| (hash % u64::from(partitions)) as usize;
    let mut sizes = vec![0usize; count];
    let mut used = vec![vec![false; batch.origins.len()]; count];
    for entry in &batch.entries {
        let partition = partition_of(entry.partition_hash);
        sizes[partition] += entry.end - entry.start;
        if let Some(flag) = used[partition].get_mut(entry.origin as usize) {
            *flag = true;
        }
    }
    let mut shares: Vec<Share> =
        sizes.iter().map(|size| Share { body: Vec::with_capacity(size + 512), spans: 0 }).collect();
    for entry in &batch.entries {
        let share = &mut shares[partition_of(entry.partition_hash)];
        share.body.extend_from_slice(&batch.bytes[entry.start..entry.end]);
        share.spans += 1;
    }
    for (share, used) in shares.iter_mut().zip(&used) {
        let needed = used.iter().rposition(|flag| *flag).map_or(0, |last| last + 1);
        for (origin, used) in batch.origins.iter().zip(used).take(needed) {
            wire::put_bytes(&mut share.body, 4, if *used { origin } else { &[] });
        }
    }
    shares
}

fn put_frame(
    request: &mut Vec<u8>,
    partition: u32,
    share: &Share,
    compression: Compression,
) -> std::io::Result<()> {
    let packed;
    let body: &[u8] = match compression {
        Compression::None => &share.body,
        other => {
            packed = other.compress_frame(&share.body)?;
            &packed
        }
    };
    let frame = wire::open(request, 2, wire::varint_len(body.len() as u64 + 40));
    wire::put_uint_nonzero(request, 1, u64::from(partition));
    wire::put_uint_nonzero(request, 2, compression.codec());
    wire::put_fixed32(request, 3, crc32c::crc32c(body));
    wire::put_uint(request, 4, share.spans);
    wire::put_uint(request, 5, share.body.len() as u64);
    wire::put_bytes(request, 6, body);
    wire::close(request, frame);
    Ok(())
}

#[cfg(test)]
mod tests {
    use infertrace_proto::v1;
    use prost::Message;

    use super::*;
    use crate::{SpanBatchBuilder, SpanId, TraceId, partition_of};

    fn unpack(frame: &v1::Frame) -> v1::SpanBatch {
        let size = frame.uncompressed_size as usize;
        let body = match frame.codec {
            0 => frame.body.to_vec(),
            1 => lz4_flex::block::decompress(&frame.body, size).expect("lz4"),
            2 => zstd::bulk::decompress(&frame.body, size).expect("zstd"),
            _ => snap::raw::Decoder::new().decompress_vec(&frame.body).expect("snappy"),
        };
        assert_eq!(body.len(), size);
        v1::SpanBatch::decode(body.as_slice()).expect("a SpanBatch")
    }

    /// Scenario: 300 spans of 100 traces with three origins, over several partition counts and every codec.
    /// Guarantee: each span is in one frame, in its partition, with the checksum right and its own origin.
    #[test]
    fn frames_hold_every_span_once_in_its_partition() {
        let mut builder = SpanBatchBuilder::new();
        let origins = ["a", "b", "c"].map(|name| builder.origin(&[("service.name", name.into())], name, "1"));
        for index in 0..300u64 {
            let mut trace = [0u8; 16];
            trace[8..].copy_from_slice(&(1 + index / 3).to_be_bytes());
            let origin = origins[(index % 3) as usize];
            builder.span(TraceId(trace), SpanId((index + 1).to_be_bytes())).origin(origin).operation("op");
        }
        let batch = builder.build();
        let codecs = [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Snappy];
        for (partitions, codec) in [1, 2, 8, 64].into_iter().zip(codecs) {
            let request =
                encode_frames(&batch, PartitionMap { version: 1, partitions }, codec).expect("encode");
            let request = v1::ExportRequest::decode(request.as_slice()).expect("an ExportRequest");
            let mut seen = Vec::new();
            for frame in &request.frames {
                assert_eq!(frame.crc32c, crc32c::crc32c(&frame.body));
                let share = unpack(frame);
                assert_eq!(share.spans.len() as u32, frame.span_count);
                for span in &share.spans {
                    let trace = TraceId(span.trace_id.as_slice().try_into().expect("16 bytes"));
                    assert_eq!(partition_of(&trace, partitions), frame.partition);
                    let origin = &share.origins[span.origin as usize];
                    let scope = origin.scope.as_ref().expect("kept");
                    assert_eq!(scope.name, ["a", "b", "c"][span.origin as usize]);
                    seen.push(u64::from_be_bytes(span.span_id.as_slice().try_into().expect("8 bytes")));
                }
            }
            seen.sort_unstable();
            assert_eq!(seen, (1..=300).collect::<Vec<_>>());
        }
    }
}
