//! What is normal for each version of a model, once there is more than one.
//!
//! While a model has one version, the model's baselines are that version's. When a second appears, the first keeps what was
//! learnt so far and the second begins cold; from then on each learns the windows in which it served. Only what
//! requests themselves tell has a baseline by version: devices and engines are shared.
//!
//! Invariant: at most [`MOST`] versions a model; those that served last stay, and none stays [`GONE_MS`] after it served.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Baselines, Metric};
use crate::{facts::ModelWindow, output::Baseline, rollup::Millis};

/// Versions of a model that have baselines of their own.
pub(crate) const MOST: usize = 4;
/// A version that has not served for so long is gone.
const GONE_MS: Millis = 86_400_000;
const HOUR_MS: Millis = 3_600_000;

/// See the module's words.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct VersionBaselines(BTreeMap<String, Baselines>);

impl VersionBaselines {
    /// A second version appears: what was learnt of the model was of `first`.
    pub(crate) fn part(&mut self, first: &str, of_model: &Baselines) {
        self.0.insert(first.to_owned(), of_model.of_requests());
    }

    /// Takes a window of a model with several versions.
    pub(crate) fn learn(&mut self, window_ms: Millis, window: &ModelWindow, flagged: bool) {
        for version in window.versions.keys().filter(|version| !version.is_empty()) {
            let Some(own) = window.of_version(version) else { continue };
            self.0.entry(version.clone()).or_default().learn(
                window_ms,
                &own,
                flagged,
                Metric::is_of_requests,
            );
        }
        while self.0.len() > MOST {
            let oldest = self.0.iter().min_by_key(|(_, one)| one.last_ms).map(|(version, _)| version.clone());
            oldest.and_then(|version| self.0.remove(&version));
        }
    }

    /// At the end of an hour: tells the baselines of the versions that served in it, and forgets those that are gone.
    pub(crate) fn turn_hour(&mut self, hour_ms: Millis, of: &Baseline, out: &mut Vec<Baseline>) {
        self.0.retain(|_, one| one.last_ms > hour_ms + HOUR_MS - GONE_MS);
        for (version, own) in self.0.iter_mut().filter(|(_, one)| one.last_ms > hour_ms) {
            own.turn_hour(hour_ms, &Baseline { version: version.clone(), ..of.clone() }, out);
        }
    }
}
