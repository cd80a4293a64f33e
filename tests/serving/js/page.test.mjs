// The page at $DEEPGEN_URL in headless Chromium.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import test, { after, before } from "node:test";
import { launch } from "./browser.mjs";

const url = process.env.DEEPGEN_URL;
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
let browser, page;
const complaints = [];

before(async () => {
  browser = await launch();
  page = await browser.newPage();
  page.setDefaultTimeout(60000);
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
const status = async wanted => {
  try { await page.waitForFunction(pattern => new RegExp(pattern).test(document.getElementById("status").textContent), { polling: 50 }, wanted); }
  catch (error) { throw new Error(`the page says “${await text("#status")}”, not ${wanted}`, { cause: error }); }
};
// Draws or edits with the button, to the end.
async function go() {
  await page.$eval("#status", element => { element.textContent = ""; });
  await page.click("#go"); await status("^Done|pictures done");
}
const fill = async (selector, content) => { await page.$eval(selector, element => { element.value = ""; }); await page.type(selector, content); };
const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.getAttribute("aria-label"));
const hidden = selector => page.$eval(selector, element => element.offsetParent === null);
const idle = () => page.waitForFunction(async () => (await (await fetch("/ready")).json()).running === 0, { polling: 200 });
// Until the browser's database holds so many pictures: what is left while it writes would be lost.
const kept = count => page.waitForFunction(count => new Promise(resolve => {
  indexedDB.open("deepgen", 1).onsuccess = event => {
    const ask = event.target.result.transaction("pictures").objectStore("pictures").count();
    ask.onsuccess = () => { event.target.result.close(); resolve(ask.result === count); };
  };
}), { polling: 100, timeout: 20000 }, count);
async function draw(prompt, options = {}) {
  await fill("#prompt", prompt);
  if (options.seed) await fill("#seed", String(options.seed));
  await go();
}
// A decoded picture's pixels, for comparisons: of what `selector` shows.
const pixels = selector => page.$eval(selector, async image => {
  await image.decode();
  const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
  const pen = canvas.getContext("2d"); pen.drawImage(image, 0, 0);
  return { width: canvas.width, height: canvas.height, data: [...pen.getImageData(0, 0, canvas.width, canvas.height).data] };
});
const chord = async (...keys) => { for (const key of keys) await page.keyboard.down(key); for (const key of keys.reverse()) await page.keyboard.up(key); };
const drop = async (name, color, width = 96, height = 64) => {
  const before = await number("#inputs li");
  await dropFile(name, color, width, height);
  await page.waitForFunction(count => document.querySelectorAll("#inputs li").length === count, {}, before + 1);
};
const dropFile = (name, color, width, height) => page.evaluate(async (name, color, width, height) => {
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

test("it says which model it is and what that draws", async () => {
  const card = await page.evaluate(async () => (await (await fetch("/v1/models")).json()).data[0]);
  assert.equal(await text("#model"), card.id);
  assert.equal(await text("#description"), `${card.id} ${card.description}`);
  assert.deepEqual(await page.$$eval("#vocabulary dt", found => found.map(one => one.textContent)), Object.keys(card.vocabulary));
  assert.deepEqual(await page.$$eval("#examples button", found => found.map(one => one.textContent)), card.example_prompts);
  await accessible("the empty page");
});

test("an empty prompt is asked for, and an example fills it", async () => {
  await page.click("#go");
  await status("^Say what to draw");
  assert.equal(await focused(), "prompt");
  await page.click("#examples li:nth-child(2) button");
  assert.equal(await value("#prompt"), await text("#examples li:nth-child(2)"));
  assert.equal(await focused(), "prompt");
});

test("a picture is drawn with previews and progress, stands in the history, and is enlarged without smoothing", async () => {
  await fill("#prompt", "a cat and a bicycle on a white background");
  await page.click("#more summary"); await fill("#steps", "12"); await page.click("#go");
  await page.waitForSelector("img.rough");
  await status("^Done");
  assert.equal(await number("#grid li"), 1);
  assert.match(await text("#facts"), /a cat.* · 96x96 · seed \d+/);
  const [own, shown, rendering] = await page.$eval("#view img", image => [image.naturalWidth, image.clientWidth, getComputedStyle(image).imageRendering]);
  assert.equal(own, 96); assert.equal(rendering, "pixelated");
  assert.ok(shown >= 2 * own && shown % own === 0, `96 pixels are shown at ${shown}`);
  await accessible("a picture");
});

test("each result is the next picture to edit; Undo and Redo walk the filmstrip", async () => {
  await page.click("#use");
  assert.equal(await focused(), "prompt");
  assert.deepEqual(await page.$$eval("#examples button", found => found.map(one => one.textContent)),
    await page.evaluate(async () => (await (await fetch("/v1/models")).json()).data[0].example_edits));
  await page.type("#prompt", "replace the cat with a dog");
  await chord("Control", "Enter");
  await status("^Step"); await status("^Done");
  assert.equal(await value("#prompt"), "");
  await draw("make the background pink");
  const strip = () => page.$$eval("#steps-of-edit button", found => found.map(one => [one.textContent, one.getAttribute("aria-current")]));
  assert.deepEqual(await strip(), [["Start", "false"], ["replace the cat with a dog", "false"], ["make the background pink", "step"]]);
  assert.equal(await number("#inputs li"), 1);
  assert.deepEqual(await pixels("#inputs img"), await pixels("#view img"), "the next edit starts from the result");
  await accessible("a filmstrip");

  const last = await pixels("#view img");
  await page.focus("#undo"); await page.keyboard.press("Enter");
  await status("^Undone: make the background pink");
  assert.equal(await value("#prompt"), "make the background pink", "to be changed and tried again");
  assert.equal((await strip())[1][1], "step");
  assert.deepEqual(await pixels("#inputs img"), await pixels("#view img"));
  await page.keyboard.press("Enter");
  await status("^Undone: replace the cat with a dog");
  assert.equal(await focused(), "redo", "Undo is at its end and hands the focus on");
  await page.keyboard.press("Enter"); await page.keyboard.press("Enter");
  await status("^Done again: make the background pink");
  assert.deepEqual(await pixels("#view img"), last);
  assert.equal(await value("#prompt"), "");

  await page.click("#steps-of-edit li:nth-child(2) button");      // another way from the first edit
  await draw("remove the bicycle");
  assert.deepEqual((await strip()).map(([name]) => name), ["Start", "replace the cat with a dog", "remove the bicycle"]);
  assert.equal(await number("#grid li"), 4, "what the new way left stays in the history");
});

test("before and after are compared by keys", async () => {
  await page.click("#compare");
  await page.focus(".compare input");
  await page.keyboard.press("ArrowRight");
  assert.equal(await value(".compare input"), "51");
  assert.match(await page.$eval(".compare", element => element.style.getPropertyValue("--at")), /^51%$/);
  await accessible("before and after");
});

test("where the result is not to be edited next, the input stays", async () => {
  await page.click("#continue");
  const given = await pixels("#inputs img");
  await draw("make the background black");
  assert.equal(await value("#prompt"), "make the background black");
  assert.deepEqual(await pixels("#inputs img"), given);
  await page.click("#continue");
});

test("dropped pictures are put in order, removed, brought back and edited", async () => {
  await page.click("#inputs button[aria-label^=Remove]");
  await drop("a.png", "red"); await drop("b.png", "blue");
  const sources = () => page.$$eval("#inputs .thumb img:first-child", images => images.map(image => image.src));
  const given = await sources();
  await page.click("#inputs li:nth-child(2) button[aria-label='Move picture 2 to the front']");
  assert.deepEqual(await sources(), given.toReversed());
  assert.equal(await page.evaluate(() => document.activeElement.tagName), "BUTTON", "the focus is lost");
  await accessible("two inputs");
  await page.focus("#inputs li:nth-child(2) button[aria-label^=Remove]"); await page.keyboard.press("Enter");
  assert.equal(await number("#inputs li"), 1);
  assert.equal(await focused(), "Remove picture 1");
  await page.click("#restore");
  assert.deepEqual(await sources(), given.toReversed());
  await page.click("#inputs li:nth-child(2) button[aria-label^=Remove]");
  await draw("make it yellow");
  assert.match(await text("#facts"), /96x64/);
});

test("an edit keeps the size of its picture, whatever was chosen for drawing before", async () => {
  await page.click("#inputs button[aria-label^=Remove]");
  await page.click("input[name=size][value$='x96']");              // the tall one
  const tall = await page.$eval("input[name=size]:checked", input => input.value);
  await drop("wide.png", "red", 130, 70);
  await page.waitForFunction(() => /130 × 70/.test(document.getElementById("sizes").textContent));
  assert.match(await page.$eval("input[name=size]:checked", input => input.parentElement.textContent), /^As the picture \(130 × 70\)$/);
  await draw("make it yellow");
  assert.match(await text("#facts"), /130x70/);
  assert.equal(await page.$eval("#view img", async image => { await image.decode(); return `${image.naturalWidth}x${image.naturalHeight}`; }), "130x70");
  await page.click("#inputs button[aria-label^=Remove]");
  assert.equal(await page.$eval("input[name=size]:checked", input => input.value), tall, "the choice for drawing comes back");
  await page.click("input[name=size][value=auto]");
});

test("only the marked part changes: by brush, by name and by keys", async () => {
  await drop("whole.png", "red", 96, 96);
  const before = await pixels("#inputs img");
  await page.click("#inputs .mark");
  await page.waitForSelector("#mask-dialog[open]");
  await accessible("the mask");
  const share = async () => Number((await text("#mask-status")).match(/(\d+) %/)?.[1] || 0);
  const box = await (await page.$("#mask")).boundingBox();
  await page.mouse.move(box.x + box.width * .6, box.y + box.height * .7); await page.mouse.down();
  await page.mouse.move(box.x + box.width * .9, box.y + box.height * .7, { steps: 5 }); await page.mouse.up();
  const painted = await share();
  assert.ok(painted > 2 && painted < 20, `a stroke marks ${painted} %`);
  await page.click("#mask-undo");
  assert.equal(await share(), 0);
  await page.focus("#mask"); await page.keyboard.press("Space"); await page.keyboard.down("Shift");
  for (let i = 0; i < 4; i++) await page.keyboard.press("ArrowDown");
  await page.keyboard.up("Shift");
  assert.ok(await share() > 1, "the keys paint nothing");
  await page.click("#mask-clear"); await page.select("#mask-part", "Right half"); await page.click("#mask-apply");
  assert.equal(await share(), 50);
  await page.click("#mask-form button[value=done]");
  await status("^Only the marked part may change");
  assert.match(await focused(), /^Part marked/);
  await draw("make the background pink");
  const after = await pixels("#view img");
  const differs = (from, to) => before.data.some((value, at) => { const x = Math.floor(at / 4) % 96; return x >= from && x < to && at % 4 < 3 && Math.abs(composed(before, at) - after.data[at]) > 0; });
  const composed = ({ data }, at) => { const alpha = data[at - at % 4 + 3] / 255; return Math.round(data[at] * alpha + 255 * (1 - alpha)); };
  assert.ok(!differs(0, 48), "the left half was to stay as it is");
  assert.ok(differs(48, 96), "the right half was to change");
  assert.match(await text("#facts"), /only the marked part/);
  assert.equal(await number(".kept"), 0, "the mask was for this edit");
  await page.click("#undo");
  await page.waitForSelector(".kept");
  await page.click("#inputs .mark"); await page.waitForSelector("#mask-dialog[open]");
  assert.equal(await share(), 50, "Undo brings the mask back");
  await page.click("#mask-invert"); await page.keyboard.press("Escape");
  await page.click("#inputs .mark"); await page.waitForSelector("#mask-dialog[open]");
  await page.click("#mask-clear"); await page.click("#mask-form button[value=done]");
  await status("^No part is marked");
  await page.click("#redo");
});

test("Escape cancels, and the server draws no further", async () => {
  const before = await number("#grid li");
  await fill("#prompt", "make it yellow"); await fill("#steps", "200"); await page.click("#go");
  await status("^Step"); await page.keyboard.press("Escape"); await status("^Cancelled");
  await idle();
  assert.equal(await number("#grid li"), before);
  assert.equal(await text("#go-text"), "Edit");
  assert.equal(await value("#prompt"), "make it yellow", "nothing of the form is lost");
});

test("the button stays in sight where the form is taller than the window", async () => {
  await page.setViewport({ width: 1280, height: 560 });
  await page.evaluate(() => scrollTo(0, 0));
  const below = await page.$eval("#go", element => element.getBoundingClientRect().bottom - innerHeight);
  assert.ok(below <= 0, `the button is ${below} pixels below the window`);
  await page.setViewport({ width: 1280, height: 900 });
});

test("a preset says how many steps are usual, and is sent", async () => {
  const usual = await page.$eval("#steps", element => element.placeholder);
  await fill("#steps", "");
  await page.select("#preset", "fast");
  const steps = await page.$eval("#steps", element => element.placeholder);
  assert.ok(Number(steps) < Number(usual));
  await page.click("#go"); await status(`Step \\d+ of ${steps}$`); await page.keyboard.press("Escape"); await status("^Cancelled");
  await page.select("#preset", "exact");
  assert.equal(await page.$eval("#steps", element => element.placeholder), usual);
});

test("errors speak of the page's own inputs and point at them", async () => {
  await page.$eval("#more", element => { element.open = false; });
  for (const [id, wrong, said, empty] of [
    ["steps", "100000", "^“Steps” must be between 1 and 200", ""],
    ["guidance", "101", "^“Guidance” must be between 0 and 100", ""],
    ["seed", "-1", "^“Seed” must be between 0 and", ""],
    ["steps", "1e", "^“Steps” must be a number, or empty", ""],
  ]) {
    await page.click("#more[open] summary").catch(() => {});
    await page.$eval("#more", element => { element.open = true; });
    await fill(`#${id}`, wrong);
    await page.$eval("#more", element => { element.open = false; });
    await page.click("#go");
    await status(said);
    assert.ok(await page.$eval("#status", element => element.classList.contains("bad")));
    assert.equal(await focused(), id, "the input at fault has the focus");
    assert.equal(await page.$eval(`#${id}`, element => element.getAttribute("aria-invalid")), "true");
    await page.keyboard.type("0");
    assert.equal(await page.$eval(`#${id}`, element => element.getAttribute("aria-invalid")), null, "until it is changed");
    await fill(`#${id}`, empty); await page.$eval(`#${id}`, element => element.dispatchEvent(new Event("input")));
  }
  await page.evaluate(() => {
    const data = new DataTransfer(); data.items.add(new File(["no picture"], "broken.png", { type: "image/png" }));
    dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
  });
  await page.waitForFunction(() => document.querySelectorAll("#inputs li").length === 2);
  await page.click("#inputs li:nth-child(1) button[aria-label^=Remove]");
  await page.click("#go"); await status("^Picture 1 is not a picture we can read");
  await page.click("#inputs button[aria-label^=Remove]");
  const refused = () => complaints.filter(line => /status of 400/.test(line)).length;
  for (let i = 0; refused() < 4 && i < 100; i++) await new Promise(after => setTimeout(after, 50)); // told a little later
  complaints.splice(0, complaints.length, ...complaints.filter(line => !/status of 400|ERR_FILE/.test(line)));
});

test("an answer that is none of the server's, and no answer, are told as such", async () => {
  await page.setRequestInterception(true);
  const answers = [{ status: 502, contentType: "text/html", body: "<h1>Bad gateway</h1>" }, null];
  const meddle = request => {
    if (!request.url().includes("/v1/images")) return request.continue();
    const answer = answers.shift();
    return answer ? request.respond(answer) : request.abort();
  };
  page.on("request", meddle);
  await fill("#prompt", "a cat"); await page.click("#go"); await status("answered 502");
  await page.click("#go"); await status("^The server cannot be reached");
  page.off("request", meddle); await page.setRequestInterception(false);
  complaints.splice(0, complaints.length, ...complaints.filter(line => !/status of 502|ERR_FAILED/.test(line)));
});

test("of several pictures one is chosen to go on", async () => {
  await page.click("input[name=n][value='2']");
  await draw("an apple", { seed: 5 });
  assert.deepEqual(await page.$$eval("#view button", found => found.map(one => one.getAttribute("aria-label"))), ["Choose picture 1 of 2", "Choose picture 2 of 2"]);
  await accessible("two pictures");
  await page.focus("#view .frame:nth-child(2) button"); await page.keyboard.press("Enter");
  assert.match(await text("#facts"), /an apple · 96x96 · seed 6/);
  assert.equal(await focused(), "use");
  await page.click("input[name=n][value='1']"); await page.click("#lock");
});

test("the history outlives the page with its session of edits, is searched, and gives its settings back", async () => {
  const all = await number("#grid li");
  await kept(all); await page.reload(); await page.waitForFunction(count => document.querySelectorAll("#grid li").length === count, {}, all);
  await page.type("#search", "DOG cat");
  await page.waitForFunction(() => document.querySelectorAll("#grid li").length === 1);
  assert.equal(await text("#found"), `1 of ${all} pictures`);
  await page.click("#grid button");
  assert.deepEqual(await page.$$eval("#steps-of-edit button", found => found.map(one => one.textContent)), ["Start", "replace the cat with a dog"]);
  await fill("#search", "giraffe");
  assert.equal(await number("#grid li"), 0);
  assert.match(await text("#found"), /^No picture has “giraffe”/);
  await accessible("a search without a find");
  await fill("#search", "bicycle white");
  await page.click("#grid button");
  await page.$eval("#search", element => { element.value = ""; element.dispatchEvent(new Event("input")); });
  await page.click("#reuse");
  assert.match(await value("#prompt"), /^a cat and a bicycle/);
  assert.equal(await value("#steps"), "12");
  const seed = await value("#seed"), first = await pixels("#view img");
  await go();
  assert.ok((await text("#facts")).endsWith(`seed ${seed}`));
  assert.deepEqual(await pixels("#view img"), first, "the same seed and settings draw the same picture");
  await page.click("#grid button[title='replace the cat with a dog']");
  await page.click("#reuse");
  assert.equal(await number("#inputs li"), 1, "an edit's settings have its picture");
  const edited = await pixels("#view img");
  await go();
  assert.deepEqual(await pixels("#view img"), edited);
  await page.click("#inputs button[aria-label^=Remove]");
});

test("what was deleted comes back, one picture or all of them", async () => {
  const all = await number("#grid li"), facts = await text("#facts");
  await page.click("#remove");
  assert.equal(await number("#grid li"), all - 1);
  assert.equal(await text("#restore"), "Undo delete");
  await page.focus("#restore"); await page.keyboard.press("Enter");
  assert.equal(await number("#grid li"), all);
  assert.equal(await text("#facts"), facts);
  await page.click("#use"); await draw("make the background pink");
  const strip = await text("#steps-of-edit");
  await page.click("#remove");                                      // the last edit: back to the one before
  assert.equal(await text("#steps-of-edit"), strip.replace(/make the background pink$/, ""));
  assert.deepEqual(await pixels("#inputs img"), await pixels("#view img"));
  await page.click("#restore");
  assert.equal(await text("#steps-of-edit"), strip);
  assert.deepEqual(await pixels("#inputs img"), await pixels("#view img"));
  await page.click("#remove"); await page.click("#inputs button[aria-label^=Remove]");
  await page.click("#clear");
  assert.equal(await number("#grid li"), 0);
  assert.equal(await focused(), "restore");
  await accessible("everything deleted");
  await page.keyboard.press("Enter");
  await page.waitForFunction(count => document.querySelectorAll("#grid li").length === count, {}, all);
  await kept(all); await page.reload();
  await page.waitForFunction(count => document.querySelectorAll("#grid li").length === count, {}, all);
  await page.click("#clear"); await kept(0); await page.reload(); await page.waitForFunction(() => document.getElementById("steps").placeholder !== "");
  assert.equal(await number("#grid li"), 0);
});

test("everything is reached by Tab, in the order it stands in, and is seen to be", async () => {
  const reached = [];
  await page.evaluate(() => document.activeElement.blur());
  while (reached.at(-1) !== "go" && reached.length < 30) {
    await page.keyboard.press("Tab");
    reached.push(await page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.tagName));
    const seen = await page.evaluate(() => { const e = document.activeElement, at = e.matches(".choice input") ? e.nextElementSibling : e; return getComputedStyle(at).outlineStyle !== "none"; });
    assert.ok(seen, `the focus on ${reached.at(-1)} is not seen`);
  }
  const order = ["prompt", "browse", "size", "n", "seed", "lock", "go"];
  assert.deepEqual(reached.filter(id => order.includes(id)), order);
  assert.ok(reached.filter(id => id === "SUMMARY").length >= 2, "what it can draw, and more");
});

test("a key is asked for in a dialog that Escape closes", async () => {
  await page.click("#key-open");
  assert.equal(await focused(), "key");
  await accessible("the key's dialog");
  await page.keyboard.press("Escape");
  assert.equal(await page.$eval("#key-dialog", element => element.open), false);
});

test("it is dark where it is asked to be, and stays so", async () => {
  await draw("a tulip");
  await page.click("#use"); await draw("replace the tulip with a rose");
  await page.click("#theme"); await kept(2); await page.reload();
  assert.equal(await page.$eval("html", element => element.dataset.theme), "dark");
  await page.waitForSelector("#view img");
  await accessible("dark");
});

test("a large picture is sent as it is, comes back as large, and the page says at what size it was drawn", async () => {
  await drop("large.png", "red", 2600, 1300);
  await draw("make it yellow");
  assert.match(await text("#facts"), /2600x1300 · seed \d+ · drawn at 96x64, enlarged to 2600x1300$/);
  assert.equal(await page.$eval("#view img", async image => { await image.decode(); return image.naturalWidth; }), 2600);
  assert.notEqual(await page.$eval("#view img", image => getComputedStyle(image).imageRendering), "pixelated");
  await page.click("#inputs .mark"); await page.waitForSelector("#mask-dialog[open]");
  await page.select("#mask-part", "Top left"); await page.click("#mask-apply"); await page.click("#mask-form button[value=done]");
  await draw("make it green");
  assert.match(await text("#facts"), /2600x1300.*only the marked part/, "a mask is as large as its picture");
});

test("on a phone the result scrolls into sight, and the way back is a tap", async () => {
  await page.setViewport({ width: 390, height: 844, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
  await page.waitForSelector("#view img");
  await page.evaluate(() => scrollTo(0, 0));
  const top = () => page.$eval("#stage", element => element.getBoundingClientRect().top);
  assert.ok(await top() > 600);
  const inSight = () => page.$eval("#view", element => { const { top, bottom } = element.getBoundingClientRect(); return top >= 0 && bottom <= innerHeight; });
  await fill("#prompt", "make it red"); await page.$eval("#more", element => { element.open = true; }); // nothing is typed into what is folded
  await fill("#steps", "200"); assert.equal(await value("#steps"), "200");
  await page.tap("#go"); await status("^Step");
  assert.ok(await inSight(), "what is being drawn is not in sight");
  assert.equal(await hidden("#cancel"), false);
  await page.tap("#cancel"); await status("^Cancelled");
  await page.$eval("#steps", element => { element.value = ""; });
  await page.evaluate(() => scrollTo(0, 0));
  await go();
  assert.ok(await inSight(), "the result is not in sight");
  await page.tap("#use");
  assert.equal(await focused(), "prompt");
});

for (const [name, width, height] of [["phone", 390, 844], ["narrow", 320, 640], ["tablet", 820, 1180]])
  test(`it fits a ${name}, and every target is 44 pixels or more`, async () => {
    await page.setViewport({ width, height, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
    await page.waitForSelector("#view img");
    await page.$$eval("details", found => found.forEach(one => { one.open = true; }));
    const small = () => page.$$eval("button, .choice, summary, .check, select, textarea, input:not([type=file])", found => found
      .filter(e => e.offsetParent && !e.closest(".choice, .check") || e.matches(".choice, .check") && e.offsetParent)
      .filter(e => Math.min(e.getBoundingClientRect().width, e.getBoundingClientRect().height) < 44).map(e => `${e.getBoundingClientRect().width}x${e.getBoundingClientRect().height} ${e.outerHTML.slice(0, 80)}`));
    await drop("a.png", "red"); await drop("b.png", "blue");
    await fits();
    assert.deepEqual(await small(), [], "too small for a finger");
    await accessible(name);
    await page.tap("#inputs .mark"); await page.waitForSelector("#mask-dialog[open]");
    await fits();
    assert.deepEqual(await small(), [], "too small for a finger in the mask's dialog");
    const box = await (await page.$("#mask")).boundingBox();
    await page.touchscreen.touchStart(box.x + 20, box.y + 20); await page.touchscreen.touchMove(box.x + 60, box.y + 25); await page.touchscreen.touchEnd();
    assert.match(await text("#mask-status"), /\d % may change/, "a finger paints nothing");
    await page.keyboard.press("Escape");
    for (let i = 0; i < 2; i++) await page.click("#inputs li:last-child button[aria-label^=Remove]");
  });

test("the browser had nothing to complain about, the policy included", () => assert.deepEqual(complaints, []));
