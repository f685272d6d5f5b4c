//! Copies of the analyses of partitions that other members own, so that taking one over reads only its last second.
//!
//! A follower reads the partials and the state topic in no group, and takes partials up to the owner's committed
//! position, no further: what came out of them is in the log, so a copy has nothing to tell. Which partitions it
//! follows is drawn by rendezvous hashing (D. G. Thaler, C. V. Ravishankar, "Using name-based mappings to increase hit
//! rates", 1998), so that the members of a group copy different ones without talking to each other.
//!
//! Invariants: a copy is what the owner's analyst was at some committed position; memory is bounded by
//! [`standby_partitions`](super::Config::standby_partitions) analysts and twice
//! [`max_buffered_bytes`](super::Config::max_buffered_bytes) of records; without a follower, everything works but slower.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, LogError, NextOffset, Record, TopicPartition,
};
use infertrace_schemas::topics;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh64::xxh64;

use super::{
    Service,
    restore::{Layout, Restored, restore},
    state::Gatherer,
};
use crate::{partials, service::MARKERS};

const POLL_TIME: Duration = Duration::from_millis(50);
/// Take-overs that wait to be answered; each waits for one poll or one restore of the follower.
const REQUESTS: usize = 16;

/// A partition is taken over; its copy is wanted.
pub(super) struct Request {
    partition: u32,
    reply: oneshot::Sender<Option<Restored>>,
}

/// What a session knows of the follower.
pub(super) struct Standby {
    owned: Mutex<BTreeSet<u32>>,
    requests: mpsc::Sender<Request>,
}

impl Standby {
    /// The two sides.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(REQUESTS);
        (Arc::new(Self { owned: Mutex::default(), requests }), receiver)
    }

    /// Takes a partition over, with the copy of it if there is one.
    pub(super) async fn take(&self, partition: u32) -> Option<Restored> {
        self.owned.lock().insert(partition);
        let (reply, copy) = oneshot::channel();
        // A follower that has ended has no copies.
        self.requests.send(Request { partition, reply }).await.ok()?;
        copy.await.ok().flatten()
    }

    /// Another member owns it now, or will.
    pub(super) fn leave(&self, partition: u32) {
        self.owned.lock().remove(&partition);
    }
}

/// One partition that is followed.
struct Copy {
    at: TopicPartition,
    state_at: TopicPartition,
    state: Restored,
    /// The owner's committed position.
    committed: u64,
    /// Records from `state.next` on.
    waiting: VecDeque<Record>,
    waiting_bytes: usize,
    is_paused: bool,
}

impl Copy {
    /// Takes the records that the owner has committed.
    fn advance(&mut self) {
        let mut told = Vec::new();
        while let Some(record) = self.waiting.pop_front_if(|record| record.offset.0 < self.committed) {
            let payload = record.payload.as_deref().unwrap_or_default();
            self.waiting_bytes -= payload.len();
            self.state.next = record.offset.next().0;
            // Poison was moved aside by the owner.
            let Ok(batch) = partials::decode(payload) else { continue };
            self.state.analyst.written_at(record.timestamp.0);
            for partial in batch.partials {
                self.state.analyst.partial(batch.source, partial);
            }
            if let Some(watermark_ms) = batch.watermark_ms {
                self.state.analyst.watermark(batch.source, watermark_ms, &mut told);
                told.clear();
            }
        }
    }

    /// How far outputs were told, from a record of the state topic.
    fn take_state(&mut self, partition: u32, record: &Record) {
        if record.offset.0 < self.state.state_next {
            return;
        }
        let mut gatherer = Gatherer::new(partition);
        gatherer.take(record);
        self.state.told_to_ms = gatherer.finish().told_to_ms.or(self.state.told_to_ms);
        self.state.state_next = record.offset.next().0;
    }

    /// Records that the owner has committed and the copy has not taken.
    fn lag(&self) -> u64 {
        let lag = self.committed.saturating_sub(self.state.next);
        // Markers of transactions count as offsets but are never delivered.
        if lag > MARKERS { lag } else { 0 }
    }
}

/// Keeps copies until it is stopped.
pub(super) struct Follower {
    service: Arc<Service>,
    standby: Arc<Standby>,
    requests: mpsc::Receiver<Request>,
    copies: BTreeMap<u32, Copy>,
    /// None while nothing is followed.
    consumer: Option<Box<dyn Consumer>>,
    next_look: Instant,
}

