//! Unpacking of request bodies, bounded.
//!
//! Invariant: output never grows past `limit`, and every step of it is covered by the byte budget before it
//! is allocated, so that a bomb costs at most one step more than it is allowed.

use std::{cell::RefCell, io::Read};

use zstd::{
    stream::raw::{Decoder, InBuffer, Operation, OutBuffer},
    zstd_safe::{DParameter, get_frame_content_size},
};

use crate::budget::OverBudget;

/// Codings a sender may use.
pub(crate) const ACCEPTED: &str = "identity,gzip,zstd,snappy";
/// Output is taken from the budget and allocated in these steps.
const STEP_BYTES: usize = 256 << 10;
/// A frame may ask for a window of 8 MiB, as RFC 8878 says every decoder should grant, and no more.
const MAX_WINDOW_LOG: u32 = 23;

/// A compression that a request's body may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Identity,
    Gzip,
    Zstd,
    Snappy,
}

impl Encoding {
    /// By its name in `grpc-encoding` or `content-encoding`.
    pub(crate) fn from_name(name: &[u8]) -> Option<Self> {
        match name {
            b"" | b"identity" => Some(Self::Identity),
            b"gzip" | b"x-gzip" => Some(Self::Gzip),
            b"zstd" => Some(Self::Zstd),
            b"snappy" => Some(Self::Snappy),
            _ => None,
        }
    }
}

/// Why a body could not be unpacked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum UnpackError {
    TooLarge,
    OverBudget,
    Corrupt(String),
}

impl From<OverBudget> for UnpackError {
    fn from(_: OverBudget) -> Self {
        Self::OverBudget
    }
}

fn corrupt(error: impl std::fmt::Display) -> UnpackError {
    UnpackError::Corrupt(error.to_string())
}

/// Output and what it may still take.
struct Sink<'o> {
    out: &'o mut Vec<u8>,
    limit: usize,
    grow: &'o mut dyn FnMut(usize) -> Result<(), OverBudget>,
}

impl Sink<'_> {
    /// Makes room for `bytes` more, within the limit and one byte past it, by which an overlong body shows.
    fn step(&mut self, bytes: usize) -> Result<usize, UnpackError> {
        if self.out.len() > self.limit {
            return Err(UnpackError::TooLarge);
        }
        let bytes = bytes.min(self.limit + 1 - self.out.len());
        (self.grow)(bytes)?;
        self.out.reserve(bytes);
        Ok(bytes)
    }

    fn read_all(&mut self, mut reader: impl Read) -> Result<(), UnpackError> {
        loop {
            let step = self.step(STEP_BYTES)?;
            let read = (&mut reader).take(step as u64).read_to_end(self.out).map_err(corrupt)?;
            if read < step {
                return Ok(());
            }
        }
    }
}

/// Appends what `input` unpacks to, at most `limit` bytes in all; `grow` is asked before each allocation.
pub(crate) fn decompress(
    encoding: Encoding,
    input: &[u8],
    out: &mut Vec<u8>,
    limit: usize,
    grow: &mut dyn FnMut(usize) -> Result<(), OverBudget>,
) -> Result<(), UnpackError> {
    let mut sink = Sink { out, limit, grow };
    match encoding {
        Encoding::Identity => {
            if input.len() > limit {
                return Err(UnpackError::TooLarge);
            }
            sink.step(input.len())?;
            sink.out.extend_from_slice(input);
            Ok(())
        }
        Encoding::Gzip => sink.read_all(flate2::bufread::MultiGzDecoder::new(input)),
        Encoding::Zstd => unzstd(input, &mut sink),
        Encoding::Snappy => unsnappy(input, &mut sink),
    }?;
    if out.len() > limit { Err(UnpackError::TooLarge) } else { Ok(()) }
}

thread_local! {
    // A zstd context is 100 KB and more: one a thread is kept.
    static ZSTD: RefCell<Option<Decoder<'static>>> = const { RefCell::new(None) };
}

fn unzstd(input: &[u8], sink: &mut Sink<'_>) -> Result<(), UnpackError> {
    let content_size = match get_frame_content_size(input) {
        Ok(size) => size,
        Err(_) => return Err(UnpackError::Corrupt("not a zstd frame".into())),
    };
    if content_size.is_some_and(|size| size > sink.limit as u64) {
        return Err(UnpackError::TooLarge);
    }
    ZSTD.with_borrow_mut(|slot| {
        let decoder = match slot {
            Some(decoder) => decoder,
            None => {
                let mut decoder = Decoder::new().map_err(corrupt)?;
                decoder.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG)).map_err(corrupt)?;
                slot.insert(decoder)
            }
        };
        decoder.reinit().map_err(corrupt)?;
        let mut source = InBuffer::around(input);
        // With room for the whole frame at once, zstd decodes into it directly, without a window of its own.
        // A claimed size is believed only as far as compression can plausibly go.
        let mut wanted = match content_size {
            Some(size) => (size as usize).clamp(1, input.len().saturating_mul(64).max(STEP_BYTES)),
            None => STEP_BYTES,
        };
        loop {
            let begin = sink.out.len();
            let step = sink.step(wanted)?;
            sink.out.resize(begin + step, 0);
            let mut target = OutBuffer::around(&mut sink.out[begin..]);
            let result = decoder.run(&mut source, &mut target);
            let written = target.pos();
            sink.out.truncate(begin + written);
            let hint = result.map_err(corrupt)?;
            if source.pos() == input.len() {
                if hint == 0 {
                    return Ok(());
                }
                if written < step {
                    return Err(UnpackError::Corrupt("truncated zstd frame".into()));
                }
            }
            wanted = STEP_BYTES;
        }
    })
}

