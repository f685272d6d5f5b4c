// Insights, baselines and rollups of the same small service, in the shapes of the query API.
import { ids, random, traceId } from "./fixtures.mjs";

const SECOND = 1_000_000_000n;
const nano = (ms) => BigInt(Math.round(ms)) * 1_000_000n;

function insight(now, openedAgoS, more) {
  const opened = nano(now - openedAgoS * 1_000);
  const resolved = more.lastedS === undefined ? null : (opened + BigInt(more.lastedS) * SECOND).toString();
  const { lastedS: _lasted, ...members } = more;
  return {
    revision: 1, state: resolved ? "RESOLVED" : "OPEN", severity: "WARNING", kind: "ttft", title: "", tenant: "", model: "Llama-3.3-70B-Instruct",
    model_version: "", service: "", stage: "", device: "",
    first_window_unix_nano: (opened - 20n * SECOND).toString(), window_start_unix_nano: (opened - 10n * SECOND).toString(), window_end_unix_nano: opened.toString(),
    opened_unix_nano: opened.toString(), resolved_unix_nano: resolved, detector: "drift", detector_version: "1",
    evidence: [], causes: [], recommendation: null, example_traces: [], normal_traces: [], revisions: [], triage: null,
    ...members,
  };
}

const number = (metric, unit, observed, baseline, samples) => ({ metric, unit, observed, baseline, ratio: baseline ? observed / baseline : null, samples: String(samples) });

/** Names that tests ask for. */
export const insightIds = { queue: "ttft-llama-3f2a", cache: "cache-qwen-77b1", plain: "traffic-rerank-1100", hostile: 'x/y?"<b>' };

export function insights(now) {
  const examples = [20, 21, 22].map((seed) => traceId(seed));
  const normal = [40, 41, 42].map((seed) => traceId(seed));
  const found = [
    insight(now, 380, {
      id: insightIds.queue, revision: 3, state: "UPDATED", severity: "PAGE", kind: "ttft",
      title: "Llama-3.3-70B-Instruct: first token after 1.8 s instead of 240 ms (7.5 ×), because requests wait 1.5 s in the queue",
      model_version: "1.4",
      evidence: [number("ttft_p50", "s", 1.82, 0.241, 4_812), number("queue_mean", "s", 1.51, 0.004, 4_812), number("batch_fill", "share", 0.26, 0.71, 4_790), number("queue_depth", "requests", 38.4, 0.6, 4_812), number("gpu_busy", "share", 0.31, 0.82, 216), number("preemptions", "1/min", 0, null, 4_812)],
      causes: [
        { cause: "batch", share: 0.62, explanation: "The mean batch fell from 22.7 to 8.3 of 32 sequences while 38 requests waited: batches close after 2 ms, before they fill." },
        { cause: "queue", share: 0.27, explanation: "Waits grew from 4 ms to 1.5 s." },
        { cause: "traffic", share: 0.06, explanation: "Arrivals grew from 41/s to 44/s." },
      ],
      recommendation: { text: "Raise the batch timeout from 2 ms to about 20 ms: 38 requests wait while batches run at 26 % of their size and the GPU is busy 31 % of the time.", expected_gain: "time to first token back to about 0.3 s, 2.4 × the throughput per GPU", confidence: 0.86 },
      example_traces: [ids.plain, ...examples], normal_traces: normal,
    }),
    insight(now, 2_900, {
      id: insightIds.cache, kind: "cache", model: "Qwen3-32B", model_version: "1.4",
      title: "Qwen3-32B 1.4: prefix cache hit ratio fell from 85 % to 45 %",
      evidence: [number("cache_hit_ratio", "share", 0.45, 0.85, 9_120), number("preemptions", "1/min", 312, 2, 9_120), number("cost_per_1k_tokens", "USD", 0.0041, 0.0023, 9_120)],
      causes: [{ cause: "memory", share: 0.7, explanation: "312 preemptions a minute since version 1.4: the KV cache is 97 % full." }, { cause: "version", share: 0.22, explanation: "Only version 1.4 shows it." }],
      recommendation: { text: "Lower max_num_seqs from 256 to 160 or go back to version 1.3.", expected_gain: "hit ratio back above 80 %", confidence: 0.6 },
      example_traces: examples,
    }),
    insight(now, 5_400, { id: "gpu-idle-2c", severity: "INFO", kind: "gpu_idle", device: "GPU-5f2e1c9a-77b1-4a0e-9b0c-2d6d3a1f0c11", title: "GPU-5f2e1c9a is 25 % busy while requests wait 50 ms", evidence: [number("gpu_busy", "share", 0.25, 0.8, 540)], causes: [{ cause: "host", share: 0.55, explanation: "Gaps of 41 ms between steps." }] }),
    insight(now, 9_000, { id: insightIds.plain, severity: "INFO", kind: "traffic", model: "bge-reranker-v2-m3", title: "bge-reranker-v2-m3: 3.2 × the usual requests", evidence: [number("arrivals", "1/s", 96, 30, 2_880)] }),
    insight(now, 11_000, { id: insightIds.hostile, severity: "INFO", kind: "errors", model: "<script>alert(1)</script>", title: "<img src=x onerror=alert(1)>: error rate 4 % instead of 0.1 %", evidence: [number("error_rate", "share", 0.04, 0.001, 1_000)] }),
    insight(now, 14_000, { id: "old-1", severity: "PAGE", kind: "errors", lastedS: 540, title: "Llama-3.3-70B-Instruct: 12 % of requests failed instead of 0.2 %", evidence: [number("error_rate", "share", 0.12, 0.002, 800)], causes: [{ cause: "gpu", share: 0.9, explanation: "One worker stopped answering." }] }),
  ];
  for (const one of found) one.revisions = history(one);
  return found;
}

