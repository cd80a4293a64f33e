// What the server says of its model: its name, what it can draw, examples, sizes, presets and adapters.
import { $, button, make, refill, say, state } from "./dom.js";
import { headers } from "./key.js";

const SHAPES = [["Square", 1, 1], ["Wide", 3, 2], ["Tall", 2, 3], ["16:9", 16, 9], ["9:16", 9, 16]];

export async function meet() {
  try {
    const response = await fetch("v1/models", { headers: headers({}) });
    if (response.status === 401) { if (!$("key-dialog").open) $("key-open").click(); return; }
    if (!response.ok) return;
    state.model = (await response.json()).data[0];
  } catch { say("The server cannot be reached.", true); return; }
  const { model } = state;
  $("model").textContent = model.id; document.title = `deepgen: ${model.id}`;
  $("guidance").placeholder = model.defaults.guidance_scale;
  $("keep").checked = Boolean(model.defaults.keep_unchanged);
  $("preset").replaceChildren(...Object.keys(model.presets).map(name => new Option(name, name, false, name === model.preset)));
  $("lora-part").hidden = !model.loras.length;
  $("lora").replaceChildren(new Option("none", ""), ...model.loras.map(name => new Option(name, name)));
  $("about").hidden = false; $("description").replaceChildren(make("strong", { textContent: model.id }), ` ${model.description}`);
  const groups = Object.entries(model.vocabulary);
  $("knows").hidden = !groups.length;
  $("vocabulary").replaceChildren(...groups.flatMap(([name, words]) => [make("dt", { textContent: name }), make("dd", { textContent: words.join(", ") })]));
  showUsual(); offerSizes(); showExamples();
}
export const showUsual = () => { $("steps").placeholder = state.model.presets[$("preset").value] ?? ""; };
$("preset").onchange = showUsual;

let offered = null;
export function showExamples() {
  const { model, inputs } = state, texts = inputs.length ? model.example_edits : model.example_prompts;
  $("examples-part").hidden = !texts.length;
  if (offered === texts) return;
  offered = texts;
  refill($("examples"), texts.map(text => make("li", {}, button(text, "", () => {
    $("prompt").value = text; $("prompt").focus();
  }, { className: "pill example" }))), $("prompt"));
}

/* --- sizes and numbers of pictures --- */
export const picked = name => document.querySelector(`input[name=${name}]:checked`)?.value;
export function pick(name, value) {
  for (const input of document.getElementsByName(name)) input.checked = input.value === value;
  if (!picked(name)) document.getElementsByName(name)[0].checked = true;
}
function choice(name, value, text, shape) {
  const span = make("span", { className: "pill" });
  if (shape) { const icon = make("i"); icon.style.width = shape[0] + "px"; icon.style.height = shape[1] + "px"; span.append(icon); }
  span.append(text);
  return make("label", { className: "choice" }, make("input", { type: "radio", name, value }), span);
}
// An edit comes back in the size of its first picture, whatever was chosen for drawing before; that choice
// comes back with the last picture that is removed.
let forDrawing = "auto", edits = false, said = "";
export function offerSizes(image) {
  const { model, inputs } = state, before = picked("size") || "auto";
  if (image) Object.assign(inputs[0], { width: image.naturalWidth, height: image.naturalHeight });
  const unit = model.size_unit, base = model.defaults.width || 512, area = base * base;
  const first = inputs[0], exact = first?.width ? ` (${first.width} × ${first.height})` : "";
  const sizes = SHAPES.map(([name, w, h]) => {
    const round = x => Math.max(unit, Math.floor(x / unit) * unit);
    // The square is the model's own size; other shapes never have a longer side than it can place.
    const longest = Math.min(Math.sqrt(area * Math.max(w, h) / Math.min(w, h)), model.max_side || Infinity), scale = longest / Math.max(w, h);
    return { name, w, h, size: `${round(w * scale)}x${round(h * scale)}` };
  });
  const now = JSON.stringify([Boolean(first), exact, sizes]);
  if (now === said) return;
  said = now;
  const options = first ? [choice("size", "auto", `As the picture${exact}`)] : [];
  for (const { name, w, h, size } of sizes) {
    const box = 13 / Math.max(w, h), label = choice("size", w === h && !first ? "auto" : size, name, [w * box, h * box]);
    label.title = size.replace("x", " × "); options.push(label);
  }
  const held = document.activeElement?.name === "size";
  $("sizes").replaceChildren(...options);
  if (Boolean(first) === edits) pick("size", before);
  else if (first) { forDrawing = before; pick("size", "auto"); }
  else pick("size", forDrawing);
  edits = Boolean(first);
  if (held) document.querySelector("input[name=size]:checked").focus();
}
$("counts").replaceChildren(...[1, 2, 3, 4].map(n => choice("n", String(n), String(n)))); pick("n", "1");
