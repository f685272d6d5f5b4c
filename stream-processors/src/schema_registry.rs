//! A schema registry with Confluent's API: registers this program's schemas and learns the ids they got.
//!
//! Registered once, before roles start: who writes never waits for a registry. Invariants: a registry that is
//! away is waited for and named; one that refuses a schema stops the start, since what would be written could not
//! be read by subscribers; versions registered by others are learnt, so their values can be read: those that are
//! there at the start, and later ones by who meets their id in a value ([`Lookup`]), which waits for seconds at most.

use std::{str::FromStr as _, time::Duration};

use base64::Engine as _;
use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use infertrace_schemas::avro::{SchemaIds, SchemaSource, SchemaText, Subject, parse_schema, subjects};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::json;
use tokio::time::Instant;

/// Bytes of an answer at most.
const ANSWER_BYTES: usize = 4 << 20;
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Earlier versions of a subject that are learnt, the latest.
const MAX_VERSIONS: usize = 50;
/// How long who reads waits for the schema of an id.
const LOOKUP_TIME: Duration = Duration::from_secs(5);
/// How long an id is not asked for again after nobody told it.
const IN_VAIN: Duration = Duration::from_secs(10);
/// Ids that are remembered as asked for in vain; with so many, no other is asked for.
const MOST_IN_VAIN: usize = 64;
const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Its URL, as in `http://registry:8081`; empty for none: values then carry ids of InferTrace's own.
    pub url: String,
    /// Variable that holds `USER:PASSWORD` for it; empty for none.
    pub auth_env: String,
    /// How long a start waits for it. Default 60,000.
    pub wait_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { url: String::new(), auth_env: String::new(), wait_ms: 60_000 }
    }
}

/// Why the registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The configuration.
    #[error("schema_registry: {0}")]
    Config(String),
    /// It did not answer in time.
    #[error("the schema registry at {url} does not answer: {detail}")]
    Away {
        /// Where.
        url: String,
        /// The last try.
        detail: String,
    },
    /// It does not take the schema.
    #[error(
        "the schema registry refuses {subject} ({status}): {detail}; \
         compare its versions with the .avsc of this release, or set the subject's compatibility"
    )]
    Refused {
        /// Subject.
        subject: String,
        /// HTTP status.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// It answers something else than a registry.
    #[error("{url} does not answer as a schema registry does: {detail}")]
    Foreign {
        /// Where.
        url: String,
        /// What came.
        detail: String,
    },
}

/// Registers every schema and returns the ids to write and read with, by the embedded id of each schema.
///
/// # Errors
/// [`RegistryError`].
pub async fn register(config: &Config) -> Result<Vec<(u32, SchemaIds)>, RegistryError> {
    let registry = Registry::new(config)?;
    let deadline = Instant::now() + Duration::from_millis(config.wait_ms);
    let mut all = Vec::new();
    for subject in subjects() {
        let ids = registry.register(&subject, deadline).await?;
        tracing::info!(subject = subject.name(), id = ids.write_id(), "schema registered");
        all.push((subject.schema.id, ids));
    }
    Ok(all)
}

/// Looks up schemas by the ids that values name.
pub struct Lookup {
    registry: Registry,
    in_vain: Mutex<Vec<(u32, Instant, String)>>,
}

impl Lookup {
    /// One that asks the registry of `config`.
    ///
    /// # Errors
    /// [`RegistryError::Config`].
    pub fn new(config: &Config) -> Result<Self, RegistryError> {
        Ok(Self { registry: Registry::new(config)?, in_vain: Mutex::default() })
    }

