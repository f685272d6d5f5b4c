//! The insights that go on, as one target knows them: what it was told of, and what is held back from it. Pure: whether
//! an insight is silent is an argument.
//!
//! Invariants: of what is held back the latest revision of each insight is kept; who was told that an insight began is
//! told that it is over, and nobody else is; both sets are bounded ([`OpenSet`]).

use std::sync::Arc;

use infertrace_runtime::log::Record;
use infertrace_schemas::avro::{Insight, InsightState};

use super::open::OpenSet;

/// What to do with a revision.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Telling {
    /// The target does not follow the insight, or was never told of it and it is over.
    Unwanted,
    /// Not now.
    Withheld,
    /// To be told. `is_first`: the target does not know yet that it began.
    Due { is_first: bool },
}

/// A revision that is held back.
type Withheld = (Arc<Insight>, Arc<Record>);

/// What one target knows.
#[derive(Default)]
pub(super) struct Following {
    /// Whether the target was told of it.
    was_told: OpenSet<bool>,
    withheld: OpenSet<Withheld>,
}

impl Following {
    /// Takes in a revision; `is_wanted` says whether the target's filter follows an insight that it does not follow yet.
    pub(super) fn take(
        &mut self,
        insight: &Arc<Insight>,
        record: &Arc<Record>,
        is_silent: bool,
        is_wanted: impl FnOnce() -> bool,
    ) -> Telling {
        let before = self.was_told.get(&insight.id).copied();
        if before.is_none() && !is_wanted() {
            return Telling::Unwanted;
        }
        self.withheld.remove(&insight.id);
        if insight.state == InsightState::Resolved {
            self.was_told.remove(&insight.id);
            let is_due = before.unwrap_or(!is_silent);
            return if is_due { Telling::Due { is_first: false } } else { Telling::Unwanted };
        }
        self.note(insight, record, before.unwrap_or_default() || !is_silent);
        if is_silent {
            self.hold(insight, record);
            return Telling::Withheld;
        }
        Telling::Due { is_first: before == Some(false) }
    }

    /// Holds back a revision that was due and was not told, unless the insight is over by now or a later revision is held
    /// back already.
    pub(super) fn put_back(&mut self, insight: &Arc<Insight>, record: &Arc<Record>) {
        let Some(&was_told) = self.was_told.get(&insight.id) else { return };
        if self.withheld.get(&insight.id).is_none() {
            self.note(insight, record, was_told && insight.state != InsightState::Open);
            self.hold(insight, record);
        }
    }

    /// Lets go of what `is_silent` does not hold any more: `queue` takes it, if it has room; what the target was told of
    /// already is dropped where `is_told` says that it does not hear of that state.
    pub(super) fn release(
        &mut self,
        mut is_silent: impl FnMut(&Insight) -> bool,
        is_told: impl Fn(InsightState) -> bool,
        mut queue: impl FnMut(u32, Withheld) -> bool,
    ) {
        let Self { was_told, withheld } = self;
        withheld.retain(|id, partition, (insight, record)| {
            if is_silent(insight) {
                return true;
            }
            if was_told.get(id) == Some(&true) && !is_told(insight.state) {
                return false;
            }
            let is_queued = queue(partition, (Arc::clone(insight), Arc::clone(record)));
            if is_queued {
                was_told.insert(Arc::clone(id), partition, record.timestamp.0, true);
            }
            !is_queued
        });
    }

    /// Forgets a partition that another member has now.
    pub(super) fn purge(&mut self, partition: u32) {
        self.was_told.purge(partition);
        self.withheld.purge(partition);
    }

    fn note(&mut self, insight: &Insight, record: &Record, was_told: bool) {
        let id = insight.id.as_str().into();
        self.was_told.insert(id, record.from.partition, record.timestamp.0, was_told);
    }

    fn hold(&mut self, insight: &Arc<Insight>, record: &Arc<Record>) {
        let id = insight.id.as_str().into();
        let withheld = (Arc::clone(insight), Arc::clone(record));
        self.withheld.insert(id, record.from.partition, record.timestamp.0, withheld);
    }
}

#[cfg(test)]
mod tests {
    use infertrace_runtime::log::{Millis, Offset, TopicPartition};

    use super::*;

    fn revision(number: i32, state: InsightState) -> (Arc<Insight>, Arc<Record>) {
        let insight = Insight { id: "a".to_owned(), revision: number, state, ..Insight::default() };
        let record = Record {
            from: TopicPartition::new("t", 0),
            offset: Offset(0),
            timestamp: Millis(0),
            key: None,
            payload: None,
            headers: Vec::new(),
        };
        (Arc::new(insight), Arc::new(record))
    }

    fn take(following: &mut Following, number: i32, state: InsightState, is_silent: bool) -> Telling {
        let (insight, record) = revision(number, state);
        following.take(&insight, &record, is_silent, || true)
    }

    fn released(following: &mut Following, is_silent: bool, has_room: bool) -> Vec<i32> {
        let mut queued = Vec::new();
        following.release(
            |_| is_silent,
            |state| state != InsightState::Updated,
            |_, (insight, _)| {
                queued.push(insight.revision);
                has_room
            },
        );
        queued
    }

    /// Scenario: an insight opens silently, goes on, is let go when the queue is full and again, goes on, is over. Guarantee:
    /// the latest revision is queued once there is room, whatever states the target hears of, since it knew nothing; later
    /// ones only if it hears of them; then its end is due.
    #[test]
    fn what_was_held_back_comes_once() {
        use InsightState::{Open, Resolved, Updated};
        let mut following = Following::default();
        assert_eq!(take(&mut following, 1, Open, true), Telling::Withheld);
        assert_eq!(take(&mut following, 2, Updated, true), Telling::Withheld);
        assert!(released(&mut following, true, true).is_empty());
        assert_eq!(released(&mut following, false, false), [2]);
        assert_eq!(released(&mut following, false, true), [2]);
        assert!(released(&mut following, false, true).is_empty());
        assert_eq!(take(&mut following, 3, Updated, true), Telling::Withheld);
        assert!(released(&mut following, false, true).is_empty());
        assert_eq!(take(&mut following, 4, Resolved, true), Telling::Due { is_first: false });
        assert_eq!(take(&mut following, 5, Resolved, true), Telling::Unwanted);
    }

    /// Scenario: a revision that opens an insight is put back out of the queue, then a later one comes loudly; an insight that is
    /// over is put back. Guarantee: the later one is the first that the target hears of; what is over stays over.
    #[test]
    fn what_is_put_back_was_not_told() {
        use InsightState::{Open, Resolved, Updated};
        let mut following = Following::default();
        assert_eq!(take(&mut following, 1, Open, false), Telling::Due { is_first: false });
        let (insight, record) = revision(1, Open);
        following.put_back(&insight, &record);
        assert_eq!(take(&mut following, 2, Updated, false), Telling::Due { is_first: true });
        assert_eq!(take(&mut following, 3, Resolved, false), Telling::Due { is_first: false });
        following.put_back(&insight, &record);
        assert!(released(&mut following, false, true).is_empty());
    }
}
