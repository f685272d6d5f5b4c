//! The schema's versions on the real engine.

use infertrace_sinks::clickhouse::{
    Error,
    migrations::{Layout, MIGRATIONS, Plan, Report},
};

use crate::support::*;

fn plan(database: &str, ttl_days: u32) -> Plan {
    Plan { database: database.into(), layout: Layout::Single, ttl_days, rollup_ttl_days: 400 }
}

/// Scenario: a database of each earlier version with a span in it is brought to the latest, twice.
/// Guarantee: what is missing is applied in order, the second time nothing; the span stays.
#[tokio::test(flavor = "multi_thread")]
async fn every_version_is_brought_to_the_latest() {
    let Some(server) = server() else { return };
    let client = client(&server);
    for version in 1..=MIGRATIONS.len() as u32 {
        let database = format!("from_{version}");
        let plan = plan(&database, 30);
        let before = plan.apply(&client, Some(version)).await.expect("applied");
        assert_eq!((before.version, before.applied.len()), (version, version as usize));
        if version < MIGRATIONS.len() as u32 {
            assert!(matches!(plan.check(&client).await, Err(Error::Schema { .. })));
        }
        let insert = format!(
            "INSERT INTO {database}.spans (trace_id, span_id, start_time, service_name) VALUES \
             (unhex('5a000000000000000000000000000001'), unhex('0000000000000001'), now64(9), 'chat')"
        );
        client.statement(&insert).await.expect("inserted");
        let after = plan.apply(&client, None).await.expect("applied");
        assert_eq!(after.version, MIGRATIONS.len() as u32);
        assert_eq!(after.applied.len(), MIGRATIONS.len() - version as usize);
        let again = plan.apply(&client, None).await.expect("applied");
        assert_eq!(again, Report { version: after.version, ..Report::default() });
        plan.check(&client).await.expect("the latest");
        assert_eq!(value(&client, &format!("SELECT service_name FROM {database}.spans")).await, "chat");
    }
}

/// Scenario: other days of retention, then none; a migration noted with another text; a later release's version.
/// Guarantee: TTLs follow the configuration and only they change; the first is refused by name, the second goes on.
#[tokio::test(flavor = "multi_thread")]
async fn retention_follows_and_foreign_schemas_are_refused() {
    let Some(server) = server() else { return };
    let client = client(&server);
    plan("kept", 30).apply(&client, None).await.expect("applied");
    let tables = "SELECT count() FROM system.tables WHERE database = 'kept' AND engine_full LIKE ";
    assert_eq!(value(&client, &format!("{tables} '%toIntervalDay(30)%'")).await, "5");
    let report = plan("kept", 7).apply(&client, None).await.expect("applied");
    assert_eq!((report.applied.len(), report.retained.len()), (0, 5));
    assert_eq!(value(&client, &format!("{tables} '%toIntervalDay(7)%'")).await, "5");
    let report = plan("kept", 0).apply(&client, None).await.expect("applied");
    assert_eq!(report.retained.len(), 5);
    assert_eq!(value(&client, &format!("{tables} '% TTL %'")).await, "2", "rollups and insights keep theirs");

    let note = "INSERT INTO kept.schema_migrations (version, name, checksum, applied_by) VALUES ";
    client.statement(&format!("{note} (99, '0099_later', 'x', 'later')")).await.expect("noted");
    assert_eq!(plan("kept", 0).apply(&client, None).await.expect("goes on").version, 99);
    client.statement(&format!("{note} (1, '0001_spans', 'edited', 'somebody')")).await.expect("noted");
    let error = plan("kept", 0).apply(&client, None).await.expect_err("refused").to_string();
    assert!(error.contains("0001_spans"), "{error}");
}

/// Scenario: the statements for a cluster and for ClickHouse Cloud. Guarantee: the engine's own parser takes them.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_of_clusters_parse() {
    let Some(server) = server() else { return };
    let client = client(&server);
    for layout in [Layout::Cluster("main".into()), Layout::Cloud] {
        for statement in (Plan { layout, ..plan("far", 30) }).script() {
            client.statement(&format!("EXPLAIN AST {statement}")).await.expect("parses");
        }
    }
}
