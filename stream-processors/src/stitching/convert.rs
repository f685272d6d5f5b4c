//! Links as records of `infertrace.links.v1`.

use infertrace_analytics::stitch::{Link, Sighting};
use infertrace_runtime::log::{Millis, NewRecord, TopicPartition};
use infertrace_schemas::{
    avro::{AvroError, LinkMember, RequestLink, SchemaIds},
    topics,
};

/// The record of a link, made at a watermark.
///
/// # Errors
/// [`AvroError`] if it does not fit its schema, which would be a fault of the program.
pub(super) fn record(
    link: &Link,
    ids: &SchemaIds,
    partition: u32,
    watermark: Millis,
) -> Result<NewRecord, AvroError> {
    let id = link.identity();
    let value = RequestLink {
        id: id.clone(),
        version: i32::try_from(link.version).unwrap_or(i32::MAX),
        kind: link.kind.name().to_owned(),
        tenant: link.tenant.to_string(),
        request_id: link.request.to_string(),
        model: link.model.to_string(),
        joined_by: if link.is_by_trace { "trace" } else { "request_id" }.to_owned(),
        prompt_tokens: link.prompt_tokens.map(long),
        repeated_prompt_tokens: long(link.repeated_prompt_tokens),
        members: link.members.iter().map(member).collect(),
        omitted_members: i32::try_from(link.omitted_members).unwrap_or(i32::MAX),
    };
    Ok(NewRecord {
        to: TopicPartition::new(topics::LINKS, partition),
        key: Some(id.into()),
        payload: Some(ids.encode(&value)?.into()),
        headers: Vec::new(),
        timestamp: watermark,
    })
}

fn member(of: &Sighting) -> LinkMember {
    LinkMember {
        role: of.role.name().to_owned(),
        trace_id: format!("{:032x}", u128::from_be_bytes(of.trace_id)),
        span_id: format!("{:016x}", u64::from_be_bytes(of.span_id)),
        service: of.service.to_string(),
        start_unix_nanos: of.start_ns,
        end_unix_nanos: of.end_ns,
        is_error: of.is_error,
    }
}

fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
