//! What an undisturbed processor makes of the same input: the input topics, copied record by record with their
//! offsets and times into an embedded log, and one `infertrace up` that reads them from the start.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use infertrace_analytics::rollup::{Cell, Exemplars, Key, Partial, WINDOW_MS, window_of};
use infertrace_processors::partials;
use infertrace_runtime::log::{
    Delivery, Log, NewRecord, Offset, Record, TopicPartition, TopicSpec,
    dead_letter::Entry,
    embedded::{Config, EmbeddedLog, Fsync},
    range::{Range, RangeReader},
};
use infertrace_schemas::topics;
use infertrace_tests::infertrace::{STOP_TIMEOUT, Setup};

const INPUTS: [&str; 2] = [topics::SPANS, topics::GPU];
/// Topics whose records must be equal, one by one.
const RECORDS: [&str; 4] = [topics::TRACES, topics::ROLLUPS, topics::BASELINES, topics::INSIGHTS];
const POLL_BYTES: usize = 4 << 20;

/// Every committed record of a topic, partition by partition.
pub(super) async fn read(log: &dyn Log, topic: &str) -> anyhow::Result<Vec<Record>> {
    let mut ranges = Vec::new();
    for partition in 0..log.partitions(topic).await? {
        let at = TopicPartition::new(topic, partition);
        let marks = log.watermarks(&at).await?;
        ranges.push(Range { at, from: marks.low, end: marks.high });
    }
    let mut reader = RangeReader::open(log, &ranges, 2 * POLL_BYTES).await?;
    let mut all = Vec::new();
    while let Some(records) = reader.next(POLL_BYTES).await? {
        all.extend(records);
    }
    all.sort_by(|a, b| (&a.from, a.offset).cmp(&(&b.from, b.offset)));
    Ok(all)
}

/// What a topic keeps: of baselines, whose topic is compacted, the latest of each key. Whether the earlier ones are there
/// still is up to the log.
pub(super) fn kept(topic: &str, records: Vec<Record>) -> Vec<Record> {
    if topic != topics::BASELINES {
        return records;
    }
    let mut latest = BTreeMap::new();
    for record in records {
        latest.insert((record.from.partition, record.key.clone()), record);
    }
    latest.into_values().collect()
}

/// The embedded log of a platform whose folder is `dir`.
pub(super) fn open(dir: &Path) -> anyhow::Result<Arc<EmbeddedLog>> {
    let config = Config { dir: dir.join("data"), fsync: Fsync::Never, ..Config::default() };
    Ok(EmbeddedLog::open(config)?)
}

/// All topics, as the platform creates them.
pub(super) async fn create_topics(log: &dyn Log, partitions: u32) -> anyhow::Result<()> {
    let spec = |topic: topics::Topic| TopicSpec {
        name: topic.name.into(),
        partitions: topic.partitions,
        retention: topic.retention,
        compacted: topic.compacted,
        replication: 1,
    };
    let specs: Vec<_> = topics::all(partitions).into_iter().map(spec).collect();
    Ok(log.create_topics(&specs).await?)
}

/// Copies the inputs; offsets must come out the same, since outputs hold them.
async fn copy(from: &dyn Log, to: &dyn Log) -> anyhow::Result<()> {
    create_topics(to, from.partitions(topics::SPANS).await?).await?;
    for topic in INPUTS {
        let mut deliveries = Vec::new();
        for record in read(from, topic).await? {
            let offset = record.offset;
            let copy = NewRecord {
                to: record.from,
                key: record.key,
                payload: record.payload,
                headers: record.headers,
                timestamp: record.timestamp,
            };
            deliveries.push((offset, to.append(copy)?));
            if deliveries.len() >= 1_000 {
                settle(&mut deliveries).await?;
            }
        }
        settle(&mut deliveries).await?;
    }
    Ok(())
}

async fn settle(deliveries: &mut Vec<(Offset, Delivery)>) -> anyhow::Result<()> {
    for (offset, delivery) in deliveries.drain(..) {
        let copied = delivery.await?;
        ensure!(copied == offset, "offset {} became {}: the topic has gaps", offset.0, copied.0);
    }
    Ok(())
}

/// Runs the undisturbed processor over a copy of `log`'s inputs and returns what it made of them.
pub(super) fn run(
    runtime: &tokio::runtime::Runtime,
    log: &dyn Log,
    dir: &Path,
    variables: &[(String, String)],
) -> anyhow::Result<Outputs> {
    let copied = open(dir)?;
    runtime.block_on(copy(log, copied.as_ref())).context("copying the inputs")?;
    copied.close();
    drop(copied);
    let mut setup = Setup::new(dir)?;
    setup.variables = variables.to_vec();
    let mut up = setup.up()?;
    let url = format!("{}/metrics", setup.addresses.api_url());
    super::wait_caught_up("the undisturbed processor", &url, Duration::from_secs(300), || up.check_alive())?;
    ensure!(up.terminate(STOP_TIMEOUT)?.success(), "not a clean end\n{}", up.tail());
    let log = open(dir)?;
    let outputs = runtime.block_on(Outputs::read(log.as_ref()));
    log.close();
    outputs
}

/// A record without its offset: partition, key, value.
type Fact = (u32, Vec<u8>, Vec<u8>);

/// What one source added to one key and window, whatever number of pieces it was written in.
type CellPlace = (u32, u32, i64, i64, Key);

/// Cells by partition of the partials, source, window, window of detectors, and key.
pub(super) type Cells = HashMap<CellPlace, (Cell, Exemplars)>;

