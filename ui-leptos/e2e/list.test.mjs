// The list of traces: filters in the address, live updates, keyboard, states.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, open } from "./browser.mjs";
import { Fixture, ids, start } from "./server.mjs";

let browser;
let server;

before(async () => {
  browser = await launch();
  server = await start(new Fixture());
});
after(async () => {
  await browser?.close();
  await server?.close();
});

/** Opens a page, runs the test, and fails on anything that the console or the network complained about. */
function visit(name, path, options, run) {
  test(name, async () => {
    const { server: from = server, allow = [], ...rest } = options;
    const opened = await open(browser, { base: from.base, path, ...rest });
    try {
      await run(opened.page, from);
      const bad = opened.problems.filter((text) => !allow.some((part) => text.includes(part)));
      assert.deepEqual(bad, [], "no console errors, exceptions or violations of the content security policy");
    } finally {
      await opened.context.close();
    }
  });
}

const rows = (page) => page.locator(".trace-row");
const query = (page) => new URL(page.url()).searchParams;

// Scenario: a first visit. Guarantee: the list shows what the API answers, newest first, and the plot shows as many points.
visit("lists traces with their figures", "/", {}, async (page) => {
  await rows(page).first().waitFor();
  assert.equal(await rows(page).count(), 50);
  const first = await rows(page).first().innerText();
  assert.match(first, /POST \/v1\//);
  assert.match(first, /api-gateway/);
  assert.match(first, /\d\sm?s\b/);
  assert.match(first, /\$0\.00382/);
  const points = await page.locator(".points").evaluateAll((paths) => paths.reduce((sum, path) => sum + (path.getAttribute("d").match(/M/g) ?? []).length, 0));
  assert.equal(points, 50);
  assert.equal(await page.title(), "Traces · InferTrace");
});

// Scenario: more traces than a page. Guarantee: the cursor brings the rest, without duplicates, until there is none.
visit("loads more by cursor", "/traces", {}, async (page) => {
  await rows(page).first().waitFor();
  await page.getByRole("button", { name: /^Live/ }).click();
  for (const count of [100, 123]) {
    await page.getByRole("button", { name: "Load more" }).click();
    await page.waitForFunction((count) => document.querySelectorAll(".trace-row").length === count, count);
  }
  const links = await page.locator(".row-link").evaluateAll((all) => all.map((link) => link.getAttribute("href")));
  assert.equal(new Set(links).size, links.length);
  assert.equal(await page.getByRole("button", { name: "Load more" }).count(), 0);
});

// Scenario: filters set by hand, then back and forward. Guarantee: each is in the address and in the request, and the
// history restores list and controls.
visit("keeps filters in the address, back and forward", "/traces", {}, async (page) => {
  await rows(page).first().waitFor();
  await page.getByRole("button", { name: "Errors", exact: true }).click();
  await page.waitForFunction(() => [...document.querySelectorAll(".trace-row")].every((row) => row.classList.contains("is-error")));
  assert.equal(query(page).get("status"), "error");
  await page.getByLabel("Service").selectOption("vllm");
  await page.getByLabel("Least duration").fill("50ms");
  await page.getByLabel("Least duration").press("Enter");
  await page.waitForURL(/min=50ms/);
  await page.locator("#filter-query").fill("user.tier=pro");
  await page.locator("#filter-query").press("Enter");
  await page.locator(".chip").waitFor();
  assert.deepEqual(Object.fromEntries(query(page)), { status: "error", service: "vllm", min: "50ms", attr: "user.tier=pro" });
  await page.waitForTimeout(300);
  const asked = server.fixture.requests.filter((request) => request.startsWith("/api/v1/traces?")).at(-1);
  for (const part of ["service=vllm", "status=error", "min_duration_ms=50.000", "attr=user.tier%3Dpro", "start=2"]) assert.ok(asked.includes(part), `${part} in ${asked}`);
  await page.goBack();
  await page.locator(".chip").waitFor({ state: "detached" });
  await page.goBack();
  await page.goBack();
  await page.waitForURL((url) => url.search === "?status=error");
  assert.equal(await page.getByLabel("Service").inputValue(), "");
  await page.goForward();
  await page.waitForURL(/service=vllm/);
  assert.equal(await page.getByLabel("Service").inputValue(), "vllm");
  await page.getByRole("button", { name: "Clear" }).click();
  await page.waitForFunction(() => document.querySelector(".trace-row:not(.is-error)"));
  assert.equal(page.url(), `${server.base}/traces`);
});

// Scenario: a shared address. Guarantee: it opens with the same filter.
visit("opens a shared address", "/traces?service=vllm&range=24h&max=900ms", {}, async (page) => {
  await rows(page).first().waitFor();
  assert.equal(await page.getByLabel("Service").inputValue(), "vllm");
  assert.equal(await page.getByLabel("Time range").inputValue(), "24h");
  assert.equal(await page.getByLabel("Greatest duration").inputValue(), "900ms");
});

// Scenario: a query in braces, then one that is not whole, then none. Guarantee: it is in the address and in the request
// and can be edited; what is wrong with it is said where the list was, with the place; without it the list is whole again.
visit("searches by a query", "/traces", { allow: ["status of 400"] }, async (page) => {
  await rows(page).first().waitFor();
  const box = page.locator("#filter-query");
  await box.fill("{ status = error }");
  await box.press("Enter");
  await page.waitForFunction(() => [...document.querySelectorAll(".trace-row")].every((row) => row.classList.contains("is-error")));
  assert.equal(query(page).get("q"), "{ status = error }");
  assert.equal(await box.inputValue(), "{ status = error }");
  assert.ok(server.fixture.requests.some((request) => request.includes("q=%7B%20status%20%3D%20error%20%7D")));
  await box.fill("{ status = ");
  await box.press("Enter");
  await page.getByText('at 1:11: expected "}"').waitFor();
  await box.fill("");
  await box.press("Enter");
  await page.waitForFunction(() => document.querySelector(".trace-row:not(.is-error)"));
  assert.equal(query(page).get("q"), null);
  await page.goBack();
  await page.goBack();
  await page.waitForURL(/q=/);
  assert.equal(await box.inputValue(), "{ status = error }");
});

// Scenario: text that is no duration. Guarantee: a sentence beside the field, and nothing is asked.
visit("explains a bad duration", "/traces", {}, async (page) => {
  await page.getByLabel("Least duration").fill("soon");
  await page.getByLabel("Least duration").press("Enter");
  await page.getByText("is not a duration").waitFor();
  assert.equal(query(page).get("min"), null);
});

// Scenario: a trace arrives while the page is live; then while a person points at the table. Guarantee: it appears on top
// within two seconds; while pointed at, it waits and is counted.
visit("shows new traces live, and holds them under the pointer", "/traces", {}, async (page) => {
  await rows(page).first().waitFor();
  const id = server.fixture.add(700, Date.now() - 200);
  await page.waitForFunction((id) => document.querySelector(".trace-row .row-link")?.getAttribute("href") === `/traces/${id}`, id, { timeout: 3_000 });
  await rows(page).nth(2).hover();
  const second = server.fixture.add(701, Date.now() - 100);
  await page.getByRole("button", { name: "1 new" }).waitFor({ timeout: 3_000 });
  assert.notEqual(await page.locator(".row-link").first().getAttribute("href"), `/traces/${second}`);
  await page.mouse.move(640, 20);
  await page.waitForFunction((id) => document.querySelector(".row-link")?.getAttribute("href") === `/traces/${id}`, second, { timeout: 3_000 });
  await page.getByRole("button", { name: /^Live/ }).click();
  const asked = server.fixture.requests.length;
  server.fixture.add(702, Date.now());
  await page.waitForTimeout(1_600);
  assert.equal(server.fixture.requests.length, asked, "a paused page asks for nothing");
});

// Scenario: only the keyboard. Guarantee: / reaches the search, j and k move over rows, Enter opens, ? shows help.
visit("works by keyboard", "/traces", {}, async (page) => {
  await rows(page).first().waitFor();
  await page.keyboard.press("/");
  assert.equal(await page.evaluate(() => document.activeElement.id), "filter-query");
  await page.keyboard.press("Escape");
  for (const key of ["j", "j", "k", "j"]) await page.keyboard.press(key);
  const second = await page.locator(".row-link").nth(1).getAttribute("href");
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("href")), second);
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keyboard" }).waitFor();
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" }).catch(() => {});
  await page.locator(".row-link").nth(1).focus();
  await page.keyboard.press("Enter");
  await page.waitForURL(`**${second}`);
  await page.locator(".row").first().waitFor();
  await page.goBack();
  await rows(page).first().waitFor();
});

