//! Connections: accepted, counted, aged, drained.
//!
//! HTTP/2 by prior knowledge and HTTP/1.1 share a port: the first bytes tell which. A connection that is old,
//! or whose gateway drains, is asked to close (GOAWAY, `connection: close`), may finish what it has begun,
//! and is cut after its grace.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulConnection,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{body::Body, router::Router};
use crate::config::TransportConfig;

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// Pause after a failed accept, so that a process out of file descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often the second byte of a connection is looked for when only one has come.
const PEEK_PAUSE: Duration = Duration::from_millis(5);
const HTTP1_BUFFER_BYTES: usize = 512 << 10;

/// Listens on `addr`.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What all connections share.
#[derive(Clone)]
pub(crate) struct Connections {
    pub(crate) router: Router,
    /// Bounds their number.
    pub(crate) slots: Arc<Semaphore>,
    /// Owns their tasks and those of their requests.
    pub(crate) tasks: TaskTracker,
    /// Cancelled to drain.
    pub(crate) draining: CancellationToken,
    /// Cancelled to cut what is left.
    pub(crate) cut: CancellationToken,
}

impl Connections {
    fn config(&self) -> &TransportConfig {
        &self.router.ingest().config.transport
    }

    /// Accepts until draining.
    pub(crate) async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.draining.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr) {
        let telemetry = &self.router.ingest().telemetry;
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            telemetry.connections_refused.inc();
            tracing::debug!(%peer, "too many connections");
            return;
        };
        telemetry.connections.inc();
        let connections = self.clone();
        self.tasks.spawn(async move {
            if let Err(error) = connections.serve(stream, peer).await {
                tracing::debug!(%peer, %error, "connection ended");
            }
            connections.router.ingest().telemetry.connections.dec();
            drop(slot);
        });
    }

    async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        stream.set_nodelay(true)?;
        let config = self.config();
        let header_timeout = Duration::from_millis(config.header_timeout_ms);
        let is_http2 = tokio::select! {
            is_http2 = tokio::time::timeout(header_timeout, speaks_http2(&stream)) => is_http2??,
            () = self.draining.cancelled() => return Ok(()),
        };
        let closing = self.draining.child_token();
        let router = self.router.clone();
        let stop = closing.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = router.clone().route(request, stop.clone());
            async move { Ok::<Response<Body>, std::convert::Infallible>(answer.await) }
        });
        let io = TokioIo::new(stream);
        if is_http2 {
            let connection = http2::Builder::new(Tasks(self.tasks.clone()))
                .timer(TokioTimer::new())
                .adaptive_window(false)
                .initial_stream_window_size(config.stream_window_bytes)
                .initial_connection_window_size(config.connection_window_bytes)
                .max_frame_size(config.max_frame_bytes)
                .max_concurrent_streams(config.max_concurrent_streams)
                .max_header_list_size(config.max_header_bytes)
                .keep_alive_interval(Duration::from_millis(config.keep_alive_interval_ms))
                .keep_alive_timeout(Duration::from_millis(config.keep_alive_timeout_ms))
                .serve_connection(io, service);
            self.run(connection, closing, peer).await?;
        } else {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(header_timeout)
                .max_buf_size(HTTP1_BUFFER_BYTES.max(config.max_header_bytes as usize))
                .serve_connection(io, service);
            self.run(connection, closing, peer).await?;
        }
        Ok(())
    }

    async fn run<C: GracefulConnection>(
        &self,
        connection: C,
        closing: CancellationToken,
        peer: SocketAddr,
    ) -> Result<(), C::Error> {
        let config = self.config();
        let mut connection = std::pin::pin!(connection);
        let age = Duration::from_millis(config.max_connection_age_ms).mul_f64(spread(peer));
        tokio::select! {
            result = connection.as_mut() => return result,
            () = tokio::time::sleep(age) => {}
            () = closing.cancelled() => {}
        }
        closing.cancel();
        connection.as_mut().graceful_shutdown();
        let grace = Duration::from_millis(config.max_connection_age_grace_ms);
        tokio::select! {
            result = connection.as_mut() => result,
            () = tokio::time::sleep(grace) => Ok(()),
            () = self.cut.cancelled() => Ok(()),
        }
    }
}

/// 0.9 to 1.1, by the peer's port: connections opened together do not all end together.
fn spread(peer: SocketAddr) -> f64 {
    0.9 + 0.2 * f64::from(peer.port().wrapping_mul(40_503)) / f64::from(u16::MAX)
}

/// Whether the connection begins as HTTP/2 does: no HTTP/1 method that is served begins with "PR".
async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0; 2];
    loop {
        match stream.peek(&mut first).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            1 if first[0] == b'P' => tokio::time::sleep(PEEK_PAUSE).await,
            read => return Ok(read == 2 && first == *b"PR"),
        }
    }
}

/// Runs the tasks of requests where they are owned.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// Waits for all tasks until `deadline`, then cuts the rest; how many connections that were.
pub(crate) async fn drain(connections: &Connections, deadline: Instant) -> usize {
    connections.tasks.close();
    if tokio::time::timeout_at(deadline, connections.tasks.wait()).await.is_ok() {
        return 0;
    }
    let max = connections.config().max_connections;
    let open = max - connections.slots.available_permits();
    connections.cut.cancel();
    connections.tasks.wait().await;
    open
}
