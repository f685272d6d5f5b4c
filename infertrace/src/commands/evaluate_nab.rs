//! `infertrace evaluate nab`: the detector of one series, and simpler rules beside it, on a labelled corpus.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;
use infertrace_analytics::score::{
    corpus::{self, Labelled, Report},
    labels::Labels,
    nab::PROFILES,
    series_file,
};
use serde_json::json;

/// Name of the labels inside the folder.
const LABELS: &str = "windows.json";

/// Flags of `evaluate nab`.
#[derive(Debug, Args)]
pub(crate) struct Nab {
    /// Folder with the series (**/*.csv) and windows.json: for each file its labelled windows
    dir: PathBuf,
    /// One line of JSON
    #[arg(long)]
    json: bool,
    /// Every file
    #[arg(long)]
    verbose: bool,
}

/// Scores the detectors by the benchmark's rules.
pub(crate) fn run(args: &Nab) -> anyhow::Result<ExitCode> {
    let corpus = read(&args.dir)?;
    let reports: Vec<Report> =
        corpus::detectors().into_iter().map(|(name, make)| corpus::evaluate(name, &make, &corpus)).collect();
    if args.json {
        println!("{}", as_json(&corpus, &reports, args.verbose));
        return Ok(ExitCode::SUCCESS);
    }
    let windows: usize = corpus.iter().map(|file| file.windows.len()).sum();
    println!("{} files, {windows} labelled windows\n", corpus.len());
    println!("{:<12} {:>8} {:>8} {:>8}   at its own threshold", "detector", "standard", "low FP", "low FN");
    for report in &reports {
        let [standard, low_fp, low_fn] = report.profiles;
        println!(
            "{:<12} {:8.1} {:8.1} {:8.1}   precision {:.2}, recall {:.2}, F1 {:.2}, found after {:.0} s",
            report.detector,
            standard.score,
            low_fp.score,
            low_fn.score,
            report.own.precision,
            report.own.recall,
            report.own.f1,
            report.own.time_to_detect_s
        );
        for (file, outcome) in corpus.iter().zip(&report.files).filter(|_| args.verbose) {
            println!(
                "    {:<54} {:6.2}   {} of {} windows, {} false alarms",
                file.name,
                outcome.points,
                outcome.found.iter().flatten().count(),
                file.windows.len(),
                outcome.false_alarms
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(corpus: &[Labelled], reports: &[Report], verbose: bool) -> serde_json::Value {
    let mut out = serde_json::Map::new();
    for report in reports {
        let mut figures = serde_json::Map::new();
        for (profile, outcome) in PROFILES.iter().zip(&report.profiles) {
            let figure =
                json!({"score": outcome.score, "points": outcome.points, "threshold": outcome.threshold});
            figures.insert(profile.name.into(), figure);
        }
        figures.insert(
            "own_threshold".into(),
            json!({
                "precision": report.own.precision,
                "recall": report.own.recall,
                "f1": report.own.f1,
                "time_to_detect_s": report.own.time_to_detect_s,
                "false_alarms": report.own.false_alarms,
            }),
        );
        if verbose {
            let files = corpus.iter().zip(&report.files).map(|(file, outcome)| {
                json!({
                    "file": file.name,
                    "points": outcome.points,
                    "windows": file.windows.len(),
                    "found": outcome.found.iter().flatten().count(),
                    "false_alarms": outcome.false_alarms,
                })
            });
            figures.insert("files".into(), files.collect());
        }
        out.insert(report.detector.into(), figures.into());
    }
    out.into()
}

/// The corpus: every labelled file, and no file without labels.
fn read(dir: &Path) -> anyhow::Result<Vec<Labelled>> {
    let path = dir.join(LABELS);
    let text = fs::read_to_string(&path).with_context(|| {
        format!("reading the labels {}: a corpus has them beside its series", path.display())
    })?;
    let labels: Labels = serde_json::from_str(&text).with_context(|| {
        format!("{}: expected {{\"folder/file.csv\": [[\"first\", \"last\"], …], …}}", path.display())
    })?;
    let mut names: BTreeSet<String> = labels.0.keys().cloned().collect();
    series_in(dir, dir, &mut names)?;
    anyhow::ensure!(!names.is_empty(), "{} names no file, and there is none in the folder", path.display());
    names.into_iter().map(|name| read_series(dir, name, &labels)).collect()
}

fn read_series(dir: &Path, name: String, labels: &Labels) -> anyhow::Result<Labelled> {
    let path = dir.join(&name);
    let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let series = series_file::parse(&text).map_err(|error| anyhow::anyhow!("{}:{error}", path.display()))?;
    if let Some(line) = series.backward.first() {
        eprintln!(
            "warning: {}:{line}: the time steps back; rows are taken in the order of the file",
            path.display()
        );
    }
    let windows =
        labels.windows(&name, &series.rows).with_context(|| format!("in {}", dir.join(LABELS).display()))?;
    let rows = series.rows.iter().map(|row| (row.at_ms, row.value)).collect();
    Ok(Labelled { name, rows, windows })
}

/// Adds the series under `folder`, as paths from `root` with slashes.
fn series_in(root: &Path, folder: &Path, names: &mut BTreeSet<String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            series_in(root, &path, names)?;
        } else if path.extension().is_some_and(|extension| extension == "csv")
            && let Ok(inside) = path.strip_prefix(root)
        {
            let parts: Vec<_> = inside.iter().map(|part| part.to_string_lossy()).collect();
            names.insert(parts.join("/"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn corpus(labels: &str) -> (tempfile::TempDir, anyhow::Result<Vec<Labelled>>) {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("real")).expect("a folder");
        let series = "timestamp,value\n2014-04-01 00:00:00,1\n2014-04-01 00:05:00,2\n2014-04-01 00:10:00,3\n";
        fs::write(dir.path().join("real/a.csv"), series).expect("a file");
        fs::write(dir.path().join(LABELS), labels).expect("a file");
        let read = read(dir.path());
        (dir, read)
    }

    /// Scenario: a folder with one labelled series. Guarantee: its rows and its window.
    #[test]
    fn a_corpus_is_read() {
        let (_dir, read) =
            corpus(r#"{"real/a.csv": [["2014-04-01 00:05:00.000000", "2014-04-01 00:10:00.000000"]]}"#);
        let read = read.expect("good");
        assert_eq!((read[0].rows.len(), read[0].windows[0].first, read[0].windows[0].last), (3, 1, 2));
    }

    /// Scenario: a series without labels, labels without a series, a border that is no row, labels that are no JSON.
    /// Guarantee: each is an error that names the file.
    #[test]
    fn what_does_not_fit_is_named() {
        let cases = [
            ("{}", "no labels for real/a.csv"),
            (r#"{"real/a.csv": [], "real/b.csv": []}"#, "real/b.csv"),
            (r#"{"real/a.csv": [["2014-04-01 00:01:00", "2014-04-01 00:10:00"]]}"#, "2014-04-01 00:01:00"),
            ("[]", LABELS),
        ];
        for (labels, expected) in cases {
            let (_dir, read) = corpus(labels);
            let error = format!("{:#}", read.expect_err(labels));
            assert!(error.contains(expected), "{error}");
        }
    }
}
