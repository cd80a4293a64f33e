// The brush: marks the part of a picture that an edit may change. Its result is a PNG as large as the picture,
// transparent where that may change, as the API takes it.
import { $, fit, make, say } from "./dom.js";

const MOST = 1024;            // of the canvas that is painted on; the mask is enlarged to the picture at the end
const STROKES = 20;           // that can be undone
const PARTS = {
  "Left half": [0, 0, 1 / 2, 1], "Right half": [1 / 2, 0, 1, 1], "Top half": [0, 0, 1, 1 / 2], "Bottom half": [0, 1 / 2, 1, 1],
  "Top left": [0, 0, 1 / 3, 1 / 3], "Top": [1 / 3, 0, 2 / 3, 1 / 3], "Top right": [2 / 3, 0, 1, 1 / 3],
  "Left": [0, 1 / 3, 1 / 3, 2 / 3], "Middle": [1 / 3, 1 / 3, 2 / 3, 2 / 3], "Right": [2 / 3, 1 / 3, 1, 2 / 3],
  "Bottom left": [0, 2 / 3, 1 / 3, 1], "Bottom": [1 / 3, 2 / 3, 2 / 3, 1], "Bottom right": [2 / 3, 2 / 3, 1, 1],
  "Everything": [0, 0, 1, 1],
};

const canvas = $("mask"), pen = canvas.getContext("2d", { willReadFrequently: true }), image = $("mask-picture");
let strokes = [], at = { x: 0, y: 0 }, from = null, answer = null;

$("mask-part").replaceChildren(...Object.keys(PARTS).map(name => new Option(name, name)));

// Opens the dialog on a picture; its mask (a Blob), null where nothing is marked, undefined where it was left.
export async function openMask(input) {
  image.src = input.url;
  try { await image.decode(); } catch { say("This browser cannot show this picture, so no part of it can be marked.", true); return undefined; }
  const { naturalWidth: width, naturalHeight: height } = image, scale = Math.min(1, MOST / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale)); canvas.height = Math.max(1, Math.round(height * scale));
  strokes = []; at = { x: canvas.width / 2, y: canvas.height / 2 };
  if (input.mask) await load(input.mask);
  $("mask-dialog").returnValue = ""; $("mask-dialog").showModal();
  layout(); tell(); canvas.focus();
  return new Promise(resolve => { answer = resolve; });
}
function layout() {
  image.style.width = ""; fit(image);
  const room = { width: $("paper").clientWidth, height: innerHeight * .5 }, { naturalWidth: width, naturalHeight: height } = image;
  const shown = image.classList.contains("crisp") ? image.clientWidth / width : 1, times = Math.min(room.width / width, room.height / height, Math.max(shown, 1));
  for (const one of [image, canvas]) { one.style.width = width * times + "px"; one.style.height = height * times + "px"; }
  canvas.classList.toggle("crisp", image.classList.contains("crisp"));
  cursor();
}
addEventListener("resize", () => { if ($("mask-dialog").open) layout(); });

