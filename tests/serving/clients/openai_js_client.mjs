// `openai` for JavaScript: the Images API, chats, and `/v1/responses` with its tool.
import assert from "node:assert/strict";
import OpenAI, { toFile } from "openai";
import { done, save, shown, url } from "./common.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });
const bytes = b64 => Buffer.from(b64, "base64");
assert.equal((await client.models.retrieve("tiny")).id, "tiny");

let answer = await client.images.generate({ model: "gpt-image-1", prompt: "a cat", seed: 1 });
const drawn = bytes(answer.data[0].b64_json);
save("draws", drawn);
answer = await client.images.edit({ image: await toFile(drawn, "a.png"), prompt: "replace the cat with a dog", seed: 1 });
save("edits", bytes(answer.data[0].b64_json));

const messages = [{ role: "user", content: "a cat" }];
const chat = await client.chat.completions.create({ model: "tiny", messages, seed: 1 });
const { content } = chat.choices[0].message;
save("shows", await shown(content));
messages.push({ role: "assistant", content }, { role: "user", content: "replace the cat with a dog" });
const options = { stream: true, stream_options: { include_usage: true } };
let text = "", usage;
for await (const chunk of await client.chat.completions.create({ model: "tiny", messages, seed: 1, ...options })) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.ok(usage.total_tokens > 0);
save("chat edits", await shown(text));

const tools = [{ type: "image_generation", partial_images: 2 }];
const first = await client.responses.create({ model: "gpt-5", input: "a cat", tools, seed: 1 });
save("responses draws", bytes(first.output[0].result));
const asked = { model: "gpt-5", input: "replace the cat with a dog", tools, seed: 1, previous_response_id: first.id };
let partials = 0, last;
for await (const event of await client.responses.create({ ...asked, stream: true })) {
  partials += event.type === "response.image_generation_call.partial_image";
  last = event;
}
assert.equal(partials, 2);
assert.equal(last.type, "response.completed");
save("responses edits", bytes(last.response.output[0].result));
done();
