//! The bounded queue between appenders and the writer's thread, and what travels in it.
//!
//! Bounded by bytes accepted and not yet answered; an append above the bound is refused with
//! [`LogError::Full`]. Small control work (group commits, barriers) always passes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::{
    format::{Body, OpHeader},
    state::TopicMeta,
};
use crate::log::{LogError, Offset, TopicSpec};

/// When to try again after [`LogError::Full`]: a few group commits later.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// One operation to be written.
#[derive(Debug)]
pub(super) enum NewOp {
    Append {
        topic: u32,
        partition: u32,
        timestamp: i64,
        key: Option<[u64; 2]>,
        raw_bytes: usize,
        body: Body,
    },
    /// A record that retention keeps: as it was, with its offset.
    Carried {
        header: OpHeader,
        key: [u64; 2],
        body: Bytes,
    },
    Commit {
        group: Arc<str>,
        topic: u32,
        partition: u32,
        next: u64,
    },
    Topic(TopicMeta),
    Bounds {
        topic: u32,
        partition: u32,
        low: u64,
        high: u64,
    },
}

impl NewOp {
    pub(super) fn body_len(&self) -> usize {
        match self {
            Self::Append { body, .. } => body.len(),
            Self::Carried { body, .. } => body.len(),
            Self::Commit { group, .. } => group.len(),
            Self::Topic(meta) => meta.name.len(),
            Self::Bounds { .. } => 0,
        }
    }
}

/// What the writer is asked for.
#[derive(Debug)]
pub(super) enum Work {
    /// One atomic entry.
    Entry(Vec<NewOp>),
    /// Create what is missing of these.
    Topics(Vec<TopicSpec>),
    /// Nothing; the answer says that everything queued before is applied.
    Barrier,
    /// Seal the active segment and look at retention now; rewrite every sealed segment if `compact`.
    Maintain { compact: bool },
}

/// Who waits for the answer.
#[derive(Debug)]
pub(super) enum Reply {
    Offset(oneshot::Sender<Result<Offset, LogError>>),
    Done { transaction: bool, sender: oneshot::Sender<Result<(), LogError>> },
}

/// Why work was not done; one value answers many.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// Nothing was written.
    DiskFull {
        path: String,
        detail: String,
    },
    /// A write or sync failed: whether the bytes are on the disk is not known.
    Poisoned(String),
    Closed,
}

impl Failure {
    pub(super) fn to_error(&self, transaction: bool) -> LogError {
        match self {
            Self::DiskFull { path, detail } => {
                LogError::DiskFull { path: path.clone(), detail: detail.clone() }
            }
            Self::Poisoned(detail) if transaction => LogError::Ambiguous(detail.clone()),
            Self::Poisoned(detail) => LogError::Fatal(detail.clone()),
            Self::Closed => LogError::Unavailable("the log is closed".to_owned()),
        }
    }
}

impl Reply {
    pub(super) fn fail(self, failure: &Failure) {
        // Whoever asked may be gone; then nobody needs the answer.
        let _ = match self {
            Self::Offset(sender) => sender.send(Err(failure.to_error(false))).map_err(drop),
            Self::Done { transaction, sender } => {
                sender.send(Err(failure.to_error(transaction))).map_err(drop)
            }
        };
    }

    pub(super) fn succeed(self, offset: Option<Offset>) {
        let _ = match self {
            Self::Offset(sender) => sender.send(Ok(offset.expect("an append has an offset"))).map_err(drop),
            Self::Done { sender, .. } => sender.send(Ok(())).map_err(drop),
        };
    }
}

/// Work with its place in the byte budget.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) work: Work,
    pub(super) reply: Reply,
    pub(super) ticket: Ticket,
}

/// Bytes held in the budget until the answer is given, and since when.
#[derive(Debug)]
pub(super) struct Ticket {
    budget: Arc<Budget>,
    bytes: usize,
    pub(super) since: Instant,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[derive(Debug)]
struct Budget {
    used: AtomicUsize,
    limit: usize,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    closed: bool,
}

#[derive(Debug)]
pub(super) struct Queue {
    inner: Mutex<Inner>,
    filled: Condvar,
    budget: Arc<Budget>,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        let budget = Arc::new(Budget { used: AtomicUsize::new(0), limit });
        Self { inner: Mutex::default(), filled: Condvar::new(), budget }
    }

    pub(super) fn used_bytes(&self) -> usize {
        self.budget.used.load(Ordering::Acquire)
    }

    /// Takes `bytes` of the budget, or says when to try again.
    pub(super) fn reserve(&self, bytes: usize) -> Result<Ticket, LogError> {
        let budget = &self.budget;
        let fits = |used: usize| (used + bytes <= budget.limit).then_some(used + bytes);
        budget
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .map_err(|_| LogError::Full { retry_after: RETRY_AFTER })?;
        Ok(Ticket { budget: budget.clone(), bytes, since: Instant::now() })
    }

    /// A ticket for small control work.
    pub(super) fn pass(&self) -> Ticket {
        Ticket { budget: self.budget.clone(), bytes: 0, since: Instant::now() }
    }

    pub(super) fn push(&self, item: Item) {
        let mut inner = self.inner.lock();
        if inner.closed {
            drop(inner);
            item.reply.fail(&Failure::Closed);
            return;
        }
        inner.items.push_back(item);
        drop(inner);
        self.filled.notify_one();
    }

    /// Waits for work until `deadline`; takes up to about `bytes`. The flag says that no more will come.
    pub(super) fn take(&self, bytes: usize, deadline: Instant) -> (Vec<Item>, bool) {
        let mut inner = self.inner.lock();
        while inner.items.is_empty() && !inner.closed {
            if self.filled.wait_until(&mut inner, deadline).timed_out() {
                break;
            }
        }
        let mut taken = Vec::new();
        let mut sum = 0;
        while sum < bytes
            && let Some(item) = inner.items.pop_front()
        {
            sum += item.ticket.bytes;
            taken.push(item);
        }
        (taken, inner.closed && inner.items.is_empty())
    }

    /// Refuses new work; what is queued is still done.
    pub(super) fn close(&self) {
        self.inner.lock().closed = true;
        self.filled.notify_all();
    }

    /// Answers whatever is still queued.
    pub(super) fn fail_all(&self, failure: &Failure) {
        let items = std::mem::take(&mut self.inner.lock().items);
        for item in items {
            item.reply.fail(failure);
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }
}