async function load(mask) {
  const kept = await createImageBitmap(mask);
  pen.fillStyle = colour(); pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "destination-out";
  pen.imageSmoothingEnabled = false; pen.drawImage(kept, 0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "source-over";
}
const colour = () => getComputedStyle(document.documentElement).getPropertyValue("--accent");
const width = () => Math.max(1, $("mask-size").value / 100 * Math.max(canvas.width, canvas.height));
const erases = () => document.querySelector("input[name=mask-tool]:checked").value === "eraser";

/* --- painting --- */
function remember() {
  strokes.push(pen.getImageData(0, 0, canvas.width, canvas.height));
  if (strokes.length > STROKES) strokes.shift();
}
function paint(work) {
  pen.globalCompositeOperation = erases() ? "destination-out" : "source-over";
  pen.fillStyle = pen.strokeStyle = colour(); pen.lineWidth = width(); pen.lineCap = pen.lineJoin = "round";
  work(); pen.globalCompositeOperation = "source-over";
}
function line(start, end) {
  paint(() => { pen.beginPath(); pen.moveTo(start.x, start.y); pen.lineTo(end.x, end.y + (start.x === end.x && start.y === end.y ? .01 : 0)); pen.stroke(); });
}
// "12 % may change", after a stroke.
function tell(said = "") {
  const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
  let marked = 0;
  for (let i = 3; i < data.length; i += 4) if (data[i]) marked++;
  const share = marked / (data.length / 4) * 100;
  const text = marked ? `${share < 1 ? "Less than 1" : Math.round(share)} % may change` : "Nothing is marked: everything may change";
  $("mask-status").textContent = said ? `${said}. ${text}` : text;
  $("mask-undo").disabled = !strokes.length;
  return marked;
}
function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: (event.clientX - box.left) / box.width * canvas.width, y: (event.clientY - box.top) / box.height * canvas.height };
}
function cursor() {
  const times = canvas.clientWidth / canvas.width, across = width() * times, mark = $("mask-cursor");
  mark.style.width = mark.style.height = across + "px";
  mark.style.left = canvas.offsetLeft + at.x * times - across / 2 + "px"; mark.style.top = canvas.offsetTop + at.y * times - across / 2 + "px";
}
canvas.onpointerdown = event => {
  if (event.button) return;
  event.preventDefault(); canvas.focus(); canvas.setPointerCapture(event.pointerId);
  remember(); from = at = place(event); line(from, at); cursor();
};
canvas.onpointermove = event => {
  for (const one of event.getCoalescedEvents?.() || [event]) {
    at = place(one);
    if (from) { line(from, at); from = at; }
  }
  at = place(event); cursor();
};
canvas.onpointerup = canvas.onpointercancel = () => { if (from) { from = null; tell(); } };
canvas.onkeydown = event => {
  const step = Math.max(canvas.width, canvas.height) / 24;
  const [x, y] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [0, 0];
  if (x || y) {
    event.preventDefault();
    const to = { x: Math.min(canvas.width, Math.max(0, at.x + x * step)), y: Math.min(canvas.height, Math.max(0, at.y + y * step)) };
    if (event.shiftKey) { remember(); line(at, to); }
    at = to; cursor();
    tell(`Brush at ${Math.round(at.x / canvas.width * 100)} % from the left, ${Math.round(at.y / canvas.height * 100)} % from the top`);
  } else if (event.key === " ") { event.preventDefault(); remember(); line(at, at); tell("Painted"); }
};
$("mask-size").oninput = cursor;
$("mask-apply").onclick = () => {
  const [left, top, right, bottom] = PARTS[$("mask-part").value], x = Math.round(left * canvas.width), y = Math.round(top * canvas.height);
  remember(); paint(() => pen.fillRect(x, y, Math.round(right * canvas.width) - x, Math.round(bottom * canvas.height) - y));
  tell($("mask-part").value);
};
$("mask-undo").onclick = () => { if (strokes.length) pen.putImageData(strokes.pop(), 0, 0); tell("Undone"); if ($("mask-undo").disabled) canvas.focus(); };
$("mask-clear").onclick = () => { remember(); pen.clearRect(0, 0, canvas.width, canvas.height); tell("Cleared"); };
$("mask-invert").onclick = () => {
  remember();
  pen.globalCompositeOperation = "xor"; pen.fillStyle = colour(); pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.globalCompositeOperation = "source-over"; tell("Inverted");
};

/* --- the end --- */
$("mask-dialog").addEventListener("close", async () => {
  if (!answer) return;
  const done = answer; answer = null; from = null;
  if ($("mask-dialog").returnValue !== "done") return done(undefined);
  if (!tell()) return done(null);
  const mask = make("canvas", { width: image.naturalWidth, height: image.naturalHeight }), whole = mask.getContext("2d");
  whole.fillRect(0, 0, mask.width, mask.height);
  whole.globalCompositeOperation = "destination-out"; whole.imageSmoothingEnabled = false;
  whole.drawImage(canvas, 0, 0, mask.width, mask.height);
  mask.toBlob(blob => {
    if (!blob) say(`This browser cannot make a mask of ${mask.width} × ${mask.height} pixels; mark a part of a smaller picture.`, true);
    done(blob || undefined);
  }, "image/png");
});
