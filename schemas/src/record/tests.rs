use infertrace_proto::v1;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::frame;

/// `SpanBatch` as the gateway and the readers see it: spans and origins as bytes.
#[derive(Clone, PartialEq, Message)]
struct OpaqueBatch {
    #[prost(bytes = "vec", repeated, tag = "1")]
    spans: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "2")]
    batch_id: Vec<u8>,
    #[prost(string, tag = "3")]
    tenant: String,
    #[prost(bytes = "vec", repeated, tag = "4")]
    origins: Vec<Vec<u8>>,
}

fn spans() -> impl Strategy<Value = Vec<v1::Span>> {
    let span = (any::<[u8; 16]>(), any::<[u8; 8]>(), ".{0,20}", any::<i64>()).prop_map(
        |(trace_id, span_id, operation_name, start_time_unix_nano)| v1::Span {
            trace_id: trace_id.to_vec(),
            span_id: span_id.to_vec(),
            operation_name,
            start_time_unix_nano,
            ..v1::Span::default()
        },
    );
    proptest::collection::vec(span, 0..8)
}

fn origins() -> impl Strategy<Value = Vec<v1::Origin>> {
    let origin =
        ".{0,20}".prop_map(|resource_schema_url| v1::Origin { resource_schema_url, ..v1::Origin::default() });
    proptest::collection::vec(origin, 0..3)
}

fn encoded<M: Message>(messages: &[M]) -> Vec<Vec<u8>> {
    messages.iter().map(Message::encode_to_vec).collect()
}

fn slices(messages: &[Vec<u8>]) -> Vec<&[u8]> {
    messages.iter().map(Vec::as_slice).collect()
}

proptest! {
    /// Scenario: the same spans as `repeated Span` and as `repeated bytes`. Guarantee: one encoding, byte for
    /// byte, and each decodes as the other.
    #[test]
    fn repeated_spans_and_repeated_bytes_share_one_encoding(spans in spans(), origins in origins(), tenant in ".{0,9}") {
        let typed = v1::SpanBatch {
            spans: spans.clone(),
            batch_id: vec![7; 16],
            tenant: tenant.clone(),
            origins: origins.clone(),
            packed: None,
        };
        let opaque = OpaqueBatch { spans: encoded(&spans), batch_id: vec![7; 16], tenant, origins: encoded(&origins) };
        prop_assert_eq!(typed.encode_to_vec(), opaque.encode_to_vec());
        prop_assert_eq!(v1::SpanBatch::decode(opaque.encode_to_vec().as_slice()), Ok(typed.clone()));
        prop_assert_eq!(OpaqueBatch::decode(typed.encode_to_vec().as_slice()), Ok(opaque));
    }

    /// Scenario: a share written here, plain and under every codec. Guarantee: prost reads the plain one as
    /// the batch it is, and opening either gives back the same spans, origins, tenant and id.
    #[test]
    fn shares_round_trip(spans in spans(), origins in origins(), tenant in "[a-z]{0,9}", client in proptest::collection::vec(any::<u8>(), 0..17)) {
        let (span_bytes, origin_bytes) = (encoded(&spans), encoded(&origins));
        let plain = encode_share(&tenant, &client, slices(&span_bytes), &slices(&origin_bytes));
        let batch = v1::SpanBatch::decode(plain.as_slice()).expect("a record is a SpanBatch");
        prop_assert_eq!(&batch.spans, &spans);
        prop_assert_eq!(&batch.origins, &origins);
        prop_assert_eq!(span_count_of(&plain).expect("own record"), spans.len());

        let body = v1::SpanBatch { spans: spans.clone(), origins, ..v1::SpanBatch::default() }.encode_to_vec();
        let mut records = vec![plain];
        for codec in [Codec::None, Codec::Lz4, Codec::Zstd, Codec::Snappy] {
            let packed = frame::compress(codec, &body);
            let record = encode_packed(&tenant, &client, codec, spans.len() as u32, body.len() as u64, &packed);
            prop_assert!(v1::SpanBatch::decode(record.as_slice()).expect("a record is a SpanBatch").packed.is_some());
            prop_assert_eq!(span_count_of(&record).expect("own record"), spans.len());
            records.push(record);
        }
        for record in records {
            let mut scratch = Vec::new();
            let opened = open(&record, &mut scratch).expect("own record");
            prop_assert_eq!(opened.tenant, &tenant);
            prop_assert_eq!(&opened.origins, &slices(&origin_bytes));
            let found: Vec<&[u8]> = opened.spans.clone().collect::<Result<_, _>>().expect("walked before");
            prop_assert_eq!(found, slices(&span_bytes));
            prop_assert_eq!(opened.batch_id, batch_id_of(&record));
            prop_assert!(opened.batch_id.is_some());
        }
    }

    /// Scenario: any bytes as a record. Guarantee: no panic in opening, counting or reading its id.
    #[test]
    fn any_bytes_are_opened_safely(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut scratch = Vec::new();
        let _ = batch_id_of(&bytes);
        let _ = span_count_of(&bytes);
        if let Ok(record) = open(&bytes, &mut scratch) {
            prop_assert!(record.spans.clone().all(|span| span.is_ok()));
        }
    }
}

