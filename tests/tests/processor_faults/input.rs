//! What a test writes into the input itself, beside the traffic: poison, and the spans that end it.

use std::collections::BTreeMap;

use bytes::Bytes;
use infertrace_loadgen::simulate::{
    faults,
    offline::{Offline, OfflineSetup},
};
use infertrace_proto::v1::{GpuSampleBatch, Origin, Sample, Span, SpanBatch, sample};
use infertrace_runtime::log::{Log, Millis, NewRecord, TopicPartition};
use infertrace_schemas::{partition::partition_of, record::encode_share, topics};
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

/// How far the last spans lie ahead, so that everything before them is over.
pub(super) const TAIL_MS: i64 = 40_000;

/// Draws records, and moments, from the seed.
pub(super) struct Input {
    pub(super) random: StdRng,
}

impl Input {
    /// From `INFERTRACE_TEST_SEED`, which it prints.
    pub(super) fn seeded() -> anyhow::Result<Self> {
        let seed = super::number("INFERTRACE_TEST_SEED", 1)?;
        eprintln!("INFERTRACE_TEST_SEED={seed}");
        Ok(Self { random: StdRng::seed_from_u64(seed) })
    }

    /// Nine and a half simulated minutes around the last turn of an hour, written when they happened: healthy ones, so that
    /// baselines are told at the turn, then faults that open insights. What comes after them comes after a pause.
    pub(super) async fn history(&mut self, log: &dyn Log) -> anyhow::Result<()> {
        const HOUR_S: i64 = 3_600;
        const HEALTHY_S: i64 = 420;
        const FAULTY_S: i64 = 150;
        const FAULTS: &str = "latency-spike@430+120,error-burst@450+60:qwen2.5-14b-instruct";
        let turn_s = (now_ms() / 1_000 - FAULTY_S).div_euclid(HOUR_S) * HOUR_S;
        let mut past = Offline::new(OfflineSetup {
            seed: self.random.random(),
            rps: Some(8.0),
            azure: None,
            faults: faults::parse(FAULTS, 0, 0)?,
            start_unix_ns: (turn_s - HEALTHY_S) * 1_000_000_000,
        })?;
        let partitions = log.partitions(topics::SPANS).await?;
        let of_samples = log.partitions(topics::GPU).await?;
        for _ in 0..HEALTHY_S + FAULTY_S {
            let second = past.second();
            let at_ms = second.at_unix_ns / 1_000_000;
            let mut deliveries = Vec::new();
            for (partition, samples) in second.samples.iter().flat_map(|all| split_samples(all, of_samples)) {
                deliveries.push(log.append(record(topics::GPU, partition, at_ms, Some(samples)))?);
            }
            for (partition, spans) in second.spans.iter().flat_map(|spans| split(spans, partitions)) {
                deliveries.push(log.append(record(topics::SPANS, partition, at_ms, Some(spans)))?);
            }
            for delivery in deliveries {
                delivery.await?;
            }
        }
        Ok(())
    }

    pub(super) fn pause(&mut self, from_ms: u64, to_ms: u64) {
        // Not to wait for anything: the seed says when the next fault comes.
        std::thread::sleep(std::time::Duration::from_millis(self.random.random_range(from_ms..to_ms)));
    }

    /// Records that no reader can read, among the others: noise, nothing, half a record, and noise so large that a
    /// dead letter with all of it would be larger than the broker takes.
    pub(super) async fn poison(&mut self, log: &dyn Log) -> anyhow::Result<()> {
        let partitions = log.partitions(topics::SPANS).await?;
        let whole = share(&self.trace_in(0, partitions), now_ms());
        let half = whole[..whole.len() / 2].to_vec();
        let mut noise = |bytes: usize| (0..bytes).map(|_| self.random.random()).collect::<Vec<u8>>();
        let bad = [Some(noise(100)), None, Some(half), Some(noise(900_000)), Some(noise(999_800))];
        for (payload, partition) in bad.into_iter().zip((0..partitions).cycle()) {
            append(log, partition, now_ms(), payload).await?;
        }
        Ok(())
    }

