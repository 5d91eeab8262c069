// Servers and browser pages for the tests.

import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const { SPAR_BIN, SPAR_CHROMIUM, SPAR_SCREENSHOTS } = process.env;

/** A server of the embedded model on a free port: its address, and what ends it. */
export async function serve(keys) {
  const env = { ...process.env, SPAR_LOG: "warn", ...(keys ? { SPAR_API_KEYS: keys } : {}) };
  const child = spawn(SPAR_BIN, ["serve", "--port", "0", "--search-deadline", "2m"], { env, stdio: ["ignore", "pipe", "inherit"] });
  const url = await new Promise((resolve, reject) => {
    child.once("exit", (code) => reject(new Error(`the server ended with ${code} before it served`)));
    createInterface({ input: child.stdout }).on("line", (line) => {
      const found = /^serving .* on (http:\S+)$/.exec(line);
      if (found) resolve(found[1]);
    });
  });
  child.removeAllListeners("exit");
  return { url, end: () => child.kill() };
}

/** The browser. The sandbox of Chromium does not run as root, which is what builds in containers run as. */
export const browser = await chromium.launch({ executablePath: SPAR_CHROMIUM, args: ["--no-sandbox", "--disable-gpu"] });

/**
 * A fresh page at `url` that is ready. What its console complains of is in `complaints`, but for failures to load with the
 * statuses in `expected`.
 */
export async function visit(url, { width = 1280, height = 900, scheme = "light", expected = [], storage, path = "/" } = {}) {
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: scheme, reducedMotion: "reduce", acceptDownloads: true });
  const page = await context.newPage();
  const complaints = [];
  page.on("console", (message) => {
    const isExpected = expected.some((status) => message.text().includes(`status of ${status}`));
    if (["error", "warning"].includes(message.type()) && !isExpected) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  if (storage) await context.addInitScript((entries) => {
    for (const [name, value] of Object.entries(entries)) sessionStorage.setItem(name, value);
  }, storage);
  await page.goto(url + path);
  await page.waitForSelector("html[data-ready]");
  return { page, context, complaints };
}

/** Waits until nothing runs any more on the page. */
export async function settled(page) {
  await page.waitForFunction(() => document.querySelector(".answer") && document.getElementById("stop").hidden
    && !document.querySelector(".answer[aria-busy=true]"), null, { timeout: 60_000 });
  // The last drawing comes a moment later.
  await page.waitForTimeout(200);
}

/** Keeps a picture of the page. */
export async function picture(page, name, options = {}) {
  mkdirSync(SPAR_SCREENSHOTS, { recursive: true });
  await page.screenshot({ path: `${SPAR_SCREENSHOTS}/${name}.png`, ...options });
}
