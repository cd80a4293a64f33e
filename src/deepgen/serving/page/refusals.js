// The server speaks of its fields; the page of its own inputs. Here is which is which.
import { $, state } from "./dom.js";

const FIELDS = {
  num_inference_steps: ["Steps", "steps"], guidance_scale: ["Guidance", "guidance"], true_cfg_scale: ["Guidance", "guidance"],
  negative_prompt: ["Steer away from", "negative"], prompt: ["Prompt", "prompt"], seed: ["Seed", "seed"], preset: ["Preset", "preset"],
  size: ["Size", "sizes"], width: ["Size", "sizes"], height: ["Size", "sizes"], n: ["How many", "counts"], lora: ["Adapter", "lora"],
  keep_unchanged: ["Keep exactly", "keep"], mask: ["The marked part", "inputs"], image: ["The picture", "inputs"], images: ["Pictures to edit", "inputs"],
};

export class Refused extends Error {
  constructor(message, input = "") { super(message); this.input = input; }
}

// An error of the server in the page's words, with the id of the input it is about.
export function refused({ message, param }) {
  const words = message
    .replace(/\bimages?\[(\d+)\](\.image_url)?/g, (_, index) => `Picture ${Number(index) + 1}`)
    .replace(/\bmask\.image_url/g, FIELDS.mask[0])
    .replace(/^image\b/, state.inputs.length === 1 ? "Picture 1" : "A picture")
    .replace(/\b[a-z]+(_[a-z]+)+\b/g, word => FIELDS[word] ? quoted(word) : word)
    .replace(/^(prompt|seed|preset|size|width|height|n|lora|mask|images)\b(?!:\S)/, quoted);
  const field = (param || "").match(/^[a-z_]+/)?.[0];
  return new Refused(words, FIELDS[field]?.[1] || "");
}
const quoted = field => field === "mask" ? FIELDS.mask[0] : `“${FIELDS[field][0]}”`;

// Shows which input a refusal is about, until it is changed.
export function point(input) {
  document.querySelectorAll("[aria-invalid]").forEach(one => { one.removeAttribute("aria-invalid"); one.removeAttribute("aria-errormessage"); });
  const wrong = input && $(input);
  if (!wrong) return;
  if (wrong.closest("details")) wrong.closest("details").open = true;
  if (!wrong.matches("input, select, textarea")) { wrong.querySelector("input:checked, button")?.focus(); return; }
  wrong.setAttribute("aria-invalid", "true"); wrong.setAttribute("aria-errormessage", "status");
  wrong.focus();
  wrong.addEventListener("input", () => point(""), { once: true });
}

// The number of an input as the server takes it; text that is none is refused, and not left out in silence.
export function numberOf(input) {
  const field = $(input);
  if (field.validity.badInput) throw new Refused(`“${document.querySelector(`label[for=${input}]`).textContent}” must be a number, or empty.`, input);
  return field.value === "" ? undefined : Number(field.value);
}
