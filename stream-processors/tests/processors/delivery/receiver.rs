//! An HTTP server that does as the test says and keeps what it was sent.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    task::JoinHandle,
};

/// What to do with one request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// This status.
    Status(u16),
    /// This status, and come back after so many seconds.
    RetryAfter(u16, u64),
    /// None, as long as the connection lives.
    Never,
    /// 200, when the test gives leave.
    OnLeave,
}

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) path: String,
    pub(crate) headers: hyper::HeaderMap,
    pub(crate) body: Bytes,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a JSON body")
    }
}

struct Shared {
    received: Mutex<Vec<Received>>,
    script: Mutex<VecDeque<Answer>>,
    default: Mutex<Answer>,
    leave: Semaphore,
    changed: Notify,
}

pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Receiver {
    /// Answers 200 to everything on a port that the system picks.
    pub(crate) async fn start() -> Self {
        Self::on(SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    pub(crate) async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            script: Mutex::default(),
            default: Mutex::new(Answer::Status(200)),
            leave: Semaphore::new(0),
            changed: Notify::new(),
        });
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self { address, shared, server }
    }

    /// An address at which nobody listens.
    pub(crate) async fn nobody() -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        listener.local_addr().expect("an address")
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// The answers to the next requests; afterwards the default again.
    pub(crate) fn script(&self, answers: impl IntoIterator<Item = Answer>) {
        self.shared.script.lock().expect("not poisoned").extend(answers);
    }

    pub(crate) fn default(&self, answer: Answer) {
        *self.shared.default.lock().expect("not poisoned") = answer;
    }

    pub(crate) fn give_leave(&self) {
        self.shared.leave.add_permits(1);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.received.lock().expect("not poisoned").clone()
    }

    /// Waits until `holds` of everything received so far.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&[Received]) -> bool) -> Vec<Received> {
        let wait = async {
            loop {
                let changed = self.shared.changed.notified();
                let received = self.received();
                if holds(&received) {
                    return received;
                }
                changed.await;
            }
        };
        let outcome = tokio::time::timeout(Duration::from_secs(30), wait).await;
        outcome.unwrap_or_else(|_| panic!("never: {what}; received {:#?}", self.received()))
    }

    pub(crate) async fn until_count(&self, count: usize) -> Vec<Received> {
        self.until(&format!("{count} requests"), |received| received.len() >= count).await
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| answer(Arc::clone(&shared), request));
        connections.spawn(async move {
            // A client that goes away is part of the tests.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    let path = parts.uri.path().to_owned();
    shared.received.lock().expect("not poisoned").push(Received { path, headers: parts.headers, body });
    shared.changed.notify_waiters();
    let scripted = shared.script.lock().expect("not poisoned").pop_front();
    let answer = scripted.unwrap_or_else(|| shared.default.lock().expect("not poisoned").clone());
    let response = Response::builder();
    let response = match answer {
        Answer::Status(status) => response.status(status),
        Answer::RetryAfter(status, seconds) => response.status(status).header("retry-after", seconds),
        Answer::Never => std::future::pending().await,
        Answer::OnLeave => {
            shared.leave.acquire().await.expect("never closed").forget();
            response
        }
    };
    Ok(response.body(Full::new(Bytes::from_static(b"said so"))).expect("a response"))
}
