//! Resources and scopes: rendered once a distinct origin, then a number a span.
//!
//! Invariant: a broken origin writes into no dictionary; every span that refers to it is rejected.

use std::io::Write;

use hashbrown::HashMap;

use super::{
    SpanError,
    assemble::Columns,
    attributes::check_text,
    nested::{check_key_value, put_attributes},
    scratch::Scratch,
};
use crate::{
    mapping::{Kind, Lookup, Target, framework_of_scope},
    value::{AnyValue, Separator, key_value, put_json_string},
    wire::Fields,
};

/// What every span of one origin has in common.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// Keys in the dictionaries of the batch being built.
    pub(super) resource: i32,
    pub(super) scope: i32,
    pub(super) resource_url: Option<i32>,
    pub(super) scope_url: Option<i32>,
    /// By the name of the scope.
    pub(super) framework: Option<&'static str>,
    /// What resource attributes say, for spans that do not say it themselves.
    pub(super) terms: Vec<(Target, i32)>,
    pub(super) numbers: Vec<(Target, u8, u64)>,
}

impl Origin {
    pub(super) fn has_term(&self, target: Target) -> bool {
        self.terms.iter().any(|(known, _)| *known == target)
    }
}

/// The origins of the batch being built.
#[derive(Debug, Default)]
pub(super) struct Origins {
    known: HashMap<Box<[u8]>, u32, ahash::RandomState>,
    origins: Vec<Origin>,
    /// For each origin of the record being read, and for the empty one that any other index means.
    of_record: Vec<Option<Result<u32, SpanError>>>,
}

impl Origins {
    /// Starts a record with `count` origins.
    pub(super) fn start_record(&mut self, count: usize) {
        self.of_record.clear();
        self.of_record.resize(count + 1, None);
    }

    /// Starts another batch, whose dictionaries are empty.
    pub(super) fn clear(&mut self) {
        self.known.clear();
        self.origins.clear();
    }

    #[inline]
    pub(super) fn get(&self, index: u32) -> &Origin {
        &self.origins[index as usize]
    }

    /// The origin that a span means by `index`.
    #[inline]
    pub(super) fn resolve(
        &mut self,
        index: u32,
        record: &[&[u8]],
        lookup: &Lookup,
        columns: &mut Columns,
    ) -> Result<u32, SpanError> {
        let index = (index as usize).min(record.len());
        if let Some(resolved) = self.of_record[index] {
            return resolved;
        }
        let message = record.get(index).copied().unwrap_or_default();
        let resolved = match self.known.get(message) {
            Some(known) => Ok(*known),
            None => read(message, lookup, columns).map(|origin| {
                let number = self.origins.len() as u32;
                self.origins.push(origin);
                self.known.insert(message.into(), number);
                number
            }),
        };
        self.of_record[index] = Some(resolved);
        resolved
    }
}

/// The parts of an encoded `Origin`.
#[derive(Default)]
struct Parts<'a> {
    resource: &'a [u8],
    scope: &'a [u8],
    resource_url: &'a [u8],
    scope_url: &'a [u8],
}

fn read(message: &[u8], lookup: &Lookup, columns: &mut Columns) -> Result<Origin, SpanError> {
    let (parts, scope_name) = check(message).map_err(|_| SpanError::BadOrigin)?;

    let mut text = Vec::new();
    put_resource(&mut text, parts.resource);
    let resource = columns.resource.dictionary.intern(&text);
    text.clear();
    put_scope(&mut text, parts.scope);
    let scope = columns.scope.dictionary.intern(&text);
    let url = |url: &[u8], column: &mut super::buffer::SparseTerms| {
        (!url.is_empty()).then(|| column.dictionary.intern(url))
    };
    let mut origin = Origin {
        resource,
        scope,
        resource_url: url(parts.resource_url, &mut columns.resource_url),
        scope_url: url(parts.scope_url, &mut columns.scope_url),
        framework: std::str::from_utf8(scope_name).ok().and_then(framework_of_scope),
        terms: Vec::new(),
        numbers: Vec::new(),
    };
    map_resource(&mut origin, parts.resource, lookup, columns);
    Ok(origin)
}

