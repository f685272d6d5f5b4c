//! The lake's side of an audit: what the files that count hold of each range of offsets, and what compactions took out.

use std::{collections::BTreeMap, ops::Range};

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::TryStreamExt as _;
use infertrace_schemas::{
    audit::{self, Sum},
    lake::{Manifest, compaction::Compaction, live::LiveFile, live::LiveFiles, parse_numbered_path},
};
use object_store::{ObjectStore as _, ObjectStoreExt as _, path::Path};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::{AuditError, Auditor, Read, index_of};

impl Auditor<'_> {
    /// Every compaction, ascending.
    pub(super) async fn compactions(&self) -> Result<Vec<Compaction>, AuditError> {
        let folder = Path::from(self.root.compactions());
        let mut paths: Vec<Path> =
            self.store.list(Some(&folder)).map_ok(|object| object.location).try_collect().await?;
        paths.retain(|path| parse_numbered_path(path.as_ref()).is_some());
        paths.sort_unstable();
        let mut compactions = Vec::with_capacity(paths.len());
        for path in paths {
            let bytes = self.store.get(&path).await?.bytes().await?;
            compactions.push(Compaction::parse(path.as_ref(), &bytes)?);
        }
        Ok(compactions)
    }

    /// What the files that count hold of each of `audited`; the log has those from number `gone` on.
    pub(super) async fn read_lake(
        &self,
        manifests: &[Manifest],
        compactions: &[Compaction],
        audited: &[Manifest],
        gone: usize,
        read: Read<'_>,
    ) -> Result<Vec<Found>, AuditError> {
        let mut found = vec![Found::default(); audited.len()];
        let (Some(first), Some(last)) = (audited.first(), audited.last()) else { return Ok(found) };
        let mut live: LiveFiles = LiveFiles::default();
        manifests.iter().for_each(|manifest| live.add(manifest, |file| file));
        for (number, compaction) in (0..).zip(compactions) {
            if !live.apply(compaction, |file| file) {
                found[0].faults.push(format!("compaction {number} is missing, and later ones are there"));
                break;
            }
            for dropped in compaction.dropped.iter().filter(|_| compaction.partition == self.partition) {
                if let Some(index) = index_of(audited, dropped.start) {
                    found[index].forgotten += dropped.sum();
                }
            }
        }
        let is_audited = |file: &&LiveFile| {
            file.partition == self.partition && file.next > first.start && file.start < last.next
        };
        let mut files: Vec<&LiveFile> = live.iter().filter(is_audited).collect();
        files.sort_by_key(|file| file.start);
        let mut done = gone;
        for file in files {
            while audited.get(done).is_some_and(|range| range.next <= file.start) {
                read(audited[done].next - audited[done].start);
                done += 1;
            }
            self.read_file(file, audited, &mut found).await?;
        }
        audited.iter().skip(done).for_each(|range| read(range.next - range.start));
        Ok(found)
    }

    /// Adds the rows of `file` to the ranges they belong to.
    async fn read_file(
        &self,
        file: &LiveFile,
        audited: &[Manifest],
        found: &mut [Found],
    ) -> Result<(), AuditError> {
        let index = index_of(audited, file.start.max(audited[0].start)).unwrap_or_default();
        let path = Path::from(self.root.join(&file.data.path));
        let bytes = match self.store.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => {
                let merged = self.compactions().await?;
                let is_merged = merged.iter().any(|one| one.removes.contains(&file.data.path));
                found[index].faults.push(if is_merged {
                    format!(
                        "{path} was merged and removed while the audit ran: audit again, or raise sink.compaction.grace_ms"
                    )
                } else {
                    format!("{path} is in the lake's list and does not exist")
                });
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let (partition, range) = (i64::from(file.partition), file.start..file.next);
        let ends: Vec<Range<u64>> = audited.iter().map(|one| one.start..one.next).collect();
        let read = tokio::task::spawn_blocking(move || sums_of(bytes, partition, &range, &ends)).await;
        match read.unwrap_or_else(|panic| Err(panic.to_string())) {
            Ok(read) => {
                if read.rows != file.data.rows {
                    let (rows, listed) = (read.rows, file.data.rows);
                    found[index]
                        .faults
                        .push(format!("{path} has {rows} rows, the lake's list says {listed}"));
                }
                if read.strays > 0 {
                    let strays = read.strays;
                    found[index].faults.push(format!("{path} has {strays} rows of other records"));
                }
                for (index, sum) in read.sums {
                    found[index].sum += sum;
                }
            }
            Err(error) => found[index].faults.push(format!("{path} cannot be read: {error}")),
        }
        Ok(())
    }
}

/// What the lake has of one range.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    pub(super) sum: Sum,
    pub(super) forgotten: Sum,
    pub(super) faults: Vec<String>,
}

/// What a data file holds.
struct FileSums {
    rows: u64,
    /// Rows of other records than the file's.
    strays: u64,
    /// By number of the range.
    sums: BTreeMap<usize, Sum>,
}

/// Sums the rows of a data file of the offsets `own` by those of `ranges`, which ascend.
fn sums_of(
    bytes: Bytes,
    partition: i64,
    own: &Range<u64>,
    ranges: &[Range<u64>],
) -> Result<FileSums, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|error| text(&error))?;
    let mask = ProjectionMask::columns(builder.parquet_schema(), audit::COLUMNS.iter().copied());
    let reader =
        builder.with_projection(mask).with_batch_size(8_192).build().map_err(|error| text(&error))?;
    let mut read = FileSums { rows: 0, strays: 0, sums: BTreeMap::new() };
    for batch in reader {
        let batch: RecordBatch = batch.map_err(|error| text(&error))?;
        audit::rows(&batch, |row| {
            let offset = row.offset.cast_unsigned();
            read.rows += 1;
            read.strays += u64::from(i64::from(row.partition) != partition || !own.contains(&offset));
            let index = ranges.partition_point(|range| range.start <= offset).checked_sub(1);
            if let Some(index) = index.filter(|index| ranges[*index].contains(&offset)) {
                read.sums.entry(index).or_default().add(row.hash);
            }
        })
        .map_err(|error| text(&error))?;
    }
    Ok(read)
}
