//! A row of the table a test; growth of series; labels; arbitrary bytes.

use infertrace_analytics::rollup::{Cell, Counter, Key, Shape};
use infertrace_proto::v1::{
    AnyValue, GpuSampleBatch, KeyValue, Origin, Resource, Sample, any_value::Value, sample,
};
use proptest::prelude::*;
use prost::Message;

use super::{table::ROWS, *};
use crate::{partials::SAMPLE_SOURCES, rollup::KeyLimits};

const T0: i64 = 1_700_000_000_000;
const SOURCE: u32 = SAMPLE_SOURCES;

fn limits() -> Limits {
    let keys = KeyLimits { max_keys: 1_000, max_keys_per_tenant: 1_000 };
    Limits { lateness_ms: 1_500, keys, max_bytes: 1 << 30 }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = Some(AnyValue { value: Some(Value::StringValue(value.to_owned())) });
    KeyValue { key: key.to_owned(), value }
}

fn reading(name: &str, unit: &str, value: f64) -> Sample {
    Sample {
        name: name.to_owned(),
        unit: unit.to_owned(),
        time_unix_nano: T0 * 1_000_000,
        device_id: "GPU-1".to_owned(),
        value: Some(sample::Value::Number(value)),
        ..Sample::default()
    }
}

fn batch(samples: Vec<Sample>) -> Vec<u8> {
    let resource = Resource {
        attributes: vec![text("service.name", "vllm-server"), text("model_name", "m")],
        ..Resource::default()
    };
    let origins = vec![Origin { resource: Some(resource), ..Origin::default() }];
    GpuSampleBatch { samples, tenant: "t".to_owned(), origins }.encode_to_vec()
}

fn roller() -> SampleRoller {
    let mut roller = SampleRoller::new(limits(), 100);
    roller.assign(SOURCE, 0, None, []);
    roller
}

fn flush(roller: &mut SampleRoller) -> Vec<(Key, Cell)> {
    let mut partials = Vec::new();
    roller.flush(SOURCE, &mut partials);
    let mut cells: Vec<_> = partials.into_iter().map(|partial| (partial.key, partial.cell)).collect();
    cells.sort_by(|(a, _), (b, _)| a.cmp(b));
    cells
}

fn cells(samples: Vec<Sample>) -> Vec<(Key, Cell)> {
    let mut roller = roller();
    roller.record(SOURCE, 0, T0, &batch(samples)).expect("own record");
    flush(&mut roller)
}

/// One reading that becomes one value of one measure.
fn becomes(name: &str, unit: &str, value: f64) -> (Shape, Measure, u64) {
    let cells = cells(vec![reading(name, unit, value)]);
    assert_eq!(cells.len(), 1, "{name}");
    let (key, cell) = &cells[0];
    assert_eq!((&*key.tenant, &*key.model), ("t", "m"), "{name}");
    let measured: Vec<_> = cell.sketches().map(|(measure, sketch)| (measure, sketch.sum())).collect();
    assert_eq!(measured.len(), 1, "{name}");
    (key.shape(), measured[0].0, measured[0].1)
}

