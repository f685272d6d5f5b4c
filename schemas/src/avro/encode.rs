//! Avro's binary encoding of a value, the same bytes for the same value.
//!
//! `apache-avro` writes a map in the order of its hash table, which differs from run to run; here keys ascend. So a
//! record that is made again is the same record, which readers that compare bytes rely on.

use apache_avro::types::Value;

use super::AvroError;

/// Appends `value`, which was resolved against its schema.
pub(super) fn put_value(out: &mut Vec<u8>, value: &Value) -> Result<(), AvroError> {
    match value {
        Value::Null => {}
        Value::Boolean(truth) => out.push(u8::from(*truth)),
        Value::Int(number) => put_long(out, i64::from(*number)),
        Value::Long(number) => put_long(out, *number),
        Value::Float(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::Double(number) => out.extend_from_slice(&number.to_le_bytes()),
        Value::String(text) => put_bytes(out, text.as_bytes()),
        Value::Bytes(bytes) => put_bytes(out, bytes),
        Value::Enum(index, _) => put_long(out, i64::from(*index)),
        Value::Union(index, inner) => {
            put_long(out, i64::from(*index));
            put_value(out, inner)?;
        }
        Value::Array(items) => {
            if !items.is_empty() {
                put_long(out, items.len() as i64);
            }
            for item in items {
                put_value(out, item)?;
            }
            put_long(out, 0);
        }
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            if !entries.is_empty() {
                put_long(out, entries.len() as i64);
            }
            for (key, value) in entries {
                put_bytes(out, key.as_bytes());
                put_value(out, value)?;
            }
            put_long(out, 0);
        }
        Value::Record(fields) => {
            for (_, value) in fields {
                put_value(out, value)?;
            }
        }
        other => return Err(AvroError::Unsupported(format!("{other:?}"))),
    }
    Ok(())
}

/// Zigzag, then base 128.
fn put_long(out: &mut Vec<u8>, value: i64) {
    crate::wire::put_varint(out, ((value << 1) ^ (value >> 63)).cast_unsigned());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, bytes.len() as i64);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use apache_avro::{from_avro_datum, to_avro_datum, to_value};

    use super::*;
    use crate::avro::{AvroRecord, Cause, Evidence, Insight, Recommendation, Rollup, SchemaIds, Sketch};

    fn rollup() -> Rollup {
        Rollup {
            counters: (0..50).map(|number| (format!("counter {number}"), number - 25)).collect(),
            sums: [("a".to_owned(), 0.5), ("b".to_owned(), -1e300)].into(),
            sketches: vec![
                Sketch { bin_counts: vec![1, 2, i64::MAX], ..Sketch::default() },
                Sketch::default(),
            ],
            ..Rollup::default()
        }
    }

    /// Scenario: a rollup with many counters, made again and again. Guarantee: the same bytes every time, and the
    /// library reads them back as the record.
    #[test]
    fn maps_are_written_in_the_order_of_their_keys() {
        let ids = SchemaIds::embedded::<Rollup>();
        let first = ids.encode(&rollup()).expect("encodes");
        for _ in 0..20 {
            assert_eq!(ids.encode(&rollup()).expect("encodes"), first);
        }
        assert_eq!(ids.decode::<Rollup>(&first).expect("decodes"), rollup());
        let places: Vec<usize> = ["counter 0", "counter 10", "counter 9"]
            .map(|key| first.windows(key.len()).position(|bytes| bytes == key.as_bytes()).expect("a key"))
            .to_vec();
        assert!(places.is_sorted());
    }

    /// Scenario: an insight with every kind of field, none of which is a map. Guarantee: the bytes are the library's.
    #[test]
    fn the_rest_is_as_the_library_writes_it() {
        let insight = Insight {
            id: "é".into(),
            revision: -3,
            resolved_unix_nanos: Some(i64::MIN),
            evidence: vec![Evidence { observed: f64::MAX, baseline: Some(-0.0), ..Evidence::default() }],
            causes: vec![Cause::default(), Cause { share: 0.25, ..Cause::default() }],
            recommendation: Some(Recommendation::default()),
            example_traces: vec![String::new(), "x".into()],
            ..Insight::default()
        };
        let schema = &Insight::schema().schema;
        let value = to_value(&insight).expect("a value").resolve(schema).expect("resolves");
        let expected = to_avro_datum(schema, value.clone()).expect("encodes");
        let mut found = Vec::new();
        put_value(&mut found, &value).expect("encodes");
        assert_eq!(found, expected);
        assert_eq!(from_avro_datum(schema, &mut found.as_slice(), None).expect("reads"), value);
    }
}
