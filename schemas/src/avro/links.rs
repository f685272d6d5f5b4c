//! Links between the traces of one request as Rust values; `request_link.v1.avsc` says what each field means.

use serde::{Deserialize, Serialize};

/// One version of what several traces say of one request (`request_link.v1.avsc`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RequestLink {
    pub id: String,
    pub version: i32,
    pub kind: String,
    pub tenant: String,
    pub request_id: String,
    pub model: String,
    pub joined_by: String,
    pub prompt_tokens: Option<i64>,
    pub repeated_prompt_tokens: i64,
    pub members: Vec<LinkMember>,
    pub omitted_members: i32,
}

/// A span that shows the request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct LinkMember {
    pub role: String,
    pub trace_id: String,
    pub span_id: String,
    pub service: String,
    pub start_unix_nanos: i64,
    pub end_unix_nanos: i64,
    pub is_error: bool,
}
