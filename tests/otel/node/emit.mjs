// Sends one trace with an unmodified OpenTelemetry SDK, which speaks OTLP/JSON over HTTP, and prints what it sent.
//
// Usage: emit.mjs http ENDPOINT
import { context, SpanKind, SpanStatusCode, trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BasicTracerProvider, BatchSpanProcessor } from "@opentelemetry/sdk-trace-base";

const [transport, endpoint] = process.argv.slice(2);
const service = `node-${transport}`;
const exporter = new OTLPTraceExporter({ url: `${endpoint}/v1/traces` });
const provider = new BasicTracerProvider({
  resource: resourceFromAttributes({ "service.name": service, replica: 3 }),
  spanProcessors: [new BatchSpanProcessor(exporter)],
});
const tracer = provider.getTracer("emit", "1.2.3");

const linked = { traceId: "0af7651916cd43dd8448eb211c80319c", spanId: "b7ad6b7169203331", traceFlags: 1 };
const root = tracer.startSpan("POST /v1/chat", {
  kind: SpanKind.SERVER,
  links: [{ context: linked, attributes: { why: "batch" } }],
});
root.setAttributes({ text: "grüße", whole: 1234567890123, ratio: 0.25, flag: true, words: ["a", "b"], numbers: [1, 2, 3] });
root.addEvent("first token", { index: 0, ms: 12.5 });
const child = tracer.startSpan("decode", {}, trace.setSpan(context.active(), root));
child.setAttribute("gen_ai.request.model", "tiny");
child.setStatus({ code: SpanStatusCode.ERROR, message: "out of memory" });
child.end();
root.end();
await provider.shutdown();

const { traceId, spanId } = root.spanContext();
const text = (value) => ({ stringValue: value });
const whole = (value) => ({ intValue: value });
console.log(
  JSON.stringify({
    trace_id: traceId,
    service,
    scope: "emit",
    spans: [
      {
        spanId,
        parentSpanId: "",
        name: "POST /v1/chat",
        kind: 2,
        status: { code: 0, message: "" },
        attributes: {
          text: text("grüße"),
          whole: whole("1234567890123"),
          ratio: { doubleValue: 0.25 },
          flag: { boolValue: true },
          words: { arrayValue: { values: [text("a"), text("b")] } },
          numbers: { arrayValue: { values: [whole("1"), whole("2"), whole("3")] } },
        },
        events: [{ name: "first token", attributes: { index: whole("0"), ms: { doubleValue: 12.5 } } }],
        links: [{ traceId: linked.traceId, spanId: linked.spanId, attributes: { why: text("batch") } }],
      },
      {
        spanId: child.spanContext().spanId,
        parentSpanId: spanId,
        name: "decode",
        kind: 1,
        status: { code: 2, message: "out of memory" },
        attributes: { "gen_ai.request.model": text("tiny") },
        events: [],
        links: [],
      },
    ],
  }),
);