    async fn ask(&self, id: u32) -> Result<String, String> {
        {
            let mut in_vain = self.in_vain.lock();
            in_vain.retain(|(_, at, _)| at.elapsed() < IN_VAIN);
            if let Some((.., detail)) = in_vain.iter().find(|(of, ..)| *of == id) {
                return Err(detail.clone());
            }
            if in_vain.len() >= MOST_IN_VAIN {
                return Err(format!("{MOST_IN_VAIN} other ids were asked for in vain just now"));
            }
        }
        let deadline = Instant::now() + LOOKUP_TIME;
        let path = format!("/schemas/ids/{id}");
        let name = format!("id {id}");
        let asked = self.registry.ask::<Written>(Method::GET, &path, String::new(), &name, deadline).await;
        let outcome = match asked {
            Ok(written) if written.kind.as_deref().is_none_or(|kind| kind == "AVRO") => Ok(written.schema),
            Ok(written) => Err(format!("its schema is {}, not Avro", written.kind.unwrap_or_default())),
            Err(error) => Err(error.to_string()),
        };
        match &outcome {
            Ok(_) => tracing::info!(id, "schema learnt from the registry"),
            Err(detail) => self.in_vain.lock().push((id, Instant::now(), detail.clone())),
        }
        outcome
    }
}

impl SchemaSource for Lookup {
    fn schema(&self, id: u32) -> SchemaText<'_> {
        Box::pin(async move {
            let asked = tokio::time::timeout(LOOKUP_TIME, self.ask(id)).await;
            asked.unwrap_or_else(|_| {
                let detail = format!("the schema registry did not answer within {} s", LOOKUP_TIME.as_secs());
                self.in_vain.lock().push((id, Instant::now(), detail.clone()));
                Err(detail)
            })
        })
    }
}

struct Registry {
    client: Client<hyper_rustls::HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    authorization: Option<String>,
}

#[derive(Deserialize)]
struct Registered {
    id: u32,
}

#[derive(Deserialize)]
struct Written {
    schema: String,
    /// Absent for Avro.
    #[serde(rename = "schemaType")]
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Version {
    id: u32,
    schema: String,
}

impl Registry {
    fn new(config: &Config) -> Result<Self, RegistryError> {
        let bad = |detail: String| RegistryError::Config(detail);
        let url = config.url.trim_end_matches('/').to_owned();
        let uri = Uri::from_str(&url).map_err(|error| bad(format!("url {url:?}: {error}")))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
            return Err(bad(format!("url {url:?} must be http://HOST:PORT or https://HOST")));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(bad("the url holds a user or password; use auth_env".to_owned()));
        }
        let authorization = match config.auth_env.as_str() {
            "" => None,
            name => {
                let secret = std::env::var(name)
                    .map_err(|_| bad(format!("auth_env names the variable {name}, which is not set")))?;
                Some(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(secret.trim())))
            }
        };
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CALL_TIMEOUT));
        tcp.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_native_roots()
            .map_err(|error| bad(format!("the system's root certificates cannot be read: {error}")))?
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), url, authorization })
    }

    /// Registers one schema; the registry answers with the old id where it has it already.
    async fn register(&self, subject: &Subject, deadline: Instant) -> Result<SchemaIds, RegistryError> {
        let name = subject.name();
        let mut ids = SchemaIds::of(subject.schema);
        let body = json!({ "schema": subject.schema.text }).to_string();
        let path = format!("/subjects/{name}/versions");
        let Registered { id } = self.ask(Method::POST, &path, body, &name, deadline).await?;
        if id & 0x8000_0000 != 0 {
            let detail =
                format!("it gave {name} the id {id:#010x}, whose top bit marks InferTrace's own ids");
            return Err(RegistryError::Foreign { url: self.url.clone(), detail });
        }
        let versions: Vec<u32> = self.ask(Method::GET, &path, String::new(), &name, deadline).await?;
        for version in versions.iter().rev().take(MAX_VERSIONS) {
            let path = format!("/subjects/{name}/versions/{version}");
            let version: Version = self.ask(Method::GET, &path, String::new(), &name, deadline).await?;
            match parse_schema(&version.schema) {
                Ok(schema) => ids.learn(version.id, schema),
                Err(error) => {
                    tracing::warn!(subject = name, id = version.id, %error, "a version that is no Avro schema");
                }
            }
        }
        ids.write_as(id, subject.schema);
        Ok(ids)
    }

    /// One call, again while the registry is away.
    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: String,
        subject: &str,
        deadline: Instant,
    ) -> Result<T, RegistryError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let detail = match self.exchange(&method, path, &body).await {
                Ok((status, text)) if status.is_success() => {
                    return serde_json::from_slice(&text).map_err(|error| RegistryError::Foreign {
                        url: self.url.clone(),
                        detail: format!("{error} in {}", quote(&text)),
                    });
                }
                Ok((status, text))
                    if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS =>
                {
                    let status = status.as_u16();
                    return Err(RegistryError::Refused {
                        subject: subject.to_owned(),
                        status,
                        detail: quote(&text),
                    });
                }
                Ok((status, text)) => format!("{status}: {}", quote(&text)),
                Err(error) => error,
            };
            if Instant::now() + pause > deadline {
                return Err(RegistryError::Away { url: self.url.clone(), detail });
            }
            tracing::warn!(url = self.url, detail, "the schema registry does not answer yet");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn exchange(&self, method: &Method, path: &str, body: &str) -> Result<(StatusCode, Bytes), String> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(header::ACCEPT, MEDIA_TYPE)
            .header(header::CONTENT_TYPE, MEDIA_TYPE);
        if let Some(value) = &self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request =
            request.body(Full::new(Bytes::from(body.to_owned()))).map_err(|error| error.to_string())?;
        let call = async {
            let answer = self.client.request(request).await.map_err(|error| {
                // The cause says more than "client error (Connect)".
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
            })?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
        };
        let timed = tokio::time::timeout(CALL_TIMEOUT, call).await;
        timed.unwrap_or_else(|_| Err(format!("no answer within {} s", CALL_TIMEOUT.as_secs())))
    }
}

