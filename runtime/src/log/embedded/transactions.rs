//! Commits: group positions alone, or together with outputs as one journal entry.
//!
//! Ownership and the producer's epoch are checked under the same locks that queue the entry, so nothing
//! of a fenced member or producer can be queued after its successor has looked.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{
    Shared,
    batch::entry_size,
    consumer::committed_slots,
    queue::{Item, NewOp, Reply, Work},
};
use crate::log::{GroupMetadata, LogError, NewRecord, NextOffset, TopicPartition, Transactions};

pub(super) type Answer = oneshot::Receiver<Result<(), LogError>>;

pub(super) fn closed() -> LogError {
    LogError::Unavailable("the log is closed".to_owned())
}

/// A transactional producer: its id and the epoch in which it is the only one.
pub(super) struct Producer {
    pub(super) id: Arc<str>,
    pub(super) epoch: u64,
}

pub(super) struct EmbeddedTransactions {
    shared: Arc<Shared>,
    producer: Producer,
}

/// Operations that store a group's positions.
pub(super) fn commits(
    shared: &Shared,
    group: &str,
    positions: &[(TopicPartition, NextOffset)],
) -> Result<Vec<NewOp>, LogError> {
    let state = shared.state.read();
    let group: Arc<str> = group.into();
    let commit = |(at, next): &(TopicPartition, NextOffset)| {
        let (topic, _) = state.partition(at).ok_or_else(|| LogError::UnknownTopicPartition(at.clone()))?;
        let (topic, partition) = (topic.meta.id, at.partition);
        Ok(NewOp::Commit { group: group.clone(), topic, partition, next: next.0 })
    };
    positions.iter().map(commit).collect()
}

/// Checks the fences and queues the operations as one entry.
pub(super) fn enqueue(
    shared: &Shared,
    producer: Option<&Producer>,
    group: Option<&GroupMetadata>,
    ops: Vec<NewOp>,
    bytes: usize,
) -> Result<Answer, LogError> {
    shared.check_accepting()?;
    let ticket = if bytes == 0 { shared.queue.pass() } else { shared.queue.reserve(bytes)? };
    let (sender, answer) = oneshot::channel();
    let reply = Reply::Done { transaction: true, sender };
    let slots = committed_slots(&ops);
    let groups = shared.groups.lock();
    let producers = shared.producers.lock();
    if let Some(producer) = producer
        && producers.get(&producer.id) != Some(&producer.epoch)
    {
        return Err(LogError::Fenced(format!("another producer took over {}", producer.id)));
    }
    if let Some(metadata) = group {
        let member = metadata
            .embedded
            .ok_or_else(|| LogError::Fatal("the group's membership belongs to another log".to_owned()))?;
        if let Some((topic, partition)) = groups.not_owned(&metadata.group, member, &slots) {
            let at = shared.state.read().topics[topic as usize].at(partition);
            return Err(LogError::Fenced(format!("group {} gave {at} to another member", metadata.group)));
        }
    }
    shared.queue.push(Item { work: Work::Entry(ops), reply, ticket });
    drop(producers);
    drop(groups);
    Ok(answer)
}

impl EmbeddedTransactions {
    /// Fences the earlier producers of `id` and waits for what they had queued.
    pub(super) async fn begin(shared: Arc<Shared>, id: &str) -> Result<Self, LogError> {
        let id: Arc<str> = id.into();
        let epoch = {
            let mut producers = shared.producers.lock();
            let epoch = producers.entry(id.clone()).or_default();
            *epoch += 1;
            *epoch
        };
        shared.barrier().await?;
        Ok(Self { shared, producer: Producer { id, epoch } })
    }
}

#[async_trait]
impl Transactions for EmbeddedTransactions {
    async fn commit(
        &mut self,
        outputs: Vec<NewRecord>,
        group: Option<&GroupMetadata>,
        positions: &[(TopicPartition, NextOffset)],
    ) -> Result<(), LogError> {
        if group.is_none() && !positions.is_empty() {
            return Err(LogError::Fatal("positions without a group".to_owned()));
        }
        let first_topic = outputs.first().map(|record| record.to.topic.clone());
        let mut ops = Vec::with_capacity(outputs.len() + positions.len());
        let mut bytes = 0;
        for record in outputs {
            let (op, size) = self.shared.prepare(record)?;
            bytes += size;
            ops.push(op);
        }
        if let Some(group) = group {
            ops.extend(commits(&self.shared, &group.group, positions)?);
        }
        if ops.is_empty() {
            return Ok(());
        }
        if entry_size(&ops) > self.shared.config.segment_bytes / 2
            || bytes > self.shared.config.max_queue_bytes
        {
            let topic = first_topic.unwrap_or_else(|| "".into());
            return Err(LogError::TooLarge { topic, size: bytes });
        }
        let answer = enqueue(&self.shared, Some(&self.producer), group, ops, bytes)?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }
}
