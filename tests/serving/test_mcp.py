"""Tools for agents, through the SDK's own client: in memory, over stdio and over HTTP."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from deepgen.cli.app import main
from deepgen.client import Client, DrawnImage, Patience
from deepgen.data.png import read_record
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.local import serve_locally
from deepgen.serving.mcp_tools import MAX_IMAGES, Folders, Painter, make_tools
from serve_process import CLAIM, ENVIRONMENT, listening, serving, started

pytest.importorskip("mcp.server.mcpserver", reason="tools for agents need mcp 2")

import anyio
import httpx2  # pyright: ignore[reportMissingImports]  # the SDK's own
from mcp import Client as Agent  # pyright: ignore[reportMissingImports]  # an extra
from mcp import StdioServerParameters  # pyright: ignore[reportMissingImports]  # an extra
from mcp.client.stdio import stdio_client  # pyright: ignore[reportMissingImports]  # an extra
from mcp.client.streamable_http import streamable_http_client  # pyright: ignore[reportMissingImports]

Talk = Callable[[Any], Any]


def images_of(result: Any) -> list[Image.Image]:
    assert not result.is_error, result.content
    opened = []
    for part in result.content[::2]:
        assert (part.type, part.mime_type) == ("image", "image/png")
        opened.append(Image.open(io.BytesIO(base64.b64decode(part.data))))
    return opened


def names_of(result: Any) -> list[str]:
    return [part.text.partition(":")[0] for part in result.content[1::2]]


@pytest.fixture
def client(pipe: DeepGenPipeline) -> Iterator[Client]:
    with serve_locally(pipe) as client:
        yield client


def talk(painter: Painter, work: Talk) -> None:
    async def run() -> None:
        async with Agent(make_tools(painter)) as agent:
            await work(agent)

    anyio.run(run)


def test_an_agent_draws_and_edits_by_name(client: Client, pipe: DeepGenPipeline) -> None:
    heard: list[tuple[float, float | None]] = []

    async def progress(done: float, total: float | None, message: str | None) -> None:
        heard.append((done, total))

    async def work(agent: Any) -> None:
        tools = {tool.name: tool for tool in (await agent.list_tools()).tools}
        assert set(tools) == {"generate_image", "edit_image"}
        assert tools["edit_image"].input_schema["required"] == ["prompt", "image"]
        assert "context" not in tools["generate_image"].input_schema["properties"]
        drawn = await agent.call_tool(
            "generate_image", {"prompt": "a red circle", "seed": 3, "n": 2}, progress_callback=progress
        )
        assert [image.size for image in images_of(drawn)] == [(64, 64)] * 2
        assert drawn.content[1].text.endswith("64x64, seed 3")
        edited = await agent.call_tool(
            "edit_image", {"prompt": "make it blue", "images": names_of(drawn), "size": "32x64", "seed": 1}
        )
        assert [image.size for image in images_of(edited)] == [(32, 64)]

    talk(Painter(lambda: client), work)
    assert heard[-1] == (2, 2)


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("generate_image", {"prompt": "a", "size": "4096x16"}, "is too large"),
        ("generate_image", {"prompt": "x" * 9000}, r"field prompt\) \[req-"),
        ("generate_image", {}, "prompt"),
        ("generate_image", {"prompt": "a", "n": MAX_IMAGES + 1}, f"n must be between 1 and {MAX_IMAGES}"),
        ("edit_image", {"prompt": "a", "images": []}, "image must be a list of 1 to 16"),
        ("edit_image", {"prompt": "a", "images": ["/etc/passwd"]}, "started without --read-from"),
        ("edit_image", {"prompt": "a", "images": ["http://10.0.0.1/a.png"]}, "no file"),
        ("edit_image", {"prompt": "a", "images": ["data:image/png;base64,AAAA"]}, "field image"),
    ],
)
def test_a_refusal_tells_the_agent_what_to_do(
    client: Client, tool: str, arguments: dict[str, Any], message: str
) -> None:
    async def work(agent: Any) -> None:
        result = await agent.call_tool(tool, arguments)
        assert result.is_error
        assert re.search(message, result.content[0].text)

    talk(Painter(lambda: client), work)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"n": "2"}, "n"),
        ({"n": True}, "n"),
        ({"seed": 1.5}, "seed"),
        ({"guidance_scale": "4"}, "guidance_scale"),
        ({"guidance_scale": 101}, "guidance_scale"),
        ({"prompt": 3}, "prompt"),
        ({"preset": "slow"}, "preset"),
        ({"size": "big"}, "size"),
        ({"size": "64x64", "height": 64}, "size"),
        ({"num_inference_step": 4}, "num_inference_step"),
    ],
)
def test_what_http_refuses_is_refused_with_the_same_words(
    client: Client, given: dict[str, Any], field: str
) -> None:
    fields = {"prompt": "a red circle", **given}
    answer = httpx.post(
        f"{client.url}/v1/images/generations",
        json=fields,
        headers={"authorization": f"Bearer {client._key}"},
        trust_env=False,
    )
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == field

    async def work(agent: Any) -> None:
        result = await agent.call_tool("generate_image", fields)
        assert result.is_error
        said = result.content[0].text
        if error["code"] == "unknown_parameter":  # the tools know fewer fields
            assert said.startswith(error["message"].partition(";")[0])
        else:
            assert said == error["message"]

    talk(Painter(lambda: client), work)


def test_null_and_a_whole_number_with_a_point_are_taken_as_over_http(client: Client) -> None:
    async def work(agent: Any) -> None:
        drawn = await agent.call_tool("generate_image", {"prompt": "a", "n": None, "seed": 3.0, "size": None})
        assert drawn.content[1].text.endswith("64x64, seed 3")

    talk(Painter(lambda: client), work)


def test_the_schemas_of_the_tools_allow_no_other_argument(client: Client) -> None:
    async def work(agent: Any) -> None:
        for tool in (await agent.list_tools()).tools:
            assert tool.input_schema["additionalProperties"] is False
            unknown = await agent.call_tool(tool.name, {"prompt": "a", "image": ["a.png"], "quality": "hd"})
            assert unknown.is_error
            assert unknown.content[0].text.startswith("unknown field '")

    talk(Painter(lambda: client), work)


def test_an_answer_is_no_longer_than_the_official_client_takes(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is 1 MiB a message over HTTP; the whole picture is kept by name and as a file."""
    content = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)).save(content, "PNG")
    noise = [DrawnImage(content.getvalue(), seed, "900x700", index) for index, seed in enumerate((5, 6))]
    monkeypatch.setattr(Client, "stream", lambda self, *args, **fields: iter(noise))

    async def work(agent: Any) -> None:
        drawn = await agent.call_tool("generate_image", {"prompt": "a", "n": 2})
        assert not drawn.is_error
        shown = [part for part in drawn.content if part.type == "image"]
        assert [part.mime_type for part in shown] == ["image/jpeg"] * 2
        assert sum(len(part.data) for part in shown) < 1_000_000
        for said in names_of(drawn):
            assert (tmp_path / f"{said}.png").read_bytes() == content.getvalue()
        assert all("shown as a JPEG" in part.text for part in drawn.content[1::2])

    talk(Painter(lambda: client, Folders(save_to=tmp_path)), work)


