//! A reader: positions, long poll, group membership.
//!
//! Nothing is fetched ahead: a poll reads what it returns, so the buffer bound holds by construction.
//! Every await can be cancelled without losing an event or a record.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

use super::{Shared, assignment::Slot, queue::NewOp, read, transactions};
use crate::log::{
    Consumer, ConsumerOptions, Event, GroupMetadata, LogError, NextOffset, Record, TopicPartition,
};

/// How often a member that waits for another's partitions looks whether that one is still alive.
const LIVENESS: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Cursor {
    at: TopicPartition,
    slot: Slot,
    position: u64,
    paused: bool,
}

#[derive(Debug)]
struct Membership {
    group: Arc<str>,
    topics: Vec<u32>,
    member: u64,
}

/// Consumer of the embedded log.
pub(super) struct EmbeddedConsumer {
    shared: Arc<Shared>,
    membership: Option<Membership>,
    cursors: Vec<Cursor>,
    notify: Arc<Notify>,
    /// Cursor to serve first: takes turns, so that no partition starves.
    turn: usize,
    max_bytes: usize,
}

impl EmbeddedConsumer {
    pub(super) fn new(shared: Arc<Shared>, options: ConsumerOptions) -> Result<Self, LogError> {
        let notify = Arc::new(Notify::new());
        let session = Duration::from_millis(shared.config.session_timeout_ms);
        let mut cursors = Vec::new();
        let mut topics: Vec<u32> = Vec::new();
        {
            let mut state = shared.state.write();
            let unknown = |at: &TopicPartition| LogError::UnknownTopicPartition(at.clone());
            if options.group.is_some() {
                for name in &options.topics {
                    let missing = || unknown(&TopicPartition::new(name.clone(), 0));
                    topics.push(state.topic(name).ok_or_else(missing)?.meta.id);
                }
            }
            for (at, from) in options.assign.iter().filter(|_| options.group.is_none()) {
                let (topic, _) = state.partition(at).ok_or_else(|| unknown(at))?;
                let slot = (topic.meta.id, at.partition);
                cursors.push(Cursor { at: at.clone(), slot, position: from.0, paused: false });
                topics.push(slot.0);
            }
            topics.sort_unstable();
            topics.dedup();
            for topic in &topics {
                state.add_reader(*topic, &notify);
            }
        }
        let membership = options.group.map(|group| {
            let group: Arc<str> = group.into();
            let mut groups = shared.groups.lock();
            let member = groups.join(&group, topics.clone(), notify.clone(), session, &shared.state.read());
            Membership { group, topics, member }
        });
        let max_bytes = options.max_buffered_bytes;
        Ok(Self { shared, membership, cursors, notify, turn: 0, max_bytes })
    }

    fn cursor(&mut self, at: &TopicPartition) -> Result<&mut Cursor, LogError> {
        let cursor = self.cursors.iter_mut().find(|cursor| cursor.at == *at);
        cursor.ok_or_else(|| LogError::UnknownTopicPartition(at.clone()))
    }

    fn names(&self, slots: &[Slot]) -> Vec<TopicPartition> {
        let state = self.shared.state.read();
        slots.iter().map(|(topic, partition)| state.topics[*topic as usize].at(*partition)).collect()
    }

    /// One step of the group's protocol; the flag says that the member waits for another.
    async fn step(&mut self, deadline: Instant) -> Result<(Option<Event>, bool), LogError> {
        let session = Duration::from_millis(self.shared.config.session_timeout_ms);
        let Some(membership) = &mut self.membership else { return Ok((None, false)) };
        let step = {
            let mut groups = self.shared.groups.lock();
            let state = self.shared.state.read();
            let step = groups.step(&membership.group, membership.member, deadline + session, &state);
            if step.expelled {
                let (topics, notify) = (membership.topics.clone(), self.notify.clone());
                membership.member = groups.join(&membership.group, topics, notify, session, &state);
            }
            step
        };
        if step.expelled {
            let lost: Vec<_> = self.cursors.drain(..).map(|cursor| cursor.at).collect();
            return Ok(((!lost.is_empty()).then_some(Event::Revoked(lost)), true));
        }
        self.cursors.retain(|cursor| !step.released.contains(&cursor.slot));
        if !step.revoked.is_empty() {
            return Ok((Some(Event::Revoked(self.names(&step.revoked))), step.waiting));
        }
        if step.claimable.is_empty() {
            return Ok((None, step.waiting));
        }
        let (group, member) = (membership.group.clone(), membership.member);
        self.shared.barrier().await?;
        let assigned = self.claim(&group, member, &step.claimable);
        Ok(((!assigned.is_empty()).then_some(Event::Assigned(assigned)), step.waiting))
    }

