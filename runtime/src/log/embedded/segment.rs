//! One segment file and its scan.
//!
//! Neighbours: [`super::recovery`] scans segments at opening, [`super::writer`] fills the last one,
//! [`super::read`] reads records out of any of them.
//! Invariant: a sealed segment never changes; only its name goes away.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    disk::io_error,
    format::{ALIGN, ENTRY_HEADER, EntryHeader, Op, SEGMENT_HEADER, SegmentHeader, check_entry},
};
use crate::log::LogError;

/// A segment file, sealed or active.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    pub(super) path: PathBuf,
    /// Bytes of header and entries.
    len: AtomicU64,
    /// Opened while someone reads.
    file: Mutex<Weak<File>>,
    index_file: Mutex<Weak<File>>,
}

impl Segment {
    pub(super) fn new(dir: &Path, header: SegmentHeader, len: u64) -> Self {
        Self {
            header,
            path: path(dir, header.seq),
            len: AtomicU64::new(len),
            file: Mutex::default(),
            index_file: Mutex::default(),
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    /// Sidecar with the index of the sealed segment.
    pub(super) fn index_path(&self) -> PathBuf {
        self.path.with_extension("idx")
    }

    /// The open file; shared by all who read it at the same time.
    pub(super) fn file(&self) -> io::Result<Arc<File>> {
        open_shared(&self.file, &self.path)
    }

    pub(super) fn index_file(&self) -> io::Result<Arc<File>> {
        open_shared(&self.index_file, &self.index_path())
    }

    pub(super) fn corrupt(&self, position: u64, detail: &str) -> LogError {
        corrupt(&self.path, position, detail)
    }
}

fn open_shared(shared: &Mutex<Weak<File>>, path: &Path) -> io::Result<Arc<File>> {
    let mut shared = shared.lock();
    if let Some(file) = shared.upgrade() {
        return Ok(file);
    }
    let file = Arc::new(File::open(path)?);
    *shared = Arc::downgrade(&file);
    Ok(file)
}

pub(super) fn corrupt(path: &Path, position: u64, detail: &str) -> LogError {
    LogError::Corrupt { path: path.display().to_string(), position, detail: detail.to_owned() }
}

/// File name of segment `seq`.
pub(super) fn path(dir: &Path, seq: u64) -> PathBuf {
    dir.join(format!("segment-{seq:020}.log"))
}

/// Number in a segment's file name.
pub(super) fn seq_of(name: &str) -> Option<u64> {
    name.strip_prefix("segment-")?.strip_suffix(".log")?.parse().ok()
}

/// Why a scan ended before the end of the file.
#[derive(Debug)]
pub(super) struct Stop {
    /// Where the first bytes stand that are no whole entry.
    pub(super) position: u64,
    pub(super) detail: &'static str,
    /// Whether a later entry proves that these bytes were durable once: damage, not a torn tail.
    pub(super) damaged: bool,
    /// Whether anything but zeros follows.
    pub(super) garbage: bool,
}

/// What one step of a scan found.
#[derive(Debug)]
pub(super) enum Step {
    Entry,
    End,
    Stop(Stop),
}

/// Reads a segment from its start, checking every byte.
pub(super) struct Scan {
    path: PathBuf,
    file: File,
    file_len: u64,
    pub(super) header: SegmentHeader,
    buffer: Vec<u8>,
    /// Position of the buffer's first byte in the file.
    buffer_at: u64,
    position: u64,
    entries: u64,
}

const CHUNK: usize = 1 << 20;

impl Scan {
    pub(super) fn open(path: &Path) -> Result<Self, LogError> {
        let failed = |error: io::Error| io_error("cannot read", path, &error);
        let file = File::open(path).map_err(failed)?;
        let file_len = file.metadata().map_err(failed)?.len();
        let mut head = [0; SEGMENT_HEADER];
        if file_len < SEGMENT_HEADER as u64 {
            return Err(corrupt(path, 0, "shorter than a segment header"));
        }
        file.read_exact_at(&mut head, 0).map_err(failed)?;
        let header = SegmentHeader::decode(&head).map_err(|detail| corrupt(path, 0, detail))?;
        let position = SEGMENT_HEADER as u64;
        let path = path.to_owned();
        Ok(Self { path, file, file_len, header, buffer: Vec::new(), buffer_at: 0, position, entries: 0 })
    }

    /// Calls `visit` with the position and the operations of each whole entry. `Ok(None)` when they
    /// fill the file exactly.
    pub(super) fn run(
        &mut self,
        mut visit: impl FnMut(u64, &[Op<'_>]) -> Result<(), LogError>,
    ) -> Result<Option<Stop>, LogError> {
        loop {
            match self.step(&mut visit)? {
                Step::Entry => {}
                Step::End => return Ok(None),
                Step::Stop(stop) => return Ok(Some(stop)),
            }
        }
    }

    /// Visits one entry.
    pub(super) fn step(
        &mut self,
        visit: impl FnOnce(u64, &[Op<'_>]) -> Result<(), LogError>,
    ) -> Result<Step, LogError> {
        let position = self.position;
        if position == self.file_len {
            return Ok(Step::End);
        }
        let entries = self.entries;
        let salt = self.header.salt;
        let header = match EntryHeader::decode(self.bytes(position, ENTRY_HEADER)?, salt) {
            Ok(header) if header.number == entries => header,
            Ok(_) => return self.stop("entry out of order").map(Step::Stop),
            Err(detail) => return self.stop(detail).map(Step::Stop),
        };
        let bytes = self.bytes(position, header.total())?;
        if bytes.len() < header.total() {
            return self.stop("truncated entry").map(Step::Stop);
        }
        match check_entry(bytes, header, salt) {
            Ok(ops) => visit(position, &ops)?,
            Err(detail) => return self.stop(detail).map(Step::Stop),
        }
        self.position += header.total() as u64;
        self.entries += 1;
        Ok(Step::Entry)
    }

    /// Position after the last whole entry.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Whole entries so far.
    pub(super) fn entries(&self) -> u64 {
        self.entries
    }

    /// `len` bytes at `position`, fewer at the end of the file.
    fn bytes(&mut self, position: u64, len: usize) -> Result<&[u8], LogError> {
        let len = len.min(usize::try_from(self.file_len - position).unwrap_or(usize::MAX));
        let offset = position.wrapping_sub(self.buffer_at) as usize;
        let buffered = position >= self.buffer_at && offset + len <= self.buffer.len();
        if !buffered {
            let want = len.max(CHUNK).min(usize::try_from(self.file_len - position).unwrap_or(usize::MAX));
            self.buffer.resize(want, 0);
            self.file
                .read_exact_at(&mut self.buffer, position)
                .map_err(|error| io_error("cannot read", &self.path, &error))?;
            self.buffer_at = position;
        }
        let offset = (position - self.buffer_at) as usize;
        Ok(&self.buffer[offset..offset + len])
    }

    /// Looks at what follows the first bad byte, to tell a torn tail from damage.
    fn stop(&mut self, detail: &'static str) -> Result<Stop, LogError> {
        let stopped_at = self.position;
        let salt = self.header.salt;
        let mut garbage = false;
        let mut damaged = false;
        let mut position = stopped_at;
        while position < self.file_len && !damaged {
            if let Some(data) = next_data(&self.file, position)
                && data > position
            {
                position = (data - data % ALIGN as u64).max(position);
            }
            let chunk = self.bytes(position, CHUNK)?;
            garbage = garbage || chunk.iter().any(|byte| *byte != 0);
            damaged = (0..chunk.len().saturating_sub(ENTRY_HEADER - 1)).step_by(ALIGN).any(|at| {
                EntryHeader::decode(&chunk[at..at + ENTRY_HEADER], salt)
                    .is_ok_and(|header| header.durable > stopped_at)
            });
            // Chunks overlap by a header, so that one across their border is seen.
            let step = if chunk.len() == CHUNK { CHUNK - ENTRY_HEADER } else { chunk.len() };
            position += step as u64;
        }
        Ok(Stop { position: stopped_at, detail, damaged, garbage })
    }
}

/// Start of the next allocated bytes at or after `position`; skips what was only reserved.
fn next_data(file: &File, position: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(position)) {
        Ok(at) => Some(at),
        Err(rustix::io::Errno::NXIO) => Some(file.metadata().ok()?.len()),
        Err(_) => None,
    }
}
