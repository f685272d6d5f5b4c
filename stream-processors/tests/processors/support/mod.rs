//! An in-memory log with one consumer per group, faults on demand, and helpers to fill it.

pub(crate) mod counted;
pub(crate) mod embedded;
pub(crate) mod running;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use infertrace_proto::v1::Span;
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Delivery, Event, GroupMetadata, Log, LogError, Millis, NewRecord, NextOffset,
    Offset, Record, TopicPartition, TopicSpec, Transactions, Watermarks,
};
use infertrace_schemas::{record::encode_share, topics};
use prost::Message;
use tokio::sync::Notify;

/// What goes wrong with one call of a group's consumer or of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing happens, and the caller is told so.
    Unavailable,
    /// Nothing happens, and the caller has to start over.
    Fenced,
    /// The call takes effect (if it can), and the caller is told that nobody knows.
    AmbiguousAfter,
}

/// The group that reads samples.
pub(crate) const SAMPLES_GROUP: &str = "infertrace-samples";

#[derive(Default)]
struct Partition {
    low: u64,
    records: Vec<Record>,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<TopicPartition, Partition>,
    committed: BTreeMap<(String, TopicPartition), u64>,
    /// Of each transactional id, and so of the group whose name it begins with.
    generations: BTreeMap<String, u64>,
    /// Calls so far, and what happens at which.
    calls: u64,
    faults: BTreeMap<u64, Fault>,
    rebalances: VecDeque<Event>,
    paused: Vec<TopicPartition>,
}

#[derive(Clone, Default)]
pub(crate) struct FakeLog {
    state: Arc<Mutex<State>>,
    pub(crate) changed: Arc<Notify>,
}

impl FakeLog {
    /// Spans and summaries in `partitions` partitions, dead letters in one.
    pub(crate) fn new(partitions: u32) -> Self {
        let log = Self::default();
        for topic in topics::all(partitions) {
            for partition in 0..topic.partitions {
                let at = TopicPartition::new(topic.name, partition);
                log.state().partitions.insert(at, Partition::default());
            }
        }
        log
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the lock")
    }

    /// Appends a record to the spans topic.
    pub(crate) fn put(&self, partition: u32, timestamp_ms: i64, payload: Option<Vec<u8>>) {
        let record = NewRecord {
            to: TopicPartition::new(topics::SPANS, partition),
            key: None,
            payload: payload.map(Bytes::from),
            headers: vec![("sender".to_owned(), Bytes::from_static(b"test"))],
            timestamp: Millis(timestamp_ms),
        };
        self.put_record(record);
    }

    /// Appends a record to any topic.
    pub(crate) fn put_record(&self, record: NewRecord) {
        self.state().append(record);
        self.changed.notify_waiters();
    }

    /// What happens at the `call`-th call from now.
    pub(crate) fn fail(&self, call: u64, fault: Fault) {
        let mut state = self.state();
        let at = state.calls + call;
        state.faults.insert(at, fault);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.state().calls
    }

    /// Takes a partition away from the consumer and gives it back.
    pub(crate) fn rebalance(&self, partition: u32) {
        let at = TopicPartition::new(topics::SPANS, partition);
        let mut state = self.state();
        state.rebalances.push_back(Event::Revoked(vec![at.clone()]));
        // The committed position is looked up when the event is delivered.
        state.rebalances.push_back(Event::Assigned(vec![(at, None)]));
    }

    /// Retention: removes everything below `low`.
    pub(crate) fn truncate(&self, partition: u32, low: u64) {
        let at = TopicPartition::new(topics::SPANS, partition);
        self.state().partitions.get_mut(&at).expect("a partition").low = low;
    }

    /// The partition as a new topic of the same name would have it.
    pub(crate) fn empty(&self, partition: u32) {
        let at = TopicPartition::new(topics::SPANS, partition);
        self.state().partitions.insert(at, Partition::default());
    }

    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        let state = self.state();
        let of_topic = state.partitions.iter().filter(|(at, _)| &*at.topic == topic);
        of_topic.flat_map(|(_, partition)| partition.records.clone()).collect()
    }

    pub(crate) fn committed_at(&self, group: &str, partition: u32) -> Option<u64> {
        self.committed_in(topics::SPANS, group, partition)
    }

    pub(crate) fn committed_in(&self, topic: &str, group: &str, partition: u32) -> Option<u64> {
        let at = TopicPartition::new(topic, partition);
        self.state().committed.get(&(group.to_owned(), at)).copied()
    }

    /// Waits until `holds`, looking again at every change.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if holds(self) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
    }
}

