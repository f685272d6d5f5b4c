// Insights: the list, its filters and its stream; one insight; how other pages lead to them.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { launch, open } from "./browser.mjs";
import { insightIds } from "./insights.mjs";
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

const rows = (page) => page.locator(".insight-row");
const titles = (page) => page.locator(".insight-title").allInnerTexts();
const until = (page, count) => page.waitForFunction((count) => document.querySelectorAll(".insight-row").length === count, count);

// Scenario: five open insights, one resolved. Guarantee: open ones are listed, the latest first, with severity, subject,
// time and causes; the navigation counts them and says that one pages.
visit("lists what is open", "/insights", {}, async (page) => {
  await rows(page).first().waitFor();
  assert.equal(await rows(page).count(), 5);
  const first = await rows(page).first().innerText();
  for (const part of [/Page/, /first token after 1\.8 s/, /Time to first token/, /Llama-3\.3-70B-Instruct · 1\.4/, /for 6 m/, /batch 62 %/, /queue 27 %/]) {
    assert.match(first.replaceAll("\u00a0", " "), part);
  }
  const link = page.getByRole("link", { name: /^Insights 5 open/ });
  assert.equal(await link.getAttribute("aria-current"), "page");
  assert.equal(await page.locator(".nav-badge.sev-page").count(), 1);
  assert.equal(await page.title(), "Insights · InferTrace");
});

// Scenario: a person narrows the list, reloads, goes back. Guarantee: the address holds the filters; nothing that matches
// is said in words, with the way out.
visit("keeps filters in the address", "/insights", {}, async (page) => {
  await rows(page).first().waitFor();
  await page.getByLabel("State").selectOption("all");
  await until(page, 6);
  await page.getByLabel("Kind").selectOption("errors");
  await until(page, 2);
  await page.getByLabel("Severity").selectOption("page");
  await until(page, 1);
  assert.deepEqual(Object.fromEntries(new URL(page.url()).searchParams), { state: "all", kind: "errors", severity: "page" });
  await page.reload();
  await until(page, 1);
  assert.equal(await page.getByLabel("Kind").inputValue(), "errors");
  await page.goBack();
  await until(page, 2);
  await page.getByLabel("Model").selectOption("Qwen3-32B");
  await page.getByText("No insight passes all filters.").waitFor();
  await page.getByRole("link", { name: "Clear the filters" }).click();
  await until(page, 5);
});

// Scenario: an insight opens, is updated and resolves while a person has the list open, with the focus in it. Guarantee:
// each comes by the stream at once, the count follows, and the focus stays.
visit("follows the stream", "/insights", { server: undefined }, async (page, { fixture }) => {
  await rows(page).first().waitFor();
  await page.keyboard.press("j");
  const focused = () => page.evaluate(() => document.activeElement.id);
  assert.equal(await focused(), `i-${insightIds.queue}`);
  const fresh = { ...fixture.insights.find((one) => one.id === insightIds.cache), id: "fresh", title: "A new one", opened_unix_nano: (BigInt(Date.now()) * 1_000_000n).toString() };
  fixture.publish(fresh);
  await page.getByText("A new one").waitFor();
  assert.equal((await titles(page))[0], "A new one");
  assert.equal(await focused(), `i-${insightIds.queue}`);
  await page.getByRole("link", { name: /^Insights 6 open/ }).waitFor();
  fixture.publish({ ...fresh, revision: 2, state: "UPDATED", title: "A new one, worse" });
  await page.getByText("A new one, worse").waitFor();
  fixture.publish({ ...fresh, revision: 3, state: "RESOLVED", resolved_unix_nano: fresh.opened_unix_nano });
  await until(page, 5);
  await page.getByRole("link", { name: /^Insights 5 open/ }).waitFor();
  fixture.insights = fixture.insights.filter((one) => one.id !== "fresh");
});

