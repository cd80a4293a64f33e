"""`deepgen ui`: which server's page is opened, and the Gradio app on the same API."""

from __future__ import annotations

import time
import webbrowser
from collections.abc import Iterator
from typing import Any

import pytest
from PIL import Image

from deepgen.cli.app import main
from deepgen.cli.serve import Serve
from deepgen.cli.ui import Ui
from deepgen.client import Client, RequestFailed
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.gradio_app import LABELS, draw, size_of
from deepgen.serving.local import serve_locally
from deepgen.serving.schema import ImageGenerationRequest
from serve_process import free_port

MODEL = {"id": "m", "defaults": {"width": 512, "height": 512}, "size_unit": 16, "max_side": 576}


@pytest.fixture
def client(pipe: DeepGenPipeline) -> Iterator[Client]:
    with serve_locally(pipe) as client:
        yield client


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []

    def open_(url: str) -> bool:
        opened.append(url)
        return True

    monkeypatch.setattr(webbrowser, "open", open_)
    return opened


def test_the_page_of_a_running_server_is_opened(
    client: Client, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Serve, "run", lambda self: pytest.fail("a second server was started"))
    port = client.url.rpartition(":")[2]
    assert main(["ui", "--port", port]) == 0
    assert opened == [client.url]
    assert main(["ui", "--port", port, "--no-browser"]) == 0
    assert len(opened) == 1


def test_a_server_is_started_where_none_runs_and_then_its_page_is_opened(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, pipe: DeepGenPipeline
) -> None:
    answers = [False, False, True]
    monkeypatch.setattr(Client, "is_ready", lambda self: answers.pop(0))

    def serve(self: Any) -> int:
        until = time.monotonic() + 10
        while not opened:
            assert time.monotonic() < until
            time.sleep(0.01)
        return 0

    monkeypatch.setattr(Serve, "run", serve)
    assert main(["ui", "tiny", "--host", "0.0.0.0", "--port", "8123"]) == 0
    assert opened == ["http://127.0.0.1:8123"]


def test_options_that_cannot_work_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        (["--port", "0"], "--port 0"),
        (["--gradio", "--host", "0.0.0.0"], "asks for no key"),
        (["--gradio", "--api-key-file", "keys.txt"], "leave out --api-key-file"),
        (["--gradio", "--workers", "2"], "--workers 2"),
    ):
        assert main(["ui", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_the_gradio_app_draws_by_the_servers_options() -> None:
    """Options of `serve` hold in the app too, while its key and names are its own."""
    ui = Ui(max_steps=3, preset="fast", name="mine", origin=("https://example.org",), port=free_port())
    with ui._client(Client(f"http://127.0.0.1:{ui.port}")) as client:
        model = client.model()
        assert (model["id"], model["preset"]) == ("mine", "fast")
        with pytest.raises(RequestFailed, match="3"):
            client.generate("a red circle", num_inference_steps=4)
    bad = Ui(max_steps=0, port=free_port())
    with (
        pytest.raises(ValueError, match="--max-steps must be at least 1"),
        bad._client(Client(f"http://127.0.0.1:{bad.port}")),
    ):
        pass


@pytest.mark.parametrize(
    ("shape", "size"),
    [("model's own", None), ("square", "512x512"), ("wide", "576x384"), ("tall", "384x576")],
)
def test_shapes_keep_to_the_models_units_and_longest_side(shape: str, size: str | None) -> None:
    assert size_of(shape, MODEL) == size


def test_the_app_draws_with_previews_and_edits(client: Client, image: Image.Image) -> None:
    model = client.model()
    asked = list(draw(client, model, "a red circle", n=2, seed="3", num_inference_steps=" 4 "))
    captions = [[caption for _, caption in images] for images, _ in asked]
    assert ["preview", "preview"] in captions
    assert captions[-1] == ["seed 3", "seed 4"]
    assert asked[-1][1] == "Done"
    assert any(said == "Step 2 of 4" for _, said in asked)
    (edited,) = list(draw(client, model, "blue", [(image, None)]))[-1][0]
    assert edited[0].image.size == image.size
    with pytest.raises(ValueError, match="Say what"):
        list(draw(client, model, " ", shape="square"))


@pytest.mark.parametrize("empty", [None, "", "  "])
def test_an_empty_box_of_the_app_is_left_to_the_server(client: Client, empty: str | None) -> None:
    boxes = dict.fromkeys(set(LABELS) - {"prompt"}, empty)
    seeds = {list(draw(client, client.model(), "a", **boxes))[-1][0][0][1] for _ in range(3)}
    assert len(seeds) == 3, "the seed is the same each time"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("num_inference_steps", "100000", "num_inference_steps must be between 1 and 200"),
        ("num_inference_steps", "2.5", "num_inference_steps must be a whole number"),
        ("guidance_scale", "a lot", "guidance_scale must be a number"),
        ("seed", "-1", "seed must be between 0 and"),
        ("preset", "best", "unknown preset 'best'"),
    ],
)
def test_what_stands_in_a_box_of_the_app_is_judged_by_the_server(
    client: Client, name: str, text: str, message: str
) -> None:
    with pytest.raises(RequestFailed, match=message):
        list(draw(client, client.model(), "a", **{name: text}))


def test_the_boxes_of_the_app_are_fields_of_the_schema() -> None:
    assert set(LABELS) <= set(ImageGenerationRequest.model_fields)
