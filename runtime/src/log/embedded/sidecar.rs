//! The `.idx` file beside a sealed segment: where each record of each partition stands.
//!
//! ```text
//! header(32): magic(8) seq(8) segment length(8) tables(4) crc(4, over the rest and the directory)
//! directory : table(64)*    entries: entry(48, its own crc)*
//! ```
//! Written once, atomically, when the segment is sealed. A missing or damaged sidecar is rebuilt from
//! its segment, so it is a shortcut and never a source of truth.

use std::{fs::File, io, os::unix::fs::FileExt, sync::Arc};

use super::{
    disk::write_atomically,
    segment::Segment,
    state::{Entries, IndexEntry, Run, State},
};

const MAGIC: [u8; 8] = *b"ITLOGIX1";
const HEADER: usize = 32;
const TABLE: usize = 64;
pub(super) const ENTRY: usize = 48;

/// One partition's run in a sealed segment.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) topic: u32,
    pub(super) partition: u32,
    pub(super) carried: bool,
    pub(super) run: Run,
}

fn encode_entry(entry: &IndexEntry, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&entry.offset.to_le_bytes());
    out.extend_from_slice(&entry.timestamp.to_le_bytes());
    out.extend_from_slice(&entry.position.to_le_bytes());
    out.extend_from_slice(&entry.len.to_le_bytes());
    out.extend_from_slice(&entry.key[0].to_le_bytes());
    out.extend_from_slice(&entry.key[1].to_le_bytes());
    let crc = crc32c::crc32c(&out[start..]);
    out.extend_from_slice(&crc.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
}

fn invalid(detail: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn decode_entry(bytes: &[u8]) -> io::Result<IndexEntry> {
    if crc32c::crc32c(&bytes[..40]) != u32_at(bytes, 40) {
        return Err(invalid("index entry checksum mismatch"));
    }
    Ok(IndexEntry {
        offset: u64_at(bytes, 0),
        timestamp: u64_at(bytes, 8).cast_signed(),
        position: u32_at(bytes, 16),
        len: u32_at(bytes, 20),
        key: [u64_at(bytes, 24), u64_at(bytes, 32)],
    })
}

/// The runs of `segment` that are still in memory, as tables.
pub(super) fn tables_of(state: &State, segment: &Arc<Segment>) -> Vec<Table> {
    let mut tables = Vec::new();
    for (topic, index, partition) in state.partitions() {
        for (carried, runs) in [(false, &partition.regular), (true, &partition.carried)] {
            if let Some(run) = runs.iter().rev().find(|run| run.segment.header.seq == segment.header.seq) {
                tables.push(Table { topic: topic.meta.id, partition: index, carried, run: run.clone() });
            }
        }
    }
    tables
}

/// Writes the sidecar; returns for each table where its entries are now.
pub(super) fn write(segment: &Segment, tables: &[Table]) -> io::Result<Vec<Entries>> {
    let mut places = Vec::with_capacity(tables.len());
    let mut directory = Vec::with_capacity(tables.len() * TABLE);
    let mut entries = Vec::new();
    let entries_at = (HEADER + tables.len() * TABLE) as u64;
    for table in tables {
        let position = entries_at + entries.len() as u64;
        let Entries::Memory(list) = &table.run.entries else {
            return Err(invalid("the run is on disk already"));
        };
        for entry in list {
            encode_entry(entry, &mut entries);
        }
        let count = u32::try_from(list.len()).expect("records of a segment fit u32");
        directory.extend_from_slice(&table.topic.to_le_bytes());
        directory.extend_from_slice(&table.partition.to_le_bytes());
        directory.extend_from_slice(&u32::from(table.carried).to_le_bytes());
        directory.extend_from_slice(&count.to_le_bytes());
        directory.extend_from_slice(&table.run.base.to_le_bytes());
        directory.extend_from_slice(&table.run.last.to_le_bytes());
        directory.extend_from_slice(&table.run.max_timestamp.to_le_bytes());
        directory.extend_from_slice(&table.run.bytes.to_le_bytes());
        directory.extend_from_slice(&position.to_le_bytes());
        directory.extend_from_slice(&table.run.min_timestamp.to_le_bytes());
        places.push(Entries::Disk { position, count });
    }
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&segment.header.seq.to_le_bytes());
    header[16..24].copy_from_slice(&segment.len().to_le_bytes());
    header[24..28].copy_from_slice(&u32::try_from(tables.len()).expect("few partitions").to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..28]), &directory);
    header[28..].copy_from_slice(&crc.to_le_bytes());
    write_atomically(&segment.index_path(), &[&header, &directory, &entries])?;
    Ok(places)
}

