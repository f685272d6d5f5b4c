//! OTLP metrics into samples: the records of `infertrace.gpu.v1`.
//!
//! Gauges, sums and explicit-bucket histograms of any name pass; exponential histograms and summaries are
//! rejected by name. Partition: by device (`hw.id`), else by the resource's service and instance, so that one
//! series stays in one partition. Record layout and splitting are those of `shares`, with origins by index.

use infertrace_schemas::wire::{Fields, Value};
use xxhash_rust::xxh64::xxh64;

use super::{
    Context, Outcome, ParseError, Reason, check,
    number_points::{Meta, Point, SampleWriter},
    otlp::{ResourcePart, ScopePart, put_origin, string_attribute},
};

/// What a metric's data are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Data<'m> {
    Numbers(&'m [u8]),
    Histogram(&'m [u8]),
    Unsupported(&'m [u8]),
}

/// Splits an encoded `ExportMetricsServiceRequest` into records.
pub(crate) fn parse(request: &[u8], context: &Context<'_>) -> Result<Outcome, ParseError> {
    let wire = ParseError::wire("ExportMetricsServiceRequest");
    let mut transcoder = Transcoder {
        context,
        writer: SampleWriter::new(context, request.len()),
        outcome: Outcome::default(),
        index: 0,
    };
    for field in Fields::new(request) {
        let field = field.map_err(&wire)?;
        if field.number == 1 {
            transcoder.resource_metrics(field.bytes().map_err(&wire)?)?;
        }
    }
    let mut outcome = transcoder.outcome;
    outcome.records = transcoder.writer.into_records()?;
    Ok(outcome)
}

struct Transcoder<'a> {
    context: &'a Context<'a>,
    writer: SampleWriter<'a>,
    outcome: Outcome,
    index: u64,
}

/// What all points of one scope share.
struct Place<'r> {
    resource: &'r ResourcePart<'r>,
    scope: &'r ScopePart<'r>,
    origin: Option<u32>,
    fault: Option<Reason>,
}

impl Transcoder<'_> {
    fn resource_metrics(&mut self, message: &[u8]) -> Result<(), ParseError> {
        let wire = ParseError::wire("ResourceMetrics");
        let depth = self.context.limits.max_depth;
        let resource = ResourcePart::read(message, "ResourceMetrics", depth)?;
        for field in Fields::new(message) {
            let field = field.map_err(&wire)?;
            if field.number == 2 {
                let scope_metrics = field.bytes().map_err(&wire)?;
                let scope = ScopePart::read(scope_metrics, "ScopeMetrics", depth)?;
                let fault = resource.fault().or(scope.fault());
                let mut place = Place { resource: &resource, scope: &scope, origin: None, fault };
                self.scope_metrics(scope_metrics, &mut place)?;
            }
        }
        Ok(())
    }

    fn scope_metrics(&mut self, message: &[u8], place: &mut Place<'_>) -> Result<(), ParseError> {
        let wire = ParseError::wire("ScopeMetrics");
        for field in Fields::new(message) {
            let field = field.map_err(&wire)?;
            if field.number == 2 {
                self.metric(field.bytes().map_err(&wire)?, place)?;
            }
        }
        Ok(())
    }

    fn metric(&mut self, message: &[u8], place: &mut Place<'_>) -> Result<(), ParseError> {
        let wire = ParseError::wire("Metric");
        let mut meta = Meta::default();
        let mut data = None;
        for field in Fields::new(message) {
            let field = field.map_err(&wire)?;
            match field.number {
                1 => meta.name = field.bytes().map_err(&wire)?,
                3 => meta.unit = field.bytes().map_err(&wire)?,
                5 | 7 => data = Some(Data::Numbers(field.bytes().map_err(&wire)?)),
                9 => data = Some(Data::Histogram(field.bytes().map_err(&wire)?)),
                10 | 11 => data = Some(Data::Unsupported(field.bytes().map_err(&wire)?)),
                _ => {}
            }
        }
        let fault = place
            .fault
            .or_else(|| check::text(meta.name).err())
            .or_else(|| check::text(meta.unit).err())
            .or_else(|| meta.name.is_empty().then_some(Reason::Malformed));
        let Some(data) = data else { return Ok(()) };
        let (Data::Numbers(points) | Data::Histogram(points) | Data::Unsupported(points)) = data;
        let fault = match data {
            Data::Unsupported(_) => Some(Reason::UnsupportedMetric),
            _ => fault,
        };
        for field in Fields::new(points) {
            let field = field.map_err(&wire)?;
            match (field.number, field.value) {
                (2, Value::Varint(temporality)) => meta.temporality = temporality.min(2),
                (3, Value::Varint(monotonic)) => meta.monotonic = monotonic != 0,
                _ => {}
            }
        }
        for field in Fields::new(points) {
            let field = field.map_err(&wire)?;
            if field.number != 1 {
                continue;
            }
            let point = field.bytes().map_err(&wire)?;
            let accepted = match fault {
                Some(reason) => Err(reason),
                None => self.point(point, matches!(data, Data::Histogram(_)), &meta, place),
            };
            match accepted {
                Ok(written) => self.outcome.accepted += u64::from(written),
                Err(reason) => self.outcome.rejections.add(reason, self.index, 1),
            }
            self.index += 1;
        }
        self.writer.check_output()
    }

    /// Writes one point; false when it says that it has no value.
    fn point(
        &mut self,
        bytes: &[u8],
        histogram: bool,
        meta: &Meta<'_>,
        place: &mut Place<'_>,
    ) -> Result<bool, Reason> {
        if self.index >= self.context.limits.max_spans as u64 {
            return Err(Reason::TooManySpans);
        }
        let Some(point) = Point::read(bytes, histogram, self.context)? else { return Ok(false) };
        let device = point
            .attributes
            .iter()
            .find_map(|attribute| string_attribute(attribute, b"hw.id"))
            .or_else(|| place.resource.attribute(b"hw.id"))
            .unwrap_or_default();
        let partition = partition_of(device, place.resource, self.context.partitions);
        let origin = match place.origin {
            Some(number) => number,
            None => {
                let number = self.writer.origin(|out| put_origin(out, place.resource, place.scope));
                *place.origin.insert(number)
            }
        };
        self.writer.write(partition, origin, meta, device, &point)?;
        Ok(true)
    }
}

fn partition_of(device: &[u8], resource: &ResourcePart<'_>, partitions: u32) -> u32 {
    let hash = if device.is_empty() {
        let instance = resource.attribute(b"service.instance.id").unwrap_or_default();
        xxh64(instance, xxh64(resource.service(), 0))
    } else {
        xxh64(device, 0)
    };
    (hash % u64::from(partitions.max(1))) as u32
}
