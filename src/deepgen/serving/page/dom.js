// What the page's parts share: elements, what is said, and what is going on.

export const $ = id => document.getElementById(id);
export const make = (tag, fields = {}, ...children) => { const e = Object.assign(document.createElement(tag), fields); e.append(...children); return e; };
export function button(text, label, onclick, fields = {}) {
  const made = make("button", { type: "button", className: "pill", textContent: text, onclick, ...fields });
  if (label) made.setAttribute("aria-label", label);
  return made;
}
// New content for a list; a person who works with the keyboard stays at the same place in it, or goes to `otherwise`.
export function refill(list, items, otherwise) {
  const place = [...list.querySelectorAll("button")].indexOf(document.activeElement);
  list.replaceChildren(...items);
  if (place < 0) return;
  const buttons = [...list.querySelectorAll("button")], at = Math.min(place, buttons.length - 1);
  (buttons.slice(at).concat(buttons.slice(0, Math.max(at, 0)).reverse()).find(one => !one.disabled) || otherwise).focus();
}

// What is going on. A record is a finished picture: {id, blob, url, prompt, seed, size, drawn, settings,
// before: the first picture it was made from, others: the further ones, mask, parent: id of the record `before` is}.
export const state = {
  inputs: [],        // pictures to edit: {blob, url, record: id of the record it is, mask, maskUrl}
  shown: null,       // the record on the stage
  tip: null,         // the last record of the session of edits that is on the stage
  running: null,     // AbortController while a picture is drawn
  model: { defaults: {}, presets: {}, size_unit: 16, example_prompts: [], example_edits: [] },
};

export const remember = {
  get: name => { try { return localStorage.getItem("deepgen." + name); } catch { return null; } },
  set: (name, value) => { try { localStorage.setItem("deepgen." + name, value); } catch { /* private windows keep nothing */ } },
};

export function say(text, bad = false) { $("status").textContent = text; $("status").classList.toggle("bad", bad); }

// One thing that was taken away can be brought back, until the next one is taken away.
let restore = null;
export function offerRestore(said, name, again, drop = () => {}) {
  restore?.drop();
  restore = { again, drop };
  say(said); $("restore").textContent = name; $("restore").hidden = false;
}
$("restore").onclick = () => {
  const { again } = restore;
  restore = null; $("restore").hidden = true;
  say(again() || "It is back.");
};

const narrow = matchMedia("(max-width: 860px)"), still = matchMedia("(prefers-reduced-motion: reduce)");
// Where form and picture stand below each other, the picture comes into sight.
export function reveal() {
  if (narrow.matches) $("stage").scrollIntoView({ block: "start", behavior: still.matches ? "auto" : "smooth" });
}

// Small pictures are shown enlarged by a whole number of screen pixels, without smoothing.
const SMALL = 256, WIDEST = 480;
export function fit(image) {
  const { naturalWidth: width, naturalHeight: height } = image;
  if (!width) return;
  const small = Math.max(width, height) <= SMALL;
  image.classList.toggle("crisp", small);
  if (!small) { image.style.width = ""; return; }
  const room = image.closest(".frame, .paper")?.parentElement.clientWidth || WIDEST, many = image.closest(".frames:not(.one)");
  const widest = Math.min(WIDEST, many ? image.closest(".frame").clientWidth - 12 : room), highest = Math.min(WIDEST, innerHeight * (many ? .34 : .6));
  const times = Math.min(widest / width, highest / height), dots = devicePixelRatio || 1;
  image.style.width = width * Math.max(Math.floor(times * dots) / dots, Math.min(1, times)) + "px";
}
export function picture(url, alt, className = "") {
  return make("img", { src: url, alt, className, onload: event => fit(event.target) });
}
addEventListener("resize", () => document.querySelectorAll("#view img").forEach(fit));
