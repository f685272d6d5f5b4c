//! `infertrace detect`: the detector of one series on a file.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use infertrace_analytics::{score::series_file, series::SeriesDetector};

/// Flags of `detect`.
#[derive(Debug, Args)]
pub(crate) struct Detect {
    /// How the series is written, and what comes out
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// The series: a header with timestamp and value, then one row an observation, oldest first
    file: PathBuf,
}

/// Format of a series.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Format {
    /// timestamp,value in; timestamp,value,anomaly_score,label out (label 1: an alarm)
    #[default]
    Nab,
}

/// Prints each row with its score.
pub(crate) fn run(args: &Detect) -> anyhow::Result<ExitCode> {
    let Format::Nab = args.format;
    let name = args.file.display();
    let text = fs::read_to_string(&args.file).with_context(|| format!("reading {name}"))?;
    let series = series_file::parse(&text).map_err(|error| anyhow::anyhow!("{name}:{error}"))?;
    if let Some(line) = series.backward.first() {
        eprintln!(
            "warning: {name}:{line}: the time steps back, {} times in all; rows are taken in the order of the file",
            series.backward.len()
        );
    }
    match print(&series, &mut io::BufWriter::new(io::stdout().lock())) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        outcome => outcome.map(|()| ExitCode::SUCCESS).context("writing the scores"),
    }
}

fn print(series: &series_file::SeriesFile<'_>, out: &mut impl io::Write) -> io::Result<()> {
    writeln!(out, "timestamp,value,anomaly_score,label")?;
    let mut detector = SeriesDetector::default();
    for row in &series.rows {
        let score = detector.push(row.at_ms, row.value);
        writeln!(out, "{},{},{},{}", row.timestamp, row.value_text, score.score, u8::from(score.is_alarm()))?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: three rows. Guarantee: the header, then each row with its own texts, a score and a label.
    #[test]
    fn one_row_a_row() {
        let text =
            "timestamp,value\n2014-04-01 00:00:00,1.50\n2014-04-01 00:05:00,2\n2014-04-01 00:10:00,1e1\n";
        let mut out = Vec::new();
        print(&series_file::parse(text).expect("good"), &mut out).expect("memory");
        let out = String::from_utf8(out).expect("text");
        assert_eq!(
            out,
            "timestamp,value,anomaly_score,label\n2014-04-01 00:00:00,1.50,0,0\n2014-04-01 00:05:00,2,0,0\n\
             2014-04-01 00:10:00,1e1,0,0\n"
        );
    }
}
