//! Events of a size that was seen before are known, however surprising their moment.

use serde::{Deserialize, Serialize};

use super::{config::SeriesConfig, running::Ordered};

/// Residuals within this part of a residual are of its size.
const ALIKE: f64 = 0.05;

/// The residuals of the remembered rows.
///
/// A job that runs now and then leaves the same spike at times that no season explains. Where k of n remembered
/// residuals are of the size of this one, its probability is at least k/(n·trust), whatever the tail of the
/// surprises says. Rarity as in [`super::tail`]: −log₁₀(P·√n).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Familiar {
    residuals: Ordered,
}

impl Familiar {
    /// The most rarity that a row with this residual can have; `None` if none was of its size. Then it is one of them.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn push(&mut self, config: &SeriesConfig, residual: f64) -> Option<f64> {
        let near = ALIKE * residual.abs();
        let alike = self.residuals.within(residual - near, residual + near) as f64;
        let rows = self.residuals.len() as f64;
        self.residuals.push(residual, config.memory);
        (alike > 0.0).then(|| (config.trust * rows / alike).log10() - 0.5 * rows.log10())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a residual of 20 every hundred rows, then one of 20.5, one of 30 and one of -20. Guarantee: the first
    /// cannot be an alarm, the others can.
    #[test]
    fn the_same_size_is_known_and_another_is_not() {
        let config = SeriesConfig::default();
        let mut familiar = Familiar::default();
        for row in 0..2_000 {
            let small = f64::from(row % 7) * 0.1;
            familiar.push(&config, if row % 100 == 0 { 20.0 } else { small });
        }
        assert!(familiar.push(&config, 20.5).is_some_and(|most| most < config.alarm));
        assert_eq!(familiar.push(&config, 30.0), None);
        assert_eq!(familiar.push(&config, -20.0), None);
    }
}
