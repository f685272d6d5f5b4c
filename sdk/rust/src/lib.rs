//! Client for InferTrace's native protocol: batches and frames of spans, sent until they are durable.
//!
//! Three layers, each usable alone:
//! - [`Tracer`] and [`Span`]: describe work as it happens; an [`Exporter`] sends it in the background.
//! - [`SpanBatchBuilder`]: write spans with their own ids and times straight as wire bytes.
//! - [`Client`]: send a [`SpanBatch`] and learn what became of it; retries inside a budget, follows the
//!   partition map in [`Mode::Frames`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use infertrace_sdk::{Client, ClientConfig, SpanBatchBuilder, SpanId, TraceId};
//!
//! let client = Client::connect(ClientConfig::new("http://127.0.0.1:4317")).await?;
//! let mut batch = SpanBatchBuilder::new();
//! batch
//!     .span(TraceId::random(), SpanId::random())
//!     .service("ranker")
//!     .operation("rank")
//!     .times(1_700_000_000_000_000_000, 2_000_000)
//!     .attribute("http.response.status_code", 200);
//! let outcome = client.export(batch.build()).await?;
//! assert_eq!(outcome.accepted, 1);
//! # Ok(())
//! # }
//! ```

mod batch;
mod client;
mod compress;
mod config;
mod context;
mod error;
mod exporter;
mod frames;
pub mod grpc;
mod partition;
mod retry;
mod tracer;
mod value;
mod wire;

pub use batch::{OriginIndex, SpanBatch, SpanBatchBuilder, SpanKind, SpanWriter, StatusCode};
pub use client::{Client, ExportOutcome, Rejection};
pub use compress::Compression;
pub use config::{ClientConfig, Mode};
pub use context::{Gpu, Inference, Pipeline, Resources, Tokens};
pub use error::{ClientError, Code, ExportError, Status};
pub use exporter::{Exporter, ExporterConfig, ExporterStats};
pub use frames::PartitionMap;
pub use partition::{partition_hash, partition_of};
pub use retry::RetryBudget;
pub use tracer::{Span, SpanContext, Tracer};
pub use value::{SpanId, TraceId, Value};

/// The README's example, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
