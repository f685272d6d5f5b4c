//! Reads a fixed range of each of some partitions, in no group: what replay, audit and the dead-letter tools share.
//!
//! Invariants: nothing is committed and no group is joined, so live readers are not disturbed; every record of a
//! range is handed out once, in order within its partition; a range whose start is gone is an error, never a
//! silent skip.

use std::{collections::BTreeMap, time::Duration};

use super::{Consumer, ConsumerOptions, Event, Log, LogError, NextOffset, Record, TopicPartition};

const POLL: Duration = Duration::from_millis(300);
/// Silent polls (30 s) after which the log counts as away.
const PATIENCE: u32 = 100;

/// The offsets `[from, end)` of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// Partition.
    pub at: TopicPartition,
    /// First offset.
    pub from: NextOffset,
    /// One past the last.
    pub end: NextOffset,
}

impl Range {
    /// Offsets in it; records may be fewer, since markers of transactions take offsets too.
    #[must_use]
    pub const fn offsets(&self) -> u64 {
        self.end.0.saturating_sub(self.from.0)
    }
}

/// Reads ranges to their ends.
pub struct RangeReader {
    consumer: Box<dyn Consumer>,
    /// What is left of each partition.
    open: BTreeMap<TopicPartition, Range>,
    silent: u32,
}

impl RangeReader {
    /// A reader of `ranges`, at most one a partition.
    ///
    /// # Errors
    /// [`LogError::DataLoss`] when retention has removed the start of a range.
    pub async fn open(log: &dyn Log, ranges: &[Range], buffer_bytes: usize) -> Result<Self, LogError> {
        let mut open = BTreeMap::new();
        for range in ranges.iter().filter(|range| range.offsets() > 0) {
            let marks = log.watermarks(&range.at).await?;
            if range.from < marks.low {
                let (at, wanted, low) = (range.at.clone(), range.from, marks.low);
                return Err(LogError::DataLoss { at, wanted, low });
            }
            let end = range.end.min(marks.high);
            if range.from < end {
                open.insert(range.at.clone(), Range { end, ..range.clone() });
            }
        }
        let assign = open.values().map(|range| (range.at.clone(), range.from)).collect();
        let consumer = log
            .consumer(ConsumerOptions {
                group: None,
                topics: Vec::new(),
                assign,
                max_buffered_bytes: buffer_bytes,
                read_committed: true,
            })
            .await?;
        Ok(Self { consumer, open, silent: 0 })
    }

    /// The next records, ascending within each partition, about `max_bytes` of them; `None` when every range is
    /// read.
    ///
    /// # Errors
    /// [`LogError::DataLoss`] when retention overtook the reader; [`LogError::Unavailable`] when nothing comes.
    pub async fn next(&mut self, max_bytes: usize) -> Result<Option<Vec<Record>>, LogError> {
        while !self.open.is_empty() {
            match self.consumer.poll(max_bytes, POLL).await? {
                Event::Records(records) => {
                    self.silent = 0;
                    let records = self.take(records)?;
                    if !records.is_empty() {
                        return Ok(Some(records));
                    }
                }
                Event::Idle => self.idle()?,
                Event::Assigned(_) | Event::Revoked(_) => {}
            }
        }
        Ok(None)
    }

    /// Where each partition that is not read to its end stands.
    #[must_use]
    pub fn positions(&self) -> Vec<(TopicPartition, NextOffset)> {
        self.open.values().map(|range| (range.at.clone(), range.from)).collect()
    }

    fn take(&mut self, mut records: Vec<Record>) -> Result<Vec<Record>, LogError> {
        let mut over = Vec::new();
        records.retain(|record| {
            let Some(range) = self.open.get_mut(&record.from) else { return false };
            let wanted = (range.from.0..range.end.0).contains(&record.offset.0);
            range.from = range.from.max(record.offset.next());
            if range.from >= range.end {
                over.push(record.from.clone());
                // Kept until the records of this poll are sorted out; closed below.
            }
            wanted
        });
        for at in over {
            self.close(&at)?;
        }
        Ok(records)
    }

    fn idle(&mut self) -> Result<(), LogError> {
        self.silent += 1;
        let ended: Vec<_> = self.open.keys().filter(|at| self.consumer.reached_end(at)).cloned().collect();
        for at in ended {
            self.close(&at)?;
        }
        match self.open.values().next() {
            Some(left) if self.silent >= PATIENCE => Err(LogError::Unavailable(format!(
                "{} stands at {} of {} and nothing comes",
                left.at, left.from.0, left.end.0
            ))),
            _ => Ok(()),
        }
    }

    fn close(&mut self, at: &TopicPartition) -> Result<(), LogError> {
        if self.open.remove(at).is_some() {
            self.consumer.pause(at)?;
        }
        Ok(())
    }
}

