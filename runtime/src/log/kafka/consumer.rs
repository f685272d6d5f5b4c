//! A Kafka consumer behind [`Consumer`]: one thread owns librdkafka's consumer, the async side sends it commands.
//!
//! Rebalances run inside librdkafka's poll on that thread. The callback hands `Assigned` or `Revoked` to the
//! owner and then serves the owner's commits and seeks until its next `poll`: an owner always gets to commit
//! before partitions move, and to choose where to start before the first fetch.
//!
//! Invariants: offsets are never reset silently (`auto.offset.reset=error` becomes [`LogError::DataLoss`]);
//! records are never lost when a caller drops a `poll` future: the answer waits for its next `poll`.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset as KafkaOffset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, RebalanceProtocol},
    error::{KafkaError, KafkaResult},
    message::{BorrowedMessage, Headers},
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::{committed, errors::classify, to_list, watermarks};
use crate::log::{
    Consumer, ConsumerOptions, Event, GroupMetadata, LogError, Millis, NextOffset, Offset, Record,
    TopicPartition,
};

/// The longest that a waiting poll trusts librdkafka to wake it.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const INSIST_PAUSE: Duration = Duration::from_millis(100);

type Reply<T> = oneshot::Sender<Result<T, LogError>>;

enum Command {
    Poll { max_bytes: usize, timeout: Duration, reply: Reply<Event> },
    Seek { at: TopicPartition, to: NextOffset, reply: Reply<()> },
    Pause { at: TopicPartition, paused: bool },
    Commit { positions: Vec<(TopicPartition, NextOffset)>, reply: Reply<()> },
}

struct PendingPoll {
    max_bytes: usize,
    deadline: Instant,
    reply: Reply<Event>,
}

/// What the consumer's thread and its rebalance callback share; only that thread uses it.
struct Shared {
    commands: mpsc::UnboundedReceiver<Command>,
    pending: Option<PendingPoll>,
    /// Where the owner wants to start partitions that are being assigned.
    starts: Option<Vec<(TopicPartition, NextOffset)>>,
    closed: bool,
    gathered: Vec<Record>,
    gathered_bytes: usize,
    failed: Option<LogError>,
    /// Whether an end was reached, which the owner should hear of at once.
    at_end: bool,
}

impl Shared {
    /// Answers the pending poll when there is something to say or its time is over.
    fn answer_poll(&mut self) {
        let Some(pending) = self.pending.take() else { return };
        let outcome = if !self.gathered.is_empty() {
            self.gathered_bytes = 0;
            Ok(Event::Records(std::mem::take(&mut self.gathered)))
        } else if let Some(error) = self.failed.take() {
            Err(error)
        } else if std::mem::take(&mut self.at_end) || Instant::now() >= pending.deadline {
            Ok(Event::Idle)
        } else {
            self.pending = Some(pending);
            return;
        };
        // The receiver outlives a dropped poll future, so an error means that the consumer is gone.
        let _ = pending.reply.send(outcome);
    }
}

struct Context {
    shared: Mutex<Shared>,
    metadata: Arc<Mutex<Option<Arc<rdkafka::consumer::ConsumerGroupMetadata>>>>,
    ends: Arc<Mutex<HashSet<TopicPartition>>>,
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        error: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
        let outcome = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.refresh_metadata(consumer);
                let starts = self.announce_assigned(consumer, partitions);
                match to_list(&starts) {
                    Ok(list) if cooperative => consumer.incremental_assign(&list),
                    Ok(list) => consumer.assign(&list),
                    Err(_) => Ok(()),
                }
            }
            _ => {
                let revoked = names(partitions);
                if !revoked.is_empty() {
                    self.hand_over(consumer, Event::Revoked(revoked));
                }
                if cooperative { consumer.incremental_unassign(partitions) } else { consumer.unassign() }
            }
        };
        if let Err(error) = outcome {
            warn!(%error, "rebalance failed; the group will try again");
        }
        self.refresh_metadata(consumer);
    }
}