/// Scenario: every state in the table, as its source reports it. Guarantee: the measure and unit that is documented.
#[test]
fn states_are_normalised() {
    use Measure::*;
    let device = [
        ("hw.gpu.utilization", "1", 0.873, GpuUtilizationPermille, 873),
        ("hw.gpu.utilization", "%", 87.3, GpuUtilizationPermille, 873),
        ("DCGM_FI_DEV_GPU_UTIL", "", 87.0, GpuUtilizationPermille, 870),
        ("nv_gpu_utilization", "", 0.5, GpuUtilizationPermille, 500),
        ("hw.gpu.memory.utilization", "1", 0.25, GpuMemoryPermille, 250),
        ("hw.power", "W", 312.5, GpuPowerMilliwatts, 312_500),
        ("hw.power", "mW", 312_500.0, GpuPowerMilliwatts, 312_500),
        ("DCGM_FI_DEV_POWER_USAGE", "", 71.2, GpuPowerMilliwatts, 71_200),
        ("nv_gpu_power_usage", "", 60.0, GpuPowerMilliwatts, 60_000),
        ("hw.temperature", "Cel", 61.5, GpuTemperatureMilliCelsius, 61_500),
        ("DCGM_FI_DEV_GPU_TEMP", "", 91.0, GpuTemperatureMilliCelsius, 91_000),
        ("hw.gpu.clock.sm", "MHz", 1_410.0, GpuSmClockMhz, 1_410),
        ("hw.gpu.clock.sm", "Hz", 1.41e9, GpuSmClockMhz, 1_410),
        ("DCGM_FI_DEV_SM_CLOCK", "", 1_980.0, GpuSmClockMhz, 1_980),
        ("hw.gpu.throttle_reasons", "1", 64.0, GpuThrottledPermille, 1_000),
        ("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "", 1.0, GpuThrottledPermille, 0),
        ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "", 4.0, GpuThrottledPermille, 1_000),
    ];
    for (name, unit, value, measure, expected) in device {
        assert_eq!(becomes(name, unit, value), (Shape::Device, measure, expected), "{name}");
    }
    let engine = [
        ("vllm:num_requests_running", 12.0, EngineRunning, 12),
        ("sglang:num_running_reqs", 3.0, EngineRunning, 3),
        ("vllm:num_requests_waiting", 4.0, EngineWaiting, 4),
        ("sglang:num_queue_reqs", 5.0, EngineWaiting, 5),
        ("nv_inference_pending_request_count", 6.0, EngineWaiting, 6),
        ("vllm:kv_cache_usage_perc", 0.955, KvUsagePermille, 955),
        ("vllm:gpu_cache_usage_perc", 0.5, KvUsagePermille, 500),
        ("sglang:token_usage", 0.61, KvUsagePermille, 610),
        ("sglang:cache_hit_rate", 0.366, CacheHitPermille, 366),
    ];
    for (name, value, measure, expected) in engine {
        assert_eq!(becomes(name, "1", value), (Shape::Engine, measure, expected), "{name}");
    }
}

/// Scenario: the names of the table. Guarantee: each once, and found with and without `_total`.
#[test]
fn names_are_found() {
    for row in ROWS {
        assert_eq!(ROWS.iter().filter(|other| other.name == row.name).count(), 1, "{}", row.name);
        assert_eq!(table::find(&format!("{}_total", row.name)).map(|row| row.name), Some(row.name));
    }
    assert!(table::find("vllm:e2e_request_latency_seconds").is_none());
}

/// Scenario: memory as two of used, free and all, in one record or over two, and also as a share. Guarantee: one value a time.
#[test]
fn memory_is_put_together() {
    let permille = |samples| {
        let cells = cells(samples);
        cells[0].1.sketch(Measure::GpuMemoryPermille).map(|sketch| (sketch.count(), sketch.sum()))
    };
    let gib = 1_073_741_824.0;
    let used = || reading("hw.gpu.memory.usage", "By", 20.0 * gib);
    let limit = || reading("hw.gpu.memory.limit", "By", 80.0 * gib);
    assert_eq!(permille(vec![used(), limit()]), Some((1, 250)));
    let share = reading("hw.gpu.memory.utilization", "1", 0.26);
    assert_eq!(permille(vec![used(), share, limit()]), Some((1, 260)));
    let dcgm = [reading("DCGM_FI_DEV_FB_USED", "", 60.0), reading("DCGM_FI_DEV_FB_FREE", "", 20.0)];
    assert_eq!(permille(dcgm.to_vec()), Some((1, 750)));
    let dcgm = [reading("DCGM_FI_DEV_FB_TOTAL", "MiBy", 80.0), reading("DCGM_FI_DEV_FB_USED", "", 20.0)];
    assert_eq!(permille(dcgm.to_vec()), Some((1, 250)));
    let triton =
        [reading("nv_gpu_memory_used_bytes", "", 1e9), reading("nv_gpu_memory_total_bytes", "", 4e9)];
    assert_eq!(permille(triton.to_vec()), Some((1, 250)));
    let mut roller = roller();
    roller.record(SOURCE, 0, T0, &batch(vec![limit()])).expect("own record");
    assert!(flush(&mut roller).is_empty());
    roller.record(SOURCE, 1, T0, &batch(vec![used()])).expect("own record");
    assert_eq!(flush(&mut roller).len(), 1);
}

