//! What an interrupted replay goes on from: positions, watermarks, the analysts, and how much was told.
//!
//! Invariant: the file is of one moment, at which everything before the positions was counted, analysed and durable in
//! the output topics, and nothing after them.

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    ReplayError, Request, Tally,
    prices::Tables,
    stages::{Read, Resumed},
};
use crate::samples::SeriesGroup;

const VERSION: u32 = 3;

/// Where the first stage stands at a checkpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct Stand {
    /// Sources and where they would go on.
    pub(super) sources: BTreeMap<u32, Resumed>,
    /// The series of those that are partitions of the samples topic.
    pub(super) series: BTreeMap<u32, Vec<SeriesGroup>>,
    /// What was read.
    pub(super) read: Read,
}

impl Stand {
    /// Adds another thread's.
    pub(super) fn add(&mut self, other: Self) {
        self.sources.extend(other.sources);
        self.series.extend(other.series);
        self.read.add(&other.read);
    }
}

/// End of each partition of the output topics.
pub(super) type Ends = BTreeMap<String, u64>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct State {
    version: u32,
    /// Of everything that decides what comes out.
    fingerprint: String,
    pub(super) id: String,
    /// Partitions that are not read to their end.
    pub(super) sources: BTreeMap<u32, Resumed>,
    /// Their series, by source and group.
    series: BTreeMap<u32, BTreeMap<u8, String>>,
    /// Partitions that are.
    pub(super) done: Vec<u32>,
    analysts: Vec<String>,
    pub(super) read: Read,
    pub(super) told: Tally,
    pub(super) ends: Ends,
}

/// What decides the outputs of a replay.
fn fingerprint(request: &Request, tables: &Tables) -> String {
    let Request { id, from_ms, to_ms, warm_up_ms, filter, processor, analyst, dry_run, .. } = request;
    let prices = tables.versions();
    let text = format!(
        "{id} {from_ms} {to_ms} {warm_up_ms} {dry_run} {filter:?} {processor:?} {prices} {analyst:?}"
    );
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

impl State {
    pub(super) fn new(request: &Request, tables: &Tables, mut stand: Stand, done: Vec<u32>) -> Self {
        stand.sources.retain(|source, _| !done.contains(source));
        stand.series.retain(|source, _| !done.contains(source));
        let encoded = |groups: Vec<SeriesGroup>| -> BTreeMap<u8, String> {
            groups.iter().map(|group| (group.group, STANDARD.encode(group.encode()))).collect()
        };
        Self {
            version: VERSION,
            fingerprint: fingerprint(request, tables),
            id: request.id.clone(),
            sources: stand.sources,
            series: stand.series.into_iter().map(|(source, groups)| (source, encoded(groups))).collect(),
            done,
            analysts: Vec::new(),
            read: stand.read,
            told: Tally::default(),
            ends: Ends::new(),
        }
    }

    pub(super) fn set_analysts(&mut self, snapshots: &[Vec<u8>]) {
        self.analysts = snapshots.iter().map(|bytes| STANDARD.encode(bytes)).collect();
    }

    pub(super) fn analysts(&self, path: &Path) -> Result<Vec<Vec<u8>>, ReplayError> {
        let decode = |text: &String| STANDARD.decode(text).map_err(|error| wrong(path, &error.to_string()));
        self.analysts.iter().map(decode).collect()
    }

    /// The series that were kept of `source`.
    pub(super) fn series_of(&self, source: u32, path: &Path) -> Result<Vec<SeriesGroup>, ReplayError> {
        let decode = |(&group, text): (&u8, &String)| {
            let bytes = STANDARD.decode(text).map_err(|error| wrong(path, &error.to_string()))?;
            SeriesGroup::decode(group, &bytes).map_err(|error| wrong(path, &error.to_string()))
        };
        self.series.get(&source).into_iter().flatten().map(decode).collect()
    }

    /// The state in `path`, if there is one.
    pub(super) fn read(path: &Path, request: &Request, tables: &Tables) -> Result<Option<Self>, ReplayError> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| wrong(path, &error.to_string()))?,
        };
        let state: Self = serde_json::from_slice(&bytes)
            .map_err(|error| wrong(path, &format!("no replay's state ({error}); remove it to begin anew")))?;
        if state.version != VERSION || state.fingerprint != fingerprint(request, tables) {
            let detail = format!(
                "is of another replay ({}) or of other settings; give its flags, another file, or remove it",
                state.id
            );
            return Err(wrong(path, &detail));
        }
        Ok(Some(state))
    }

    /// Whole or not at all.
    pub(super) fn write(&self, path: &Path) -> Result<(), ReplayError> {
        let temporary = path.with_extension("partial");
        let bytes = serde_json::to_vec(self).map_err(|error| wrong(path, &error.to_string()))?;
        std::fs::write(&temporary, bytes)
            .and_then(|()| std::fs::rename(&temporary, path))
            .map_err(|error| wrong(path, &error.to_string()))
    }
}

