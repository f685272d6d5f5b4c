//! The UI, embedded when the crate was built, and a plain page when it was not.
//!
//! Files with a hash in their name never change and are cached for ever; the rest is asked for anew by its
//! entity tag. A path without an extension is a page of the UI and gets `index.html`.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::{
    error::ApiError,
    respond::{accepts, matches},
};

mod embedded {
    include!(concat!(env!("OUT_DIR"), "/ui.rs"));
}

/// Scripts and styles of the page itself; WebAssembly may be compiled; requests go home only.
pub(crate) const CONTENT_SECURITY_POLICY: &str = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; \
     style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; connect-src 'self'; object-src 'none'; \
     base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

const NO_UI: &str = include_str!("no_ui.html");
const ENCODINGS: [(&str, &str); 2] = [("br", ".br"), ("gzip", ".gz")];

/// Files to serve, with their entity tags.
pub(crate) struct Assets {
    files: BTreeMap<&'static str, (&'static [u8], String)>,
}

static EMBEDDED: LazyLock<Assets> = LazyLock::new(|| Assets::new(embedded::FILES));

/// The UI that this binary carries.
pub(crate) fn embedded() -> &'static Assets {
    &EMBEDDED
}

impl Assets {
    pub(crate) fn new(files: &'static [(&'static str, &'static [u8])]) -> Self {
        let tagged = |(name, bytes): &(&'static str, &'static [u8])| {
            (*name, (*bytes, format!("\"{:032x}\"", xxh3_128(bytes))))
        };
        Self { files: files.iter().map(tagged).collect() }
    }

    /// Answers for `path`, which begins with a slash.
    pub(crate) fn serve(&self, path: &str, request: &HeaderMap) -> Response<Body> {
        let name = path.trim_start_matches('/');
        if self.files.contains_key(name) && !name.is_empty() {
            return self.file(name, request);
        }
        let last = name.rsplit('/').next().unwrap_or_default();
        if last.contains('.') {
            return ApiError::no_route(path).into_response();
        }
        if self.files.contains_key("index.html") {
            return self.file("index.html", request);
        }
        let mut response = Response::new(Body::from(NO_UI));
        set_headers(&mut response, "text/html; charset=utf-8", "no-store");
        response
    }

    fn file(&self, name: &str, request: &HeaderMap) -> Response<Body> {
        let Some((plain, tag)) = self.files.get(name) else {
            return ApiError::no_route(name).into_response();
        };
        let packed = ENCODINGS.iter().find_map(|(encoding, suffix)| {
            let (bytes, tag) = self.files.get(format!("{name}{suffix}").as_str())?;
            accepts(request, encoding).then_some((*encoding, *bytes, tag))
        });
        let (encoding, bytes, tag) = match packed {
            Some((encoding, bytes, tag)) => (Some(encoding), bytes, tag),
            None => (None, *plain, tag),
        };
        let unchanged = matches(request, tag);
        let body = if unchanged { Body::empty() } else { Body::from(Bytes::from_static(bytes)) };
        let mut response = Response::new(body);
        if unchanged {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let caching = if is_hashed(name) { "public, max-age=31536000, immutable" } else { "no-cache" };
        set_headers(&mut response, media_type(name), caching);
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Ok(tag) = HeaderValue::from_str(tag) {
            headers.insert(header::ETAG, tag);
        }
        if let Some(encoding) = encoding {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        response
    }
}

fn set_headers(response: &mut Response<Body>, media_type: &'static str, caching: &'static str) {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(caching));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
}

/// Whether a part of the name is a hash of at least eight hex digits, as in `app-1f3a5c7e9b0d2f46.js`.
fn is_hashed(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or_default();
    let parts = file.split(['-', '.', '_']);
    parts.skip(1).any(|part| {
        part.len() >= 8
            && part.bytes().all(|byte| byte.is_ascii_hexdigit())
            && part.bytes().any(|byte| byte.is_ascii_digit())
    })
}

fn media_type(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("wasm") => "application/wasm",
        Some("json" | "map") => "application/json",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("ico") => "image/x-icon",
        Some("woff2") => "font/woff2",
        Some("webmanifest") => "application/manifest+json",
        Some("txt") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: &[(&str, &[u8])] = &[
        ("index.html", b"<!doctype html>page"),
        ("assets/app-0123456789abcdef.js", b"plain script"),
        ("assets/app-0123456789abcdef.js.br", b"br script"),
        ("assets/app-0123456789abcdef.js.gz", b"gz script"),
        ("favicon.svg", b"<svg/>"),
    ];

    fn serve(path: &str, headers: &[(&'static str, &str)]) -> Response<Body> {
        let headers = headers.iter().map(|(name, value)| {
            let name = header::HeaderName::from_static(name);
            (name, HeaderValue::from_str(value).expect("a header value"))
        });
        Assets::new(FILES).serve(path, &headers.collect())
    }

    fn header_of<'r>(response: &'r Response<Body>, name: &str) -> &'r str {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// Scenario: a built UI. Guarantee: files by name, pages by fallback, unknown files 404, every page with a policy.
    #[test]
    fn files_pages_and_missing_files() {
        for path in ["/", "/traces", "/traces/0123"] {
            let response = serve(path, &[]);
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(header_of(&response, "content-type"), "text/html; charset=utf-8");
            assert_eq!(header_of(&response, "cache-control"), "no-cache");
            assert!(header_of(&response, "content-security-policy").contains("default-src 'self'"));
        }
        assert_eq!(header_of(&serve("/favicon.svg", &[]), "content-type"), "image/svg+xml");
        for path in ["/nothing.js", "/assets/../index.html", "/assets/app.wasm"] {
            assert_eq!(serve(path, &[]).status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    /// Scenario: a hashed file with compressed twins. Guarantee: the best encoding the client takes, cached for ever.
    #[test]
    fn encodings_and_caching() {
        let path = "/assets/app-0123456789abcdef.js";
        for (accepted, encoding) in
            [("gzip, deflate, br, zstd", "br"), ("gzip", "gzip"), ("br;q=0, gzip", "gzip"), ("identity", "")]
        {
            let response = serve(path, &[("accept-encoding", accepted)]);
            assert_eq!(header_of(&response, "content-encoding"), encoding, "{accepted}");
            assert_eq!(header_of(&response, "cache-control"), "public, max-age=31536000, immutable");
            assert_eq!(header_of(&response, "content-type"), "text/javascript; charset=utf-8");
        }
        let tag = header_of(&serve(path, &[]), "etag").to_owned();
        assert_eq!(serve(path, &[("if-none-match", &tag)]).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(serve(path, &[("if-none-match", "\"other\"")]).status(), StatusCode::OK);
    }

    /// Scenario: no UI was built. Guarantee: a page that says how, and no pretence of files.
    #[test]
    fn without_a_ui() {
        let assets = Assets::new(&[]);
        let page = assets.serve("/", &HeaderMap::new());
        assert_eq!(page.status(), StatusCode::OK);
        assert!(NO_UI.contains("cargo xtask ui"));
        assert_eq!(assets.serve("/app.js", &HeaderMap::new()).status(), StatusCode::NOT_FOUND);
    }
}
