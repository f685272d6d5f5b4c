//! Integer arithmetic of money and time: rounded once, distributed without a remainder.

use crate::rollup::Millis;

/// Billionths in a dollar.
pub const NANOS_PER_USD: u64 = 1_000_000_000;
/// Microseconds in an hour.
pub(super) const MICROS_PER_HOUR: u128 = 3_600_000_000;

/// A share of a device, such as a MIG instance: `part` of `whole`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Share {
    part: u32,
    whole: u32,
}

impl Share {
    /// All of it.
    pub const ALL: Self = Self { part: 1, whole: 1 };

    /// `part` of `whole`; `None` unless 0 < part ≤ whole.
    #[must_use]
    pub const fn new(part: u32, whole: u32) -> Option<Self> {
        if part == 0 || part > whole { None } else { Some(Self { part, whole }) }
    }

    /// The share of a GPU's compute that a MIG profile such as `2g.20gb` stands for; all of it for no profile and
    /// for one that is not understood.
    ///
    /// A GPU has seven compute slices; an A30, whose slices have 6 GB each, has four (NVIDIA Multi-Instance GPU
    /// User Guide, "Supported MIG Profiles").
    #[must_use]
    pub fn of_mig(profile: &str) -> Self {
        let parsed = || {
            let profile = profile.rsplit(' ').next()?;
            let (slices, memory) = profile.split_once("g.")?;
            let slices: u32 = slices.parse().ok()?;
            let gigabytes: u32 = memory.split_once("gb")?.0.parse().ok()?;
            let whole = if gigabytes == slices * 6 { 4 } else { 7 };
            Self::new(slices, whole)
        };
        parsed().unwrap_or(Self::ALL)
    }
}

/// `value × by ÷ of`, rounded half up.
pub(super) const fn scaled(value: u128, by: u128, of: u128) -> u128 {
    (value * by + of / 2) / of
}

/// Saturating cast.
pub(super) const fn narrow(value: u128) -> u64 {
    if value > u64::MAX as u128 { u64::MAX } else { value as u64 }
}

/// The price of `micros` of a share of a device at `nano_usd_per_hour`, rounded half up.
pub(super) const fn price_of(micros: u64, nano_usd_per_hour: u64, share: Share) -> u64 {
    let nanos = nano_usd_per_hour as u128 * share.part as u128;
    narrow(scaled(micros as u128, nanos, MICROS_PER_HOUR * share.whole as u128))
}

/// The price of the time from `from` to `to` (microseconds since the epoch) as the difference of two rounded
/// totals since the epoch: windows that follow one another add up to the price of them all, to the unit.
pub(super) fn price_between(from: i64, to: i64, nano_usd_per_hour: u64, share: Share) -> u64 {
    let nanos = u128::from(nano_usd_per_hour) * u128::from(share.part);
    let since_epoch =
        |at: i64| u128::from(at.max(0) as u64) * nanos / (MICROS_PER_HOUR * u128::from(share.whole));
    narrow(since_epoch(to).saturating_sub(since_epoch(from)))
}

/// The price of the time from `from_ms` to `to_ms` at so many billionths of a US dollar an hour: stretches that follow one
/// another add up to the price of them all, to the billionth.
#[must_use]
pub fn price_of_time(from_ms: Millis, to_ms: Millis, nano_usd_per_hour: u64) -> u64 {
    price_between(from_ms.saturating_mul(1_000), to_ms.saturating_mul(1_000), nano_usd_per_hour, Share::ALL)
}

/// Divides `total` in proportion to `weights`, in whole units that add up to `total`: the largest remainders get
/// what rounding down left over (Hamilton's method), the earlier one of equals first.
///
/// Without any weight nothing is given out.
pub(super) fn distribute(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let product = |weight: u64| u128::from(total) * u128::from(weight);
    let mut parts: Vec<u64> = weights.iter().map(|&weight| narrow(product(weight) / sum)).collect();
    let given: u64 = parts.iter().sum();
    let mut left = (total - given) as usize;
    if left > 0 {
        let mut order: Vec<usize> = (0..weights.len()).collect();
        order.sort_by_key(|&index| (std::cmp::Reverse(product(weights[index]) % sum), index));
        for index in order {
            if left == 0 {
                break;
            }
            parts[index] += 1;
            left -= 1;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Scenario: any total and weights. Guarantee: the parts add up to the total, and each is within one unit of
        /// its exact share.
        #[test]
        fn nothing_is_lost_in_rounding(total: u64, weights in prop::collection::vec(0u64..1 << 40, 1..40)) {
            let parts = distribute(total, &weights);
            let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
            if sum == 0 {
                prop_assert!(parts.iter().all(|&part| part == 0));
                return Ok(());
            }
            prop_assert_eq!(parts.iter().map(|&part| u128::from(part)).sum::<u128>(), u128::from(total));
            for (part, weight) in parts.iter().zip(&weights) {
                let floor = u128::from(total) * u128::from(*weight) / sum;
                prop_assert!((floor..=floor + 1).contains(&u128::from(*part)));
            }
        }

        /// Scenario: any cut of any stretch of time. Guarantee: the parts cost what the whole costs.
        #[test]
        fn windows_add_up(from in 0i64..2_000_000_000_000_000, lengths in prop::collection::vec(1i64..100_000_000, 1..30), price in 0u64..20_000_000_000) {
            let mut at = from;
            let mut sum = 0;
            for length in &lengths {
                sum += price_between(at, at + length, price, Share::ALL);
                at += length;
            }
            prop_assert_eq!(sum, price_between(from, at, price, Share::ALL));
        }
    }

    /// Scenario: MIG profiles as NVML and `nvidia-smi` write them. Guarantee: their share of the compute slices.
    #[test]
    fn mig_profiles_are_shares() {
        assert_eq!(Share::of_mig("1g.10gb"), Share { part: 1, whole: 7 });
        assert_eq!(Share::of_mig("MIG 3g.40gb"), Share { part: 3, whole: 7 });
        assert_eq!(Share::of_mig("1g.5gb+me"), Share { part: 1, whole: 7 });
        assert_eq!(Share::of_mig("2g.12gb"), Share { part: 2, whole: 4 });
        for whole in ["", "7g", "g.", "0g.10gb", "9g.80gb"] {
            assert_eq!(Share::of_mig(whole), Share::ALL, "{whole}");
        }
    }
}
