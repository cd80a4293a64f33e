"""Environments of other people's clients: made once from their packages, kept outside this repository.

A folder below $DEEPGEN_CLIENTS (default ~/.cache/deepgen/clients) is named by what is in it, so that other
versions get another folder. Any of them can be deleted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent / "serving" / "clients"
CACHE = Path(os.environ.get("DEEPGEN_CLIENTS") or Path.home() / ".cache" / "deepgen" / "clients")
# Without what would lead a client to our own packages, or to a server elsewhere.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OPENAI_BASE_URL")},
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
    "NODE_USE_ENV_PROXY": "0",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # which it otherwise fetches at every start
}


def python_environment(name: str) -> Path:
    """The Python that has what `NAME.txt` lists; skips the test where that cannot be installed."""
    requirements = SCRIPTS / f"{name}.txt"
    folder = _folder(name, requirements.read_text() + sys.version)
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        _install([str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], folder)
    return python


def node_folder() -> Path:
    """A folder with the JavaScript clients and the scripts beside them, where Node finds both."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    package = SCRIPTS / "package.json"
    folder = _folder("node", package.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(package, folder)
    if not (folder / "complete").exists():
        _install(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)], folder)
    for script in SCRIPTS.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


def _folder(name: str, content: str) -> Path:
    return CACHE / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:10]}"


def _install(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=900)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        pytest.skip(f"{' '.join(command)}: {said[-1] if said else 'failed'}")
    (folder / "complete").touch()
