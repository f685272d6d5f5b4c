//! A proxy before the broker that stops one client at an exact moment of a transaction.
//!
//! All clients come through it, since the broker advertises its address; it knows of Kafka's protocol the headers of
//! requests and answers, and where `EndTxn` says whether it commits. A trap holds back the request or the answer that it
//! waits for, forever: the client is to be killed then.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};

const PRODUCE: i16 = 0;
const END_TRANSACTION: i16 = 26;
/// First version of `EndTxn` with tagged fields.
const TAGGED: i16 = 3;
/// Larger than any request or answer of a test.
const MAX_FRAME: usize = 128 << 20;

/// Where in a transaction a client is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// Records were read and worked on; the first of what came out is on its way and does not arrive.
    BeforeProduce,
    /// Outputs are in the log, uncommitted; the commit does not arrive.
    BeforeCommit,
    /// The broker has committed; nobody is told.
    AfterCommit,
}

impl Moment {
    pub(super) const ALL: [Self; 3] = [Self::BeforeProduce, Self::BeforeCommit, Self::AfterCommit];

    fn is_at(self, request: &Request<'_>) -> bool {
        match self {
            Self::BeforeProduce => request.api == PRODUCE,
            Self::BeforeCommit | Self::AfterCommit => request.commits(),
        }
    }
}

#[derive(Debug)]
struct Trap {
    moment: Moment,
    client_id: String,
    /// How often the moment is let pass.
    skip: u32,
}

#[derive(Debug, Default)]
struct State {
    trap: Option<Trap>,
    is_sprung: bool,
}

#[derive(Debug, Default)]
struct Shared {
    broker: OnceLock<String>,
    state: Mutex<State>,
    sprung: Condvar,
}

/// Accepts connections until the test's process ends.
#[derive(Debug)]
pub(super) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(super) fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let proxy = Self { port: listener.local_addr()?.port(), shared: Arc::default() };
        let shared = Arc::clone(&proxy.shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // A broker that is away is the client's to notice.
                let _ = connect(&shared, client);
            }
        });
        Ok(proxy)
    }

    /// The line of `server.properties` that sends clients here.
    pub(super) fn advertised(&self) -> String {
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:{}\n", self.port)
    }

    /// Where connections go to.
    pub(super) fn lead_to(&self, broker: String) {
        self.shared.broker.get_or_init(|| broker);
    }

    /// Stops the client of that `client.id` when it comes to `moment` after it has passed it `skip` times.
    pub(super) fn set_trap(&self, moment: Moment, client_id: &str, skip: u32) {
        let trap = Trap { moment, client_id: client_id.to_owned(), skip };
        *self.shared.state() = State { trap: Some(trap), is_sprung: false };
    }

    /// Waits until the client is stopped.
    pub(super) fn wait_sprung(&self, patience: Duration) -> anyhow::Result<()> {
        let wait =
            self.shared.sprung.wait_timeout_while(self.shared.state(), patience, |state| !state.is_sprung);
        let (state, _) = wait.unwrap_or_else(PoisonError::into_inner);
        ensure!(state.is_sprung, "waited {} s for {:?}", patience.as_secs(), state.trap);
        Ok(())
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trap, if this request is what it waits for; it is set no more.
    fn trap(&self, request: &Request<'_>) -> Option<Trap> {
        let mut state = self.state();
        let trap = state.trap.as_mut()?;
        if trap.client_id.as_bytes() != request.client_id || !trap.moment.is_at(request) {
            return None;
        }
        if trap.skip > 0 {
            trap.skip -= 1;
            return None;
        }
        state.trap.take()
    }

    fn spring(&self) {
        self.state().is_sprung = true;
        self.sprung.notify_all();
    }
}

/// A request's header, and its bytes.
struct Request<'f> {
    frame: &'f [u8],
    api: i16,
    version: i16,
    correlation: [u8; 4],
    client_id: &'f [u8],
}