/// The frame format starts with this chunk; anything else is the raw format.
const SNAPPY_STREAM: &[u8] = b"\xff\x06\x00\x00sNaPpY";

fn unsnappy(input: &[u8], sink: &mut Sink<'_>) -> Result<(), UnpackError> {
    // A stream of no frames: what encoders of the frame format make of nothing.
    if input.is_empty() {
        return Ok(());
    }
    if input.starts_with(SNAPPY_STREAM) {
        return sink.read_all(snap::read::FrameDecoder::new(input));
    }
    let length = snap::raw::decompress_len(input).map_err(corrupt)?;
    if length > sink.limit {
        return Err(UnpackError::TooLarge);
    }
    let begin = sink.out.len();
    sink.step(length)?;
    sink.out.resize(begin + length, 0);
    snap::raw::Decoder::new().decompress(input, &mut sink.out[begin..]).map_err(corrupt)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn snappy_frames(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        encoder.write_all(bytes).expect("memory");
        encoder.into_inner().expect("memory")
    }

    /// zstd without the size in its header, as streaming encoders write it.
    fn zstd_stream(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("level");
        encoder.write_all(bytes).expect("memory");
        encoder.finish().expect("memory")
    }

    fn packed(bytes: &[u8]) -> Vec<(Encoding, Vec<u8>)> {
        vec![
            (Encoding::Identity, bytes.to_vec()),
            (Encoding::Gzip, gzip(bytes)),
            (Encoding::Zstd, zstd::bulk::compress(bytes, 1).expect("memory")),
            (Encoding::Zstd, zstd_stream(bytes)),
            (Encoding::Snappy, snap::raw::Encoder::new().compress_vec(bytes).expect("memory")),
            (Encoding::Snappy, snappy_frames(bytes)),
        ]
    }

    /// Scenario: small and multi-step bodies in every coding. Guarantee: they unpack to what went in.
    #[test]
    fn every_coding_round_trips() {
        for size in [0usize, 1, 1000, STEP_BYTES, 3 * STEP_BYTES + 17] {
            let bytes: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
            for (encoding, input) in packed(&bytes) {
                let mut out = Vec::new();
                decompress(encoding, &input, &mut out, size, &mut |_| Ok(())).expect("own encoding");
                assert!(out == bytes, "{encoding:?} of {size} bytes");
            }
        }
    }

    /// Scenario: a megabyte of zeros with a limit of 64 KiB, and with no budget. Guarantee: refused as what it is, and
    /// hardly more than the limit is ever allocated.
    #[test]
    fn bombs_are_refused_within_the_limit() {
        let bytes = vec![0; 1 << 20];
        for (encoding, input) in packed(&bytes) {
            let mut out = Vec::new();
            let mut grown = 0;
            let result = decompress(encoding, &input, &mut out, 64 << 10, &mut |bytes| {
                grown += bytes;
                Ok(())
            });
            assert_eq!(result, Err(UnpackError::TooLarge), "{encoding:?}");
            assert!(
                grown <= (64 << 10) + 1 && out.capacity() <= 256 << 10,
                "{encoding:?}: {grown}, {}",
                out.capacity()
            );
            let broke = decompress(encoding, &input, &mut Vec::new(), 2 << 20, &mut |_| Err(OverBudget));
            assert_eq!(broke, Err(UnpackError::OverBudget), "{encoding:?}");
        }
    }

    /// Scenario: bodies cut short or damaged. Guarantee: an error that says so, and the next body on this thread unpacks.
    #[test]
    fn damaged_bodies_are_corrupt() {
        let bytes: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        for (encoding, input) in packed(&bytes).into_iter().skip(1) {
            let cut = &input[..input.len() - 9];
            let result = decompress(encoding, cut, &mut Vec::new(), 1 << 20, &mut |_| Ok(()));
            assert!(matches!(result, Err(UnpackError::Corrupt(_))), "{encoding:?}: {result:?}");
            let mut out = Vec::new();
            decompress(encoding, &input, &mut out, 1 << 20, &mut |_| Ok(())).expect("whole again");
            assert!(out == bytes);
        }
    }

    proptest::proptest! {
        /// Scenario: any bytes in any coding. Guarantee: no panic, no output past the limit.
        #[test]
        fn any_bytes_are_unpacked_safely(input in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Zstd, Encoding::Snappy] {
                let mut out = Vec::new();
                if decompress(encoding, &input, &mut out, 4096, &mut |_| Ok(())).is_ok() {
                    proptest::prop_assert!(out.len() <= 4096);
                }
            }
        }
    }
}
