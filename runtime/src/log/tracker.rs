//! Lowest un-acknowledged offset of each partition: which position may be committed.
//!
//! Pure: no log, no clock. A consumer hands out offsets in ascending order, workers acknowledge them in
//! any order, and [`Tracker::committable`] is the position below which everything handed out is
//! acknowledged. Invariants: a committable position never moves back within a generation and never
//! passes an un-acknowledged record; an acknowledgement for a partition that was revoked since is
//! refused by its generation.

use std::collections::{HashMap, VecDeque};

use super::{NextOffset, Offset, TopicPartition};

/// One ownership of one partition; grows with every assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

/// Why an offset was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrackerError {
    /// The partition is not assigned, or it was taken away and given again since.
    #[error("{at}: the acknowledgement is of an earlier ownership")]
    Stale {
        /// Partition.
        at: TopicPartition,
    },
    /// Offsets must be handed out ascending, from the position the partition was assigned at.
    #[error("{at}: offset {} was handed out after {}", offset.0, expected.0)]
    NotAscending {
        /// Partition.
        at: TopicPartition,
        /// What was handed out.
        offset: Offset,
        /// The lowest allowed.
        expected: NextOffset,
    },
    /// The offset is not in flight.
    #[error("{at}: offset {} was never handed out", offset.0)]
    Unknown {
        /// Partition.
        at: TopicPartition,
        /// Offset.
        offset: Offset,
    },
}

/// In-flight offsets of one partition.
#[derive(Debug)]
struct Partition {
    generation: Generation,
    /// Ascending offsets from the lowest un-acknowledged on, and whether each is acknowledged.
    in_flight: VecDeque<(u64, bool)>,
    /// Position below which everything is acknowledged.
    committable: u64,
    /// Position reported by the last [`Tracker::committed`].
    committed: u64,
    /// One past the last offset handed out.
    next: u64,
}

/// In-flight offsets of all partitions that one consumer owns.
#[derive(Debug, Default)]
pub struct Tracker {
    partitions: HashMap<TopicPartition, Partition>,
    generations: u64,
}

impl Tracker {
    /// Tracks nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a new ownership of `at`, reading from `start`. What was in flight before is forgotten.
    pub fn assign(&mut self, at: TopicPartition, start: NextOffset) -> Generation {
        self.generations += 1;
        let generation = Generation(self.generations);
        let partition = Partition {
            generation,
            in_flight: VecDeque::new(),
            committable: start.0,
            committed: start.0,
            next: start.0,
        };
        self.partitions.insert(at, partition);
        generation
    }

    /// Ends the ownership of `at`; the position to commit before giving it up, if it moved.
    pub fn revoke(&mut self, at: &TopicPartition) -> Option<NextOffset> {
        let partition = self.partitions.remove(at)?;
        (partition.committable > partition.committed).then_some(NextOffset(partition.committable))
    }

    /// Notes that `offset` went to a worker, which must give back the returned generation.
    ///
    /// # Errors
    /// When the partition is not assigned or the offset does not ascend.
    pub fn hand_out(&mut self, at: &TopicPartition, offset: Offset) -> Result<Generation, TrackerError> {
        let Some(partition) = self.partitions.get_mut(at) else {
            return Err(TrackerError::Stale { at: at.clone() });
        };
        if offset.0 < partition.next {
            let expected = NextOffset(partition.next);
            return Err(TrackerError::NotAscending { at: at.clone(), offset, expected });
        }
        partition.in_flight.push_back((offset.0, false));
        partition.next = offset.0 + 1;
        Ok(partition.generation)
    }

