//! A detector over a corpus: its scores by the benchmark's three profiles, and plain figures at its own threshold.

use super::{
    labels::Window,
    nab::{self, FileOutcome, Outcome, PROFILES, Series},
};
use crate::series::{
    Detector, SeriesDetector,
    baseline::{Ewma, ThreeTimes},
};

/// A labelled series.
#[derive(Clone, Debug)]
pub struct Labelled {
    /// Path inside the corpus.
    pub name: String,
    /// Times and values, in the order of the file.
    pub rows: Vec<(i64, f64)>,
    /// Labelled windows in order of time.
    pub windows: Vec<Window>,
}

/// What a detector earned on a corpus.
#[derive(Clone, Debug)]
pub struct Report {
    /// Name of the detector.
    pub detector: &'static str,
    /// By profile, in the order of [`PROFILES`].
    pub profiles: [Outcome; 3],
    /// By file, in the order given, at the best threshold of the standard profile.
    pub files: Vec<FileOutcome>,
    /// At the detector's own threshold.
    pub own: Plain,
}

/// Plain figures at the detector's own threshold, with the benchmark's probation left out.
///
/// Alarms of one window count as one find; every alarm outside counts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Plain {
    /// Windows found among windows found and false alarms.
    pub precision: f64,
    /// Windows found among all windows.
    pub recall: f64,
    /// Harmonic mean of both.
    pub f1: f64,
    /// Mean time from a window's first row to its first alarm, in seconds.
    pub time_to_detect_s: f64,
    /// Alarms outside windows.
    pub false_alarms: usize,
}

/// Makes a detector that has seen nothing.
pub type Make = fn() -> Box<dyn Detector>;

/// The detectors to compare, each made anew for each file.
#[must_use]
pub fn detectors() -> [(&'static str, Make); 3] {
    [
        ("infertrace", || Box::new(SeriesDetector::default())),
        ("ewma", || Box::new(Ewma::default())),
        ("three-times", || Box::new(ThreeTimes::default())),
    ]
}

/// Runs a detector over every file and scores it.
#[must_use]
pub fn evaluate(name: &'static str, make: &dyn Fn() -> Box<dyn Detector>, corpus: &[Labelled]) -> Report {
    let threshold = make().threshold();
    let scores: Vec<Vec<f64>> = corpus
        .iter()
        .map(|file| {
            let mut detector = make();
            file.rows.iter().map(|&(at_ms, value)| detector.score(at_ms, value)).collect()
        })
        .collect();
    let series: Vec<Series<'_>> =
        corpus.iter().zip(&scores).map(|(file, scores)| Series { scores, windows: &file.windows }).collect();
    let profiles = PROFILES.map(|profile| nab::evaluate(&profile, &series));
    let at = |threshold: f64| {
        series.iter().map(|series| series.outcome(&PROFILES[0], threshold)).collect::<Vec<_>>()
    };
    Report { detector: name, profiles, files: at(profiles[0].threshold), own: plain(corpus, &at(threshold)) }
}

#[allow(clippy::cast_precision_loss)]
fn plain(corpus: &[Labelled], files: &[FileOutcome]) -> Plain {
    let mut windows = 0;
    let mut waits = Vec::new();
    for (file, outcome) in corpus.iter().zip(files) {
        windows += file.windows.len();
        for (window, found) in file.windows.iter().zip(&outcome.found) {
            let time = |row: usize| file.rows.get(row).map_or(0, |&(at_ms, _)| at_ms);
            waits.extend(found.map(|row| (time(row) - time(window.first)) as f64 / 1_000.0));
        }
    }
    let false_alarms: usize = files.iter().map(|outcome| outcome.false_alarms).sum();
    let found = waits.len() as f64;
    let share = |of: f64| if of > 0.0 { found / of } else { 0.0 };
    Plain {
        precision: share(found + false_alarms as f64),
        recall: share(windows as f64),
        f1: share(0.5 * (found + false_alarms as f64 + windows as f64)),
        time_to_detect_s: waits.iter().sum::<f64>() / found.max(1.0),
        false_alarms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Alarms where the value is over 5.
    struct OverFive;

    impl Detector for OverFive {
        fn score(&mut self, _: i64, value: f64) -> f64 {
            if value > 5.0 { 1.0 } else { 0.0 }
        }

        fn threshold(&self) -> f64 {
            1.0
        }
    }

    /// Scenario: of two windows one is found ten rows in; one false alarm besides. Guarantee: precision and recall
    /// of one half, and the wait in seconds.
    #[test]
    fn plain_figures() {
        let rows =
            (0..200).map(|row| (row * 60_000, if row == 60 || row == 150 { 9.0 } else { 1.0 })).collect();
        let windows = vec![Window { first: 50, last: 69 }, Window { first: 100, last: 119 }];
        let corpus = [Labelled { name: "a".into(), rows, windows }];
        let report = evaluate("over five", &|| Box::new(OverFive), &corpus);
        assert_eq!(
            report.own,
            Plain { precision: 0.5, recall: 0.5, f1: 0.5, time_to_detect_s: 600.0, false_alarms: 1 }
        );
        assert_eq!(report.files[0].found, [Some(60), None]);
    }
}