    /// Takes over free partitions at the group's positions. No await: nothing comes in between.
    fn claim(
        &mut self,
        group: &str,
        member: u64,
        slots: &[Slot],
    ) -> Vec<(TopicPartition, Option<NextOffset>)> {
        let mut groups = self.shared.groups.lock();
        let state = self.shared.state.read();
        let mut assigned = Vec::new();
        for slot in groups.claim(group, member, slots) {
            let (topic, partition) = slot;
            let committed = state.committed(group, topic, partition);
            let topic = &state.topics[topic as usize];
            let low = topic.partitions[partition as usize].low;
            let at = topic.at(partition);
            let position = committed.unwrap_or(low);
            self.cursors.push(Cursor { at: at.clone(), slot, position, paused: false });
            assigned.push((at, committed.map(NextOffset)));
        }
        assigned
    }

    /// Reads from the partitions in turn; `None` if there is nothing.
    async fn fetch(&mut self, max_bytes: usize) -> Result<Option<Vec<Record>>, LogError> {
        let mut wanted: Vec<(TopicPartition, u64)> = Vec::new();
        {
            let state = self.shared.state.read();
            let count = self.cursors.len();
            for index in 0..count {
                let cursor = &self.cursors[(self.turn + index) % count];
                if cursor.paused {
                    continue;
                }
                let topic = &state.topics[cursor.slot.0 as usize];
                let partition = &topic.partitions[cursor.slot.1 as usize];
                if read::check_position(&cursor.at, partition, topic.meta.compacted, cursor.position)? {
                    wanted.push((cursor.at.clone(), cursor.position));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(None);
        }
        let shared = self.shared.clone();
        let budget = max_bytes.min(self.max_bytes.max(1));
        let read = tokio::task::spawn_blocking(move || {
            let mut left = budget;
            let mut fetched = Vec::new();
            for (at, position) in wanted {
                let part = read::fetch(&shared, &at, position, left)?;
                left = left.saturating_sub(part.bytes);
                fetched.push((at, part));
                if left == 0 {
                    break;
                }
            }
            Ok::<_, LogError>(fetched)
        });
        let fetched = read.await.map_err(|error| LogError::Unavailable(error.to_string()))??;
        self.turn = self.turn.wrapping_add(1) % self.cursors.len().max(1);
        let mut records = Vec::new();
        for (at, part) in fetched {
            self.cursor(&at)?.position = part.next;
            records.extend(part.records);
        }
        Ok(Some(records))
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn poll(&mut self, max_bytes: usize, timeout: Duration) -> Result<Event, LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            if self.shared.queue.is_closed() {
                return Err(LogError::Unavailable("the log is closed".to_owned()));
            }
            let (event, waiting) = self.step(deadline).await?;
            if let Some(event) = event {
                return Ok(event);
            }
            match self.fetch(max_bytes).await? {
                Some(records) if !records.is_empty() => return Ok(Event::Records(records)),
                // Only superseded records were passed over: there may be more behind them.
                Some(_) => continue,
                None => {}
            }
            let wake = if waiting { deadline.min(Instant::now() + LIVENESS) } else { deadline };
            let woken = timeout_at(wake, self.notify.notified()).await.is_ok();
            if !woken && Instant::now() >= deadline {
                return Ok(Event::Idle);
            }
        }
    }

    async fn seek(&mut self, at: &TopicPartition, to: NextOffset) -> Result<(), LogError> {
        self.cursor(at)?.position = to.0;
        Ok(())
    }

    fn pause(&mut self, at: &TopicPartition) -> Result<(), LogError> {
        self.cursor(at)?.paused = true;
        Ok(())
    }

    fn resume(&mut self, at: &TopicPartition) -> Result<(), LogError> {
        self.cursor(at)?.paused = false;
        Ok(())
    }

    async fn commit(&mut self, positions: &[(TopicPartition, NextOffset)]) -> Result<(), LogError> {
        let Some(metadata) = self.group_metadata() else {
            return Err(LogError::Fatal("a consumer without a group has nothing to commit to".to_owned()));
        };
        if positions.is_empty() {
            return Ok(());
        }
        let commits = transactions::commits(&self.shared, &metadata.group, positions)?;
        let answer = transactions::enqueue(&self.shared, None, Some(&metadata), commits, 0)?;
        answer.await.unwrap_or_else(|_| Err(transactions::closed()))
    }

    fn reached_end(&self, at: &TopicPartition) -> bool {
        let state = self.shared.state.read();
        let end = state.partition(at).map(|(_, partition)| partition.high);
        let position = self.cursors.iter().find(|cursor| cursor.at == *at).map(|cursor| cursor.position);
        end.is_some_and(|end| position.is_some_and(|position| position >= end))
    }

    fn group_metadata(&self) -> Option<GroupMetadata> {
        self.membership.as_ref().map(|membership| GroupMetadata {
            group: membership.group.to_string(),
            kafka: None,
            embedded: Some(membership.member),
        })
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        if let Some(membership) = &self.membership {
            let mut groups = self.shared.groups.lock();
            groups.leave(&membership.group, membership.member, &self.shared.state.read());
        }
    }
}

/// Slots that the operations commit.
pub(super) fn committed_slots(ops: &[NewOp]) -> Vec<Slot> {
    let slot = |op: &NewOp| match op {
        NewOp::Commit { topic, partition, .. } => Some((*topic, *partition)),
        _ => None,
    };
    ops.iter().filter_map(slot).collect()
}
