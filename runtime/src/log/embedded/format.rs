//! Bytes of the journal: segment header, entries, operations. Pure encoding and decoding.
//!
//! ```text
//! segment  = header(32) entry*                     entries start at multiples of 8
//! entry    = header(32) operation* padding         one entry is one atomic batch
//! operation = header(40) body
//! ```
//! Invariants: every byte of an entry is covered by exactly one CRC-32C (the entry header's, an
//! operation header's or a body's), so a body is checksummed once, outside the writer's thread, and one
//! record can be checked without its neighbours. CRCs are seeded with a random salt of the segment:
//! bytes that a client planted in a payload never pass for an entry. An entry also says up to where the
//! segment was durable when it was written, which tells a torn tail from damage in acknowledged data.

use bytes::Bytes;

use crate::log::Millis;

pub(super) const SEGMENT_HEADER: usize = 32;
pub(super) const ENTRY_HEADER: usize = 32;
pub(super) const OP_HEADER: usize = 40;
pub(super) const ALIGN: usize = 8;

const SEGMENT_MAGIC: [u8; 8] = *b"ITLOGSEG";
const ENTRY_MAGIC: u32 = 0x3149_5445;
const VERSION: u32 = 1;

pub(super) const HAS_KEY: u8 = 1;
pub(super) const HAS_PAYLOAD: u8 = 2;
pub(super) const LZ4: u8 = 4;
pub(super) const CARRIED: u8 = 8;
pub(super) const COMPACTED: u8 = 16;

/// Bytes to the next multiple of [`ALIGN`].
pub(super) const fn padding(len: usize) -> usize {
    (ALIGN - len % ALIGN) % ALIGN
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// Identity of one segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) seq: u64,
    pub(super) salt: u32,
}

impl SegmentHeader {
    pub(super) fn encode(self) -> [u8; SEGMENT_HEADER] {
        let mut out = [0; SEGMENT_HEADER];
        out[..8].copy_from_slice(&SEGMENT_MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..24].copy_from_slice(&self.seq.to_le_bytes());
        let crc = crc32c::crc32c(&out[..24]);
        out[24..28].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        if bytes.len() < SEGMENT_HEADER || bytes[..8] != SEGMENT_MAGIC {
            return Err("not a segment file");
        }
        if crc32c::crc32c(&bytes[..24]) != u32_at(bytes, 24) {
            return Err("segment header checksum mismatch");
        }
        if u32_at(bytes, 8) != VERSION {
            return Err("segment of an unknown version");
        }
        Ok(Self { salt: u32_at(bytes, 12), seq: u64_at(bytes, 16) })
    }
}

/// Head of one atomic batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct EntryHeader {
    /// Bytes of the operations, without padding.
    pub(super) len: u32,
    /// Number of operations.
    pub(super) ops: u32,
    /// Number of the entry in its segment.
    pub(super) number: u64,
    /// Position in the segment that was durable when this entry was written.
    pub(super) durable: u64,
}

impl EntryHeader {
    pub(super) fn encode(self, salt: u32) -> [u8; ENTRY_HEADER] {
        let mut out = [0; ENTRY_HEADER];
        out[..4].copy_from_slice(&ENTRY_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..12].copy_from_slice(&self.ops.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable.to_le_bytes());
        let crc = header_crc(&out, 12, salt);
        out[12..16].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8], salt: u32) -> Result<Self, &'static str> {
        if bytes.len() < ENTRY_HEADER {
            return Err("truncated entry header");
        }
        if u32_at(bytes, 0) != ENTRY_MAGIC {
            return Err("no entry");
        }
        if header_crc(&bytes[..ENTRY_HEADER], 12, salt) != u32_at(bytes, 12) {
            return Err("entry header checksum mismatch");
        }
        Ok(Self {
            len: u32_at(bytes, 4),
            ops: u32_at(bytes, 8),
            number: u64_at(bytes, 16),
            durable: u64_at(bytes, 24),
        })
    }

    /// Bytes of the whole entry with its padding.
    pub(super) fn total(self) -> usize {
        let len = ENTRY_HEADER + self.len as usize;
        len + padding(len)
    }
}

/// CRC of a header without its four checksum bytes at `crc_at`.
fn header_crc(header: &[u8], crc_at: usize, salt: u32) -> u32 {
    let crc = crc32c::crc32c_append(salt, &header[..crc_at]);
    crc32c::crc32c_append(crc, &header[crc_at + 4..])
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpKind {
    /// `value` = offset, `time` = timestamp, body = record.
    Append,
    /// `topic` = its id, `partition` = count, `time` = retention (−1: none), body = name.
    Topic,
    /// `value` = next offset, body = group.
    Commit,
    /// `value` = end, `time` = low watermark; no body.
    Bounds,
}

/// Head of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpHeader {
    pub(super) kind: OpKind,
    pub(super) flags: u8,
    pub(super) topic: u32,
    pub(super) partition: u32,
    pub(super) body_len: u32,
    pub(super) value: u64,
    pub(super) time: i64,
    pub(super) body_crc: u32,
}

