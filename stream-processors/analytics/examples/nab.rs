//! Scores the series detector and the rules to compare with on a labelled corpus, without building anything else:
//! `cargo run --release --example nab -- DIR [--verbose] [--sensitivity]`.

use std::{error::Error, fs, path::PathBuf};

use infertrace_analytics::{
    score::{
        corpus::{self, Labelled},
        labels::Labels,
        series_file,
    },
    series::{SeriesConfig, SeriesDetector},
};

fn main() -> Result<(), Box<dyn Error>> {
    let dir =
        PathBuf::from(std::env::args().nth(1).ok_or("which folder? It holds windows.json and the series")?);
    let verbose = std::env::args().any(|argument| argument == "--verbose");
    let labels: Labels = serde_json::from_str(&fs::read_to_string(dir.join("windows.json"))?)?;
    let mut corpus = Vec::new();
    for name in labels.0.keys() {
        let text = fs::read_to_string(dir.join(name)).map_err(|error| format!("{name}: {error}"))?;
        let file = series_file::parse(&text).map_err(|error| format!("{name}:{error}"))?;
        let windows = labels.windows(name, &file.rows)?;
        corpus.push(Labelled {
            name: name.clone(),
            rows: file.rows.iter().map(|row| (row.at_ms, row.value)).collect(),
            windows,
        });
    }
    println!("{:12} {:>8} {:>8} {:>8}   at its own threshold", "detector", "standard", "low FP", "low FN");
    for (name, make) in corpus::detectors() {
        let report = corpus::evaluate(name, &make, &corpus);
        let [standard, low_fp, low_fn] = report.profiles;
        println!(
            "{name:12} {:8.1} {:8.1} {:8.1}   precision {:.2} recall {:.2} F1 {:.2}, found after {:.0} s",
            standard.score,
            low_fp.score,
            low_fn.score,
            report.own.precision,
            report.own.recall,
            report.own.f1,
            report.own.time_to_detect_s
        );
        for (file, outcome) in corpus.iter().zip(&report.files).filter(|_| verbose) {
            let found = outcome.found.iter().flatten().count();
            println!(
                "  {:52} {:6.2}   {found} of {} windows, {} false alarms",
                file.name,
                outcome.points,
                file.windows.len(),
                outcome.false_alarms
            );
        }
    }
    if std::env::args().any(|argument| argument == "--sensitivity") {
        sensitivity(&corpus);
    }
    Ok(())
}

/// The standard score with each parameter moved by 30 % down and up.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
fn sensitivity(corpus: &[Labelled]) {
    type Turn = fn(&mut SeriesConfig, f64);
    let turns: [(&str, Turn); 12] = [
        ("forget", |config, by| config.forget *= by),
        ("prior", |config, by| config.prior *= by),
        ("freedom", |config, by| config.freedom *= by),
        ("window", |config, by| config.window = (config.window as f64 * by) as usize),
        ("memory", |config, by| config.memory = (config.memory as f64 * by) as usize),
        ("tail", |config, by| config.tail *= by),
        ("trust", |config, by| config.trust *= by),
        ("alarm", |config, by| config.alarm *= by),
        ("habit", |config, by| config.habit *= by),
        ("recovery", |config, by| config.recovery *= by),
        ("cells", |config, by| config.cells = (config.cells as f64 * by).round() as usize),
        ("warmup", |config, by| config.warmup = (config.warmup as f64 * by) as usize),
    ];
    println!("\n{:12} {:>8} {:>8}", "parameter", "-30 %", "+30 %");
    for (name, turn) in turns {
        let scores = [0.7, 1.3].map(|by| {
            let mut config = SeriesConfig::default();
            turn(&mut config, by);
            corpus::evaluate(name, &|| Box::new(SeriesDetector::new(config.clone())), corpus).profiles[0]
                .score
        });
        println!("{name:12} {:8.1} {:8.1}", scores[0], scores[1]);
    }
}
