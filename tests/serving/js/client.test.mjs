// The official JavaScript client, unmodified, against the server at $DEEPGEN_URL.
import assert from "node:assert/strict";
import test from "node:test";
import OpenAI, { toFile } from "openai";

const url = process.env.DEEPGEN_URL;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const quick = { num_inference_steps: 2, seed: 1 };
const isPng = b64 => Buffer.from(b64, "base64").subarray(1, 4).toString() === "PNG";
let drawn;

test("it draws two pictures", async () => {
  const answer = await client.images.generate({ prompt: "a cat", n: 2, ...quick });
  assert.equal(answer.data.length, 2);
  assert.ok(answer.data.every(entry => isPng(entry.b64_json)));
  assert.deepEqual(answer.data.map(entry => entry.seed), [1, 2]);
  assert.equal(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens);
  drawn = Buffer.from(answer.data[0].b64_json, "base64");
});

for (const count of [1, 3])
  test(`it edits ${count} picture(s)`, async () => {
    const files = await Promise.all(Array.from({ length: count }, (_, k) => toFile(drawn, `${k}.png`)));
    const answer = await client.images.edit({ image: count === 1 ? files[0] : files, prompt: "replace the cat with a dog", ...quick });
    assert.ok(isPng(answer.data[0].b64_json));
  });

test("it streams partial pictures of a generation and of an edit", async () => {
  const types = async stream => { const seen = []; for await (const event of stream) { assert.ok(isPng(event.b64_json)); seen.push(event.type); } return seen; };
  const options = { prompt: "two apples", stream: true, partial_images: 2, ...quick, num_inference_steps: 4 };
  assert.deepEqual(await types(await client.images.generate(options)),
    ["image_generation.partial_image", "image_generation.partial_image", "image_generation.completed"]);
  assert.deepEqual(await types(await client.images.edit({ ...options, image: await toFile(drawn, "a.png") })),
    ["image_edit.partial_image", "image_edit.partial_image", "image_edit.completed"]);
});

test("it leaves a stream, and the server draws no further", async () => {
  const stream = await client.images.generate({ prompt: "a", stream: true, partial_images: 3, num_inference_steps: 200 });
  for await (const event of stream) { assert.equal(event.partial_image_index, 0); break; }
  for (let looks = 0; ; looks++) {
    const { running } = await (await fetch(`${url}/ready`)).json();
    if (running === 0) break;
    assert.ok(looks < 100, "the picture is still being drawn");
    await new Promise(resolve => setTimeout(resolve, 50));
  }
});

test("it reads errors", async () => {
  await assert.rejects(client.images.generate({ prompt: "a", size: "4096x16" }), error => {
    assert.ok(error instanceof OpenAI.BadRequestError);
    assert.deepEqual([error.status, error.code, error.param], [400, "invalid_value", "size"]);
    return /^req-/.test(error.requestID);
  });
});

test("it lists models", async () => {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  assert.deepEqual(names, ["tiny"]);
});