impl OpHeader {
    pub(super) fn encode(self, salt: u32) -> [u8; OP_HEADER] {
        let mut out = [0; OP_HEADER];
        out[0] = match self.kind {
            OpKind::Append => 1,
            OpKind::Topic => 2,
            OpKind::Commit => 3,
            OpKind::Bounds => 4,
        };
        out[1] = self.flags;
        out[4..8].copy_from_slice(&self.topic.to_le_bytes());
        out[8..12].copy_from_slice(&self.partition.to_le_bytes());
        out[12..16].copy_from_slice(&self.body_len.to_le_bytes());
        out[16..24].copy_from_slice(&self.value.to_le_bytes());
        out[24..32].copy_from_slice(&self.time.to_le_bytes());
        out[32..36].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = header_crc(&out, 36, salt);
        out[36..40].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8], salt: u32) -> Result<Self, &'static str> {
        if bytes.len() < OP_HEADER {
            return Err("truncated operation header");
        }
        if header_crc(&bytes[..OP_HEADER], 36, salt) != u32_at(bytes, 36) {
            return Err("operation header checksum mismatch");
        }
        let kind = match bytes[0] {
            1 => OpKind::Append,
            2 => OpKind::Topic,
            3 => OpKind::Commit,
            4 => OpKind::Bounds,
            _ => return Err("unknown operation"),
        };
        Ok(Self {
            kind,
            flags: bytes[1],
            topic: u32_at(bytes, 4),
            partition: u32_at(bytes, 8),
            body_len: u32_at(bytes, 12),
            value: u64_at(bytes, 16),
            time: u64_at(bytes, 24).cast_signed(),
            body_crc: u32_at(bytes, 32),
        })
    }

    /// Bytes of header and body.
    pub(super) fn total(self) -> usize {
        OP_HEADER + self.body_len as usize
    }
}

/// An operation with its checked body, at `at` bytes after the start of its entry.
#[derive(Debug)]
pub(super) struct Op<'a> {
    pub(super) header: OpHeader,
    pub(super) body: &'a [u8],
    pub(super) at: usize,
}

/// Checks a whole entry (as long as [`EntryHeader::total`]) and returns its operations.
pub(super) fn check_entry(entry: &[u8], header: EntryHeader, salt: u32) -> Result<Vec<Op<'_>>, &'static str> {
    let end = ENTRY_HEADER + header.len as usize;
    if entry.len() < end {
        return Err("truncated entry");
    }
    let mut ops = Vec::with_capacity((header.ops as usize).min(entry.len() / OP_HEADER));
    let mut at = ENTRY_HEADER;
    while at < end {
        let op = OpHeader::decode(&entry[at..end], salt)?;
        let body = entry[..end].get(at + OP_HEADER..at + op.total()).ok_or("truncated operation")?;
        if crc32c::crc32c(body) != op.body_crc {
            return Err("body checksum mismatch");
        }
        ops.push(Op { header: op, body, at });
        at += op.total();
    }
    if ops.len() != header.ops as usize {
        return Err("operation count mismatch");
    }
    Ok(ops)
}

/// Body of an `Append`, prepared outside the writer's thread: small head, then the payload uncopied.
#[derive(Clone, Debug)]
pub(super) struct Body {
    pub(super) head: Vec<u8>,
    pub(super) payload: Bytes,
    pub(super) flags: u8,
    pub(super) crc: u32,
}

impl Body {
    /// Encodes a record; `compressed` is the LZ4 block where it is smaller than the payload.
    pub(super) fn record(
        key: Option<&[u8]>,
        headers: &[(String, Bytes)],
        payload: Option<Bytes>,
        compressed: Option<Bytes>,
    ) -> Self {
        let mut head = Vec::with_capacity(16 + key.map_or(0, <[u8]>::len));
        let mut flags = 0;
        if let Some(key) = key {
            flags |= HAS_KEY;
            put_bytes(&mut head, key);
        }
        head.extend_from_slice(&length(headers.len()));
        for (name, value) in headers {
            put_bytes(&mut head, name.as_bytes());
            put_bytes(&mut head, value);
        }
        if payload.is_some() {
            flags |= HAS_PAYLOAD;
        }
        let raw_len = payload.as_ref().map_or(0, Bytes::len);
        let payload = match compressed {
            Some(block) => {
                flags |= LZ4;
                head.extend_from_slice(&length(raw_len));
                block
            }
            None => payload.unwrap_or_default(),
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &payload);
        Self { head, payload, flags, crc }
    }

    /// A body of plain bytes: a name.
    pub(super) fn plain(bytes: &[u8]) -> Self {
        Self { head: bytes.to_vec(), payload: Bytes::new(), flags: 0, crc: crc32c::crc32c(bytes) }
    }

    pub(super) fn len(&self) -> usize {
        self.head.len() + self.payload.len()
    }
}

fn length(value: usize) -> [u8; 4] {
    u32::try_from(value).expect("records are far smaller than 4 GiB").to_le_bytes()
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()));
    out.extend_from_slice(bytes);
}

