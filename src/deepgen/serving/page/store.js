// The history: whole files, in the browser's own database.
import { say } from "./dom.js";

export const KEPT = 200;      // pictures
export let records = [];      // the newest first

const database = new Promise(resolve => {
  try {
    const request = indexedDB.open("deepgen", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => resolve(null);
  } catch { resolve(null); }
});
async function keep(work, mode = "readwrite") {
  const db = await database;
  if (!db) return null;                      // the pictures live until the page is closed
  return new Promise(resolve => {
    const change = db.transaction("pictures", mode), request = work(change.objectStore("pictures"));
    change.oncomplete = () => resolve(request && request.result);
    change.onerror = change.onabort = () => { say("The browser has no room for more history; delete some pictures.", true); resolve(null); };
  });
}
const plain = ({ url, ...record }) => record;
const withUrl = record => ({ ...record, url: URL.createObjectURL(record.blob) });

export async function recall() {
  const kept = await keep(store => store.getAll(), "readonly") || [];
  records = kept.sort((a, b) => b.id - a.id).map(withUrl);
}
export function add(record) {
  records.unshift(withUrl(record));
  keep(store => store.put(record));
  for (const old of records.splice(KEPT)) { URL.revokeObjectURL(old.url); keep(store => store.delete(old.id)); }
  return records[0];
}
export const find = id => records.find(record => record.id === id);
// Takes records away; what is returned puts them back where they were, or lets go of them.
export function take(gone) {
  records = records.filter(record => !gone.includes(record));
  keep(store => { gone.forEach(record => store.delete(record.id)); });
  return {
    again() {
      records = [...records, ...gone].sort((a, b) => b.id - a.id);
      keep(store => { gone.forEach(record => store.put(plain(record))); });
    },
    drop: () => gone.forEach(record => URL.revokeObjectURL(record.url)),
  };
}

const bare = text => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
// Records whose prompt, size or seed have every one of these words.
export function search(text) {
  const words = bare(text).split(/\s+/).filter(Boolean);
  return records.filter(record => { const in_it = bare(`${record.prompt} ${record.size} ${record.seed}`); return words.every(word => in_it.includes(word)); });
}

// The session of edits that ends with a record: the picture it starts from and each result, in order.
export function session(tip) {
  const chain = [];
  for (let record = tip; record && !chain.includes(record); record = find(record.parent)) chain.unshift(record);
  const first = chain[0];
  if (first?.before) chain.unshift(start(first));
  return chain;
}
const starts = new Map();     // one for each record that an uploaded picture was the start of
function start(first) {
  if (!starts.has(first.id)) starts.set(first.id, { isStart: true, blob: first.before, url: URL.createObjectURL(first.before), prompt: "The picture before the first edit" });
  return starts.get(first.id);
}