def test_an_empty_prompt_draws(client: Client) -> None:
    async def work(agent: Any) -> None:
        result = await agent.call_tool("generate_image", {"prompt": ""})
        assert not result.is_error

    talk(Painter(lambda: client), work)


def test_a_server_that_is_gone_and_a_model_that_does_not_load_are_told(tmp_path: Path) -> None:
    def no_model() -> Client:
        raise OSError("there is no model at nowhere")

    async def gone(agent: Any) -> None:
        result = await agent.call_tool("generate_image", {"prompt": "a"})
        assert result.is_error
        assert "does not answer" in result.content[0].text

    async def unloaded(agent: Any) -> None:
        result = await agent.call_tool("generate_image", {"prompt": "a"})
        assert result.is_error
        assert "no model at nowhere" in result.content[0].text

    talk(Painter(lambda: Client("http://127.0.0.1:9", patience=Patience(retries=0))), gone)
    talk(Painter(no_model), unloaded)


def test_files_are_read_and_written_only_where_it_is_allowed(client: Client, tmp_path: Path) -> None:
    inside, outside, drawn = tmp_path / "in", tmp_path / "out", tmp_path / "drawn"
    for folder in (inside, outside, drawn):
        folder.mkdir()
        Image.new("RGB", (64, 64), "red").save(folder / "a.png")
    (inside / "link.png").symlink_to(outside / "a.png")
    folders = Folders(save_to=drawn, read_from=[inside])

    async def work(agent: Any) -> None:
        for name in ("a.png", str(inside / "a.png"), str(drawn / "a.png")):
            result = await agent.call_tool("edit_image", {"prompt": "blue", "images": [name], "seed": 1})
            assert len(images_of(result)) == 1
            path = Path(result.content[1].text.partition("saved as ")[2])
            assert path.parent == drawn
            record = read_record(path)
            assert record is not None
            assert record.seed == 1
        mask = Image.new("RGBA", (64, 64), "red")
        mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
        mask.save(inside / "mask.png")
        asked = {"prompt": "blue", "images": ["a.png"], "mask": "mask.png", "seed": 1}
        (made,) = images_of(await agent.call_tool("edit_image", asked))
        assert made.convert("RGB").getpixel((40, 5)) == (255, 0, 0)
        asked["mask"] = "gone.png"
        assert (await agent.call_tool("edit_image", asked)).is_error
        for name in (str(outside / "a.png"), "../out/a.png", "link.png", "/etc/passwd", "none.png"):
            result = await agent.call_tool("edit_image", {"prompt": "blue", "images": [name]})
            assert result.is_error
            assert "no file" in result.content[0].text

    talk(Painter(lambda: client, folders), work)
    with pytest.raises(ValueError, match="is no folder"):
        Folders(save_to=tmp_path / "none")


