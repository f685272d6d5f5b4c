//! Scores the series detector and the rules to compare with on a labelled corpus, without building anything else:
//! `cargo run --release -p infertrace-analytics --example nab -- DIR [--verbose]`.

use std::{error::Error, fs, path::PathBuf};

use infertrace_analytics::score::{
    corpus::{self, Labelled},
    labels::Labels,
    series_file,
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
        let report = corpus::evaluate(name, make, &corpus);
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
    Ok(())
}
