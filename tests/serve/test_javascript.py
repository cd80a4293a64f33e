"""The official JavaScript client, and the page in headless Chromium, against a real server process.

Both are tests in JavaScript (tests/serve/js); what they need comes by `npm install --prefix tests/serve/js`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_process import serving

FOLDER = Path(__file__).parent / "js"
NEEDED = ("openai", "puppeteer-core", "axe-core")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.skipif(
        not all((FOLDER / "node_modules" / name).exists() for name in NEEDED),
        reason="npm install --prefix tests/serve/js",
    ),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving() as url:
        yield url


def run(file: str, url: str) -> None:
    """Every test of the file passes; `DEEPGEN_SHOTS` names a folder for pictures of the page."""
    command = ["node", "--test", "--test-reporter=spec", file]
    environment = {**os.environ, "DEEPGEN_URL": url, "NODE_USE_ENV_PROXY": "0"}
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_official_javascript_client_works_unmodified(url: str) -> None:
    run("client.test.mjs", url)


def test_the_page_does_what_people_ask_of_it_and_is_accessible(url: str) -> None:
    run("page.test.mjs", url)
