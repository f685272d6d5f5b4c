// Deterministic traces of a small inference service, in the shapes of the query API.
//
// The same seed gives the same traces on every machine; only the start of time is given, so that "5 minutes ago" holds.

/** mulberry32: a seeded generator of numbers in [0, 1). */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

const hex = (value, digits) => value.toString(16).padStart(digits, "0");
export const spanId = (n) => hex(n, 16);
export const traceId = (seed) => hex(0xabc, 8) + hex(seed, 24);

const MODELS = ["Llama-3.3-70B-Instruct", "Qwen3-32B", "bge-reranker-v2-m3"];
const OPERATIONS = ["POST /v1/chat/completions", "POST /v1/embeddings", "POST /v1/completions"];

/** Ids of traces that tests ask for by name. */
export const ids = {
  plain: traceId(7),
  failed: traceId(1001),
  partial: traceId(1002),
  large: traceId(10_000),
  missing: "f".repeat(32),
  broken: traceId(500),
};

function build(startNano) {
  const spans = [];
  const add = (parent, service, operation, startUs, durationUs, more = {}) => {
    const span = {
      span_id: spanId(spans.length + 1),
      parent_span_id: parent?.span_id ?? "",
      service,
      operation,
      kind: more.kind ?? "INTERNAL",
      start_unix_nano: (startNano + BigInt(Math.round(startUs)) * 1000n).toString(),
      duration_nano: (BigInt(Math.max(0, Math.round(durationUs))) * 1000n).toString(),
      status: { code: "UNSET", message: "" },
      attributes: {},
      attribute_types: {},
      resource: {
        attributes: { "service.name": service, "service.instance.id": `${service}-0`, "host.name": "node-17", "process.pid": "4242" },
        attribute_types: { "process.pid": "int" },
      },
      scope: { name: `infertrace.${service}`, version: "1.4.2" },
      events: [],
      links: [],
      inference: {},
      gpu: {},
      cpu: {},
      memory: {},
      queue: {},
      batch: {},
      cache: {},
      stage: null,
      tokens: [],
      trace_state: "",
      flags: 1,
      dropped_attributes_count: 0,
      dropped_events_count: 0,
      dropped_links_count: 0,
      tier: "hot",
      ...more,
    };
    spans.push(span);
    return span;
  };
  return { spans, add };
}

function tokens(rand, count, firstUs, stepUs, stallAt) {
  const out = [];
  let batch = 8 + Math.floor(rand() * 16);
  for (let index = 0; index < count; index += 1) {
    if (rand() < 0.08) batch = Math.max(2, Math.min(32, batch + (rand() < 0.5 ? -3 : 3)));
    const step = stepUs * (0.85 + rand() * 0.25 + batch / 80) * (index === stallAt ? 9 : 1);
    const itl = Math.round(index === 0 ? firstUs : step);
    out.push({ index, id: Math.floor(rand() * 128_000), itl_micros: itl, attention_micros: Math.round(itl * 0.45), ffn_micros: Math.round(itl * 0.4), batch_size: batch });
  }
  return out;
}

