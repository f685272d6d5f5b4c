//! Latencies, counted from the intended send time: a late send counts as latency, so stalls are not hidden.

/// All latencies of a run, in microseconds: four bytes a request, so percentiles are exact.
#[derive(Clone, Debug, Default)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// Adds one.
    pub fn add(&mut self, latency: std::time::Duration) {
        self.0.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    /// Adds another's.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latency in milliseconds that the share `quantile` (0–1) of all stay at or below; 0 when there are none.
    pub fn quantile_ms(&mut self, quantile: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        let rank = ((self.0.len() as f64 * quantile).ceil() as usize).clamp(1, self.0.len()) - 1;
        let (_, value, _) = self.0.select_nth_unstable(rank);
        f64::from(*value) / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: 1 to 100 ms. Guarantee: exact percentiles.
    #[test]
    fn quantiles_are_exact() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.quantile_ms(0.5), 0.0);
        (1..=100).rev().for_each(|ms| latencies.add(std::time::Duration::from_millis(ms)));
        assert_eq!((latencies.quantile_ms(0.5), latencies.quantile_ms(0.99)), (50.0, 99.0));
    }
}