/// Scenario: readings of other hardware, of a video decoder, of no device, histograms, and names nobody knows. Guarantee: ignored and
/// counted as such.
#[test]
fn what_is_not_ours_is_ignored() {
    let with =
        |name: &str, attribute: KeyValue| Sample { attributes: vec![attribute], ..reading(name, "1", 0.5) };
    let ignored = vec![
        with("hw.power", text("hw.type", "cpu")),
        with("hw.gpu.utilization", text("hw.gpu.task", "decoder")),
        Sample { device_id: String::new(), ..reading("hw.gpu.utilization", "1", 0.5) },
        Sample { value: None, ..reading("hw.gpu.utilization", "1", 0.5) },
        reading("hw.gpu.utilization", "1", f64::NAN),
        reading("hw.gpu.utilization", "1", -0.5),
        reading("vllm:iteration_tokens", "1", 0.5),
    ];
    let mut roller = roller();
    let taken = roller.record(SOURCE, 0, T0, &batch(ignored)).expect("own record");
    assert_eq!(taken, Taken { readings: 7, ignored: 7 });
    let counted = vec![
        with("hw.power", text("hw.type", "gpu")),
        with("hw.gpu.utilization", text("hw.gpu.task", "general")),
        Sample { device_id: String::new(), ..with("DCGM_FI_DEV_GPU_UTIL", text("UUID", "GPU-2")) },
    ];
    let taken = roller.record(SOURCE, 1, T0, &batch(counted)).expect("own record");
    assert_eq!(taken, Taken { readings: 3, ignored: 0 });
    let devices: Vec<String> = flush(&mut roller).iter().map(|(key, _)| key.device.to_string()).collect();
    assert_eq!(devices, ["GPU-1", "GPU-2"]);
}

fn total(name: &str, value: u64, seconds: i64, start: i64) -> Sample {
    Sample {
        time_unix_nano: (T0 + seconds * 1_000) * 1_000_000,
        start_time_unix_nano: start,
        device_id: String::new(),
        value: Some(sample::Value::Integer(value as i64)),
        monotonic: true,
        temporality: 2,
        ..reading(name, "1", 0.0)
    }
}

/// Scenario: an engine's counts: first reading, growth, the same batch again, a restart of the engine with and without a start time,
/// a delta series. Guarantee: growth is counted once; after a restart, what was counted since.
#[test]
fn cumulative_counts_become_growth() {
    let name = "vllm:num_preemptions_total";
    let mut roller = roller();
    let mut next = 0;
    let mut take = |roller: &mut SampleRoller, sample: Sample| {
        roller.record(SOURCE, next, T0, &batch(vec![sample])).expect("own record");
        next += 1;
        flush(roller).first().map_or(0, |(_, cell)| cell.get(Counter::Preemptions))
    };
    assert_eq!(take(&mut roller, total(name, 40, 0, 1)), 0);
    assert_eq!(take(&mut roller, total(name, 45, 1, 1)), 5);
    assert_eq!(take(&mut roller, total(name, 45, 1, 1)), 0);
    assert_eq!(take(&mut roller, total(name, 46, 2, 1)), 1);
    assert_eq!(take(&mut roller, total(name, 3, 3, 1)), 3);
    assert_eq!(take(&mut roller, total(name, 30, 4, 9)), 30);
    let delta = Sample { temporality: 1, ..total(name, 7, 5, 0) };
    assert_eq!(take(&mut roller, delta), 7);
    // Another engine of the same name is another series.
    let other = Sample { attributes: vec![text("engine", "1")], ..total(name, 30, 6, 9) };
    assert_eq!(take(&mut roller, other), 0);
}

/// Scenario: prompt tokens looked up and found in the prefix cache, under old and new names. Guarantee: counters of the engine's cell.
#[test]
fn prefix_cache_counts_are_tokens() {
    for prefix in ["vllm:", "vllm:gpu_"] {
        let name = |what: &str| format!("{prefix}prefix_cache_{what}");
        let samples = vec![
            total(&name("queries"), 100, 0, 1),
            total(&name("hits"), 10, 0, 1),
            total(&name("queries"), 300, 1, 1),
            total(&name("hits"), 90, 1, 1),
        ];
        let cells = cells(samples);
        let (key, cell) = &cells[0];
        assert_eq!((key.shape(), &*key.service, &*key.model), (Shape::Engine, "vllm-server", "m"));
        assert_eq!((cell.get(Counter::InputTokens), cell.get(Counter::CachedTokens)), (200, 80));
    }
}

