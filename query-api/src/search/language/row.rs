//! Rows of a batch of spans as the query language sees them.
//!
//! A field's column is opened once a batch; attributes that are stored as JSON in a dictionary are parsed once a
//! distinct text. Agrees with what [`infertrace_query_language::clickhouse`] says of the same rows: `resource.service.name`
//! is the column, a list of attributes may have a key twice, values that are neither text, number nor truth value are there
//! and compare with nothing.

use std::sync::OnceLock;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int64Array, MapArray, RecordBatch,
        StringArray, StructArray,
    },
    datatypes::{DataType, Float64Type, Int64Type, UInt8Type, UInt32Type, UInt64Type},
};
use infertrace_query_language::{
    Field, Intrinsic, Kind, Place, Scope, Status, Type,
    evaluate::{Scalar, SpanSource},
};
use infertrace_schemas::{
    columns::name,
    view::{Column, OptionalFlag, OptionalId, OptionalNumber, OptionalTerm, OptionalText},
};
use serde_json::Value as Json;

use crate::trace::MissingColumn;

/// The key whose value on a resource is a column.
pub(super) const SERVICE: &str = "service.name";
const MAPS: [&str; 5] = [
    name::ATTRIBUTES_STRING,
    name::ATTRIBUTES_INT,
    name::ATTRIBUTES_DOUBLE,
    name::ATTRIBUTES_BOOL,
    name::ATTRIBUTES_OTHER,
];

/// Columns that hold a field's values.
pub(super) fn columns_of(field: &Field) -> Vec<&'static str> {
    match field {
        Field::Intrinsic(Intrinsic::InstrumentationName | Intrinsic::InstrumentationVersion) => {
            vec![name::SCOPE]
        }
        Field::Intrinsic(intrinsic) => match intrinsic.place() {
            Place::Column(column) | Place::Nullable(column) | Place::Millis(column) => vec![column],
            Place::EventName => vec![name::EVENTS],
            Place::Elsewhere => Vec::new(),
        },
        Field::Attribute { scope, key } => match scope {
            Scope::Any => [&MAPS[..], &[of_resource(key)]].concat(),
            Scope::Span => MAPS.to_vec(),
            Scope::Resource => vec![of_resource(key)],
            Scope::Event => vec![name::EVENTS],
            Scope::Link => vec![name::LINKS],
            Scope::Instrumentation => vec![name::SCOPE],
        },
    }
}

fn of_resource(key: &str) -> &'static str {
    if key == SERVICE { name::SERVICE_NAME } else { name::RESOURCE }
}

type Test<'t> = &'t mut dyn FnMut(Scalar<'_>) -> bool;
/// Hands the values that a row has for one field to a test until it holds.
type Read<'a> = Box<dyn Fn(usize, Test<'_>) -> bool + Send + Sync + 'a>;

/// The fields of a batch that a query names.
pub(super) struct Fields<'a>(Vec<(Field, Read<'a>)>);

impl<'a> Fields<'a> {
    /// Opens the columns of `fields`.
    pub(super) fn open<'f>(
        batch: &'a RecordBatch,
        fields: impl IntoIterator<Item = &'f Field>,
    ) -> Result<Self, MissingColumn> {
        let mut opened: Vec<(Field, Read<'a>)> = Vec::new();
        let mut open = |field: Field| {
            if opened.iter().all(|(known, _)| *known != field) {
                let read = open(batch, &field)?;
                opened.push((field, read));
            }
            Ok(())
        };
        for field in fields {
            // An unscoped attribute is looked for in both scopes.
            match field {
                Field::Attribute { scope: Scope::Any, key } => {
                    open(Field::Attribute { scope: Scope::Span, key: key.clone() })?;
                    open(Field::Attribute { scope: Scope::Resource, key: key.clone() })?;
                }
                field => open(field.clone())?,
            }
        }
        Ok(Self(opened))
    }

    /// One row.
    pub(super) const fn row(&self, row: usize) -> Row<'_, 'a> {
        Row { fields: self, row }
    }
}

/// A span.
pub(super) struct Row<'f, 'a> {
    fields: &'f Fields<'a>,
    row: usize,
}

impl SpanSource for Row<'_, '_> {
    fn any(&self, field: &Field, test: Test<'_>) -> bool {
        let read = self.fields.0.iter().find(|(known, _)| known == field);
        read.is_some_and(|(_, read)| read(self.row, test))
    }
}

fn column<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a ArrayRef, MissingColumn> {
    batch.column_by_name(name).ok_or(MissingColumn(name))
}

/// Opens a column and reads each row's value, where it has one.
fn values<'a, C, T>(
    batch: &'a RecordBatch,
    name: &'static str,
    scalar: impl Fn(T) -> Option<Scalar<'a>> + Send + Sync + 'a,
) -> Result<Read<'a>, MissingColumn>
where
    C: Column<'a, Item = Option<T>> + Send + Sync + 'a,
{
    let opened = C::open(column(batch, name)?).ok_or(MissingColumn(name))?;
    Ok(Box::new(move |row, test| opened.get(row).and_then(&scalar).is_some_and(&mut *test)))
}

