//! A token timeline of 4,096 tokens costs less than 20 KB.

use std::sync::Arc;

use arrow::array::RecordBatch;
use infertrace_proto::v1;
use infertrace_schemas::{
    columns::{DELTA_CODED, SPLIT_CODED, index},
    view::SpanView,
};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, Encoding, ZstdLevel},
    file::properties::WriterProperties,
    schema::types::ColumnPath,
};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::support::{bare_span, read_spans};

const TOKENS: usize = 4_096;

/// A realistic timeline with every numeric column: token ids by Zipf's law over 128 k, latencies around 25 ms that
/// jitter by a few percent and jump when the batch changes, attention growing with the context.
fn timeline() -> v1::TokenTimeline {
    let mut random = StdRng::seed_from_u64(4_096);
    let mut timeline = v1::TokenTimeline::default();
    let (mut batch, mut last) = (16u32, 0i64);
    for index in 0..TOKENS {
        let rank = 131_072f64.powf(random.random::<f64>()) as u32;
        timeline.ids.push(rank.min(131_071));
        if random.random_ratio(1, 40) {
            batch = (batch + random.random_range(0..3)).saturating_sub(1).clamp(1, 32);
        }
        let jitter = (0..4).map(|_| random.random_range(-40..40i64)).sum::<i64>();
        let latency = 18_000 + i64::from(batch) * 450 + jitter;
        timeline.generation_micros_delta.push(match index {
            0 => 350_000,
            1 => latency,
            _ => latency - last,
        });
        last = latency;
        timeline.attention_micros.push(6_000 + index as u32 / 2 + random.random_range(0..16));
        timeline.ffn_micros.push(9_000 + batch * 200 + random.random_range(0..16));
        timeline.batch_sizes.push(batch);
    }
    timeline
}

/// Bytes of `columns` of `batch` as a zstd Parquet file, footer apart.
fn parquet_bytes(batch: &RecordBatch, columns: &[usize]) -> usize {
    let batch = batch.project(columns).expect("columns of the schema");
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false);
    let delta = DELTA_CODED.iter().map(|column| (column, Encoding::DELTA_BINARY_PACKED));
    let split = SPLIT_CODED.iter().map(|column| (column, Encoding::BYTE_STREAM_SPLIT));
    for (column, encoding) in delta.chain(split) {
        let path = ColumnPath::new(column.split('.').map(str::to_owned).collect());
        properties = properties.set_column_encoding(path, encoding);
    }
    let properties = Some(properties.build());
    let mut writer =
        ArrowWriter::try_new(Vec::new(), Arc::clone(batch.schema_ref()), properties).expect("a writer");
    writer.write(&batch).expect("written to memory");
    let metadata = writer.finish().expect("written to memory");
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns());
    chunks
        .map(|chunk| {
            println!("{}: {} bytes", chunk.column_path(), chunk.compressed_size());
            chunk.compressed_size() as usize
        })
        .sum()
}

/// Scenario: 4,096 tokens with ids, latencies, attention and feed-forward times and batch sizes. Guarantee: the
/// timeline costs less than 20 KB in the Parquet columns, where it is kept, and its ids and latencies, which is
/// what engines can report, also on the wire.
#[test]
fn a_long_timeline_is_small() {
    let timeline = timeline();
    let reported = v1::TokenTimeline {
        ids: timeline.ids.clone(),
        generation_micros_delta: timeline.generation_micros_delta.clone(),
        ..v1::TokenTimeline::default()
    };
    let wire = reported.encoded_len();
    let span = v1::Span { tokens: Some(timeline), ..bare_span() };
    let batch = read_spans(vec![span], v1::Origin::default());
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.tokens(0).expect("a timeline").len(), TOKENS);
    assert!(view.itl_p99_ns(0) > view.itl_p50_ns(0));

    let stored = parquet_bytes(&batch, &[index::TOKENS]);
    println!(
        "4,096 tokens: {stored} bytes in Parquet with all columns, {wire} bytes on the wire with ids and latencies"
    );
    assert!(stored < 20_000, "{stored} bytes in Parquet");
    assert!(wire < 20_000, "{wire} bytes on the wire");
}

/// Scenario: a timeline whose latencies are known. Guarantee: time to first token, median, 99th percentile,
/// maximum and mean come out of it, and what the sender says itself stands.
#[test]
fn a_timeline_is_summarised() {
    // 250 ms to the first token, then 1, 2, ... 100 ms.
    let itl: Vec<i64> = std::iter::once(250_000).chain((1..=100).map(|ms| ms * 1_000)).collect();
    let deltas = itl.iter().enumerate().map(|(index, value)| match index {
        0 | 1 => *value,
        _ => value - itl[index - 1],
    });
    let tokens =
        v1::TokenTimeline { generation_micros_delta: deltas.collect(), ..v1::TokenTimeline::default() };
    let said = v1::InferenceContext { itl_max_nanos: Some(5), ..v1::InferenceContext::default() };
    let plain = v1::Span { tokens: Some(tokens.clone()), ..bare_span() };
    let explicit = v1::Span { tokens: Some(tokens), inference: Some(said), ..bare_span() };
    let batch = read_spans(vec![plain, explicit], v1::Origin::default());
    let view = SpanView::new(&batch).expect("span schema");
    assert_eq!(view.ttft_ns(0), Some(250_000_000));
    assert_eq!(view.itl_p50_ns(0), Some(50_000_000));
    assert_eq!(view.itl_p99_ns(0), Some(99_000_000));
    assert_eq!(view.itl_max_ns(0), Some(100_000_000));
    assert_eq!(view.tpot_ns(0), Some(50_500_000));
    assert_eq!(view.itl_max_ns(1), Some(5));
}
