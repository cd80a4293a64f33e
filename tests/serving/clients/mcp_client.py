"""The official MCP client: over the standard streams of `deepgen mcp`, and over HTTP."""

import asyncio
import base64
import json
import os
import sys

from common import done, save
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client


async def draws_and_edits(kind, streams):
    read, write = streams[:2]
    async with ClientSession(read, write) as session:
        await session.initialize()
        tools = {tool.name for tool in (await session.list_tools()).tools}
        assert tools >= {"generate_image", "edit_image"}, tools
        drawn = await session.call_tool("generate_image", {"prompt": "a cat", "seed": 1})
        picture, text = drawn.content[:2]
        save(f"{kind} draws", base64.b64decode(picture.data))
        name = text.text.partition(":")[0]
        asked = {"prompt": "replace the cat with a dog", "image": [name], "seed": 1}
        edited = await session.call_tool("edit_image", asked)
        save(f"{kind} edits", base64.b64decode(edited.content[0].data))


async def main():
    command = json.loads(os.environ["DEEPGEN_MCP_COMMAND"])
    environment = json.loads(os.environ["DEEPGEN_MCP_ENVIRONMENT"])
    server = StdioServerParameters(command=command[0], args=command[1:], env=environment)
    async with stdio_client(server, errlog=sys.stderr) as streams:
        await draws_and_edits("stdio", streams)
    async with streamable_http_client(os.environ["DEEPGEN_MCP_URL"]) as streams:
        await draws_and_edits("http", streams)


asyncio.run(main())
done()
