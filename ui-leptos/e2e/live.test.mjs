// One pass over a real server: UI_BASE_URL=http://127.0.0.1:8080 node --test e2e/live.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";
import { launch, open } from "./browser.mjs";

const base = process.env.UI_BASE_URL?.replace(/\/$/, "");

// Scenario: a server that has at least one trace. Guarantee: the list shows it, it opens, its cost, its spans and
// a span's details are there, and nothing breaks the content security policy.
test("a live server's newest trace opens", { skip: base ? false : "UI_BASE_URL is not set" }, async () => {
  const browser = await launch();
  try {
    const { page, problems } = await open(browser, { base, path: "/traces?range=all" });
    await page.locator(".trace-row").first().waitFor({ timeout: 15_000 });
    await page.getByRole("button", { name: /^Live/ }).click();
    await page.locator(".row-link").first().click();
    await page.locator(".row").first().waitFor({ timeout: 15_000 });
    await page.locator(".trace-header dt", { hasText: "Cost" }).waitFor();
    await page.locator(".row").first().click();
    await page.locator(".details").getByText("Span id").waitFor();
    const shot = process.env.UI_SHOT;
    if (shot) await page.screenshot({ path: shot });
    assert.deepEqual(problems, []);
  } finally {
    await browser.close();
  }
});
