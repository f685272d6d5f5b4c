//! An HTTP proxy in front of ClickHouse whose inserts meet mishaps.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// What an insert is to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// Applied, never answered.
    LoseAnswer,
    /// Not applied, never answered.
    Drop,
    /// Applied twice, answered once.
    Twice,
    /// Applied, and the connection hangs.
    HangAfter,
    /// Not applied, and the connection hangs.
    HangBefore,
    /// Not applied, answered with a status and ClickHouse's exception code.
    Answer(u16, u32),
}

struct State {
    mishap: Option<(Range<usize>, Mishap)>,
    backend: u16,
}

/// See the module.
pub(crate) struct Proxy {
    state: Arc<Mutex<State>>,
    inserts: watch::Sender<usize>,
    met: watch::Sender<usize>,
    port: u16,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(backend: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State { mishap: None, backend }));
        let (inserts, met) = (watch::channel(0).0, watch::channel(0).0);
        let shared = (Arc::clone(&state), inserts.clone(), met.clone());
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (state, inserts, met) = shared.clone();
                tokio::spawn(async move { drop(serve(client, &state, &inserts, &met).await) });
            }
        });
        Self { state, inserts, met, port, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Inserts number `which`, counted from now, meet `mishap`.
    pub(crate) fn plan(&self, which: Range<usize>, mishap: Mishap) {
        self.inserts.send_replace(0);
        self.met.send_replace(0);
        self.state.lock().expect("lock").mishap = Some((which, mishap));
    }

    pub(crate) fn heal(&self) {
        self.state.lock().expect("lock").mishap = None;
    }

    /// Waits until so many mishaps were met.
    pub(crate) async fn until_met(&self, times: usize) {
        self.met.subscribe().wait_for(|met| *met >= times).await.expect("lives");
    }

    pub(crate) fn met(&self) -> usize {
        *self.met.borrow()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut client: TcpStream,
    state: &Mutex<State>,
    inserts: &watch::Sender<usize>,
    met: &watch::Sender<usize>,
) -> std::io::Result<()> {
    let request = read_request(&mut client).await?;
    let backend = state.lock().expect("lock").backend;
    let is_insert = String::from_utf8_lossy(&request[..request.len().min(200)]).contains("query=INSERT");
    let mut mishap = None;
    if is_insert {
        let number = *inserts.borrow();
        inserts.send_modify(|inserts| *inserts += 1);
        let state = state.lock().expect("lock");
        mishap = state.mishap.clone().filter(|(which, _)| which.contains(&number)).map(|(_, mishap)| mishap);
    }
    match mishap {
        None => client.write_all(&forward(backend, &request).await?).await?,
        Some(mishap) => {
            if let Mishap::LoseAnswer | Mishap::Twice | Mishap::HangAfter = mishap {
                let answer = forward(backend, &request).await?;
                if mishap == Mishap::Twice {
                    forward(backend, &request).await?;
                    client.write_all(&answer).await?;
                }
            }
            met.send_modify(|met| *met += 1);
            match mishap {
                Mishap::HangAfter | Mishap::HangBefore => std::future::pending::<()>().await,
                Mishap::Answer(status, code) => {
                    let text = format!(
                        "HTTP/1.1 {status} No\r\nX-ClickHouse-Exception-Code: {code}\r\n\
                         Content-Length: 4\r\nConnection: close\r\n\r\nno.\n"
                    );
                    client.write_all(text.as_bytes()).await?;
                }
                _ => {}
            }
        }
    }
    client.shutdown().await
}

/// One request, asking for the connection to be closed after it.
async fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    let head = loop {
        if client.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = request.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
    };
    let text = String::from_utf8_lossy(&request[..head]).to_lowercase();
    let length =
        text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    while request.len() < head + 4 + length.unwrap_or(0) {
        if client.read_buf(&mut request).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    request.splice(head..head, b"\r\nConnection: close".iter().copied());
    Ok(request)
}

async fn forward(backend: u16, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut server = TcpStream::connect(("127.0.0.1", backend)).await?;
    server.write_all(request).await?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer).await?;
    if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
        answer.splice(end..end, b"\r\nConnection: close".iter().copied());
    }
    Ok(answer)
}
