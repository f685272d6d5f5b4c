//! A Model Context Protocol server at `/mcp`: tools by which a model finds out why inference is slow or dear.
//!
//! Revision 2025-06-18, streamable HTTP (<https://modelcontextprotocol.io/specification/2025-06-18>): each POST is one
//! message and its answer one JSON object; there are no sessions and no streams, so every node answers every request.
//! [`rpc`] speaks JSON-RPC, [`tools`] says what there is, the other modules are the tools. Invariants: tools read only;
//! they ask the API's own routes and metrics, so that they tell nothing else; every answer is bounded; a request that
//! a foreign page in a browser sends is refused.

mod aggregates;
mod arguments;
mod ask;
mod insights;
mod rpc;
mod slowness;
mod tools;
mod traces;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;

use super::{App, error::ApiError};

/// Where it is.
pub(super) const PATH: &str = "/mcp";
/// Bytes of a message at most.
pub(super) const MOST_BODY_BYTES: usize = 64 << 10;
const VERSION_HEADER: &str = "mcp-protocol-version";

pub(super) async fn post(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let config = &app.config.mcp;
    if !config.enabled {
        return Err(ApiError::no_route(PATH));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !is_allowed(origin.to_str().unwrap_or_default(), &config.allowed_origins)
    {
        return Err(ApiError::foreign_origin(origin.to_str().unwrap_or("(not text)")));
    }
    let is_json = |kind: &HeaderValue| {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    };
    // What a page may send without asking first is never JSON.
    if !headers.get(header::CONTENT_TYPE).is_some_and(is_json) {
        return Err(ApiError::bad_body("expected a JSON-RPC message with the content type application/json"));
    }
    if let Some(version) = headers.get(VERSION_HEADER)
        && !version.to_str().is_ok_and(|version| rpc::VERSIONS.contains(&version))
    {
        let known = rpc::VERSIONS.join(", ");
        let detail = format!("this server speaks the protocol versions {known}");
        return Err(ApiError::bad_parameter("MCP-Protocol-Version", detail));
    }
    Ok(match rpc::answer(&app, &body).await {
        Some(answer) => with_json(answer.status, answer.body.to_string()),
        None => StatusCode::ACCEPTED.into_response(),
    })
}

fn with_json(status: StatusCode, body: String) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Whether a page of this origin may ask: one of this machine, or one that is configured. A browser sends the origin of
/// the page whatever name was resolved to this address, which is what protects against DNS rebinding.
fn is_allowed(origin: &str, allowed: &[String]) -> bool {
    if allowed.iter().any(|one| one.eq_ignore_ascii_case(origin)) {
        return true;
    }
    let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://")).unwrap_or_default();
    let port = match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => colon,
        _ => host.len(),
    };
    let is_number = host[port..].bytes().skip(1).all(|byte| byte.is_ascii_digit());
    is_number && ["localhost", "127.0.0.1", "[::1]"].contains(&&host[..port])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: pages of this machine, of others, and of others whose names look like ours. Guarantee: only those of this
    /// machine and those that are configured may ask.
    #[test]
    fn foreign_pages_may_not_ask() {
        let configured = ["https://console.example.com".to_owned()];
        for origin in [
            "http://localhost",
            "http://localhost:3000",
            "https://127.0.0.1:8080",
            "http://[::1]:80",
            "https://console.example.com",
        ] {
            assert!(is_allowed(origin, &configured), "{origin}");
        }
        for origin in [
            "",
            "null",
            "http://evil.example",
            "http://localhost.evil.example",
            "http://localhost:80.evil.example",
            "http://evil.example:80/localhost",
            "http://127.0.0.1@evil.example",
            "https://console.example.com.evil.example",
            "file://localhost",
        ] {
            assert!(!is_allowed(origin, &configured), "{origin}");
        }
    }
}
