// The page at $DEEPGEN_URL in headless Chromium; pictures of it go to $DEEPGEN_SHOTS.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import test, { after, before } from "node:test";
import { launch } from "./browser.mjs";

const url = process.env.DEEPGEN_URL, shots = process.env.DEEPGEN_SHOTS;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let browser, page;
const complaints = [];

before(async () => {
  browser = await launch();
  page = await browser.newPage();
  page.setDefaultTimeout(120000);
  page.on("console", message => { if (message.type() === "error") complaints.push(message.text()); });
  page.on("pageerror", error => complaints.push(error.message));
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }, { name: "prefers-reduced-motion", value: "reduce" }]);
  await page.setViewport({ width: 1280, height: 900 });
  await page.goto(url);
  await page.waitForFunction(() => document.getElementById("steps").placeholder !== "");
});
after(() => browser?.close());

const text = selector => page.$eval(selector, element => element.textContent);
const value = selector => page.$eval(selector, element => element.value);
const number = selector => page.$$eval(selector, found => found.length);
const status = wanted => page.waitForFunction(pattern => new RegExp(pattern).test(document.getElementById("status").textContent), {}, wanted);
const fill = async (selector, content) => { await page.$eval(selector, element => { element.value = ""; }); await page.type(selector, content); };
const shot = name => shots && page.screenshot({ path: `${shots}/${name}.png` });
const chord = async (...keys) => { for (const key of keys) await page.keyboard.down(key); for (const key of keys.reverse()) await page.keyboard.up(key); };
const drop = (name, color, width = 96, height = 64) => page.evaluate(async (name, color, width, height) => {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const pen = canvas.getContext("2d"); pen.fillStyle = color; pen.fillRect(20, 10, 40, 40);
  const blob = await new Promise(resolve => canvas.toBlob(resolve, "image/png"));
  const data = new DataTransfer(); data.items.add(new File([blob], name, { type: "image/png" }));
  dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}, name, color, width, height);
async function accessible(what) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => axe.run(document, { runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"] }));
  const found = violations.map(v => `${v.id}: ${v.help}: ${v.nodes.map(node => node.html.slice(0, 120)).join(" | ")}`);
  assert.deepEqual(found, [], what);
}
const fits = async () => assert.equal(await page.evaluate(() => document.documentElement.scrollWidth - innerWidth), 0);

test("an empty prompt is asked for", async () => {
  await accessible("the empty page");
  await shot("empty");
  await page.click("#go");
  await status("^Say what to draw");
  assert.equal(await page.evaluate(() => document.activeElement.id), "prompt");
});

test("a picture is drawn with previews and progress, and stands in the history", async () => {
  await fill("#prompt", "a red circle and a blue star on a white background");
  await page.click("#more summary"); await fill("#steps", "12"); await page.click("#go");
  await page.waitForSelector("img.rough");
  await shot("drawing");
  await status("^Done");
  assert.equal(await number("#grid li"), 1);
  assert.match(await text("#facts"), /a red circle.* · 96x96 · seed \d+/);
  assert.equal(await page.$eval("#view img", image => image.naturalWidth), 96);
  await accessible("a picture");
});

test("the picture is used as input, edited by Ctrl-Enter, and compared by keys", async () => {
  await page.click("#use");
  await fill("#prompt", "make the circle green");
  await chord("Control", "Enter");
  await status("^Step"); await status("^Done");
  assert.equal(await number("#grid li"), 2);
  await page.click("#compare");
  await page.focus(".compare input");
  await page.keyboard.press("ArrowRight");
  assert.equal(await value(".compare input"), "51");
  assert.match(await page.$eval(".compare", element => element.style.getPropertyValue("--at")), /^51%$/);
  await shot("compare");
  await accessible("before and after");
});

test("dropped pictures are put in order, removed and edited", async () => {
  await page.click("#inputs .tools button[aria-label^=Remove]");
  await drop("a.png", "red"); await drop("b.png", "blue");
  await page.waitForFunction(() => document.querySelectorAll("#inputs li").length === 2);
  const sources = () => page.$$eval("#inputs img", images => images.map(image => image.src));
  const given = await sources();
  await page.click("#inputs li:nth-child(2) button[aria-label='Move picture 2 to the front']");
  assert.deepEqual(await sources(), given.toReversed());
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "BUTTON", "the focus is lost");
  await accessible("two inputs");
  await page.focus("#inputs li:nth-child(2) button[aria-label^=Remove]"); await page.keyboard.press("Enter");
  assert.equal(await number("#inputs li"), 1);
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute("aria-label")), "Remove picture 1");
  await fill("#prompt", "make it yellow"); await page.click("#go");
  await status("^Step"); await status("^Done");
  assert.match(await text("#facts"), /96x64/);
});

test("Escape cancels, and the server draws no further", async () => {
  await fill("#steps", "200"); await page.click("#go");
  await status("^Step"); await page.keyboard.press("Escape"); await status("^Cancelled");
  await page.waitForFunction(async () => (await (await fetch("/ready")).json()).running === 0, { polling: 200 });
  assert.equal(await number("#grid li"), 3);
  assert.equal(await text("#go-text"), "Edit");
});