/// Scenario: more series than are followed, then silence. Guarantee: memory is bounded, refusals are told, silent series make room.
#[test]
fn series_are_bounded() {
    let last = |id, value, time_ns| Last { id, value, time_ns, start_ns: 0 };
    let mut series = Series::new(2);
    let refused = (0..4).filter(|&id| series.growth(last(id, 1.0, 1)).is_err()).count();
    assert_eq!((series.len(), refused), (2, 2));
    assert_eq!(series.growth(last(0, 4.0, 2)), Ok(Some(3.0)));
    assert_eq!(series.growth(last(9, 1.0, 700_000_000_000)), Ok(None));
    assert_eq!(series.len(), 1);
    assert_eq!(series.growth(last(9, 3.0, 700_000_000_001)), Ok(Some(2.0)));
}

/// Scenario: series of several groups, some of which move later and some are forgotten. Guarantee: only groups that changed are
/// written, whole; what is written, last record a key, is what is kept.
#[test]
fn series_survive_as_records() {
    let last = |id: u64, value, time_ns| Last { id: id << 56, value, time_ns, start_ns: 7 };
    let mut series = Series::new(100);
    let mut written = std::collections::BTreeMap::new();
    let mut write = |series: &mut Series| {
        let changed = series.take_changed();
        let groups: Vec<u8> = changed.iter().map(|(group, _)| *group).collect();
        for (group, series) in changed {
            let group = SeriesGroup { group, series };
            written.insert(group.key(SOURCE), group.encode());
        }
        groups
    };
    (0..100).for_each(|id| series.set(last(id, 1.5, 1)).expect("room"));
    assert_eq!(write(&mut series), (0..25).collect::<Vec<u8>>());
    assert!(write(&mut series).is_empty());
    assert_eq!(series.growth(last(5, 4.0, 2)), Ok(Some(2.5)));
    assert_eq!(write(&mut series), [1]);
    // Room is made for one: all others are silent.
    series.set(last(200, 1.0, 900_000_000_000)).expect("room");
    assert_eq!(write(&mut series).len(), 26);
    let mut restored = Series::new(100);
    for (key, payload) in &written {
        let group = String::from_utf8_lossy(key);
        let group =
            group.strip_prefix(&SeriesGroup::prefix(SOURCE)).expect("own key").parse().expect("a number");
        restored.restore(SeriesGroup::decode(group, payload).expect("own record").series);
    }
    assert_eq!((restored.len(), restored.value(200 << 56)), (1, Some(1.0)));
    assert!(SeriesGroup::decode(0, b"\xff").is_err());
    assert_eq!(SeriesGroup::decode(0, b"\x08\x09"), Err(SeriesStateError::Version(9)));
}

/// Scenario: an engine's counts and a device's memory, with a restart of the roller between any two records. Guarantee: what is
/// flushed is what one roller would have flushed.
#[test]
fn a_restart_between_records_loses_no_growth() {
    let name = "vllm:num_preemptions_total";
    let gib = 1_073_741_824.0;
    let at = |seconds: i64, sample: Sample| Sample {
        time_unix_nano: (T0 + seconds * 1_000) * 1_000_000,
        ..sample
    };
    let records = [
        vec![total(name, 40, 0, 1), at(0, reading("hw.gpu.memory.limit", "By", 80.0 * gib))],
        vec![total(name, 45, 1, 1)],
        vec![at(2, reading("hw.gpu.memory.usage", "By", 20.0 * gib))],
        vec![total(name, 47, 3, 1), total(name, 45, 1, 1)],
        vec![total(name, 3, 4, 4)],
    ];
    let run = |restart_before: usize| {
        let mut roller = roller();
        let mut kept = std::collections::BTreeMap::new();
        let mut flushed = Vec::new();
        for (offset, samples) in records.iter().enumerate() {
            if offset == restart_before {
                let watermark_ms = roller.watermark_ms(SOURCE);
                roller = SampleRoller::new(limits(), 100);
                let kept: Vec<SeriesGroup> = kept.values().cloned().collect();
                roller.assign(SOURCE, offset as u64, watermark_ms, kept);
            }
            roller.record(SOURCE, offset as u64, T0, &batch(samples.clone())).expect("own record");
            flushed.extend(flush(&mut roller));
            kept.extend(roller.take_series(SOURCE).into_iter().map(|group| (group.group, group)));
        }
        flushed
    };
    let expected = run(usize::MAX);
    assert_eq!(expected.len(), 4);
    for restart_before in 0..records.len() {
        assert_eq!(run(restart_before), expected, "restarted before {restart_before}");
    }
}