/** A chat request through gateway, tokenizer, scheduler and engine. */
export function chatTrace(seed, startNano, { error = false, partial = false } = {}) {
  const rand = random(seed);
  const { spans, add } = build(startNano);
  const model = MODELS[seed % MODELS.length];
  const operation = OPERATIONS[seed % OPERATIONS.length];
  const input = 40 + Math.floor(rand() * 6_000);
  const output = error ? 0 : 20 + Math.floor(rand() * 380);
  const queueUs = rand() < 0.25 ? 90_000 + rand() * 900_000 : 800 + rand() * 30_000;
  const prefillUs = 9_000 + input * 38;
  const stepUs = 8_500 + rand() * 6_000;
  const timeline = tokens(rand, output, queueUs + prefillUs, stepUs, output > 60 ? Math.floor(output * 0.6) : -1);
  const decodeUs = timeline.slice(1).reduce((sum, token) => sum + token.itl_micros, 0) + 900;
  const engineUs = queueUs + prefillUs + (error ? 40_000 : decodeUs);
  const cached = Math.floor(input * rand() * 0.8);
  const root = add(null, "api-gateway", operation, 0, engineUs + 21_000, {
    kind: "SERVER",
    attributes: { "http.request.method": "POST", "http.route": operation.split(" ")[1], "http.response.status_code": error ? "503" : "200", "user.tier": seed % 3 ? "pro" : "free", "url.query": "stream=true&<script>alert(1)</script>" },
    attribute_types: { "http.response.status_code": "int" },
  });
  if (error) root.status = { code: "ERROR", message: "upstream answered 503" };
  add(root, "api-gateway", "authenticate", 300, 1_400);
  const pre = add(root, "preprocessor", "prepare prompt", 2_100, 9_800, { stage: "preprocessing", kind: "CLIENT" });
  add(pre, "preprocessor", "render chat template", 2_500, 2_600, { stage: "preprocessing" });
  add(pre, "tokenizer", "tokenize", 5_300, 6_200, { stage: "tokenize", inference: { input_tokens: String(input) } });
  const parent = partial ? { span_id: spanId(9_999) } : root;
  const engine = add(parent, "vllm", "llm_request", 12_400, engineUs, {
    kind: "SERVER",
    inference: { model_name: model, model_version: "1.4", framework: "vllm", provider: "vllm", input_tokens: String(input), output_tokens: String(output), cached_tokens: String(cached), sequence_length: String(input + output), request_id: `chatcmpl-${hex(seed, 8)}`, streaming: true, ...(error ? {} : { finish_reason: "stop", ttft_nano: String(Math.round((queueUs + prefillUs) * 1e3)), tpot_nano: String(Math.round((decodeUs / output) * 1e3)) }) },
    queue: { depth: Math.floor(queueUs / 20_000), wait_time_ms: Math.round(queueUs) / 1e3 },
    batch: { size: 14, max_size: 32, fill_ratio: 14 / 32 },
    cache: { hit: cached > 0, hit_ratio: cached / input, cached_tokens: String(cached), kv_usage_ratio: 0.81 },
    attributes: { "gen_ai.request.model": model, "gen_ai.request.temperature": 0.7, "gen_ai.request.max_tokens": "512", "gen_ai.usage.prompt_tokens": String(input), "gen_ai.latency.time_in_queue": queueUs / 1e6, "vllm.prefix_cached": cached > 0, "gen_ai.request.stop_sequences": ["</s>", "<|eot|>"], "app.prompt.preview": "Summarise the quarterly report for the board. ".repeat(8) },
    attribute_types: { "gen_ai.request.max_tokens": "int", "gen_ai.usage.prompt_tokens": "int" },
    links: [{ trace_id: traceId((seed + 1) % 120), span_id: spanId(6), trace_state: "", attributes: { "link.kind": "shared prefix" }, attribute_types: {} }],
    tier: "hot",
    cost: { usd: 0.003822222, nano_usd: "3822222", gpu_micros: "2000000", kind: "estimated", basis: "gpu", counted: true },
  });
  const gpu = { device_id: "GPU-5f2e1c9a-77b1-4a0e-9b0c-2d6d3a1f0c11", index: 2, name: "NVIDIA H100 80GB HBM3", instance_type: "p5.48xlarge", memory_used_bytes: "76441190400", memory_total_bytes: "85899345920", power_watts: 512.4, temperature_celsius: 63, sm_clock_mhz: 1755, throttle_reasons: seed % 4 ? "0" : "4" };
  add(engine, "vllm", "queue", 12_400, queueUs, { stage: "queue", queue: { depth: Math.floor(queueUs / 20_000), wait_time_ms: Math.round(queueUs) / 1e3 } });
  const prefill = add(engine, "vllm", "prefill", 12_400 + queueUs, prefillUs, {
    stage: "prefill",
    gpu: { ...gpu, utilization_percent: 96.5 },
    batch: { size: 4, max_size: 32, fill_ratio: 4 / 32 },
    events: [{ time_unix_nano: (startNano + BigInt(Math.round(12_400 + queueUs + prefillUs)) * 1000n).toString(), name: "first token", attributes: {}, attribute_types: {} }],
  });
  const chunks = Math.min(4, 1 + Math.floor(input / 1_600));
  for (let chunk = 0; chunk < chunks; chunk += 1) {
    add(prefill, "gpu-worker", `chunked prefill ${chunk + 1}/${chunks}`, 12_400 + queueUs + (prefillUs / chunks) * chunk + 300, prefillUs / chunks - 700, { stage: "prefill", gpu: { ...gpu, utilization_percent: 97 } });
  }
  if (error) {
    engine.status = { code: "ERROR", message: "EngineDeadError: worker 2 stopped answering" };
    engine.events.push({ time_unix_nano: (startNano + BigInt(Math.round(12_400 + engineUs)) * 1000n).toString(), name: "exception", attributes: { "exception.type": "EngineDeadError", "exception.message": "worker 2 stopped answering", "exception.stacktrace": "File core.py, line 212\n  step()\n".repeat(12) }, attribute_types: {} });
  } else {
    const decode = add(engine, "vllm", "decode", 12_400 + queueUs + prefillUs, decodeUs, {
      stage: "decode",
      gpu: { ...gpu, utilization_percent: 71.2 },
      batch: { size: 14, max_size: 32, fill_ratio: 14 / 32 },
      tokens: timeline,
      events: timeline.filter((token) => token.itl_micros > stepUs * 5 && token.index > 0).map((token) => ({
        time_unix_nano: (startNano + BigInt(Math.round(12_400 + queueUs + prefillUs + timeline.slice(1, token.index + 1).reduce((sum, t) => sum + t.itl_micros, 0))) * 1000n).toString(),
        name: "preempted",
        attributes: { "vllm.preemptions": "1" },
        attribute_types: { "vllm.preemptions": "int" },
      })),
    });
    const steps = 6;
    for (let step = 0; step < steps; step += 1) {
      add(decode, "gpu-worker", "decode_loop", 12_400 + queueUs + prefillUs + (decodeUs / steps) * step + 400, decodeUs / steps - 1_500 - rand() * 3_000, { stage: "decode", gpu: { ...gpu, utilization_percent: 70 } });
    }
    add(root, "postprocessor", "detokenize and filter", 12_400 + engineUs + 600, 6_300, { stage: "postprocessing" });
    add(root, "api-gateway", "write usage record", 12_400 + engineUs - 3_000, 4_500, { kind: "PRODUCER" });
  }
  return finish(seed, spans, { complete: !partial, reasons: partial ? ["missing_parents"] : [] });
}

