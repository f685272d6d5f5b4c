//! Appending of the protobuf wire format: the few lines the SDK needs, so that it stays free of `schemas`.
//!
//! Invariant: what is written is canonical protobuf (shortest varints, right lengths).

/// Wire type 2, length-delimited.
const LENGTH_DELIMITED: u64 = 2;

#[inline]
pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub(crate) const fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
fn put_key(out: &mut Vec<u8>, number: u32, wire_type: u64) {
    put_varint(out, u64::from(number) << 3 | wire_type);
}

/// A varint field, zero included: presence is the caller's decision.
#[inline]
pub(crate) fn put_uint(out: &mut Vec<u8>, number: u32, value: u64) {
    put_key(out, number, 0);
    put_varint(out, value);
}

/// A varint field, left out when zero.
#[inline]
pub(crate) fn put_uint_nonzero(out: &mut Vec<u8>, number: u32, value: u64) {
    if value != 0 {
        put_uint(out, number, value);
    }
}

#[inline]
pub(crate) fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_key(out, number, LENGTH_DELIMITED);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A string field, left out when empty.
#[inline]
pub(crate) fn put_str_nonempty(out: &mut Vec<u8>, number: u32, text: &str) {
    if !text.is_empty() {
        put_bytes(out, number, text.as_bytes());
    }
}

#[inline]
pub(crate) fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_key(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub(crate) fn put_fixed64(out: &mut Vec<u8>, number: u32, value: u64) {
    put_key(out, number, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub(crate) fn put_fixed32(out: &mut Vec<u8>, number: u32, value: u32) {
    put_key(out, number, 5);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Where an open message's length belongs; made by [`open`], used up by [`close`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Open {
    length_at: usize,
    reserved: usize,
}

/// Starts a message field whose length is not known yet; `reserved` bytes are kept for the length.
#[inline]
pub(crate) fn open(out: &mut Vec<u8>, number: u32, reserved: usize) -> Open {
    put_key(out, number, LENGTH_DELIMITED);
    let length_at = out.len();
    out.resize(length_at + reserved, 0);
    Open { length_at, reserved }
}

/// Ends it: writes the length, and moves the body only when the reserved bytes were the wrong number.
#[inline]
pub(crate) fn close(out: &mut Vec<u8>, open: Open) {
    let Open { length_at, reserved } = open;
    let body_at = length_at + reserved;
    let length = out.len() - body_at;
    let needed = varint_len(length as u64);
    if needed != reserved {
        let end = out.len();
        if needed > reserved {
            out.resize(end + needed - reserved, 0);
        }
        out.copy_within(body_at..end, length_at + needed);
        out.truncate(length_at + needed + length);
    }
    let mut rest = length as u64;
    for slot in &mut out[length_at..length_at + needed - 1] {
        *slot = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[length_at + needed - 1] = rest as u8;
}

/// Writes one nested message.
#[inline]
pub(crate) fn put_message(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    let message = open(out, number, 1);
    write(out);
    close(out, message);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Scenario: bodies of any length, any number of reserved bytes. Guarantee: the same bytes as a plain
        /// length-prefixed field.
        #[test]
        fn a_closed_message_is_canonical(length in 0usize..40_000, reserved in 1usize..4) {
            let body = vec![7u8; length];
            let mut out = vec![1, 2, 3];
            let message = open(&mut out, 9, reserved);
            out.extend_from_slice(&body);
            close(&mut out, message);
            let mut plain = vec![1, 2, 3];
            put_bytes(&mut plain, 9, &body);
            prop_assert_eq!(out, plain);
        }
    }
}
