// The AI SDK: generateImage, generateText and streamText, with its provider for OpenAI and that for compatible servers.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import * as ai from "ai";
import { done, save, shown, url } from "./common.mjs";

const { generateText, streamText } = ai;
const generateImage = ai.generateImage ?? ai.experimental_generateImage;
const compatible = createOpenAICompatible({ name: "deepgen", baseURL: `${url}/v1`, includeUsage: true });
const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: "any" });
const providerOptions = { deepgen: { seed: 1 } };
const image = compatible.imageModel("tiny");

const drawn = await generateImage({ model: image, prompt: "a cat", size: "512x512", providerOptions });
save("draws", drawn.image.uint8Array);
const source = await generateImage({ model: openai.image("gpt-image-1"), prompt: "a cat", seed: 1 });
save("draws by the provider for OpenAI", source.image.uint8Array);
const prompt = { text: "replace the cat with a dog", images: [drawn.image.uint8Array] };
save("edits", (await generateImage({ model: image, prompt, providerOptions })).image.uint8Array);

const model = compatible.chatModel("tiny");
const first = await generateText({ model, prompt: "a cat", seed: 1 });
save("shows", await shown(first.text));
assert.ok(first.usage.totalTokens > 0);
const messages = [
  { role: "user", content: "a cat" },
  ...first.response.messages,
  { role: "user", content: "replace the cat with a dog" },
];
const stream = streamText({ model, messages, seed: 1 });
let text = "";
for await (const piece of stream.textStream) text += piece;
save("chat edits", await shown(text));
assert.ok((await stream.usage).totalTokens > 0);

const words = await generateText({ model: openai.responses("gpt-5"), prompt: "a cat" });
save("responses shows", await shown(words.text));
const tools = { image_generation: openai.tools.imageGeneration({ outputFormat: "png" }) };
const called = await generateText({ model: openai.responses("gpt-5"), prompt: "a cat", tools });
const [result] = called.staticToolResults ?? called.toolResults;
save("responses draws", Buffer.from(result.output.result, "base64"));
const running = streamText({ model: openai.responses("gpt-5"), prompt: "a cat", tools });
let streamed;
for await (const part of running.fullStream) {
  assert.notEqual(part.type, "error", String(part.error));
  if (part.type === "tool-result" && !part.preliminary) streamed = part.output.result;
}
save("responses stream draws", Buffer.from(streamed, "base64"));
done();
