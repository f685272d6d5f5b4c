//! The embedded log's counters as metrics.

use std::sync::{Arc, Weak};

use infertrace_runtime::log::embedded::{EmbeddedLog, Stats};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};

/// Reads the log's counters whenever metrics are asked for.
#[derive(Debug)]
struct LogCollector(Weak<EmbeddedLog>);

/// Registers the counters of `log`; it is not kept alive.
pub(crate) fn register(log: &Arc<EmbeddedLog>, metrics: &mut Registry) {
    metrics.register_collector(Box::new(LogCollector(Arc::downgrade(log))));
}

impl Collector for LogCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(log) = self.0.upgrade() else { return Ok(()) };
        let Stats {
            records,
            bytes,
            written_bytes,
            fsyncs,
            append_seconds,
            queue_bytes,
            segments,
            disk_bytes,
            ..
        } = log.stats();
        let counters = [
            ("embedded_log_records", "Records appended and acknowledged", records),
            ("embedded_log_bytes", "Bytes of them, before compression", bytes),
            ("embedded_log_written_bytes", "Bytes written to the journal", written_bytes),
            ("embedded_log_fsyncs", "Calls of fdatasync", fsyncs),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value);
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let waited = ConstCounter::new(append_seconds);
        let help = "Seconds from taking a record to its acknowledgement, summed";
        waited.encode(encoder.encode_descriptor(
            "embedded_log_append_seconds",
            help,
            None,
            waited.metric_type(),
        )?)?;
        let gauges = [
            ("embedded_log_queue_bytes", "Bytes accepted and not yet acknowledged", queue_bytes),
            ("embedded_log_segments", "Segment files", segments),
            ("embedded_log_disk_bytes", "Bytes of the segment files", disk_bytes),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        Ok(())
    }
}