// Scenario: a trace id in the search field; a click on the plot. Guarantee: the trace opens.
visit("opens a trace by id and from the plot", "/traces", {}, async (page) => {
  await page.locator("#filter-query").fill(ids.plain);
  await page.locator("#filter-query").press("Enter");
  await page.waitForURL(`**/traces/${ids.plain}`);
  await page.goBack();
  await rows(page).first().waitFor();
  const box = await page.locator(".plot-area").boundingBox();
  const point = await page.locator(".points:not(.is-error)").evaluate((path) => path.getAttribute("d").match(/M([\d.]+) ([\d.]+)/).slice(1).map(Number));
  await page.mouse.click(box.x + (point[0] / 1000) * box.width, box.y + (point[1] / 1000) * box.height);
  await page.waitForURL(/\/traces\/[0-9a-f]{32}$/);
});

// Scenario: nothing was ever sent. Guarantee: the page says how to send a span, to the right ports; one that comes appears.
test("welcomes an empty installation", async () => {
  const empty = await start(new Fixture({ traces: 0 }));
  const { page, context, problems } = await open(browser, { base: empty.base, path: "/traces" });
  await page.locator(".welcome").waitFor();
  const text = await page.locator(".welcome").innerText();
  assert.match(text, /:4317/);
  assert.match(text, /:4318\/v1\/traces/);
  empty.fixture.add(3, Date.now() - 500);
  await rows(page).first().waitFor({ timeout: 3_000 });
  assert.deepEqual(problems, []);
  await context.close();
  await empty.close();
});