def test_an_agent_hears_what_was_cut_of_its_prompt(client: Client, pipe: DeepGenPipeline) -> None:
    pipe.max_prompt_tokens = 6

    async def work(agent: Any) -> None:
        drawn = await agent.call_tool("generate_image", {"prompt": "a red circle on a tree", "seed": 3})
        assert "prompt has " in drawn.content[1].text
        assert "max_prompt_tokens is 6: only its first" in drawn.content[1].text
        assert len(images_of(await agent.call_tool("generate_image", {"prompt": ""}))) == 1

    talk(Painter(lambda: client), work)


def test_a_painter_whose_agent_left_stops_the_server(client: Client) -> None:
    left = threading.Event()

    def tell(done: float, total: float) -> None:
        left.set()

    painter = Painter(lambda: client)
    assert painter.draw("a", None, {"n": 1, "num_inference_steps": 200}, tell, left) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--http", "--host", "0.0.0.0"], "other machines"),
        (["--api-key-file", "keys.txt"], "is for --http"),
        (["--http", "--port", "70000"], "between 0 and 65535"),
        (["--save-to", "/nowhere/at/all"], "is no folder"),
        (["--url", "localhost"], "http://"),
    ],
)
def test_a_bad_option_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["mcp", "tiny", *arguments]) == 2
    assert message in capsys.readouterr().err


async def draw_once(agent: Any) -> Any:
    result = await agent.call_tool("generate_image", {"prompt": "a red circle", "seed": 1})
    (image,) = images_of(result)
    image.load()
    return image


@pytest.mark.slow
def test_over_stdio_a_model_is_loaded_and_draws() -> None:
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "deepgen", "mcp", "tiny"], env=ENVIRONMENT
    )

    async def run() -> None:
        async with Agent(stdio_client(command)) as agent:
            assert (await draw_once(agent)).size == (96, 96)

    anyio.run(run)


@pytest.mark.slow
def test_over_http_with_a_key_a_running_server_draws(tmp_path: Path) -> None:
    key = "0123456789abcdef"
    (tmp_path / "keys.txt").write_text(f"anna:{key}\n")

    async def run(url: str) -> None:
        headers = {"authorization": f"Bearer {key}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=60) as http,
            Agent(streamable_http_client(url, http_client=http)) as agent,
        ):
            assert (await draw_once(agent)).size == (96, 96)
        refused = httpx.post(url, json={}, headers={"authorization": "Bearer wrong"}, trust_env=False)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        for name, status in (("evil.example", 421), ("localhost", 400), ("images.example.org", 400)):
            asked = httpx.post(url, content="{", headers={**headers, "host": name}, trust_env=False)
            assert asked.status_code == status
        asked = httpx.post(
            url, json={}, headers={**headers, "origin": "http://evil.example"}, trust_env=False
        )
        assert asked.status_code == 403

    keys = ["--api-key-file", str(tmp_path / "keys.txt"), "--allowed-hosts", "images.example.org"]
    with (
        serving() as server,
        listening(["mcp", "--url", server, "--http", "--port", "0", *keys], r"tools on (http://\S+)") as (
            url,
            _,
        ),
    ):
        anyio.run(run, url)


def address(width: int, height: int) -> str:
    """A plain PNG of that size as a `data:` address; its file is small however large it is."""
    content = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


