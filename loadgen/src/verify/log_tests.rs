//! A blast's own bodies as records of an in-memory partition.

use infertrace_proto::v1;
use prost::Message;

use super::*;
use crate::{
    blast::{body::Body, template::Template},
    ledger::{Entry, Header},
    protocol::Protocol,
    verify::Verdict,
};

const RUN: u32 = 42;
const SEED: u64 = 9;
const BASE: i64 = 1_760_000_000_000_000_000;

fn record_of(sequence: u64, change: impl FnOnce(&mut v1::SpanBatch)) -> (Entry, Vec<u8>) {
    let template = Template::generate(SEED, 1, 100);
    let content = template.digest;
    let mut body = Body::new(template, Protocol::Native, "", 0, 0);
    let base_time_ns = BASE + sequence as i64;
    let request = v1::ExportRequest::decode(body.stamp(RUN, sequence, base_time_ns)).expect("a request");
    let mut batch = request.batch.expect("a batch");
    change(&mut batch);
    let entry = Entry { sequence, base_time_ns, spans: 100, variant: 1, partitions: 0, content };
    (entry, batch.encode_to_vec())
}

fn judge(entries: &[Entry], records: &[Vec<u8>]) -> Verdict {
    let header = Header::new(RUN, SEED, 100, "native", "");
    let mut tally = Tally::new(&header, entries).expect("a ledger");
    let (mut dedup, mut scratch) = (Dedup::default(), Vec::new());
    for (offset, payload) in records.iter().enumerate() {
        read_record(payload, offset as u64, &mut dedup, &mut scratch, &mut tally);
    }
    tally.verdict()
}

/// Scenario: three acknowledged requests, one of them retried, one request never acknowledged, a stranger's span.
/// Guarantee: clean; the retry collapses, the rest is told apart.
#[test]
fn a_whole_log_is_clean() {
    let (requests, mut records): (Vec<_>, Vec<_>) =
        (0..4).map(|sequence| record_of(sequence, |_| ())).unzip();
    records.push(records[1].clone());
    let stranger = v1::Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..Default::default() };
    records.push(v1::SpanBatch { spans: vec![stranger], ..Default::default() }.encode_to_vec());
    let verdict = judge(&requests[..3], &records);
    assert!(verdict.clean, "{verdict:?}");
    assert_eq!((verdict.acked, verdict.found, verdict.lost), (300, 300, 0));
    assert_eq!((verdict.collapsed_retries, verdict.unacknowledged, verdict.foreign), (1, 100, 1));
}

/// Scenario: one request missing; one span gone, one twice under another batch id, one with another attribute.
/// Guarantee: each is counted as what it is, with an example, and the verdict is not clean.
#[test]
fn losses_duplicates_and_changes_are_told_apart() {
    let (missing, _) = record_of(0, |_| ());
    let (kept, changed) = record_of(1, |batch| {
        batch.spans.remove(99);
        batch.spans[5].attributes[0].key = "other".into();
    });
    let (_, again) = record_of(1, |batch| {
        batch.batch_id = vec![8; 16];
        batch.spans.truncate(1);
    });
    let verdict = judge(&[missing, kept], &[changed, again, b"\xff".to_vec()]);
    assert!(!verdict.clean);
    assert_eq!((verdict.acked, verdict.found, verdict.lost), (200, 99, 101));
    assert_eq!((verdict.duplicated, verdict.changed, verdict.faults.len()), (1, 1, 1));
    assert!(verdict.examples.iter().any(|example| example.starts_with("lost")));
}
