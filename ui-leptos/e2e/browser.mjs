// A real Chromium for tests and screenshots.
import { existsSync } from "node:fs";
import { chromium } from "playwright-core";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

export async function launch() {
  const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
  if (!existsSync(executablePath)) throw new Error(`no Chromium at ${executablePath}; install it, or name it in CHROMIUM`);
  return chromium.launch({ executablePath, headless: true, args: FLAGS });
}

/** A page that collects what must not happen: console errors, exceptions, refused or failed requests. */
export async function open(browser, { width = 1280, height = 800, theme = "light", path, base, reducedMotion = "reduce", phone = width < 600 } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, reducedMotion, timezoneId: "Europe/Berlin", locale: "en-GB", hasTouch: phone, deviceScaleFactor: 1 });
  const page = await context.newPage();
  const problems = [];
  page.on("console", (message) => {
    if (message.type() === "error" || message.text().includes("Content Security Policy")) problems.push(message.text());
  });
  page.on("pageerror", (error) => problems.push(String(error)));
  if (path !== undefined) await page.goto(base + path);
  return { page, context, problems };
}