test("the button stays in sight where the form is taller than the window", async () => {
  await page.setViewport({ width: 1280, height: 560 });
  const below = await page.$eval("#go", element => element.getBoundingClientRect().bottom - innerHeight);
  assert.ok(below <= 0, `the button is ${below} pixels below the window`);
  await page.setViewport({ width: 1280, height: 900 });
});

test("a preset says how many steps are usual, and is sent", async () => {
  const usual = await page.$eval("#steps", element => element.placeholder);
  await fill("#steps", "");
  await page.select("#preset", "fast");
  assert.equal(await page.$eval("#steps", element => element.placeholder), "12");
  await page.click("#go"); await status("Step \\d+ of 12$"); await page.keyboard.press("Escape"); await status("^Cancelled");
  await page.select("#preset", "exact");
  assert.equal(await page.$eval("#steps", element => element.placeholder), usual);
});

test("an error of the server is shown as it says", async () => {
  await fill("#steps", "100000"); await page.click("#go");
  await status("num_inference_steps must be between");
  assert.ok(await page.$eval("#status", element => element.classList.contains("bad")));
  complaints.splice(0, complaints.length, ...complaints.filter(line => !/status of 400/.test(line)));
});

test("the history outlives the page, gives its settings back, and can be deleted", async () => {
  await page.reload();
  await page.waitForFunction(() => document.querySelectorAll("#grid li").length === 3);
  await page.click("#grid li:nth-child(3) button");
  await page.click("#reuse");
  assert.match(await value("#prompt"), /^a red circle and a blue star/);
  assert.equal(await value("#steps"), "12");
  const seed = await value("#seed");
  await page.click("#go"); await status("^Done");
  assert.ok((await text("#facts")).endsWith(`seed ${seed}`));
  const pixels = place => page.$eval(`#grid li:nth-child(${place}) img`, async image => {
    await image.decode();
    const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
    const pen = canvas.getContext("2d"); pen.drawImage(image, 0, 0);
    return pen.getImageData(0, 0, canvas.width, canvas.height).data.join();
  });
  assert.equal(await pixels(1), await pixels(4), "the same seed and settings draw the same picture");
  await page.click("#remove");
  assert.equal(await number("#grid li"), 3);
  page.once("dialog", dialog => dialog.accept());
  await page.click("#clear");
  await page.waitForFunction(() => document.querySelectorAll("#grid li").length === 0);
});

test("everything is reached by Tab, in the order it stands in, and is seen to be", async () => {
  await page.reload(); await page.waitForFunction(() => document.getElementById("steps").placeholder !== "");
  const reached = [];
  while (reached.at(-1) !== "go" && reached.length < 20) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.tagName));
    const seen = await page.evaluate(() => { const e = document.activeElement, at = e.matches(".choice input") ? e.nextElementSibling : e; return getComputedStyle(at).outlineStyle !== "none"; });
    assert.ok(seen, `the focus on ${reached.at(-1)} is not seen`);
  }
  const order = ["prompt", "browse", "size", "n", "seed", "lock", "SUMMARY", "go"];
  assert.deepEqual(reached.filter(id => order.includes(id)).slice(0, order.length), order);
});

test("a key is asked for in a dialog that Escape closes", async () => {
  await page.click("#key-open");
  assert.equal(await page.evaluate(() => document.activeElement.id), "key");
  await accessible("the key's dialog");
  await page.keyboard.press("Escape");
  assert.equal(await page.$eval("#key-dialog", element => element.open), false);
});

test("it is dark where it is asked to be, and stays so", async () => {
  await fill("#prompt", "a green triangle"); await page.click("#go"); await status("^Done");
  await page.click("#theme"); await page.reload();
  assert.equal(await page.$eval("html", element => element.dataset.theme), "dark");
  await page.waitForSelector("#view img");
  await accessible("dark");
  await shot("dark");
});

test("a large picture is sent as it is, comes back as large, and the page says at what size it was drawn", async () => {
  await drop("large.png", "red", 2600, 1300);
  await page.waitForFunction(() => document.querySelectorAll("#inputs li").length === 1);
  await fill("#prompt", "make it yellow"); await page.click("#go"); await status("^Done");
  assert.match(await text("#facts"), /2600x1300 · seed \d+ · drawn at 96x64, enlarged to 2600x1300$/);
  assert.equal(await page.$eval("#view img", async image => { await image.decode(); return image.naturalWidth; }), 2600);
});

for (const [name, width, height] of [["phone", 390, 844], ["narrow", 320, 640], ["tablet", 820, 1180]])
  test(`it fits a ${name}`, async () => {
    await page.setViewport({ width, height, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    await page.waitForSelector("#view img");
    await fits();
    const small = await page.$$eval("button, .choice, summary", found => found.filter(e => e.offsetParent && Math.min(e.offsetWidth, e.offsetHeight) < 24).map(e => e.outerHTML.slice(0, 80)));
    assert.deepEqual(small, [], "too small for a finger");
    await accessible(name);
    if (shots) await page.screenshot({ path: `${shots}/${name}.png`, fullPage: true });
  });

test("the browser had nothing to complain about", () => assert.deepEqual(complaints, []));
