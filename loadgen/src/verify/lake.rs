//! Reads the lake twice: every data file that a plain glob sees, row by row, and every manifest and compaction. Both must
//! agree; files that were merged into others and wait for their removal are passed over.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context;
use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, FixedSizeBinaryArray, Float64Array, Int64Array, MapArray,
        RecordBatch, StringArray,
    },
    compute::cast,
    datatypes::{DataType, Int64Type, TimestampNanosecondType, UInt8Type},
};
use futures::TryStreamExt;
use infertrace_runtime::progress::Bar;
use infertrace_schemas::lake::{
    DataFileName, LakeRoot, Manifest, compaction::Compaction, live::LiveFile, live::LiveFiles,
};
use object_store::{ObjectStore, ObjectStoreExt, path::Path as StorePath};
use parquet::arrow::{ProjectionMask, arrow_reader::ParquetRecordBatchReaderBuilder};

use super::tally::{Found, Tally};
use crate::content::Content;

/// Where `infertrace up --data-dir` keeps its lake.
pub(super) fn folder_of(data_dir: &Path) -> PathBuf {
    data_dir.join("lake")
}

const COLUMNS: [&str; 13] = [
    "trace_id",
    "span_id",
    "parent_span_id",
    "start_time",
    "duration_ns",
    "service_name",
    "operation_name",
    "kind",
    "status_code",
    "attributes_string",
    "attributes_int",
    "attributes_double",
    "attributes_bool",
];

pub(super) async fn read(root: &str, tally: &mut Tally, bar: &Bar) -> anyhow::Result<()> {
    let (store, prefix) = open(root)?;
    let lake = LakeRoot::new(prefix.as_ref());
    let (live, merged) = read_manifests(store.as_ref(), &lake, tally).await?;
    let mut files: Vec<_> = store.list(Some(&StorePath::from(lake.spans()))).try_collect::<Vec<_>>().await?;
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let mut unmentioned: BTreeMap<String, u64> =
        live.iter().map(|file| (file.data.path.clone(), file.data.rows)).collect();
    let total = files.len();
    for (done, file) in files.into_iter().enumerate() {
        bar.show(done as u64, total as u64, |_| format!("{done} of {total} files"));
        let path = file.location.as_ref();
        if !path.ends_with(".parquet") {
            tally.fault(format!("{path} is in the lake's folder of data files and is none"));
            continue;
        }
        let name = DataFileName::parse(path).map(|name| name.path()).unwrap_or_default();
        if merged.contains(&name) {
            continue;
        }
        let bytes = store.get(&file.location).await?.bytes().await?;
        tally.read();
        let rows = match read_file(bytes, tally) {
            Ok(rows) => rows,
            Err(error) => {
                tally.fault(format!("{path} cannot be read: {error:#}"));
                continue;
            }
        };
        match unmentioned.remove(&name) {
            None => tally.fault(format!("{path} with {rows} rows is in no manifest")),
            Some(listed) if listed != rows => {
                tally.fault(format!("{path} has {rows} rows, its manifest says {listed}"));
            }
            Some(_) => {}
        }
    }
    for path in unmentioned.keys() {
        tally.fault(format!("{path} is in a manifest and does not exist"));
    }
    Ok(())
}

/// The files that count, and those merged into them; checks that the ranges of each partition follow one another.
async fn read_manifests(
    store: &dyn ObjectStore,
    lake: &LakeRoot,
    tally: &mut Tally,
) -> anyhow::Result<(LiveFiles, BTreeSet<String>)> {
    let mut objects: Vec<_> =
        store.list(Some(&StorePath::from(lake.all_manifests()))).try_collect::<Vec<_>>().await?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    let mut live: LiveFiles = LiveFiles::default();
    let keep = |file: LiveFile| file;
    let mut next: BTreeMap<u32, u64> = BTreeMap::new();
    for object in objects {
        let path = object.location.as_ref();
        let bytes = store.get(&object.location).await?.bytes().await?;
        let manifest: Manifest = match serde_json::from_slice(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                tally.fault(format!("{path} is not a manifest: {error}"));
                continue;
            }
        };
        if let Some(expected) = next.insert(manifest.partition, manifest.next)
            && expected != manifest.start
        {
            tally.fault(format!("{path} starts at {}, the one before ends at {expected}", manifest.start));
        }
        if !manifest.lost.is_empty() || !manifest.poison.is_empty() {
            tally.fault(format!(
                "{path} names {} lost ranges and {} poison records",
                manifest.lost.len(),
                manifest.poison.len()
            ));
        }
        for file in &manifest.files {
            if live.get(&file.path).is_some() {
                tally.fault(format!("{} is in two manifests", file.path));
            }
        }
        live.add(&manifest, keep);
    }
    let mut merged = BTreeSet::new();
    let mut objects: Vec<_> =
        store.list(Some(&StorePath::from(lake.compactions()))).try_collect::<Vec<_>>().await?;
    objects.sort_by(|a, b| a.location.cmp(&b.location));
    for object in objects {
        let bytes = store.get(&object.location).await?.bytes().await?;
        let compaction = Compaction::parse(object.location.as_ref(), &bytes)?;
        if !live.apply(&compaction, keep) {
            tally.fault(format!("{} is out of order: one before it is missing", object.location));
        }
        merged.extend(compaction.removes);
    }
    Ok((live, merged))
}

