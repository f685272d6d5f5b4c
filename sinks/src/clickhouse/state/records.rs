//! Records of the sink's state, and what those of a partition say together. Pure.
//!
//! Invariants: what cannot be read counts as never written, and what stood before it under its key stands; where nothing
//! did, the group's position, committed with every record, says where to go on. Only a plan that is lost whole stops
//! the partition: the range after it may be inserted already, and another cut of it would be there twice.

use std::collections::BTreeMap;

use bytes::Bytes;
use infertrace_runtime::log::{NextOffset, Offset};
use infertrace_schemas::{lake::Id16, topics};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::super::error::Error;

/// Version of the records; a higher one is refused.
const FORMAT: u32 = 1;
/// Key of the plan; every other key is a mark's.
pub(super) const PLAN: &str = "plan";

/// A range that is about to be inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::clickhouse) struct PlanRecord {
    version: u32,
    pub(in crate::clickhouse) origin: String,
    pub(in crate::clickhouse) start: u64,
    pub(in crate::clickhouse) end: u64,
    pub(in crate::clickhouse) dedup_batches: u64,
}

impl PlanRecord {
    /// A plan of `[start, end)`.
    pub(super) fn new(origin: String, start: u64, end: u64, dedup_batches: u64) -> Self {
        Self { version: FORMAT, origin, start, end, dedup_batches }
    }
}

/// Up to where everything is inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    version: u32,
    origin: String,
    next: u64,
    /// Which mark it is; the ring's place is its rest.
    sequence: u64,
    /// Ids of batches, in the order of their records.
    batch_ids: Vec<Id16>,
}

/// What the state says of a partition.
#[derive(Debug, Default)]
pub(in crate::clickhouse) struct Found {
    /// First offset that is not inserted; `None` for a partition never seen.
    pub(in crate::clickhouse) next: Option<u64>,
    /// The plan of the range that starts there.
    pub(in crate::clickhouse) plan: Option<PlanRecord>,
    /// The latest batch ids, oldest first.
    pub(in crate::clickhouse) batch_ids: Vec<Id16>,
}

/// The mark being filled.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    pub(super) origin: String,
    pub(super) sequence: u64,
    pub(super) ids: Vec<Id16>,
}

impl Ring {
    /// Of a partition never seen. Its name is new, so tokens of a log that was thrown away do not fit it.
    pub(super) fn begin() -> Self {
        Self { origin: format!("{:08x}", rand::random::<u32>()), sequence: 0, ids: Vec::new() }
    }

    /// As a mark: everything before `next` is inserted.
    pub(super) fn mark(&self, next: u64) -> Mark {
        let Self { origin, sequence, ids } = self.clone();
        Mark { version: FORMAT, origin, next, sequence, batch_ids: ids }
    }
}

pub(super) fn encode<T: Serialize>(record: &T) -> Bytes {
    serde_json::to_vec(record).expect("the state has text keys only").into()
}

/// A record under its key.
#[derive(Clone, Debug)]
enum Value {
    Plan(PlanRecord),
    Mark(Mark),
    /// Of a later release.
    Later,
}

/// Records of one partition, the latest of each key.
#[derive(Clone, Debug, Default)]
pub(super) struct Records {
    values: BTreeMap<String, Value>,
    /// By key, the latest that cannot be read, and why; without those that a readable one followed.
    unreadable: BTreeMap<String, String>,
}

impl Records {
    /// Takes in the record at `offset`; `key` is what follows the partition's prefix.
    pub(super) fn take(&mut self, key: &str, offset: Offset, payload: Option<&[u8]>) {
        let Some(payload) = payload else {
            self.values.remove(key);
            self.unreadable.remove(key);
            return;
        };
        match decode(key, payload) {
            Ok(value) => {
                self.values.insert(key.to_owned(), value);
                self.unreadable.remove(key);
            }
            Err(error) => {
                let reason = format!("record {} of {}: {error}", offset.0, topics::SINK_STATE);
                self.unreadable.insert(key.to_owned(), reason);
            }
        }
    }

    /// What could not be read, by key.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.unreadable.iter().map(|(key, reason)| (key.as_str(), reason.as_str()))
    }

    /// What they say; `prefix` is of their keys, `committed` the group's position.
    ///
    /// # Errors
    /// [`Error::State`] when a later release wrote one, or the plan is lost.
    pub(super) fn digest(self, prefix: &str, committed: Option<NextOffset>) -> Result<(Found, Ring), Error> {
        if let Some(reason) = self.unreadable.get(PLAN).filter(|_| !self.values.contains_key(PLAN)) {
            return Err(Error::State(format!(
                "the plan of the range under way cannot be read ({reason}), and whether the range was inserted is not \
                 known; to go on and risk that its rows are there twice, write a record without a value and with the \
                 key {prefix}{PLAN} to {}",
                topics::SINK_STATE
            )));
        }
        // Every record was committed together with the position.
        let committed = committed.filter(|_| !self.unreadable.is_empty()).map(|next| next.0);
        let (mut plan, mut marks) = (None, Vec::new());
        for (key, value) in self.values {
            match value {
                Value::Plan(record) => plan = Some(record),
                Value::Mark(mark) => marks.push(mark),
                Value::Later => {
                    let topic = topics::SINK_STATE;
                    return Err(Error::State(format!(
                        "record {prefix}{key} of {topic} is of a later release; upgrade"
                    )));
                }
            }
        }
        marks.sort_unstable_by_key(|mark| mark.sequence);
        let marked = marks.last().map(|last| last.next);
        // The first range of all is planned before there is a mark.
        let next = marked.or(plan.as_ref().map(|plan| plan.start)).max(committed);
        let ring = match (marks.last(), &plan) {
            (Some(last), _) => {
                Ring { origin: last.origin.clone(), sequence: last.sequence, ids: last.batch_ids.clone() }
            }
            (None, Some(plan)) => Ring { origin: plan.origin.clone(), ..Ring::begin() },
            (None, None) => Ring::begin(),
        };
        let plan = plan.filter(|plan| Some(plan.start) == next);
        let batch_ids = marks.into_iter().flat_map(|mark| mark.batch_ids).collect();
        Ok((Found { next, plan, batch_ids }, ring))
    }
}

