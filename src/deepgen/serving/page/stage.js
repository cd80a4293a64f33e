// The picture on the stage, what can be done with it, the session of edits it belongs to, and the history.
import { $, fit, make, offerRestore, picture, refill, reveal, say, state } from "./dom.js";
import { setInputs, addInput } from "./inputs.js";
import { pick, showUsual } from "./model.js";
import * as store from "./store.js";

/* --- one picture --- */
export function show(record) {
  state.shown = record;
  if (!record || !store.session(state.tip).includes(record)) state.tip = record?.isStart ? null : record;
  $("compare").setAttribute("aria-pressed", "false");
  showPicture(); showActions(); showStrip(); showGrid();
}
export function showActions() {
  const record = state.shown;
  $("actions").hidden = $("facts").hidden = !record || Boolean(state.running);
  if (!record) return;
  for (const id of ["reuse", "remove"]) $(id).hidden = Boolean(record.isStart);
  $("compare").hidden = !record.before;
  $("add").hidden = !state.inputs.length || state.inputs.some(input => input.record === record.id);
  $("facts").textContent = record.isStart ? record.prompt
    : [record.prompt, record.size, `seed ${record.seed}`, record.mask && "only the marked part", enlarged(record)].filter(Boolean).join(" · ");
}
function enlarged({ drawn, size }) {
  const [from, to] = [drawn, size].map(text => (text || "").split("x").map(Number));
  return from[0] < to[0] || from[1] < to[1] ? `drawn at ${drawn}, enlarged to ${size}` : "";
}
function showPicture() {
  const { shown } = state;
  if (!shown) {
    $("view").replaceChildren(make("div", { className: "empty" }, make("strong", { textContent: "Say what to draw" }),
      "Or drop a picture here, and say what should change."));
    return;
  }
  const image = picture(shown.url, shown.prompt), frame = make("div", { className: "frame" }, image);
  if ($("compare").getAttribute("aria-pressed") === "true") {
    const before = make("img", { className: "before", alt: "Before", src: URL.createObjectURL(shown.before) });
    before.onload = () => before.classList.toggle("crisp", Math.max(before.naturalWidth, before.naturalHeight) <= 256);
    const both = make("div", { className: "compare" }, image, before);
    const slide = make("input", { type: "range", min: 0, max: 100, value: 50, oninput: () => both.style.setProperty("--at", slide.value + "%") });
    slide.setAttribute("aria-label", "Before and after");
    both.append(slide); frame.append(both);
  }
  $("view").replaceChildren(make("div", { className: "frames one" }, frame));
  fit(image);
}
$("compare").onclick = () => { const b = $("compare"); b.setAttribute("aria-pressed", String(b.getAttribute("aria-pressed") !== "true")); showPicture(); };
const asInput = ({ blob, id }) => ({ blob, record: id });
$("use").onclick = () => { setInputs([asInput(state.shown)], "Replaced the pictures to edit."); leavePrompt(); };
// A prompt that has been followed does not say what should change now.
function leavePrompt() {
  if ($("prompt").value.trim() === state.shown.prompt) $("prompt").value = "";
  $("prompt").focus();
}
$("add").onclick = () => { addInput(asInput(state.shown)); leavePrompt(); };
$("save").onclick = () => {
  const link = make("a", { href: state.shown.url, download: state.shown.isStart ? "start.png" : `deepgen-${state.shown.seed}.png` });
  document.body.append(link); link.click(); link.remove();
};
export const lock = on => { $("lock").setAttribute("aria-pressed", String(on)); $("lock").textContent = on ? "Locked" : "Lock"; };
$("lock").onclick = () => {
  const on = $("lock").getAttribute("aria-pressed") !== "true";
  if (on && $("seed").value === "") $("seed").value = state.shown?.seed ?? Math.floor(Math.random() * 2 ** 31);
  lock(on);
};
$("seed").oninput = () => lock($("seed").value !== "");
$("reuse").onclick = () => {
  const { prompt, seed, settings: s } = state.shown;
  setInputs(sources(state.shown), "Replaced the pictures to edit.");
  $("prompt").value = prompt; $("seed").value = seed; lock(true);
  $("steps").value = s.num_inference_steps ?? ""; $("guidance").value = s.guidance_scale ?? ""; $("negative").value = s.negative_prompt ?? "";
  $("lora").value = s.lora ?? ""; $("keep").checked = s.keep_unchanged ?? $("keep").checked;
  pick("size", s.size ?? "auto"); $("preset").value = s.preset ?? state.model.preset; showUsual(); $("prompt").focus();
};
// The pictures that a record was made from, with the marked part.
const sources = ({ before, parent, mask, others = [] }) => before ? [{ blob: before, record: parent, mask }, ...others.map(blob => ({ blob }))] : [];
$("remove").onclick = () => {
  const { shown: gone, tip } = state, steps = store.session(tip), before = steps[steps.indexOf(gone) - 1];
  const place = store.records.indexOf(gone), wasInput = state.inputs.length === 1 && state.inputs[0].record === gone.id;
  const kept = store.take([gone]);
  if (tip === gone) state.tip = before && !before.isStart ? before : null;
  const next = before && !before.isStart ? before : store.records[Math.min(place, store.records.length - 1)] || null;
  show(next);
  if (wasInput && before) setInputs([asInput(before)]);
  offerRestore("Deleted the picture.", "Undo delete", () => {
    kept.again(); state.tip = tip; show(gone);
    if (wasInput) setInputs([asInput(gone)]);
  }, kept.drop);
  if ($("actions").hidden) $("restore").focus();
};
$("clear").onclick = () => {
  const gone = [...store.records], { shown, tip } = state, kept = store.take(gone);
  state.tip = null; show(null);
  offerRestore(`Deleted ${gone.length === 1 ? "1 picture" : `${gone.length} pictures`}.`, "Undo delete",
    () => { kept.again(); state.tip = tip; show(shown || gone[0]); }, kept.drop);
  $("restore").focus();
};

