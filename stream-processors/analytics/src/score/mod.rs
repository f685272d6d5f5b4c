//! Scoring of detectors against labelled series: the Numenta Anomaly Benchmark's rules, and plain counts.
//!
//! Pure: text in, figures out. Who reads the files is the caller's business.

pub mod corpus;
pub mod labels;
pub mod nab;
pub mod scenarios;
pub mod series_file;
pub mod timestamp;
