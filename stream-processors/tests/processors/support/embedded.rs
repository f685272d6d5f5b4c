//! The embedded log as tests want it: nothing synced, all topics there.

use std::{path::Path, sync::Arc};

use infertrace_runtime::log::{
    Log as _, NextOffset, TopicPartition, TopicSpec,
    embedded::{Config, EmbeddedLog, Fsync},
};
use infertrace_schemas::topics;

/// Opens a log of many segments in `dir`.
pub(crate) fn open(dir: &Path) -> Arc<EmbeddedLog> {
    let config = Config {
        dir: dir.to_owned(),
        preallocate: false,
        fsync: Fsync::Never,
        segment_bytes: 64 << 20,
        ..Config::default()
    };
    EmbeddedLog::open(config).expect("opens")
}

/// Creates every topic, those of the input with so many partitions.
pub(crate) async fn create_topics(log: &EmbeddedLog, partitions: u32) {
    let spec = |topic: topics::Topic| TopicSpec {
        name: topic.name.into(),
        partitions: topic.partitions,
        // Records of a past time must not expire while the test runs.
        retention: None,
        compacted: topic.compacted,
        replication: 1,
    };
    let specs: Vec<TopicSpec> = topics::all(partitions).into_iter().map(spec).collect();
    log.create_topics(&specs).await.expect("created");
}

/// Ends of every live topic, and positions of live groups.
pub(crate) async fn live_state(log: &EmbeddedLog, partitions: u32) -> Vec<(String, u64, Option<NextOffset>)> {
    let mut state = Vec::new();
    for topic in topics::all(partitions) {
        for partition in 0..topic.partitions {
            let at = TopicPartition::new(topic.name, partition);
            let end = log.watermarks(&at).await.expect("there").high.0;
            for group in
                ["infertrace-processor", "infertrace-samples", "infertrace-insights", "infertrace-unassigned"]
            {
                state.push((format!("{group} {at}"), end, log.committed(group, &at).await.expect("asked")));
            }
        }
    }
    state
}
