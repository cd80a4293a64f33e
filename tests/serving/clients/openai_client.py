"""`openai`: the Images API, chats, and `/v1/responses` with its tool."""

import base64

from common import URL, done, save, shown
from openai import OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key="any", max_retries=0)
seed = {"seed": 1}
[model] = client.models.list().data
assert client.models.retrieve(model.id).id == model.id == "tiny"

answer = client.images.generate(model="gpt-image-1", prompt="a cat", extra_body=seed)
path = save("draws", base64.b64decode(answer.data[0].b64_json))
answer = client.images.edit(image=path, prompt="replace the cat with a dog", extra_body=seed)
save("edits", base64.b64decode(answer.data[0].b64_json))

said = [{"role": "user", "content": "a cat"}]
content = client.chat.completions.create(model="tiny", messages=said, seed=1).choices[0].message.content
save("shows", shown(content))
said += [{"role": "assistant", "content": content}, {"role": "user", "content": "replace the cat with a dog"}]
options = {"stream": True, "stream_options": {"include_usage": True}}
chunks = list(client.chat.completions.create(model="tiny", messages=said, seed=1, **options))
assert chunks[-1].usage.total_tokens > 0
save("chat edits", shown("".join(c.choices[0].delta.content or "" for c in chunks[:-1])))

tools = [{"type": "image_generation", "partial_images": 2}]
first = client.responses.create(model="gpt-5", input="a cat", tools=tools, extra_body=seed)
save("responses draws", base64.b64decode(first.output[0].result))
events = list(
    client.responses.create(
        model="gpt-5",
        input="replace the cat with a dog",
        tools=tools,
        previous_response_id=first.id,
        stream=True,
        extra_body=seed,
    )
)
assert sum(event.type == "response.image_generation_call.partial_image" for event in events) == 2
save("responses edits", base64.b64decode(events[-1].response.output[0].result))
done()
