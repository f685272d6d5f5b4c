//! Consumer groups within this process: membership, cooperative hand-over, fencing.
//!
//! The log's directory is locked by one process, so all members of a group are here. A partition moves
//! in steps: its owner's poll answers `Revoked`; its next poll (or its end) releases it; the new owner's
//! poll claims it, after everything queued before is durable, so that it starts at the last commit.
//! Invariant: at most one member owns a partition, and only the owner's commits are queued.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use super::{
    assignment::{Members, Slot, assign},
    state::State,
};

#[derive(Debug)]
struct Member {
    topics: Vec<u32>,
    notify: Arc<Notify>,
    /// By when it must poll again.
    deadline: Instant,
}

#[derive(Debug, Default)]
struct Ownership {
    owner: Option<u64>,
    target: Option<u64>,
    /// The owner was told to give it up and has not polled since.
    announced: bool,
}

#[derive(Debug, Default)]
struct Group {
    members: BTreeMap<u64, Member>,
    slots: BTreeMap<Slot, Ownership>,
}

/// What a member's poll has to do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Given up by this poll.
    pub(super) released: Vec<Slot>,
    /// To be announced as revoked; given up by the next poll.
    pub(super) revoked: Vec<Slot>,
    /// Free to be claimed, once everything queued before is durable.
    pub(super) claimable: Vec<Slot>,
    /// Something of this member's is still with another.
    pub(super) waiting: bool,
    /// The member did not poll in time and lost everything: it must join anew.
    pub(super) expelled: bool,
}

/// All groups with members.
#[derive(Debug, Default)]
pub(super) struct Groups {
    groups: HashMap<Arc<str>, Group>,
    members: u64,
}

impl Groups {
    pub(super) fn join(
        &mut self,
        group: &Arc<str>,
        topics: Vec<u32>,
        notify: Arc<Notify>,
        session: Duration,
        state: &State,
    ) -> u64 {
        self.members += 1;
        let member = Member { topics, notify, deadline: Instant::now() + session };
        let joined = self.groups.entry(group.clone()).or_default();
        joined.members.insert(self.members, member);
        joined.rebalance(state);
        self.members
    }

    pub(super) fn leave(&mut self, group: &str, member: u64, state: &State) {
        if let Some(left) = self.groups.get_mut(group) {
            left.remove(member, state);
            if left.members.is_empty() {
                self.groups.remove(group);
            }
        }
    }

    /// Moves `member` on; `busy_until` is when it will poll again at the latest.
    pub(super) fn step(&mut self, group: &str, member: u64, busy_until: Instant, state: &State) -> Step {
        match self.groups.get_mut(group) {
            Some(group) => group.step(member, busy_until, state),
            None => Step { expelled: true, ..Step::default() },
        }
    }

    /// Takes those of `slots` that are still free and meant for `member`.
    pub(super) fn claim(&mut self, group: &str, member: u64, slots: &[Slot]) -> Vec<Slot> {
        let Some(group) = self.groups.get_mut(group) else { return Vec::new() };
        let mut claimed = Vec::new();
        for slot in slots {
            if let Some(ownership) = group.slots.get_mut(slot)
                && ownership.owner.is_none()
                && ownership.target == Some(member)
            {
                *ownership = Ownership { owner: Some(member), target: Some(member), announced: false };
                claimed.push(*slot);
            }
        }
        claimed
    }

    /// The first of `slots` that `member` does not own.
    pub(super) fn not_owned(&self, group: &str, member: u64, slots: &[Slot]) -> Option<Slot> {
        let group = self.groups.get(group);
        let owns = |slot: &Slot| {
            group.and_then(|group| group.slots.get(slot)).is_some_and(|held| held.owner == Some(member))
        };
        slots.iter().find(|slot| !owns(slot)).copied()
    }

    /// Looks at all groups again after topics were created.
    pub(super) fn rebalance_all(&mut self, state: &State) {
        for group in self.groups.values_mut() {
            group.rebalance(state);
        }
    }

    /// Wakes all members.
    pub(super) fn wake(&self) {
        for member in self.groups.values().flat_map(|group| group.members.values()) {
            member.notify.notify_one();
        }
    }
}

impl Group {
    fn step(&mut self, member: u64, busy_until: Instant, state: &State) -> Step {
        let mut step = Step::default();
        let Some(me) = self.members.get_mut(&member) else {
            step.expelled = true;
            return step;
        };
        me.deadline = busy_until;
        for (slot, held) in &mut self.slots {
            if held.owner == Some(member) && held.announced {
                held.owner = None;
                held.announced = false;
                step.released.push(*slot);
                if let Some(next) = held.target.and_then(|target| self.members.get(&target)) {
                    next.notify.notify_one();
                }
            }
        }
        self.expel_silent(member, state);
        for (slot, held) in &mut self.slots {
            match (held.owner, held.target) {
                (Some(owner), target) if owner == member && target != Some(member) => {
                    held.announced = true;
                    step.revoked.push(*slot);
                }
                (None, Some(target)) if target == member => step.claimable.push(*slot),
                (Some(owner), Some(target)) if target == member && owner != member => step.waiting = true,
                _ => {}
            }
        }
        step
    }

