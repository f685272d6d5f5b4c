// Serves the built UI as the query API does (security headers, compressed twins, index.html for pages), and answers the
// API from fixtures.
import { createServer } from "node:http";
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { extname, join } from "node:path";
import { chatTrace, ids, largeTrace, summarise, traceId } from "./fixtures.mjs";
import { baselines, insights, listed, rollups } from "./insights.mjs";

export const dist = process.env.UI_DIST ?? join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "infertrace/ui/dist");

const CSP = "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'";
const TYPES = { ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".svg": "image/svg+xml" };

/** The API's state, which tests change. */
export class Fixture {
  constructor({ traces = 120, now = Date.now() } = {}) {
    this.now = now;
    /** Status to answer every API request with, 0 for none. */
    this.fail = 0;
    /** Milliseconds to wait before an answer. */
    this.delay = 0;
    this.requests = [];
    this.details = new Map();
    this.insights = traces > 0 ? insights(now) : [];
    /** Open streams of insights. */
    this.streams = new Set();
    this.list = [];
    for (let seed = 0; seed < traces; seed += 1) this.add(seed, now - 4_000 - seed * 14_500 + (seed % 7) * 900);
    if (traces > 0) {
      this.keep(chatTrace(1001, this.nano(now - 31_000), { error: true }));
      this.keep(chatTrace(1002, this.nano(now - 47_000), { partial: true }));
      this.keep(largeTrace(10_000, this.nano(now - 1_500_000), 10_000));
    }
  }

  nano(ms) {
    return BigInt(Math.round(ms)) * 1_000_000n;
  }

  add(seed, atMs) {
    this.keep(chatTrace(seed, this.nano(atMs), { error: seed % 17 === 5 }));
    return traceId(seed);
  }

  keep(trace) {
    this.details.set(trace.trace_id, trace);
    this.list.push(summarise(trace));
    this.list.sort((a, b) => (BigInt(b.start_unix_nano) > BigInt(a.start_unix_nano) ? 1 : -1));
  }

  search(query) {
    const has = (name) => query.get(name);
    const millis = (trace) => Number(BigInt(trace.start_unix_nano) / 1_000_000n);
    const long = (trace) => Number(trace.duration_nano) / 1e6;
    const found = this.list.filter((trace) => {
      if (has("service") && !trace.services.includes(has("service"))) return false;
      if (has("model") && !trace.models.includes(has("model"))) return false;
      if (has("operation") && !this.details.get(trace.trace_id).spans.some((span) => span.operation === has("operation"))) return false;
      if (has("status") === "error" && trace.error_count === 0) return false;
      if (has("status") === "ok" && trace.error_count > 0) return false;
      if (has("min_duration_ms") && long(trace) < Number(has("min_duration_ms"))) return false;
      if (has("max_duration_ms") && long(trace) > Number(has("max_duration_ms"))) return false;
      if (has("start") && millis(trace) < Date.parse(has("start"))) return false;
      if (has("end") && millis(trace) >= Date.parse(has("end"))) return false;
      // Of the query language, what the tests ask.
      if (has("q") === "{ status = error }" && trace.error_count === 0) return false;
      return query.getAll("attr").every((pair) => {
        const [key, value] = pair.split(/=(.*)/s);
        return this.details.get(trace.trace_id).spans.some((span) => String(span.attributes[key]) === value);
      });
    });
    const limit = Number(query.get("limit") ?? 50);
    const from = Number(query.get("cursor") ?? 0);
    return { traces: found.slice(from, from + limit), next_cursor: from + limit < found.length ? String(from + limit) : null };
  }

  /** Tells every listener, and keeps it for later questions. */
  publish(insight) {
    this.insights = [insight, ...this.insights.filter((one) => one.id !== insight.id)];
    for (const stream of this.streams) stream.write(`id: 0-1\nevent: insight\ndata: ${JSON.stringify(insight)}\n\n`);
  }

  /** Insights that a trace's answer names. */
  about(trace) {
    const found = this.insights.filter((one) => one.example_traces.includes(trace.trace_id));
    return found.map(({ id, title, kind, severity, state }) => ({ id, title, kind, severity, state, is_example: true }));
  }

  /** Keeps what was decided about an insight, or takes it back, and tells every listener. */
  decide(id, decision) {
    const insight = this.insights.find((one) => one.id === id);
    if (!insight) return [404, { type: "about:blank", title: "Insight not found", status: 404, detail: "no such insight is held", code: "insight_not_found" }];
    const standing = (status, until) => (status !== "RESOLVED" && until ? "MUTED" : status);
    const triage = decision && { author: "", note: "", muted_until_unix_nano: null, status: "OPEN", ...decision, severity: insight.severity, decided_unix_nano: this.nano(Date.now()).toString() };
    if (triage) triage.standing = standing(triage.status, triage.muted_until_unix_nano);
    this.publish({ ...insight, triage: triage ?? null });
    const { revisions: _revisions, ...plain } = this.insights[0];
    return [200, plain];
  }

