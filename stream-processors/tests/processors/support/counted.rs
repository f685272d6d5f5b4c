//! What is in the partials topic.

use std::collections::BTreeMap;

use infertrace_analytics::rollup::{Cell, Counter, Exemplars, Key, Shape};
use infertrace_processors::partials;
use infertrace_schemas::topics;

use super::FakeLog;

/// What the second stage makes of the partials: source, window, window in which it is seen, key.
pub(crate) type Rolled = BTreeMap<(u32, i64, i64, Key), (Cell, Exemplars)>;

pub(crate) fn rolled(log: &FakeLog) -> Rolled {
    let mut merged = Rolled::new();
    for record in log.records(topics::PARTIALS) {
        let batch = partials::decode(record.payload.as_deref().expect("a batch")).expect("own batch");
        for partial in batch.partials {
            let at = (batch.source, partial.window_ms, partial.seen_window_ms, partial.key);
            let (cell, exemplars) = merged.entry(at).or_default();
            cell.merge(&partial.cell);
            exemplars.merge(&partial.exemplars);
        }
    }
    merged
}

/// The watermarks that the second stage is told of a source, in order.
pub(crate) fn marks(log: &FakeLog, source: u32) -> Vec<i64> {
    let batches = log
        .records(topics::PARTIALS)
        .into_iter()
        .map(|record| partials::decode(record.payload.as_deref().expect("a batch")).expect("own batch"));
    batches.filter(|batch| batch.source == source).filter_map(|batch| batch.watermark_ms).collect()
}

pub(crate) fn sum(rolled: &Rolled, shape: Shape, counter: Counter) -> u64 {
    let of_shape = rolled.iter().filter(|((.., key), _)| key.shape() == shape);
    of_shape.map(|(_, (cell, _))| cell.get(counter)).sum()
}
