//! Codecs a client may use, for frames (block formats) and for whole gRPC messages.

use std::io::Write as _;

/// How request bodies are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are: best on loopback.
    #[default]
    None,
    /// LZ4 block; only for frames, since gRPC knows no such encoding.
    Lz4,
    /// Zstandard, level 1: best across a network.
    Zstd,
    /// Snappy.
    Snappy,
}

const ZSTD_LEVEL: i32 = 1;

impl Compression {
    /// The value of `infertrace.v1.Codec`.
    #[must_use]
    pub const fn codec(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Lz4 => 1,
            Self::Zstd => 2,
            Self::Snappy => 3,
        }
    }

    /// The name in `grpc-encoding`; `None` for identity and where gRPC has none.
    #[must_use]
    pub const fn grpc_encoding(self) -> Option<&'static str> {
        match self {
            Self::None | Self::Lz4 => None,
            Self::Zstd => Some("zstd"),
            Self::Snappy => Some("snappy"),
        }
    }

    /// Compresses a frame's body. `Err` only if the codec's library refuses, which it does for no input we know.
    pub fn compress_frame(self, body: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::None => Ok(body.to_vec()),
            Self::Lz4 => Ok(lz4_flex::block::compress(body)),
            Self::Zstd => zstd::bulk::compress(body, ZSTD_LEVEL),
            Self::Snappy => snap::raw::Encoder::new().compress_vec(body).map_err(std::io::Error::other),
        }
    }

    /// Compresses a gRPC message in the encoding that [`grpc_encoding`](Self::grpc_encoding) names.
    pub(crate) fn compress_message(self, message: &[u8]) -> std::io::Result<Vec<u8>> {
        match self {
            Self::None | Self::Lz4 => Ok(message.to_vec()),
            Self::Zstd => zstd::bulk::compress(message, ZSTD_LEVEL),
            Self::Snappy => {
                let mut encoder = snap::write::FrameEncoder::new(Vec::with_capacity(message.len() / 3));
                encoder.write_all(message)?;
                encoder.into_inner().map_err(|error| std::io::Error::other(error.to_string()))
            }
        }
    }
}
