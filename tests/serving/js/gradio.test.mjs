// The Gradio app at $DEEPGEN_URL in headless Chromium, over the server at $DEEPGEN_SERVER; pictures of it go to
// $DEEPGEN_SHOTS. Nothing here depends on the version of Gradio.
import assert from "node:assert/strict";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import test, { after, before } from "node:test";
import { launch } from "./browser.mjs";

const url = process.env.DEEPGEN_URL, server = process.env.DEEPGEN_SERVER, shots = process.env.DEEPGEN_SHOTS;
const here = new URL(url).origin;
let browser, page;
const complaints = [];

before(async () => {
  browser = await launch();
  page = await browser.newPage();
  page.setDefaultTimeout(40000);
  page.on("pageerror", error => complaints.push(error.message));
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: "light" }]);
  await page.setViewport({ width: 1280, height: 900 });
  await page.setRequestInterception(true);  // Gradio 5 asks for fonts elsewhere, which would only be waited for
  page.on("request", request => request.url().startsWith(here) || !request.url().startsWith("http") ? request.continue() : request.abort());
  await page.goto(url, { waitUntil: "domcontentloaded" });
  for (const selector of ["#prompt textarea", "#draw", "#drawn"]) await page.waitForSelector(selector);
});
after(() => browser?.close());

const press = selector => page.$eval(selector, element => element.click());
const box = name => page.$eval(`#${name} textarea, #${name} input`, element => element.value);
const shot = name => shots && page.screenshot({ path: `${shots}/${name}.png` });
const status = wanted => page.waitForFunction(pattern => new RegExp(pattern).test(document.getElementById("status").innerText), {}, wanted);
const captions = () => page.$$eval("#drawn .caption-label", found => found.map(one => one.textContent.trim()));
const sources = () => page.$$eval("#drawn img", images => images.map(image => image.src));
const toast = () => page.waitForSelector(".toast-wrap .error, .toast-body.error").then(found => found.evaluate(element => element.innerText));

async function fill(name, content) {
  const input = await page.$(`#${name} textarea, #${name} input`);
  await input.focus();
  await page.keyboard.down("Control"); await page.keyboard.press("a"); await page.keyboard.up("Control");
  await page.keyboard.press("Backspace");
  if (content) await page.keyboard.type(content);
  await page.keyboard.press("Tab");
}

// The captions of a new set of pictures, once they are drawn.
async function draw(count = 1) {
  const old = await sources();
  await press("#draw");
  await page.waitForFunction((old, count) => {
    const images = [...document.querySelectorAll("#drawn img")];
    return images.length === count && images.every(image => image.complete && image.naturalWidth && !old.includes(image.src))
      && [...document.querySelectorAll("#drawn .caption-label")].every(one => /^seed \d+/.test(one.textContent.trim()))
      && /^Done/.test(document.getElementById("status").innerText.trim());
  }, {}, old, count);
  return captions();
}

async function closeToasts() {
  await page.$$eval(".toast-close, .toast-wrap [aria-label='Close']", buttons => buttons.forEach(button => button.click()));
  await page.waitForFunction(() => !document.querySelector(".toast-body"));
}

async function file(name, content) {
  const path = `${await mkdtemp(`${tmpdir()}/deepgen-`)}/${name}`;
  await writeFile(path, content);
  return path;
}
async function upload(path) {
  await (await page.$("#images input[type=file]")).uploadFile(path);
  await page.waitForFunction(() => { const image = document.querySelector("#images img"); return image?.complete && image.naturalWidth !== undefined; });
}
// How many pixels of the first picture are clearly red, green or blue.
const colors = selector => page.$eval(selector, async image => {
  const full = await createImageBitmap(await (await fetch(image.src)).blob());
  const canvas = Object.assign(document.createElement("canvas"), { width: full.width, height: full.height });
  const pen = canvas.getContext("2d"); pen.drawImage(full, 0, 0);
  const { data } = pen.getImageData(0, 0, full.width, full.height), found = { red: 0, green: 0, blue: 0 };
  for (let at = 0; at < data.length; at += 4) ["red", "green", "blue"].forEach((name, channel) => {
    found[name] += [0, 1, 2].every(other => other === channel || data[at + channel] - data[at + other] > 80);
  });
  return found;
});
const naturalSizes = () => page.$$eval("#drawn img", images => images.map(image => [image.naturalWidth, image.naturalHeight]));
// Each picture with its own proportions and nothing of it outside of the gallery or of the window.
async function whole() {
  const found = await page.evaluate(() => {
    const frame = document.getElementById("drawn").getBoundingClientRect();
    return [...document.querySelectorAll("#drawn img")].map(image => {
      const { left, top, right, bottom } = image.getBoundingClientRect(), covers = image.parentElement.querySelector(".caption-label").getBoundingClientRect();
      return {
        fit: getComputedStyle(image).objectFit, tall: bottom - top > 80, wide: right - left > 80,
        inside: left >= frame.left && right <= frame.right && top >= frame.top && bottom <= frame.bottom && bottom <= innerHeight,
        uncovered: covers.top >= bottom || covers.left >= right,
      };
    });
  });
  for (const one of found) assert.deepEqual(one, { fit: "contain", tall: true, wide: true, inside: true, uncovered: true });
}

