//! Round trips, agreement with the generated code, and arbitrary bytes.

use infertrace_analytics::rollup::stage;
use infertrace_proto::v1;
use proptest::prelude::*;
use prost::Message;

use super::*;

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-cé]{0,2}".prop_map(Arc::from)
}

fn key() -> impl Strategy<Value = Key> {
    (name(), name(), name(), name(), name(), name()).prop_map(
        |(tenant, model, version, service, stage, device)| Key {
            tenant,
            model,
            version,
            service,
            stage,
            device,
        },
    )
}

fn cell() -> impl Strategy<Value = Cell> {
    let counts = prop::collection::vec((0..Counter::ALL.len(), any::<u64>()), 0..4);
    let value = prop_oneof![Just(0), 1u64..100_000, any::<u64>()];
    let values = prop::collection::vec((0..Measure::ALL.len(), value), 0..12);
    let prices = prop::collection::vec(0..4u8, 0..3);
    (counts, values, prices).prop_map(|(counts, values, prices)| {
        let mut cell = Cell::default();
        counts.iter().for_each(|&(at, value)| cell.count(Counter::ALL[at], value));
        values.iter().for_each(|&(at, value)| cell.measure(Measure::ALL[at], value));
        prices.iter().for_each(|number| cell.note_prices(&format!("2026-07-01/{number}")));
        cell
    })
}

fn partial() -> impl Strategy<Value = Partial> {
    let traces = prop::collection::vec((any::<[u8; 16]>(), any::<u64>(), any::<bool>()), 0..6);
    (any::<i64>(), any::<i64>(), key(), cell(), traces).prop_map(
        |(window_ms, seen_window_ms, key, cell, traces)| {
            let mut exemplars = Exemplars::default();
            for (trace_id, duration_micros, is_error) in traces {
                exemplars.add(Exemplar { duration_micros, is_error, trace_id });
            }
            Partial { window_ms, seen_window_ms, key, cell, exemplars }
        },
    )
}

fn encode(batch: &PartialBatch) -> Vec<u8> {
    let mut writer = Writer::default();
    batch.partials.iter().for_each(|partial| writer.push(partial));
    assert_eq!(writer.is_empty(), batch.partials.is_empty());
    writer.finish(batch.source, batch.watermark_ms)
}

fn batch() -> impl Strategy<Value = PartialBatch> {
    (any::<u32>(), prop::collection::vec(partial(), 0..5), any::<Option<i64>>())
        .prop_map(|(source, partials, watermark_ms)| PartialBatch { source, partials, watermark_ms })
}

proptest! {
    /// Scenario: any batch. Guarantee: it is read back unchanged, and the code generated from the `.proto` file reads the
    /// same message and writes one that is read back unchanged too.
    #[test]
    fn batches_round_trip(batch in batch()) {
        let bytes = encode(&batch);
        prop_assert_eq!(&decode(&bytes), &Ok(batch.clone()));
        let generated = v1::PartialBatch::decode(&*bytes).expect("the same message");
        prop_assert_eq!(generated.cells.len(), batch.partials.len());
        prop_assert_eq!(generated.watermark_ms, batch.watermark_ms);
        prop_assert_eq!(&decode(&generated.encode_to_vec()), &Ok(batch));
    }

    /// Scenario: any bytes, and a batch with a byte changed. Guarantee: an answer, never a panic.
    #[test]
    fn any_bytes_are_read_safely(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        batch in batch(),
        at in any::<prop::sample::Index>(),
        byte: u8,
    ) {
        let _ = (decode(&bytes), RollupState::decode(&bytes));
        let mut changed = encode(&batch);
        let at = at.index(changed.len());
        changed[at] = byte;
        let _ = decode(&changed);
        let _ = decode(&changed[..at]);
    }

    /// Scenario: any state. Guarantee: it is read back unchanged, also by the generated code.
    #[test]
    fn states_round_trip(source: u32, rolled_to: u64, watermark_ms: Option<i64>) {
        let state = RollupState { source, rolled_to, watermark_ms };
        prop_assert_eq!(RollupState::decode(&state.encode()), Ok(state));
        let generated = v1::RollupState::decode(&*state.encode()).expect("the same message");
        prop_assert_eq!((generated.rolled_to, generated.watermark_ms), (rolled_to, watermark_ms));
    }

    /// Scenario: any key. Guarantee: everything of one model goes to one partition; what has no model, or is of a device, to all.
    #[test]
    fn a_model_has_one_partition(key in key(), other in key(), partitions in 1u32..20) {
        let other = Key { model: Arc::clone(&key.model), ..other };
        match (route(&key, partitions), route(&other, partitions)) {
            (Route::One(one), Route::One(same)) => {
                prop_assert_eq!(one, same);
                prop_assert!(one < partitions && !key.model.is_empty());
            }
            (a, b) => prop_assert!(key.model.is_empty()
                || (a == Route::All && key.shape() == Shape::Device)
                || (b == Route::All && other.shape() == Shape::Device)),
        }
    }
}

/// Scenario: a newer version, a key that names nothing, bins without end, an odd list. Guarantee: refused by reason.
#[test]
fn nonsense_is_refused() {
    assert_eq!(decode(&[0x08, 0x02]), Err(PartialsError::Version(2)));
    let batch = |cell: &[u8]| {
        let mut out = Vec::new();
        put_bytes_field(&mut out, 4, cell);
        out
    };
    assert_eq!(decode(&batch(&[0x1a, 6, 0, 0, 0, 0, 0, 1])), Err(PartialsError::BadKey));
    assert_eq!(decode(&batch(&[])), Err(PartialsError::BadKey));
    assert_eq!(decode(&batch(&[0x22, 1, 0])), Err(PartialsError::BadLength));
    let sketch = [0x2a, 7, 0x3a, 5, 0xff, 0xff, 0xff, 0x7f, 1];
    assert_eq!(decode(&batch(&sketch)), Err(PartialsError::BadSketch));
    let name = [0x1a, 1, 0xff];
    assert_eq!(decode(&name), Err(PartialsError::BadName));
}

/// Scenario: one key of each shape. Guarantee: each is known by its fields.
#[test]
fn shapes_are_told_apart() {
    let text = |text: &str| Arc::<str>::from(text);
    let key = |service: &str, stage: &str, device: &str| Key {
        model: text("m"),
        service: text(service),
        stage: text(stage),
        device: text(device),
        ..Key::default()
    };
    assert_eq!(key("s", "", "").shape(), Shape::Request);
    assert_eq!(key("s", "", "gpu").shape(), Shape::Request);
    assert_eq!(key("", "", "gpu").shape(), Shape::Device);
    assert_eq!(key("s", stage::CALL, "").shape(), Shape::Call);
    assert_eq!(key("s", stage::ENGINE, "").shape(), Shape::Engine);
    assert_eq!(key("", stage::TRACE, "").shape(), Shape::Trace);
    assert_eq!(key("s", "prefill", "").shape(), Shape::Spans);
    assert_eq!(key("", "prefill", "").shape(), Shape::Stage);
    assert_eq!(key("s", stage::NONE, "").shape(), Shape::Spans);
}
