//! The ways spans can be sent.

use infertrace_schemas::wire::Fields;
use infertrace_sdk::Compression;

/// How spans are sent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// InferTrace batches over gRPC.
    #[default]
    Native,
    /// InferTrace frames: split by partition (and compressed) by the sender.
    Frames,
    /// OTLP over gRPC.
    Otlp,
}

impl Protocol {
    /// The gRPC method.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Native | Self::Frames => "/infertrace.v1.IngestService/Export",
            Self::Otlp => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        }
    }

    /// As a label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Frames => "frames",
            Self::Otlp => "otlp",
        }
    }
}

/// Compression, as a flag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Codec {
    /// As they are.
    #[default]
    None,
    /// LZ4 block (frames only).
    Lz4,
    /// Zstandard.
    Zstd,
    /// Snappy.
    Snappy,
}

impl From<Codec> for Compression {
    fn from(codec: Codec) -> Self {
        match codec {
            Codec::None => Self::None,
            Codec::Lz4 => Self::Lz4,
            Codec::Zstd => Self::Zstd,
            Codec::Snappy => Self::Snappy,
        }
    }
}

/// `ExportTraceServiceResponse.partial_success.rejected_spans`.
pub(crate) fn otlp_rejected(answer: &[u8]) -> Option<u64> {
    let mut rejected = 0;
    for field in Fields::new(answer) {
        let field = field.ok()?;
        if field.number == 1 {
            for inner in Fields::new(field.bytes().ok()?) {
                let inner = inner.ok()?;
                if inner.number == 1 {
                    rejected = inner.varint().ok()?;
                }
            }
        }
    }
    Some(rejected)
}
