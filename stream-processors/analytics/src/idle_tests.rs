//! Idle cost through the analyst, as it is told.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    analyst::Analyst,
    config::AnalystConfig,
    cost::price_of_time,
    output::Output,
    rollup::{Cell, Counter, Exemplars, Key, Measure, Millis, Partial, WINDOW_MS},
    testing::START,
};

/// What happens on one device in one window.
#[derive(Clone, Debug)]
struct Slot {
    reports: bool,
    /// What requests of two tenants are charged, shares of the window's price in thousandths.
    charged: [u64; 2],
    /// By how many windows what the second tenant is charged comes late.
    late: i64,
}

const PRICE: u64 = 6_880_000_001;

fn partial(window_ms: Millis, seen_ms: Millis, tenant: &str, device: &str, cell: Cell) -> Partial {
    let key = Key { tenant: tenant.into(), device: device.into(), ..Key::default() };
    Partial { window_ms, seen_window_ms: seen_ms, key, cell, exemplars: Exemplars::default() }
}

/// Sums of device, charged and idle cost by length of window, of each window's last revision.
fn told(slots: &[Slot]) -> BTreeMap<Millis, [u64; 3]> {
    let mut analyst = Analyst::new(AnalystConfig::default());
    let mut out = Vec::new();
    let mut waiting: Vec<(i64, Partial)> = Vec::new();
    // Some windows more, so that every minute is over and everything late has come.
    for index in 0..slots.len() as i64 + 18 {
        let window_ms = START + index * WINDOW_MS;
        if let Some(slot) = slots.get(index as usize) {
            if slot.reports {
                let mut cell = Cell::default();
                cell.measure(Measure::DevicePriceNanoUsd, PRICE);
                cell.measure(Measure::DevicePriceNanoUsd, PRICE);
                analyst.partial(7, partial(window_ms, window_ms, "", "GPU-1", cell));
            }
            for (number, tenant) in ["a", "b"].into_iter().enumerate() {
                let mut cell = Cell::default();
                let price = price_of_time(window_ms, window_ms + WINDOW_MS, PRICE);
                cell.count(Counter::ChargedNanoUsd, price * slot.charged[number] / 1_000);
                let late = slot.late * number as i64;
                waiting.push((index + late, partial(window_ms, window_ms, tenant, "GPU-1", cell)));
            }
        }
        for (_, mut one) in waiting.extract_if(.., |(at, _)| *at <= index) {
            one.seen_window_ms = window_ms;
            analyst.partial(0, one);
        }
        analyst.watermark(0, window_ms + WINDOW_MS + 1_500, &mut out);
    }
    let mut last: BTreeMap<(Millis, Millis, Key), Cell> = BTreeMap::new();
    for output in out {
        if let Output::Rollup(rollup) = output {
            last.insert((rollup.length_ms, rollup.window_ms, rollup.key), rollup.cell);
        }
    }
    let mut sums: BTreeMap<Millis, [u64; 3]> = BTreeMap::new();
    for ((length_ms, _, _), cell) in last {
        let counters = [Counter::DeviceNanoUsd, Counter::ChargedNanoUsd, Counter::IdleNanoUsd];
        for (sum, counter) in sums.entry(length_ms).or_default().iter_mut().zip(counters) {
            *sum += cell.get(counter);
        }
    }
    sums
}

fn slots() -> impl Strategy<Value = Vec<Slot>> {
    let slot = (prop::bool::weighted(0.6), 0u64..=500, 0u64..=500, 0i64..4)
        .prop_map(|(reports, a, b, late)| Slot { reports, charged: [a, b], late });
    prop::collection::vec(slot, 12..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Scenario: a device that reports itself in most windows, with silences of up to a minute; requests of two tenants
    /// on it that claim no more than there is, some told late. Guarantee: by 10 s and by minute, what is charged and
    /// what is idle add up to device-hours × price, to the billionth of a dollar.
    #[test]
    fn charges_and_idle_are_the_device_hours(mut slots in slots()) {
        let count = slots.len();
        // No silence is longer than a minute, and the first and last window are known.
        let mut silent = 0;
        for (index, slot) in slots.iter_mut().enumerate() {
            silent = if slot.reports { 0 } else { silent + 1 };
            if silent > 6 || index == 0 || index + 1 == count {
                (slot.reports, silent) = (true, 0);
            }
        }
        let price = price_of_time(START, START + count as Millis * WINDOW_MS, PRICE);
        let sums = told(&slots);
        prop_assert!(sums.contains_key(&60_000));
        for (length_ms, [device, charged, idle]) in sums {
            prop_assert_eq!(device, price, "of {} ms", length_ms);
            prop_assert_eq!(charged + idle, price, "of {} ms", length_ms);
        }
    }
}

/// Scenario: a device that is silent for longer than a minute; one that never reports; one whose requests claim more
/// than there is. Guarantee: the silence is not priced, nor is what nobody reports; nothing is idle below zero.
#[test]
fn silence_is_not_priced() {
    let slot = |reports, share| Slot { reports, charged: [share, 0], late: 0 };
    let tenth = |count| price_of_time(START, START + count * WINDOW_MS, PRICE);
    let mut slots = vec![slot(true, 0)];
    slots.extend(vec![slot(false, 0); 7]);
    slots.push(slot(true, 0));
    let [device, charged, idle] = told(&slots)[&WINDOW_MS];
    assert!(device.abs_diff(2 * tenth(1)) <= 1 && charged == 0 && idle == device);
    let never = vec![slot(false, 400); 6];
    let [device, charged, idle] = told(&never)[&WINDOW_MS];
    assert!(device == 0 && charged > 0 && idle == 0);
    let [device, charged, idle] = told(&[slot(true, 3_000)])[&WINDOW_MS];
    assert!(charged > device && idle == 0);
}
