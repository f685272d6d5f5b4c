//! FNV-1a, 64 bit: ids and assignments that stay the same for ever (G. Fowler, L. C. Noll, K.-P. Vo, 1991).

use crate::rollup::Key;

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;

/// Hash of texts, each ended by a byte that UTF-8 never has.
pub(crate) fn of_texts(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0xff]));
    bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME))
}

/// Hash of a key.
pub(crate) fn of_key(key: &Key) -> u64 {
    of_texts(&[&key.tenant, &key.model, &key.version, &key.service, &key.stage, &key.device])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a known text, and texts cut in two places. Guarantee: FNV's own test vector; where it is cut counts.
    #[test]
    fn hashes_stay() {
        let plain = "foobar".bytes().fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
        assert_eq!(plain, 0x8594_4171_f739_67e8);
        assert_ne!(of_texts(&["ab", "c"]), of_texts(&["a", "bc"]));
    }
}
