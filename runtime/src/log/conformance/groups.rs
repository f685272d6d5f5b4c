//! Groups: assignment, commits, hand-over, fencing.

use std::{collections::BTreeSet, time::Duration};

use super::{
    CaseError, CaseResult, LogFactory,
    support::{Bench, POLL_BYTES, ensure, numbers, texts},
};
use crate::log::{Consumer, Event, LogError, NextOffset, TopicPartition};

/// A group starts at the beginning, commits, and goes on there after the log was opened again.
pub async fn commit_and_resume(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("resume", 1).await?;
    let at = TopicPartition::new(topic.clone(), 0);
    let group = factory.unique("group");
    bench.append_numbers(&at, 0, 10).await?;
    let mut member = bench.member(&group, &topic).await?;
    let assigned = bench.assigned(member.as_mut(), 1).await?;
    ensure!(assigned[&at].is_none(), "a new group starts at {:?}", assigned[&at]);
    let records = bench.take(member.as_mut(), 10).await?;
    ensure!(texts(&records) == numbers(0, 10), "{:?}", texts(&records));
    member.commit(&[(at.clone(), NextOffset(6))]).await?;
    drop(member);
    let bench = bench.reopened().await?;
    let committed = bench.log.committed(&group, &at).await?;
    ensure!(committed == Some(NextOffset(6)), "committed 6, found {committed:?}");
    let mut member = bench.member(&group, &topic).await?;
    let assigned = bench.assigned(member.as_mut(), 1).await?;
    ensure!(assigned[&at] == Some(NextOffset(6)), "assigned at {:?}", assigned[&at]);
    let records = bench.take(member.as_mut(), 4).await?;
    ensure!(texts(&records) == numbers(6, 4), "resumed with {:?}", texts(&records));
    Ok(())
}

/// Positions of one group are not those of another, and may be moved back.
pub async fn committed_is_per_group(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("pergroup", 1).await?;
    let at = TopicPartition::new(topic.clone(), 0);
    bench.append_numbers(&at, 0, 5).await?;
    let (one, other) = (factory.unique("one"), factory.unique("other"));
    let mut member = bench.member(&one, &topic).await?;
    bench.assigned(member.as_mut(), 1).await?;
    for position in [4, 2] {
        member.commit(&[(at.clone(), NextOffset(position))]).await?;
        let committed = bench.log.committed(&one, &at).await?;
        ensure!(committed == Some(NextOffset(position)), "committed {position}, found {committed:?}");
    }
    let committed = bench.log.committed(&other, &at).await?;
    ensure!(committed.is_none(), "another group stands at {committed:?}");
    Ok(())
}

/// What one member of a group went through.
struct Seen {
    consumer: Box<dyn Consumer>,
    owned: BTreeSet<TopicPartition>,
    /// Positions of records handled.
    handled: Vec<(TopicPartition, u64)>,
}

impl Seen {
    /// Polls once; commits what it handled before it gives partitions up.
    async fn poll(&mut self) -> Result<(), CaseError> {
        match self.consumer.poll(POLL_BYTES, Duration::from_millis(100)).await? {
            Event::Assigned(partitions) => {
                self.owned.extend(partitions.into_iter().map(|(at, _)| at));
            }
            Event::Revoked(partitions) => {
                let mut positions = Vec::new();
                for at in &partitions {
                    let handled = self.handled.iter().filter(|(from, _)| from == at);
                    if let Some(last) = handled.map(|(_, offset)| *offset).max() {
                        positions.push((at.clone(), NextOffset(last + 1)));
                    }
                    self.owned.remove(at);
                }
                self.consumer.commit(&positions).await?;
            }
            Event::Records(records) => {
                for record in records {
                    ensure!(self.owned.contains(&record.from), "a record of {}, not owned", record.from);
                    self.handled.push((record.from, record.offset.0));
                }
            }
            Event::Idle => {}
        }
        Ok(())
    }
}

