//! Thin file-system calls: lock, free space, preallocation, vectored writes, directory sync.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{self, IoSlice},
    path::{Path, PathBuf},
};

use rustix::fs::FallocateFlags;

use crate::log::LogError;

/// Slices that one `pwritev` takes on Linux.
const MAX_SLICES: usize = 1024;

pub(super) fn io_error(what: &str, path: &Path, error: &io::Error) -> LogError {
    LogError::Fatal(format!("{what} {}: {error}", path.display()))
}

/// A directory held by this process until it is dropped.
#[derive(Debug)]
pub(super) struct DirLock(File);

/// Closing the file would not do: a child that another thread has just forked holds the same lock until
/// it has executed its program.
impl Drop for DirLock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "the log's lock goes when its file is closed");
        }
    }
}

/// Locks the directory for this process.
pub(super) fn lock(dir: &Path) -> Result<DirLock, LogError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| io_error("cannot open", &path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(DirLock(file)),
        Err(TryLockError::WouldBlock) => Err(LogError::Fatal(format!(
            "{} is in use by another process; stop it or choose another data directory",
            dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(io_error("cannot lock", &path, &error)),
    }
}

/// Free bytes an unprivileged process may still write on the file system of `dir`.
pub(super) fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Reserves `len` bytes from `position` on; a file system that cannot is fine.
pub(super) fn preallocate(file: &File, position: u64, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), position, len) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
        other => other.map_err(Into::into),
    }
}

/// Makes created, renamed and removed names durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a small file so that it is there whole or not at all, even after a power cut.
pub(super) fn write_atomically(path: &Path, pieces: &[&[u8]]) -> io::Result<()> {
    let temporary = temporary(path);
    let file = File::create(&temporary)?;
    let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    write_all_at(&file, slices, 0)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_dir(path.parent().expect("files of the log have a directory"))
}

/// Name under which a file is prepared before it is renamed to `path`.
pub(super) fn temporary(path: &Path) -> PathBuf {
    path.with_extension("tmp")
}

/// Writes all slices at `position`, one system call where they fit.
pub(super) fn write_all_at(file: &File, mut slices: Vec<IoSlice<'_>>, mut position: u64) -> io::Result<()> {
    let mut rest = slices.as_mut_slice();
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        let written = match rustix::io::pwritev(file, &rest[..rest.len().min(MAX_SLICES)], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => written,
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        position += written as u64;
        IoSlice::advance_slices(&mut rest, written);
    }
    Ok(())
}

/// Whether a write failed for want of space, which passes, rather than for a broken disk, which does not.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
