// Screenshots of every page and state in both themes, at 1280 and 390 pixels: `node e2e/shots.mjs OUT [NAME…]`.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { launch, open } from "./browser.mjs";
import { insightIds } from "./insights.mjs";
import { Fixture, ids, start } from "./server.mjs";

const [out = "/tmp/infertrace-shots", ...only] = process.argv.slice(2);
mkdirSync(out, { recursive: true });

const server = await start(new Fixture());
const empty = await start(new Fixture({ traces: 0 }));
const broken = await start(new Fixture());
broken.fixture.fail = 503;
const slow = await start(new Fixture());
slow.fixture.delay = 60_000;

const row = (name) => async (page) => {
  await page.locator(".row", { hasText: name }).first().click();
  await page.waitForSelector(".details");
};
const shots = [
  ["list", server, "/traces", ".trace-row"],
  ["list-filtered", server, "/traces?service=vllm&status=error&attr=user.tier%3Dpro&min=100ms&range=1h", ".trace-row"],
  ["list-hover", server, "/traces", ".trace-row", async (page) => { const box = await page.locator(".plot-area").boundingBox(); for (let x = 0.5; x < 0.95; x += 0.01) { await page.mouse.move(box.x + box.width * x, box.y + box.height * 0.35); if (await page.locator(".plot-tip").count()) break; } }],
  ["list-empty", empty, "/traces", ".welcome"],
  ["list-nothing", server, "/traces?service=nobody", ".statement"],
  ["list-error", broken, "/traces", ".statement"],
  ["list-loading", slow, "/traces", ".filters"],
  ["trace", server, `/traces/${ids.plain}`, ".row"],
  ["trace-details", server, `/traces/${ids.plain}`, ".row", row("llm_request")],
  ["trace-tokens", server, `/traces/${ids.plain}`, ".row", row("decode")],
  ["trace-failed", server, `/traces/${ids.failed}`, ".row", row("llm_request")],
  ["trace-partial", server, `/traces/${ids.partial}`, ".row"],
  ["trace-zoom", server, `/traces/${ids.plain}?from=40000000&to=400000000&q=decode`, ".row"],
  ["trace-hover", server, `/traces/${ids.plain}`, ".row", async (page) => { await page.locator(".row", { hasText: "prefill" }).first().hover({ position: { x: 300, y: 14 } }); }],
  ["trace-large", server, `/traces/${ids.large}`, ".row"],
  ["trace-flame", server, `/traces/${ids.plain}?tab=flame`, ".frame"],
  ["trace-flame-large", server, `/traces/${ids.large}?tab=flame`, ".frame"],
  ["trace-missing", server, `/traces/${ids.missing}`, ".statement"],
  ["trace-loading", slow, `/traces/${ids.plain}`, ".skeleton"],
  ["help", server, "/traces", ".trace-row", async (page) => { await page.getByRole("button", { name: "Keyboard help" }).click(); }],
  ["insights", server, "/insights?state=all", ".insight-row"],
  ["insights-empty", empty, "/insights", ".statement"],
  ["insights-error", broken, "/insights", ".statement"],
  ["insights-loading", slow, "/insights", ".filters"],
  ["insight", server, `/insights/${insightIds.queue}`, ".chart-course"],
  ["insight-cache", server, `/insights/${insightIds.cache}`, ".chart-course"],
  ["insight-little", server, `/insights/${insightIds.plain}`, ".evidence"],
  ["insight-missing", server, "/insights/none", ".statement"],
  ["unknown", server, "/nowhere", ".statement"],
];

const browser = await launch();
for (const [name, { base }, path, ready, act] of shots) {
  if (only.length && !only.some((part) => name.startsWith(part))) continue;
  for (const theme of ["light", "dark"]) {
    for (const [width, height] of [[1280, 800], [390, 844]]) {
      const { page, context, problems } = await open(browser, { width, height, theme, base, path });
      try {
        await page.waitForSelector(ready, { timeout: 10_000 });
        if (act && !(width < 600 && name.includes("hover"))) await act(page);
        await page.waitForTimeout(150);
        await page.screenshot({ path: join(out, `${name}-${width}-${theme}.png`), fullPage: name.startsWith("insight") });
      } catch (error) {
        console.error(`${name} ${width} ${theme}: ${error.message.split("\n")[0]}`);
      }
      const bad = problems.filter((text) => !text.includes("status of 503") && !text.includes("status of 404"));
      if (bad.length) console.error(name, width, theme, bad);
      await context.close();
    }
  }
}
await browser.close();
await Promise.all([server, empty, broken, slow].map((one) => one.close()));
