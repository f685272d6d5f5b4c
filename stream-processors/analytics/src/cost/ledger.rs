//! Divides the price of a device's window among the requests that ran on it; what is left is idle cost.
//!
//! Invariant: for every device and window the requests' costs and the idle cost add up to the price of the window,
//! to the billionth of a dollar, and windows that follow one another add up to the price of all of them.

use std::collections::BTreeMap;

use super::{
    CostKind, Rate,
    exact::{distribute, narrow, price_between, scaled},
};
use crate::rollup::Millis;

/// GPU time of one request on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<R> {
    /// Which request.
    pub request: R,
    /// Its share of the device's busy time, microseconds: a step of n requests counts 1/n.
    pub gpu_micros: u64,
    /// Whether the shares were recorded or derived from a mean.
    pub kind: CostKind,
}

/// What a request is charged in one window of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charge<R> {
    /// Which request.
    pub request: R,
    /// GPU time charged.
    pub gpu_micros: u64,
    /// Cost.
    pub nano_usd: u64,
    /// Measured or estimated.
    pub kind: CostKind,
}

/// How the price of a device's window is divided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement<R> {
    /// Price of the whole window.
    pub window_nano_usd: u64,
    /// A charge for every claim, in the order of requests.
    pub charges: Vec<Charge<R>>,
    /// Time nobody was charged for.
    pub idle_micros: u64,
    /// Price of that time.
    pub idle_nano_usd: u64,
    /// Whether claims exceeded the window and were scaled down, which makes them estimates.
    pub is_scaled: bool,
}

/// The claims of one device in one window.
///
/// Claims of one request are added up, so what is charged does not depend on the order they come in.
#[derive(Clone, Debug)]
pub struct DeviceLedger<R> {
    start_micros: i64,
    length_micros: u64,
    claims: BTreeMap<R, (u64, CostKind)>,
}

impl<R: Ord + Copy> DeviceLedger<R> {
    /// The ledger of the window that begins at `start_ms`.
    #[must_use]
    pub const fn new(start_ms: Millis, length_ms: u32) -> Self {
        Self {
            start_micros: start_ms.saturating_mul(1_000),
            length_micros: length_ms as u64 * 1_000,
            claims: BTreeMap::new(),
        }
    }

    /// Adds GPU time of a request.
    pub fn claim(&mut self, claim: Claim<R>) {
        let (micros, kind) = self.claims.entry(claim.request).or_insert((0, CostKind::Measured));
        *micros = micros.saturating_add(claim.gpu_micros);
        *kind = kind.and(claim.kind);
    }

    /// Bytes held, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.claims.len() * (size_of::<R>() + size_of::<(u64, CostKind)>() + 8)
    }

    /// Divides the price of the window.
    #[must_use]
    pub fn settle(&self, rate: &Rate) -> Settlement<R> {
        let end_micros = self.start_micros.saturating_add_unsigned(self.length_micros);
        let window_nano_usd =
            price_between(self.start_micros, end_micros, rate.nano_usd_per_hour, rate.share);
        let claimed: Vec<u64> = self.claims.values().map(|(micros, _)| *micros).collect();
        let sum: u128 = claimed.iter().map(|&micros| u128::from(micros)).sum();
        let is_scaled = sum > u128::from(self.length_micros);
        let mut micros = if is_scaled { distribute(self.length_micros, &claimed) } else { claimed };
        let busy_micros: u64 = micros.iter().sum();
        let idle_micros = self.length_micros - busy_micros;

        // Idle time takes part as the last claim, so that requests and idle time add up.
        micros.push(idle_micros);
        let mut nano_usd = distribute(window_nano_usd, &micros);
        let idle_nano_usd = nano_usd.pop().unwrap_or(window_nano_usd);
        let is_exact = !is_scaled && rate.is_exact;
        let charges =
            self.claims.iter().zip(micros).zip(nano_usd).map(|(((request, claim), micros), nano_usd)| {
                Charge {
                    request: *request,
                    gpu_micros: micros,
                    nano_usd,
                    kind: claim.1.and(CostKind::measured_if(is_exact)),
                }
            });
        Settlement { window_nano_usd, charges: charges.collect(), idle_micros, idle_nano_usd, is_scaled }
    }
}

impl Rate {
    /// The price of the part of a window (start and length in milliseconds) in which a device did nothing, where only
    /// its busy time is known.
    #[must_use]
    pub fn idle_nano_usd(&self, start_ms: Millis, length_ms: u32, busy_micros: u64) -> u64 {
        let length_micros = u64::from(length_ms) * 1_000;
        let start_micros = start_ms.saturating_mul(1_000);
        let end_micros = start_micros.saturating_add_unsigned(length_micros);
        let price = price_between(start_micros, end_micros, self.nano_usd_per_hour, self.share);
        let busy = busy_micros.min(length_micros);
        let charged = scaled(u128::from(price), u128::from(busy), u128::from(length_micros.max(1)));
        price.saturating_sub(narrow(charged))
    }
}

/// Windows that one request is divided over at most.
const MAX_WINDOWS: i64 = 4_096;

/// Divides GPU time between the windows that a request ran in, in proportion to its time in each; whole
/// microseconds that add up to `gpu_micros`. A request without length belongs to the window of its start; one longer
/// than 4,096 windows counts in the last of them only.
///
/// Pairs of a window's start and the part, in order of time.
#[must_use]
pub fn split_claim(
    start_micros: i64,
    end_micros: i64,
    gpu_micros: u64,
    window_ms: u32,
) -> Vec<(Millis, u64)> {
    let length = i64::from(window_ms.max(1)) * 1_000;
    let start_micros = start_micros.max(end_micros.saturating_sub(MAX_WINDOWS * length));
    let mut windows = Vec::new();
    let mut overlaps = Vec::new();
    let mut at = start_micros.saturating_sub(start_micros.rem_euclid(length));
    while at < end_micros.max(start_micros.saturating_add(1)) {
        let next = at.saturating_add(length);
        let overlap = next.min(end_micros).saturating_sub(at.max(start_micros));
        windows.push(at.div_euclid(1_000));
        overlaps.push(overlap.max(0) as u64);
        at = next;
    }
    if overlaps.iter().all(|&overlap| overlap == 0)
        && let Some(first) = overlaps.first_mut()
    {
        *first = 1;
    }
    windows.into_iter().zip(distribute(gpu_micros, &overlaps)).collect()
}
