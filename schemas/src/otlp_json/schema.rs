//! The OTLP messages as tables: JSON name to field number and kind.

/// How a JSON value becomes a protobuf field.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    /// Trace and span ids: hex.
    HexId,
    /// Everything else of type `bytes`: base64.
    Base64,
    Bool,
    /// `uint32`, `uint64` and enums without names.
    Varint,
    /// `int64`.
    Int64,
    Fixed32,
    Fixed64,
    /// `sfixed64`.
    SignedFixed64,
    Double,
    /// Number, or one of these names.
    Enum(&'static [&'static str]),
    Message(&'static Message),
    /// `repeated` of the kind.
    Repeated(&'static Kind),
}

/// A message's name, for errors, and its fields: JSON name, number, kind.
pub(super) struct Message {
    pub(super) name: &'static str,
    pub(super) fields: &'static [(&'static str, u32, Kind)],
    /// Whether values nest in it without bound (`AnyValue`).
    pub(super) recursive: bool,
}

use Kind::{
    Base64, Bool, Double, Enum, Fixed32, Fixed64, HexId, Int64, Repeated, SignedFixed64, Text, Varint,
};

const fn message(name: &'static str, fields: &'static [(&'static str, u32, Kind)]) -> Message {
    Message { name, fields, recursive: false }
}

const FIXED64: Kind = Fixed64;
const DOUBLE: Kind = Double;
const TEXT: Kind = Text;
// A static, not a constant: the messages refer to one another in circles.
static KEY_VALUE_KIND: Kind = Kind::Message(&KEY_VALUE);
const DROPPED: &str = "droppedAttributesCount";

static KEY_VALUE: Message = message("KeyValue", &[("key", 1, Text), ("value", 2, Kind::Message(&ANY_VALUE))]);

static ANY_VALUE: Message = Message {
    name: "AnyValue",
    recursive: true,
    fields: &[
        ("stringValue", 1, Text),
        ("boolValue", 2, Bool),
        ("intValue", 3, Int64),
        ("doubleValue", 4, Double),
        ("arrayValue", 5, Kind::Message(&ARRAY)),
        ("kvlistValue", 6, Kind::Message(&KEY_VALUE_LIST)),
        ("bytesValue", 7, Base64),
    ],
};

static ARRAY: Message = message("ArrayValue", &[("values", 1, Repeated(&Kind::Message(&ANY_VALUE)))]);
static KEY_VALUE_LIST: Message = message("KeyValueList", &[("values", 1, Repeated(&KEY_VALUE_KIND))]);

static ENTITY_REF: Message = message(
    "EntityRef",
    &[
        ("schemaUrl", 1, Text),
        ("type", 2, Text),
        ("idKeys", 3, Repeated(&TEXT)),
        ("descriptionKeys", 4, Repeated(&TEXT)),
    ],
);

static RESOURCE: Message = message(
    "Resource",
    &[
        ("attributes", 1, Repeated(&KEY_VALUE_KIND)),
        (DROPPED, 2, Varint),
        ("entityRefs", 3, Repeated(&Kind::Message(&ENTITY_REF))),
    ],
);

static SCOPE: Message = message(
    "InstrumentationScope",
    &[
        ("name", 1, Text),
        ("version", 2, Text),
        ("attributes", 3, Repeated(&KEY_VALUE_KIND)),
        (DROPPED, 4, Varint),
    ],
);

static EVENT: Message = message(
    "Span.Event",
    &[
        ("timeUnixNano", 1, Fixed64),
        ("name", 2, Text),
        ("attributes", 3, Repeated(&KEY_VALUE_KIND)),
        (DROPPED, 4, Varint),
    ],
);

static LINK: Message = message(
    "Span.Link",
    &[
        ("traceId", 1, HexId),
        ("spanId", 2, HexId),
        ("traceState", 3, Text),
        ("attributes", 4, Repeated(&KEY_VALUE_KIND)),
        (DROPPED, 5, Varint),
        ("flags", 6, Fixed32),
    ],
);

static STATUS: Message = message(
    "Status",
    &[("message", 2, Text), ("code", 3, Enum(&["STATUS_CODE_UNSET", "STATUS_CODE_OK", "STATUS_CODE_ERROR"]))],
);

static SPAN: Message = message(
    "Span",
    &[
        ("traceId", 1, HexId),
        ("spanId", 2, HexId),
        ("traceState", 3, Text),
        ("parentSpanId", 4, HexId),
        ("name", 5, Text),
        (
            "kind",
            6,
            Enum(&[
                "SPAN_KIND_UNSPECIFIED",
                "SPAN_KIND_INTERNAL",
                "SPAN_KIND_SERVER",
                "SPAN_KIND_CLIENT",
                "SPAN_KIND_PRODUCER",
                "SPAN_KIND_CONSUMER",
            ]),
        ),
        ("startTimeUnixNano", 7, Fixed64),
        ("endTimeUnixNano", 8, Fixed64),
        ("attributes", 9, Repeated(&KEY_VALUE_KIND)),
        (DROPPED, 10, Varint),
        ("events", 11, Repeated(&Kind::Message(&EVENT))),
        ("droppedEventsCount", 12, Varint),
        ("links", 13, Repeated(&Kind::Message(&LINK))),
        ("droppedLinksCount", 14, Varint),
        ("status", 15, Kind::Message(&STATUS)),
        ("flags", 16, Fixed32),
    ],
);

static SCOPE_SPANS: Message = message(
    "ScopeSpans",
    &[
        ("scope", 1, Kind::Message(&SCOPE)),
        ("spans", 2, Repeated(&Kind::Message(&SPAN))),
        ("schemaUrl", 3, Text),
    ],
);

static RESOURCE_SPANS: Message = message(
    "ResourceSpans",
    &[
        ("resource", 1, Kind::Message(&RESOURCE)),
        ("scopeSpans", 2, Repeated(&Kind::Message(&SCOPE_SPANS))),
        ("schemaUrl", 3, Text),
    ],
);

/// `ExportTraceServiceRequest`.
pub(super) static TRACES: Message =
    message("ExportTraceServiceRequest", &[("resourceSpans", 1, Repeated(&Kind::Message(&RESOURCE_SPANS)))]);

const TEMPORALITY: Kind = Enum(&[
    "AGGREGATION_TEMPORALITY_UNSPECIFIED",
    "AGGREGATION_TEMPORALITY_DELTA",
    "AGGREGATION_TEMPORALITY_CUMULATIVE",
]);

static NUMBER_POINT: Message = message(
    "NumberDataPoint",
    &[
        ("startTimeUnixNano", 2, Fixed64),
        ("timeUnixNano", 3, Fixed64),
        ("asDouble", 4, Double),
        ("asInt", 6, SignedFixed64),
        ("attributes", 7, Repeated(&KEY_VALUE_KIND)),
        ("flags", 8, Varint),
    ],
);

static HISTOGRAM_POINT: Message = message(
    "HistogramDataPoint",
    &[
        ("startTimeUnixNano", 2, Fixed64),
        ("timeUnixNano", 3, Fixed64),
        ("count", 4, Fixed64),
        ("sum", 5, Double),
        ("bucketCounts", 6, Repeated(&FIXED64)),
        ("explicitBounds", 7, Repeated(&DOUBLE)),
        ("attributes", 9, Repeated(&KEY_VALUE_KIND)),
        ("flags", 10, Varint),
        ("min", 11, Double),
        ("max", 12, Double),
    ],
);

/// Points of the kinds that are not supported: only counted.
static OPAQUE_POINT: Message = message("DataPoint", &[]);

static GAUGE: Message = message("Gauge", &[("dataPoints", 1, Repeated(&Kind::Message(&NUMBER_POINT)))]);
static SUM: Message = message(
    "Sum",
    &[
        ("dataPoints", 1, Repeated(&Kind::Message(&NUMBER_POINT))),
        ("aggregationTemporality", 2, TEMPORALITY),
        ("isMonotonic", 3, Bool),
    ],
);
static HISTOGRAM: Message = message(
    "Histogram",
    &[
        ("dataPoints", 1, Repeated(&Kind::Message(&HISTOGRAM_POINT))),
        ("aggregationTemporality", 2, TEMPORALITY),
    ],
);
static OPAQUE: Message = message("Metric", &[("dataPoints", 1, Repeated(&Kind::Message(&OPAQUE_POINT)))]);

static METRIC: Message = message(
    "Metric",
    &[
        ("name", 1, Text),
        ("description", 2, Text),
        ("unit", 3, Text),
        ("gauge", 5, Kind::Message(&GAUGE)),
        ("sum", 7, Kind::Message(&SUM)),
        ("histogram", 9, Kind::Message(&HISTOGRAM)),
        ("exponentialHistogram", 10, Kind::Message(&OPAQUE)),
        ("summary", 11, Kind::Message(&OPAQUE)),
    ],
);

static SCOPE_METRICS: Message = message(
    "ScopeMetrics",
    &[
        ("scope", 1, Kind::Message(&SCOPE)),
        ("metrics", 2, Repeated(&Kind::Message(&METRIC))),
        ("schemaUrl", 3, Text),
    ],
);

static RESOURCE_METRICS: Message = message(
    "ResourceMetrics",
    &[
        ("resource", 1, Kind::Message(&RESOURCE)),
        ("scopeMetrics", 2, Repeated(&Kind::Message(&SCOPE_METRICS))),
        ("schemaUrl", 3, Text),
    ],
);

/// `ExportMetricsServiceRequest`.
pub(super) static METRICS: Message = message(
    "ExportMetricsServiceRequest",
    &[("resourceMetrics", 1, Repeated(&Kind::Message(&RESOURCE_METRICS)))],
);
