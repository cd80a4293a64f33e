"""The Gradio app in the newest Gradio 5 and 6, in headless Chromium and by Gradio's own client.

Each version lives in an environment of its own (below `.cache`, made where absent), because they ask for
older versions of packages that we share. What they do not bring comes from the environment of this test.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import javascript
from serve_process import ENVIRONMENT, ROOT, listening, serving

pytestmark = javascript.needs("puppeteer-core")

VERSIONS = ("gradio>=5,<6", "gradio>=6,<7")

# Draws by Gradio's own client, which takes the arguments by the names of the API's fields.
VISIT = """
import sys
from pathlib import Path
from gradio_client import Client
from gradio_client.exceptions import AppError
from deepgen.data.png import read_record

visitor = Client(sys.argv[1], verbose=False)
api = visitor.view_api(return_format="dict", print_info=False)["named_endpoints"]
known = [one["parameter_name"] for one in api["/draw"]["parameters"]]
asked = {"prompt": "a cat", "images": [], "shape": "square", "n": 1, "seed": "5", "preset": "exact",
         "num_inference_steps": "2", "guidance_scale": "", "negative_prompt": "",
         "keep_unchanged": False}
assert set(known) == set(asked), known
images, said = visitor.predict(**asked, api_name="/draw")
assert said == "Done", said
assert images[0]["caption"] == "seed 5", images
assert read_record(Path(images[0]["image"])).prompt == "a cat"
try:
    visitor.predict(**{**asked, "prompt": " "}, api_name="/draw")
except AppError as error:
    assert "Say what to draw" in str(error), error
else:
    raise AssertionError("an empty prompt drew")
assert set(api) == {"/draw", "/draw_by_key"}, set(api)
"""


@pytest.fixture(scope="module", params=VERSIONS)
def python(request: pytest.FixtureRequest) -> Path:
    """The interpreter of an environment with that Gradio."""
    folder = ROOT / ".cache" / request.param.partition(",")[0].replace(">=", "")
    found = folder / "bin" / "python"
    if (folder / "complete").exists():
        return found
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    (library,) = folder.glob("lib/python*/site-packages")
    # After its own packages, so that Gradio's are found first; a PYTHONPATH would come before them.
    (library / "zz_shared.pth").write_text(sysconfig.get_path("purelib"))
    command = [found, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", request.param]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution" in done.stderr or "onnection" in done.stderr:
        pytest.skip(f"no package index: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    brought = {path.name.partition("-")[0] for path in library.glob("*.dist-info")}
    assert not brought & {"torch", "torchvision"}, "Gradio brings another PyTorch"
    (folder / "complete").touch()
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of the small model, from this environment."""
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def app(python: Path, server: str) -> Iterator[tuple[str, list[str]]]:
    """(address of the app, its lines on stderr)."""
    command = ["ui", "tiny", "--gradio", "--no-browser", "--port", server.rpartition(":")[2]]
    with listening(command, r"the page is at (http://\S+)", python) as found:
        yield found


def test_the_app_does_in_a_browser_what_people_ask_of_it(app: tuple[str, list[str]], server: str) -> None:
    url, lines = app
    javascript.run("gradio.test.mjs", DEEPGEN_URL=url, DEEPGEN_SERVER=server)
    assert "Traceback" not in "".join(lines)


def test_the_app_answers_gradios_own_client(python: Path, app: tuple[str, list[str]]) -> None:
    command = [python, "-c", VISIT, app[0]]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_app_draws_with_a_model_of_its_own_where_no_server_runs(python: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = ["ui", "tiny", "--gradio", "--no-browser", "--port", port]
    with listening(command, r"the page is at (http://\S+)", python) as (url, lines):
        done = subprocess.run(
            [python, "-c", VISIT, url], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert any("loaded tiny" in line for line in lines)
