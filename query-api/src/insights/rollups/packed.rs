//! Sketches as they are held.

use std::sync::Arc;

use infertrace_analytics::sketch::{ACCURACY, Sketch};
use infertrace_schemas::avro::Sketch as AvroSketch;

use super::UnusableRollup;

/// Bins a sketch may span, and how far they may lie from 0; a record that claims more is not one of ours.
pub(super) const MOST_BINS: usize = 16_384;
/// Values a sketch may count: sums of many stay far from overflow.
const MOST_VALUES: i64 = 1 << 48;

/// A sketch as bytes: gap to the next occupied bin and its count, both LEB128. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    zeros: u64,
    sum: u64,
    min: u64,
    max: u64,
    first: i32,
    bins: Arc<[u8]>,
}

fn put(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    let mut shift = 0;
    loop {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
        shift += 7;
    }
}

impl Packed {
    /// Bytes of its bins.
    pub(super) fn bins_len(&self) -> usize {
        self.bins.len()
    }

    pub(super) fn new(sketch: &AvroSketch) -> Result<Self, UnusableRollup> {
        let same = (sketch.relative_accuracy - ACCURACY).abs() <= 1e-9;
        if !same {
            let (metric, accuracy) = (sketch.metric.clone(), sketch.relative_accuracy);
            return Err(UnusableRollup::Accuracy { metric, accuracy });
        }
        let counts = || sketch.bin_counts.iter().chain([&sketch.zero_count]);
        let impossible = sketch.bin_counts.len() > MOST_BINS
            || sketch.first_bin.unsigned_abs() as usize > MOST_BINS
            || counts().any(|count| *count < 0)
            || counts().fold(0i64, |all, count| all.saturating_add(*count)) > MOST_VALUES;
        if impossible {
            return Err(UnusableRollup::Bins(sketch.metric.clone()));
        }
        let mut bins = Vec::new();
        let mut gap = 0;
        for &count in &sketch.bin_counts {
            if count == 0 {
                gap += 1;
                continue;
            }
            put(gap, &mut bins);
            put(count as u64, &mut bins);
            gap = 0;
        }
        // A cast from a floating-point number saturates; values are whole numbers of the metric's unit.
        Ok(Self {
            zeros: sketch.zero_count as u64,
            sum: sketch.sum as u64,
            min: sketch.min as u64,
            max: sketch.max as u64,
            first: sketch.first_bin,
            bins: bins.into(),
        })
    }

    /// Number of values.
    pub(crate) fn count(&self) -> u64 {
        let mut count = self.zeros;
        let mut packed = &self.bins[..];
        while let (Some(_), Some(times)) = (take(&mut packed), take(&mut packed)) {
            count = count.saturating_add(times);
        }
        count
    }

    /// Their sum.
    pub(crate) const fn sum(&self) -> u64 {
        self.sum
    }

    /// As it was.
    pub(crate) fn unpack(&self) -> Sketch {
        let mut bins = Vec::new();
        let mut packed = &self.bins[..];
        while let (Some(gap), Some(count)) = (take(&mut packed), take(&mut packed)) {
            bins.resize(bins.len() + gap as usize, 0);
            bins.push(count);
        }
        Sketch::from_parts(self.zeros, self.sum, self.min, self.max, self.first, bins)
    }
}
