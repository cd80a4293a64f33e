"""Preset turbo through every door: four passes, no negative branch, and the picture of the pipeline."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from comfyui_host import beside_a_host
from deepgen.cli import drawing, main
from deepgen.client import Client
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.gradio_app import draw
from deepgen.serving.local import serve_locally
from deepgen.serving.mcp_tools import Folders, Painter

PROMPT, INSTRUCTION = "a red circle above a blue square", "make the circle green"
ASKED: dict[str, Any] = {"seed": 1, "preset": "turbo"}


@pytest.fixture(scope="module")
def tiny() -> DeepGenPipeline:
    pipe = DeepGenPipeline.from_pretrained("shapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def expected(tiny: DeepGenPipeline) -> np.ndarray:
    return pixels(tiny(PROMPT, **ASKED).images[0])


@pytest.fixture(scope="module")
def edited(tiny: DeepGenPipeline, expected: np.ndarray) -> np.ndarray:
    source = Image.fromarray(expected.astype(np.uint8))
    return pixels(tiny(INSTRUCTION, image=source, **ASKED).images[0])


@pytest.fixture(scope="module")
def client(tiny: DeepGenPipeline, edited: np.ndarray) -> Iterator[Client]:
    """Of a server whose pipeline has drawn with preset turbo before."""
    with serve_locally(tiny) as client:
        yield client


@pytest.fixture
def own() -> DeepGenPipeline:
    """For doors that use a pipeline themselves, which a server's is not for."""
    pipe = DeepGenPipeline.from_pretrained("shapes")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def rows(tiny: DeepGenPipeline, own: DeepGenPipeline) -> Iterator[list[int]]:
    """Rows of each call of either DiT, as long as the test lasts."""
    found: list[int] = []
    hooks = [
        pipe.transformer.register_forward_pre_hook(
            lambda _module, _args, given: found.append(len(given["hidden_states"])), with_kwargs=True
        )
        for pipe in (tiny, own)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image.convert("RGB"), int)


def same(made: Any, expected: np.ndarray) -> bool:
    """Up to the rounding of a batch of another size."""
    return bool(np.abs(pixels(made) - expected).max() <= 2)


def drawn_by(door: str, own: DeepGenPipeline, client: Client, monkeypatch: pytest.MonkeyPatch) -> Image.Image:
    if door == "command line":
        monkeypatch.setattr(drawing, "load_pipeline", lambda options: own)
        assert main(["generate", PROMPT, "--preset", "turbo", "--seed", "1"]) == 0
        return Image.open("out.png")
    if door == "client":
        return client.generate(PROMPT, **ASKED)[0].image
    if door == "chat":
        body = {**ASKED, "messages": [{"role": "user", "content": PROMPT}]}
        headers = {"authorization": f"Bearer {client._key}"}
        answer = httpx.post(
            client.url + "/v1/chat/completions", headers=headers, json=body, timeout=60, trust_env=False
        )
        assert answer.status_code == 200, answer.text
        address = answer.json()["choices"][0]["message"]["images"][0]["image_url"]["url"]
        return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    if door == "tools for agents":
        painter = Painter(lambda: client, Folders(read_from=[Path()]))
        [(made, _)] = painter.draw(PROMPT, None, {"n": 1, **ASKED}, lambda *_: None, threading.Event())
        return made.image
    if door == "Gradio":
        shown = list(draw(client, client.model(), PROMPT, None, seed="1", preset="turbo"))[-1][0]
        return shown[0][0].image
    assert door == "ComfyUI"
    nodes = beside_a_host(monkeypatch, "nodes_of_turbo")
    made, _ = nodes.DeepGenGenerate().generate(nodes.Model(own), PROMPT, 1, preset="turbo")
    return Image.fromarray((made[0] * 255).round().byte().numpy())


DOORS = ("command line", "client", "chat", "tools for agents", "Gradio", "ComfyUI")


@pytest.mark.parametrize("door", DOORS)
def test_every_door_draws_in_four_passes_what_the_pipeline_draws(
    door: str,
    own: DeepGenPipeline,
    client: Client,
    expected: np.ndarray,
    rows: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert same(drawn_by(door, own, client, monkeypatch), expected)
    assert rows == [1] * 4


def test_edits_of_the_server_and_of_comfyui_take_four_passes_too(
    own: DeepGenPipeline,
    client: Client,
    expected: np.ndarray,
    edited: np.ndarray,
    rows: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Image.fromarray(expected.astype(np.uint8))
    assert same(client.edit(INSTRUCTION, source, **ASKED)[0].image, edited)
    image = torch.from_numpy(expected.astype(np.float32) / 255)[None]
    nodes = beside_a_host(monkeypatch, "nodes_of_turbo")
    made, _ = nodes.DeepGenEdit().edit(nodes.Model(own), image, INSTRUCTION, 1, preset="turbo")
    assert same(Image.fromarray((made[0] * 255).round().byte().numpy()), edited)
    assert rows == [1] * 8


def test_the_page_offers_what_the_model_can_and_no_more(client: Client, pipe: DeepGenPipeline) -> None:
    """Its list of presets is the server's (page/model.js)."""
    assert client.model()["presets"]["turbo"] == 4
    with serve_locally(pipe) as plain:  # random weights, which nobody distilled
        assert "turbo" not in plain.model()["presets"]
