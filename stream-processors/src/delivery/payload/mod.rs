//! What goes over the wire, by kind of target. Pure: one insight gives one body, always the same.

pub(super) mod alertmanager;
pub(super) mod slack;
mod text;
pub(super) mod webhook;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use infertrace_schemas::avro::Insight;

/// What a receiver that had it before can tell a repetition by: equal for one revision of one insight, whoever sends it.
///
/// Bytes that a header may not hold are percent-encoded.
pub(super) fn idempotency_key(insight: &Insight) -> String {
    let mut key = String::with_capacity(insight.id.len() + 12);
    for byte in insight.id.bytes() {
        if byte.is_ascii_graphic() && byte != b'%' {
            key.push(char::from(byte));
        } else {
            // Writing into a String does not fail.
            let _ = write!(key, "%{byte:02X}");
        }
    }
    let _ = write!(key, "-{}", insight.revision);
    key
}
