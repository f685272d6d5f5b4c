// Command emit sends one trace with an unmodified OpenTelemetry SDK and prints what it sent.
//
// Usage: emit grpc|http HOST:PORT
package main

import (
	"context"
	"encoding/json"
	"log"
	"os"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

type object = map[string]any

func main() {
	transport, endpoint := os.Args[1], os.Args[2]
	ctx := context.Background()
	var client otlptrace.Client
	if transport == "grpc" {
		client = otlptracegrpc.NewClient(otlptracegrpc.WithEndpoint(endpoint), otlptracegrpc.WithInsecure(), otlptracegrpc.WithCompressor("gzip"))
	} else {
		client = otlptracehttp.NewClient(otlptracehttp.WithEndpoint(endpoint), otlptracehttp.WithInsecure(), otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	exporter, err := otlptrace.New(ctx, client)
	if err != nil {
		log.Fatal(err)
	}
	service := "go-" + transport
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithBatcher(exporter),
		sdktrace.WithResource(resource.NewSchemaless(attribute.String("service.name", service), attribute.Int("replica", 3))),
	)
	tracer := provider.Tracer("emit", trace.WithInstrumentationVersion("1.2.3"))

	traceID, _ := trace.TraceIDFromHex("0af7651916cd43dd8448eb211c80319c")
	spanID, _ := trace.SpanIDFromHex("b7ad6b7169203331")
	linked := trace.NewSpanContext(trace.SpanContextConfig{TraceID: traceID, SpanID: spanID, TraceFlags: trace.FlagsSampled})
	rootContext, root := tracer.Start(ctx, "POST /v1/chat", trace.WithSpanKind(trace.SpanKindServer),
		trace.WithLinks(trace.Link{SpanContext: linked, Attributes: []attribute.KeyValue{attribute.String("why", "batch")}}))
	root.SetAttributes(
		attribute.String("text", "grüße"),
		attribute.Int64("whole", 9007199254740993),
		attribute.Float64("ratio", 0.25),
		attribute.Bool("flag", true),
		attribute.StringSlice("words", []string{"a", "b"}),
		attribute.Int64Slice("numbers", []int64{1, 2, 3}),
	)
	root.AddEvent("first token", trace.WithAttributes(attribute.Int("index", 0), attribute.Float64("ms", 12.5)))
	_, child := tracer.Start(rootContext, "decode")
	child.SetAttributes(attribute.String("gen_ai.request.model", "tiny"))
	child.SetStatus(codes.Error, "out of memory")
	child.End()
	root.End()
	if err := provider.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}

	rootID := root.SpanContext().SpanID().String()
	text := func(value string) object { return object{"stringValue": value} }
	whole := func(value string) object { return object{"intValue": value} }
	sent := object{
		"trace_id": root.SpanContext().TraceID().String(),
		"service":  service,
		"scope":    "emit",
		"spans": []object{
			{
				"spanId": rootID, "parentSpanId": "", "name": "POST /v1/chat", "kind": 2,
				"status": object{"code": 0, "message": ""},
				"attributes": object{
					"text": text("grüße"), "whole": whole("9007199254740993"), "ratio": object{"doubleValue": 0.25},
					"flag":    object{"boolValue": true},
					"words":   object{"arrayValue": object{"values": []object{text("a"), text("b")}}},
					"numbers": object{"arrayValue": object{"values": []object{whole("1"), whole("2"), whole("3")}}},
				},
				"events": []object{{"name": "first token", "attributes": object{"index": whole("0"), "ms": object{"doubleValue": 12.5}}}},
				"links":  []object{{"traceId": traceID.String(), "spanId": spanID.String(), "attributes": object{"why": text("batch")}}},
			},
			{
				"spanId": child.SpanContext().SpanID().String(), "parentSpanId": rootID, "name": "decode", "kind": 1,
				"status":     object{"code": 2, "message": "out of memory"},
				"attributes": object{"gen_ai.request.model": text("tiny")},
				"events":     []object{}, "links": []object{},
			},
		},
	}
	if err := json.NewEncoder(os.Stdout).Encode(sent); err != nil {
		log.Fatal(err)
	}
}
