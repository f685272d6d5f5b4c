//! Outputs, state and positions together.

use super::{
    CaseResult, LogFactory,
    support::{Bench, ensure, keyed, numbers, record, texts},
};
use crate::log::{LogError, NextOffset, TopicPartition};

/// Outputs in two topics, state in a compacted one and the input position become visible together.
pub async fn transaction_is_atomic(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let input = bench.topic("input", 1).await?;
    let output = TopicPartition::new(bench.topic("output", 1).await?, 0);
    let other = TopicPartition::new(bench.topic("other", 2).await?, 1);
    let state = bench.topic_with("state", 1, |spec| spec.compacted = true).await?;
    let state = TopicPartition::new(state, 0);
    let from = TopicPartition::new(input.clone(), 0);
    bench.append_numbers(&from, 0, 5).await?;
    let group = factory.unique("group");
    let mut member = bench.member(&group, &input).await?;
    bench.assigned(member.as_mut(), 1).await?;
    bench.take(member.as_mut(), 5).await?;
    let mut producer = bench.log.transactions(&factory.unique("producer")).await?;
    let metadata = member.group_metadata();
    ensure!(metadata.is_some(), "a member without group metadata");
    let outputs = vec![
        record(&output, "0"),
        record(&output, "1"),
        record(&other, "2"),
        keyed(&state, "window", Some("3")),
    ];
    producer.commit(outputs, metadata.as_ref(), &[(from.clone(), NextOffset(5))]).await?;
    ensure!(texts(&bench.read(&output, 0, 2).await?) == numbers(0, 2), "outputs");
    ensure!(texts(&bench.read(&other, 0, 1).await?) == numbers(2, 1), "the other topic");
    ensure!(texts(&bench.read(&state, 0, 1).await?) == numbers(3, 1), "the state");
    let committed = bench.log.committed(&group, &from).await?;
    ensure!(committed == Some(NextOffset(5)), "the group stands at {committed:?}");
    let outputs = vec![record(&output, "2")];
    producer.commit(outputs, metadata.as_ref(), &[]).await?;
    let records = bench.read(&output, 0, 3).await?;
    ensure!(texts(&records) == numbers(0, 3), "a second transaction: {:?}", texts(&records));
    Ok(())
}

/// A transaction that is refused or dropped before it is committed leaves neither outputs nor positions.
pub async fn refused_transaction_is_invisible(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let input = bench.topic("input", 1).await?;
    let from = TopicPartition::new(input.clone(), 0);
    let output = TopicPartition::new(bench.topic("output", 1).await?, 0);
    bench.append_numbers(&from, 0, 3).await?;
    let group = factory.unique("group");
    let mut member = bench.member(&group, &input).await?;
    bench.assigned(member.as_mut(), 1).await?;
    bench.take(member.as_mut(), 3).await?;
    let metadata = member.group_metadata();
    let id = factory.unique("producer");
    let mut producer = bench.log.transactions(&id).await?;
    let huge = vec![1_u8; 80 << 20];
    let outputs = vec![record(&output, "0"), record(&output, huge)];
    let refused = producer.commit(outputs, metadata.as_ref(), &[(from.clone(), NextOffset(3))]).await;
    ensure!(refused.is_err(), "a transaction with a record that is too large was committed");
    drop(producer);
    let mut producer = bench.log.transactions(&id).await?;
    // Never polled: nothing may come of it.
    drop(producer.commit(vec![record(&output, "1")], metadata.as_ref(), &[(from.clone(), NextOffset(3))]));
    drop(producer);
    let committed = bench.log.committed(&group, &from).await?;
    ensure!(committed.is_none(), "the group stands at {committed:?}");
    let mut producer = bench.log.transactions(&id).await?;
    producer.commit(vec![record(&output, "2")], None, &[]).await?;
    let records = bench.read(&output, 0, 1).await?;
    ensure!(texts(&records) == ["2"], "visible: {:?}", texts(&records));
    Ok(())
}

/// A second producer with the same id fences the first; nothing of the first becomes visible after that.
pub async fn fenced_producer(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let output = TopicPartition::new(bench.topic("output", 1).await?, 0);
    let id = factory.unique("producer");
    let mut old = bench.log.transactions(&id).await?;
    old.commit(vec![record(&output, "0")], None, &[]).await?;
    let mut new = bench.log.transactions(&id).await?;
    let fenced = old.commit(vec![record(&output, "zombie")], None, &[]).await;
    ensure!(matches!(fenced, Err(LogError::Fenced(_))), "the older producer: {fenced:?}");
    new.commit(vec![record(&output, "1")], None, &[]).await?;
    let mut another = bench.log.transactions(&factory.unique("another")).await?;
    another.commit(vec![record(&output, "2")], None, &[]).await?;
    let records = bench.read(&output, 0, 3).await?;
    ensure!(texts(&records) == numbers(0, 3), "visible: {:?}", texts(&records));
    Ok(())
}

/// A reader sees transactions and plain appends in one order, with ascending offsets.
pub async fn read_committed_order(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let at = TopicPartition::new(bench.topic("mixed", 1).await?, 0);
    let mut producer = bench.log.transactions(&factory.unique("producer")).await?;
    for round in 0..5_u64 {
        bench.append_numbers(&at, round * 4, 2).await?;
        let outputs = [2, 3].map(|number| record(&at, (round * 4 + number).to_string()));
        producer.commit(outputs.to_vec(), None, &[]).await?;
    }
    let records = bench.read(&at, 0, 20).await?;
    ensure!(texts(&records) == numbers(0, 20), "order: {:?}", texts(&records));
    ensure!(records.is_sorted_by(|one, next| one.offset < next.offset), "offsets do not ascend");
    Ok(())
}

/// A committed transaction is there, whole, after the log was opened again.
pub async fn transaction_survives_reopen(factory: &dyn LogFactory) -> CaseResult {
    let bench = Bench::new(factory).await?;
    let input = bench.topic("input", 1).await?;
    let from = TopicPartition::new(input.clone(), 0);
    let output = TopicPartition::new(bench.topic("output", 1).await?, 0);
    bench.append_numbers(&from, 0, 1).await?;
    let group = factory.unique("group");
    let mut member = bench.member(&group, &input).await?;
    bench.assigned(member.as_mut(), 1).await?;
    let mut producer = bench.log.transactions(&factory.unique("producer")).await?;
    let outputs = [0, 1, 2].map(|number| record(&output, number.to_string()));
    let metadata = member.group_metadata();
    producer.commit(outputs.to_vec(), metadata.as_ref(), &[(from.clone(), NextOffset(1))]).await?;
    drop((producer, member));
    let bench = bench.reopened().await?;
    let records = bench.read(&output, 0, 3).await?;
    ensure!(texts(&records) == numbers(0, 3), "outputs: {:?}", texts(&records));
    let committed = bench.log.committed(&group, &from).await?;
    ensure!(committed == Some(NextOffset(1)), "the group stands at {committed:?}");
    Ok(())
}
