"""The distribution's name, its extras, and the one sentence that says how to install one.

The distribution is called `deepgen-image`, because `deepgen` on PyPI is another package; the import and the
command are `deepgen`. Where the distribution is installed, pip finds it and adds the packages. Where it
is not (a clone on PYTHONPATH, or one installed under its earlier name), pip would look for it in an index, so
the hint names the clone's folder instead.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Literal

DISTRIBUTION = "deepgen-image"

Extra = Literal[
    "train",
    "images",
    "rl",
    "eval",
    "serve",
    "trace",
    "ui",
    "mcp",
    "c2pa",
    "quant",
    "tensorboard",
    "trackio",
    "wandb",
]

_CLONE = Path(__file__).parents[2]


def install_hint(extra: Extra) -> str:
    """The command that installs an extra into this Python, such as `pip install 'deepgen-image[serve]'`."""
    if not _is_installed() and (_CLONE / "pyproject.toml").is_file():
        return f"pip install -e '{_CLONE}[{extra}]'"
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def core_hint(*, again: bool = False) -> str:
    """The command that installs what is always needed; with `again` our own files, and only those."""
    is_clone = not _is_installed() and (_CLONE / "pyproject.toml").is_file()
    what = f"-e '{_CLONE}'" if is_clone else DISTRIBUTION
    return f"pip install --force-reinstall --no-deps {what}" if again else f"pip install {what}"


def missing_extra(needs: str, extra: Extra, error: ImportError | None = None) -> ModuleNotFoundError:
    """The error to raise where a package of an extra cannot be imported.

    Args:
        needs: what needs which package, such as "serving needs FastAPI".
        extra: the extra that brings it.
        error: what the import said; it may name a package behind the one that was asked for.
    """
    said = "" if error is None else f" ({error})"
    return ModuleNotFoundError(f"{needs}: {install_hint(extra)}{said}")


def _is_installed() -> bool:
    try:
        metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return False
    return True