impl State {
    fn append(&mut self, record: NewRecord) {
        let partition = self.partitions.get_mut(&record.to).expect("a known partition");
        let offset = Offset(partition.records.len() as u64);
        partition.records.push(Record {
            from: record.to,
            offset,
            timestamp: record.timestamp,
            key: record.key,
            payload: record.payload,
            headers: record.headers,
        });
    }

    /// How often a group's transactional id was taken.
    fn generation(&self, group: &str) -> u64 {
        let of_group = self.generations.iter().filter(|(id, _)| id.starts_with(group));
        of_group.map(|(_, generation)| generation).sum()
    }

    /// Counts a call; what reads samples has no part in the faults, so that calls stay in one order.
    fn call(&mut self, group: &str) -> Option<Fault> {
        if group == SAMPLES_GROUP {
            return None;
        }
        let fault = self.faults.remove(&self.calls);
        self.calls += 1;
        fault
    }
}

fn fenced() -> LogError {
    LogError::Fenced("by the test".to_owned())
}

struct FakeConsumer {
    log: FakeLog,
    group: Option<String>,
    topics: Vec<Arc<str>>,
    generation: u64,
    positions: BTreeMap<TopicPartition, u64>,
    joined: bool,
}

#[async_trait]
impl Consumer for FakeConsumer {
    async fn poll(&mut self, _max_bytes: usize, timeout: Duration) -> Result<Event, LogError> {
        let event = self.poll_now();
        if let Ok(Event::Idle) = event {
            // What a broker would do, only sooner.
            tokio::time::sleep(timeout.min(Duration::from_millis(1))).await;
        }
        self.log.changed.notify_waiters();
        event
    }

    async fn seek(&mut self, at: &TopicPartition, to: NextOffset) -> Result<(), LogError> {
        self.positions.insert(at.clone(), to.0);
        Ok(())
    }

    fn pause(&mut self, at: &TopicPartition) -> Result<(), LogError> {
        // Who reads without a group pauses nobody else.
        if self.group.is_some() {
            self.log.state().paused.push(at.clone());
        }
        Ok(())
    }

    fn resume(&mut self, at: &TopicPartition) -> Result<(), LogError> {
        self.log.state().paused.retain(|paused| paused != at);
        Ok(())
    }

    async fn commit(&mut self, _positions: &[(TopicPartition, NextOffset)]) -> Result<(), LogError> {
        unreachable!("positions are committed with the outputs")
    }

    fn group_metadata(&self) -> Option<GroupMetadata> {
        let mut metadata = GroupMetadata::default();
        metadata.group = self.group.clone()?;
        Some(metadata)
    }
}

impl FakeConsumer {
    /// One record at a time, so that there is a point to crash at between any two.
    fn poll_now(&mut self) -> Result<Event, LogError> {
        let log = self.log.clone();
        let mut state = log.state();
        if let Some(group) = self.group.clone() {
            match state.call(&group) {
                Some(Fault::Unavailable) => return Err(LogError::Unavailable("by the test".to_owned())),
                Some(_) => return Err(fenced()),
                None => {}
            }
            if self.generation != state.generation(&group) {
                return Err(fenced());
            }
            let committed = |state: &State, at: &TopicPartition| {
                state.committed.get(&(group.clone(), at.clone())).map(|&offset| NextOffset(offset))
            };
            if !self.joined {
                self.joined = true;
                state.paused.clear();
                let inputs: Vec<_> =
                    state.partitions.keys().filter(|at| self.topics.contains(&at.topic)).cloned().collect();
                let assigned: Vec<_> = inputs
                    .into_iter()
                    .map(|at| {
                        let position = committed(&state, &at);
                        (at, position)
                    })
                    .collect();
                return Ok(Event::Assigned(assigned));
            }
            let rebalance = if group == SAMPLES_GROUP { None } else { state.rebalances.pop_front() };
            match rebalance {
                Some(Event::Revoked(partitions)) => {
                    self.positions.retain(|at, _| !partitions.contains(at));
                    return Ok(Event::Revoked(partitions));
                }
                Some(Event::Assigned(partitions)) => {
                    let assigned = partitions
                        .into_iter()
                        .map(|(at, _)| {
                            let position = committed(&state, &at);
                            (at, position)
                        })
                        .collect();
                    return Ok(Event::Assigned(assigned));
                }
                _ => {}
            }
        }
        for (at, position) in &mut self.positions {
            if state.paused.contains(at) && self.group.is_some() {
                continue;
            }
            let partition = &state.partitions[at];
            if *position < partition.low {
                return Err(LogError::DataLoss {
                    at: at.clone(),
                    wanted: NextOffset(*position),
                    low: NextOffset(partition.low),
                });
            }
            if let Some(record) = partition.records.get(*position as usize) {
                *position += 1;
                return Ok(Event::Records(vec![record.clone()]));
            }
        }
        Ok(Event::Idle)
    }
}