// Scenario: a filter that nothing passes. Guarantee: the page says so and offers a way out.
visit("offers a way out of an empty result", "/traces?service=nobody", {}, async (page) => {
  await page.getByRole("heading", { name: "Nothing matches" }).waitFor();
  await page.getByRole("button", { name: "Clear the filters" }).click();
  await rows(page).first().waitFor();
});

// Scenario: the API fails, then recovers. Guarantee: its own words are shown, and trying again brings the list.
test("shows the API's problem and tries again", async () => {
  const failing = await start(new Fixture({ traces: 5 }));
  failing.fixture.fail = 503;
  const { page, context, problems } = await open(browser, { base: failing.base, path: "/traces" });
  const alert = page.locator(".statement[role=alert]");
  await alert.waitFor();
  assert.match(await alert.innerText(), /Storage is not reachable[\s\S]*timed out after 5 s[\s\S]*HTTP 503 · store_unavailable/);
  failing.fixture.fail = 0;
  await page.getByRole("button", { name: "Try again" }).click();
  await rows(page).first().waitFor();
  assert.deepEqual(problems.filter((text) => !text.includes("503")), []);
  await context.close();
  await failing.close();
});

// Scenario: an address that no page has. Guarantee: said so, with a way back.
visit("answers an unknown address", "/nowhere", {}, async (page) => {
  await page.getByRole("heading", { name: "There is no such page" }).waitFor();
  await page.getByRole("link", { name: "To the traces" }).click();
  await rows(page).first().waitFor();
});

// Scenario: the theme is changed and the page loaded again; then changed back. Guarantee: the choice holds before the
// first paint; giving the system its own theme back leaves nothing stored.
visit("keeps the chosen theme", "/traces", { theme: "light" }, async (page) => {
  const dark = () => page.evaluate(() => getComputedStyle(document.documentElement).colorScheme === "dark");
  await rows(page).first().waitFor();
  assert.equal(await dark(), false);
  await page.getByRole("button", { name: "Use the dark theme" }).click();
  assert.equal(await dark(), true);
  await page.reload();
  await rows(page).first().waitFor();
  assert.equal(await dark(), true);
  await page.getByRole("button", { name: "Use the light theme" }).click();
  assert.equal(await page.evaluate(() => localStorage.getItem("infertrace.theme")), null);
});