    /// One trace a partition of spans and one reading a partition of samples, so far ahead that all before them closes.
    pub(super) async fn tail(&mut self, log: &dyn Log, ahead_ms: i64) -> anyhow::Result<()> {
        let partitions = log.partitions(topics::SPANS).await?;
        for partition in 0..partitions {
            let id = self.trace_in(partition, partitions);
            let time = now_ms() + ahead_ms;
            append(log, partition, time, Some(share(&id, time))).await?;
        }
        for partition in 0..log.partitions(topics::GPU).await? {
            let time = now_ms() + ahead_ms;
            log.append(record(topics::GPU, partition, time, Some(reading(time))))?.await?;
        }
        Ok(())
    }

    /// A trace id that lives in `partition`.
    fn trace_in(&mut self, partition: u32, partitions: u32) -> [u8; 16] {
        loop {
            let id: [u8; 16] = self.random.random();
            if partition_of(&id, partitions) == partition {
                return id;
            }
        }
    }
}

async fn append(
    log: &dyn Log,
    partition: u32,
    timestamp_ms: i64,
    payload: Option<Vec<u8>>,
) -> anyhow::Result<()> {
    log.append(record(topics::SPANS, partition, timestamp_ms, payload))?.await?;
    Ok(())
}

fn record(topic: &str, partition: u32, timestamp_ms: i64, payload: Option<Vec<u8>>) -> NewRecord {
    NewRecord {
        to: TopicPartition::new(topic, partition),
        key: None,
        payload: payload.map(Bytes::from),
        headers: Vec::new(),
        timestamp: Millis(timestamp_ms),
    }
}

/// A record of spans as the gateway splits it by partition.
fn split(spans: &[u8], partitions: u32) -> BTreeMap<u32, Vec<u8>> {
    let batch = SpanBatch::decode(spans).expect("the simulator writes batches");
    let mut parts: BTreeMap<u32, SpanBatch> = BTreeMap::new();
    for span in &batch.spans {
        let id: [u8; 16] = span.trace_id.as_slice().try_into().expect("a trace id");
        let empty = || SpanBatch { spans: Vec::new(), ..batch.clone() };
        parts.entry(partition_of(&id, partitions)).or_insert_with(empty).spans.push(span.clone());
    }
    parts.into_iter().map(|(partition, part)| (partition, part.encode_to_vec())).collect()
}

/// A record of samples split so that each origin has a partition of its own, or shares one, and every partition has some:
/// windows wait for all of them.
fn split_samples(samples: &[u8], partitions: u32) -> BTreeMap<u32, Vec<u8>> {
    let batch = GpuSampleBatch::decode(samples).expect("the simulator writes batches");
    let mut parts: BTreeMap<u32, GpuSampleBatch> = BTreeMap::new();
    for sample in &batch.samples {
        let empty = || GpuSampleBatch { samples: Vec::new(), ..batch.clone() };
        parts.entry(sample.origin % partitions).or_insert_with(empty).samples.push(sample.clone());
    }
    parts.into_iter().map(|(partition, part)| (partition, part.encode_to_vec())).collect()
}

pub(super) fn now_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// A record with one span.
fn share(trace_id: &[u8; 16], time_ms: i64) -> Vec<u8> {
    let span = Span {
        trace_id: trace_id.to_vec(),
        span_id: trace_id[..8].to_vec(),
        service_name: "tail".to_owned(),
        operation_name: "tail".to_owned(),
        start_time_unix_nano: time_ms * 1_000_000,
        duration_nanos: 1_000_000,
        ..Span::default()
    };
    let encoded = span.encode_to_vec();
    encode_share("", b"", [encoded.as_slice()], &[])
}

/// A record with one sample.
fn reading(time_ms: i64) -> Vec<u8> {
    let sample = Sample {
        name: "hw.gpu.utilization".to_owned(),
        unit: "1".to_owned(),
        time_unix_nano: time_ms * 1_000_000,
        device_id: "tail".to_owned(),
        value: Some(sample::Value::Number(0.5)),
        ..Sample::default()
    };
    GpuSampleBatch { samples: vec![sample], origins: vec![Origin::default()], ..GpuSampleBatch::default() }
        .encode_to_vec()
}
