//! One membership in the group, from joining to leaving or to an unknown outcome.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use infertrace_analytics::stitch::{Link, Stitcher};
use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, LogError, Millis, NewRecord, NextOffset, Record, TopicPartition,
    Transactions,
    dead_letter::Reader,
    range::{Range, RangeReader},
};
use infertrace_schemas::{
    avro::{RequestLink, SchemaIds},
    topics,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Service, codec, convert};
use crate::{service::MARKERS, supervise::Session};

const POLL_TIME: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Offsets before the committed position in which its time is looked for; about half of them are markers.
const LOOK_BACK: u64 = 64;
/// Tries of the last commit when shutting down.
const LAST_TRIES: u32 = 3;

const READER: Reader = Reader { role: "stitching", codec: "sightings", codec_version: "1" };

/// One assigned partition.
struct Input {
    at: TopicPartition,
    stitcher: Stitcher,
    /// Next offset to read.
    next: u64,
    /// Up to here an earlier run has told everything; the stitcher repeats it silently.
    told_to: u64,
    committed: Option<u64>,
    last_record_ms: Option<i64>,
}

struct Pending {
    partition: u32,
    record: NewRecord,
}

/// A session: the stitchers of the assigned partitions, and what waits for the next transaction.
pub(super) struct Desk {
    service: Arc<Service>,
    consumer: Box<dyn Consumer>,
    transactions: Box<dyn Transactions>,
    ids: SchemaIds,
    links_partitions: u32,
    dead_letter_partitions: u32,
    inputs: BTreeMap<u32, Input>,
    links: Vec<Link>,
    pending: Vec<Pending>,
    pending_bytes: usize,
    last_commit: Instant,
    next_look_up: Instant,
    retry: Option<(Instant, Duration)>,
    commits: u64,
}

impl Desk {
    pub(super) async fn start(service: Arc<Service>) -> Result<Self, LogError> {
        let log = service.log.clone();
        // Taking the transactional id first ends whatever an earlier instance of this name left open.
        let transactions = log.transactions(&service.transactional_id).await?;
        let links_partitions = log.partitions(topics::LINKS).await?.max(1);
        let dead_letter_partitions = log.partitions(topics::DLQ).await?.max(1);
        let consumer = log
            .consumer(ConsumerOptions {
                group: Some(service.config.group.clone()),
                topics: vec![topics::REQUESTS.into()],
                assign: Vec::new(),
                max_buffered_bytes: service.config.max_buffered_bytes,
                read_committed: true,
            })
            .await?;
        Ok(Self {
            service,
            consumer,
            transactions,
            ids: SchemaIds::current::<RequestLink>(),
            links_partitions,
            dead_letter_partitions,
            inputs: BTreeMap::new(),
            links: Vec::new(),
            pending: Vec::new(),
            pending_bytes: 0,
            last_commit: Instant::now(),
            next_look_up: Instant::now(),
            retry: None,
            commits: 0,
        })
    }

