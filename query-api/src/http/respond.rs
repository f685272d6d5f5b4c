//! How answers leave: entity tags, compression, size limit.

use std::io::Write;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use xxhash_rust::xxh3::xxh3_128;

use super::error::ApiError;

/// Smaller bodies gain nothing from compression.
const COMPRESS_FROM: usize = 1_024;
/// Larger bodies are compressed on a thread that may block.
const COMPRESS_INLINE: usize = 64 << 10;
const GZIP_LEVEL: u32 = 4;

/// A JSON answer with an entity tag, compressed if the client takes it.
pub(crate) async fn json(request: &HeaderMap, body: Vec<u8>, most_bytes: usize) -> Response {
    if body.len() > most_bytes {
        return ApiError::too_large(body.len(), most_bytes).into_response();
    }
    // Weak: the same content may be sent compressed or not.
    let tag = format!("W/\"{:032x}\"", xxh3_128(&body));
    if matches(request, &tag) {
        return with_tag(Response::new(Body::empty()), StatusCode::NOT_MODIFIED, &tag);
    }
    let mut response = compressed(request, Bytes::from(body)).await;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    with_tag(response, StatusCode::OK, &tag)
}

fn with_tag(mut response: Response, status: StatusCode, tag: &str) -> Response {
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(header::ETAG, tag);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    response
}

/// Whether the client has this version already.
pub(crate) fn matches(request: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let wanted = opaque(tag);
    let given = request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|value| value.trim() == "*" || opaque(value) == wanted)
}

/// Whether the client takes `encoding`, by name and not with weight 0.
pub(crate) fn accepts(request: &HeaderMap, encoding: &str) -> bool {
    let given = request.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    given.flat_map(|value| value.split(',')).any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let is_named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(encoding));
        let refused = parts.any(|part| {
            part.strip_prefix("q=")
                .is_some_and(|weight| weight.parse::<f32>().is_ok_and(|weight| weight == 0.0))
        });
        is_named && !refused
    })
}

async fn compressed(request: &HeaderMap, body: Bytes) -> Response {
    if body.len() < COMPRESS_FROM || !accepts(request, "gzip") {
        return Response::new(Body::from(body));
    }
    let packed = if body.len() <= COMPRESS_INLINE {
        gzip(&body)
    } else {
        let body = body.clone();
        tokio::task::spawn_blocking(move || gzip(&body)).await.unwrap_or(None)
    };
    match packed {
        Some(packed) => {
            let mut response = Response::new(Body::from(packed));
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response
        }
        None => Response::new(Body::from(body)),
    }
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::new(GZIP_LEVEL));
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}
