// The documentation site in headless Chromium, at desktop and phone width: $DEEPGEN_SITE is its folder, and pages are opened as files.
// With $DEEPGEN_SHOTS a picture of every page is kept there.
import assert from "node:assert/strict";
import { mkdirSync, readdirSync } from "node:fs";
import { join, relative } from "node:path";
import { after, before, test } from "node:test";
import { pathToFileURL } from "node:url";
import { launch } from "./browser.mjs";

const site = process.env.DEEPGEN_SITE, shots = process.env.DEEPGEN_SHOTS;
const all = readdirSync(site, { recursive: true }).filter((name) => name.endsWith(".html") && name !== "404.html").sort();
const pages = all.filter((name) => !/^(api|project.files)/.test(name)).concat("api/deepgen.html", "api/deepgen.pipeline.html", "project/files/NOTICE.html");
let browser;
before(async () => { browser = await launch(); });
after(() => browser.close());

async function open(name, width) {
  const page = await browser.newPage(), outside = [];
  page.on("request", (request) => { if (!/^(file|data|blob):/.test(request.url())) outside.push(request.url()); });
  page.on("requestfailed", (request) => outside.push(`failed: ${request.url()}`));
  await page.setViewport({ width, height: 900, isMobile: width < 500, hasTouch: width < 500 });
  await page.goto(pathToFileURL(join(site, name)).href, { waitUntil: "load" });
  return { page, outside };
}

for (const [device, width] of [["desktop", 1300], ["phone", 390]]) {
  test(`every page fits a ${device}, shows its pictures and loads nothing from elsewhere`, async () => {
    for (const name of pages) {
      const { page, outside } = await open(name, width);
      const found = await page.evaluate(() => ({
        wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
        broken: [...document.images].filter((image) => image.complete && !image.naturalWidth).map((image) => image.src),
        large: [...document.querySelectorAll(".md-content img")].filter((image) => image.getBoundingClientRect().right > innerWidth + 1).map((image) => image.src),
        heading: document.querySelectorAll("h1").length,
      }));
      if (shots) {
        mkdirSync(shots, { recursive: true });
        const path = join(shots, `${device}-${relative(".", name).replaceAll(/[\\/]/g, "-")}.png`);
        await page.screenshot({ path, fullPage: true });
      }
      assert.deepEqual({ name, outside, ...found }, { name, outside: [], wide: 0, broken: [], large: [], heading: 1 });
      await page.close();
    }
  });
}

test("the start page shows generated and edited pictures within one screen", async () => {
  for (const [width, height] of [[1300, 900], [390, 900]]) {
    const { page } = await open("index.html", width);
    const bottom = await page.$$eval(".pictures figure", (all) => Math.max(...all.map((one) => one.getBoundingClientRect().bottom)));
    assert.ok(bottom > 0 && bottom <= height, `${bottom} of ${height} at ${width}`);
    await page.close();
  }
});

test("the search finds a page without a server", async () => {
  const { page } = await open("index.html", 1300);
  await page.focus(".md-search__input");
  await page.keyboard.type("think tokens");
  await page.waitForFunction(() => document.querySelectorAll(".md-search-result__item a").length > 0, { timeout: 60000 });
  await page.close();
});