    async fn step(&mut self) -> Result<(), LogError> {
        match self.consumer.poll(self.service.config.max_poll_bytes, POLL_TIME).await {
            Ok(Event::Records(records)) => {
                for record in &records {
                    self.take(record)?;
                    // Few sightings can tell much, and a transaction has its bounds.
                    if self.pending_bytes >= self.service.config.max_pending_bytes && self.retry.is_none() {
                        self.commit().await?;
                    }
                }
                self.tell_held();
            }
            Ok(Event::Assigned(partitions)) => self.assign(partitions).await?,
            Ok(Event::Revoked(partitions)) => self.revoke(&partitions).await?,
            Ok(Event::Idle) => {}
            Err(LogError::DataLoss { at, wanted, low }) => self.skip_lost(&at, wanted, low).await?,
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "the log cannot be read; trying again");
                tokio::time::sleep(self.service.config.retry()).await;
            }
            Err(error) => return Err(error),
        }
        if Instant::now() >= self.next_look_up {
            self.next_look_up = Instant::now() + Duration::from_millis(self.service.config.end_check_ms);
            self.look_at_ends().await?;
        }
        if self.is_commit_due() {
            self.commit().await?;
        }
        Ok(())
    }

    fn take(&mut self, record: &Record) -> Result<(), LogError> {
        self.service.metrics.records.inc();
        let partition = record.from.partition;
        let Some(input) = self.inputs.get_mut(&partition) else { return Ok(()) };
        // Fetched before a seek took effect.
        if record.offset.0 < input.next {
            return Ok(());
        }
        input.next = record.offset.next().0;
        input.last_record_ms = Some(record.timestamp.0);
        let is_new = record.offset.0 >= input.told_to;
        let before = input.stitcher.stats();
        input.stitcher.advance(record.timestamp.0, &mut self.links);
        let sightings = codec::decode(record.payload.clone().unwrap_or_default());
        let mut problem = None;
        match sightings {
            Ok(sightings) => {
                for (key, sighting) in sightings {
                    input.stitcher.sighting(key, sighting, &mut self.links);
                }
            }
            Err(error) => problem = is_new.then(|| error.to_string()),
        }
        if is_new {
            self.service.metrics.count(before, input.stitcher.stats());
            self.tell(partition)?;
        }
        self.links.clear();
        if let Some(problem) = problem {
            self.dead_letter(record, &problem);
        }
        Ok(())
    }

    fn tell_held(&self) {
        let held = self.inputs.values().map(|input| input.stitcher.held());
        let (requests, bytes) = held.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        self.service.metrics.requests.set(requests as i64);
        self.service.metrics.bytes.set(bytes as i64);
    }

    fn tell(&mut self, partition: u32) -> Result<(), LogError> {
        let Some(input) = self.inputs.get(&partition) else { return Ok(()) };
        let watermark = Millis(input.stitcher.watermark_ms());
        for link in self.links.drain(..) {
            let record = convert::record(&link, &self.ids, partition % self.links_partitions, watermark)
                .map_err(|error| LogError::Fatal(format!("a link does not fit its schema: {error}")))?;
            self.pending_bytes += record.payload.as_ref().map_or(0, Bytes::len) + 128;
            self.pending.push(Pending { partition, record });
        }
        Ok(())
    }

    fn dead_letter(&mut self, record: &Record, error: &str) {
        tracing::warn!(at = %record.from, offset = record.offset.0, error, "poison record moved to the dead-letter topic");
        self.service.metrics.dead_letters.inc();
        let partition = record.from.partition;
        let to = TopicPartition::new(topics::DLQ, partition % self.dead_letter_partitions);
        let letter = READER.letter(record, to, error, record.timestamp);
        self.pending_bytes += letter.payload.as_ref().map_or(0, Bytes::len) + 256;
        self.pending.push(Pending { partition, record: letter });
    }

    async fn assign(
        &mut self,
        partitions: Vec<(TopicPartition, Option<NextOffset>)>,
    ) -> Result<(), LogError> {
        for (at, committed) in partitions {
            let marks = self.service.log.watermarks(&at).await?;
            let told_to = committed.map_or(marks.low.0, |position| position.0);
            if told_to < marks.low.0 {
                let lost = marks.low.0 - told_to;
                self.service.metrics.lost_records.inc_by(lost);
                tracing::error!(%at, lost, "retention removed sightings before they were read");
            }
            let from = remembered_from(&self.service, &at, told_to, marks.low).await?;
            self.consumer.seek(&at, from).await?;
            if self.retry.is_some() {
                self.consumer.pause(&at)?;
            }
            tracing::info!(%at, from = from.0, told_to, "partition of sightings assigned");
            self.inputs.insert(
                at.partition,
                Input {
                    at: at.clone(),
                    stitcher: Stitcher::new(self.service.config.stitcher()),
                    next: from.0,
                    told_to,
                    committed: committed.map(|position| position.0),
                    last_record_ms: None,
                },
            );
        }
        Ok(())
    }

    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        self.commit().await?;
        for at in partitions {
            self.inputs.remove(&at.partition);
            self.service.metrics.lag.forget(at.partition);
            self.pending.retain(|pending| pending.partition != at.partition);
            tracing::info!(%at, "partition of sightings revoked");
        }
        Ok(())
    }

    async fn skip_lost(
        &mut self,
        at: &TopicPartition,
        wanted: NextOffset,
        low: NextOffset,
    ) -> Result<(), LogError> {
        let lost = low.0.saturating_sub(wanted.0);
        self.service.metrics.lost_records.inc_by(lost);
        tracing::error!(%at, wanted = wanted.0, low = low.0, lost, "retention removed sightings before they were read");
        self.consumer.seek(at, low).await
    }

    async fn look_at_ends(&mut self) -> Result<(), LogError> {
        let now_ms = self.service.clock.now_unix_millis();
        let asked: Vec<TopicPartition> = self.inputs.values().map(|input| input.at.clone()).collect();
        let ends = self.service.log.ends(&asked).await?;
        for ((&partition, input), end) in self.inputs.iter().zip(ends) {
            let Some(NextOffset(high)) = end else { continue };
            let lag = high.saturating_sub(input.next);
            // Markers of transactions count as offsets but are never delivered.
            let is_behind = lag > MARKERS;
            let age_ms = input.last_record_ms.map_or(0, |last| now_ms.saturating_sub(last).max(0));
            let seconds = if is_behind { age_ms as f64 / 1e3 } else { 0.0 };
            self.service.metrics.lag.set(partition, if is_behind { lag } else { 0 }, seconds);
        }
        Ok(())
    }

    fn is_commit_due(&self) -> bool {
        if let Some((at, _)) = self.retry {
            return Instant::now() >= at;
        }
        let since = self.last_commit.elapsed();
        let config = &self.service.config;
        let interval =
            if self.pending.is_empty() { config.position_commit_ms } else { config.commit_interval_ms };
        since >= Duration::from_millis(interval) || self.pending_bytes >= config.max_pending_bytes
    }

    /// One transaction; a passing fault leaves everything as it was and pauses the input.
    async fn commit(&mut self) -> Result<(), LogError> {
        self.last_commit = Instant::now();
        let positions: Vec<(TopicPartition, NextOffset)> = self
            .inputs
            .values()
            // What is read again after a restart does not move the position back.
            .filter(|input| input.next > input.committed.unwrap_or(input.told_to))
            .map(|input| (input.at.clone(), NextOffset(input.next)))
            .collect();
        if self.pending.is_empty() && positions.is_empty() {
            return Ok(());
        }
        let outputs = self.pending.iter().map(|pending| pending.record.clone()).collect();
        let group = self.consumer.group_metadata();
        let begin = Instant::now();
        match self.transactions.commit(outputs, group.as_ref(), &positions).await {
            Ok(()) => {
                self.service.metrics.transaction_seconds.observe(begin.elapsed().as_secs_f64());
                self.commits += 1;
                self.pending.clear();
                self.pending_bytes = 0;
                for (at, position) in positions {
                    if let Some(input) = self.inputs.get_mut(&at.partition) {
                        input.committed = Some(position.0);
                    }
                }
                if self.retry.take().is_some() {
                    self.pause_all(false)?;
                    tracing::info!("the log takes transactions again");
                }
                Ok(())
            }
            Err(error) if error.is_retriable() => {
                self.service.metrics.commit_failures.inc();
                let first = self.service.config.retry();
                let pause = self.retry.map_or(first, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
                if self.retry.is_none() {
                    tracing::warn!(%error, "the log takes no transactions; input is paused");
                    self.pause_all(true)?;
                }
                self.retry = Some((Instant::now() + pause, pause));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn pause_all(&mut self, paused: bool) -> Result<(), LogError> {
        for input in self.inputs.values() {
            if paused {
                self.consumer.pause(&input.at)?;
            } else {
                self.consumer.resume(&input.at)?;
            }
        }
        Ok(())
    }

    /// The last commit. What cannot be committed now is made again at the next start.
    async fn drain(&mut self) -> Result<(), LogError> {
        for attempt in 0..LAST_TRIES {
            match self.commit().await {
                Ok(()) if self.pending.is_empty() => return Ok(()),
                Ok(()) => {}
                // Another member goes on from the committed positions: nothing is lost.
                Err(LogError::Fenced(_) | LogError::Ambiguous(_)) => return Ok(()),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(self.service.config.retry() * (attempt + 1)).await;
        }
        tracing::warn!(links = self.pending.len(), "stopping without the last commit");
        Ok(())
    }
}

impl Session for Desk {
    async fn run(&mut self, shutdown: &CancellationToken) -> Result<(), LogError> {
        while !shutdown.is_cancelled() {
            self.step().await?;
        }
        self.drain().await
    }

    fn made_progress(&self) -> bool {
        self.commits > 0
    }
}

/// Where to read from so that the stitcher has at `told_to` the state that it had there before.
async fn remembered_from(
    service: &Service,
    at: &TopicPartition,
    told_to: u64,
    low: NextOffset,
) -> Result<NextOffset, LogError> {
    if told_to <= low.0 {
        return Ok(low);
    }
    let first = NextOffset(told_to.saturating_sub(LOOK_BACK).max(low.0));
    let range = Range { at: at.clone(), from: first, end: NextOffset(told_to) };
    let buffer = service.config.max_buffered_bytes;
    let mut reader = RangeReader::open(service.log.as_ref(), &[range], buffer).await?;
    let mut last_ms = None;
    while let Some(records) = reader.next(service.config.max_poll_bytes).await? {
        last_ms = last_ms.max(records.iter().map(|record| record.timestamp.0).max());
    }
    // Nothing but markers: everything there is, then.
    let Some(last_ms) = last_ms else { return Ok(low) };
    let memory_ms = service.config.stitcher().memory_ms();
    let from = service.log.position_at(at, Millis(last_ms.saturating_sub(memory_ms))).await?;
    Ok(NextOffset(from.0.clamp(low.0, told_to)))
}
