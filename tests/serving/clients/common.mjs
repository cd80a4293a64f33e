// What the JavaScript clients share; see common.py.
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

export const url = process.env.DEEPGEN_URL;
const folder = process.env.DEEPGEN_PICTURES;

export const save = (what, content) => writeFileSync(join(folder, `${what}.png`), content);
export const done = () => writeFileSync(join(folder, "done"), "");

/** The file at an address, as a front end that shows it gets it. */
export const fetched = async address =>
  address.startsWith("data:")
    ? Buffer.from(address.slice(address.indexOf(",") + 1), "base64")
    : Buffer.from(await (await fetch(address)).arrayBuffer());

/** The one picture that a text shows as a Markdown image. */
export const shown = async text => {
  const found = [...text.matchAll(/!\[[^\]\n]+\]\(([^)\s]+)\)/g)];
  assert.equal(found.length, 1, text);
  return fetched(found[0][1]);
};
