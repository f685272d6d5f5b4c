//! What the operator can set, with the honest meaning of each durability policy.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::log::LogError;

/// When written bytes are forced to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fsync {
    /// Before every acknowledgement (one `fdatasync` for all records that wait): an acknowledged
    /// record survives a crash of the process, of the kernel and a power cut.
    #[default]
    Always,
    /// Every so many milliseconds: an acknowledged record survives a crash of the process; a power
    /// cut or kernel crash may take what was acknowledged within the last interval.
    IntervalMs(u64),
    /// Only when a segment is sealed or the log is closed: an acknowledged record survives a crash of
    /// the process; a power cut may take everything the kernel had not written back yet.
    Never,
}

/// How payloads are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As they come.
    None,
    /// LZ4 for each record, where it makes the record smaller.
    #[default]
    Lz4,
}

/// Configuration of the embedded log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Data directory; segments are kept in its folder `log`. Set by the program, not by a key of its own.
    #[serde(skip)]
    pub dir: PathBuf,
    /// Size at which a segment file is sealed; at most 2 GiB.
    pub segment_bytes: u64,
    /// Records at which a segment is sealed: bounds the index of the open segment (40 bytes a record).
    pub segment_records: usize,
    /// Age at which a segment with records is sealed, so that retention by age works on a quiet log.
    pub segment_ms: u64,
    /// When written bytes are forced to the disk.
    pub fsync: Fsync,
    /// How payloads are stored.
    pub compression: Compression,
    /// Reserve a segment's space when it is created (`fallocate`).
    pub preallocate: bool,
    /// Bytes on disk above which the oldest segment is removed, whatever its age; 0 for no bound.
    pub retention_bytes: u64,
    /// How often retention is looked at.
    pub retention_check_ms: u64,
    /// Free bytes the file system must keep; below it the log stops accepting.
    pub reserve_bytes: u64,
    /// Bytes accepted and not yet answered; above it an append answers `Full`.
    pub max_queue_bytes: usize,
    /// Bytes of key, value and headers of one record.
    pub max_record_bytes: usize,
    /// Time without a poll after which a group member loses its partitions to the others.
    pub session_timeout_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("infertrace-data"),
            segment_bytes: 256 << 20,
            segment_records: 500_000,
            segment_ms: 3_600_000,
            fsync: Fsync::Always,
            compression: Compression::Lz4,
            preallocate: true,
            retention_bytes: 32 << 30,
            retention_check_ms: 10_000,
            reserve_bytes: 1 << 30,
            max_queue_bytes: 64 << 20,
            max_record_bytes: 16 << 20,
            session_timeout_ms: 300_000,
        }
    }
}

impl Config {
    pub(super) fn check(&self) -> Result<(), LogError> {
        let refuse = |what: &str| Err(LogError::Fatal(format!("embedded log configuration: {what}")));
        if self.segment_bytes < 4096 || self.segment_bytes > 2 << 30 {
            return refuse("segment_bytes must be between 4 KiB and 2 GiB");
        }
        if self.segment_records == 0 {
            return refuse("segment_records must be at least 1");
        }
        if self.max_record_bytes as u64 > self.segment_bytes / 2 {
            return refuse("max_record_bytes must be at most half of segment_bytes");
        }
        if self.max_record_bytes > self.max_queue_bytes {
            return refuse("max_queue_bytes must be at least max_record_bytes");
        }
        if self.fsync == Fsync::IntervalMs(0) {
            return refuse("fsync interval_ms must be at least 1; use \"always\"");
        }
        Ok(())
    }
}