/// A second member takes half of the partitions, from where the first one committed when it was told to
/// give them up; every record is handled exactly once.
pub async fn rebalance_commits_before_handover(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("rebalance", 4).await?;
    let group = factory.unique("group");
    let partitions = [0, 1, 2, 3].map(|partition| TopicPartition::new(topic.clone(), partition));
    for at in &partitions {
        bench.append_numbers(at, 0, 25).await?;
    }
    let member = |consumer| Seen { consumer, owned: BTreeSet::new(), handled: Vec::new() };
    let mut first = member(bench.member(&group, &topic).await?);
    let deadline = tokio::time::Instant::now() + bench.patience() * 4;
    while first.handled.len() < 100 {
        ensure!(tokio::time::Instant::now() < deadline, "the first member handled {}", first.handled.len());
        first.poll().await?;
    }
    ensure!(first.owned.len() == 4, "a lone member owns {:?}", first.owned);
    let mut second = member(bench.member(&group, &topic).await?);
    while first.owned.len() != 2 || second.owned.len() != 2 {
        let (one, two) = (first.owned.len(), second.owned.len());
        ensure!(tokio::time::Instant::now() < deadline, "split {one} to {two}");
        let (one, two) = tokio::join!(first.poll(), second.poll());
        one?;
        two?;
        let both: Vec<_> = first.owned.intersection(&second.owned).collect();
        ensure!(both.is_empty(), "two members own {both:?}");
    }
    for at in &partitions {
        bench.append_numbers(at, 25, 25).await?;
    }
    while first.handled.len() + second.handled.len() < 200 {
        let (one, two) = (first.handled.len(), second.handled.len());
        ensure!(tokio::time::Instant::now() < deadline, "{one} and {two} of 200 handled");
        let (one, two) = tokio::join!(first.poll(), second.poll());
        one?;
        two?;
    }
    let mut handled: Vec<_> = first.handled.iter().chain(&second.handled).cloned().collect();
    handled.sort();
    let expected: Vec<_> =
        partitions.iter().flat_map(|at| (0..50).map(move |offset| (at.clone(), offset))).collect();
    ensure!(handled == expected, "{} handled, not each of 200 once", handled.len());
    drop(first.consumer);
    while second.owned.len() != 4 {
        ensure!(tokio::time::Instant::now() < deadline, "the member left over owns {:?}", second.owned);
        second.poll().await?;
    }
    Ok(())
}

/// A member that gave a partition up cannot commit for it any more.
pub async fn moved_partition_is_fenced(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let topic = bench.topic("moved", 2).await?;
    let group = factory.unique("group");
    for partition in 0..2 {
        bench.append_numbers(&TopicPartition::new(topic.clone(), partition), 0, 5).await?;
    }
    let mut first =
        Seen { consumer: bench.member(&group, &topic).await?, owned: BTreeSet::new(), handled: Vec::new() };
    let deadline = tokio::time::Instant::now() + bench.patience() * 4;
    while first.owned.len() != 2 {
        ensure!(tokio::time::Instant::now() < deadline, "the first member owns {:?}", first.owned);
        first.poll().await?;
    }
    let before = first.owned.clone();
    let mut second =
        Seen { consumer: bench.member(&group, &topic).await?, owned: BTreeSet::new(), handled: Vec::new() };
    while first.owned.len() != 1 || second.owned.len() != 1 {
        ensure!(tokio::time::Instant::now() < deadline, "no split");
        let (one, two) = tokio::join!(first.poll(), second.poll());
        one?;
        two?;
    }
    let Some(moved) = before.difference(&first.owned).next().cloned() else {
        return Err(CaseError::Failed("nothing moved".to_owned()));
    };
    let known = bench.log.committed(&group, &moved).await?;
    let result = first.consumer.commit(&[(moved.clone(), NextOffset(1))]).await;
    ensure!(matches!(result, Err(LogError::Fenced(_))), "a commit for a moved partition: {result:?}");
    let after = bench.log.committed(&group, &moved).await?;
    ensure!(after == known, "the fenced commit moved the group from {known:?} to {after:?}");
    Ok(())
}