impl Follower {
    pub(super) fn new(
        service: Arc<Service>,
        standby: Arc<Standby>,
        requests: mpsc::Receiver<Request>,
    ) -> Self {
        let (copies, next_look) = (BTreeMap::new(), Instant::now());
        Self { service, standby, requests, copies, consumer: None, next_look }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let Err(error) = self.follow(&shutdown).await else { break };
            tracing::warn!(%error, copies = self.copies.len(), "standby copies are given up and made again");
            self.keep(&BTreeSet::new());
            self.consumer = None;
            tokio::select! {
                () = tokio::time::sleep(self.service.config.retry()) => {}
                () = shutdown.cancelled() => {}
            }
            self.answer();
        }
        self.keep(&BTreeSet::new());
    }

    async fn follow(&mut self, shutdown: &CancellationToken) -> Result<(), LogError> {
        let layout = Layout::of(self.service.log.as_ref()).await?;
        while !shutdown.is_cancelled() {
            self.answer();
            if Instant::now() >= self.next_look {
                self.choose(&layout).await?;
                self.look_at_positions().await?;
                self.next_look = Instant::now() + Duration::from_millis(self.service.config.end_check_ms);
            }
            let Some(consumer) = &mut self.consumer else {
                tokio::select! {
                    request = self.requests.recv() => self.answer_to(request),
                    () = tokio::time::sleep_until(self.next_look) => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            };
            if let Event::Records(records) =
                consumer.poll(self.service.config.max_poll_bytes, POLL_TIME).await?
            {
                self.take(records)?;
            }
        }
        Ok(())
    }

    fn answer(&mut self) {
        while let Ok(request) = self.requests.try_recv() {
            self.answer_to(Some(request));
        }
    }

    fn answer_to(&mut self, request: Option<Request>) {
        let Some(Request { partition, reply }) = request else { return };
        self.service.metrics.standby.remove(partition);
        let copy = self.copies.remove(&partition).map(|copy| copy.state);
        self.service.metrics.standby_partitions.set(self.copies.len() as i64);
        // Whoever asked may have gone: the next owner restores from the snapshot.
        let _ = reply.send(copy);
    }

    /// Gives up the copies of other partitions.
    fn keep(&mut self, partitions: &BTreeSet<u32>) {
        let metrics = &self.service.metrics;
        self.copies.retain(|partition, _| {
            let keeps = partitions.contains(partition);
            if !keeps {
                metrics.standby.remove(*partition);
            }
            keeps
        });
        metrics.standby_partitions.set(self.copies.len() as i64);
    }

    /// Which partitions are to be followed: of those of other members, the ones that this member ranks first.
    fn chosen(&self, layout: &Layout) -> BTreeSet<u32> {
        let owned = self.standby.owned.lock();
        let mut others: Vec<u32> =
            (0..layout.partials).filter(|partition| !owned.contains(partition)).collect();
        let name = xxh64(self.service.transactional_id.as_bytes(), 0);
        others.sort_by_key(|partition| xxh64(&partition.to_le_bytes(), name));
        others.into_iter().take(self.service.config.standby_partitions).collect()
    }

    /// Begins to follow what is to be followed, and gives up the rest.
    async fn choose(&mut self, layout: &Layout) -> Result<(), LogError> {
        let chosen = self.chosen(layout);
        let before: Vec<u32> = self.copies.keys().copied().collect();
        self.keep(&chosen);
        for partition in chosen {
            // Whoever takes a partition over waits for one restore at most.
            self.answer();
            if self.copies.contains_key(&partition) || self.standby.owned.lock().contains(&partition) {
                continue;
            }
            let state = restore(&self.service, layout, partition, None).await?;
            // Retention overtook the last snapshot: nothing to follow until the owner writes another.
            if state.lost > 0 {
                continue;
            }
            let (committed, waiting_bytes, is_paused) = (0, 0, false);
            let at = TopicPartition::new(topics::PARTIALS, partition);
            let (state_at, waiting) = (layout.state_of(partition), VecDeque::new());
            let copy = Copy { at, state_at, state, committed, waiting, waiting_bytes, is_paused };
            self.copies.insert(partition, copy);
        }
        self.service.metrics.standby_partitions.set(self.copies.len() as i64);
        if self.copies.keys().ne(&before) {
            self.open().await?;
        }
        Ok(())
    }

    /// Reads from where the copies are.
    async fn open(&mut self) -> Result<(), LogError> {
        self.consumer = None;
        let mut assign: BTreeMap<TopicPartition, NextOffset> = BTreeMap::new();
        for copy in self.copies.values_mut() {
            copy.waiting.clear();
            (copy.waiting_bytes, copy.is_paused) = (0, false);
            assign.insert(copy.at.clone(), NextOffset(copy.state.next));
            // Several partitions may keep their state in one.
            let state_next = NextOffset(copy.state.state_next);
            let least = assign.entry(copy.state_at.clone()).or_insert(state_next);
            *least = state_next.min(*least);
        }
        if !assign.is_empty() {
            let options = ConsumerOptions {
                group: None,
                topics: Vec::new(),
                assign: assign.into_iter().collect(),
                max_buffered_bytes: self.service.config.max_buffered_bytes,
                read_committed: true,
            };
            self.consumer = Some(self.service.log.consumer(options).await?);
        }
        Ok(())
    }

    fn take(&mut self, records: Vec<Record>) -> Result<(), LogError> {
        for record in records {
            if *record.from.topic != *topics::PARTIALS {
                let of_state = self.copies.iter_mut().filter(|(_, copy)| copy.state_at == record.from);
                of_state.for_each(|(&partition, copy)| copy.take_state(partition, &record));
            } else if let Some(copy) = self.copies.get_mut(&record.from.partition) {
                copy.waiting_bytes += record.payload.as_ref().map_or(0, |payload| payload.len());
                copy.waiting.push_back(record);
            }
        }
        self.advance()
    }

    /// Takes what is committed; pauses partitions of which too much waits for its owner.
    fn advance(&mut self) -> Result<(), LogError> {
        let most = self.service.config.max_buffered_bytes / self.copies.len().max(1);
        for (&partition, copy) in &mut self.copies {
            copy.advance();
            self.service.metrics.standby.set(partition, copy.state.next, copy.lag());
            let Some(consumer) = &mut self.consumer else { continue };
            if !copy.is_paused && copy.waiting_bytes > most {
                consumer.pause(&copy.at)?;
                copy.is_paused = true;
            } else if copy.is_paused && copy.waiting_bytes <= most / 2 {
                consumer.resume(&copy.at)?;
                copy.is_paused = false;
            }
        }
        Ok(())
    }

    async fn look_at_positions(&mut self) -> Result<(), LogError> {
        for copy in self.copies.values_mut() {
            let position = self.service.log.committed(&self.service.config.group, &copy.at).await?;
            copy.committed = position.map_or(0, |position| position.0);
        }
        self.advance()
    }
}