fn open<'a>(batch: &'a RecordBatch, field: &Field) -> Result<Read<'a>, MissingColumn> {
    match field {
        Field::Intrinsic(intrinsic) => open_intrinsic(batch, *intrinsic),
        Field::Attribute { scope, key } => match scope {
            Scope::Any | Scope::Span => of_maps(batch, key),
            Scope::Resource if key == SERVICE => {
                values::<OptionalTerm<'_>, _>(batch, name::SERVICE_NAME, |text| Some(Scalar::Text(text)))
            }
            Scope::Resource => of_dictionary(batch, name::RESOURCE, attributes(key)),
            Scope::Instrumentation => of_dictionary(batch, name::SCOPE, attributes(key)),
            Scope::Event => of_list(batch, name::EVENTS, "attributes", Some(key.clone())),
            Scope::Link => of_list(batch, name::LINKS, "attributes", Some(key.clone())),
        },
    }
}

fn open_intrinsic<'a>(batch: &'a RecordBatch, intrinsic: Intrinsic) -> Result<Read<'a>, MissingColumn> {
    let text = |key: &'static str| {
        move |json: &Json| {
            let text = json[key].as_str().filter(|text| !text.is_empty());
            text.map(|text| Owned::Text(text.to_owned())).into_iter().collect()
        }
    };
    let from = match (intrinsic, intrinsic.place()) {
        (Intrinsic::InstrumentationName, _) => return of_dictionary(batch, name::SCOPE, text("name")),
        (Intrinsic::InstrumentationVersion, _) => return of_dictionary(batch, name::SCOPE, text("version")),
        (_, Place::Column(column) | Place::Nullable(column) | Place::Millis(column)) => column,
        (_, Place::EventName) => return of_list(batch, name::EVENTS, "name", None),
        (_, Place::Elsewhere) => return Ok(Box::new(|_, _| false)),
    };
    let data_type = column(batch, from)?.data_type().clone();
    match (intrinsic.value_type(), data_type) {
        (Type::Duration, DataType::Float64) => {
            values::<OptionalNumber<'_, Float64Type>, _>(batch, from, |millis| {
                let nanos = (millis * 1e6).round_ties_even();
                let is_one = nanos >= i64::MIN as f64 && nanos < i64::MAX as f64;
                is_one.then_some(Scalar::Duration(nanos as i64))
            })
        }
        (Type::Duration, DataType::Int64) => {
            values::<OptionalNumber<'_, Int64Type>, _>(batch, from, |nanos| Some(Scalar::Duration(nanos)))
        }
        (Type::Duration, _) => values::<OptionalNumber<'_, UInt64Type>, _>(batch, from, |nanos| {
            Some(Scalar::Duration(saturated(nanos)))
        }),
        (Type::Integer, DataType::UInt32) => {
            values::<OptionalNumber<'_, UInt32Type>, _>(batch, from, |number| {
                Some(Scalar::Integer(number.into()))
            })
        }
        (Type::Integer, _) => values::<OptionalNumber<'_, UInt64Type>, _>(batch, from, |number| {
            Some(Scalar::Integer(saturated(number)))
        }),
        (Type::Float, _) => {
            values::<OptionalNumber<'_, Float64Type>, _>(batch, from, |number| Some(Scalar::Float(number)))
        }
        (Type::Bool, _) => values::<OptionalFlag<'_>, _>(batch, from, |flag| Some(Scalar::Bool(flag))),
        (Type::Status, _) => values::<OptionalNumber<'_, UInt8Type>, _>(batch, from, |number| {
            Status::from_number(number).map(Scalar::Status)
        }),
        (Type::Kind, _) => values::<OptionalNumber<'_, UInt8Type>, _>(batch, from, |number| {
            Kind::from_number(number).map(Scalar::Kind)
        }),
        (Type::TraceId, _) => {
            values::<OptionalId<'_, 16>, _>(batch, from, |id| Some(Scalar::Id(id.as_slice())))
        }
        (Type::SpanId, _) => {
            values::<OptionalId<'_, 8>, _>(batch, from, |id| Some(Scalar::Id(id.as_slice())))
        }
        (Type::Text, DataType::Utf8) => {
            values::<OptionalText<'_>, _>(batch, from, |text| Some(Scalar::Text(text)))
        }
        (Type::Text, _) => values::<OptionalTerm<'_>, _>(batch, from, |text| Some(Scalar::Text(text))),
    }
}

fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The span's own attribute; a key is in one of the maps only.
fn of_maps<'a>(batch: &'a RecordBatch, key: &str) -> Result<Read<'a>, MissingColumn> {
    let mut maps = Vec::with_capacity(MAPS.len());
    for from in MAPS {
        let map: &MapArray = column(batch, from)?.as_map_opt().ok_or(MissingColumn(from))?;
        let keys: &StringArray = map.keys().as_any().downcast_ref().ok_or(MissingColumn(from))?;
        maps.push((map.value_offsets(), keys, map.values().as_ref()));
    }
    let key = key.to_owned();
    Ok(Box::new(move |row, test| {
        maps.iter().any(|(offsets, keys, values)| {
            let mut entries = (offsets[row] as usize..offsets[row + 1] as usize).rev();
            entries
                .find(|&entry| keys.value(entry) == key)
                .is_some_and(|entry| test(value_of(*values, entry)))
        })
    }))
}

