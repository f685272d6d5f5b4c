//! ClickHouse's HTTP interface: statements, queries with parameters, inserts, and what an answer means.
//!
//! Carries SQL and rows of others and knows neither. HTTP/1.1, with TLS where the URL says so; redirects are not followed. Invariants: the password is in a header and in
//! no error or log line; an answer is read up to a bound; every failure says whether it passes by itself, and an insert
//! whose answer was lost is told from one that was refused.

use std::{str::FromStr as _, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::http::HttpClient;

/// Characters of an error that are quoted.
const QUOTED: usize = 600;

/// Exceptions of ClickHouse after which an operator must act: rights, schema, settings, data that does not fit.
const REFUSALS: &[u32] = &[
    6, 10, 16, 20, 26, 27, 36, 38, 43, 44, 46, 47, 50, 53, 57, 60, 62, 69, 70, 73, 81, 115, 117, 131, 164,
    192, 193, 194, 349, 497, 516, 620,
];
/// Those of them that speak of another schema.
const SCHEMA: &[u32] = &[8, 10, 16, 20, 47, 50, 53, 60, 70, 81, 349];

/// What ClickHouse did, or why it could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer came: the server is away, or the answer was lost and nobody knows what became of the request.
    #[error("clickhouse at {server} gave no answer to {what}: {detail}")]
    NoAnswer {
        /// Host and port.
        server: Arc<str>,
        /// What was asked.
        what: String,
        /// What failed.
        detail: String,
    },
    /// An error came.
    #[error("clickhouse at {server} answered {status} to {what}: {text}{}", hint(*status, *code))]
    Answered {
        /// Host and port.
        server: Arc<str>,
        /// What was asked.
        what: String,
        /// HTTP status.
        status: u16,
        /// ClickHouse's exception, 0 when it named none.
        code: u32,
        /// Its text, cut.
        text: String,
    },
}

fn hint(status: u16, code: u32) -> &'static str {
    match code {
        code if SCHEMA.contains(&code) => {
            "; the tables are not as this release makes them: run `infertrace clickhouse migrate`"
        }
        497 => "; grant the user SELECT on the database, and the sink INSERT (and CREATE to migrate)",
        _ if status == 401 || status == 403 => "; check the user and the password",
        _ => "",
    }
}

impl Error {
    /// Whether an operator must act; other failures pass by themselves.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::NoAnswer { .. } => false,
            Self::Answered { status: 401 | 403, .. } => true,
            Self::Answered { code, .. } if REFUSALS.contains(code) => true,
            Self::Answered { status, code, .. } => {
                *code == 0 && (400..500).contains(status) && *status != 408 && *status != 429
            }
        }
    }
}

/// A password; its `Debug` says only whether there is one.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "Password()" } else { "Password(…)" })
    }
}

/// Where the server is and who asks.
#[derive(Clone, Debug)]
pub struct Access {
    /// HTTP interface, as in `http://localhost:8123`.
    pub url: String,
    /// User.
    pub user: String,
    /// Password; may be empty.
    pub password: Password,
    /// How long a connection may take to open, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long an exchange may take, in milliseconds.
    pub request_timeout_ms: u64,
    /// Bytes of an answer that are read; a longer one is an error.
    pub max_answer_bytes: usize,
}

