"""Tests in JavaScript (tests/serving/js); what they need comes by `npm install --prefix tests/serving/js`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "serving" / "js"


def needs(*packages: str) -> list[pytest.MarkDecorator]:
    """Marks of a slow test that asks for Node and these packages."""
    return [
        pytest.mark.slow,
        pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
        pytest.mark.skipif(
            not all((FOLDER / "node_modules" / name).exists() for name in packages),
            reason="npm install --prefix tests/serving/js",
        ),
    ]


def run(file: str, **environment: str) -> None:
    """Every test of the file passes; `DEEPGEN_SHOTS` names a folder for pictures of the page."""
    command = ["node", "--test", "--test-reporter=spec", file]
    environment = {**os.environ, **environment, "NODE_USE_ENV_PROXY": "0"}
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
