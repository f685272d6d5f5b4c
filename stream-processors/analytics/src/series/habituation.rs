//! After an alarm the bar is higher and comes down slowly, so that one incident fires once.

use serde::{Deserialize, Serialize};

use super::config::SeriesConfig;

/// Rows since the last alarm.
///
/// After an alarm, `habit`·e^(−rows/`recovery`) is taken off the rarity of a row: the relative refractoriness of a
/// neuron's threshold (W. Gerstner, "Time structure of the activity in neural network models", Phys. Rev. E 51,
/// 1995). Unlike a dead time it lets a second, worse incident through, and no border decides.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Habituation {
    rows_since_alarm: Option<u32>,
}

impl Habituation {
    /// The rarity that is left of `rarity`; an alarm if it reaches the bar.
    pub(super) fn push(&mut self, config: &SeriesConfig, rarity: Option<f64>) -> Option<f64> {
        self.rows_since_alarm = self.rows_since_alarm.map(|rows| rows.saturating_add(1));
        let used_to = self
            .rows_since_alarm
            .map_or(0.0, |rows| config.habit * (-f64::from(rows) / config.recovery).exp());
        let left = rarity? - used_to;
        if left >= config.alarm {
            self.rows_since_alarm = Some(0);
        }
        Some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: an incident of fifty equally rare rows, a worse one within it, and an equal one long after.
    /// Guarantee: one alarm for the first, one for the worse, one for the last.
    #[test]
    fn an_incident_fires_once_and_a_worse_one_again() {
        let config = SeriesConfig::default();
        let mut habituation = Habituation::default();
        let mut alarms = Vec::new();
        for row in 0..600 {
            let rarity = match row {
                30 => Some(6.0),
                0..50 => Some(1.5),
                500 => Some(1.5),
                _ => None,
            };
            if habituation.push(&config, rarity).is_some_and(|left| left >= config.alarm) {
                alarms.push(row);
            }
        }
        assert_eq!(alarms, [0, 30, 500]);
    }
}