// Scenario: the keyboard alone, from the list to an insight and back. Guarantee: j, k and Enter lead there, the way back
// keeps the filters.
visit("is walked by keyboard", "/insights?state=all", {}, async (page) => {
  await rows(page).first().waitFor();
  for (const key of ["j", "j", "k", "Enter"]) await page.keyboard.press(key);
  await page.getByRole("heading", { level: 1, name: /first token after/ }).waitFor();
  assert.equal(new URL(page.url()).pathname, `/insights/${insightIds.queue}`);
  await page.getByRole("navigation", { name: "Breadcrumb" }).getByRole("link", { name: "Insights" }).click();
  await until(page, 6);
});

// Scenario: one insight. Guarantee: the sentence, what to do with gain and confidence, ranked causes with their shares,
// evidence beside its baseline, the course over its band, traces of both sides, its life.
visit("shows one whole", `/insights/${insightIds.queue}`, {}, async (page) => {
  await page.locator(".chart-course").waitFor({ state: "attached" });
  const text = (await page.locator("main").innerText()).replaceAll("\u00a0", " ");
  for (const part of ["Raise the batch timeout from 2 ms to about 20 ms", "time to first token back to about 0.3 s", "86 %", "The mean batch fell from 22.7 to 8.3", "Opened", "Updated"]) {
    assert.ok(text.includes(part), `${part} in ${text}`);
  }
  const causes = (await page.locator(".cause").allInnerTexts()).map((words) => words.replaceAll("\u00a0", " ").split("\n").filter(Boolean).slice(0, 2).join(" "));
  assert.deepEqual(causes, ["Batch size 62 %", "Queue wait 27 %", "Traffic 6 %"]);
  const cells = await page.locator(".evidence tbody tr").first().locator("th, td").allInnerTexts();
  assert.deepEqual(cells.map((cell) => cell.replaceAll("\u00a0", " ")), ["Time to first token, median", "1.82 s", "241 ms", "7.55 ×", "4.81k"]);
  const path = await page.locator(".chart-course").getAttribute("d");
  assert.ok(path.split("L").length > 30, path);
  assert.equal(await page.locator(".chart-band").count(), 1);
  assert.match((await page.locator(".chart").getAttribute("aria-label")).replaceAll("\u00a0", " "), /1\.82 s now, 241 ms normally/);
  assert.equal(await page.locator(".trace-side").first().locator("a").count(), 4);
  await page.locator(".trace-side").first().getByRole("link").first().click();
  await page.locator(".row").first().waitFor();
  assert.equal(new URL(page.url()).pathname, `/traces/${ids.plain}`);
});

// Scenario: the insight that is open on the page changes. Guarantee: the page shows the new state by itself.
visit("follows the insight that is open", `/insights/${insightIds.cache}`, {}, async (page, { fixture }) => {
  await page.getByRole("heading", { level: 1, name: /fell from 85 % to 45 %/ }).waitFor();
  const now = fixture.insights.find((one) => one.id === insightIds.cache);
  fixture.publish({ ...now, revision: 9, state: "RESOLVED", title: "The cache is well again", resolved_unix_nano: (BigInt(Date.now()) * 1_000_000n).toString() });
  await page.getByRole("heading", { level: 1, name: "The cache is well again" }).waitFor();
  await page.locator(".insight-badges").getByText("Resolved").waitFor();
  fixture.publish(now);
});