  answer(url, method = "GET", body = "") {
    this.requests.push((method === "GET" ? "" : `${method} `) + url.pathname + url.search);
    if (this.fail) {
      return [this.fail, { type: "about:blank", title: "Storage is not reachable", status: this.fail, detail: "The object store timed out after 5 s while listing manifests.", code: "store_unavailable" }];
    }
    const path = url.pathname;
    const q = url.searchParams.get("q");
    if (q && !q.endsWith("}")) return [400, { type: "about:blank", title: "Bad query", status: 400, detail: `at 1:${q.length + 1}: expected "}"`, code: "bad_query" }];
    if (path === "/api/v1/traces") return [200, this.search(url.searchParams)];
    if (path === "/api/v1/services") return [200, { services: [...new Set(this.list.flatMap((trace) => trace.services))].sort().map((name) => ({ name, span_count: 1 })), unread: [] }];
    if (path === "/api/v1/models") return [200, { models: [...new Set(this.list.flatMap((trace) => trace.models))].sort().map((name) => ({ name, span_count: 1 })), unread: [] }];
    if (path === "/api/v1/insights") return [200, listed(this.insights, url.searchParams)];
    if (path === "/api/v1/rollups") return [200, rollups(this.insights, url.searchParams)];
    if (path === "/api/v1/baselines") return [200, baselines(url.searchParams)];
    const triaged = path.match(/^\/api\/v1\/insights\/([^/]+)\/triage$/)?.[1];
    if (triaged) return this.decide(decodeURIComponent(triaged), method === "PUT" ? JSON.parse(body) : null);
    if (path.startsWith("/api/v1/insights/")) {
      const insight = this.insights.find((one) => one.id === decodeURIComponent(path.slice("/api/v1/insights/".length)));
      if (insight) return [200, insight];
      return [404, { type: "about:blank", title: "Insight not found", status: 404, detail: "no such insight is held", code: "insight_not_found" }];
    }
    const id = path.match(/^\/api\/v1\/traces\/([0-9a-f]{32})$/)?.[1];
    const trace = this.details.get(id);
    if (trace) return [200, { ...trace, insights: this.about(trace) }];
    return [404, { type: "about:blank", title: "Not found", status: 404, detail: `no span of trace ${id}`, code: "not_found" }];
  }
}

/** Starts on a free port; returns its address and how to end it. */
export async function start(fixture) {
  if (!existsSync(join(dist, "index.html"))) throw new Error(`no UI in ${dist}; run ui-leptos/build.sh first`);
  const server = createServer((request, response) => {
    const url = new URL(request.url, "http://ui.test");
    if (url.pathname === "/api/v1/insights/stream" && !fixture.fail) {
      response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
      response.write("event: ready\ndata: {}\n\n");
      fixture.streams.add(response);
      response.on("close", () => fixture.streams.delete(response));
      return;
    }
    if (url.pathname.startsWith("/api/")) {
      let sent = "";
      request.on("data", (part) => { sent += part; });
      request.on("end", () => {
        const [status, body] = fixture.answer(url, request.method, sent);
        const send = () => {
          response.writeHead(status, { "content-type": status < 400 ? "application/json" : "application/problem+json", "cache-control": "no-store" });
          response.end(JSON.stringify(body));
        };
        if (fixture.delay) setTimeout(send, fixture.delay);
        else send();
      });
      return;
    }
    const asset = url.pathname.startsWith("/assets/");
    const file = join(dist, asset ? url.pathname : "index.html");
    if (asset && (url.pathname.includes("..") || !existsSync(file))) {
      response.writeHead(404).end();
      return;
    }
    response.writeHead(200, {
      "content-type": TYPES[extname(file)] ?? "application/octet-stream",
      "content-encoding": "br",
      "content-security-policy": CSP,
      "x-content-type-options": "nosniff",
      "cache-control": asset ? "public, max-age=31536000, immutable" : "no-cache",
    });
    response.end(readFileSync(`${file}.br`));
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  const base = `http://127.0.0.1:${server.address().port}`;
  return { base, fixture, close: () => new Promise((done) => { server.closeAllConnections(); server.close(done); }) };
}

export { ids };
export { spanId, traceId } from "./fixtures.mjs";
