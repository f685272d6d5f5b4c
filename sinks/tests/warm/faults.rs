//! Crashes, a server that is away, answers that are lost: every span is there once.

use infertrace_schemas::topics;

use crate::{
    proxy::{Mishap, Proxy},
    support::*,
};

/// Scenario: the sink dies at its n-th insert, before or after it was applied, for every n of a range and more; a new
/// instance takes over. Guarantee: every span once, each found by its trace.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_insert_loses_and_doubles_nothing() {
    let Some(server) = server() else { return };
    let client = client(&server);
    let proxy = Proxy::start(server.port()).await;
    for (round, mishap) in [Mishap::HangBefore, Mishap::HangAfter].into_iter().enumerate() {
        for number in 0..6 {
            let database = format!("crash_{round}_{number}");
            let world = World::new(1).await;
            let spans = world.fill(1, 0, 5).await;
            let config = config(proxy.url(), &database);
            let first = world.start(&config).await;
            proxy.plan(number..usize::MAX, mishap);
            // The migrations' own notes are inserts in a body, which the proxy does not count.
            proxy.until_met(1).await;
            first.kill().await;
            proxy.heal();
            let second = world.start(&config).await;
            until_committed(&world, 1).await;
            second.finish().await;
            assert_holds(&client, &database, spans).await;
        }
    }
}

/// Scenario: each insert's answer is lost, or it is refused for a while as overloaded, as forbidden and as unauthorised,
/// or it arrives twice. Guarantee: it is repeated until it counts, once; nothing goes to the dead letters.
#[tokio::test(flavor = "multi_thread")]
async fn lost_answers_and_refusals_are_waited_out() {
    let Some(server) = server() else { return };
    let client = client(&server);
    let proxy = Proxy::start(server.port()).await;
    let mishaps = [
        Mishap::LoseAnswer,
        Mishap::Drop,
        Mishap::Twice,
        Mishap::Answer(500, 252),
        Mishap::Answer(403, 497),
        Mishap::Answer(401, 0),
    ];
    for (round, mishap) in mishaps.into_iter().enumerate() {
        let database = format!("lost_{round}");
        let world = World::new(2).await;
        let spans = world.fill(2, 0, 6).await;
        proxy.plan(1..9, mishap);
        let sink = world.start(&config(proxy.url(), &database)).await;
        until_committed(&world, 2).await;
        assert!(proxy.met() >= 8, "{mishap:?} {}", proxy.met());
        sink.finish().await;
        assert_holds(&client, &database, spans).await;
        assert_eq!(world.dead_letters().await, 0);
    }
}

/// Scenario: the server is killed while spans keep coming, and comes back on its data. Guarantee: the sink waits, stays
/// within its memory, and then has every span once.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_is_waited_for() {
    let Some(mut server) = server() else { return };
    let world = World::new(2).await;
    let mut spans = world.fill(2, 0, 10).await;
    let config = infertrace_sinks::clickhouse::Config {
        memory_budget_bytes: 64 << 10,
        ..config(server.url(), "away")
    };
    let sink = world.start(&config).await;
    until_committed(&world, 2).await;
    server.kill();
    spans += world.fill(2, 10, 400).await;
    until("reading pauses", || async { sink.metric("infertrace_clickhouse_spans_paused") > 0.0 }).await;
    assert!(sink.metric("infertrace_clickhouse_spans_buffered_bytes") < f64::from(128 << 10));
    server.restart().expect("restarts");
    until_committed(&world, 2).await;
    sink.finish().await;
    assert_holds(&client(&server), "away", spans).await;
}

/// Scenario: a column is missing in the table, then put back. Guarantee: the sink stands still, says so by its metric,
/// loses nothing and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn another_schema_stops_the_sink_until_it_is_mended() {
    let Some(server) = server() else { return };
    let client = client(&server);
    let world = World::new(1).await;
    let sink = world.start(&config(server.url(), "other")).await;
    let mut spans = world.fill(1, 0, 2).await;
    until_committed(&world, 1).await;
    client.statement("ALTER TABLE other.spans RENAME COLUMN kind TO sort").await.expect("renamed");
    spans += world.fill(1, 2, 2).await;
    until("the alarm", || async { sink.metric("infertrace_clickhouse_spans_refused_operations") > 0.0 })
        .await;
    client.statement("ALTER TABLE other.spans RENAME COLUMN sort TO kind").await.expect("renamed");
    until_committed(&world, 1).await;
    assert_eq!(sink.metric("infertrace_clickhouse_spans_refused_operations"), 0.0);
    sink.finish().await;
    assert_holds(&client, "other", spans).await;
}

/// Scenario: a client's retry of a batch in a later range and after a restart, and a record that is no batch.
/// Guarantee: the retry is dropped, the poison is in the dead letters, the position passes both.
#[tokio::test(flavor = "multi_thread")]
async fn retries_are_dropped_and_poison_is_set_aside() {
    let Some(server) = server() else { return };
    let world = World::new(1).await;
    let config = config(server.url(), "retries");
    let spans = world.fill(1, 0, 4).await;
    let sink = world.start(&config).await;
    until_committed(&world, 1).await;
    world.fill(1, 0, 2).await;
    world.append(topics::SPANS, 0, b"\xff\xff not a batch".to_vec()).await;
    until_committed(&world, 1).await;
    sink.finish().await;
    world.fill(1, 1, 3).await;
    let sink = world.start(&config).await;
    until_committed(&world, 1).await;
    sink.finish().await;
    assert_holds(&client(&server), "retries", spans).await;
    assert_eq!(world.dead_letters().await, 1);
}

/// Scenario: between two runs noise is written to the sink's state, under every key that is there and under a new one; a
/// client's retry follows. Guarantee: the partition goes on where it was: every span once, the retry dropped.
#[tokio::test(flavor = "multi_thread")]
async fn noise_in_the_state_changes_nothing() {
    let Some(server) = server() else { return };
    let world = World::new(1).await;
    let config = config(server.url(), "noise");
    let mut spans = world.fill(1, 0, 4).await;
    let sink = world.start(&config).await;
    until_committed(&world, 1).await;
    sink.finish().await;
    let mut keys = world.keys(topics::SINK_STATE).await;
    assert!(keys.len() > 1, "a plan and a mark: {keys:?}");
    let own = keys[0].rsplit_once('/').expect("a key with a path").0.to_owned();
    keys.push(format!("{own}/nobody"));
    for key in keys {
        world.append_keyed(topics::SINK_STATE, 0, Some(key), b"\xff\xffmangled".to_vec()).await;
    }
    world.fill(1, 1, 2).await;
    spans += world.fill(1, 4, 4).await;
    let sink = world.start(&config).await;
    until_committed(&world, 1).await;
    sink.finish().await;
    assert_holds(&client(&server), "noise", spans).await;
    assert_eq!(world.dead_letters().await, 0);
}

/// Scenario: a new log is put in front of a database that holds another's. Guarantee: nothing is inserted, since its
/// offsets would mean other spans; the alarm is raised.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_log_is_refused() {
    let Some(server) = server() else { return };
    let config = config(server.url(), "old");
    let old = World::new(1).await;
    let spans = old.fill(1, 0, 3).await;
    let sink = old.start(&config).await;
    until_committed(&old, 1).await;
    sink.finish().await;
    let new = World::new(1).await;
    new.fill(1, 5, 3).await;
    let sink = new.start(&config).await;
    until("the alarm", || async { sink.metric("infertrace_clickhouse_spans_halted_partitions") > 0.0 }).await;
    sink.kill().await;
    assert_holds(&client(&server), "old", spans).await;
}