/* --- the session of edits --- */
function showStrip() {
  const steps = store.session(state.tip), at = steps.indexOf(state.shown);
  $("strip").hidden = steps.length < 2 || at < 0;
  if ($("strip").hidden) return;
  $("undo").disabled = at === 0; $("redo").disabled = at === steps.length - 1;
  refill($("steps-of-edit"), steps.map((record, index) => {
    const name = index === 0 ? "Start" : record.prompt;
    const one = make("button", { type: "button", title: name, onclick: () => go(index, `Step ${index} of ${steps.length - 1}: ${name}`) },
      make("img", { src: record.url, alt: "" }), make("span", { textContent: name }));
    one.setAttribute("aria-current", index === at ? "step" : "false");
    return make("li", {}, one);
  }), $("prompt"));
  const current = $("steps-of-edit").children[at];
  $("steps-of-edit").scrollLeft = current.offsetLeft - $("steps-of-edit").clientWidth + current.offsetWidth + 8;
}
// Shows a step and makes it the picture to edit next.
function go(index, said) {
  if (state.running) return;
  const record = store.session(state.tip)[index];
  show(record); setInputs([asInput(record)]); say(said);
}
$("undo").onclick = () => {
  const steps = store.session(state.tip), at = steps.indexOf(state.shown), undone = steps[at];
  if (state.running || at < 1) return;
  show(steps[at - 1]);
  const [, ...others] = sources(undone);
  setInputs([{ ...asInput(steps[at - 1]), mask: undone.before ? undone.mask : null }, ...(undone.before ? others : [])]);
  if (undone.before && !$("prompt").value.trim()) $("prompt").value = undone.prompt;
  say(`Undone: ${undone.prompt}`);
  if ($("undo").disabled) $("redo").focus();
};
$("redo").onclick = () => {
  const steps = store.session(state.tip), at = steps.indexOf(state.shown) + 1;
  if (state.running || !steps[at]) return;
  if ($("prompt").value === steps[at].prompt) $("prompt").value = "";   // as Undo put it there
  go(at, `Done again: ${steps[at].prompt}`);
  if ($("redo").disabled) $("undo").focus();
};

/* --- the history --- */
export function showGrid() {
  const wanted = $("search").value.trim(), found = store.search(wanted);
  $("clear").hidden = $("search").hidden = !store.records.length; $("none").hidden = Boolean(store.records.length);
  $("found").textContent = !wanted || !store.records.length ? "" : found.length ? `${found.length} of ${store.records.length} pictures` : `No picture has “${wanted}” in its prompt.`;
  refill($("grid"), found.map(record => {
    const one = make("button", { type: "button", title: record.prompt, onclick: () => { if (!state.running) { show(record); say(""); reveal(); } } },
      make("img", { src: record.url, alt: "", loading: "lazy", onload: event => event.target.classList.toggle("crisp", event.target.naturalWidth <= 256) }));
    one.setAttribute("aria-label", "Show: " + record.prompt);
    one.setAttribute("aria-current", String(state.shown === record));
    return make("li", {}, one);
  }), $("prompt"));
}
$("search").oninput = showGrid;

// Several pictures of one request: the one that is chosen goes on.
export function choose(records, then) {
  $("view").replaceChildren(make("div", { className: `frames of${records.length}` }, ...records.map((record, index) => {
    const one = make("button", { type: "button", className: "chosen", onclick: () => { show(record); then(record); $("use").focus(); } }, picture(record.url, ""));
    one.setAttribute("aria-label", `Choose picture ${index + 1} of ${records.length}`);
    return make("div", { className: "frame" }, one);
  })));
  document.querySelectorAll("#view img").forEach(fit);
}
