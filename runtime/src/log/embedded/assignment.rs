//! Which member of a group should own which partition: balanced, and moving as little as possible.
//!
//! Pure. Invariants: every partition that some member subscribes to has a target that subscribes to it;
//! per topic the members' counts differ by at most one where all subscribe to the same topics; a partition
//! leaves its owner only where balance needs it.

use std::collections::BTreeMap;

/// Topic and partition.
pub(super) type Slot = (u32, u32);

/// Member by number, with the topics it subscribes to.
pub(super) type Members = BTreeMap<u64, Vec<u32>>;

/// Targets of all partitions of subscribed topics, from where they are now.
pub(super) fn assign(
    members: &Members,
    partitions: &BTreeMap<u32, u32>,
    current: &BTreeMap<Slot, u64>,
) -> BTreeMap<Slot, u64> {
    let mut targets = BTreeMap::new();
    let mut totals: BTreeMap<u64, usize> = members.keys().map(|member| (*member, 0)).collect();
    for (&topic, &count) in partitions {
        let mut owned: BTreeMap<u64, Vec<u32>> = members
            .iter()
            .filter(|(_, topics)| topics.contains(&topic))
            .map(|(member, _)| (*member, Vec::new()))
            .collect();
        if owned.is_empty() {
            continue;
        }
        let mut free = Vec::new();
        for partition in 0..count {
            match current.get(&(topic, partition)).and_then(|member| owned.get_mut(member)) {
                Some(list) => list.push(partition),
                None => free.push(partition),
            }
        }
        let load = |owned: &BTreeMap<u64, Vec<u32>>, totals: &BTreeMap<u64, usize>, member: u64| {
            (owned[&member].len(), totals[&member] + owned[&member].len(), member)
        };
        for partition in free {
            let least = owned.keys().copied().min_by_key(|member| load(&owned, &totals, *member));
            owned.get_mut(&least.expect("not empty")).expect("a key of it").push(partition);
        }
        loop {
            let least = owned.keys().copied().min_by_key(|member| load(&owned, &totals, *member));
            let most = owned.keys().copied().max_by_key(|member| load(&owned, &totals, *member));
            let (least, most) = (least.expect("not empty"), most.expect("not empty"));
            if owned[&most].len() <= owned[&least].len() + 1 {
                break;
            }
            let moved = owned.get_mut(&most).and_then(Vec::pop).expect("more than one");
            owned.get_mut(&least).expect("a key of it").push(moved);
        }
        for (member, list) in owned {
            *totals.get_mut(&member).expect("a member") += list.len();
            targets.extend(list.into_iter().map(|partition| ((topic, partition), member)));
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counts(targets: &BTreeMap<Slot, u64>, topic: u32, members: &Members) -> Vec<usize> {
        let mine = |member: &u64| targets.iter().filter(|((t, _), m)| *t == topic && *m == member).count();
        members.keys().map(mine).collect()
    }

    /// Scenario: a second member joins, then the first leaves. Guarantee: half moves, then the rest.
    #[test]
    fn a_join_moves_half_and_a_leave_moves_the_rest() {
        let partitions = BTreeMap::from([(0, 8)]);
        let one = assign(&Members::from([(1, vec![0])]), &partitions, &BTreeMap::new());
        assert!(one.values().all(|member| *member == 1));
        let members = Members::from([(1, vec![0]), (2, vec![0])]);
        let two = assign(&members, &partitions, &one);
        assert_eq!(counts(&two, 0, &members), vec![4, 4]);
        let stayed = one.iter().filter(|(slot, member)| two[*slot] == **member).count();
        assert_eq!(stayed, 4);
        let rest = assign(&Members::from([(2, vec![0])]), &partitions, &two);
        assert!(rest.values().all(|member| *member == 2));
    }

    proptest! {
        /// Scenario: members come and go at random over several topics. Guarantee: all partitions have
        /// a member, each topic is balanced within one, and no more moves than balance needs.
        #[test]
        fn stays_balanced_and_sticky(
            counts_of in prop::collection::vec(1..12_u32, 1..4),
            rounds in prop::collection::vec(prop::collection::btree_set(0..6_u64, 1..6), 1..8),
        ) {
            let topics: Vec<u32> = (0_u32..).zip(&counts_of).map(|(topic, _)| topic).collect();
            let partitions: BTreeMap<u32, u32> = (0_u32..).zip(counts_of.iter().copied()).collect();
            let mut current = BTreeMap::new();
            for round in rounds {
                let members: Members = round.iter().map(|member| (*member, topics.clone())).collect();
                let targets = assign(&members, &partitions, &current);
                prop_assert_eq!(targets.len(), counts_of.iter().sum::<u32>() as usize);
                for (topic, count) in &partitions {
                    let counts = counts(&targets, *topic, &members);
                    let (min, max) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                    prop_assert!(max - min <= 1);
                    // Of those who stay, each gives up at most what it has above the fair share.
                    let owned = |member: &u64| {
                        current.iter().filter(|((t, _), m)| *t == *topic && *m == member).count()
                    };
                    let floor = *count as usize / members.len();
                    let above: usize = members.keys().map(|member| owned(member).saturating_sub(floor)).sum();
                    let lost = current.iter().filter(|(slot, member)| {
                        slot.0 == *topic && members.contains_key(member) && targets[*slot] != **member
                    }).count();
                    prop_assert!(lost <= above, "{} moved, {} above the share", lost, above);
                }
                current = targets;
            }
        }
    }
}
