//! Last readings as records of the rollups' state topic: `SeriesState` of `proto/infertrace/v1/partials.proto`.
//!
//! Written in the transaction of the partials and positions that they belong to, so a restart finds the readings of
//! exactly the records below its position. Invariant: `decode(encode(x)) == x`.

use bytes::Bytes;
use infertrace_proto::v1::SeriesState;
use prost::Message as _;

use super::series::Last;

const VERSION: u32 = 1;

/// Why a record of the state cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SeriesStateError {
    /// The bytes are no such message.
    #[error("not the state of series: {0}")]
    Malformed(#[from] prost::DecodeError),
    /// A newer release wrote it.
    #[error("version {0} of the state of series is newer than this release; upgrade all processors")]
    Version(u32),
    /// Lists of different lengths.
    #[error("the lists of the state of series differ in length")]
    BadLength,
}

/// One group of the series of one partition, as the state topic keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesGroup {
    /// Its number, 0 to 63.
    pub group: u8,
    pub(super) series: Vec<Last>,
}

impl SeriesGroup {
    /// The key of its record, among those of other sources.
    #[must_use]
    pub fn key(&self, source: u32) -> Bytes {
        Bytes::from(format!("{}{}", Self::prefix(source), self.group))
    }

    /// What keys of all groups of a source begin with.
    #[must_use]
    pub fn prefix(source: u32) -> String {
        format!("{source}/series/")
    }

    /// The record's value.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut state = SeriesState { version: VERSION, ..SeriesState::default() };
        for last in &self.series {
            state.ids.push(last.id);
            state.values.push(last.value);
            state.times_unix_nano.push(last.time_ns);
            state.starts_unix_nano.push(last.start_ns);
        }
        state.encode_to_vec()
    }

    /// Reads the value of the record of a group.
    ///
    /// # Errors
    /// [`SeriesStateError`].
    pub fn decode(group: u8, payload: &[u8]) -> Result<Self, SeriesStateError> {
        let state = SeriesState::decode(payload)?;
        if state.version != VERSION {
            return Err(SeriesStateError::Version(state.version));
        }
        let lengths = [state.values.len(), state.times_unix_nano.len(), state.starts_unix_nano.len()];
        if lengths.iter().any(|&length| length != state.ids.len()) {
            return Err(SeriesStateError::BadLength);
        }
        let times = state.times_unix_nano.into_iter().zip(state.starts_unix_nano);
        let values = state.ids.into_iter().zip(state.values).zip(times);
        let series = values.map(|((id, value), (time_ns, start_ns))| Last { id, value, time_ns, start_ns });
        Ok(Self { group, series: series.collect() })
    }
}