    /// Removes members that hold what `member` waits for and have not polled in time.
    fn expel_silent(&mut self, member: u64, state: &State) {
        let now = Instant::now();
        let held_back = |held: &&Ownership| held.target == Some(member) && held.owner != Some(member);
        let blockers: Vec<u64> =
            self.slots.values().filter(held_back).filter_map(|held| held.owner).collect();
        for blocker in blockers {
            if self.members.get(&blocker).is_some_and(|blocker| blocker.deadline < now) {
                tracing::warn!(member = blocker, "group member did not poll in time and lost its partitions");
                self.remove(blocker, state);
            }
        }
    }

    fn remove(&mut self, member: u64, state: &State) {
        self.members.remove(&member);
        for held in self.slots.values_mut() {
            if held.owner == Some(member) {
                held.owner = None;
                held.announced = false;
            }
        }
        self.rebalance(state);
    }

    fn rebalance(&mut self, state: &State) {
        let members: Members =
            self.members.iter().map(|(member, joined)| (*member, joined.topics.clone())).collect();
        let mut partitions = BTreeMap::new();
        for topic in members.values().flatten() {
            partitions.insert(*topic, state.topics[*topic as usize].meta.partitions);
        }
        let current =
            self.slots.iter().filter_map(|(slot, held)| Some((*slot, held.owner.or(held.target)?))).collect();
        let targets = assign(&members, &partitions, &current);
        for held in self.slots.values_mut() {
            held.target = None;
        }
        for (slot, target) in targets {
            self.slots.entry(slot).or_default().target = Some(target);
        }
        self.slots.retain(|_, held| held.owner.is_some() || held.target.is_some());
        for member in self.members.values() {
            member.notify.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::embedded::{
        format::SegmentHeader,
        segment::Segment,
        state::{Effect, TopicMeta},
    };

    const GROUP: &str = "g";

    fn state(partitions: u32) -> State {
        let mut state = State::default();
        let segment = Segment::new(std::path::Path::new("."), SegmentHeader { seq: 0, salt: 0 }, 0);
        let meta = TopicMeta { id: 0, name: "t".into(), partitions, retention: None, compacted: false };
        assert!(state.apply(Effect::Topic(meta), &Arc::new(segment)));
        state
    }

    fn join(groups: &mut Groups, state: &State) -> u64 {
        groups.join(&GROUP.into(), vec![0], Arc::new(Notify::new()), Duration::from_secs(60), state)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn long_ago() -> Instant {
        Instant::now().checked_sub(Duration::from_secs(1)).expect("the machine runs for a second")
    }

    /// Polls a member and takes all it may.
    fn poll(groups: &mut Groups, state: &State, member: u64) -> (Step, Vec<Slot>) {
        let step = groups.step(GROUP, member, soon(), state);
        let claimed = groups.claim(GROUP, member, &step.claimable);
        (step, claimed)
    }

    /// Scenario: a second member joins. Guarantee: the first keeps what moves until the poll after it was
    /// told; only then can the second claim it; in between both may not own it.
    #[test]
    fn a_partition_moves_only_after_its_owner_polled_again() {
        let (mut groups, state) = (Groups::default(), state(2));
        let first = join(&mut groups, &state);
        assert_eq!(poll(&mut groups, &state, first).1.len(), 2);
        let second = join(&mut groups, &state);
        assert!(poll(&mut groups, &state, second).0.waiting);
        let moving = poll(&mut groups, &state, first).0.revoked;
        assert_eq!(moving.len(), 1);
        assert_eq!(groups.not_owned(GROUP, first, &moving), None, "it may still commit");
        assert!(poll(&mut groups, &state, second).1.is_empty());
        assert_eq!(poll(&mut groups, &state, first).0.released, moving);
        assert_eq!(groups.not_owned(GROUP, first, &moving), Some(moving[0]));
        assert_eq!(poll(&mut groups, &state, second).1, moving);
    }

    /// Scenario: a member stops polling while another waits for its partitions. Guarantee: it loses them,
    /// cannot commit any more, learns it at its next poll, and gets none back by itself.
    #[test]
    fn a_silent_member_is_expelled_when_another_waits() {
        let (mut groups, state) = (Groups::default(), state(2));
        let silent = join(&mut groups, &state);
        let owned = poll(&mut groups, &state, silent).1;
        groups.step(GROUP, silent, long_ago(), &state);
        let other = join(&mut groups, &state);
        let (_, claimed) = poll(&mut groups, &state, other);
        assert_eq!(claimed.len(), 2, "the other takes all");
        assert!(groups.not_owned(GROUP, silent, &owned).is_some());
        assert!(poll(&mut groups, &state, silent).0.expelled);
        assert_eq!(groups.not_owned(GROUP, other, &claimed), None);
    }

    /// Scenario: the only member leaves, a topic's partitions stay. Guarantee: the next member gets all.
    #[test]
    fn an_empty_group_is_forgotten() {
        let (mut groups, state) = (Groups::default(), state(3));
        let first = join(&mut groups, &state);
        poll(&mut groups, &state, first);
        groups.leave(GROUP, first, &state);
        assert!(poll(&mut groups, &state, first).0.expelled);
        let second = join(&mut groups, &state);
        assert_eq!(poll(&mut groups, &state, second).1.len(), 3);
    }
}
