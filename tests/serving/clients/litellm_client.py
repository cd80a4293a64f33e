"""`litellm`: images, edits, chats and responses through its provider `openai/`."""

import base64

import litellm
from common import URL, done, save, shown

where = {"model": "openai/tiny", "api_base": f"{URL}/v1", "api_key": "any"}
extra = {"extra_body": {"seed": 1}}

answer = litellm.image_generation(prompt="a cat", size="1024x1024", **where, **extra)
save("draws", base64.b64decode(answer.data[0].b64_json))
answer = litellm.image_generation(prompt="a cat", **where, **extra)
path = save("draws at the model's size", base64.b64decode(answer.data[0].b64_json))
with path.open("rb") as file:
    answer = litellm.image_edit(image=file, prompt="replace the cat with a dog", **where, **extra)
save("edits", base64.b64decode(answer.data[0].b64_json))

said = [{"role": "user", "content": "a cat"}]
content = litellm.completion(messages=said, seed=1, **where).choices[0].message.content
save("shows", shown(content))
said += [{"role": "assistant", "content": content}, {"role": "user", "content": "replace the cat with a dog"}]
stream = litellm.completion(
    messages=said, seed=1, stream=True, stream_options={"include_usage": True}, **where
)
chunks = list(stream)
assert any(getattr(chunk, "usage", None) for chunk in chunks)
save("chat edits", shown("".join(c.choices[0].delta.content or "" for c in chunks if c.choices)))

answer = litellm.responses(input="a cat", tools=[{"type": "image_generation"}], **where, **extra)
(result,) = [item.result for item in answer.output if item.type == "image_generation_call"]
save("responses draws", base64.b64decode(result))
done()
