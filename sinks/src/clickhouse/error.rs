//! What can go wrong between the log and ClickHouse.

use infertrace_runtime::clickhouse as server;

use crate::retry::Fault;

/// What ClickHouse did, or why its rows could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server did not answer, or with an error.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// Rows could not be made into what ClickHouse takes.
    #[error("columns: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// The tables were made for another release.
    #[error("schema of {database}: {detail}")]
    Schema {
        /// Database.
        database: String,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The tables hold records of another log.
    #[error("{0}")]
    OtherLog(String),
    /// The sink's own state in the log is damaged.
    #[error("state of the sink: {0}")]
    State(String),
    /// An insert is there in part, which the same insert did not mend.
    #[error("{table} has {found} of {expected} rows of {range}; {detail}")]
    Partial {
        /// Table.
        table: &'static str,
        /// Offsets.
        range: String,
        /// Rows there.
        found: u64,
        /// Rows that belong there.
        expected: u64,
        /// What to do.
        detail: &'static str,
    },
}

impl Error {
    /// Whether it passes by itself.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::Server(error) if !error.is_refusal() => Fault::Passing,
            Self::Server(_)
            | Self::Arrow(_)
            | Self::Schema { .. }
            | Self::OtherLog(_)
            | Self::State(_)
            | Self::Partial { .. } => Fault::Refused,
        }
    }
}
