//! What the journal says, in memory: topics, partitions with their index, group positions.
//!
//! Only durable entries are applied here (by [`super::writer`] and [`super::recovery`]), each batch
//! under one write lock: readers see a transaction whole or not at all.
//! Invariants: the regular runs of a partition ascend and do not overlap; carried runs (survivors that
//! retention copied forward with their offsets) may overlap anything; the same offset is the same record.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use hashbrown::HashMap;
use tokio::sync::Notify;

use super::{segment::Segment, sidecar::Table};
use crate::log::TopicPartition;

/// One record's place in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    pub(super) offset: u64,
    pub(super) timestamp: i64,
    /// Position of the operation's header.
    pub(super) position: u32,
    /// Bytes of header and body.
    pub(super) len: u32,
    /// Hash of the key; zero in topics that are not compacted.
    pub(super) key: [u64; 2],
}

/// Where the entries of a run are.
#[derive(Clone, Debug)]
pub(super) enum Entries {
    Memory(Vec<IndexEntry>),
    /// `count` entries at `position` of the segment's sidecar.
    Disk {
        position: u64,
        count: u32,
    },
}

/// The records of one partition in one segment, ascending.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    pub(super) base: u64,
    pub(super) last: u64,
    pub(super) min_timestamp: i64,
    pub(super) max_timestamp: i64,
    /// Bytes the records take in the segment.
    pub(super) bytes: u64,
    pub(super) entries: Entries,
}

impl Run {
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        let entries = Entries::Memory(Vec::new());
        Self {
            segment,
            base: u64::MAX,
            last: 0,
            min_timestamp: i64::MAX,
            max_timestamp: i64::MIN,
            bytes: 0,
            entries,
        }
    }

    pub(super) fn insert(&mut self, entry: IndexEntry) {
        let Entries::Memory(entries) = &mut self.entries else {
            unreachable!("only the active segment's runs grow, and those are in memory");
        };
        if entries.last().is_none_or(|last| last.offset < entry.offset) {
            entries.push(entry);
        } else {
            match entries.binary_search_by_key(&entry.offset, |entry| entry.offset) {
                Ok(_) => return,
                Err(at) => entries.insert(at, entry),
            }
        }
        self.base = self.base.min(entry.offset);
        self.last = self.last.max(entry.offset);
        self.min_timestamp = self.min_timestamp.min(entry.timestamp);
        self.max_timestamp = self.max_timestamp.max(entry.timestamp);
        self.bytes += u64::from(entry.len);
    }

    pub(super) fn count(&self) -> usize {
        match &self.entries {
            Entries::Memory(entries) => entries.len(),
            Entries::Disk { count, .. } => *count as usize,
        }
    }
}

/// One partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) low: u64,
    /// End: where the next record will stand.
    pub(super) high: u64,
    pub(super) regular: Vec<Run>,
    pub(super) carried: Vec<Run>,
    /// Offset of the latest record of each key, in compacted topics.
    pub(super) latest: HashMap<[u64; 2], u64, ahash::RandomState>,
}

impl Partition {
    /// The run of the active segment, started if missing.
    fn active_run(&mut self, segment: &Arc<Segment>, carried: bool) -> &mut Run {
        let runs = if carried { &mut self.carried } else { &mut self.regular };
        if runs.last().is_none_or(|run| run.segment.header.seq != segment.header.seq) {
            runs.push(Run::new(segment.clone()));
        }
        runs.last_mut().expect("pushed above")
    }
}

/// What a topic is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TopicMeta {
    pub(super) id: u32,
    pub(super) name: Arc<str>,
    pub(super) partitions: u32,
    pub(super) retention: Option<Duration>,
    pub(super) compacted: bool,
}

#[derive(Debug)]
pub(super) struct Topic {
    pub(super) meta: Arc<TopicMeta>,
    pub(super) partitions: Vec<Partition>,
    /// Consumers to wake when records arrive.
    pub(super) readers: Vec<Weak<Notify>>,
}

impl Topic {
    pub(super) fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(self.meta.name.clone(), partition)
    }
}

/// Positions of one group by (topic, partition).
pub(super) type GroupPositions = BTreeMap<(u32, u32), u64>;

/// One durable change.
#[derive(Debug)]
pub(super) enum Effect {
    Topic(TopicMeta),
    Record { topic: u32, partition: u32, entry: IndexEntry, carried: bool },
    Commit { group: Arc<str>, topic: u32, partition: u32, next: u64 },
    Bounds { topic: u32, partition: u32, low: u64, high: u64 },
}