/// Adds a piece of a cell.
pub(super) fn add_partial(cells: &mut Cells, partition: u32, source: u32, partial: &Partial) {
    let place = (partition, source, partial.window_ms, partial.seen_window_ms, partial.key.clone());
    let (cell, exemplars) = cells.entry(place).or_default();
    cell.merge(&partial.cell);
    exemplars.merge(&partial.exemplars);
}

/// Without the cells of windows that an input that ends at `time_ms` leaves open: when they are written is left to the run.
pub(super) fn closed_before(cells: &mut Cells, time_ms: i64) {
    let window_ms = time_ms - time_ms.rem_euclid(WINDOW_MS);
    cells.retain(|(_, _, window, _, _), _| *window < window_ms);
}

/// What a processor made of its input, in a form that does not depend on how it was cut into transactions.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    records: BTreeMap<&'static str, Vec<Fact>>,
    pub(super) cells: Cells,
    /// The first window that each source left open; what its watermark was within that is left to the run.
    open_windows: BTreeMap<(u32, u32), i64>,
    /// Origin and reason of each dead letter of the processor.
    letters: Vec<(String, u64, String)>,
}

impl Outputs {
    pub(super) async fn read(log: &dyn Log) -> anyhow::Result<Self> {
        let mut outputs = Self::default();
        for topic in RECORDS {
            let fact = |record: Record| {
                let bytes = |part: Option<bytes::Bytes>| part.map(|part| part.to_vec()).unwrap_or_default();
                (record.from.partition, bytes(record.key), bytes(record.payload))
            };
            let mut facts: Vec<Fact> = kept(topic, read(log, topic).await?).into_iter().map(fact).collect();
            facts.sort();
            outputs.records.insert(topic, facts);
        }
        for record in read(log, topics::PARTIALS).await? {
            outputs.add_partials(&record)?;
        }
        for record in read(log, topics::DLQ).await? {
            let Entry::Letter(letter) = Entry::of(&record) else { continue };
            // Every role that reads moves its own aside, and the oracle plays all of them.
            if letter.role != "processor" {
                continue;
            }
            let (at, offset) = letter.origin;
            outputs.letters.push((at.to_string(), offset.0, letter.error));
        }
        outputs.letters.sort();
        Ok(outputs)
    }

    fn add_partials(&mut self, record: &Record) -> anyhow::Result<()> {
        let payload = record.payload.as_deref().context("a record of partials without a value")?;
        let batch = partials::decode(payload)?;
        let partition = record.from.partition;
        for partial in batch.partials {
            add_partial(&mut self.cells, partition, batch.source, &partial);
        }
        if let Some(watermark) = batch.watermark_ms {
            let open = window_of(watermark.saturating_sub(super::pure_config().rollup_lateness_ms));
            let known = self.open_windows.entry((partition, batch.source)).or_insert(open);
            *known = open.max(*known);
        }
        Ok(())
    }

    /// Without the cells of [`closed_before`].
    pub(super) fn before(mut self, time_ms: i64) -> Self {
        closed_before(&mut self.cells, time_ms);
        self
    }

    /// Records by topic, and how many dead letters and cells.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts: BTreeMap<_, _> =
            self.records.iter().map(|(topic, facts)| (*topic, facts.len())).collect();
        counts.insert("cells", self.cells.len());
        counts.insert("dead letters", self.letters.len());
        counts
    }

    /// Fails with the first difference of each kind, unless `self` is what the oracle made.
    pub(super) fn ensure_equal(&self, oracle: &Self) -> anyhow::Result<()> {
        let mut wrong = Vec::new();
        for (topic, facts) in &self.records {
            let expected = oracle.records.get(topic).map(Vec::as_slice).unwrap_or_default();
            let (missing, surplus) = differences(facts, expected);
            if !missing.is_empty() || !surplus.is_empty() {
                wrong.push(format!(
                    "{topic}: {} records missing, {} too many or different; first missing {}, first surplus {}",
                    missing.len(),
                    surplus.len(),
                    show(missing.first()),
                    show(surplus.first()),
                ));
            }
        }
        if self.letters != oracle.letters {
            wrong.push(format!("dead letters {:#?}, the oracle's {:#?}", self.letters, oracle.letters));
        }
        let places: HashSet<_> = self.cells.keys().chain(oracle.cells.keys()).collect();
        let different = |place: &&CellPlace| self.cells.get(place) != oracle.cells.get(place);
        let places: Vec<_> = places.into_iter().filter(different).collect();
        if let Some(first) = places.first() {
            let (found, expected) = (self.cells.get(first), oracle.cells.get(first));
            wrong.push(format!("{} cells, as {first:?}: {found:?}, the oracle's {expected:?}", places.len()));
        }
        if self.open_windows != oracle.open_windows {
            wrong.push(format!(
                "open windows {:?}, the oracle's {:?}",
                self.open_windows, oracle.open_windows
            ));
        }
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        Ok(())
    }
}

/// What is in one sorted list and not in the other, counting repetitions.
fn differences<'f>(found: &'f [Fact], expected: &'f [Fact]) -> (Vec<&'f Fact>, Vec<&'f Fact>) {
    let (mut missing, mut surplus) = (Vec::new(), Vec::new());
    let (mut left, mut right) = (found.iter().peekable(), expected.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return (missing, surplus),
            (Some(a), Some(b)) if a == b => {
                left.next();
                right.next();
            }
            (Some(a), Some(b)) if a > b => missing.extend(right.next()),
            (None, Some(_)) => missing.extend(right.next()),
            (Some(_), _) => surplus.extend(left.next()),
        }
    }
}

fn show(fact: Option<&&Fact>) -> String {
    fact.map_or_else(
        || "-".to_owned(),
        |(partition, key, value)| {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("partition {partition}, key {}, value {hex}", key.escape_ascii())
        },
    )
}