struct FakeTransactions {
    log: FakeLog,
    generation: u64,
}

#[async_trait]
impl Transactions for FakeTransactions {
    async fn commit(
        &mut self,
        outputs: Vec<NewRecord>,
        group: Option<&GroupMetadata>,
        positions: &[(TopicPartition, NextOffset)],
    ) -> Result<(), LogError> {
        let group = group.expect("a group").group.clone();
        let mut state = self.log.state();
        let fault = state.call(&group);
        match fault {
            Some(Fault::Unavailable) => return Err(LogError::Unavailable("by the test".to_owned())),
            Some(Fault::Fenced) => return Err(fenced()),
            Some(Fault::AmbiguousAfter) | None => {}
        }
        if self.generation != state.generation(&group) {
            return Err(fenced());
        }
        for output in outputs {
            state.append(output);
        }
        for (at, position) in positions {
            state.committed.insert((group.clone(), at.clone()), position.0);
        }
        drop(state);
        self.log.changed.notify_waiters();
        match fault {
            Some(_) => Err(LogError::Ambiguous("by the test".to_owned())),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Log for FakeLog {
    async fn create_topics(&self, _specs: &[TopicSpec]) -> Result<(), LogError> {
        Ok(())
    }

    async fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        Ok(self.state().partitions.keys().filter(|at| &*at.topic == topic).count() as u32)
    }

    fn append(&self, _record: NewRecord) -> Result<Delivery, LogError> {
        unreachable!("the processor writes in transactions only")
    }

    async fn transactions(&self, transactional_id: &str) -> Result<Box<dyn Transactions>, LogError> {
        let mut state = self.state();
        let generation = state.generations.entry(transactional_id.to_owned()).or_default();
        *generation += 1;
        Ok(Box::new(FakeTransactions { log: self.clone(), generation: *generation }))
    }

    async fn consumer(&self, options: ConsumerOptions) -> Result<Box<dyn Consumer>, LogError> {
        let generation = options.group.as_ref().map_or(0, |group| self.state().generation(group));
        let positions = options.assign.into_iter().map(|(at, position)| (at, position.0)).collect();
        Ok(Box::new(FakeConsumer {
            log: self.clone(),
            group: options.group,
            topics: options.topics,
            generation,
            positions,
            joined: false,
        }))
    }

    async fn watermarks(&self, at: &TopicPartition) -> Result<Watermarks, LogError> {
        let state = self.state();
        let partition = &state.partitions[at];
        Ok(Watermarks { low: NextOffset(partition.low), high: NextOffset(partition.records.len() as u64) })
    }

    async fn position_at(&self, at: &TopicPartition, time: Millis) -> Result<NextOffset, LogError> {
        let state = self.state();
        let records = &state.partitions[at].records;
        let first = records.iter().position(|record| record.timestamp >= time);
        Ok(NextOffset(first.unwrap_or(records.len()) as u64))
    }

    async fn committed(&self, group: &str, at: &TopicPartition) -> Result<Option<NextOffset>, LogError> {
        let key = (group.to_owned(), at.clone());
        Ok(self.state().committed.get(&key).map(|&offset| NextOffset(offset)))
    }

    async fn ready(&self) -> Result<(), LogError> {
        Ok(())
    }
}

/// A span of trace `trace`.
pub(crate) fn span(trace: u8, id: u8, parent: u8, start: i64, duration: i64) -> Span {
    Span {
        trace_id: vec![trace + 1; 16],
        span_id: vec![id; 8],
        parent_span_id: if parent == 0 { Vec::new() } else { vec![parent; 8] },
        service_name: format!("service-{}", id % 3),
        operation_name: "work".to_owned(),
        start_time_unix_nano: 1_700_000_000_000_000_000 + start,
        duration_nanos: duration,
        ..Span::default()
    }
}

/// One record with `spans`.
pub(crate) fn share(spans: &[Span]) -> Vec<u8> {
    let encoded: Vec<Vec<u8>> = spans.iter().map(Message::encode_to_vec).collect();
    encode_share("", b"", encoded.iter().map(Vec::as_slice), &[])
}
