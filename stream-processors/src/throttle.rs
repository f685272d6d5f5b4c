//! NVML's clocks event reasons: which of them mean that heat or power holds a GPU back.

/// NVML `nvmlClocksEventReason*`: software power cap, hardware slowdown, software thermal slowdown, hardware thermal
/// slowdown, hardware power brake. Idle (0x1), application clocks (0x2), sync boost (0x10) and the display's
/// clock setting (0x100) are no throttling.
const HELD_BACK: u64 = 0x4 | 0x8 | 0x20 | 0x40 | 0x80;

/// 1,000 for a mask with such a reason, else 0: the mean of many is the share of time held back.
pub(crate) const fn throttled_permille(reasons: u64) -> u64 {
    if reasons & HELD_BACK == 0 { 0 } else { 1_000 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: each bit alone. Guarantee: only heat and power count.
    #[test]
    fn only_heat_and_power_count() {
        let counted: Vec<u32> = (0..64).filter(|bit| throttled_permille(1 << bit) == 1_000).collect();
        assert_eq!(counted, [2, 3, 5, 6, 7]);
        assert_eq!(throttled_permille(0), 0);
        assert_eq!(throttled_permille(0x1 | 0x40), 1_000);
    }
}
