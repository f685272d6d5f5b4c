// Every page and state for everyone: axe in both themes, a phone's width, headings and landmarks, first paint.
import assert from "node:assert/strict";
import { readFileSync, readdirSync, statSync } from "node:fs";
import { createRequire } from "node:module";
import { after, before, test } from "node:test";
import { launch, open } from "./browser.mjs";
import { insightIds } from "./insights.mjs";
import { Fixture, dist, ids, start } from "./server.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let browser;
let server;
let empty;
let broken;

before(async () => {
  browser = await launch();
  server = await start(new Fixture());
  empty = await start(new Fixture({ traces: 0 }));
  broken = await start(new Fixture({ traces: 1 }));
  broken.fixture.fail = 503;
});
after(async () => {
  await browser?.close();
  await Promise.all([server, empty, broken].map((one) => one?.close()));
});

const select = (name) => async (page) => {
  await page.locator(".row", { hasText: name }).first().click();
  await page.locator(".details").waitFor();
};
const states = [
  ["list", () => server, "/traces", ".trace-row"],
  ["filtered list", () => server, "/traces?service=vllm&attr=user.tier%3Dpro&status=error", ".trace-row"],
  ["welcome", () => empty, "/traces", ".welcome"],
  ["no match", () => server, "/traces?service=nobody", ".statement"],
  ["failure", () => broken, "/traces", ".statement"],
  ["trace", () => server, `/traces/${ids.plain}?from=1000000&to=300000000&q=decode`, ".row"],
  ["span details", () => server, `/traces/${ids.plain}`, ".row", select("llm_request")],
  ["token timeline", () => server, `/traces/${ids.plain}`, ".row", select("decode")],
  ["failed trace", () => server, `/traces/${ids.failed}`, ".row", select("llm_request")],
  ["partial trace", () => server, `/traces/${ids.partial}`, ".notice.is-warning"],
  ["large trace", () => server, `/traces/${ids.large}`, ".row"],
  ["flame graph", () => server, `/traces/${ids.plain}?tab=flame`, ".frame"],
  ["missing trace", () => server, `/traces/${ids.missing}`, ".statement"],
  ["insights", () => server, "/insights?state=all", ".insight-row"],
  ["no insights", () => empty, "/insights", ".statement"],
  ["failed insights", () => broken, "/insights", ".statement"],
  ["insight", () => server, `/insights/${insightIds.queue}`, ".chart-course"],
  ["insight with little", () => server, `/insights/${insightIds.plain}`, ".evidence"],
  ["missing insight", () => server, "/insights/none", ".statement"],
  ["unknown page", () => server, "/nowhere", ".statement"],
  ["help", () => server, "/traces", ".trace-row", async (page) => { await page.keyboard.press("?"); await page.locator("dialog[open]").waitFor(); }],
];

for (const [name, from, path, ready, act] of states) {
  for (const theme of ["light", "dark"]) {
    // Scenario: a page in a theme. Guarantee: axe finds nothing, contrast included.
    test(`axe: ${name}, ${theme}`, async () => {
      const { page, context } = await open(browser, { base: from().base, path, theme });
      await page.locator(ready).first().waitFor();
      await act?.(page);
      await page.evaluate(axe);
      const result = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      const found = result.violations.map((violation) => ({ rule: violation.id, at: violation.nodes.slice(0, 3).map((node) => `${node.target.join(" ")}: ${node.failureSummary}`) }));
      await context.close();
      assert.deepEqual(found, []);
    });
  }

  // Scenario: the same page on a phone. Guarantee: nothing is wider than the screen.
  test(`phone: ${name}`, async () => {
    const { page, context } = await open(browser, { base: from().base, path, width: 390, height: 844 });
    await page.locator(ready).first().waitFor();
    await act?.(page);
    const { wide, culprits } = await page.evaluate(() => ({
      wide: document.documentElement.scrollWidth,
      culprits: [...document.querySelectorAll("body *")].filter((element) => element.getBoundingClientRect().right > innerWidth + 1).slice(0, 5).map((element) => element.className),
    }));
    await context.close();
    assert.ok(wide <= 390, `${wide} px wide: ${JSON.stringify(culprits)}`);
  });
}

// Scenario: a slow connection. Guarantee: the shell paints before the module arrives, and the sizes stay in their budget.
test("paints a shell before WebAssembly arrives", async () => {
  const { page, context } = await open(browser, {});
  let release;
  const held = new Promise((done) => (release = done));
  let bytes = 0;
  await page.route("**/*.wasm", async (route) => {
    await held;
    const response = await route.fetch();
    bytes = (await response.body()).length;
    await route.fulfill({ response });
  });
  await page.goto(`${server.base}/traces`, { waitUntil: "commit" });
  await page.locator(".brand-name").waitFor();
  await page.locator(".skeleton").waitFor();
  const painted = await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint")[0]?.startTime);
  console.log(JSON.stringify({ bench: "ui-first-paint", first_contentful_paint_ms: Math.round(await painted.jsonValue()) }));
  release();
  await page.locator(".trace-row").first().waitFor();
  assert.ok(bytes > 0);
  await context.close();
});

// Scenario: the built module. Guarantee: 300 KB gzipped at most.
test("keeps the module small", () => {
  const name = readdirSync(`${dist}/assets`).find((file) => file.endsWith(".wasm.gz"));
  const bytes = statSync(`${dist}/assets/${name}`).size;
  console.log(JSON.stringify({ bench: "ui-size", wasm_gzip_bytes: bytes, wasm_brotli_bytes: statSync(`${dist}/assets/${name.replace(/gz$/, "br")}`).size }));
  assert.ok(bytes <= 300 * 1024, `${bytes} bytes`);
});
