// The evaluation's report, the file $DEEPGEN_REPORT, in headless Chromium; pictures of it go to $DEEPGEN_SHOTS.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import test, { after, before } from "node:test";
import { pathToFileURL } from "node:url";
import { launch } from "./browser.mjs";

const url = pathToFileURL(process.env.DEEPGEN_REPORT).href, shots = process.env.DEEPGEN_SHOTS;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let browser;
before(async () => { browser = await launch(); });
after(() => browser?.close());

async function open(scheme, width, height) {
  const page = await browser.newPage(), asked = [], complaints = [];
  page.setDefaultTimeout(240000);
  page.on("request", request => { if (!request.url().startsWith("data:")) asked.push(request.url()); });
  page.on("console", message => complaints.push(message.text()));
  page.on("pageerror", error => complaints.push(error.message));
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
  await page.setViewport({ width, height });
  await page.goto(url);
  return { page, asked, complaints };
}

// What a reader sees: cells with words, bars with a length, pictures that are there.
const seen = page => page.evaluate(() => {
  const box = element => element.getBoundingClientRect();
  const bars = [...document.querySelectorAll("svg rect")].map(bar => box(bar).width);
  const images = [...document.images];
  return {
    tables: [...document.querySelectorAll("table")].filter(table => box(table).height > 20).length,
    numbers: [...document.querySelectorAll("section > .wide td.n b")].map(cell => cell.textContent),
    bars: bars.filter(width => width > 1).length,
    longest: Math.max(...bars),
    images: images.length,
    broken: images.filter(image => !image.complete || !image.naturalWidth || box(image).width < 40).length,
    overflow: document.documentElement.scrollWidth - innerWidth,
    paper: getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number),
  };
});

for (const [scheme, width, height] of [["light", 1180, 1500], ["dark", 1180, 1500], ["light", 390, 844]])
  test(`tables, bars and pictures are shown in ${scheme}, ${width} pixels wide, and nobody is asked for anything`, async () => {
    const { page, asked, complaints } = await open(scheme, width, height);
    const found = await seen(page);
    if (shots) await page.screenshot({ path: `${shots}/report-${scheme}-${width}.png` });
    assert.deepEqual(asked, [url]);
    assert.ok(found.tables >= 2, `${found.tables} tables`);
    assert.ok(found.numbers.length >= 4 && found.numbers.every(number => /^\d+\.\d+$/.test(number)), found.numbers.join());
    assert.ok(found.bars >= 4 && found.longest > width / 6, `${found.bars} bars, the longest ${found.longest}`);
    assert.ok(found.images >= 12, `${found.images} pictures`);
    assert.equal(found.broken, 0, "pictures are not shown");
    assert.equal(found.overflow, 0, "the page is wider than the window");
    assert.equal(Math.max(...found.paper) < 64, scheme === "dark", `the paper is ${found.paper}`);
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21aa"] }));
    assert.deepEqual(violations.map(v => `${v.id}: ${v.help}: ${v.nodes.map(node => node.html.slice(0, 120)).slice(0, 4).join(" | ")}`), []);
    await page.click("details summary");
    assert.ok(await page.$eval("details", element => element.open && element.getBoundingClientRect().height > 60));
    assert.deepEqual(complaints, []);
    await page.close();
  });
