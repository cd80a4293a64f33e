// Pictures of the page at $DEEPGEN_URL, into the folder $DEEPGEN_SHOTS; tools/page_shots.py runs it.
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
      await page.click("#go"); await status("^(Sending|Step|Next|Waiting)"); await status("^Done|pictures done");
    },
    async shot(name, whole = false) {
      await page.evaluate(() => document.activeElement.blur());
      await new Promise(resolve => setTimeout(resolve, 150));
      await page.screenshot({ path: `${folder}/${name}.png`, fullPage: whole });
    },
  };
}
const EDITS = [["make the circle green", 3], ["add a pink square in the top left corner", 5], ["make the background brown", 7]];

const desktop = await open(1280, 960);
await desktop.shot("first");
await desktop.draw("a red circle and a blue star on a white background", 1);
await desktop.shot("desktop");
await desktop.page.click("#use");
for (const [text, seed] of EDITS) await desktop.draw(text, seed);
await desktop.shot("filmstrip");
await desktop.page.click("#undo");
await desktop.shot("undone");
await desktop.page.click("#redo");
await desktop.page.click(".mark");
await desktop.page.waitForSelector("#mask-dialog[open]");
const box = await (await desktop.page.$("#mask")).boundingBox();
await desktop.page.mouse.move(box.x + box.width * .2, box.y + box.height * .3); await desktop.page.mouse.down();
await desktop.page.mouse.move(box.x + box.width * .45, box.y + box.height * .35, { steps: 8 });
await desktop.page.mouse.move(box.x + box.width * .4, box.y + box.height * .6, { steps: 8 }); await desktop.page.mouse.up();
await desktop.shot("masking");
await desktop.page.click("#mask-form button[value=done]");
await desktop.shot("masked");
await desktop.fill("steps", "100000"); await desktop.fill("prompt", "remove the star"); await desktop.page.click("#go");
await new Promise(resolve => setTimeout(resolve, 1500));
await desktop.page.screenshot({ path: `${folder}/refused.png` });

const dark = await open(1280, 960, {}, "dark");
await dark.page.click("input[name=n][value='4']");
await dark.draw("a green square above a purple diamond", 11);
await dark.shot("several");
await dark.page.click(".frame:nth-child(2) button");
await dark.page.click("#knows summary");
await dark.shot("dark");

const phone = await open(390, 844, { deviceScaleFactor: 2, isMobile: true, hasTouch: true });
await phone.shot("phone-form");
await phone.draw("a red circle and a blue star on a white background", 1);
await phone.shot("phone-drawn");
await phone.page.tap("#use");
await phone.draw(...EDITS[0]); await phone.draw(...EDITS[1]);
await phone.shot("phone-edited"); await phone.shot("phone", true);
await phone.page.tap(".mark"); await phone.page.waitForSelector("#mask-dialog[open]");
await phone.shot("phone-masking");
await browser.close();
