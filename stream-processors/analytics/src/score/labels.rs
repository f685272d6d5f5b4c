//! Labelled windows of a corpus: for each file its anomalous windows, as pairs of time stamps, both within.

use std::{collections::BTreeMap, fmt};

use serde::Deserialize;

use super::{series_file::Row, timestamp};

/// The windows of every file of a corpus, by the file's path inside it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Labels(pub BTreeMap<String, Vec<(String, String)>>);

/// A labelled window as rows of its file, both within.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First row.
    pub first: usize,
    /// Last row.
    pub last: usize,
}

/// Why labels and data do not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelError {
    /// The file is not in the labels; a file without anomalies has an empty list.
    Missing(String),
    /// A border of a window is no time stamp, or is none of the file's rows.
    Border {
        /// Of which file.
        file: String,
        /// The border as labelled.
        border: String,
    },
    /// Windows overlap, run backwards or are not in order of time.
    Order(String),
}

impl fmt::Display for LabelError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(file) => {
                write!(out, "no labels for {file}: a file without anomalies needs an empty list of windows")
            }
            Self::Border { file, border } => {
                write!(out, "labels of {file}: no row of the file has the time stamp {border:?}")
            }
            Self::Order(file) => write!(out, "labels of {file}: windows overlap or are not in order of time"),
        }
    }
}

impl std::error::Error for LabelError {}

impl Labels {
    /// The windows of `file` as rows.
    ///
    /// # Errors
    /// The file is not labelled, or a window does not fit its rows.
    pub fn windows(&self, file: &str, rows: &[Row<'_>]) -> Result<Vec<Window>, LabelError> {
        let labelled = self.0.get(file).ok_or_else(|| LabelError::Missing(file.into()))?;
        let row_of = |border: &String| {
            let at_ms = timestamp::parse(border);
            rows.iter()
                .position(|row| Some(row.at_ms) == at_ms)
                .ok_or_else(|| LabelError::Border { file: file.into(), border: border.clone() })
        };
        let mut windows = Vec::with_capacity(labelled.len());
        for (first, last) in labelled {
            windows.push(Window { first: row_of(first)?, last: row_of(last)? });
        }
        let ordered = windows.iter().all(|window| window.first <= window.last)
            && windows.windows(2).all(|pair| pair[0].last < pair[1].first);
        if ordered { Ok(windows) } else { Err(LabelError::Order(file.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::score::series_file;

    const TEXT: &str =
        "timestamp,value\n2014-04-01 00:00:00,1\n2014-04-01 00:05:00,1\n2014-04-01 00:10:00,9\n";

    fn labels(windows: &[(&str, &str)]) -> Labels {
        let windows = windows.iter().map(|(first, last)| ((*first).to_owned(), (*last).to_owned())).collect();
        Labels(BTreeMap::from([("a.csv".to_owned(), windows)]))
    }

    /// Scenario: a window with fractions of seconds in its borders. Guarantee: the rows it names.
    #[test]
    fn windows_become_rows() {
        let file = series_file::parse(TEXT).expect("good");
        let labels = labels(&[("2014-04-01 00:05:00.000000", "2014-04-01 00:10:00.000000")]);
        assert_eq!(labels.windows("a.csv", &file.rows), Ok(vec![Window { first: 1, last: 2 }]));
    }

    /// Scenario: no labels, a border that is no row, a window that runs backwards. Guarantee: each is told apart.
    #[test]
    fn labels_that_do_not_fit() {
        let file = series_file::parse(TEXT).expect("good");
        assert_eq!(labels(&[]).windows("b.csv", &file.rows), Err(LabelError::Missing("b.csv".into())));
        let off = labels(&[("2014-04-01 00:05:01", "2014-04-01 00:10:00")]);
        assert!(matches!(off.windows("a.csv", &file.rows), Err(LabelError::Border { .. })));
        let back = labels(&[("2014-04-01 00:10:00", "2014-04-01 00:05:00")]);
        assert_eq!(back.windows("a.csv", &file.rows), Err(LabelError::Order("a.csv".into())));
    }
}
