//! Parquet's RLE/bit-packed hybrid: how levels and dictionary indices are stored.
//!
//! Invariant: what is written decodes to the same numbers, followed by zeros up to a multiple of eight where
//! the last group is bit-packed (readers know the count).

/// Bits that `max` needs.
pub(super) const fn bit_width(max: u32) -> u8 {
    (u32::BITS - max.leading_zeros()) as u8
}

/// Appends `values`, each below `1 << width`; `width` is at most 32.
pub(super) fn encode(values: &[u32], width: u8, out: &mut Vec<u8>) {
    let mut literals = 0..0;
    let mut at = 0;
    while at < values.len() {
        let run = run_length(&values[at..]);
        // A run may only begin where the bit-packed groups before it are full.
        let gap = (8 - literals.len() % 8) % 8;
        if run >= 8 + gap {
            literals.end += gap;
            encode_literals(&values[literals.clone()], width, out);
            encode_run(values[at], run - gap, width, out);
            at += run;
            literals = at..at;
        } else {
            // Fewer equal values than pay; the next look starts after them.
            let step = run.max(1);
            literals.end += step;
            at += step;
        }
    }
    encode_literals(&values[literals], width, out);
}

fn run_length(values: &[u32]) -> usize {
    let first = values[0];
    values.iter().take_while(|value| **value == first).count()
}

/// Appends `count` times `value`.
pub(super) fn encode_run(value: u32, count: usize, width: u8, out: &mut Vec<u8>) {
    if count == 0 {
        return;
    }
    put_varint(out, (count as u64) << 1);
    out.extend_from_slice(&value.to_le_bytes()[..usize::from(width.div_ceil(8))]);
}

fn encode_literals(values: &[u32], width: u8, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(8);
    put_varint(out, (groups as u64) << 1 | 1);
    out.reserve(groups * usize::from(width) + 8);
    let (mut bits, mut filled) = (0u64, 0u8);
    for &value in values {
        bits |= u64::from(value) << filled;
        filled += width;
        if filled >= 32 {
            out.extend_from_slice(&(bits as u32).to_le_bytes());
            bits >>= 32;
            filled -= 32;
        }
    }
    let written = values.len() * usize::from(width) / 32 * 4;
    let wanted = groups * usize::from(width);
    let tail = wanted - written;
    out.extend_from_slice(&bits.to_le_bytes()[..tail.min(8)]);
    out.extend(std::iter::repeat_n(0, tail.saturating_sub(8)));
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (&first, rest) = bytes.split_first().expect("varint");
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    /// As the format's specification says, bit by bit.
    fn decode(mut bytes: &[u8], width: u8, count: usize) -> Vec<u32> {
        let mut values = Vec::new();
        while values.len() < count {
            let header = read_varint(&mut bytes);
            if header & 1 == 0 {
                let (stored, rest) = bytes.split_at(usize::from(width.div_ceil(8)));
                let mut value = [0; 4];
                value[..stored.len()].copy_from_slice(stored);
                values.extend(std::iter::repeat_n(u32::from_le_bytes(value), (header >> 1) as usize));
                bytes = rest;
            } else {
                let groups = (header >> 1) as usize;
                let (packed, rest) = bytes.split_at(groups * usize::from(width));
                for index in 0..groups * 8 {
                    let bit = |at: usize| u32::from(packed[at / 8] >> (at % 8) & 1);
                    values.push(
                        (0..usize::from(width)).map(|of| bit(index * usize::from(width) + of) << of).sum(),
                    );
                }
                bytes = rest;
            }
        }
        assert!(bytes.is_empty(), "nothing is left over");
        values.truncate(count);
        values
    }

    proptest! {
        /// Scenario: runs and single values of any width. Guarantee: they decode to what was encoded.
        #[test]
        fn round_trip(width in 1u8..=32, runs in proptest::collection::vec((any::<u32>(), 1usize..40), 0..40)) {
            let mask = u32::MAX >> (32 - width);
            let values: Vec<u32> =
                runs.into_iter().flat_map(|(value, count)| std::iter::repeat_n(value & mask, count)).collect();
            let mut out = Vec::new();
            encode(&values, width, &mut out);
            prop_assert_eq!(decode(&out, width, values.len()), values);
        }

        /// Scenario: mostly different values. Guarantee: as above, and no larger than plain bit-packing and its headers.
        #[test]
        fn literals_stay_small(values in proptest::collection::vec(0u32..1_000, 1..300)) {
            let mut out = Vec::new();
            encode(&values, 10, &mut out);
            prop_assert!(out.len() <= values.len().div_ceil(8) * 10 + 12);
            prop_assert_eq!(decode(&out, 10, values.len()), values);
        }
    }

    /// Scenario: the widths of small maxima. Guarantee: as many bits as the maximum has.
    #[test]
    fn widths() {
        assert_eq!([0, 1, 2, 3, 4, 255, 256, u32::MAX].map(bit_width), [0, 1, 2, 2, 3, 8, 9, 32]);
    }
}
