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
from deepgen.client import Client, RequestFailed
from deepgen.pipeline import DeepGenPipeline
from deepgen.serving.gradio_app import draw, make_ui, size_of
from deepgen.serving.local import serve_locally

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
    ):
        assert main(["ui", *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "size"),
    [("model's own", None), ("square", "512x512"), ("wide", "576x384"), ("tall", "384x576")],
)
def test_shapes_keep_to_the_models_units_and_longest_side(shape: str, size: str | None) -> None:
    assert size_of(shape, MODEL) == size


def test_the_app_draws_with_previews_and_edits(client: Client, image: Image.Image) -> None:
    model = client.model()
    nothing = (None, None, None, "")
    shown = list(draw(client, model, "a red circle", None, "model's own", 2, 3, 4, None, ""))
    captions = [[caption for _, caption in images] for images, _ in shown]
    assert ["preview", "preview"] in captions
    assert captions[-1] == ["seed 3", "seed 4"]
    assert shown[-1][1] == "Done"
    assert any(said == "Step 2 of 4" for _, said in shown)
    (edited,) = list(draw(client, model, "blue", [(image, None)], "model's own", 1, *nothing))[-1][0]
    assert edited[0].size == image.size
    with pytest.raises(ValueError, match="Say what"):
        list(draw(client, model, " ", None, "square", 1, *nothing))
    with pytest.raises(RequestFailed, match="between"):
        list(draw(client, model, "a", None, "square", 1, None, 100_000, None, ""))


@pytest.mark.slow
def test_the_gradio_app_answers_its_own_client(client: Client) -> None:
    pytest.importorskip("gradio")
    from gradio_client import Client as Visitor  # pyright: ignore[reportMissingImports]  # an extra

    ui = make_ui(client)
    _, url, _ = ui.launch(prevent_thread_lock=True, quiet=True)
    try:
        visitor = Visitor(url, verbose=False)
        asked = ["a red circle", [], "square", 1, 5, 2, None, ""]
        images, said = visitor.predict(*asked, api_name="/draw")
        assert said == "Done"
        assert images[0]["caption"] == "seed 5"
        with pytest.raises(Exception, match="Say what to draw"):
            visitor.predict(" ", *asked[1:], api_name="/draw")
    finally:
        ui.close(verbose=False)
