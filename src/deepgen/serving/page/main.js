// Draws: sends what the form says, shows what comes back, and puts it into the history.
import { $, make, picture, remember, reveal, say, state } from "./dom.js";
import { asAddress, setInputs, showInputs } from "./inputs.js";
import { askForKey, headers } from "./key.js";
import { meet, picked } from "./model.js";
import { numberOf, point, Refused, refused } from "./refusals.js";
import { choose, show, showGrid } from "./stage.js";
import * as store from "./store.js";

/* --- light and dark --- */
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => { document.documentElement.dataset.theme = remember.get("theme") || (dark.matches ? "dark" : "light"); };
dark.addEventListener("change", paint); paint();
$("theme").onclick = () => { remember.set("theme", document.documentElement.dataset.theme === "dark" ? "light" : "dark"); paint(); };

/* --- drawing --- */
function progress(share) { $("bar").setAttribute("aria-valuenow", String(Math.round(share * 100))); $("bar").firstElementChild.style.width = share * 100 + "%"; }
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = "";;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const data = text.slice(0, end).split("\n").filter(line => line.startsWith("data: ")).map(line => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
const toBlob = b64 => new Blob([Uint8Array.from(atob(b64), c => c.charCodeAt(0))], { type: "image/png" });

function settingsOfForm() {
  const settings = {}, set = (name, value) => { if (value !== undefined && value !== "") settings[name] = value; };
  set("num_inference_steps", numberOf("steps")); set("guidance_scale", numberOf("guidance"));
  const seed = numberOf("seed");
  if ($("lock").getAttribute("aria-pressed") === "true") set("seed", seed);
  set("negative_prompt", $("negative").value.trim()); set("lora", $("lora").value);
  if (picked("size") !== "auto") settings.size = picked("size");
  if ($("preset").value !== state.model.preset) set("preset", $("preset").value);
  if (state.inputs.length) settings.keep_unchanged = $("keep").checked;
  return settings;
}
async function send(body, inputs, signal) {
  if (inputs.length) {
    body.images = await Promise.all(inputs.map(async input => ({ image_url: await asAddress(input.blob) })));
    if (inputs[0].mask) body.mask = { image_url: await asAddress(inputs[0].mask) };
  }
  const response = await fetch(inputs.length ? "v1/images/edits" : "v1/images/generations",
    { method: "POST", headers: headers({ "Content-Type": "application/json" }), body: JSON.stringify(body), signal });
  if (response.ok) return response;
  if (response.status === 401) $("key-open").click();
  let error;
  try { ({ error } = await response.json()); } catch { /* something between the page and the server answered */ }
  if (!error) throw new Refused(`The server's address answered ${response.status} ${response.statusText}`.trim() + ".");
  const wait = response.headers.get("retry-after"), found = refused(error);
  throw wait ? new Refused(`${found.message} (in about ${wait} s)`, found.input) : found;
}
// Follows one request to its end; its records in order of their number.
async function follow(response, n, prompt, record) {
  const frames = Array.from({ length: n }, () => make("div", { className: "frame" }, make("div", { className: "wait" })));
  $("view").replaceChildren(make("div", { className: n === 1 ? "frames one" : `frames of${n}` }, ...frames));
  const put = (index, url, rough) => frames[index].replaceChildren(picture(url, rough ? "Preview" : prompt, rough ? "rough" : ""));
  const steps = new Array(n).fill(0), records = []; let warnings = [];
  for await (const event of events(response)) {
    if (event.error) throw Object.assign(refused(event.error), { records });
    if (event.waiting !== undefined) say(event.waiting ? `Waiting: ${event.waiting} ahead` : "Next in line");
    else if (event.step !== undefined) {
      steps[event.index] = event.step / event.num_steps; progress(steps.reduce((a, b) => a + b) / n);
      say(n === 1 ? `Step ${event.step} of ${event.num_steps}` : `${records.filter(Boolean).length} of ${n} done, step ${event.step} of ${event.num_steps}`);
    } else if (event.type.endsWith("partial_image")) put(event.index, "data:image/png;base64," + event.b64_json, true);
    else if (event.type.endsWith("completed")) {
      warnings = event.warnings || [];
      records[event.index] = store.add({ ...record, id: Date.now() + Math.random(), blob: toBlob(event.b64_json), seed: event.seed, size: event.size, drawn: event.drawn_size });
      put(event.index, records[event.index].url, false); showGrid();
    }
  }
  if (records.filter(Boolean).length < n) throw new Refused("The connection ended before every picture was done.");
  return { records, warnings };
}
function goOn(record) {
  if (!$("continue").checked) return "";
  setInputs([{ blob: record.blob, record: record.id }]); $("prompt").value = "";
  return "The next edit starts from this picture";
}
async function draw() {
  const prompt = $("prompt").value.trim(), { inputs } = state, before = state.shown;
  point("");
  if (!prompt) { say(inputs.length ? "Say what should change." : "Say what to draw.", true); $("prompt").focus(); return; }
  let settings, wrong;
  try { settings = settingsOfForm(); } catch (error) { say(error.message, true); point(error.input); return; }
  await Promise.all(inputs.map(input => input.marking));
  const n = Number(picked("n")), controller = state.running = new AbortController();
  const [first, ...others] = inputs;
  const record = { prompt, settings, before: first?.blob || null, others: others.map(one => one.blob), mask: first?.mask || null, parent: first?.record ?? null };
  $("go").classList.add("stop"); $("cancel").hidden = false; showInputs();
  $("actions").hidden = $("facts").hidden = $("strip").hidden = true; progress(0); say("Sending"); reveal();
  try {
    const response = await send({ prompt, n, ...settings, stream: true, partial_images: 3, include_progress: true }, inputs, controller.signal);
    const { records, warnings } = await follow(response, n, prompt, record);
    progress(1);
    if ($("lock").getAttribute("aria-pressed") !== "true") $("seed").value = "";
    const next = then => inputs.length ? goOn(then) : "";
    if (n === 1) { show(records[0]); say(["Done", ...warnings, next(records[0])].filter(Boolean).join(". ")); }
    else {
      state.shown = null; say([`${n} pictures done`, ...warnings, "Choose one to go on"].join(". "));
      choose(records, chosen => say(next(chosen) || "Chosen"));
    }
  } catch (error) {
    progress(0); show(store.records.includes(before) || before?.isStart ? before : store.records[0] || null);
    if (controller.signal.aborted) say("Cancelled");
    else say(error instanceof Refused ? error.message : error instanceof TypeError ? "The server cannot be reached." : "A picture or an answer cannot be read.", true);
    wrong = error.input;
  } finally {
    state.running = null; $("go").classList.remove("stop"); $("cancel").hidden = true; showInputs(); if (wrong) point(wrong); else reveal();
  }
}
const submit = () => { if (state.running) state.running.abort(); else draw(); };
$("cancel").onclick = () => state.running?.abort();
$("form").addEventListener("submit", event => { event.preventDefault(); submit(); });
addEventListener("keydown", event => {
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !state.running) { event.preventDefault(); submit(); }
  if (event.key === "Escape" && state.running) state.running.abort();
});

askForKey(meet);
show(null); showInputs();
store.recall().then(() => { $("examples-part").open = !store.records.length; if (!state.shown && !state.running) show(store.records[0] || null); });
meet();