/// A record's parts, read back.
#[derive(Debug)]
pub(super) struct RecordBody {
    pub(super) key: Option<Bytes>,
    pub(super) headers: Vec<(String, Bytes)>,
    pub(super) payload: Option<Bytes>,
    pub(super) timestamp: Millis,
}

/// Decodes the body of an `Append` whose CRC was checked; uncompressed parts are slices of `body`.
pub(super) fn decode_record(header: OpHeader, body: &Bytes) -> Result<RecordBody, &'static str> {
    let mut at = 0;
    let key = if header.flags & HAS_KEY != 0 { Some(take_bytes(body, &mut at)?) } else { None };
    let mut headers = Vec::new();
    for _ in 0..take_len(body, &mut at)? {
        let name = take_bytes(body, &mut at)?;
        let name = String::from_utf8(name.to_vec()).map_err(|_| "header name is not UTF-8")?;
        headers.push((name, take_bytes(body, &mut at)?));
    }
    let payload = if header.flags & LZ4 != 0 {
        let raw_len = take_len(body, &mut at)?;
        let raw =
            lz4_flex::block::decompress(&body[at..], raw_len).map_err(|_| "payload does not decompress")?;
        if raw.len() != raw_len {
            return Err("payload length mismatch");
        }
        Some(Bytes::from(raw))
    } else if header.flags & HAS_PAYLOAD != 0 {
        Some(body.slice(at..))
    } else {
        None
    };
    Ok(RecordBody { key, headers, payload, timestamp: Millis(header.time) })
}

/// The key alone.
pub(super) fn key_of(header: OpHeader, body: &[u8]) -> Result<Option<&[u8]>, &'static str> {
    if header.flags & HAS_KEY == 0 {
        return Ok(None);
    }
    let len = body.get(..4).ok_or("truncated key")?;
    body.get(4..4 + u32_at(len, 0) as usize).map(Some).ok_or("truncated key")
}

fn take_len(body: &[u8], at: &mut usize) -> Result<usize, &'static str> {
    let bytes = body.get(*at..*at + 4).ok_or("truncated record")?;
    *at += 4;
    Ok(u32_at(bytes, 0) as usize)
}

fn take_bytes(body: &Bytes, at: &mut usize) -> Result<Bytes, &'static str> {
    let len = take_len(body, at)?;
    if body.len() - *at < len {
        return Err("truncated record");
    }
    let out = body.slice(*at..*at + len);
    *at += len;
    Ok(out)
}

/// 128-bit hash that stands for a key in the index of a compacted topic.
pub(super) fn key_hash(key: &[u8]) -> [u64; 2] {
    let hash = xxhash_rust::xxh3::xxh3_128(key);
    [(hash >> 64) as u64, hash as u64]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: headers are encoded and decoded under another salt. Guarantee: they read back as they
    /// were, and bytes from another segment are refused.
    #[test]
    fn headers_round_trip_and_are_salted() {
        let segment = SegmentHeader { seq: 7, salt: 99 };
        assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
        let entry = EntryHeader { len: 40, ops: 1, number: 3, durable: 32 };
        assert_eq!(EntryHeader::decode(&entry.encode(99), 99), Ok(entry));
        assert!(EntryHeader::decode(&entry.encode(99), 98).is_err());
        let op = OpHeader {
            kind: OpKind::Append,
            flags: HAS_KEY | LZ4,
            topic: 1,
            partition: 2,
            body_len: 3,
            value: 4,
            time: -5,
            body_crc: 6,
        };
        assert_eq!(OpHeader::decode(&op.encode(99), 99), Ok(op));
        assert!(OpHeader::decode(&op.encode(99), 100).is_err());
    }

    /// Scenario: a record with key, headers and compressed payload. Guarantee: its parts come back.
    #[test]
    fn records_round_trip() {
        let payload = Bytes::from(vec![7_u8; 1000]);
        let block = Bytes::from(lz4_flex::block::compress(&payload));
        let headers = vec![("a".to_owned(), Bytes::from_static(b"b"))];
        let body = Body::record(Some(b"key"), &headers, Some(payload.clone()), Some(block));
        let bytes = Bytes::from([body.head.as_slice(), &body.payload].concat());
        let header = OpHeader {
            kind: OpKind::Append,
            flags: body.flags,
            topic: 0,
            partition: 0,
            body_len: u32::try_from(body.len()).unwrap(),
            value: 0,
            time: 12,
            body_crc: body.crc,
        };
        assert_eq!(crc32c::crc32c(&bytes), body.crc);
        assert_eq!(key_of(header, &bytes), Ok(Some(&b"key"[..])));
        let record = decode_record(header, &bytes).unwrap();
        assert_eq!(record.key.as_deref(), Some(&b"key"[..]));
        assert_eq!(record.headers, headers);
        assert_eq!(record.payload, Some(payload));
        assert_eq!(record.timestamp, Millis(12));
    }
}
