//! The first stage of GPU and engine samples as plain calls: records in, partials and marks out.
//!
//! The roller is the one that runs live; neighbours as in `stages`. Invariant: what comes out is a function of the
//! records alone, and of the series that an interrupted replay had kept. The first reading of a cumulative series in the
//! range sets its base, as the first one live did; a warm-up brings older ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use infertrace_analytics::{cost::Pricer, rollup::Millis};
use infertrace_runtime::log::Record;

use super::stages::{Counted, Counts, Resumed};
use crate::{
    config::Config,
    partials::sample_source,
    samples::{SampleRoller, SeriesGroup},
};

/// Counts the samples of some partitions.
pub(super) struct SampleStage {
    roller: SampleRoller,
    sources: BTreeSet<u32>,
    counts: Counts,
}

impl SampleStage {
    /// Empty; limits as the processor has them, devices at the prices of `pricer`.
    pub(super) fn new(config: &Config, pricer: Arc<Pricer>) -> Self {
        Self {
            roller: SampleRoller::priced(config.rollup_limits(), config.samples_max_series, pricer),
            sources: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// Takes a source over where it was left, with the series that were kept there.
    pub(super) fn assign(&mut self, source: u32, resumed: Resumed, kept: Vec<SeriesGroup>) {
        self.roller.assign(source, resumed.rolled_to, resumed.watermark_ms, kept);
        self.sources.insert(source);
    }

    /// Takes records of assigned partitions, ascending in each, and appends what is ready.
    pub(super) fn records(&mut self, records: &[Record], out: &mut Vec<Counted>) {
        for record in records {
            let source = sample_source(record.from.partition);
            let payload = record.payload.as_deref().unwrap_or_default();
            self.counts.records += 1;
            match self.roller.record(source, record.offset.0, record.timestamp.0, payload) {
                Ok(taken) => self.counts.readings += taken.readings,
                Err(_) => self.counts.poison += 1,
            }
            if self.roller.wants_flush(source) {
                self.flush(source, out);
            }
        }
    }

    fn flush(&mut self, source: u32, out: &mut Vec<Counted>) {
        let mut partials = Vec::new();
        let Some(mark) = self.roller.flush(source, &mut partials) else { return };
        out.extend(Counted::of(source, mark, partials));
    }

    /// Ends a partition: everything counted comes out.
    pub(super) fn finish(&mut self, source: u32, to_ms: Millis, out: &mut Vec<Counted>) {
        self.roller.advance(source, to_ms);
        self.flush(source, out);
    }

    /// Flushes everything counted and says where each source would go on, with which series.
    pub(super) fn checkpoint(
        &mut self,
        out: &mut Vec<Counted>,
    ) -> (BTreeMap<u32, Resumed>, BTreeMap<u32, Vec<SeriesGroup>>) {
        let (mut resumed, mut series) = (BTreeMap::new(), BTreeMap::new());
        for source in self.sources.clone() {
            self.flush(source, out);
            if let Some(rolled_to) = self.roller.rolled_to(source) {
                let watermark_ms = self.roller.watermark_ms(source);
                resumed.insert(source, Resumed { rolled_to, watermark_ms });
                series.insert(source, self.roller.all_series(source));
            }
        }
        (resumed, series)
    }

    /// How much was read so far.
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }
}