impl Context {
    /// Takes the membership of the generation that has begun, for transactions.
    fn refresh_metadata(&self, consumer: &BaseConsumer<Self>) {
        if let Some(metadata) = consumer.group_metadata() {
            *self.metadata.lock() = Some(Arc::new(metadata));
        }
    }

    /// Tells the owner of new partitions and returns where each starts.
    fn announce_assigned(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &TopicPartitionList,
    ) -> Vec<(TopicPartition, NextOffset)> {
        let assigned = names(partitions);
        if assigned.is_empty() {
            return Vec::new();
        }
        let mut event = Vec::with_capacity(assigned.len());
        let mut starts = Vec::with_capacity(assigned.len());
        for at in assigned {
            let asked = self.insist(|| {
                let position = committed(consumer, &at)?;
                Ok((position, position.map_or_else(|| Ok(watermarks(consumer, &at)?.low), Ok)?))
            });
            let Some((committed, start)) = asked else { return Vec::new() };
            event.push((at.clone(), committed));
            starts.push((at, start));
        }
        self.shared.lock().starts = Some(starts);
        self.hand_over(consumer, Event::Assigned(event));
        self.shared.lock().starts.take().unwrap_or_default()
    }

    /// Asks until there is an answer: starting without one would read everything again, or skip what is not read.
    /// `None` when the owner is gone.
    fn insist<T>(&self, ask: impl Fn() -> Result<T, LogError>) -> Option<T> {
        loop {
            match ask() {
                Ok(answer) => return Some(answer),
                Err(_) if self.shared.lock().commands.is_closed() => return None,
                Err(error) => {
                    warn!(%error, "cannot read where an assigned partition starts; trying again");
                    std::thread::sleep(INSIST_PAUSE);
                }
            }
        }
    }

    /// Gives `event` to the owner, after the records fetched before it, and serves it until it has dealt with
    /// the event and polls again.
    fn hand_over(&self, consumer: &BaseConsumer<Self>, event: Event) {
        if !self.shared.lock().gathered.is_empty() {
            self.shared.lock().answer_poll();
            self.serve_until_poll(consumer);
        }
        let pending = self.shared.lock().pending.take();
        if let Some(pending) = pending {
            let _ = pending.reply.send(Ok(event));
            self.serve_until_poll(consumer);
        }
    }

    /// Serves the owner's commands until it polls again or is gone.
    fn serve_until_poll(&self, consumer: &BaseConsumer<Self>) {
        loop {
            let mut shared = self.shared.lock();
            if shared.closed || shared.pending.is_some() {
                return;
            }
            let Some(command) = shared.commands.blocking_recv() else {
                shared.closed = true;
                return;
            };
            handle(&mut shared, consumer, command);
        }
    }
}

fn handle(shared: &mut Shared, consumer: &BaseConsumer<Context>, command: Command) {
    match command {
        Command::Poll { max_bytes, timeout, reply } => {
            shared.pending = Some(PendingPoll { max_bytes, deadline: Instant::now() + timeout, reply });
        }
        Command::Seek { at, to, reply } => {
            let start =
                shared.starts.as_mut().and_then(|starts| starts.iter_mut().find(|(name, _)| *name == at));
            let outcome = match start {
                Some(start) => {
                    start.1 = to;
                    Ok(())
                }
                None => seek(consumer, &at, to),
            };
            let _ = reply.send(outcome);
        }
        Command::Pause { at, paused } => {
            let outcome = to_list(&[(at.clone(), NextOffset(0))]).and_then(|list| {
                let done = if paused { consumer.pause(&list) } else { consumer.resume(&list) };
                done.map_err(|error| classify(&error))
            });
            if let Err(error) = outcome {
                warn!(partition = %at, paused, %error, "cannot pause or resume");
            }
        }
        Command::Commit { positions, reply } => {
            let _ = reply.send(commit(consumer, shared.starts.as_deref().unwrap_or_default(), &positions));
        }
    }
}

/// Whether this consumer reads the partition now; until a revocation is over it still does.
fn owns(consumer: &BaseConsumer<Context>, at: &TopicPartition) -> bool {
    let assignment = consumer.assignment();
    assignment.is_ok_and(|all| all.find_partition(&at.topic, at.partition as i32).is_some())
}