/// A connection pool to one server; cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<HttpClient>,
    base: Url,
    headers: HeaderMap,
    server: Arc<str>,
    timeout: Duration,
    max_answer_bytes: usize,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server that `access` names; nothing is sent yet.
    ///
    /// # Errors
    /// A sentence about the URL, the user or the system's certificates.
    pub fn new(access: &Access) -> Result<Self, String> {
        let base = Url::parse(&access.url).map_err(|error| format!("url {:?}: {error}", access.url))?;
        if !base.username().is_empty() || base.password().is_some() {
            return Err("url holds a user or password; use user and password_file".to_owned());
        }
        let host = base.host_str().ok_or("url names no host")?;
        let server =
            base.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let mut headers = HeaderMap::new();
        let value = |key: &str, text: &str| {
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| format!("{key} has characters that HTTP takes in no header"))?;
            value.set_sensitive(true);
            Ok::<_, String>(value)
        };
        headers.insert("x-clickhouse-user", value("user", &access.user)?);
        if !access.password.0.is_empty() {
            headers.insert("x-clickhouse-key", value("password", &access.password.0)?);
        }
        let connect_timeout = Duration::from_millis(access.connect_timeout_ms);
        let transport = match base.scheme() {
            "http" => HttpClient::plain(connect_timeout, usize::MAX),
            "https" => HttpClient::tls(connect_timeout, usize::MAX)?,
            other => return Err(format!("url starts with {other}://, it must be http:// or https://")),
        };
        Ok(Self {
            transport: Arc::new(transport),
            base,
            headers,
            server: server.into(),
            timeout: Duration::from_millis(access.request_timeout_ms),
            max_answer_bytes: access.max_answer_bytes,
        })
    }

    /// Host and port.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Runs one statement and returns what it answers.
    ///
    /// # Errors
    /// [`Error::NoAnswer`], [`Error::Answered`].
    pub async fn statement(&self, sql: &str) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.fetch(sql).await?).into_owned())
    }

    /// As [`Client::statement`], for answers that are no text.
    ///
    /// # Errors
    /// As [`Client::statement`].
    pub async fn fetch(&self, sql: &str) -> Result<Bytes, Error> {
        let what: String = sql.split_whitespace().take(6).collect::<Vec<_>>().join(" ");
        self.query(&what, sql, &[]).await
    }

    /// Runs `sql` with values for its parameters: `{name:Type}` in the SQL is the value beside `name`, which stands in
    /// ClickHouse's format `Escaped`. `what` is the query's name in errors.
    ///
    /// # Errors
    /// As [`Client::statement`].
    pub async fn query(
        &self,
        what: &str,
        sql: &str,
        parameters: &[(String, String)],
    ) -> Result<Bytes, Error> {
        let mut url = self.base.clone();
        if !parameters.is_empty() {
            let named = parameters.iter().map(|(name, value)| (format!("param_{name}"), value));
            url.query_pairs_mut().extend_pairs(named);
        }
        self.post(what, url, Bytes::from(sql.to_owned()), None).await
    }

    /// Sends `body` to the `INSERT … FORMAT …` of `query`.
    ///
    /// # Errors
    /// As [`Client::statement`]. After [`Error::NoAnswer`] nobody knows whether the rows are there.
    pub async fn insert(
        &self,
        what: &str,
        query: &str,
        settings: &[(&str, &str)],
        body: Bytes,
        encoding: Option<&'static str>,
    ) -> Result<(), Error> {
        let mut url = self.base.clone();
        {
            let mut pairs = url.query_pairs_mut();
            pairs.append_pair("query", query);
            pairs.extend_pairs(settings);
        }
        self.post(what, url, body, encoding).await.map(drop)
    }

    async fn post(
        &self,
        what: &str,
        url: Url,
        body: Bytes,
        encoding: Option<&'static str>,
    ) -> Result<Bytes, Error> {
        let no_answer =
            |detail: String| Error::NoAnswer { server: self.server.clone(), what: what.to_owned(), detail };
        match tokio::time::timeout(self.timeout, self.exchange(url, body, encoding)).await {
            Ok(Ok((status, _, answer))) if status.is_success() => Ok(answer),
            Ok(Ok((status, code, answer))) => Err(Error::Answered {
                server: self.server.clone(),
                what: what.to_owned(),
                status: status.as_u16(),
                code,
                text: quoted(&answer),
            }),
            Ok(Err(detail)) => Err(no_answer(detail)),
            Err(_) => Err(no_answer(format!("none within {} ms", self.timeout.as_millis()))),
        }
    }

    async fn exchange(
        &self,
        url: Url,
        body: Bytes,
        encoding: Option<&'static str>,
    ) -> Result<(StatusCode, u32, Bytes), String> {
        let uri = Uri::from_str(url.as_str()).map_err(|error| error.to_string())?;
        let mut request = Request::post(uri).body(Full::new(body)).map_err(|error| error.to_string())?;
        request.headers_mut().extend(self.headers.clone());
        if let Some(encoding) = encoding {
            request.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        }
        let answer = self.transport.request(request).await?;
        let status = answer.status();
        let code = answer.headers().get("x-clickhouse-exception-code");
        let code = code.and_then(|code| code.to_str().ok()?.parse().ok()).unwrap_or(0);
        let body = Limited::new(answer.into_body(), self.max_answer_bytes).collect().await;
        let body = body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes();
        Ok((status, code, body))
    }
}

fn quoted(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let clean: String =
        text.trim().chars().take(QUOTED).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.is_empty() { "(no text)".to_owned() } else { clean }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, code: u32) -> Error {
        Error::Answered { server: "ch:8123".into(), what: "INSERT".into(), status, code, text: "why".into() }
    }

    /// Scenario: answers of each class. Guarantee: overload, restarts and lost answers pass; rights, schema and data
    /// are for an operator, and the message says what to do.
    #[test]
    fn answers_are_told_apart() {
        for (status, code) in
            [(500, 252), (500, 241), (503, 0), (500, 202), (500, 159), (429, 0), (500, 999), (502, 0)]
        {
            assert!(!answered(status, code).is_refusal(), "{status} {code}");
        }
        for (status, code) in
            [(401, 0), (403, 516), (403, 497), (404, 60), (404, 81), (500, 53), (500, 16), (400, 0)]
        {
            assert!(answered(status, code).is_refusal(), "{status} {code}");
        }
        assert!(answered(404, 60).to_string().contains("infertrace clickhouse migrate"));
        assert!(answered(403, 516).to_string().contains("password"));
    }

    /// Scenario: URLs of another scheme, without a host, with a password. Guarantee: refused, the password not quoted.
    #[test]
    fn bad_urls_are_refused() {
        let new = |url: &str| {
            Client::new(&Access {
                url: url.into(),
                user: "default".into(),
                password: Password::default(),
                connect_timeout_ms: 1,
                request_timeout_ms: 1,
                max_answer_bytes: 1,
            })
        };
        assert_eq!(new("http://localhost:8123").expect("good").server(), "localhost:8123");
        for url in ["ftp://host/", "host", "http://user:s3cret@host/"] {
            let error = new(url).expect_err(url);
            assert!(!error.contains("s3cret"), "{error}");
        }
    }
}