fn open(root: &str) -> anyhow::Result<(Arc<dyn ObjectStore>, StorePath)> {
    if !root.contains("://") {
        let folder = std::path::absolute(root)?;
        let store = object_store::local::LocalFileSystem::new_with_prefix(&folder)
            .with_context(|| format!("opening {}", folder.display()))?;
        return Ok((Arc::new(store), StorePath::default()));
    }
    let url = root.parse().with_context(|| format!("{root} is not a URL"))?;
    // Credentials and endpoints come from the environment, as AWS's own tools read them.
    let options = std::env::vars().map(|(key, value)| (key.to_ascii_lowercase(), value));
    let (store, path) = object_store::parse_url_opts(&url, options)?;
    Ok((store.into(), path))
}

fn read_file(bytes: bytes::Bytes, tally: &mut Tally) -> anyhow::Result<u64> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes)?;
    let schema = builder.parquet_schema();
    let mask = ProjectionMask::columns(schema, COLUMNS);
    let mut rows = 0;
    for batch in builder.with_projection(mask).with_batch_size(8_192).build()? {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        observe(&batch, tally)?;
    }
    Ok(rows)
}

fn observe(batch: &RecordBatch, tally: &mut Tally) -> anyhow::Result<()> {
    let column =
        |name: &str| batch.column_by_name(name).with_context(|| format!("no column {name} in the file"));
    let ids = |name: &str| -> anyhow::Result<FixedSizeBinaryArray> {
        let array = column(name)?;
        let fixed = array.as_fixed_size_binary_opt().cloned();
        fixed.with_context(|| format!("{name} is not fixed-size binary but {}", array.data_type()))
    };
    let text = |name: &str| -> anyhow::Result<StringArray> {
        Ok(cast(column(name)?, &DataType::Utf8)?.as_string::<i32>().clone())
    };
    let bytes = |name: &str| -> anyhow::Result<ArrayRef> { Ok(Arc::clone(column(name)?)) };
    let (trace_ids, span_ids, parents) = (ids("trace_id")?, ids("span_id")?, ids("parent_span_id")?);
    let (services, operations) = (text("service_name")?, text("operation_name")?);
    let starts = bytes("start_time")?;
    let starts = starts.as_primitive::<TimestampNanosecondType>();
    let durations = bytes("duration_ns")?;
    let durations = durations.as_primitive::<Int64Type>();
    let (kinds, statuses) =
        (cast(column("kind")?, &DataType::UInt8)?, cast(column("status_code")?, &DataType::UInt8)?);
    let (kinds, statuses) = (kinds.as_primitive::<UInt8Type>(), statuses.as_primitive::<UInt8Type>());
    let strings = Maps::<StringArray>::new(column("attributes_string")?)?;
    let integers = Maps::<Int64Array>::new(column("attributes_int")?)?;
    let doubles = Maps::<Float64Array>::new(column("attributes_double")?)?;
    let truths = Maps::<BooleanArray>::new(column("attributes_bool")?)?;
    for row in 0..batch.num_rows() {
        if !tally.is_of_run(trace_ids.value(row)) {
            tally.foreign();
            continue;
        }
        let mut content = Content::new(
            trace_ids.value(row),
            services.value(row),
            operations.value(row),
            kinds.value(row),
            statuses.value(row),
            durations.value(row),
        );
        strings.each(row, |key, values, at| content.string(key, values.value(at)));
        integers.each(row, |key, values, at| content.int(key, values.value(at)));
        doubles.each(row, |key, values, at| content.double(key, values.value(at)));
        truths.each(row, |key, values, at| content.bool(key, values.value(at)));
        tally.observe(&Found {
            trace_id: trace_ids.value(row),
            span_id: span_ids.value(row),
            parent_span_id: if parents.is_null(row) { &[] } else { parents.value(row) },
            start_ns: starts.value(row),
            content: content.digest(),
        });
    }
    Ok(())
}

/// A map column with values of one type.
struct Maps<V> {
    maps: MapArray,
    keys: StringArray,
    values: V,
}

impl<V: Array + Clone + 'static> Maps<V> {
    fn new(column: &ArrayRef) -> anyhow::Result<Self> {
        let maps = column.as_map_opt().context("an attribute column is not a map")?.clone();
        let keys = cast(maps.keys(), &DataType::Utf8)?.as_string::<i32>().clone();
        let values =
            maps.values().as_any().downcast_ref::<V>().context("a map with values of another type")?.clone();
        Ok(Self { maps, keys, values })
    }

    fn each(&self, row: usize, mut add: impl FnMut(&str, &V, usize)) {
        if self.maps.is_null(row) {
            return;
        }
        let offsets = self.maps.value_offsets();
        for at in offsets[row] as usize..offsets[row + 1] as usize {
            add(self.keys.value(at), &self.values, at);
        }
    }
}