/// The broker would take a member's commit for any partition; the contract is that only an owner's counts.
/// `arriving` are partitions that are being assigned.
fn commit(
    consumer: &BaseConsumer<Context>,
    arriving: &[(TopicPartition, NextOffset)],
    positions: &[(TopicPartition, NextOffset)],
) -> Result<(), LogError> {
    let is_owned = |at: &TopicPartition| arriving.iter().any(|(name, _)| name == at) || owns(consumer, at);
    if let Some((at, _)) = positions.iter().find(|(at, _)| !is_owned(at)) {
        return Err(LogError::Fenced(format!("{at} is not assigned to this consumer")));
    }
    let list = to_list(positions)?;
    consumer.commit(&list, CommitMode::Sync).map_err(|error| classify(&error))
}

fn seek(consumer: &BaseConsumer<Context>, at: &TopicPartition, to: NextOffset) -> Result<(), LogError> {
    if !owns(consumer, at) {
        return Err(LogError::Fenced(format!("{at} is not assigned to this consumer")));
    }
    let offset = KafkaOffset::Offset(i64::try_from(to.0).unwrap_or(i64::MAX));
    let sought = consumer.seek(&at.topic, at.partition as i32, offset, CALL_TIMEOUT);
    if sought.is_ok() {
        return Ok(());
    }
    // A partition whose fetch stopped on an error is not seekable: assign it anew.
    let list = to_list(&[(at.clone(), to)])?;
    let cooperative = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Cooperative);
    let outcome = if cooperative {
        consumer.incremental_unassign(&list).and_then(|()| consumer.incremental_assign(&list))
    } else {
        reassign(consumer, at, offset)
    };
    outcome.map_err(|error| classify(&error))
}

/// Assigns the same partitions again, each at its position, but `at` at `offset`.
fn reassign(consumer: &BaseConsumer<Context>, at: &TopicPartition, offset: KafkaOffset) -> KafkaResult<()> {
    let (assignment, positions) = (consumer.assignment()?, consumer.position()?);
    let mut all = TopicPartitionList::with_capacity(assignment.count());
    for element in assignment.elements() {
        let (topic, partition) = (element.topic(), element.partition());
        let position = positions.find_partition(topic, partition).map(|found| found.offset());
        let start = match position {
            _ if topic == &*at.topic && partition == at.partition as i32 => offset,
            Some(KafkaOffset::Offset(position)) => KafkaOffset::Offset(position),
            _ => element.offset(),
        };
        all.add_partition_offset(topic, partition, start)?;
    }
    consumer.assign(&all)
}

fn names(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements()
        .iter()
        .map(|element| TopicPartition::new(element.topic(), element.partition().max(0) as u32))
        .collect()
}

/// The async side.
pub(super) struct KafkaConsumer {
    commands: mpsc::UnboundedSender<Command>,
    /// Of the consumer, to wake it.
    thread: std::thread::Thread,
    /// A poll whose caller went away; its answer belongs to the next poll.
    outstanding: Option<oneshot::Receiver<Result<Event, LogError>>>,
    group: Option<String>,
    metadata: Arc<Mutex<Option<Arc<rdkafka::consumer::ConsumerGroupMetadata>>>>,
    /// Partitions whose end was reached and that brought nothing since.
    ends: Arc<Mutex<HashSet<TopicPartition>>>,
}