fn quote(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.chars().take(300).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use infertrace_schemas::avro::{Insight, SchemaIds};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn config(url: &str) -> Config {
        Config { url: url.to_owned(), wait_ms: 600, ..Config::default() }
    }

    /// One whole request; none when the connection ends before.
    async fn read(stream: &mut tokio::net::TcpStream) -> Option<String> {
        let mut request = Vec::new();
        while stream.read_buf(&mut request).await.ok()? > 0 {
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return head.lines().next().map(str::to_owned);
            }
        }
        None
    }

    /// Answers each request, one a connection, with the next of `answers`; returns what was asked.
    async fn server(answers: Vec<(u16, String)>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let task = tokio::spawn(async move {
            let mut asked = Vec::new();
            let mut answers = answers.into_iter().peekable();
            while answers.peek().is_some() {
                let (mut stream, _) = listener.accept().await.expect("a connection");
                let Some(request) = read(&mut stream).await else { continue };
                asked.push(request);
                let (status, body) = answers.next().expect("peeked");
                let answer = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).await.expect("answered");
                // Until the client has closed: what it has not read must not be lost with the connection.
                while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            }
            asked
        });
        (url, task)
    }

    /// Scenario: a registry that is busy at first, has an older version of one subject, and takes the rest.
    /// Guarantee: each subject is registered, its id is written, the embedded and the older ids can be read.
    #[tokio::test]
    async fn every_schema_is_registered_and_versions_of_others_are_learnt() {
        let mut answers = vec![(503, "starting".to_owned())];
        let all = subjects();
        for id in 1..=all.len() as u32 {
            answers.push((200, json!({ "id": 10 + id }).to_string()));
            answers.push((200, "[1, 2]".to_owned()));
            for (version, id) in [(2, 10 + id), (1, id)] {
                let schema = r#"{"type": "record", "name": "Old", "fields": []}"#;
                answers.push((200, json!({ "id": id, "version": version, "schema": schema }).to_string()));
            }
        }
        let (url, task) = server(answers).await;
        let registered = register(&Config { wait_ms: 20_000, ..config(&url) }).await.expect("registers");
        let asked = task.await.expect("served");
        assert_eq!(asked[1], "post /subjects/infertrace.traces.v1-value/versions http/1.1");
        assert_eq!(asked.len(), 1 + 4 * all.len(), "{asked:#?}");
        let own = SchemaIds::embedded::<Insight>();
        let (_, ids) = registered.iter().find(|(of, _)| *of == own.write_id()).expect("insights");
        let place = all.iter().position(|subject| subject.schema.id == own.write_id()).expect("a subject");
        let id = 11 + place as u8;
        assert_eq!(ids.write_id(), u32::from(id));
        let insight = Insight { id: "i".into(), title: "t".into(), ..Insight::default() };
        for writer in [&own, ids] {
            let value = writer.encode(&insight).expect("encodes");
            assert_eq!(ids.decode::<Insight>(&value).expect("decodes"), insight);
        }
        assert_eq!(ids.encode(&insight).expect("encodes")[..5], [0, 0, 0, 0, id]);
    }

    /// Scenario: while records are read, a value names an id that a registry gave after the start; then one that it does not
    /// know, twice; a schema of another kind; an id of our own. Guarantee: the value is read, by all clones and without asking
    /// again; an id is asked for in vain once in a while only; the error says what the registry said.
    #[tokio::test]
    async fn ids_given_after_the_start_are_learnt() {
        let own = SchemaIds::embedded::<Insight>();
        let embedded =
            subjects().into_iter().find(|subject| subject.schema.id == own.write_id()).expect("insights");
        let newer = json!({ "schema": embedded.schema.text }).to_string();
        let (url, task) = server(vec![
            (200, newer),
            (404, r#"{"error_code":40403,"message":"Schema not found"}"#.to_owned()),
            (200, json!({ "schema": "syntax", "schemaType": "PROTOBUF" }).to_string()),
        ])
        .await;
        let lookup = std::sync::Arc::new(Lookup::new(&config(&url)).expect("a lookup"));
        let ids = own.clone().with_source(lookup);
        let clone = ids.clone();
        let insight = Insight { id: "i".into(), title: "t".into(), ..Insight::default() };
        let mut value = ids.encode(&insight).expect("encodes");
        value[1..5].copy_from_slice(&77u32.to_be_bytes());
        assert!(ids.decode::<Insight>(&value).is_err());
        ids.learn_of(&value).await.expect("told");
        clone.learn_of(&value).await.expect("known");
        assert_eq!(clone.decode::<Insight>(&value).expect("decodes"), insight);
        for _ in 0..2 {
            let error = ids.learn_of(&[0, 0, 0, 0, 78, 1]).await.expect_err("unknown").to_string();
            assert!(error.contains("0x0000004e") && error.contains("Schema not found"), "{error}");
        }
        let error = ids.learn_of(&[0, 0, 0, 0, 79, 1]).await.expect_err("no Avro").to_string();
        assert!(error.contains("PROTOBUF"), "{error}");
        for left_to_decode in [&[0x00, 0xff, 0, 0, 1, 1][..], b"\x01", b""] {
            ids.learn_of(left_to_decode).await.expect("not asked for");
        }
        let asked = task.await.expect("served");
        let paths = ["/schemas/ids/77", "/schemas/ids/78", "/schemas/ids/79"];
        assert_eq!(asked, paths.map(|path| format!("get {path} http/1.1")));
    }

    /// Scenario: nobody at the address; a registry that refuses; a web server that is none; a wrong configuration.
    /// Guarantee: each error says what it is, where, and what to do; nothing panics or waits for ever.
    #[tokio::test]
    async fn each_trouble_has_its_own_error() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let nobody = format!("http://{}", free.local_addr().expect("an address"));
        drop(free);
        let error = register(&config(&nobody)).await.expect_err("nobody there");
        assert!(matches!(error, RegistryError::Away { .. }), "{error}");
        let (url, _task) = server(vec![(409, r#"{"error_code":409,"message":"incompatible"}"#.into())]).await;
        let error = register(&config(&url)).await.expect_err("refused").to_string();
        assert!(
            error.contains("infertrace.traces.v1-value (409)") && error.contains("incompatible"),
            "{error}"
        );
        let (url, _task) = server(vec![(200, "<html>".into())]).await;
        let error = register(&config(&url)).await.expect_err("no registry").to_string();
        assert!(error.contains("does not answer as a schema registry does"), "{error}");
        for wrong in ["registry:8081", "ftp://host", "http://user:hunter2@host"] {
            let error = register(&config(wrong)).await.expect_err("wrong");
            assert!(matches!(error, RegistryError::Config(_)), "{wrong}: {error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let missing = Config { auth_env: "NO_SUCH_VARIABLE_HERE".into(), ..config(&url) };
        let error = register(&missing).await.expect_err("no secret").to_string();
        assert!(error.contains("NO_SUCH_VARIABLE_HERE"), "{error}");
    }
}
