//! What a device costs, by what its readings say of it.

use std::sync::Arc;

use hashbrown::HashMap;
use infertrace_analytics::{
    cost::{DeviceFacts, Pricer},
    rollup::{Cell, Counter, Measure, Millis, window_of},
};

use super::record::{Reading, SampleBatch};
use crate::rollup::KeyIds;

/// Labels with the instance type of a device's host, its region, the device's product name and its MIG profile.
const INSTANCE_LABELS: &[&str] = &["host.type", "node.kubernetes.io/instance-type", "instance_type"];
const REGION_LABELS: &[&str] = &["cloud.region", "topology.kubernetes.io/region", "region"];
const NAME_LABELS: &[&str] = &["hw.name", "hw.model", "gpu.name", "modelName", "gpu_name"];
const MIG_LABELS: &[&str] = &["gpu.mig_profile", "GPU_I_PROFILE"];

/// The price of one device in one window.
#[derive(Clone, Copy, Debug)]
struct Price {
    key: KeyIds,
    at_ms: Millis,
    nano_usd_per_hour: u64,
    is_exact: bool,
}

/// Prices of the devices of one record, each once a window.
#[derive(Debug, Default)]
pub(super) struct Prices {
    pricer: Option<Arc<Pricer>>,
    /// By hash of tenant and device, and window; `None` where there is no price.
    found: HashMap<(u64, Millis), Option<Price>, ahash::RandomState>,
}

impl Prices {
    pub(super) fn new(pricer: Arc<Pricer>) -> Self {
        Self { pricer: Some(pricer), found: HashMap::default() }
    }

    /// Notes the price of the device that a reading is about.
    pub(super) fn note(&mut self, batch: &SampleBatch<'_>, reading: &Reading<'_>, key: KeyIds, device: u64) {
        let Some(pricer) = &self.pricer else { return };
        let at_ms = reading.time_ns.div_euclid(1_000_000);
        self.found.entry((device, window_of(at_ms))).or_insert_with(|| {
            let rate = pricer.rate(
                &DeviceFacts {
                    region: batch.label(reading, REGION_LABELS),
                    instance_type: batch.label(reading, INSTANCE_LABELS),
                    gpu_name: batch.label(reading, NAME_LABELS),
                    mig_profile: batch.label(reading, MIG_LABELS),
                },
                at_ms,
            )?;
            let nano_usd_per_hour = rate.nano_usd_per_share_hour();
            Some(Price { key, at_ms, nano_usd_per_hour, is_exact: rate.is_exact })
        });
    }

    /// Hands out what was noted, and forgets it.
    pub(super) fn drain(&mut self, mut count: impl FnMut(KeyIds, Millis, &dyn Fn(&mut Cell))) {
        let Some(pricer) = &self.pricer else { return };
        for price in self.found.drain().filter_map(|(_, price)| price) {
            count(price.key, price.at_ms, &|cell| {
                cell.measure(Measure::DevicePriceNanoUsd, price.nano_usd_per_hour);
                cell.count(Counter::EstimatedPrices, u64::from(!price.is_exact));
                cell.note_prices(pricer.version());
            });
        }
    }
}
