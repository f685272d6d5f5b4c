//! Anomalies in one series of (time, value), online: each row is scored from what came before it.

pub mod baseline;
pub mod config;
mod detector;
mod expectation;
mod familiar;
mod habituation;
mod running;
pub mod tail;
mod window;

pub use config::SeriesConfig;
pub use detector::{Score, SeriesDetector, View};

/// A detector of anomalies in one series. It sees each row once, in order, and knows nothing of the rows to come.
pub trait Detector {
    /// The anomaly score of this row, 0–1.
    fn score(&mut self, at_ms: i64, value: f64) -> f64;

    /// The score from which the detector itself calls a row an alarm.
    fn threshold(&self) -> f64;
}
