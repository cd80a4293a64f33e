// Pictures to edit: dropped, pasted or chosen, in order, with the part of the first one that may change.
import { $, button, make, offerRestore, refill, say, state } from "./dom.js";
import { openMask } from "./mask.js";
import { offerSizes, showExamples } from "./model.js";
import { showActions } from "./stage.js";

const MOST = 16;
// Sent as they are: the server scales them down itself, and brings the result back to their size.
const READ_BY_SERVER = ["image/png", "image/jpeg", "image/webp", "image/gif", "image/bmp", "image/avif", "image/tiff"];

const ready = ({ blob, record = null, mask = null }) => ({ blob, record, mask, url: URL.createObjectURL(blob), maskUrl: mask && URL.createObjectURL(mask) });
const drop = input => { URL.revokeObjectURL(input.url); if (input.maskUrl) URL.revokeObjectURL(input.maskUrl); };

export function addInput(given) {
  if (state.inputs.length >= MOST) { say(`An edit takes ${MOST} pictures at most.`, true); return; }
  state.inputs.push(ready(given)); showInputs();
}
// Other pictures to edit. Where `said` is given and some are lost, they can be brought back.
export function setInputs(given, said = "") {
  const before = state.inputs, lost = before.some(input => input.record === null || input.mask);
  state.inputs = given.map(ready); showInputs();
  if (said && lost) offerRestore(said, "Undo replace", () => { state.inputs.forEach(drop); state.inputs = before; showInputs(); }, () => before.forEach(drop));
  else before.forEach(drop);
}
function removeInput(place) {
  const [gone] = state.inputs.splice(place, 1);
  showInputs();
  (document.querySelector(`#inputs [aria-label="Remove picture ${Math.min(place + 1, state.inputs.length)}"]`) || $("browse")).focus();
  offerRestore(`Removed picture ${place + 1}.`, "Undo remove", () => { state.inputs.splice(place, 0, gone); showInputs(); }, () => drop(gone));
}
const move = (from, to) => { state.inputs.splice(to, 0, ...state.inputs.splice(from, 1)); showInputs(); };

export function showInputs() {
  const { inputs, running } = state;
  const tool = (text, label, onclick, disabled = false) => button(text, label, onclick, { disabled });
  refill($("inputs"), inputs.map((input, i) => {
    const image = make("img", { src: input.url, alt: `Picture ${i + 1}${i === 0 && input.mask ? ", a part is marked" : ""}` });
    image.onload = () => { image.classList.toggle("crisp", Math.max(image.naturalWidth, image.naturalHeight) <= 256); if (i === 0) offerSizes(image); };
    const thumb = make("div", { className: "thumb" }, image);
    if (i === 0 && input.maskUrl) thumb.append(make("img", { className: "kept crisp", src: input.maskUrl, alt: "" }));
    const tools = [
      tool("‹", `Move picture ${i + 1} to the front`, () => move(i, i - 1), i === 0),
      tool("×", `Remove picture ${i + 1}`, () => removeInput(i)),
      tool("›", `Move picture ${i + 1} to the back`, () => move(i, i + 1), i === inputs.length - 1),
    ];
    const mark = button(input.mask ? "Part marked" : "Mark a part", input.mask ? "Part marked: change what may change of picture 1" : "Mark a part of picture 1 that may change", () => mask(input), { className: "pill mark" });
    return make("li", {}, thumb, make("div", { className: "tools" }, ...(inputs.length > 1 ? tools : [tool("Remove", "Remove picture 1", () => removeInput(0))])), ...(i === 0 ? [mark] : []));
  }), $("browse"));
  $("continue-part").hidden = $("keep-part").hidden = !inputs.length;
  $("prompt").placeholder = inputs.length ? "What should change?" : "What should be in the picture?";
  $("go-text").textContent = running ? "Cancel" : inputs.length ? "Edit" : "Draw";
  $("go-key").textContent = running ? "Esc" : "Ctrl ⏎";
  offerSizes(); showExamples(); showActions();
}
async function mask(input) {
  input.marking = openMask(input);                     // a large mask takes a moment after its dialog
  const marked = await input.marking;
  if (marked === undefined) return;                    // left as it was
  if (input.maskUrl) URL.revokeObjectURL(input.maskUrl);
  input.mask = marked; input.maskUrl = marked && URL.createObjectURL(marked);
  showInputs();                                        // the dialog gave the focus back to its button, or a person moved on
  say(marked ? "Only the marked part may change." : "No part is marked; everything may change.");
}

const take = files => {
  const images = [...files].filter(file => file.type.startsWith("image/"));
  if (files.length && !images.length) say("That is no picture; a PNG, JPEG, WebP, GIF, BMP, AVIF or TIFF file is.", true);
  for (const file of images) addInput({ blob: file });
};
$("browse").onclick = () => $("files").click();
$("files").onchange = () => { take($("files").files); $("files").value = ""; };
addEventListener("paste", event => { const files = [...event.clipboardData.files]; if (files.length) { event.preventDefault(); take(files); } });
let depth = 0;
addEventListener("dragenter", event => { event.preventDefault(); depth++; $("drop").classList.add("over"); });
addEventListener("dragleave", () => { if (--depth <= 0) { depth = 0; $("drop").classList.remove("over"); } });
addEventListener("dragover", event => event.preventDefault());
addEventListener("drop", event => { event.preventDefault(); depth = 0; $("drop").classList.remove("over"); take(event.dataTransfer.files); });

// A `data:` address of a picture, in a format that the server reads.
export async function asAddress(blob) {
  if (READ_BY_SERVER.includes(blob.type)) return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result); reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
  const bitmap = await createImageBitmap(blob), canvas = make("canvas", { width: bitmap.width, height: bitmap.height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.toDataURL("image/png");
}
