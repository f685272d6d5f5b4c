//! What is to be forgotten: traces and tenants by request, traces by importance and age.

use std::sync::Arc;

use infertrace_proto::v1::{Span, SpanBatch, Status};
use infertrace_runtime::clock::ManualClock;
use infertrace_schemas::lake::{Id16, LakeRoot, deletion::Subject};
use infertrace_sinks::compact::{OfTenant, Retention, deletion::forget};
use object_store::ObjectStore;
use prost::Message as _;

use crate::{
    compaction::{assert_audit_is_clean, compact, compact_with},
    lake::*,
    support::*,
};

fn at_noon(_: u64) -> i64 {
    NOON_NS
}

fn trace_of(number: u64) -> Subject {
    let id = span(number, NOON_NS).trace_id;
    Subject::TraceId(Id16(id[..].try_into().expect("16 bytes")))
}

async fn ask(store: &Arc<dyn ObjectStore>, subject: &Subject, now_ns: i64) -> usize {
    let root = LakeRoot::new("lake");
    let look = forget(store, &root, subject, now_ns, true).await.expect("a dry run");
    let asked = forget(store, &root, subject, now_ns, false).await.expect("a deletion");
    assert_eq!((look.number, look.files.len()), (None, asked.files.len()));
    asked.files.len()
}

/// Scenario: a trace is to be forgotten, before its files were merged and after; late spans of it arrive. Guarantee: no
/// reader sees it from then on; the next compaction takes the bytes; the audit says how many; the rest stays.
#[tokio::test]
async fn a_trace_is_forgotten() {
    for merged_before in [false, true] {
        let (log, store) = (FakeLog::new(1), memory());
        let spans = fill(&log, 1, 12);
        run_to_end(&log, Arc::clone(&store), config()).await;
        let clock = ManualClock::new(NOON_NS);
        if merged_before {
            compact(&store, &clock).await;
        }
        let rest: Vec<u64> = (0..spans).filter(|number| !(20..24).contains(number)).collect();
        assert!(ask(&store, &trace_of(20), NOON_NS).await >= 2, "a file of each date");
        assert_eq!(live_spans(&store).await, rest);
        assert_eq!(stored_spans(&store).await.len() as u64, spans);
        let pass = compact(&store, &clock).await;
        assert_eq!(pass.steps.iter().map(|step| step.dropped).sum::<u64>(), 4);
        assert_eq!(stored_spans(&store).await, rest);
        assert_audit_is_clean(&log, &store, 4).await;
        assert!(compact(&store, &clock).await.steps.is_empty(), "nothing is due any more");
        log.put(0, record(1 << 80, 20..24, at_noon));
        run_to_end(&log, Arc::clone(&store), config()).await;
        assert_eq!(live_spans(&store).await, rest);
        assert_audit_is_clean(&log, &store, 4).await;
    }
}

/// A record of a tenant's spans.
fn record_of(batch: u128, tenant: &str, spans: Vec<Span>) -> Vec<u8> {
    let (tenant, batch_id) = (tenant.to_owned(), batch.to_be_bytes().to_vec());
    SpanBatch { spans, tenant, batch_id, ..SpanBatch::default() }.encode_to_vec()
}

/// Scenario: a tenant is to be forgotten, and sends on. Guarantee: its spans so far are gone for readers at once and from
/// the files with the next compaction, those that began later stay, and those of others.
#[tokio::test]
async fn a_tenant_is_forgotten() {
    let (log, store) = (FakeLog::new(1), memory());
    for index in 0..6u64 {
        let spans = |first: u64, start| (first..first + 4).map(|number| span(number, start)).collect();
        log.put(0, record_of(u128::from(index) * 3 + 1, "acme", spans(index * 12, NOON_NS)));
        log.put(0, record_of(u128::from(index) * 3 + 2, "other", spans(index * 12 + 4, NOON_NS)));
        log.put(0, record_of(u128::from(index) * 3 + 3, "acme", spans(index * 12 + 8, NOON_NS + 10)));
    }
    run_to_end(&log, Arc::clone(&store), config()).await;
    let tenants = live_files(&store).await.remove(0).data.tenants;
    assert_eq!(tenants.as_deref(), Some(&["acme".to_owned(), "other".to_owned()][..]));
    assert!(ask(&store, &Subject::Tenant("nobody".to_owned()), NOON_NS + 5).await == 0);
    assert!(ask(&store, &Subject::Tenant("acme".to_owned()), NOON_NS + 5).await > 0);
    let rest: Vec<u64> = (0..72).filter(|number| number % 12 >= 4).collect();
    assert_eq!(live_spans(&store).await, rest);
    let clock = ManualClock::new(NOON_NS);
    compact(&store, &clock).await;
    assert_eq!(stored_spans(&store).await, rest);
    assert_audit_is_clean(&log, &store, 24).await;
    assert!(compact(&store, &clock).await.steps.is_empty());
}

/// Scenario: traces that failed, that were slow, and others, of two tenants with policies; time goes by. Guarantee: each
/// trace goes when the policy of its tenant for its importance says so, whole; a dry run says it before and changes
/// nothing; a file with nothing left goes as a whole.
#[tokio::test]
async fn traces_expire_by_importance() {
    let (log, store) = (FakeLog::new(1), memory());
    let mut of_class: [Vec<u64>; 6] = Default::default();
    for trace in 0..24u64 {
        let class = (trace % 3) as usize;
        let spans = (trace * 4..trace * 4 + 4).map(|number| {
            let mut span = span(number, NOON_NS);
            if class == 1 && number % 4 == 3 {
                span.duration_nanos = 10_000_000_000;
            }
            if class == 2 && number % 4 == 1 {
                span.status = Some(Status { code: 2, message: String::new() });
            }
            span
        });
        let tenant = if trace < 12 { "acme" } else { "other" };
        of_class[class + if trace < 12 { 0 } else { 3 }].extend(trace * 4..trace * 4 + 4);
        log.put(0, record_of(u128::from(trace) + 1, tenant, spans.collect()));
    }
    run_to_end(&log, Arc::clone(&store), config()).await;
    let acme = OfTenant { tenant: "acme".to_owned(), error_days: 20, slow_days: 2, plain_days: 2 };
    let retention = Retention {
        error_days: 40,
        slow_days: 10,
        plain_days: 5,
        tenants: vec![acme],
        ..Retention::default()
    };
    let mut gone: Vec<u64> = Vec::new();
    // Days after the event date, and which classes are over then: those of acme are 0 to 2.
    for (days, over) in [(2, &[][..]), (3, &[0, 1]), (6, &[3]), (11, &[4]), (21, &[2]), (41, &[5])] {
        let clock = ManualClock::new(NOON_NS + days * DAY_NS);
        let before = objects(&*store, "lake").await;
        let look = compact_with(&store, &clock, retention.clone(), true).await;
        assert!(objects(&*store, "lake").await == before, "a dry run changes nothing");
        let pass = compact_with(&store, &clock, retention.clone(), false).await;
        assert_eq!(look.steps.len(), pass.steps.len(), "day {days}");
        for class in over {
            gone.extend(&of_class[*class]);
        }
        let left: Vec<u64> = (0..96).filter(|number| !gone.contains(number)).collect();
        assert_eq!(stored_spans(&store).await, left, "day {days}");
        assert_audit_is_clean(&log, &store, gone.len() as u64).await;
        let again = compact_with(&store, &clock, retention.clone(), false).await;
        assert!(again.steps.is_empty(), "day {days}: {again:?}");
    }
    assert!(live_files(&store).await.is_empty());
}
