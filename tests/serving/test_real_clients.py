"""Other people's clients, from their own packages, against a real server process of the small model.

Each is a script in tests/serving/clients that runs in an environment of its own (`client_environments.py`)
and knows nothing of deepgen. What it draws is opened here: a cat, and that cat turned into a dog.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from client_environments import ENVIRONMENT, SCRIPTS, node_folder, python_environment
from deepgen.serving.openai_fields import CHAT_IGNORED, ITEMS_IGNORED, MESSAGE_IGNORED, RESPONSES_IGNORED
from deepgen.tiny.read import read
from serve_process import ENVIRONMENT as ENVIRONMENT_OF_SERVERS
from serve_process import ROOT, listening, serving

PAGE = ROOT / "docs" / "clients.md"
IN_CHAT = {"shows", "chat edits"}
DOES = {
    "openai": {"draws", "edits", "responses draws", "responses edits", *IN_CHAT},
    "openai_js": {"draws", "edits", "responses draws", "responses edits", *IN_CHAT},
    "litellm": {"draws", "draws at the model's size", "edits", "responses draws", *IN_CHAT},
    "langchain": {"image tool draws", "edits", "responses draws", *IN_CHAT},
    "ai_sdk": {
        *("draws", "edits", "draws by the provider for OpenAI", *IN_CHAT),
        *("responses shows", "responses draws", "responses stream draws"),
    },
    "llm": {"edits", *IN_CHAT},
    "mcp": {"stdio draws", "stdio edits", "http draws", "http edits"},
}
# Where a client sends no seed, the picture is another one each time.
UNSEEDED = {
    "langchain": {"image tool draws"},
    "ai_sdk": {
        *("draws by the provider for OpenAI", "responses shows", "responses draws"),
        "responses stream draws",
    },
}
SIDES = {("litellm", "draws"): 1024, ("langchain", "image tool draws"): 1024, ("ai_sdk", "draws"): 512}
SIDES[("ai_sdk", "edits")] = 512  # as its source


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


def check(client: str, folder: Path) -> None:
    """Every picture is there, of its size, and shows what was asked for."""
    assert (folder / "done").exists()
    assert {path.stem for path in folder.glob("*.png")} == DOES[client]
    for path in folder.glob("*.png"):
        image = Image.open(path)
        assert image.size == (SIDES.get((client, path.stem), 96),) * 2, path.stem
        if path.stem in UNSEEDED.get(client, ()):
            assert np.asarray(image.convert("RGB"), int).std() > 5, path.stem
            continue
        found = read(image.convert("RGB").resize((96, 96), Image.Resampling.BOX))
        assert [thing.noun for thing in found.things] == ["dog" if "edits" in path.stem else "cat"], path.stem


def run(command: list[str], folder: Path, where: Path, **environment: str) -> None:
    environment = {**ENVIRONMENT, "DEEPGEN_PICTURES": str(folder), **environment}
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("client", ["openai", "litellm", "langchain", "llm"])
def test_a_python_client_draws_edits_and_shows(client: str, url: str, tmp_path: Path) -> None:
    python = python_environment(client)
    run([str(python), f"{client}_client.py"], tmp_path, SCRIPTS, DEEPGEN_URL=url)
    check(client, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("client", ["openai_js", "ai_sdk"])
def test_a_javascript_client_draws_edits_and_shows(client: str, url: str, tmp_path: Path) -> None:
    folder = node_folder()
    run(["node", f"{client}_client.mjs"], tmp_path, folder, DEEPGEN_URL=url)
    check(client, tmp_path)


@pytest.mark.slow
def test_the_official_mcp_client_draws_and_edits_over_both_transports(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = python_environment("mcp")
    # The server has the extra `mcp` from the client's environment, the rest from this one.
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    path = f"{ROOT / 'src'}:{packages}"
    monkeypatch.setitem(ENVIRONMENT_OF_SERVERS, "PYTHONPATH", path)
    asked = ["mcp", "--url", url]
    with listening([*asked, "--http", "--port", "0"], r"tools on (http://\S+)") as (http, _):
        run(
            [str(python), "mcp_client.py"],
            tmp_path,
            SCRIPTS,
            DEEPGEN_URL=url,
            DEEPGEN_MCP_URL=http,
            DEEPGEN_MCP_COMMAND=json.dumps([sys.executable, "-m", "deepgen", *asked]),
            DEEPGEN_MCP_ENVIRONMENT=json.dumps({"PYTHONPATH": path}),
        )
    check("mcp", tmp_path)


# --- docs/clients.md ----------------------------------------------------------------------------------------


def pins() -> dict[str, str]:
    """Package -> the version that is tested."""
    found = dict(json.loads((SCRIPTS / "package.json").read_text())["dependencies"])
    found["openai (JavaScript)"] = found.pop("openai")
    for path in SCRIPTS.glob("*.txt"):
        found |= dict(line.split("==") for line in path.read_text().splitlines())
    return found


def test_the_page_names_the_versions_that_are_tested() -> None:
    text = PAGE.read_text()
    rows = dict(re.findall(r"^\| `([^`|]+)`[^|]*\| ([\d.]+) \|", text, re.MULTILINE))
    assert rows == pins()


@pytest.mark.parametrize(
    ("heading", "names"),
    [
        ("A chat", CHAT_IGNORED),
        ("A message", MESSAGE_IGNORED),
        ("A response", RESPONSES_IGNORED),
        ("An item", ITEMS_IGNORED),
    ],
)
def test_the_page_lists_what_is_ignored(heading: str, names: frozenset[str]) -> None:
    (row,) = re.findall(rf"^\| {heading}[^|]*\| (.*) \|$", PAGE.read_text(), re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", row)) == names