fn wrong(path: &Path, detail: &str) -> ReplayError {
    ReplayError::State { path: path.display().to_string(), detail: detail.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use infertrace_analytics::{
        config::AnalystConfig,
        rollup::{Counter, Shape},
    };
    use infertrace_proto::v1::{GpuSampleBatch, Sample, sample};
    use infertrace_runtime::log::{Millis, Offset, Record, TopicPartition};
    use infertrace_schemas::topics;
    use prost::Message as _;

    use super::{
        super::{samples::SampleStage, stages::Counted},
        *,
    };
    use crate::{Config, partials::sample_source};

    const SOURCE: u32 = sample_source(0);
    const RECORDS: u64 = 12;

    /// What an engine counts, which starts anew at the seventh record.
    fn record(number: u64) -> Record {
        let total = number % 6 * 100 + number;
        let counted = Sample {
            name: "vllm:num_preemptions_total".to_owned(),
            unit: "1".to_owned(),
            time_unix_nano: (1_700_000_000_000 + number.cast_signed() * 4_000) * 1_000_000,
            temporality: 2,
            value: Some(sample::Value::Number(total as f64)),
            ..Sample::default()
        };
        let batch = GpuSampleBatch { samples: vec![counted], ..GpuSampleBatch::default() };
        Record {
            from: TopicPartition::new(topics::GPU, 0),
            offset: Offset(number),
            timestamp: Millis(1_700_000_000_000 + number.cast_signed() * 4_000),
            key: None,
            payload: Some(batch.encode_to_vec().into()),
            headers: Vec::new(),
        }
    }

    fn stage(config: &Config) -> SampleStage {
        SampleStage::new(config, config.pricer().expect("the built-in table"))
    }

    /// Preemptions by window.
    fn growth(counted: &[Counted]) -> BTreeMap<i64, u64> {
        let mut sums = BTreeMap::new();
        for partial in counted.iter().flat_map(|counted| &counted.partials) {
            assert_eq!(partial.key.shape(), Shape::Engine);
            *sums.entry(partial.window_ms).or_default() += partial.cell.get(Counter::Preemptions);
        }
        sums
    }

    /// Scenario: counts of an engine, the replay interrupted after any of their records and gone on with from its file.
    /// Guarantee: growth is counted by window as without an interruption; a damaged file is named.
    #[test]
    fn counts_go_on_from_the_file() {
        let request = Request {
            id: "test".to_owned(),
            from_ms: 0,
            to_ms: 1,
            warm_up_ms: 0,
            filter: super::super::Filter::default(),
            processor: Config::default(),
            prices: None,
            analyst: AnalystConfig::default(),
            rate: None,
            dry_run: false,
            threads: 1,
            allow_gaps: false,
            state: None,
            checkpoint: Duration::ZERO,
            replication: 1,
        };
        let tables = Tables::of(&request).expect("the built-in table");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("replay.json");
        let mut expected = Vec::new();
        let mut whole = stage(&request.processor);
        whole.assign(SOURCE, Resumed::default(), Vec::new());
        whole.records(&(0..RECORDS).map(record).collect::<Vec<_>>(), &mut expected);
        whole.finish(SOURCE, i64::MAX / 2, &mut expected);
        assert!(growth(&expected).values().sum::<u64>() > 900);
        for cut in 0..=RECORDS {
            let mut counted = Vec::new();
            let mut first = stage(&request.processor);
            first.assign(SOURCE, Resumed::default(), Vec::new());
            first.records(&(0..cut).map(record).collect::<Vec<_>>(), &mut counted);
            let (sources, series) = first.checkpoint(&mut counted);
            let stand = Stand { sources, series, read: Read::default() };
            State::new(&request, &tables, stand, Vec::new()).write(&path).expect("written");

            let state = State::read(&path, &request, &tables).expect("readable").expect("there");
            let kept = state.series_of(SOURCE, &path).expect("series");
            let resumed = state.sources[&SOURCE];
            assert_eq!(resumed.rolled_to, cut);
            let mut second = stage(&request.processor);
            second.assign(SOURCE, resumed, kept);
            second.records(&(cut..RECORDS).map(record).collect::<Vec<_>>(), &mut counted);
            second.finish(SOURCE, i64::MAX / 2, &mut counted);
            assert_eq!(growth(&counted), growth(&expected), "cut after {cut}");
        }
        let text = std::fs::read_to_string(&path).expect("there");
        let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        json["series"] = serde_json::json!({ SOURCE.to_string(): { "0": "%" } });
        std::fs::write(&path, json.to_string()).expect("written");
        let state = State::read(&path, &request, &tables).expect("readable").expect("there");
        let error = state.series_of(SOURCE, &path).expect_err("damaged").to_string();
        assert!(error.contains("replay.json"), "{error}");
    }
}