@pytest.mark.slow
def test_over_http_pictures_and_bodies_keep_to_the_budget() -> None:
    """The same limits as over HTTP's own routes: pixels before they are decoded, and bytes on their way."""
    with started("mcp", "tiny", "--http", pattern=r"tools on (http://\S+)") as server:
        process = psutil.Process(server.process.pid)
        peak, is_on = [0], threading.Event()

        def watch() -> None:
            while not is_on.wait(0.02):
                peak[0] = max(peak[0], process.memory_info().rss)

        async def run() -> None:
            async with Agent(streamable_http_client(server.url)) as agent:
                await draw_once(agent)
                threading.Thread(target=watch, daemon=True).start()
                eight = {
                    "prompt": "make it blue",
                    "image": [address(8000, 8000)] * 8,
                    "num_inference_steps": 1,
                }
                answer = await agent.call_tool("edit_image", eight)
                assert (answer.is_error, answer.content[0].mime_type) == (False, "image/jpeg")
                assert "shown as a JPEG" in answer.content[1].text
                long = {"prompt": "a", "image": [f"data:image/png;base64,{base64.b64encode(CLAIM).decode()}"]}
                refused = await agent.call_tool("edit_image", long)
                assert refused.is_error
                assert "64,000,000" in refused.content[0].text.replace("64000000", "64,000,000")

        anyio.run(run)
        is_on.set()
        assert peak[0] < 1_500_000_000

        def send(_: int) -> httpx.Response:
            body = b'{"jsonrpc": "2.0", "id": 1, "method": "' + b"x" * (60 << 20) + b'"}'
            headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
            return httpx.post(server.url, content=body, headers=headers, timeout=120, trust_env=False)

        with ThreadPoolExecutor(6) as pool:  # 60 MiB each, three times for JSON's copies; 256 MiB are held
            answers = list(pool.map(send, range(6)))
        assert {answer.status_code for answer in answers} <= {400, 404, 413, 429}
        assert 429 in {answer.status_code for answer in answers}
        assert all("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
        server.process.terminate()
        assert server.process.wait(60) == 0


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stdio", "http"])
def test_sigterm_ends_it_after_the_answer_with_exit_code_0(way: str, tmp_path: Path) -> None:
    """The process is our own child, so that its exit code is seen; over stdio it speaks plain JSON-RPC."""
    http = ["--http", "--port", "0"] if way == "http" else []
    command = [sys.executable, "-m", "deepgen", "mcp", "tiny", *http]
    call = {"prompt": "a red circle", "seed": 1, "num_inference_steps": 200}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    ) as process:
        try:
            draw, refused = (over_http if way == "http" else over_stdio)(process, call)
            said = draw()
            assert "picture-" in said
            assert refused is None or refused.status_code == 503
            assert process.wait(60) == 0
        finally:
            process.kill()


def over_stdio(process: subprocess.Popen[str], call: dict[str, Any]) -> tuple[Callable[[], str], None]:
    assert process.stdin is not None
    assert process.stdout is not None
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}

    def send(method: str, params: Any = None, number: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        message |= {} if number is None else {"id": number}
        assert process.stdin is not None
        process.stdin.write(json.dumps(message) + "\n")
        process.stdin.flush()

    def answer(number: int) -> str:
        assert process.stdout is not None
        return next(line for line in process.stdout if json.loads(line).get("id") == number)

    send("initialize", about, 1)
    answer(1)
    send("notifications/initialized")
    asked = {"name": "generate_image", "arguments": {**call, "num_inference_steps": 1}}
    send("tools/call", asked, 2)
    assert "picture-" in answer(2)  # the model is there
    send("tools/call", {"name": "generate_image", "arguments": call}, 3)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    return lambda: answer(3), None


def over_http(
    process: subprocess.Popen[str], call: dict[str, Any]
) -> tuple[Callable[[], str], httpx.Response]:
    assert process.stderr is not None
    found = (re.search(r"tools on (http://\S+)", line) for line in process.stderr)
    url = next(match[1] for match in found if match)
    threading.Thread(target=process.stderr.read, daemon=True).start()
    said: list[str] = []
    begun = threading.Event()

    async def progress(done: float, total: float | None, message: str | None) -> None:
        begun.set()

    async def run() -> None:
        async with Agent(streamable_http_client(url)) as agent:
            await agent.list_tools()  # as every agent does first; the client would ask after the call
            result = await agent.call_tool("generate_image", call, progress_callback=progress)
            said.append(result.content[1].text)

    def ask() -> None:
        with contextlib.suppress(ExceptionGroup, Exception):  # its good-bye is refused as all that is new
            anyio.run(run)

    thread = threading.Thread(target=ask)
    thread.start()
    assert begun.wait(60)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    refused = httpx.post(url, json={}, trust_env=False)
    assert refused.headers["retry-after"]

    def draw() -> str:
        thread.join(60)
        return said[0]

    return draw, refused
