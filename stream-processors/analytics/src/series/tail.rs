//! How rare a surprise is, from the tail of the surprises before it.

use serde::{Deserialize, Serialize};

use super::config::SeriesConfig;

/// Peaks that a tail needs at least.
const FEWEST_PEAKS: usize = 5;
/// An exponent beyond which rarity is not told apart.
const LARGEST_EXPONENT: f64 = 700.0;

/// The largest surprises of the remembered rows.
///
/// Peaks over threshold with an exponential tail: above the threshold `u`, the (1 − tail) quantile, excesses are taken
/// to be exponential with their mean β, so P(S ≥ s) = (k/n)·e^(−(s−u)/β) (J. Pickands, "Statistical Inference Using
/// Extreme Order Statistics", Ann. Statist. 3, 1975; on streams: A. Siffer et al., "Anomaly Detection in Streams with
/// Extreme Value Theory", KDD 2017). Surprises are logarithms of distances, so this is Hill's estimator of a power
/// law tail (B. M. Hill, Ann. Statist. 3, 1975). The fitted tail is not believed over the count: where c of n rows
/// reached s, P is at least c/(n·trust).
///
/// *Rarity* is −log₁₀(P·√n). One row in n is the rarest without being an event, so the longer the history, the
/// rarer a row has to be: with P·n the number of false alarms would not grow with n at all, with P it would grow
/// as n; with P·√n it grows as √n.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tail {
    /// Largest first, each with the number of its row.
    peaks: Vec<(f64, u64)>,
    rows: u64,
}

impl Tail {
    /// The rarity of `surprise` among the rows before it; `None` if it is not in their tail. Then it is one of them.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    pub fn push(&mut self, config: &SeriesConfig, surprise: f64) -> Option<f64> {
        self.rows += 1;
        let memory = config.memory.max(FEWEST_PEAKS) as u64;
        if self.rows > memory {
            let oldest = self.rows - memory;
            self.peaks.retain(|&(_, row)| row >= oldest);
        }
        let rows = self.rows.min(memory) as f64;
        let count = ((rows * config.tail).ceil() as usize).max(FEWEST_PEAKS);
        let rarity =
            if self.rows > config.warmup as u64 { self.rarity(config, surprise, rows, count) } else { None };

        let place = self.peaks.partition_point(|&(peak, _)| peak >= surprise);
        // Twice the peaks, so that those which are forgotten leave enough.
        let kept = 2 * ((memory as f64 * config.tail).ceil() as usize).max(FEWEST_PEAKS);
        if place < kept {
            self.peaks.insert(place, (surprise, self.rows));
            self.peaks.truncate(kept);
        }
        rarity
    }

    #[allow(clippy::cast_precision_loss)]
    fn rarity(&self, config: &SeriesConfig, surprise: f64, rows: f64, count: usize) -> Option<f64> {
        let threshold = self.peaks.get(count - 1)?.0;
        if surprise <= threshold {
            return None;
        }
        let above = &self.peaks[..count - 1];
        let mean_excess = above.iter().map(|(peak, _)| peak - threshold).sum::<f64>() / above.len() as f64;
        let beta = mean_excess.max(1e-9 * threshold.abs()).max(1e-12);
        let exponent = ((surprise - threshold) / beta).min(LARGEST_EXPONENT);
        let fitted = (rows / count as f64).log10() + exponent / std::f64::consts::LN_10;
        let reached = above.partition_point(|&(peak, _)| peak >= surprise);
        let counted =
            if reached == 0 { f64::INFINITY } else { (config.trust * rows / reached as f64).log10() };
        Some(fitted.min(counted) - 0.5 * rows.log10())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: surprises from an exponential distribution (its quantiles in shuffled order). Guarantee: the rarity
    /// of a new one is what the distribution says, far beyond what was seen.
    #[test]
    fn an_exponential_tail_is_recovered() {
        let config = SeriesConfig::default();
        let mut tail = Tail::default();
        for row in 0..4_000_u32 {
            let quantile = f64::from(row * 1_597 % 4_001) / 4_001.0;
            tail.push(&config, -(1.0 - quantile).ln());
        }
        let rarity = tail.push(&config, 20.0).expect("in the tail");
        let expected = 20.0 / std::f64::consts::LN_10 - 0.5 * 4_000_f64.log10();
        assert!((rarity - expected).abs() < 0.5, "{rarity} {expected}");
        assert_eq!(tail.push(&config, 0.1), None);
    }

    /// Scenario: a large surprise that comes every hundred rows. Guarantee: the first is rare, the twentieth is not.
    #[test]
    fn what_was_seen_often_is_known() {
        let config = SeriesConfig::default();
        let mut tail = Tail::default();
        let mut rarities = Vec::new();
        for row in 0..2_100_u32 {
            let surprise = if row % 100 == 99 { 30.0 } else { f64::from(row * 37 % 101) / 101.0 };
            let rarity = tail.push(&config, surprise);
            if row % 100 == 99 {
                rarities.push(rarity.unwrap_or(-9.0));
            }
        }
        assert!(rarities[0] > 3.0, "{rarities:?}");
        assert!(rarities[20] < config.alarm, "{rarities:?}");
    }

    /// Scenario: more rows than are remembered. Guarantee: what is held stays bounded, and a peak of long ago counts
    /// no more.
    #[test]
    fn memory_is_bounded() {
        let config = SeriesConfig { memory: 200, ..SeriesConfig::default() };
        let mut tail = Tail::default();
        tail.push(&config, 50.0);
        for row in 0..1_000_u32 {
            tail.push(&config, f64::from(row * 37 % 101) / 101.0);
        }
        assert!(tail.peaks.len() <= 2 * 26);
        assert!(tail.push(&config, 25.0).expect("in the tail") > 2.0);
    }
}
