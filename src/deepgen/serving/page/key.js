// The API key: asked for in a dialog, kept in this tab.
import { $ } from "./dom.js";

let key = ""; try { key = sessionStorage.getItem("deepgen.key") || ""; } catch { /* asked for again */ }
export const headers = more => key ? { ...more, Authorization: "Bearer " + key } : more;

// Calls `then` whenever another key was given.
export function askForKey(then) {
  $("key-open").onclick = () => { $("key-dialog").returnValue = ""; $("key").value = key; $("key-dialog").showModal(); };
  $("key-dialog").addEventListener("close", () => {
    if ($("key-dialog").returnValue !== "save") return;
    key = $("key").value.trim();
    try { sessionStorage.setItem("deepgen.key", key); } catch { /* kept in memory */ }
    then();
  });
}