fn value_of(values: &dyn Array, entry: usize) -> Scalar<'_> {
    let any = values.as_any();
    if let Some(texts) = any.downcast_ref::<StringArray>() {
        Scalar::Text(texts.value(entry))
    } else if let Some(numbers) = any.downcast_ref::<Int64Array>() {
        Scalar::Integer(numbers.value(entry))
    } else if let Some(numbers) = any.downcast_ref::<Float64Array>() {
        Scalar::Float(numbers.value(entry))
    } else if let Some(flags) = any.downcast_ref::<BooleanArray>() {
        Scalar::Bool(flags.value(entry))
    } else {
        debug_assert!(any.is::<BinaryArray>(), "an attribute map of {}", values.data_type());
        Scalar::Other
    }
}

/// A value read from JSON.
enum Owned {
    Text(String),
    Integer(i64),
    Float(f64),
    Bool(bool),
    Other,
}

impl Owned {
    /// An `AnyValue` of OTLP/JSON.
    fn of(value: &Json) -> Self {
        let only = value.as_object().and_then(|value| value.iter().next());
        match only.map(|(kind, value)| (kind.as_str(), value)) {
            Some(("stringValue", Json::String(text))) => Self::Text(text.clone()),
            // Whole numbers of 64 bits are written as text.
            Some(("intValue", Json::String(text))) => text.parse().map_or(Self::Other, Self::Integer),
            Some(("intValue", number)) => number.as_i64().map_or(Self::Other, Self::Integer),
            Some(("doubleValue", number)) => number.as_f64().map_or(Self::Other, Self::Float),
            Some(("boolValue", Json::Bool(flag))) => Self::Bool(*flag),
            _ => Self::Other,
        }
    }

    fn scalar(&self) -> Scalar<'_> {
        match self {
            Self::Text(text) => Scalar::Text(text),
            Self::Integer(number) => Scalar::Integer(*number),
            Self::Float(number) => Scalar::Float(*number),
            Self::Bool(flag) => Scalar::Bool(*flag),
            Self::Other => Scalar::Other,
        }
    }
}

/// The values of `key` in a list of `KeyValue`s.
fn keyed(list: &Json, key: &str) -> Vec<Owned> {
    let entries = list.as_array().into_iter().flatten();
    entries.filter(|entry| entry["key"] == key).map(|entry| Owned::of(&entry["value"])).collect()
}

/// The values of `key` among the attributes of a resource or scope.
fn attributes(key: &str) -> impl Fn(&Json) -> Vec<Owned> + Send + Sync + 'static {
    let key = key.to_owned();
    move |json| keyed(&json["attributes"], &key)
}

/// What a dictionary of JSON texts says; each is parsed once, when a row has it: a trace has few of a batch's.
fn of_dictionary<'a>(
    batch: &'a RecordBatch,
    from: &'static str,
    read: impl Fn(&Json) -> Vec<Owned> + Send + Sync + 'a,
) -> Result<Read<'a>, MissingColumn> {
    let terms = OptionalTerm::open(column(batch, from)?).ok_or(MissingColumn(from))?;
    let parsed: Vec<OnceLock<Vec<Owned>>> = terms.values().iter().map(|_| OnceLock::new()).collect();
    Ok(Box::new(move |row, test| {
        let Some(key) = terms.key(row) else { return false };
        let parse = || {
            serde_json::from_str(terms.values().value(key)).map_or_else(|_| Vec::new(), |json| read(&json))
        };
        parsed[key].get_or_init(parse).iter().any(|value| test(value.scalar()))
    }))
}

/// A text of each entry of a list, or the values of `key` where that text is a list of attributes.
fn of_list<'a>(
    batch: &'a RecordBatch,
    from: &'static str,
    part: &'static str,
    key: Option<String>,
) -> Result<Read<'a>, MissingColumn> {
    let list = column(batch, from)?.as_list_opt::<i32>().ok_or(MissingColumn(from))?;
    let entries: &StructArray = list.values().as_any().downcast_ref().ok_or(MissingColumn(from))?;
    let texts: &StringArray = entries
        .column_by_name(part)
        .and_then(|column| column.as_any().downcast_ref())
        .ok_or(MissingColumn(from))?;
    let offsets = list.value_offsets();
    Ok(Box::new(move |row, test| {
        (offsets[row] as usize..offsets[row + 1] as usize).map(|entry| texts.value(entry)).any(|text| {
            match &key {
                None => test(Scalar::Text(text)),
                // The key stands in the text as it is, or with escapes that a search for it may miss.
                Some(key) if !text.contains(key.as_str()) && !text.contains('\\') => false,
                Some(key) => {
                    let list: Json = serde_json::from_str(text).unwrap_or_default();
                    keyed(&list, key).iter().any(|value| test(value.scalar()))
                }
            }
        })
    }))
}
