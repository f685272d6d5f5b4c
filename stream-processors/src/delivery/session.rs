//! One membership in the group: reads insights, hands them to the targets, commits what all of them are done with.

use std::{sync::Arc, time::Duration};

use infertrace_runtime::log::{
    Consumer, ConsumerOptions, Event, LogError, Millis, NewRecord, NextOffset, Record, TopicPartition,
    range::{Range, RangeReader},
    tracker::Tracker,
};
use infertrace_schemas::{
    avro::{Insight, InsightState, SchemaIds},
    topics,
};
use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Service, letters,
    target::{Job, Offer, Target, Ticket},
};

const POLL_TIME: Duration = Duration::from_millis(100);
const LAG_TIME: Duration = Duration::from_secs(1);

/// Lets go of what people decided about an insight that is over.
fn note_end(service: &Service, insight: &Insight, record: &Record) {
    if insight.state == InsightState::Resolved {
        service.decisions.note_end(&insight.id, record.timestamp.0);
    }
}

/// One assigned partition.
struct Input {
    at: TopicPartition,
    last_record_ms: Option<i64>,
}

pub(super) struct Session<'s> {
    service: &'s Service,
    consumer: Box<dyn Consumer>,
    schemas: SchemaIds,
    tracker: Arc<Mutex<Tracker>>,
    inputs: Vec<Input>,
    last_commit: Instant,
    next_lag: Instant,
    commits: u64,
    stop: CancellationToken,
}

impl<'s> Session<'s> {
    pub(super) async fn start(service: &'s Service, stop: CancellationToken) -> Result<Self, LogError> {
        let options = ConsumerOptions {
            group: Some(service.config.group.clone()),
            topics: vec![topics::INSIGHTS.into()],
            assign: Vec::new(),
            max_buffered_bytes: service.config.max_buffered_bytes,
            read_committed: true,
        };
        Ok(Self {
            service,
            consumer: service.log.consumer(options).await?,
            schemas: SchemaIds::current::<Insight>(),
            tracker: Arc::default(),
            inputs: Vec::new(),
            last_commit: Instant::now(),
            next_lag: Instant::now(),
            commits: 0,
            stop,
        })
    }

    /// Whether a position was committed.
    pub(super) const fn made_progress(&self) -> bool {
        self.commits > 0
    }

    pub(super) async fn run(&mut self) -> Result<(), LogError> {
        while !self.stop.is_cancelled() {
            self.step().await?;
        }
        Ok(())
    }