/// Scenario: a sample that comes when its window is closed. Guarantee: it keeps its window and is seen in the open one.
#[test]
fn late_samples_are_seen_later() {
    let mut roller = roller();
    let payload = batch(vec![reading("hw.gpu.utilization", "1", 0.5)]);
    roller.record(SOURCE, 0, T0 + 31_600, &payload).expect("own record");
    let mut partials = Vec::new();
    roller.flush(SOURCE, &mut partials);
    assert_eq!((partials[0].window_ms, partials[0].seen_window_ms), (T0, T0 + 30_000));
    assert_eq!(roller.take_counts().late, 1);
}

proptest! {
    /// Scenario: any bytes, and a good record with a byte changed. Guarantee: an answer, never a panic; a poison record counts for
    /// nothing and the source has passed it.
    #[test]
    fn any_bytes_are_read_safely(
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let mut roller = roller();
        let _ = roller.record(SOURCE, 0, T0, &bytes);
        prop_assert_eq!(roller.next_offset(SOURCE), Some(1));
        flush(&mut roller);
        let mut changed = batch(vec![reading("hw.power", "W", 1.0), total("vllm:num_preemptions", 3, 0, 1)]);
        let at = at.index(changed.len());
        changed[at] = byte;
        let is_poison = roller.record(SOURCE, 1, T0, &changed).is_err();
        prop_assert!(!is_poison || flush(&mut roller).is_empty());
    }
}

/// Scenario: two readings of a device of a known instance type, one named by DCGM's label alone, one of nothing known; a
/// seventh of a GPU. Guarantee: each device's price of an hour, marked where it is an estimate, once a record and window;
/// none where there is no price.
#[test]
fn devices_say_what_they_cost() {
    let pricer = crate::Config::default().pricer().expect("the built-in prices");
    let price = |labels: &[(&str, &str)]| {
        let mut roller = SampleRoller::priced(limits(), 100, pricer.clone());
        roller.assign(SOURCE, 0, None, []);
        let labelled = |name: &str| Sample {
            attributes: labels.iter().map(|(key, value)| text(key, value)).collect(),
            ..reading(name, "1", 0.5)
        };
        let payload = batch(vec![labelled("hw.gpu.utilization"), labelled("hw.power")]);
        roller.record(SOURCE, 0, T0, &payload).expect("own record");
        let cells = flush(&mut roller);
        assert_eq!(cells.len(), 1);
        let cell = &cells[0].1;
        let sketch = cell.sketch(Measure::DevicePriceNanoUsd)?;
        assert_eq!(sketch.count(), 1);
        assert_eq!(cell.price_versions().collect::<Vec<_>>(), [&**pricer.version()]);
        Some((sketch.max(), cell.get(Counter::EstimatedPrices)))
    };
    // The readings are of a time before the first entry, so every price is an estimate.
    let place = ("cloud.region", "us-east-1");
    assert_eq!(price(&[("host.type", "p5.48xlarge"), place]), Some((6_880_000_000, 1)));
    assert_eq!(price(&[("modelName", "NVIDIA H100 80GB HBM3"), place]), Some((6_880_000_000, 1)));
    assert_eq!(
        price(&[("host.type", "p5.48xlarge"), ("GPU_I_PROFILE", "1g.10gb"), place]),
        Some((982_857_143, 1))
    );
    assert_eq!(price(&[("modelName", "Radeon")]), None);
}