/// The whole of every partition of `topic`, as it is now.
///
/// # Errors
/// When there is no such topic or the log does not answer.
pub async fn whole_topic(log: &dyn Log, topic: &str) -> Result<Vec<Range>, LogError> {
    let mut ranges = Vec::new();
    for partition in 0..log.partitions(topic).await? {
        let at = TopicPartition::new(topic, partition);
        let marks = log.watermarks(&at).await?;
        ranges.push(Range { at, from: marks.low, end: marks.high });
    }
    Ok(ranges)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::*;
    use crate::log::{
        GroupMetadata, Millis, NewRecord, TopicSpec,
        embedded::{Config, EmbeddedLog},
    };

    async fn log_with(records: u64, dir: &std::path::Path) -> Arc<EmbeddedLog> {
        let log = EmbeddedLog::open(Config { dir: dir.to_owned(), preallocate: false, ..Config::default() })
            .expect("opens");
        let spec =
            TopicSpec { name: "t".into(), partitions: 2, retention: None, compacted: false, replication: 1 };
        log.create_topics(&[spec]).await.expect("created");
        for number in 0..records {
            let record = NewRecord {
                to: TopicPartition::new("t", (number % 2) as u32),
                key: None,
                payload: Some(number.to_be_bytes().to_vec().into()),
                headers: Vec::new(),
                timestamp: Millis(number as i64),
            };
            log.append(record).expect("taken").await.expect("durable");
        }
        log
    }

    /// Scenario: ranges that start and end inside two partitions, one empty, one past the end.
    /// Guarantee: exactly their records come, in order, then the end; no group has a position.
    #[tokio::test]
    async fn exactly_the_range_is_read() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = log_with(100, dir.path()).await;
        let range = |partition, from, end| Range {
            at: TopicPartition::new("t", partition),
            from: NextOffset(from),
            end: NextOffset(end),
        };
        let mut reader = RangeReader::open(log.as_ref(), &[range(0, 10, 20), range(1, 45, 1_000)], 1 << 20)
            .await
            .expect("opens");
        let mut seen = Vec::new();
        while let Some(records) = reader.next(64).await.expect("reads") {
            seen.extend(records.iter().map(|record| (record.from.partition, record.offset.0)));
        }
        seen.sort_unstable();
        let wanted: Vec<_> = (10..20).map(|o| (0, o)).chain((45..50).map(|o| (1, o))).collect();
        assert_eq!(seen, wanted);
        assert!(reader.positions().is_empty());
        let mut none = RangeReader::open(log.as_ref(), &[range(0, 5, 5)], 1 << 20).await.expect("opens");
        assert!(none.next(64).await.expect("reads").is_none());
        let at = TopicPartition::new("t", 0);
        assert_eq!(log.committed("infertrace-unassigned", &at).await.expect("asked"), None);
    }

    /// Brings nothing, as a broker that is away.
    struct Silent {
        has_ended: bool,
    }

    #[async_trait]
    impl Consumer for Silent {
        async fn poll(&mut self, _: usize, _: Duration) -> Result<Event, LogError> {
            Ok(Event::Idle)
        }
        async fn seek(&mut self, _: &TopicPartition, _: NextOffset) -> Result<(), LogError> {
            Ok(())
        }
        fn pause(&mut self, _: &TopicPartition) -> Result<(), LogError> {
            Ok(())
        }
        fn resume(&mut self, _: &TopicPartition) -> Result<(), LogError> {
            Ok(())
        }
        async fn commit(&mut self, _: &[(TopicPartition, NextOffset)]) -> Result<(), LogError> {
            Ok(())
        }
        fn reached_end(&self, _: &TopicPartition) -> bool {
            self.has_ended
        }
        fn group_metadata(&self) -> Option<GroupMetadata> {
            None
        }
    }

    /// Scenario: the log brings nothing of the last offset of a range in any poll; then, in another reader, says that
    /// this was the end. Guarantee: silence is an error and never an end; an end is one at once.
    #[tokio::test]
    async fn silence_is_no_end() {
        let at = TopicPartition::new("t", 0);
        let left = Range { at: at.clone(), from: NextOffset(9), end: NextOffset(10) };
        let reader = |has_ended| RangeReader {
            consumer: Box::new(Silent { has_ended }),
            open: BTreeMap::from([(at.clone(), left.clone())]),
            silent: 0,
        };
        let error = reader(false).next(64).await.expect_err("the log is away");
        assert!(error.is_retriable() && error.to_string().contains("9 of 10"), "{error}");
        assert!(reader(true).next(64).await.expect("an end").is_none());
    }
}