function history(one) {
  const step = (revision, state, severity, at) => ({ revision, state, severity, window_start_unix_nano: (at - 10n * SECOND).toString(), window_end_unix_nano: at.toString(), recorded_unix_nano: at.toString() });
  const opened = BigInt(one.opened_unix_nano);
  const steps = [step(1, "OPEN", one.severity === "PAGE" ? "WARNING" : one.severity, opened)];
  if (one.revision > 1) steps.push(step(2, "UPDATED", one.severity, opened + 60n * SECOND));
  if (one.resolved_unix_nano) steps.push(step(one.revision + 1, "RESOLVED", one.severity, BigInt(one.resolved_unix_nano)));
  return steps;
}

/** A list as the API answers it. */
export function listed(all, query) {
  const has = (name) => query.get(name);
  const open = (one) => one.state !== "RESOLVED" && one.triage?.standing !== "RESOLVED";
  const found = all.filter((one) => {
    if (has("state") === "open" && !open(one)) return false;
    if (has("state") === "resolved" && open(one)) return false;
    if (has("severity") && one.severity !== has("severity").toUpperCase()) return false;
    return ["model", "kind", "tenant"].every((name) => !has(name) || one[name] === has(name));
  });
  found.sort((a, b) => (BigInt(b.opened_unix_nano) > BigInt(a.opened_unix_nano) ? 1 : -1));
  const limit = Number(has("limit") ?? 20);
  const from = Number(has("cursor") ?? 0);
  const muted = (one) => open(one) && one.triage?.standing === "MUTED";
  const count = (severity) => all.filter((one) => open(one) && !muted(one) && one.severity === severity).length;
  const plain = ({ revisions: _revisions, ...one }) => one;
  return { insights: found.slice(from, from + limit).map(plain), next_cursor: from + limit < found.length ? String(from + limit) : null, open: { page: count("PAGE"), warning: count("WARNING"), info: count("INFO"), muted: all.filter(muted).length }, warnings: [], truncated: false };
}

/** The course of a model: normal, then as the insight says. */
export function rollups(all, query) {
  const rand = random(5);
  const step = BigInt(query.get("step") ?? 10) * SECOND;
  const start = BigInt(query.get("start")) / step * step;
  const end = BigInt(query.get("end"));
  const about = all.find((one) => one.model === query.get("model"));
  const times = [];
  for (let at = start; at < end; at += step) times.push(at);
  const bad = (at) => about && at >= BigInt(about.first_window_unix_nano) && (!about.resolved_unix_nano || at < BigInt(about.resolved_unix_nano));
  const held = query.get("model") !== "bge-reranker-v2-m3";
  const series = (normal, worse) => times.map((at) => (held ? (bad(at) ? worse : normal) * (0.88 + rand() * 0.24) : null));
  const metric = (normal, worse) => {
    const mean = series(normal, worse);
    return { count: mean.map((value) => (value === null ? null : "400")), mean, p50: mean.map((value) => value && value * 0.95), p90: mean.map((value) => value && value * 1.4), p99: mean.map((value) => value && value * 2.1), max: mean.map((value) => value && value * 3) };
  };
  const whole = (values) => values.map((value) => (value === null ? null : String(Math.round(value))));
  return {
    model: query.get("model") ?? "", step_nano: step.toString(), held_from_unix_nano: start.toString(), window_start_unix_nano: times.map(String),
    counters: { requests: whole(series(400, 420)), errors: whole(series(1, 40)), spans: whole(series(4_000, 4_200)), input_tokens: whole(series(100_000, 100_000)), cached_tokens: whole(series(85_000, 45_000)) },
    sums: {},
    metrics: { ttft_micros: metric(240_000, 1_800_000), queue_micros: metric(4_000, 1_500_000), gpu_utilization_permille: metric(820, 250) },
  };
}

/** What is normal, for every metric that is asked for. */
export function baselines(query) {
  const normal = { ttft_p50: Math.log(0.241), cache_hit_ratio: 0.85, error_rate: 0.002, gpu_busy: 0.8 }[query.get("metric")];
  if (normal === undefined) return { baselines: [], truncated: false };
  const log = normal < 0;
  return { baselines: [{ tenant: "", model: query.get("model"), model_version: "", stage: "", metric: query.get("metric"), hour_of_week: null, median: normal, mad: log ? 0.06 : 0.01, log_scale: log, cold_start: false }], truncated: false };
}