function finish(seed, spans, { complete, reasons }) {
  const trace = { trace_id: traceId(seed), complete, incomplete_reasons: reasons, tiers: ["hot"], spans };
  const { stages: _stages, ...head } = summarise(trace);
  return { ...head, ...trace, critical_path: [], critical_path_segments: [], clock_shifts: [], warnings: [], truncated: false };
}

/** A request with very many spans: agents that call tools that call models. */
export function largeTrace(seed, startNano, count) {
  const rand = random(seed);
  const { spans, add } = build(startNano);
  const services = ["agent", "planner", "tool-runner", "vllm", "retriever", "reranker", "cache"];
  const root = add(null, "agent", "run task", 0, count * 900, { kind: "SERVER" });
  const open = [{ span: root, from: 0, to: count * 900, depth: 0 }];
  while (spans.length < count) {
    const parent = open[Math.floor(rand() * open.length)];
    const width = (parent.to - parent.from) * (0.04 + rand() * 0.3);
    const from = parent.from + rand() * (parent.to - parent.from - width);
    const service = services[Math.floor(rand() * services.length)];
    const span = add(parent.span, service, `${["plan", "call", "fetch", "score", "generate", "lookup"][Math.floor(rand() * 6)]} ${spans.length}`, from, width);
    if (rand() < 0.01) span.status = { code: "ERROR", message: "timed out" };
    if (parent.depth < 11 && open.length < 400) open.push({ span, from, to: from + width, depth: parent.depth + 1 });
  }
  return finish(seed, spans, { complete: true, reasons: [] });
}

/** The list's row of a trace. */
export function summarise(trace) {
  const spans = trace.spans;
  const starts = spans.map((span) => BigInt(span.start_unix_nano));
  const ends = spans.map((span) => BigInt(span.start_unix_nano) + BigInt(span.duration_nano));
  const min = starts.reduce((a, b) => (a < b ? a : b));
  const max = ends.reduce((a, b) => (a > b ? a : b));
  const root = spans.find((span) => span.parent_span_id === "") ?? spans[0];
  const services = new Map();
  const stages = new Map();
  for (const span of spans) {
    services.set(span.service, (services.get(span.service) ?? 0) + 1);
    if (span.stage && !(span.stage === "prefill" && span.service === "gpu-worker") && span.operation !== "decode_loop") {
      stages.set(span.stage, (stages.get(span.stage) ?? 0n) + BigInt(span.duration_nano));
    }
  }
  const engine = spans.find((span) => span.inference.model_name);
  const errors = spans.filter((span) => span.status.code === "ERROR").length;
  const spent = (name) => spans.find((span) => span.stage === name)?.duration_nano;
  const known = (members) => Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
  return {
    trace_id: trace.trace_id,
    root_service: root.service,
    root_operation: root.operation,
    start_unix_nano: min.toString(),
    duration_nano: (max - min).toString(),
    span_count: spans.length,
    error_count: errors,
    status: errors ? "ERROR" : "UNSET",
    services: [...services.keys()],
    service_breakdown: [...services].map(([service, count]) => ({ service, span_count: count })),
    models: engine ? [engine.inference.model_name] : [],
    ...known({
      input_tokens: engine?.inference.input_tokens,
      output_tokens: engine?.inference.output_tokens,
      cached_tokens: engine?.inference.cached_tokens,
      ttft_nano: engine?.inference.ttft_nano,
      ttft_queue_nano: engine?.inference.ttft_nano && spent("queue"),
      ttft_prefill_nano: engine?.inference.ttft_nano && spent("prefill"),
      ttft_measured: engine?.inference.ttft_nano && true,
    }),
    stages: [...stages].map(([stage, self]) => ({ stage, span_count: 1, self_time_nano: self.toString() })),
    complete: trace.complete,
    incomplete_reasons: trace.incomplete_reasons,
    tiers: trace.tiers,
    cost: costOf(spans),
  };
}

function costOf(spans) {
  const own = spans.find((span) => span.cost)?.cost;
  if (!own) return { status: "unavailable" };
  return { ...own, counted: undefined, status: "available", price_version: "2026-09-01", priced_requests: 1, unpriced_requests: 0 };
}
