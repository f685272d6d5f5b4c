//! What devices cost while no request is charged for them.
//!
//! A device that reports itself costs money whether it works or not. Its readings say that it was there, and at which
//! price; what requests on it were charged comes from their spans, of all tenants and models. Neighbours:
//! [`crate::merge`] has the windows. Invariant: over any windows of a device, what is charged and what is idle add
//! up to the price of its time, as long as requests claim no more time than there is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::rollup::{Cell, Counter, Key, Measure, Millis, Shape, WINDOW_MS};

/// A device that reports itself again after so long was there in between: many collectors report once a minute.
/// Not longer than 10 s windows are kept for corrections.
const MOST_SILENCE_MS: Millis = 60_000;

/// Up to when the time of each device is priced.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Devices {
    priced_to_ms: BTreeMap<String, Millis>,
}

/// The price of an hour of a device by its readings, billionths of a US dollar; `None` for any other cell.
pub(crate) fn price_of_hour(key: &Key, cell: &Cell) -> Option<u64> {
    if key.shape() != Shape::Device {
        return None;
    }
    Some(cell.sketch(Measure::DevicePriceNanoUsd)?.max())
}

impl Devices {
    /// The windows of a device that are to be priced when it reported itself in the one that begins at `window_ms`:
    /// that one, and those before in which it was silent for a short time. Each window is named once.
    pub(crate) fn to_price(
        &mut self,
        device: &str,
        window_ms: Millis,
    ) -> impl Iterator<Item = Millis> + use<> {
        let end_ms = window_ms + WINDOW_MS;
        let priced_to_ms = self.priced_to_ms.get(device).copied();
        let from_ms = priced_to_ms.filter(|to_ms| window_ms - to_ms <= MOST_SILENCE_MS).unwrap_or(window_ms);
        if from_ms < end_ms {
            self.priced_to_ms.insert(device.to_owned(), end_ms);
        }
        (0..).map(move |number| from_ms + number * WINDOW_MS).take_while(move |start_ms| *start_ms < end_ms)
    }

    /// Forgets devices that have been silent for too long.
    pub(crate) fn forget(&mut self, now_ms: Millis) {
        self.priced_to_ms.retain(|_, to_ms| now_ms - *to_ms <= 2 * MOST_SILENCE_MS);
    }
}

/// Sets the idle cost of every device among the cells of a window, on the first key that has a price of its time, and
/// names the keys whose figure changed.
pub(crate) fn settle<'c>(cells: impl Iterator<Item = (&'c Key, &'c mut Cell)>) -> Vec<Key> {
    #[derive(Default)]
    struct Device<'c> {
        price: u64,
        charged: u64,
        carrier: Option<(&'c Key, &'c mut Cell)>,
    }
    let mut devices: BTreeMap<&str, Device<'_>> = BTreeMap::new();
    for (key, cell) in cells.filter(|(key, _)| key.shape() == Shape::Device) {
        let device = devices.entry(&key.device).or_default();
        device.price = device.price.saturating_add(cell.get(Counter::DeviceNanoUsd));
        device.charged = device.charged.saturating_add(cell.get(Counter::ChargedNanoUsd));
        if device.carrier.is_none() && cell.get(Counter::DeviceNanoUsd) > 0 {
            device.carrier = Some((key, cell));
        }
    }
    let mut changed = Vec::new();
    for Device { price, charged, carrier } in devices.into_values() {
        let Some((key, cell)) = carrier else { continue };
        let idle = price.saturating_sub(charged);
        if cell.get(Counter::IdleNanoUsd) != idle {
            cell.set(Counter::IdleNanoUsd, idle);
            changed.push(key.clone());
        }
    }
    changed
}

#[cfg(test)]
#[path = "idle_tests.rs"]
mod tests;
