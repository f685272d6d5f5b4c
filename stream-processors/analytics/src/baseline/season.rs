//! The same hour of earlier weeks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::robust::Level;
use crate::rollup::Millis;

const HOUR_MS: Millis = 3_600_000;
/// Weeks that weigh; older ones fade.
const WEEKS: u8 = 4;
/// Weeks from which on an hour is trusted.
const ENOUGH_WEEKS: u8 = 2;

/// Hour of the week: 0 is Monday 00:00 UTC. The epoch was a Thursday.
pub(crate) const fn hour_of_week(at_ms: Millis) -> u8 {
    ((at_ms.div_euclid(HOUR_MS) + 3 * 24).rem_euclid(168)) as u8
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Slot {
    median: f32,
    mad: f32,
    weeks: u8,
}

/// Levels by hour of the week.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Season(BTreeMap<u8, Slot>);

impl Season {
    /// Adds the level of the hour that has ended: a mean over the weeks in which the last ones weigh most.
    pub(crate) fn add(&mut self, hour: u8, level: Level) {
        let slot = self.0.entry(hour).or_default();
        slot.weeks = (slot.weeks + 1).min(WEEKS);
        let weight = 1.0 / f64::from(slot.weeks);
        let towards = |old: f32, new: f64| (f64::from(old) + (new - f64::from(old)) * weight) as f32;
        slot.median = towards(slot.median, level.median);
        slot.mad = towards(slot.mad, level.mad);
    }

    /// What is normal at that hour, once there are enough weeks.
    pub(crate) fn level(&self, hour: u8) -> Option<Level> {
        let slot = self.0.get(&hour).filter(|slot| slot.weeks >= ENOUGH_WEEKS)?;
        Some(Level { median: f64::from(slot.median), mad: f64::from(slot.mad) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: known instants. Guarantee: Monday midnight is 0, Sunday's last hour 167.
    #[test]
    fn hours_of_the_week() {
        // 2024-01-01 was a Monday.
        let monday = 1_704_067_200_000;
        assert_eq!(hour_of_week(monday), 0);
        assert_eq!(hour_of_week(monday - 1), 167);
        assert_eq!(hour_of_week(monday + 25 * HOUR_MS), 25);
    }

    /// Scenario: one week, then a second. Guarantee: one is not trusted, two are, and their mean is told.
    #[test]
    fn two_weeks_make_a_season() {
        let mut season = Season::default();
        season.add(5, Level { median: 1.0, mad: 0.1 });
        assert_eq!(season.level(5), None);
        season.add(5, Level { median: 2.0, mad: 0.3 });
        let level = season.level(5).unwrap();
        assert!((level.median - 1.5).abs() < 1e-6 && (level.mad - 0.2).abs() < 1e-6);
        assert_eq!(season.level(6), None);
    }
}
