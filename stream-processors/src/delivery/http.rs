//! One POST: HTTP/1.1, with TLS where the URL says so, redirects not followed, and what the answer means.

use std::{str::FromStr as _, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use infertrace_runtime::http::HttpClient;

use super::secret::Secret;

/// Bytes of an answer that are read: for the error message, and so that the connection can be used again.
const ANSWER_BYTES: usize = 4 << 10;
/// Characters of an answer that are quoted.
const QUOTED: usize = 200;
/// Requests to a target follow one another.
const IDLE_CONNECTIONS: usize = 1;

/// How a request ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// 2xx.
    Taken,
    /// The target will not take this body, however often it is sent.
    Refused(String),
    /// It may work later, not before the pause if one was asked for.
    Failed(String, Option<Duration>),
}

/// Where requests go. The URL may be a secret, so it is not shown.
pub(super) struct Poster {
    client: HttpClient,
    uri: Uri,
}

impl std::fmt::Debug for Poster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Poster(…)")
    }
}

impl Poster {
    /// A client for `url`, to which `path` is added.
    ///
    /// # Errors
    /// A sentence that does not quote the URL, which may be a secret.
    pub(super) fn new(url: &Secret, path: &str, connect_timeout: Duration) -> Result<Self, String> {
        let text = if path.is_empty() {
            url.expose().to_owned()
        } else {
            format!("{}{path}", url.expose().trim_end_matches('/'))
        };
        let uri = Uri::from_str(&text).map_err(|error| format!("the url is not valid: {error}"))?;
        if uri.host().is_none_or(str::is_empty) {
            return Err("the url names no host".to_owned());
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err("the url holds a user or password; use secret_env or secret_file".to_owned());
        }
        let client = match uri.scheme_str() {
            Some("http") => HttpClient::plain(connect_timeout, IDLE_CONNECTIONS),
            Some("https") => HttpClient::tls(connect_timeout, IDLE_CONNECTIONS)?,
            _ => return Err("the url must start with http:// or https://".to_owned()),
        };
        Ok(Self { client, uri })
    }

    /// Sends `body` and waits for the answer, `timeout` in all.
    pub(super) async fn post(
        &self,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        timeout: Duration,
    ) -> Outcome {
        match tokio::time::timeout(timeout, self.exchange(headers, body)).await {
            Ok(Ok((status, after, text))) => judge(status, after, &text),
            Ok(Err(error)) => Outcome::Failed(error, None),
            Err(_) => Outcome::Failed(format!("no answer within {} ms", timeout.as_millis()), None),
        }
    }

    async fn exchange(
        &self,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<(StatusCode, Option<Duration>, String), String> {
        let mut request =
            Request::post(self.uri.clone()).body(Full::new(body)).map_err(|error| error.to_string())?;
        request.headers_mut().extend(headers.iter().map(|(name, value)| (Some(name.clone()), value.clone())));
        let answer = self.client.request(request).await?;
        let status = answer.status();
        let after = answer.headers().get(header::RETRY_AFTER).and_then(retry_after);
        // What the target says is only quoted; that it cannot be read changes nothing.
        let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
        let text = body.map(|body| body.to_bytes()).unwrap_or_default();
        Ok((status, after, String::from_utf8_lossy(&text).into_owned()))
    }
}

/// Seconds only: a date would need the target's clock to agree with ours.
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    value.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

/// What an answer means.
///
/// The body itself is at fault with 400, 406, 411, 413, 415 and 422: sending it again does not help. Everything else
/// that is not 2xx may pass, or an operator can repair it (401, 403, 404, a redirect): it is tried again within
/// the budget.
fn judge(status: StatusCode, after: Option<Duration>, text: &str) -> Outcome {
    if status.is_success() {
        return Outcome::Taken;
    }
    let quoted: String = text.chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    let said = if quoted.trim().is_empty() { String::new() } else { format!(": {}", quoted.trim()) };
    let error = format!("answered {status}{said}");
    match status.as_u16() {
        400 | 406 | 411 | 413 | 415 | 422 => Outcome::Refused(error),
        _ => Outcome::Failed(error, after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: each class of answers. Guarantee: bodies that are at fault are refused, everything that may pass or be
    /// repaired is tried again, with the pause that the target asks for; control characters are not quoted.
    #[test]
    fn answers_are_told_apart() {
        let outcome = |status: u16| judge(StatusCode::from_u16(status).expect("a status"), None, "no\r\nway");
        for status in [200, 201, 202, 204] {
            assert_eq!(outcome(status), Outcome::Taken);
        }
        for status in [400, 413, 415, 422] {
            assert!(matches!(outcome(status), Outcome::Refused(_)), "{status}");
        }
        for status in [301, 307, 401, 403, 404, 408, 410, 425, 429, 500, 502, 503, 504] {
            assert!(matches!(outcome(status), Outcome::Failed(_, None)), "{status}");
        }
        assert_eq!(outcome(500), Outcome::Failed("answered 500 Internal Server Error: no  way".into(), None));
        let pause = retry_after(&HeaderValue::from_static("7"));
        assert_eq!(pause, Some(Duration::from_secs(7)));
        assert_eq!(retry_after(&HeaderValue::from_static("Wed, 21 Oct 2015 07:28:00 GMT")), None);
    }

    /// Scenario: URLs with another scheme, without a host, with a password, and nonsense.
    /// Guarantee: each is refused, and the message does not quote it.
    #[test]
    fn bad_urls_are_refused_without_quoting_them() {
        let new = |url: &str| Poster::new(&Secret::plain(url), "/api", Duration::from_secs(1));
        assert!(new("http://127.0.0.1:9093/").is_ok());
        for url in ["ftp://s3cret/", "s3cret", "http://user:s3cret@host/", "http://s3cret host/", "/s3cret"] {
            let error = new(url).expect_err(url);
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