/// Checks every part; answers them and the name of the scope.
fn check(message: &[u8]) -> Result<(Parts<'_>, &[u8]), SpanError> {
    let mut parts = Parts::default();
    for field in Fields::new(message) {
        let field = field?;
        match field.number {
            1 => parts.resource = field.bytes()?,
            2 => parts.scope = field.bytes()?,
            3 => parts.resource_url = field.bytes()?,
            4 => parts.scope_url = field.bytes()?,
            _ => {}
        }
    }
    check_text(parts.resource_url)?;
    check_text(parts.scope_url)?;
    for field in Fields::new(parts.resource) {
        let field = field?;
        match field.number {
            1 => check_key_value(field.bytes()?)?,
            2 => {
                field.varint()?;
            }
            _ => {}
        }
    }
    let mut name: &[u8] = &[];
    for field in Fields::new(parts.scope) {
        let field = field?;
        match field.number {
            1 => {
                name = field.bytes()?;
                check_text(name)?;
            }
            2 => check_text(field.bytes()?)?,
            3 => check_key_value(field.bytes()?)?,
            4 => {
                field.varint()?;
            }
            _ => {}
        }
    }
    Ok((parts, name))
}

/// Appends a checked `Resource` as OTLP/JSON.
fn put_resource(out: &mut Vec<u8>, message: &[u8]) {
    out.push(b'{');
    let mut separator = Separator::default();
    put_attribute_list(out, &mut separator, message, 1);
    put_dropped(out, &mut separator, message, 2);
    out.push(b'}');
}

/// Appends a checked `Scope` as an OTLP/JSON `InstrumentationScope`.
fn put_scope(out: &mut Vec<u8>, message: &[u8]) {
    out.push(b'{');
    let mut separator = Separator::default();
    for (number, name) in [(1, "name"), (2, "version")] {
        let fields = Fields::new(message).map_while(Result::ok).filter(|field| field.number == number);
        let text = fields.last().and_then(|field| field.bytes().ok()).unwrap_or_default();
        if !text.is_empty() {
            separator.put(out);
            write!(out, "\"{name}\":").expect("written to memory");
            put_json_string(out, &String::from_utf8_lossy(text));
        }
    }
    put_attribute_list(out, &mut separator, message, 3);
    put_dropped(out, &mut separator, message, 4);
    out.push(b'}');
}

fn put_attribute_list(out: &mut Vec<u8>, separator: &mut Separator, message: &[u8], number: u32) {
    if Fields::new(message).map_while(Result::ok).any(|field| field.number == number) {
        separator.put(out);
        out.extend_from_slice(b"\"attributes\":");
        put_attributes(out, message, number);
    }
}

fn put_dropped(out: &mut Vec<u8>, separator: &mut Separator, message: &[u8], number: u32) {
    let fields = Fields::new(message).map_while(Result::ok).filter(|field| field.number == number);
    let dropped = fields.last().and_then(|field| field.varint().ok()).unwrap_or(0) as u32;
    if dropped != 0 {
        separator.put(out);
        write!(out, "\"droppedAttributesCount\":{dropped}").expect("written to memory");
    }
}

/// Applies the mapping to the resource's attributes.
fn map_resource(origin: &mut Origin, resource: &[u8], lookup: &Lookup, columns: &mut Columns) {
    let mut scratch = Scratch::new();
    for field in Fields::new(resource).map_while(Result::ok).filter(|field| field.number == 1) {
        let (key, value) = field.bytes().and_then(key_value).unwrap_or_default();
        if let Some(entry) = lookup.find(key) {
            scratch.offer_entry(entry, &AnyValue::parse(value).unwrap_or(AnyValue::Empty));
        }
    }
    for target in Target::ALL.iter().copied().filter(|target| scratch.has(*target)) {
        match target.kind() {
            Kind::Term if scratch.reasons.is_none() => {
                let key = columns.terms[target.slot()].dictionary.intern(scratch.text(target));
                origin.terms.push((target, key));
            }
            // Requests and sessions are no property of a resource.
            Kind::Term | Kind::Text | Kind::Helper => {}
            Kind::U32 | Kind::U64 | Kind::F64 | Kind::Flag => {
                let rank = scratch.rank_of(target).unwrap_or(0).saturating_add(super::scratch::RESOURCE);
                origin.numbers.push((target, rank, scratch.bits(target).unwrap_or(0)));
            }
        }
    }
}