/// Turns the runs of tables that were written into ones that read the sidecar.
pub(super) fn adopt(tables: &mut [Table], places: Vec<Entries>) {
    for (table, place) in tables.iter_mut().zip(places) {
        table.run.entries = place;
    }
}

/// Reads the directory and sets the segment's length; the entries stay on disk.
pub(super) fn open(segment: &Arc<Segment>) -> io::Result<Vec<Table>> {
    let file = File::open(segment.index_path())?;
    let file_len = file.metadata()?.len();
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0)?;
    if header[..8] != MAGIC || u64_at(&header, 8) != segment.header.seq {
        return Err(invalid("not this segment's index"));
    }
    let tables = u32_at(&header, 24) as usize;
    if (HEADER + tables * TABLE) as u64 > file_len {
        return Err(invalid("index shorter than its directory"));
    }
    let mut directory = vec![0; tables * TABLE];
    file.read_exact_at(&mut directory, HEADER as u64)?;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..28]), &directory);
    if crc != u32_at(&header, 28) {
        return Err(invalid("index directory checksum mismatch"));
    }
    segment.set_len(u64_at(&header, 16));
    let mut out = Vec::with_capacity(tables);
    for table in directory.chunks_exact(TABLE) {
        let count = u32_at(table, 12);
        let position = u64_at(table, 48);
        if position + u64::from(count) * ENTRY as u64 > file_len {
            return Err(invalid("index shorter than its entries"));
        }
        let run = Run {
            segment: segment.clone(),
            base: u64_at(table, 16),
            last: u64_at(table, 24),
            min_timestamp: u64_at(table, 56).cast_signed(),
            max_timestamp: u64_at(table, 32).cast_signed(),
            bytes: u64_at(table, 40),
            entries: Entries::Disk { position, count },
        };
        out.push(Table {
            topic: u32_at(table, 0),
            partition: u32_at(table, 4),
            carried: u32_at(table, 8) != 0,
            run,
        });
    }
    Ok(out)
}

/// Reads up to `limit` entries of a run, from the first at or after `offset`.
pub(super) fn load(run: &Run, offset: u64, limit: usize) -> io::Result<Vec<IndexEntry>> {
    match &run.entries {
        Entries::Memory(entries) => {
            let start = entries.partition_point(|entry| entry.offset < offset);
            Ok(entries[start..entries.len().min(start + limit)].to_vec())
        }
        Entries::Disk { position, count } => {
            let file = run.segment.index_file()?;
            let start = find(&file, *position, *count, run, offset)?;
            read(&file, *position, start, (*count - start).min(u32::try_from(limit).unwrap_or(u32::MAX)))
        }
    }
}

fn read(file: &File, position: u64, start: u32, count: u32) -> io::Result<Vec<IndexEntry>> {
    let mut bytes = vec![0; count as usize * ENTRY];
    file.read_exact_at(&mut bytes, position + u64::from(start) * ENTRY as u64)?;
    bytes.chunks_exact(ENTRY).map(decode_entry).collect()
}

/// Index of the first entry at or after `offset`: arithmetic where offsets are dense, else binary search.
fn find(file: &File, position: u64, count: u32, run: &Run, offset: u64) -> io::Result<u32> {
    if offset <= run.base {
        return Ok(0);
    }
    if run.last - run.base + 1 == u64::from(count) {
        return Ok(u32::try_from(offset - run.base).unwrap_or(count).min(count));
    }
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low + (high - low) / 2;
        if read(file, position, middle, 1)?[0].offset < offset {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
