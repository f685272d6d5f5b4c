//! The messages and services of `proto/infertrace/v1`, generated at build time.
//!
//! Neighbours: `schemas` reads the same messages without building them; `ingest-gateway`, `sdk/rust`
//! and `loadgen` speak the service.

/// Generated code of package `infertrace.v1`.
#[allow(missing_docs, clippy::all, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("infertrace.v1");
}

/// The encoded `FileDescriptorSet` of every file in `proto/`, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/infertrace_descriptor.bin"));