impl KafkaConsumer {
    pub(super) async fn start(config: ClientConfig, options: ConsumerOptions) -> Result<Self, LogError> {
        let (commands, inbox) = mpsc::unbounded_channel();
        let metadata = Arc::new(Mutex::new(None));
        let ends = Arc::new(Mutex::new(HashSet::new()));
        let context = Context {
            shared: Mutex::new(Shared {
                commands: inbox,
                pending: None,
                starts: None,
                closed: false,
                gathered: Vec::new(),
                gathered_bytes: 0,
                failed: None,
                at_end: false,
            }),
            metadata: metadata.clone(),
            ends: ends.clone(),
        };
        let group = options.group.clone();
        let (ready, started) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name(format!("consume-{}", group.as_deref().unwrap_or("assigned")))
            .spawn(move || {
                let consumer = match create(&config, context, &options) {
                    Ok(consumer) => consumer,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                if ready.send(Ok(())).is_ok() {
                    run(&consumer);
                }
            })
            .map_err(|error| LogError::Unavailable(format!("cannot start a thread: {error}")))?
            .thread()
            .clone();
        started.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(Self { commands, thread, outstanding: None, group, metadata, ends })
    }

    fn send(&self, command: Command) -> Result<(), LogError> {
        self.commands.send(command).map_err(|_| gone())?;
        self.thread.unpark();
        Ok(())
    }
}

fn gone() -> LogError {
    LogError::Unavailable("the consumer stopped".into())
}

fn create(
    config: &ClientConfig,
    context: Context,
    options: &ConsumerOptions,
) -> Result<BaseConsumer<Context>, LogError> {
    let mut consumer: BaseConsumer<Context> = config
        .create_with_context(context)
        .map_err(|error| LogError::Fatal(format!("cannot create the consumer: {error}")))?;
    let thread = std::thread::current();
    consumer.set_nonempty_callback(move || thread.unpark());
    let outcome = if options.group.is_some() {
        let topics: Vec<&str> = options.topics.iter().map(AsRef::as_ref).collect();
        consumer.subscribe(&topics)
    } else {
        consumer.assign(&to_list(&options.assign)?)
    };
    outcome.map_err(|error| classify(&error))?;
    Ok(consumer)
}

/// The thread: serves commands, polls while a poll is pending. It sleeps until a command or an event of librdkafka
/// wakes it: looking for either every few milliseconds took a percent of a core for each consumer that had nothing to do.
fn run(consumer: &BaseConsumer<Context>) {
    let context = consumer.context().clone();
    loop {
        context.serve_until_poll(consumer);
        {
            let mut shared = context.shared.lock();
            if shared.closed {
                return;
            }
            while let Ok(command) = shared.commands.try_recv() {
                handle(&mut shared, consumer, command);
            }
        }
        let polled = consumer.poll(Duration::ZERO);
        let is_drained = gather(consumer, &context, polled);
        let deadline = {
            let mut shared = context.shared.lock();
            shared.answer_poll();
            shared.pending.as_ref().map(|pending| pending.deadline)
        };
        // librdkafka tells once that something is there: what is left behind would not wake anybody.
        if let (Some(deadline), true) = (deadline, is_drained) {
            // Ends at once when there was a command or an event since the last wait.
            let wait = deadline.saturating_duration_since(Instant::now()).min(LONGEST_WAIT);
            std::thread::park_timeout(wait);
        }
    }
}

/// Keeps `first` and what has already been fetched after it, up to the pending poll's bytes.
///
/// A rebalance callback may run in here; it first hands out what was gathered before it. Returns whether nothing more was
/// there.
fn gather(
    consumer: &BaseConsumer<Context>,
    context: &Context,
    first: Option<KafkaResult<BorrowedMessage<'_>>>,
) -> bool {
    let mut next = first;
    while let Some(polled) = next {
        match polled {
            Ok(message) => {
                let mut shared = context.shared.lock();
                shared.gathered_bytes += message.payload_len();
                let record = to_record(&message);
                context.ends.lock().remove(&record.from);
                shared.gathered.push(record);
                if shared.pending.as_ref().is_none_or(|pending| shared.gathered_bytes >= pending.max_bytes) {
                    return false;
                }
            }
            Err(KafkaError::PartitionEOF(partition)) => {
                note_end(consumer, context, partition);
                return false;
            }
            Err(error) => {
                let error = report(consumer, &error);
                context.shared.lock().failed = error;
                return false;
            }
        }
        next = consumer.poll(Duration::ZERO);
    }
    true
}

/// Notes that the end of a partition was reached. librdkafka's wrapper names no topic: with several that have such a
/// partition, nobody knows which.
fn note_end(consumer: &BaseConsumer<Context>, context: &Context, partition: i32) {
    let Ok(assignment) = consumer.assignment() else { return };
    let mut found = names(&assignment).into_iter().filter(|at| at.partition as i32 == partition);
    if let (Some(at), None) = (found.next(), found.next()) {
        context.ends.lock().insert(at);
        context.shared.lock().at_end = true;
    }
}

/// The error to report for a failed poll; `None` for passing trouble that librdkafka mends by itself.
fn report(consumer: &BaseConsumer<Context>, error: &KafkaError) -> Option<LogError> {
    match error.rdkafka_error_code()? {
        RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange => {
            Some(data_loss(consumer).unwrap_or_else(|| classify(error)))
        }
        RDKafkaErrorCode::AllBrokersDown
        | RDKafkaErrorCode::BrokerTransportFailure
        | RDKafkaErrorCode::OperationTimedOut
        | RDKafkaErrorCode::Resolve => {
            warn!(%error, "the broker is away; waiting for it");
            None
        }
        _ => Some(classify(error)),
    }
}

/// Finds the partition whose position lies below its low watermark.
fn data_loss(consumer: &BaseConsumer<Context>) -> Option<LogError> {
    let assignment = consumer.assignment().ok()?;
    let positions = consumer.position().ok()?;
    for element in assignment.elements() {
        let at = TopicPartition::new(element.topic(), element.partition().max(0) as u32);
        let position =
            match positions.find_partition(element.topic(), element.partition()).map(|p| p.offset()) {
                Some(KafkaOffset::Offset(offset)) => offset,
                _ => match element.offset() {
                    KafkaOffset::Offset(offset) => offset,
                    _ => continue,
                },
            };
        let (low, high) =
            consumer.fetch_watermarks(element.topic(), element.partition(), CALL_TIMEOUT).ok()?;
        if position < low || position > high {
            return Some(LogError::DataLoss {
                at,
                wanted: NextOffset(position.max(0) as u64),
                low: NextOffset(low.max(0) as u64),
            });
        }
    }
    None
}

fn to_record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), Bytes::copy_from_slice(header.value.unwrap_or_default())))
            .collect()
    });
    Record {
        from: TopicPartition::new(message.topic(), message.partition().max(0) as u32),
        offset: Offset(message.offset().max(0) as u64),
        timestamp: Millis(message.timestamp().to_millis().unwrap_or_default()),
        key: message.key().map(Bytes::copy_from_slice),
        payload: message.payload().map(Bytes::copy_from_slice),
        headers,
    }
}

