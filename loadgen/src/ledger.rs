//! The ledger: what was acknowledged, on disk before it counts.
//!
//! Format: one line of JSON ([`Header`]), then records of 40 bytes, little-endian:
//! `sequence u64 · base_time_ns i64 · spans u32 · variant u32 · partitions u32 · content u64 · crc32c u32`.
//! A record stands for one request whose spans were all acknowledged. Ids follow from (run, sequence, index)
//! and contents from (seed, variant), see [`crate::ids`] and [`crate::blast::template`]; `content` is the sum of
//! the spans' digests. The CRC-32C covers the 36 bytes before it; reading ends at a torn or damaged tail.
//! Invariant: [`Writer`] reports a record as written only after `fdatasync`.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    sync::mpsc,
};

use anyhow::{Context, bail, ensure};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 40;
const FORMAT: &str = "infertrace-ledger";

/// First line of a ledger.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// Always `infertrace-ledger`.
    pub format: String,
    /// Version of the format, 1.
    pub version: u32,
    /// In every trace id of the run.
    pub run: u32,
    /// Seed of the contents.
    pub seed: u64,
    /// Spans of every request.
    pub spans_per_request: u16,
    /// How they were sent.
    pub protocol: String,
    /// Tenant, empty for the default one.
    pub tenant: String,
}

impl Header {
    /// A header of the current version.
    #[must_use]
    pub fn new(run: u32, seed: u64, spans_per_request: u16, protocol: &str, tenant: &str) -> Self {
        Self {
            format: FORMAT.into(),
            version: 1,
            run,
            seed,
            spans_per_request,
            protocol: protocol.into(),
            tenant: tenant.into(),
        }
    }
}

/// One acknowledged request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Number of the request.
    pub sequence: u64,
    /// Base of the spans' start times.
    pub base_time_ns: i64,
    /// Spans.
    pub spans: u32,
    /// Variant of the contents.
    pub variant: u32,
    /// Partitions by which frames were split, 0 otherwise.
    pub partitions: u32,
    /// Sum of the spans' digests.
    pub content: u64,
}

impl Entry {
    fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut out = [0; RECORD_BYTES];
        out[..8].copy_from_slice(&self.sequence.to_le_bytes());
        out[8..16].copy_from_slice(&self.base_time_ns.to_le_bytes());
        out[16..20].copy_from_slice(&self.spans.to_le_bytes());
        out[20..24].copy_from_slice(&self.variant.to_le_bytes());
        out[24..28].copy_from_slice(&self.partitions.to_le_bytes());
        out[28..36].copy_from_slice(&self.content.to_le_bytes());
        let crc = crc32c::crc32c(&out[..36]);
        out[36..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(record: &[u8; RECORD_BYTES]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| record[at + i]));
        (crc32c::crc32c(&record[..36]) == word(36)).then(|| Self {
            sequence: long(0),
            base_time_ns: long(8) as i64,
            spans: word(16),
            variant: word(20),
            partitions: word(24),
            content: long(28),
        })
    }
}

/// Appends entries from a thread of its own, many to one `fdatasync`.
#[derive(Debug)]
pub struct Writer {
    entries: mpsc::SyncSender<Entry>,
    thread: std::thread::JoinHandle<std::io::Result<()>>,
}

impl Writer {
    /// Creates `path` (an existing file is not overwritten); `durable` is told of each group after it is on disk.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn create(
        path: &Path,
        header: &Header,
        durable: impl Fn(&[Entry]) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let mut file =
            File::create_new(path).with_context(|| format!("creating the ledger {}", path.display()))?;
        writeln!(file, "{}", serde_json::to_string(header)?)?;
        file.sync_all()?;
        let (entries, incoming) = mpsc::sync_channel::<Entry>(4_096);
        let thread = std::thread::Builder::new().name("ledger".into()).spawn(move || {
            let mut group = Vec::new();
            let mut bytes = Vec::new();
            while let Ok(first) = incoming.recv() {
                group.clear();
                group.push(first);
                group.extend(incoming.try_iter().take(4_095));
                bytes.clear();
                bytes.extend(group.iter().flat_map(Entry::encode));
                file.write_all(&bytes)?;
                file.sync_data()?;
                durable(&group);
            }
            Ok(())
        })?;
        Ok(Self { entries, thread })
    }

    /// A handle for senders. The writer ends when all handles are gone and [`close`](Self::close) is called.
    #[must_use]
    pub fn handle(&self) -> mpsc::SyncSender<Entry> {
        self.entries.clone()
    }

    /// Waits until everything is on disk.
    ///
    /// # Errors
    /// If a write failed; what was not reported as durable is then not in the ledger.
    pub fn close(self) -> anyhow::Result<()> {
        drop(self.entries);
        match self.thread.join() {
            Ok(result) => result.context("writing the ledger"),
            Err(_) => bail!("the ledger's thread panicked"),
        }
    }
}

/// Reads a ledger whole.
///
/// # Errors
/// If it cannot be read or is not one.
pub fn read(path: &Path) -> anyhow::Result<(Header, Vec<Entry>)> {
    let file = File::open(path).with_context(|| format!("opening the ledger {}", path.display()))?;
    let mut reader = BufReader::new(file);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let header: Header = serde_json::from_str(&line).context("the ledger's first line")?;
    ensure!(header.format == FORMAT && header.version == 1, "not a ledger of version 1: {line}");
    let mut bytes = Vec::new();
    reader.read_to_end(&mut bytes)?;
    let mut entries = Vec::with_capacity(bytes.len() / RECORD_BYTES);
    for record in bytes.as_chunks::<RECORD_BYTES>().0 {
        let Some(entry) = Entry::decode(record) else { break };
        entries.push(entry);
    }
    Ok((header, entries))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Scenario: 1,000 entries, then a torn tail. Guarantee: all are reported durable, read back in order, the tail
    /// ignored; an existing ledger is not overwritten.
    #[test]
    fn entries_survive_and_a_torn_tail_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let header = Header::new(5, 6, 1_000, "native", "");
        let durable = Arc::new(Mutex::new(0));
        let seen = Arc::clone(&durable);
        let writer =
            Writer::create(&path, &header, move |group| *seen.lock().unwrap() += group.len()).unwrap();
        let entries: Vec<Entry> = (0..1_000)
            .map(|sequence| Entry {
                sequence,
                base_time_ns: -1,
                spans: 3,
                variant: 4,
                partitions: 8,
                content: u64::MAX - sequence,
            })
            .collect();
        let handle = writer.handle();
        entries.iter().for_each(|entry| handle.send(*entry).unwrap());
        drop(handle);
        writer.close().unwrap();
        assert_eq!(*durable.lock().unwrap(), 1_000);
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&[1; 39]).unwrap();
        assert_eq!(read(&path).unwrap(), (header.clone(), entries));
        assert!(Writer::create(&path, &header, |_| ()).is_err());
    }
}