// Scenario: a person mutes an insight, then acknowledges it, then takes both back, then resolves it, reads the list, and takes
// that back. Guarantee: each is sent whole, said in words on the page, and heeded by the list and the count of open ones.
visit("takes decisions", `/insights/${insightIds.cache}`, {}, async (page, { fixture }) => {
  const triage = page.getByRole("region", { name: "Triage" });
  const press = (name) => triage.getByRole("button", { name, exact: true }).click();
  const sent = () => fixture.requests.filter((request) => request.endsWith("/triage")).map((request) => request.split(" ")[0]);
  const decision = () => fixture.insights.find((one) => one.id === insightIds.cache).triage;
  await press("Mute for 8 h");
  await triage.getByText(/^Muted until /).waitFor();
  const hours = (Number(decision().muted_until_unix_nano) / 1e6 - Date.now()) / 3_600_000;
  assert.ok(hours > 7.9 && hours <= 8, `${hours} h`);
  await page.getByRole("link", { name: /^Insights 4 open/ }).waitFor();
  const until = decision().muted_until_unix_nano;
  await press("Acknowledge");
  await page.waitForFunction(() => !document.querySelector("button[name=acknowledge]"));
  assert.deepEqual([decision().status, decision().muted_until_unix_nano], ["ACKNOWLEDGED", until]);
  await press("Undo");
  await page.getByRole("link", { name: /^Insights 5 open/ }).waitFor();
  assert.equal(await triage.getByRole("button", { name: "Undo" }).count(), 0);
  assert.ok(await page.locator(".history li").count() > 0, "the history stays");
  await press("Resolve");
  await page.locator(".insight-badges").getByText("Resolved by a person").waitFor();
  assert.deepEqual(sent(), ["PUT", "PUT", "DELETE", "PUT"]);
  await page.getByRole("navigation", { name: "Breadcrumb" }).getByRole("link", { name: "Insights" }).click();
  await rows(page).first().waitFor();
  assert.equal(await rows(page).count(), 4);
  await page.getByLabel("State").selectOption("resolved");
  await rows(page).getByText("Resolved by a person").waitFor();
  fixture.decide(insightIds.cache, null);
});

// Scenario: the log is away when a person decides. Guarantee: the page says so in the server's words and shows what holds.
visit("says when a decision was not taken", `/insights/${insightIds.cache}`, { allow: ["status of 503"] }, async (page, { fixture }) => {
  await page.getByRole("button", { name: "Resolve" }).waitFor();
  fixture.fail = 503;
  await page.getByRole("button", { name: "Resolve" }).click();
  await page.getByRole("alert").getByText("Storage is not reachable").waitFor();
  fixture.fail = 0;
  assert.equal(await page.locator(".insight-badges").getByText("Resolved by a person").count(), 0);
});

// Scenario: an insight without causes, advice, examples and a course that is held. Guarantee: each part says so.
visit("says what is not known", `/insights/${insightIds.plain}`, {}, async (page) => {
  await page.locator(".evidence").waitFor();
  for (const words of ["No cause stands out", "No change is known to help", "None was kept", "is not in memory any more"]) {
    await page.getByText(words).first().waitFor();
  }
});

// Scenario: names and ids that look like markup and like addresses. Guarantee: they are text, and lead where they say.
visit("takes text for text", "/insights", {}, async (page) => {
  await page.getByRole("link", { name: /onerror=alert/ }).click();
  await page.getByRole("heading", { level: 1, name: /onerror=alert/ }).waitFor();
  assert.equal(await page.locator("main img, main script").count(), 0);
  await page.reload();
  await page.getByRole("heading", { level: 1, name: /onerror=alert/ }).waitFor();
});

// Scenario: an insight that is not held. Guarantee: a statement, and the way back.
visit("says when an insight is gone", "/insights/none", { allow: ["status of 404"] }, async (page) => {
  await page.getByRole("heading", { name: "Insight not found" }).waitFor();
  await page.getByRole("link", { name: "Back to the insights" }).click();
  await rows(page).first().waitFor();
});

// Scenario: a server that fails, then comes back. Guarantee: its own words, and trying again helps.
visit("recovers from a failure", "/traces", { allow: ["status of 503"] }, async (page, { fixture }) => {
  fixture.fail = 503;
  await page.getByRole("link", { name: /^Insights/ }).click();
  await page.getByText("The object store timed out").waitFor();
  fixture.fail = 0;
  await page.getByRole("button", { name: "Try again" }).click();
  await rows(page).first().waitFor();
});

// Scenario: a trace that an insight names. Guarantee: its page says so near its top and leads to the insight.
visit("leads from a trace to its insights", `/traces/${ids.plain}`, {}, async (page) => {
  const strip = page.locator(".insight-strip");
  await strip.getByText("An insight may be about this trace").waitFor();
  await strip.getByText("names this trace").waitFor();
  await strip.getByRole("link").click();
  await page.getByRole("heading", { level: 1, name: /first token after/ }).waitFor();
});