#[async_trait]
impl Consumer for KafkaConsumer {
    async fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Event, LogError> {
        let outcome = match &mut self.outstanding {
            Some(outcome) => outcome,
            None => {
                let (reply, outcome) = oneshot::channel();
                self.send(Command::Poll { max_bytes, timeout, reply })?;
                self.outstanding.insert(outcome)
            }
        };
        let answer = outcome.await;
        self.outstanding = None;
        answer.unwrap_or_else(|_| Err(gone()))
    }

    async fn seek(&mut self, at: &TopicPartition, to: NextOffset) -> Result<(), LogError> {
        let (reply, outcome) = oneshot::channel();
        self.send(Command::Seek { at: at.clone(), to, reply })?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    fn pause(&mut self, at: &TopicPartition) -> Result<(), LogError> {
        self.send(Command::Pause { at: at.clone(), paused: true })
    }

    fn resume(&mut self, at: &TopicPartition) -> Result<(), LogError> {
        self.send(Command::Pause { at: at.clone(), paused: false })
    }

    async fn commit(&mut self, positions: &[(TopicPartition, NextOffset)]) -> Result<(), LogError> {
        let (reply, outcome) = oneshot::channel();
        self.send(Command::Commit { positions: positions.to_vec(), reply })?;
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    fn reached_end(&self, at: &TopicPartition) -> bool {
        self.ends.lock().contains(at)
    }

    fn group_metadata(&self) -> Option<GroupMetadata> {
        let group = self.group.clone()?;
        Some(GroupMetadata { group, kafka: self.metadata.lock().clone(), embedded: None })
    }
}