    /// Notes that `offset` and all its effects are durable. Twice is harmless.
    ///
    /// # Errors
    /// When the ownership ended since, or the offset was never handed out.
    pub fn ack(
        &mut self,
        at: &TopicPartition,
        generation: Generation,
        offset: Offset,
    ) -> Result<(), TrackerError> {
        let partition = self.partitions.get_mut(at).filter(|partition| partition.generation == generation);
        let Some(partition) = partition else {
            return Err(TrackerError::Stale { at: at.clone() });
        };
        if offset.0 < partition.committable {
            return Ok(());
        }
        let Ok(index) = partition.in_flight.binary_search_by_key(&offset.0, |(offset, _)| *offset) else {
            return Err(TrackerError::Unknown { at: at.clone(), offset });
        };
        partition.in_flight[index].1 = true;
        while let Some((lowest, true)) = partition.in_flight.front().copied() {
            partition.in_flight.pop_front();
            partition.committable = lowest + 1;
        }
        Ok(())
    }

    /// Positions that moved since they were last committed.
    #[must_use]
    pub fn committable(&self) -> Vec<(TopicPartition, NextOffset)> {
        let mut moved: Vec<_> = self
            .partitions
            .iter()
            .filter(|(_, partition)| partition.committable > partition.committed)
            .map(|(at, partition)| (at.clone(), NextOffset(partition.committable)))
            .collect();
        moved.sort();
        moved
    }

    /// Position of `at` below which everything handed out is acknowledged.
    #[must_use]
    pub fn position(&self, at: &TopicPartition) -> Option<NextOffset> {
        self.partitions.get(at).map(|partition| NextOffset(partition.committable))
    }

    /// Notes that the group's position is now `position`.
    pub fn committed(&mut self, at: &TopicPartition, position: NextOffset) {
        if let Some(partition) = self.partitions.get_mut(at) {
            partition.committed = partition.committed.max(position.0);
        }
    }

    /// Records handed out that hold a position back.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.partitions.values().map(|partition| partition.in_flight.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(partition: u32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    /// Scenario: batch 1 fails (no acknowledgement), batch 2 succeeds. Guarantee: the position stays at 1.
    #[test]
    fn a_later_success_does_not_pass_an_earlier_failure() {
        let mut tracker = Tracker::new();
        let generation = tracker.assign(at(0), NextOffset(1));
        tracker.hand_out(&at(0), Offset(1)).unwrap();
        tracker.hand_out(&at(0), Offset(2)).unwrap();
        tracker.ack(&at(0), generation, Offset(2)).unwrap();
        assert_eq!(tracker.committable(), vec![]);
        assert_eq!(tracker.in_flight(), 2);
        tracker.ack(&at(0), generation, Offset(1)).unwrap();
        assert_eq!(tracker.committable(), vec![(at(0), NextOffset(3))]);
        tracker.committed(&at(0), NextOffset(3));
        assert_eq!(tracker.committable(), vec![]);
    }

    /// Scenario: a partition goes away and comes back while a worker still runs. Guarantee: its late
    /// acknowledgement is refused and moves nothing.
    #[test]
    fn an_acknowledgement_of_an_earlier_ownership_is_stale() {
        let mut tracker = Tracker::new();
        let old = tracker.assign(at(0), NextOffset(0));
        tracker.hand_out(&at(0), Offset(0)).unwrap();
        assert_eq!(tracker.revoke(&at(0)), None);
        assert_eq!(tracker.ack(&at(0), old, Offset(0)), Err(TrackerError::Stale { at: at(0) }));
        tracker.assign(at(0), NextOffset(0));
        tracker.hand_out(&at(0), Offset(0)).unwrap();
        assert_eq!(tracker.ack(&at(0), old, Offset(0)), Err(TrackerError::Stale { at: at(0) }));
        assert_eq!(tracker.position(&at(0)), Some(NextOffset(0)));
    }