impl<'f> Request<'f> {
    /// Length (4), API key (2), version (2), correlation id (4), length of the client id (2), client id, body.
    fn of(frame: &'f [u8]) -> anyhow::Result<Self> {
        let number = |at: usize| {
            let bytes = frame.get(at..at + 2).context("a request without a header")?;
            anyhow::Ok(i16::from_be_bytes([bytes[0], bytes[1]]))
        };
        let correlation = frame.get(8..12).and_then(|bytes| bytes.try_into().ok());
        let length = usize::try_from(number(12)?).unwrap_or(0);
        Ok(Self {
            frame,
            api: number(4)?,
            version: number(6)?,
            correlation: correlation.context("a request without a correlation id")?,
            client_id: frame.get(14..14 + length).unwrap_or_default(),
        })
    }

    /// The last field of `EndTxn`, before the tags, says whether it commits or aborts.
    fn commits(&self) -> bool {
        let from_end = if self.version >= TAGGED { 2 } else { 1 };
        let field = self.frame.len().checked_sub(from_end).and_then(|at| self.frame.get(at));
        self.api == END_TRANSACTION && field == Some(&1)
    }
}

/// The commit whose answer is held back.
struct Held {
    trap: Trap,
    version: i16,
    correlation: [u8; 4],
}

impl Held {
    fn is_answered_by(&self, answer: &[u8]) -> bool {
        answer.get(4..8) == Some(&self.correlation)
    }

    /// Correlation id, tags, throttle time (4), error (2).
    fn succeeded(&self, answer: &[u8]) -> bool {
        let at = if self.version >= TAGGED { 13 } else { 12 };
        answer.get(at..at + 2) == Some(&[0, 0])
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    let broker = TcpStream::connect(shared.broker.get().ok_or(io::ErrorKind::NotConnected)?)?;
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let held = Arc::new(Mutex::new(None));
    let (to_broker, to_client) = (broker.try_clone()?, client.try_clone()?);
    let (of_requests, of_answers) = (Arc::clone(shared), Arc::clone(shared));
    let holding = Arc::clone(&held);
    thread::spawn(move || {
        // Either side's end is the other's.
        let _ = requests(&of_requests, &client, &to_broker, &holding);
        let _ = (client.shutdown(Shutdown::Both), to_broker.shutdown(Shutdown::Both));
    });
    thread::spawn(move || {
        let _ = answers(&of_answers, &broker, &to_client, &held);
        let _ = (broker.shutdown(Shutdown::Both), to_client.shutdown(Shutdown::Both));
    });
    Ok(())
}

fn requests(
    shared: &Shared,
    mut client: &TcpStream,
    mut broker: &TcpStream,
    held: &Mutex<Option<Held>>,
) -> anyhow::Result<()> {
    loop {
        let frame = read_frame(&mut client)?;
        let request = Request::of(&frame)?;
        match shared.trap(&request) {
            None => {}
            Some(trap) if trap.moment == Moment::AfterCommit => {
                let Request { version, correlation, .. } = request;
                *held.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Held { trap, version, correlation });
            }
            Some(_) => {
                shared.spring();
                io::copy(&mut client, &mut io::sink())?;
                return Ok(());
            }
        }
        broker.write_all(&frame)?;
    }
}

fn answers(
    shared: &Shared,
    mut broker: &TcpStream,
    mut client: &TcpStream,
    held: &Mutex<Option<Held>>,
) -> anyhow::Result<()> {
    loop {
        let frame = read_frame(&mut broker)?;
        let mut waiting = held.lock().unwrap_or_else(PoisonError::into_inner);
        let answered = waiting.take_if(|held| held.is_answered_by(&frame));
        drop(waiting);
        match answered {
            Some(held) if held.succeeded(&frame) => {
                shared.spring();
                io::copy(&mut broker, &mut io::sink())?;
                return Ok(());
            }
            // Not committed, and to be tried again: so is this.
            Some(held) => shared.state().trap = Some(held.trap),
            None => {}
        }
        client.write_all(&frame)?;
    }
}

/// A request or an answer with its length before it.
fn read_frame(from: &mut &TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let bytes = u32::from_be_bytes(length) as usize;
    ensure!(bytes <= MAX_FRAME, "a frame of {bytes} bytes is none of Kafka's");
    let mut frame = vec![0; 4 + bytes];
    frame[..4].copy_from_slice(&length);
    from.read_exact(&mut frame[4..])?;
    Ok(frame)
}
