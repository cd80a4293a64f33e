// Pictures of the page at $DEEPGEN_URL, into the folder $DEEPGEN_SHOTS. tools/page_shots.py runs it.
import { mkdir } from "node:fs/promises";
import { launch } from "./browser.mjs";

const url = process.env.DEEPGEN_URL, folder = process.env.DEEPGEN_SHOTS;
await mkdir(folder, { recursive: true });
const browser = await launch();

async function open(width, height, options = {}, scheme = "light") {
  const context = await browser.createBrowserContext(), page = await context.newPage();
  page.setDefaultTimeout(120000);
  page.on("pageerror", error => { console.error(error); process.exitCode = 1; });
  page.on("console", message => { if (message.type() === "error") { console.error(message.text()); process.exitCode = 1; } });
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }, { name: "prefers-reduced-motion", value: "reduce" }]);
  await page.setViewport({ width, height, ...options });
  await page.goto(url);
  await page.waitForFunction(() => document.getElementById("steps").placeholder !== "");
  const status = pattern => page.waitForFunction(text => new RegExp(text).test(document.getElementById("status").textContent), {}, pattern);
  const fill = (id, text) => page.$eval(`#${id}`, (element, text) => { element.value = text; element.dispatchEvent(new Event("input")); }, text);
  return {
    page, fill,
    async draw(text, seed) {
      await fill("prompt", text); await fill("seed", String(seed));
      await page.$eval("#status", element => { element.textContent = ""; });
      await page.click("#go"); await status("^Done|pictures done");
    },
    async shot(name, whole = false) {
      await page.evaluate(() => document.activeElement.blur());
      await new Promise(resolve => setTimeout(resolve, 150));
      await page.screenshot({ path: `${folder}/${name}.png`, fullPage: whole });
    },
  };
}
const EDITS = [["replace the cat with a dog", 3], ["add an apple in the top left", 5], ["make the background pink", 7]];

const desktop = await open(1280, 960);
await desktop.shot("first");
await desktop.draw("a cat and a bicycle on a white background", 1);
await desktop.draw("three strawberries", 4);
await desktop.page.click("#grid li:last-child button");
await desktop.shot("desktop");
await desktop.page.click("#use");
for (const [text, seed] of EDITS) await desktop.draw(text, seed);
await desktop.shot("filmstrip");
await desktop.page.click("#undo");
await desktop.shot("undone");
await desktop.page.click("#compare");
await desktop.shot("compare");
await desktop.page.click("#redo");
await desktop.page.click(".mark");
await desktop.page.waitForSelector("#mask-dialog[open]");
const box = await (await desktop.page.$("#mask")).boundingBox();
const at = (x, y, options) => desktop.page.mouse.move(box.x + box.width * x, box.y + box.height * y, options);
await at(.75, .62); await desktop.page.mouse.down();
for (const [x, y] of [[.9, .62], [.92, .5], [.75, .5], [.75, .57], [.9, .57], [.88, .45], [.75, .45]]) await at(x, y, { steps: 6 });
await desktop.page.mouse.up(); await at(.83, .53);
await desktop.shot("masking");
await desktop.page.click("#mask-form button[value=done]");
await desktop.page.waitForSelector(".kept");
await desktop.shot("masked");
await desktop.draw("remove the bicycle", 9);
await desktop.shot("masked-drawn");
await desktop.page.click("#remove");
await desktop.shot("deleted");
await desktop.page.type("#search", "cat");
await desktop.shot("search");
await desktop.page.setRequestInterception(true);      // as the server says it; a 400 would be on the console
const message = "num_inference_steps must be between 1 and 200, got 100000", error = { message, type: "invalid_request_error", param: "num_inference_steps", code: "invalid_value" };
desktop.page.on("request", request => request.url().includes("/v1/images") ? request.respond({ status: 200, contentType: "text/event-stream", body: `data: ${JSON.stringify({ error })}\n\n` }) : request.continue());
await desktop.fill("steps", "100000"); await desktop.fill("prompt", "remove the bicycle"); await desktop.page.click("#go");
await desktop.page.waitForSelector("#status.bad");
await desktop.page.screenshot({ path: `${folder}/refused.png` });

const dark = await open(1280, 960, {}, "dark");
await dark.page.click("input[name=n][value='4']");
await dark.draw("three strawberries", 21);
await dark.shot("several");
await dark.page.click(".frame:nth-child(2) button");
await dark.page.click("#knows summary");
await dark.shot("dark");

const phone = await open(390, 844, { isMobile: true, hasTouch: true });
await phone.shot("phone-form");
await phone.draw("a cat and a bicycle on a white background", 1);
await phone.shot("phone-drawn");
await phone.page.tap("#use");
await phone.draw(...EDITS[0]); await phone.draw(...EDITS[1]);
await phone.shot("phone"); await phone.shot("phone-whole", true);
await phone.page.tap(".mark"); await phone.page.waitForSelector("#mask-dialog[open]");
await phone.shot("phone-masking");
await browser.close();