    /// Scenario: misuse. Guarantee: descending and unknown offsets are refused.
    #[test]
    fn misuse_is_refused() {
        let mut tracker = Tracker::new();
        let generation = tracker.assign(at(0), NextOffset(5));
        assert!(matches!(tracker.hand_out(&at(0), Offset(4)), Err(TrackerError::NotAscending { .. })));
        tracker.hand_out(&at(0), Offset(9)).unwrap();
        assert!(matches!(tracker.hand_out(&at(0), Offset(9)), Err(TrackerError::NotAscending { .. })));
        assert!(matches!(tracker.ack(&at(0), generation, Offset(7)), Err(TrackerError::Unknown { .. })));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Assign(u32),
        Revoke(u32),
        HandOut(u32, u64),
        Ack(u32, prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            1 => (0..3_u32).prop_map(Step::Assign),
            1 => (0..3_u32).prop_map(Step::Revoke),
            8 => (0..3_u32, 1..4_u64).prop_map(|(partition, gap)| Step::HandOut(partition, gap)),
            8 => (0..3_u32, any::<prop::sample::Index>()).prop_map(|(partition, which)| Step::Ack(partition, which)),
        ]
    }

    /// Naive: every offset ever handed out in this ownership, and the set of acknowledged ones.
    #[derive(Default)]
    struct Model {
        start: u64,
        out: Vec<u64>,
        acked: Vec<u64>,
    }

    impl Model {
        fn position(&self) -> u64 {
            let mut position = self.start;
            for offset in &self.out {
                if !self.acked.contains(offset) {
                    break;
                }
                position = offset + 1;
            }
            position
        }
    }

    proptest! {
        /// Scenario: any interleaving of assignments, hand-outs and acknowledgements over partitions.
        /// Guarantee: positions equal those of a model that keeps everything; stale generations never count.
        #[test]
        fn agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..200)) {
            let mut tracker = Tracker::new();
            let mut models: HashMap<u32, (Generation, Model)> = HashMap::new();
            let mut dead: Vec<(u32, Generation, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Assign(partition) => {
                        if let Some((generation, model)) = models.remove(&partition) {
                            dead.extend(model.out.iter().map(|offset| (partition, generation, *offset)));
                        }
                        let start = u64::from(partition) * 10;
                        let generation = tracker.assign(at(partition), NextOffset(start));
                        models.insert(partition, (generation, Model { start, ..Model::default() }));
                    }
                    Step::Revoke(partition) => {
                        let revoked = tracker.revoke(&at(partition));
                        let model = models.remove(&partition);
                        let expected = model.as_ref().and_then(|(_, model)| {
                            (model.position() > model.start).then(|| NextOffset(model.position()))
                        });
                        prop_assert_eq!(revoked, expected);
                        if let Some((generation, model)) = model {
                            dead.extend(model.out.iter().map(|offset| (partition, generation, *offset)));
                        }
                    }
                    Step::HandOut(partition, gap) => match models.get_mut(&partition) {
                        Some((_, model)) => {
                            let offset = model.out.last().map_or(model.start, |last| last + gap);
                            tracker.hand_out(&at(partition), Offset(offset)).unwrap();
                            model.out.push(offset);
                        }
                        None => prop_assert!(tracker.hand_out(&at(partition), Offset(0)).is_err()),
                    },
                    Step::Ack(partition, which) => {
                        if let Some((generation, model)) = models.get_mut(&partition)
                            && !model.out.is_empty()
                        {
                            let offset = *which.get(&model.out);
                            tracker.ack(&at(partition), *generation, Offset(offset)).unwrap();
                            model.acked.push(offset);
                        }
                        if !dead.is_empty() {
                            let (partition, generation, offset) = *which.get(&dead);
                            prop_assert!(tracker.ack(&at(partition), generation, Offset(offset)).is_err());
                        }
                    }
                }
                for (partition, (_, model)) in &models {
                    prop_assert_eq!(tracker.position(&at(*partition)), Some(NextOffset(model.position())));
                }
                let held: usize = models.values().map(|(_, model)| {
                    model.out.iter().filter(|offset| **offset >= model.position()).count()
                }).sum();
                prop_assert_eq!(tracker.in_flight(), held);
            }
        }
    }
}