    async fn step(&mut self) -> Result<(), LogError> {
        match self.consumer.poll(self.service.config.max_poll_bytes, POLL_TIME).await {
            Ok(Event::Records(records)) => self.take(records).await?,
            Ok(Event::Assigned(partitions)) => self.assign(partitions).await?,
            Ok(Event::Revoked(partitions)) => self.revoke(&partitions).await?,
            Ok(Event::Idle) => {}
            Err(LogError::DataLoss { at, wanted, low }) => {
                let lost = low.0.saturating_sub(wanted.0);
                self.service.metrics.lost.inc_by(lost);
                tracing::error!(%at, wanted = wanted.0, low = low.0, lost, "retention removed insights before they were delivered");
                self.consumer.seek(&at, low).await?;
            }
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "insights cannot be read; trying again");
                tokio::time::sleep(Duration::from_millis(self.service.config.retry_ms)).await;
            }
            Err(error) => return Err(error),
        }
        if self.last_commit.elapsed() >= Duration::from_millis(self.service.config.commit_interval_ms) {
            match self.commit().await {
                Err(error) if error.is_retriable() => {
                    tracing::warn!(%error, "positions cannot be committed; trying again")
                }
                outcome => outcome?,
            }
        }
        self.look_at_lag().await
    }

    async fn assign(
        &mut self,
        partitions: Vec<(TopicPartition, Option<NextOffset>)>,
    ) -> Result<(), LogError> {
        for (at, committed) in partitions {
            let marks = self.service.log.watermarks(&at).await?;
            let from = match committed {
                Some(position) if position < marks.low => {
                    let lost = marks.low.0 - position.0;
                    self.service.metrics.lost.inc_by(lost);
                    tracing::error!(%at, lost, "retention removed insights before they were delivered");
                    marks.low
                }
                Some(position) if position > marks.high => {
                    return Err(LogError::Fatal(format!(
                        "the group's position {} in {at} is past its end {}: the topic or cluster was recreated; \
                         reset the group's offsets to go on",
                        position.0, marks.high.0
                    )));
                }
                Some(position) => position,
                None => Self::first_position(self.service, &at).await?,
            };
            match Self::recall(self.service, &self.schemas, &at, marks.low, from).await {
                Err(error) if error.is_retriable() || matches!(error, LogError::DataLoss { .. }) => {
                    tracing::warn!(%at, %error, "cannot look back for open insights; they are told of when they change");
                }
                outcome => outcome?,
            }
            self.consumer.seek(&at, from).await?;
            self.tracker.lock().assign(at.clone(), from);
            if committed.is_none() {
                // From now on the start is fixed: a restart must not move it past what was not delivered.
                self.consumer.commit(&[(at.clone(), from)]).await?;
            }
            tracing::info!(%at, from = from.0, "insights of a partition are delivered from here");
            self.inputs.push(Input { at, last_record_ms: None });
        }
        Ok(())
    }

    /// Where a group without a position starts: a new target is not told of all that ever was.
    async fn first_position(service: &Service, at: &TopicPartition) -> Result<NextOffset, LogError> {
        let since = service.clock.now_unix_millis().saturating_sub(service.config.first_start_ms);
        service.log.position_at(at, Millis(since)).await
    }

    /// Reads what was delivered before, so that targets know what is open.
    async fn recall(
        service: &Service,
        schemas: &SchemaIds,
        at: &TopicPartition,
        low: NextOffset,
        end: NextOffset,
    ) -> Result<(), LogError> {
        let since = service.clock.now_unix_millis().saturating_sub(service.config.open_ms);
        let from = service.log.position_at(at, Millis(since)).await?.max(low);
        if from >= end {
            return Ok(());
        }
        let begin = Instant::now();
        let range = Range { at: at.clone(), from, end };
        let mut reader =
            RangeReader::open(service.log.as_ref(), &[range], service.config.max_buffered_bytes).await?;
        let mut records = 0;
        while let Some(batch) = reader.next(service.config.max_poll_bytes).await? {
            for record in batch {
                records += 1;
                let Some(Ok(insight)) =
                    record.payload.as_deref().map(|payload| schemas.decode::<Insight>(payload))
                else {
                    continue;
                };
                if letters::target_of(&record).is_some() {
                    continue;
                }
                let (insight, record) = (Arc::new(insight), Arc::new(record));
                service.targets.iter().for_each(|target| target.recall(&insight, &record));
                note_end(service, &insight, &record);
            }
        }
        tracing::info!(%at, records, elapsed_ms = begin.elapsed().as_millis() as u64, "looked back for open insights");
        Ok(())
    }

    async fn revoke(&mut self, partitions: &[TopicPartition]) -> Result<(), LogError> {
        let outcome = self.commit().await;
        for at in partitions {
            self.tracker.lock().revoke(at);
            self.forget(at);
        }
        self.inputs.retain(|input| !partitions.contains(&input.at));
        match outcome {
            Err(error) if error.is_retriable() => {
                tracing::warn!(%error, "the last positions are not committed; the next owner delivers again");
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn forget(&self, at: &TopicPartition) {
        self.service.targets.iter().for_each(|target| target.purge(at.partition));
        self.service.metrics.lag.forget(at.partition);
    }

    /// Gives everything up: the next session starts from what is committed.
    pub(super) fn let_go(&self) {
        self.inputs.iter().for_each(|input| self.forget(&input.at));
    }

    /// The last commit.
    pub(super) async fn finish(&mut self) {
        if let Err(error) = self.commit().await {
            tracing::warn!(%error, "the last positions are not committed; what they cover is delivered again");
        }
        self.let_go();
    }

    async fn take(&mut self, records: Vec<Record>) -> Result<(), LogError> {
        let mut letters = Vec::new();
        for record in records {
            if let Some(payload) = record.payload.as_deref()
                && let Err(error) = self.schemas.learn_of(payload).await
            {
                tracing::warn!(at = %record.from, offset = record.offset.0, %error, "the schema of an insight is not known");
            }
            // Refused: fetched before a seek or a revocation took effect.
            let Ok(generation) = self.tracker.lock().hand_out(&record.from, record.offset) else { continue };
            if let Some(input) = self.inputs.iter_mut().find(|input| input.at == record.from) {
                input.last_record_ms = Some(record.timestamp.0);
            }
            let parts = self.service.targets.len() + 1;
            let tracker = Arc::clone(&self.tracker);
            let ticket = Ticket::new(tracker, record.from.clone(), generation, record.offset, parts);
            self.hand_out(Arc::new(record), &ticket, &mut letters);
            ticket.done();
        }
        Self::bury(self.service, &self.stop, letters).await
    }

    /// Offers one record to the targets; each is done with it now or when its queue is.
    fn hand_out(
        &self,
        record: Arc<Record>,
        ticket: &Arc<Ticket>,
        letters: &mut Vec<(NewRecord, Vec<Arc<Ticket>>)>,
    ) {
        let targets = &self.service.targets;
        let now = Millis(self.service.clock.now_unix_millis());
        let mut unreadable = |error: &str| {
            self.service.metrics.unreadable.inc();
            tracing::warn!(at = %record.from, offset = record.offset.0, error, "a record that cannot be delivered goes to the dead-letter topic");
            letters
                .push((letters::letter(&record, None, error, now), vec![Arc::clone(ticket); targets.len()]));
        };
        let decoded = match record.payload.as_deref() {
            Some(payload) => self.schemas.decode::<Insight>(payload).map_err(|error| error.to_string()),
            None => Err("the record has no value".to_owned()),
        };
        let insight = match decoded {
            Ok(insight) => Arc::new(insight),
            Err(error) => return unreadable(&error),
        };
        let only = letters::target_of(&record);
        if let Some(name) = &only
            && !targets.iter().any(|target| *target.name == **name)
        {
            return unreadable(&format!("there is no target {name} that it was sent back for"));
        }
        for target in targets {
            if only.as_ref().is_some_and(|name| *target.name != **name) {
                ticket.done();
                continue;
            }
            let job = Job {
                insight: Arc::clone(&insight),
                record: Arc::clone(&record),
                ticket: Some(Arc::clone(ticket)),
                redriven: only.is_some(),
            };
            match target.offer(job) {
                Offer::Queued => {}
                Offer::Filtered => ticket.done(),
                Offer::Full => {
                    letters.push((self.overflow(target, &record, &insight, now), vec![Arc::clone(ticket)]))
                }
            }
        }
        if only.is_none() {
            note_end(self.service, &insight, &record);
        }
    }

    fn overflow(&self, target: &Target, record: &Record, insight: &Insight, now: Millis) -> NewRecord {
        tracing::error!(
            target_name = %target.name, insight = insight.id, revision = insight.revision,
            "a target's queue is full; an insight goes to the dead-letter topic"
        );
        self.service.metrics.insight(&target.name, "dead_letter");
        letters::letter(record, Some((&target.name, insight)), "the target's queue is full", now)
    }

    /// Waits only for the log, without which nothing could be read either.
    async fn bury(
        service: &Service,
        stop: &CancellationToken,
        letters: Vec<(NewRecord, Vec<Arc<Ticket>>)>,
    ) -> Result<(), LogError> {
        if letters.is_empty() {
            return Ok(());
        }
        let (letters, tickets): (Vec<_>, Vec<_>) = letters.into_iter().unzip();
        if !letters::put(&service.log, letters, stop).await? {
            return Ok(());
        }
        tickets.iter().flatten().for_each(|ticket| ticket.done());
        Ok(())
    }

    async fn commit(&mut self) -> Result<(), LogError> {
        self.last_commit = Instant::now();
        let positions = self.tracker.lock().committable();
        if positions.is_empty() {
            return Ok(());
        }
        self.consumer.commit(&positions).await?;
        self.commits += 1;
        let mut tracker = self.tracker.lock();
        for (at, position) in &positions {
            tracker.committed(at, *position);
        }
        Ok(())
    }

    async fn look_at_lag(&mut self) -> Result<(), LogError> {
        if Instant::now() < self.next_lag {
            return Ok(());
        }
        self.next_lag = Instant::now() + LAG_TIME;
        let now = self.service.clock.now_unix_millis();
        let asked: Vec<TopicPartition> = self.inputs.iter().map(|input| input.at.clone()).collect();
        let ends = self.service.log.ends(&asked).await?;
        for (input, end) in self.inputs.iter().zip(ends) {
            let Some(NextOffset(high)) = end else { continue };
            let position = self.tracker.lock().position(&input.at).map_or(0, |position| position.0);
            let lag = high.saturating_sub(position);
            let age = input.last_record_ms.map_or(0, |last| now.saturating_sub(last).max(0));
            self.service.metrics.lag.set(
                input.at.partition,
                lag,
                if lag == 0 { 0.0 } else { age as f64 / 1e3 },
            );
        }
        Ok(())
    }
}
