//! Compression of frames: a whole `SpanBatch` body under one codec, with its size known beforehand.
//!
//! The SDK and the load generator compress, the gateway checks the CRC, readers decompress
//! (`record`). Invariants: no input makes decompression allocate more than the caller's limit, and a body
//! whose real size differs from the size claimed for it is refused.

use std::{cell::RefCell, io};

pub use infertrace_proto::v1::Codec;

/// The most a packed body may unpack to, unless a caller says otherwise.
pub const DEFAULT_LIMIT_BYTES: usize = 64 << 20;

/// The zstd level of frames: fast, and within a few percent of the default level on spans.
pub const ZSTD_LEVEL: i32 = 1;

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// A codec this version does not know.
    #[error("unknown codec {0}")]
    UnknownCodec(i32),
    /// More than the reader is willing to unpack.
    #[error("body unpacks to {claimed} bytes, the limit is {limit}")]
    TooLarge {
        /// Size the sender claims.
        claimed: u64,
        /// Size allowed.
        limit: usize,
    },
    /// The body does not unpack to the size its sender claims.
    #[error("body unpacks to {actual} bytes, its sender claims {claimed}")]
    SizeMismatch {
        /// Size the sender claims.
        claimed: u64,
        /// Size found.
        actual: usize,
    },
    /// The codec's own bytes are broken.
    #[error("{codec:?} body is corrupt: {reason}")]
    Corrupt {
        /// Which codec.
        codec: Codec,
        /// What its decoder says.
        reason: String,
    },
}

/// CRC-32C (Castagnoli) of a frame's body, in hardware where there is any.
#[must_use]
#[inline]
pub fn crc(body: &[u8]) -> u32 {
    crc32c::crc32c(body)
}

thread_local! {
    // A zstd context is 100 KB and more; one a thread is kept rather than one built a frame.
    static ZSTD_COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static ZSTD_DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `bytes`; the receiver must be told `bytes.len()` beside the result.
#[must_use]
pub fn compress(codec: Codec, bytes: &[u8]) -> Vec<u8> {
    match codec {
        Codec::None => bytes.to_vec(),
        Codec::Lz4 => lz4_flex::block::compress(bytes),
        Codec::Zstd => ZSTD_COMPRESSOR.with_borrow_mut(|slot| {
            let compressor = match slot {
                Some(compressor) => compressor,
                None => slot.insert(
                    zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("a zstd context of a valid level"),
                ),
            };
            compressor.compress(bytes).expect("zstd compresses into a buffer of its own bound")
        }),
        Codec::Snappy => {
            snap::raw::Encoder::new().compress_vec(bytes).expect("snappy compresses every input below 4 GiB")
        }
    }
}

/// Unpacks `body`, which must have exactly `uncompressed_size` bytes unpacked, at most `limit`.
///
/// # Errors
/// [`FrameError`] when it has not, or is corrupt.
pub fn decompress(
    codec: Codec,
    body: &[u8],
    uncompressed_size: u64,
    limit: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    decompress_into(codec, body, uncompressed_size, limit, &mut out)?;
    Ok(out)
}

/// As [`decompress`], into a buffer that is reused; its former content is replaced.
///
/// # Errors
/// [`FrameError`]; `out` is empty or holds garbage then.
pub fn decompress_into(
    codec: Codec,
    body: &[u8],
    uncompressed_size: u64,
    limit: usize,
    out: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let size = match usize::try_from(uncompressed_size) {
        Ok(size) if size <= limit => size,
        _ => return Err(FrameError::TooLarge { claimed: uncompressed_size, limit }),
    };
    out.clear();
    let corrupt = |reason: String| FrameError::Corrupt { codec, reason };
    let actual = match codec {
        Codec::None => {
            if body.len() == size {
                out.extend_from_slice(body);
            }
            body.len()
        }
        Codec::Lz4 => {
            out.resize(size, 0);
            lz4_flex::block::decompress_into(body, out).map_err(|error| corrupt(error.to_string()))?
        }
        Codec::Zstd => {
            out.resize(size, 0);
            unzstd(body, out).map_err(|error| corrupt(error.to_string()))?
        }
        Codec::Snappy => {
            let actual = snap::raw::decompress_len(body).map_err(|error| corrupt(error.to_string()))?;
            if actual == size {
                out.resize(size, 0);
                snap::raw::Decoder::new()
                    .decompress(body, out)
                    .map_err(|error| corrupt(error.to_string()))?;
            }
            actual
        }
    };
    if actual == size { Ok(()) } else { Err(FrameError::SizeMismatch { claimed: uncompressed_size, actual }) }
}

fn unzstd(body: &[u8], out: &mut [u8]) -> io::Result<usize> {
    ZSTD_DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        decompressor.decompress_to_buffer(body, out)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CODECS: [Codec; 4] = [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy];

    proptest! {
        /// Scenario: any bytes under every codec. Guarantee: they come back; a claim one off either way, or a
        /// limit below the size, is refused.
        #[test]
        fn bodies_round_trip_and_lies_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
            let size = bytes.len() as u64;
            for codec in CODECS {
                let body = compress(codec, &bytes);
                prop_assert_eq!(&decompress(codec, &body, size, bytes.len()).expect("own body"), &bytes);
                prop_assert!(decompress(codec, &body, size + 1, DEFAULT_LIMIT_BYTES).is_err());
                if size > 0 {
                    prop_assert!(decompress(codec, &body, size - 1, DEFAULT_LIMIT_BYTES).is_err());
                    let refused = decompress(codec, &body, size, bytes.len() - 1);
                    let too_large = matches!(refused, Err(FrameError::TooLarge { .. }));
                    prop_assert!(too_large);
                }
            }
        }

        /// Scenario: any bytes given as a body. Guarantee: no panic, and never more than the limit.
        #[test]
        fn any_body_is_unpacked_safely(body in proptest::collection::vec(any::<u8>(), 0..512), claimed in 0u64..100_000) {
            for codec in CODECS {
                if let Ok(bytes) = decompress(codec, &body, claimed, 65_536) {
                    prop_assert!(bytes.len() <= 65_536);
                }
            }
        }
    }

    /// Scenario: 256 MiB of zeros in a few KB of zstd, claimed honestly and dishonestly. Guarantee: refused
    /// both times without unpacking it.
    #[test]
    fn a_bomb_is_refused() {
        let bomb = compress(Codec::Zstd, &vec![0u8; 256 << 20]);
        let honest = decompress(Codec::Zstd, &bomb, 256 << 20, DEFAULT_LIMIT_BYTES);
        assert!(matches!(honest, Err(FrameError::TooLarge { .. })));
        let liar = decompress(Codec::Zstd, &bomb, 1 << 20, DEFAULT_LIMIT_BYTES);
        assert!(matches!(liar, Err(FrameError::Corrupt { .. })));
    }
}