test("without a prompt a message says what is missing", async () => {
  await press("#draw");
  assert.match(await toast(), /Say what to draw, or what should change\./);
  assert.doesNotMatch(await page.evaluate(() => document.body.innerText), /Traceback|File "/);
  await closeToasts();
});

test("a picture is drawn, and each time with another seed while the box is empty", async () => {
  await fill("prompt", "a cat");
  const first = await draw();
  await whole();
  const second = await draw();
  assert.match(first[0], /^seed \d+$/);
  assert.notEqual(first[0], second[0]);
  assert.deepEqual(await naturalSizes(), [[96, 96]]);
});

test("a seed draws the same picture again, and an emptied box new ones", async () => {
  await fill("seed", "7");
  assert.deepEqual(await draw(), ["seed 7"]);
  const pixels = await page.evaluate(async src => btoa(String.fromCharCode(...new Uint8Array(await (await fetch(src)).arrayBuffer()))), (await sources())[0]);
  await fill("seed", "8");
  assert.deepEqual(await draw(), ["seed 8"]);
  await fill("seed", "7");
  await draw();
  const again = await page.evaluate(async src => btoa(String.fromCharCode(...new Uint8Array(await (await fetch(src)).arrayBuffer()))), (await sources())[0]);
  assert.equal(again, pixels);
  await fill("seed", "");
  assert.notDeepEqual(await draw(), ["seed 7"]);
});

test("several pictures are shown whole", async () => {
  await fill("prompt", "a cat and an apple on a white background");
  for (const [shape, size] of [["wide", [96, 64]], ["tall", [64, 96]], ["model's own", [96, 96]]]) {
    await press(`#shape input[value="${shape}"]`);
    await fill("n", "4");
    await draw(4);
    await whole();
    assert.deepEqual(await naturalSizes(), Array(4).fill(size));
    if (shape === "model's own") await shot("several");
  }
  await fill("n", "2");
  await draw(2);
  await whole();
  await press("#drawn .thumbnail-item");
  await page.waitForSelector("#drawn .preview img, #drawn .media-button img");
  const [frame, image] = await Promise.all(["#drawn", "#drawn .media-button img"].map(selector => page.$eval(selector, element => { const { top, bottom } = element.getBoundingClientRect(); return { top, bottom }; })));
  assert.ok(image.top >= frame.top && image.bottom <= frame.bottom && image.bottom - image.top > 200, JSON.stringify({ frame, image }));
  await page.keyboard.press("Escape");
  await fill("n", "1");
});

test("the numbers under More are the request's, and empty ones are the server's", async () => {
  await press("#more button");
  await page.waitForSelector("#num_inference_steps textarea, #num_inference_steps input");
  await fill("num_inference_steps", "120"); // few are drawn before a busy browser looks
  await press("#draw");
  await status("Step \\d+ of 120");
  await status("^Done");
  await fill("num_inference_steps", "");
  await press("#draw");
  await status("Step \\d+ of (?!120$)\\d+");
  await status("^Done");
});

test("what the server refuses is shown as its message, and the next picture is drawn", async () => {
  for (const [name, given, message] of [
    ["num_inference_steps", "100000", /Steps must be between 1 and 200, got 100000/],
    ["guidance_scale", "a lot", /Guidance must be a number, got text/],
    ["seed", "-1", /Seed must be between 0 and \d+, got -1/],
  ]) {
    await fill(name, given);
    await press("#draw");
    assert.match(await toast(), message);
    assert.doesNotMatch(await page.evaluate(() => document.body.innerText), /Traceback|File "/);
    if (name === "num_inference_steps") await shot("error");
    await closeToasts();
    await fill(name, "");
  }
  await draw();
});

test("an uploaded picture is edited and keeps its size, and the result is edited further", async () => {
  const asked = { prompt: "an apple on a white background", seed: 3, size: "96x64" };
  const answer = await fetch(`${server}/v1/images/generations`, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(asked) });
  await upload(await file("given.png", Buffer.from((await answer.json()).data[0].b64_json, "base64")));
  await fill("prompt", "replace the apple with a broccoli");
  await draw();
  assert.deepEqual(await naturalSizes(), [[96, 64]]);
  await whole();
  const given = await colors("#images img"), edited = await colors("#drawn img");
  assert.ok(given.red > 50 && edited.green > 2 * given.green && edited.red < given.red / 4, JSON.stringify({ given, edited }));
  await shot("edit");
  const drawn = (await sources())[0];
  await press("#again");
  await page.waitForFunction(drawn => document.querySelector("#images img")?.src.split("/").at(-2) === drawn.split("/").at(-2), {}, drawn);
  await fill("prompt", "replace the broccoli with an apple");
  await draw();
  assert.deepEqual(await naturalSizes(), [[96, 64]]);
});

test("a file that is no picture is refused by a message", async () => {
  await press("#images [aria-label='Clear'], #images [aria-label='Remove Image'], #images [aria-label='Remove image']");
  await page.waitForSelector("#images input[type=file]");
  await upload(await file("broken.png", "this is no picture"));
  await press("#draw");
  assert.match(await toast(), /picture/);
  await closeToasts();
  await press("#images [aria-label='Clear'], #images [aria-label='Remove Image'], #images [aria-label='Remove image']");
  await page.waitForSelector("#images input[type=file]");
});

test("Cancel stops the server's work", async () => {
  const running = async () => { const { waiting, running } = await (await fetch(`${server}/ready`)).json(); return waiting + running; };
  await fill("prompt", "two apples");
  await fill("num_inference_steps", "200");
  await fill("n", "10");
  await press("#draw");
  await status("Step");
  assert.ok(await running() > 0);
  await press("#cancel");
  await status("^Cancelled");
  const until = Date.now() + 20000;
  while (await running()) assert.ok(Date.now() < until, "the server draws on");
});

test("the page itself complains of nothing", () => assert.deepEqual(complaints, []));