/// Scenario: a share sent again, from another tenant, and under another client id. Guarantee: only the first
/// has the id of the original, wherever in the record the id stands.
#[test]
fn the_batch_id_is_the_shares_identity() {
    let share = |tenant, client: &[u8]| encode_share(tenant, client, [b"span".as_slice()], &[b"origin"]);
    let id = batch_id_of(&share("", b""));
    assert_eq!(id, batch_id_of(&share("", b"")));
    assert_ne!(id, batch_id_of(&share("acme", b"")));
    assert_ne!(id, batch_id_of(&share("", b"client")));
    assert_ne!(id, batch_id_of(&encode_share("", b"", [b"spam".as_slice()], &[b"origin"])));

    let last = v1::SpanBatch { tenant: "acme".into(), batch_id: vec![9; 16], ..v1::SpanBatch::default() };
    let mut bytes = Vec::new();
    put_bytes_field(&mut bytes, field::TENANT, b"acme");
    put_bytes_field(&mut bytes, field::BATCH_ID, &last.batch_id);
    assert_eq!(batch_id_of(&bytes), Some([9; 16]));
    assert_eq!(batch_id_of(b""), None);
}

/// Scenario: records that nobody may read: a wrong id length, a body beside spans, two bodies, a body in a
/// body, an unknown codec, too many origins, a lying size, cut bytes. Guarantee: each is a `RecordError`.
#[test]
fn poison_is_recognised() {
    let packed = |codec: i32, size: u64, body: &[u8]| v1::PackedSpans {
        codec,
        span_count: 1,
        uncompressed_size: size,
        body: body.to_vec().into(),
    };
    let refused = |batch: &v1::SpanBatch| open(&batch.encode_to_vec(), &mut Vec::new()).err();

    let short_id = v1::SpanBatch { batch_id: vec![1; 5], ..v1::SpanBatch::default() };
    assert!(matches!(refused(&short_id), Some(RecordError::BadBatchId(5))));

    let mixed = v1::SpanBatch {
        spans: vec![v1::Span::default()],
        packed: Some(packed(0, 0, b"")),
        ..v1::SpanBatch::default()
    };
    assert!(matches!(refused(&mixed), Some(RecordError::MixedPacking)));

    let inner = v1::SpanBatch { packed: Some(packed(0, 0, b"")), ..v1::SpanBatch::default() }.encode_to_vec();
    let nested =
        v1::SpanBatch { packed: Some(packed(0, inner.len() as u64, &inner)), ..v1::SpanBatch::default() };
    assert!(matches!(refused(&nested), Some(RecordError::MixedPacking)));

    let unknown = v1::SpanBatch { packed: Some(packed(99, 0, b"")), ..v1::SpanBatch::default() };
    assert!(matches!(refused(&unknown), Some(RecordError::Frame(FrameError::UnknownCodec(99)))));

    let liar = v1::SpanBatch { packed: Some(packed(0, 7, b"")), ..v1::SpanBatch::default() };
    assert!(matches!(refused(&liar), Some(RecordError::Frame(FrameError::SizeMismatch { .. }))));

    let crowded: Vec<u8> = [(field::ORIGINS << 3 | 2) as u8, 0].repeat(MAX_ORIGINS + 1);
    assert!(matches!(open(&crowded, &mut Vec::new()), Err(RecordError::TooManyOrigins)));
    assert!(open(&crowded[2..], &mut Vec::new()).is_ok());

    let good = encode_share("t", b"", [b"0123456789".as_slice()], &[]);
    assert!(matches!(open(&good[..good.len() - 1], &mut Vec::new()), Err(RecordError::Wire(_))));
    let mut twice = encode_packed("", b"", Codec::None, 0, 0, b"");
    twice.extend(encode_packed("", b"", Codec::None, 0, 0, b""));
    assert!(matches!(open(&twice, &mut Vec::new()), Err(RecordError::MixedPacking)));
}
