//! What the tests start over: spans laid out hot, in a lake, or across both.

use std::sync::Arc;

use infertrace_tests::clickhouse::ClickHouse;
use object_store::{ObjectStore, memory::InMemory};
use serde_json::Value as Json;

use crate::common::{
    NOW_NS, Server, Setup, lake,
    log::MemoryLog,
    spans::{self, TestSpan},
    warm,
};

pub(crate) const PARTITIONS: u32 = 3;
pub(crate) const NOW_MS: i64 = NOW_NS / 1_000_000;

/// Where the spans of a test lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    Hot,
    Lake,
    /// The lake has the older three quarters, the log and the hot tier the newer three.
    Both,
    /// ClickHouse alone.
    Warm,
    /// The lake has the older half, ClickHouse the middle two quarters, the hot tier the newer half.
    Three,
}

/// Those that can be had here: without a ClickHouse, those without one.
pub(crate) fn placements() -> Vec<Placement> {
    use Placement::{Both, Hot, Lake, Three, Warm};
    if ClickHouse::is_installed() { vec![Hot, Lake, Both, Warm, Three] } else { vec![Hot, Lake, Both] }
}

/// Records of two traces each, one list a partition; a trace stays in its partition.
pub(crate) fn records(all: &[TestSpan]) -> Vec<Vec<Vec<u8>>> {
    let mut by_partition: Vec<Vec<Vec<TestSpan>>> = vec![Vec::new(); PARTITIONS as usize];
    for chunk in all.chunks(6) {
        // A chunk cuts traces in two, so that a trace lies in several records.
        for partition in 0..u64::from(PARTITIONS) {
            let share: Vec<TestSpan> = chunk
                .iter()
                .filter(|span| span.trace % u64::from(PARTITIONS) == partition)
                .cloned()
                .collect();
            if !share.is_empty() {
                by_partition[partition as usize].push(share);
            }
        }
    }
    by_partition.iter().map(|shares| shares.iter().map(|share| spans::record(share)).collect()).collect()
}

pub(crate) async fn write_lake(
    store: &Arc<dyn ObjectStore>,
    records: &[Vec<Vec<u8>>],
    share: impl Fn(usize) -> usize,
) {
    for (partition, records) in records.iter().enumerate() {
        let until = share(records.len());
        let mut start = 0;
        while start < until {
            let end = (start + 5).min(until);
            lake::write_range(
                store,
                partition as u32,
                start as u64,
                &records[start..end],
                lake::Layout::default(),
            )
            .await;
            start = end;
        }
    }
}

pub(crate) async fn start(all: &[TestSpan], placement: Placement) -> Server {
    let records = records(all);
    let mut setup = Setup::default();
    let has_warm = matches!(placement, Placement::Warm | Placement::Three);
    if placement != Placement::Lake {
        let log = MemoryLog::new(PARTITIONS);
        for (partition, records) in records.iter().enumerate() {
            for (index, record) in records.iter().enumerate() {
                // Older than the window where another tier has it.
                let is_old = match placement {
                    Placement::Hot | Placement::Lake => false,
                    Placement::Both => index < records.len() / 4,
                    Placement::Warm => true,
                    Placement::Three => index < records.len() / 2,
                };
                let age_ms = if is_old { 3_600_000 } else { 60_000 };
                log.push(partition as u32, record.clone(), NOW_MS - age_ms);
            }
            if has_warm {
                log.commit(warm::GROUP, partition as u32, warm_share(placement, records.len()) as u64);
            }
        }
        setup.log = Some(log);
    }
    if matches!(placement, Placement::Lake | Placement::Both | Placement::Three) {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let share = |count: usize| match placement {
            Placement::Both => count * 3 / 4,
            Placement::Three => count / 2,
            _ => count,
        };
        write_lake(&store, &records, share).await;
        setup.store = Some(store);
    }
    let mut clickhouse = None;
    if has_warm {
        let server = warm::server().await.expect("asked for where it is installed");
        warm::fill(&server.url(), &records, |count| warm_share(placement, count)).await;
        if placement == Placement::Three {
            // As if the sink had begun later.
            for (partition, records) in records.iter().enumerate() {
                let sql = format!(
                    "ALTER TABLE {}.spans DELETE WHERE _partition = {partition} AND _offset < {} SETTINGS mutations_sync = 2",
                    warm::DATABASE,
                    records.len() / 4
                );
                warm::client(&server.url()).statement(&sql).await.unwrap();
            }
        }
        setup.warm = Some(warm::source(&server.url()));
        clickhouse = Some(server);
    }
    let mut server = setup.start().await;
    server.clickhouse = clickhouse;
    server
}

/// Records of a partition that ClickHouse has.
fn warm_share(placement: Placement, records: usize) -> usize {
    if placement == Placement::Three { records * 3 / 4 } else { records }
}

pub(crate) fn span_ids(trace: &Json) -> Vec<String> {
    trace["spans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|span| span["span_id"].as_str().unwrap().to_owned())
        .collect()
}

pub(crate) fn listed(page: &Json) -> Vec<String> {
    page["traces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|trace| trace["trace_id"].as_str().unwrap().to_owned())
        .collect()
}