/// Everything that is durable.
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) names: HashMap<Arc<str>, u32, ahash::RandomState>,
    pub(super) topics: Vec<Topic>,
    pub(super) groups: BTreeMap<Arc<str>, GroupPositions>,
    pub(super) segments: BTreeMap<u64, Arc<Segment>>,
}

impl State {
    pub(super) fn topic(&self, name: &str) -> Option<&Topic> {
        self.names.get(name).map(|id| &self.topics[*id as usize])
    }

    pub(super) fn partition(&self, at: &TopicPartition) -> Option<(&Topic, &Partition)> {
        let topic = self.topic(&at.topic)?;
        Some((topic, topic.partitions.get(at.partition as usize)?))
    }

    fn partition_mut(&mut self, topic: u32, partition: u32) -> Option<(bool, &mut Partition)> {
        let topic = self.topics.get_mut(topic as usize)?;
        Some((topic.meta.compacted, topic.partitions.get_mut(partition as usize)?))
    }

    pub(super) fn committed(&self, group: &str, topic: u32, partition: u32) -> Option<u64> {
        self.groups.get(group)?.get(&(topic, partition)).copied()
    }

    /// Applies one change that stands in `segment`; false when it names an unknown partition.
    pub(super) fn apply(&mut self, effect: Effect, segment: &Arc<Segment>) -> bool {
        match effect {
            Effect::Topic(meta) => self.add_topic(meta),
            Effect::Record { topic, partition, entry, carried } => {
                let Some((compacted, partition)) = self.partition_mut(topic, partition) else {
                    return false;
                };
                partition.active_run(segment, carried).insert(entry);
                partition.high = partition.high.max(entry.offset + 1);
                if compacted {
                    let latest = partition.latest.entry(entry.key).or_insert(entry.offset);
                    *latest = entry.offset.max(*latest);
                }
                true
            }
            Effect::Commit { group, topic, partition, next } => {
                self.groups.entry(group).or_default().insert((topic, partition), next);
                true
            }
            Effect::Bounds { topic, partition, low, high } => {
                let Some((_, partition)) = self.partition_mut(topic, partition) else {
                    return false;
                };
                partition.low = partition.low.max(low);
                partition.high = partition.high.max(high);
                true
            }
        }
    }

    fn add_topic(&mut self, meta: TopicMeta) -> bool {
        if let Some(known) = self.topics.get(meta.id as usize) {
            return *known.meta == meta;
        }
        if meta.id as usize != self.topics.len() {
            return false;
        }
        let partitions = (0..meta.partitions).map(|_| Partition::default()).collect();
        self.names.insert(meta.name.clone(), meta.id);
        self.topics.push(Topic { meta: Arc::new(meta), partitions, readers: Vec::new() });
        true
    }

    /// Replaces the runs of a segment that was sealed by ones that read its sidecar.
    pub(super) fn adopt(&mut self, tables: Vec<Table>) {
        for Table { topic, partition, carried, run } in tables {
            let Some((_, partition)) = self.partition_mut(topic, partition) else { continue };
            let runs = if carried { &mut partition.carried } else { &mut partition.regular };
            let seq = run.segment.header.seq;
            if let Some(known) = runs.iter_mut().rev().find(|known| known.segment.header.seq == seq) {
                *known = run;
            }
        }
    }

    /// Forgets a segment that retention removed, with all its runs.
    pub(super) fn remove_segment(&mut self, seq: u64) {
        self.segments.remove(&seq);
        for partition in self.topics.iter_mut().flat_map(|topic| &mut topic.partitions) {
            partition.regular.retain(|run| run.segment.header.seq != seq);
            partition.carried.retain(|run| run.segment.header.seq != seq);
        }
    }

    /// Wakes the consumers of `topic`.
    pub(super) fn wake(&self, topic: u32) {
        for reader in &self.topics[topic as usize].readers {
            if let Some(reader) = reader.upgrade() {
                reader.notify_one();
            }
        }
    }

    /// Registers a consumer to be woken by `topic`'s records.
    pub(super) fn add_reader(&mut self, topic: u32, notify: &Arc<Notify>) {
        let readers = &mut self.topics[topic as usize].readers;
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Arc::downgrade(notify));
    }

    /// Every partition with its topic, in order.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (&Topic, u32, &Partition)> {
        self.topics.iter().flat_map(|topic| {
            (0_u32..).zip(&topic.partitions).map(move |(index, partition)| (topic, index, partition))
        })
    }
}
