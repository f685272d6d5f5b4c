//! OTLP/JSON requests, as the protobuf that they stand for.

pub(crate) use infertrace_schemas::otlp_json::Signal;
use infertrace_schemas::otlp_json::{self, Bounds};

use super::ParseError;
use crate::config::Limits;

/// Appends the protobuf encoding of `json` to `out`, at most `limits.max_body_bytes` of it.
pub(crate) fn transcode(
    json: &[u8],
    signal: Signal,
    limits: &Limits,
    out: &mut Vec<u8>,
) -> Result<(), ParseError> {
    let bounds = Bounds { depth: limits.max_depth, bytes: limits.max_body_bytes };
    otlp_json::transcode(json, signal, bounds, out)
        .map_err(|error| ParseError::Invalid(format!("OTLP/JSON: {error}")))
}
