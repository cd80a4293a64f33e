"""LangChain: the image tool, which reads addresses only, and `ChatOpenAI` on both of OpenAI's routes."""

import base64

from common import URL, done, fetched, save, shown
from langchain_community.tools.openai_dalle_image_generation import OpenAIDALLEImageGenerationTool
from langchain_community.utilities.dalle_image_generator import DallEAPIWrapper
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai import ChatOpenAI

where = {"base_url": f"{URL}/v1", "api_key": "any"}
tool = OpenAIDALLEImageGenerationTool(api_wrapper=DallEAPIWrapper(model="dall-e-3", **where))
save("image tool draws", fetched(tool.run("a cat")))  # at 1024x1024, which the tool asks for itself

chat = ChatOpenAI(model="tiny", seed=1, **where)
first = chat.invoke("a cat")
save("shows", shown(first.content))
history = [HumanMessage("a cat"), AIMessage(first.content), HumanMessage("replace the cat with a dog")]
save("chat edits", shown("".join(chunk.content for chunk in chat.stream(history))))
address = "data:image/png;base64," + base64.b64encode(shown(first.content)).decode()
parts = [
    {"type": "text", "text": "replace the cat with a dog"},
    {"type": "image_url", "image_url": {"url": address}},
]
save("edits", shown(chat.invoke([HumanMessage(parts)]).content))

chat = ChatOpenAI(model="tiny", use_responses_api=True, extra_body={"seed": 1}, **where)
answer = chat.bind_tools([{"type": "image_generation"}]).invoke("a cat")
(block,) = [block for block in answer.content_blocks if block["type"] == "image"]
save("responses draws", base64.b64decode(block["base64"]))
done()