fn decode(key: &str, payload: &[u8]) -> Result<Value, serde_json::Error> {
    fn typed<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, serde_json::Error> {
        serde_json::from_value(value)
    }
    let value: serde_json::Value = serde_json::from_slice(payload)?;
    if value["version"].as_u64().is_some_and(|version| version > u64::from(FORMAT)) {
        return Ok(Value::Later);
    }
    if key == PLAN { typed(value).map(Value::Plan) } else { typed(value).map(Value::Mark) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOISE: &[u8] = b"\xff\xffmangled";

    fn ring(sequence: u64, ids: &[u8]) -> Ring {
        Ring { origin: "o".into(), sequence, ids: ids.iter().map(|id| Id16([*id; 16])).collect() }
    }

    /// Two full marks up to 20 and a plan of 20 to 30.
    fn records() -> Records {
        let mut records = Records::default();
        records.take("mark-0", Offset(0), Some(&encode(&ring(0, &[1, 2]).mark(10))));
        records.take("mark-1", Offset(1), Some(&encode(&ring(1, &[3]).mark(20))));
        records.take(PLAN, Offset(2), Some(&encode(&PlanRecord::new("o".into(), 20, 30, 5))));
        records
    }

    fn digest(records: Records, committed: u64) -> Result<(Found, Ring), Error> {
        records.digest("g/t/0/", Some(NextOffset(committed)))
    }

    /// Scenario: whole records; noise after them under each key and under a key of nobody's. Guarantee: the same is
    /// found either way, and what is noise is named with its place.
    #[test]
    fn noise_after_a_record_counts_for_nothing() {
        for noisy in [false, true] {
            let mut records = records();
            for (offset, key) in ["mark-0", "mark-1", PLAN, "nobody"].into_iter().enumerate() {
                if noisy {
                    records.take(key, Offset(3 + offset as u64), Some(NOISE));
                }
            }
            assert_eq!(records.unreadable().count(), if noisy { 4 } else { 0 });
            assert!(records.unreadable().all(|(_, reason)| reason.starts_with("record ")));
            let (found, ring) = digest(records, 20).expect("readable");
            assert_eq!((found.next, found.plan.map(|plan| plan.end)), (Some(20), Some(30)));
            assert_eq!((found.batch_ids.len(), ring.sequence, ring.ids.len()), (3, 1, 1));
        }
    }

    /// Scenario: the last mark is noise, and compaction has removed what stood before it. Guarantee: the group's position
    /// says where to go on, the plan that starts there holds, and the other marks' ids are known.
    #[test]
    fn a_lost_mark_is_made_up_for_by_the_position() {
        let mut records = records();
        records.take("mark-1", Offset(3), None);
        records.take("mark-1", Offset(4), Some(NOISE));
        let (found, _) = digest(records, 20).expect("readable");
        assert_eq!(
            (found.next, found.plan.map(|plan| plan.end), found.batch_ids.len()),
            (Some(20), Some(30), 2)
        );
    }

    /// Scenario: the plan is noise, and nothing stood before it; an operator writes the tombstone that the error names.
    /// Guarantee: the error says which record and what to do; after it the partition goes on without a plan.
    #[test]
    fn a_lost_plan_is_for_an_operator() {
        let mut records = records();
        records.take(PLAN, Offset(3), None);
        records.take(PLAN, Offset(4), Some(NOISE));
        let error = digest(records.clone(), 20).expect_err("lost").to_string();
        assert!(error.contains("record 4 of infertrace.state.clickhouse.v1"), "{error}");
        assert!(error.contains("the key g/t/0/plan"), "{error}");
        records.take(PLAN, Offset(5), None);
        let (found, _) = digest(records, 20).expect("an operator's decision");
        assert_eq!((found.next, found.plan), (Some(20), None));
    }

    /// Scenario: a mark of a later release; a partition never seen; one whose first range was planned only. Guarantee:
    /// the first is refused, the others start where they should.
    #[test]
    fn later_releases_are_refused_and_beginnings_known() {
        let mut later = records();
        later.take("mark-1", Offset(3), Some(br#"{"version": 2}"#));
        assert!(digest(later, 20).expect_err("later").to_string().contains("upgrade"));
        assert_eq!(digest(Records::default(), 7).expect("nothing").0.next, None);
        let mut first = Records::default();
        first.take(PLAN, Offset(0), Some(&encode(&PlanRecord::new("o".into(), 0, 8, 5))));
        let (found, ring) = digest(first, 0).expect("planned");
        assert_eq!(
            (found.next, found.plan.map(|plan| plan.end), ring.origin.as_str()),
            (Some(0), Some(8), "o")
        );
    }
}
