//! `attribute_equals`: whether a span or its resource has an attribute that reads as a given text.
//!
//! Texts compare as they are; a number or truth value equals when the text spells it; an array when one of
//! its items does. Only the maps that can hold such a value are arguments, so that no other is decoded.

use std::{hash::Hash, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, BooleanBufferBuilder, Float64Array, Int64Array,
        MapArray, StringArray,
    },
    datatypes::{DataType, Int32Type},
};
use datafusion::{
    common::exec_err,
    error::Result,
    logical_expr::{
        ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
    },
    prelude::col,
};
use infertrace_schemas::{
    columns::name,
    value::{AnyValue, items},
};
use serde_json::Value as Json;

/// The expression for one attribute.
#[must_use]
pub fn attribute_equals(key: &str, value: &str) -> Expr {
    let mut columns = vec![name::ATTRIBUTES_STRING, name::ATTRIBUTES_OTHER, name::RESOURCE];
    if value.parse::<i64>().is_ok() {
        columns.push(name::ATTRIBUTES_INT);
    }
    if value.parse::<f64>().is_ok() {
        columns.push(name::ATTRIBUTES_DOUBLE);
    }
    if value.parse::<bool>().is_ok() {
        columns.push(name::ATTRIBUTES_BOOL);
    }
    let function = AttributeEquals {
        wanted: Wanted { key: key.to_owned(), value: value.to_owned() },
        signature: Signature::variadic_any(Volatility::Immutable),
    };
    ScalarUDF::from(function).call(columns.into_iter().map(col).collect())
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wanted {
    key: String,
    value: String,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AttributeEquals {
    wanted: Wanted,
    signature: Signature,
}

impl ScalarUDFImpl for AttributeEquals {
    fn name(&self) -> &str {
        "attribute_equals"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let mut matches = vec![false; rows];
        for argument in args.args {
            let column: ArrayRef = argument.into_array(rows)?;
            match column.data_type() {
                DataType::Map(..) => self.wanted.mark_map(column.as_map(), &mut matches)?,
                DataType::Dictionary(..) => self.wanted.mark_resources(&column, &mut matches)?,
                other => {
                    return exec_err!("attribute_equals takes attribute maps and resources, not {other}");
                }
            }
        }
        Ok(ColumnarValue::Array(Arc::new(BooleanArray::from(matches))))
    }
}

impl Wanted {
    fn mark_map(&self, map: &MapArray, matches: &mut [bool]) -> Result<()> {
        let Some(keys) = map.keys().as_any().downcast_ref::<StringArray>() else {
            return exec_err!("the keys of an attribute map are not text");
        };
        let values = map.values();
        let hits = if let Some(texts) = values.as_any().downcast_ref::<StringArray>() {
            self.hits(keys, |entry| texts.value(entry) == self.value)
        } else if let Some(numbers) = values.as_any().downcast_ref::<Int64Array>() {
            let wanted = self.value.parse();
            self.hits(keys, |entry| wanted == Ok(numbers.value(entry)))
        } else if let Some(numbers) = values.as_any().downcast_ref::<Float64Array>() {
            let wanted = self.value.parse();
            self.hits(keys, |entry| wanted == Ok(numbers.value(entry)))
        } else if let Some(flags) = values.as_any().downcast_ref::<BooleanArray>() {
            let wanted = self.value.parse();
            self.hits(keys, |entry| wanted == Ok(flags.value(entry)))
        } else if let Some(messages) = values.as_any().downcast_ref::<BinaryArray>() {
            self.hits(keys, |entry| {
                self.reads_as(&AnyValue::parse(messages.value(entry)).unwrap_or(AnyValue::Empty), 0)
            })
        } else {
            return exec_err!("an attribute map of {}", values.data_type());
        };
        // Entries of one row follow one another; a row is found by the ends of rows.
        let ends = map.value_offsets();
        let mut row = 0;
        for entry in hits {
            while row < matches.len() && ends[row + 1] as usize <= entry {
                row += 1;
            }
            if row < matches.len() && ends[row] as usize <= entry {
                matches[row] = true;
            }
        }
        Ok(())
    }

    /// Entries with the wanted key whose value `is_wanted`, ascending.
    fn hits(&self, keys: &StringArray, is_wanted: impl Fn(usize) -> bool) -> Vec<usize> {
        let key = self.key.as_bytes();
        let bytes = keys.value_data();
        let is_key = |ends: &[i32]| bytes.get(ends[0] as usize..ends[1] as usize) == Some(key);
        keys.value_offsets()
            .windows(2)
            .enumerate()
            .filter(|(entry, ends)| is_key(ends) && is_wanted(*entry))
            .map(|(entry, _)| entry)
            .collect()
    }

    /// Whether a value of OTLP's reads as what is wanted; arrays by their items, lists by nothing.
    fn reads_as(&self, value: &AnyValue<'_>, depth: usize) -> bool {
        match *value {
            AnyValue::String(text) => text == self.value.as_bytes(),
            AnyValue::Int(number) => self.value.parse() == Ok(number),
            AnyValue::Double(number) => self.value.parse() == Ok(number),
            AnyValue::Bool(flag) => self.value.parse() == Ok(flag),
            AnyValue::Array(message) if depth == 0 => items(message)
                .map_while(|item| item.ok())
                .any(|item| AnyValue::parse(item).is_ok_and(|item| self.reads_as(&item, depth + 1))),
            AnyValue::Array(_) | AnyValue::KvList(_) | AnyValue::Bytes(_) | AnyValue::Empty => false,
        }
    }

    /// Resources are few and stand in a dictionary: each is looked at once.
    fn mark_resources(&self, column: &ArrayRef, matches: &mut [bool]) -> Result<()> {
        let Some(column) = column.as_dictionary_opt::<Int32Type>() else {
            return exec_err!("resources are a dictionary of text");
        };
        let Some(texts) = column.values().as_any().downcast_ref::<StringArray>() else {
            return exec_err!("resources are a dictionary of text");
        };
        let mut wanted = BooleanBufferBuilder::new(texts.len());
        for index in 0..texts.len() {
            wanted.append(texts.is_valid(index) && self.is_in_resource(texts.value(index)));
        }
        for (row, key) in column.keys().iter().enumerate() {
            matches[row] |= key.is_some_and(|key| wanted.get_bit(key as usize));
        }
        Ok(())
    }

    fn is_in_resource(&self, resource: &str) -> bool {
        // The key stands in the text as it is, or with escapes that a search for it may miss.
        if !resource.contains(&self.key) && !resource.contains('\\') {
            return false;
        }
        let Ok(resource) = serde_json::from_str::<Json>(resource) else { return false };
        let attributes = resource["attributes"].as_array();
        attributes.into_iter().flatten().any(|attribute| {
            attribute["key"].as_str() == Some(&self.key) && self.json_reads_as(&attribute["value"])
        })
    }

    fn json_reads_as(&self, value: &Json) -> bool {
        let Some((kind, value)) = value.as_object().and_then(|value| value.iter().next()) else {
            return false;
        };
        match (kind.as_str(), value) {
            ("stringValue", Json::String(text)) => *text == self.value,
            ("intValue", Json::String(text)) => {
                self.value.parse::<i64>().is_ok_and(|wanted| text.parse() == Ok(wanted))
            }
            ("intValue", number) => {
                self.value.parse::<i64>().is_ok_and(|wanted| number.as_i64() == Some(wanted))
            }
            ("doubleValue", number) => {
                self.value.parse::<f64>().is_ok_and(|wanted| number.as_f64() == Some(wanted))
            }
            ("boolValue", Json::Bool(flag)) => self.value.parse() == Ok(*flag),
            ("arrayValue", array) => array["values"].as_array().into_iter().flatten().any(|item| {
                !item.as_object().is_some_and(|item| item.contains_key("arrayValue"))
                    && self.json_reads_as(item)
            }),
            _ => false,
        }
    }
}
