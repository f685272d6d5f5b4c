//! Requests to servers that operators name: HTTP/1.1, with TLS by the system's root certificates, redirects not followed.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Builder, Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};

const IDLE_CONNECTION: Duration = Duration::from_secs(30);

/// A pool of connections, with TLS or without.
pub enum HttpClient {
    /// For `http://`.
    Plain(Client<HttpConnector, Full<Bytes>>),
    /// For `https://`, and nothing else.
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

impl HttpClient {
    /// Without TLS; `max_idle` connections a server are kept at most.
    #[must_use]
    pub fn plain(connect_timeout: Duration, max_idle: usize) -> Self {
        Self::Plain(builder(max_idle).build(tcp(connect_timeout)))
    }

    /// With TLS.
    ///
    /// # Errors
    /// A sentence when the system's root certificates cannot be read.
    pub fn tls(connect_timeout: Duration, max_idle: usize) -> Result<Self, String> {
        let mut tcp = tcp(connect_timeout);
        tcp.enforce_http(false);
        let tls = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| format!("the system's root certificates cannot be read: {error}"))?
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self::Tls(builder(max_idle).build(tls)))
    }

    /// Sends a request.
    ///
    /// # Errors
    /// What failed, with its causes.
    pub async fn request(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, String> {
        let answer = match self {
            Self::Plain(client) => client.request(request).await,
            Self::Tls(client) => client.request(request).await,
        };
        answer.map_err(|error| with_sources(&error))
    }
}

impl std::fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Tls(_)) { "HttpClient(tls)" } else { "HttpClient(plain)" })
    }
}

fn tcp(connect_timeout: Duration) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_connect_timeout(Some(connect_timeout));
    tcp.set_nodelay(true);
    tcp
}

fn builder(max_idle: usize) -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_idle_timeout(IDLE_CONNECTION).pool_max_idle_per_host(max_idle).pool_timer(TokioTimer::new());
    builder
}

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}
