"""Sends one trace with an unmodified OpenTelemetry SDK and prints what it sent.

Usage: emit.py grpc|http ENDPOINT
"""

import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

transport, endpoint = sys.argv[1:3]
if transport == "grpc":
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=endpoint, insecure=True)
else:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=f"{endpoint}/v1/traces")

service = f"python-{transport}"
provider = TracerProvider(resource=Resource.create({"service.name": service, "replica": 3}))
provider.add_span_processor(BatchSpanProcessor(exporter))
tracer = provider.get_tracer("emit", "1.2.3")

linked = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, TraceFlags(1))
with tracer.start_as_current_span("POST /v1/chat", kind=SpanKind.SERVER, links=[Link(linked, {"why": "batch"})]) as root:
    root.set_attribute("text", "grüße")
    root.set_attribute("whole", 9007199254740993)
    root.set_attribute("ratio", 0.25)
    root.set_attribute("flag", True)
    root.set_attribute("words", ["a", "b"])
    root.set_attribute("numbers", [1, 2, 3])
    root.add_event("first token", {"index": 0, "ms": 12.5})
    with tracer.start_as_current_span("decode") as child:
        child.set_attribute("gen_ai.request.model", "tiny")
        child.set_status(Status(StatusCode.ERROR, "out of memory"))
provider.shutdown()

hexid = lambda value, width: format(value, f"0{width}x")
print(
    json.dumps(
        {
            "trace_id": hexid(root.get_span_context().trace_id, 32),
            "service": service,
            "scope": "emit",
            "spans": [
                {
                    "spanId": hexid(root.get_span_context().span_id, 16),
                    "parentSpanId": "",
                    "name": "POST /v1/chat",
                    "kind": 2,
                    "status": {"code": 0, "message": ""},
                    "attributes": {
                        "text": {"stringValue": "grüße"},
                        "whole": {"intValue": "9007199254740993"},
                        "ratio": {"doubleValue": 0.25},
                        "flag": {"boolValue": True},
                        "words": {"arrayValue": {"values": [{"stringValue": "a"}, {"stringValue": "b"}]}},
                        "numbers": {"arrayValue": {"values": [{"intValue": "1"}, {"intValue": "2"}, {"intValue": "3"}]}},
                    },
                    "events": [{"name": "first token", "attributes": {"index": {"intValue": "0"}, "ms": {"doubleValue": 12.5}}}],
                    "links": [
                        {
                            "traceId": "0af7651916cd43dd8448eb211c80319c",
                            "spanId": "b7ad6b7169203331",
                            "attributes": {"why": {"stringValue": "batch"}},
                        }
                    ],
                },
                {
                    "spanId": hexid(child.get_span_context().span_id, 16),
                    "parentSpanId": hexid(root.get_span_context().span_id, 16),
                    "name": "decode",
                    "kind": 1,
                    "status": {"code": 2, "message": "out of memory"},
                    "attributes": {"gen_ai.request.model": {"stringValue": "tiny"}},
                    "events": [],
                    "links": [],
                },
            ],
        }
    )
)
