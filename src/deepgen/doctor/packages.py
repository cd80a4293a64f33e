"""Packages: which versions are here, which were tested, and which are installed and cannot be imported.

Versions are read from what pip wrote, without importing anything. Importing happens in a worker process.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from deepgen.extras import Extra


@dataclass(frozen=True)
class KnownPackage:
    """A package that DeepGen uses.

    Attributes:
        name: of its distribution.
        module: what is imported.
        least: the oldest version it works with; empty where any does.
        tested: the version it was tested with; empty where it was not.
        extra: that brings it; None of what is always needed.
    """

    name: str
    module: str
    least: str = ""
    tested: str = ""
    extra: Extra | None = None


# As pyproject.toml and constraints.txt say; tests/doctor/test_packages.py compares.
KNOWN = (
    KnownPackage("torch", "torch", "2.6", "2.13.0"),
    KnownPackage("transformers", "transformers", "5.23", "5.23.0"),
    KnownPackage("diffusers", "diffusers", "0.42", "0.42.1"),
    KnownPackage("accelerate", "accelerate", "1.15", "1.15.0"),
    KnownPackage("peft", "peft", "0.21", "0.21.2"),
    KnownPackage("safetensors", "safetensors", "0.5", "0.8.0"),
    KnownPackage("huggingface_hub", "huggingface_hub", "1.0", "2.4.0"),
    KnownPackage("httpx", "httpx", "0.27", "0.28.1"),
    KnownPackage("einops", "einops", "0.8", "0.8.2"),
    KnownPackage("numpy", "numpy", "1.26", "2.4.6"),
    KnownPackage("pillow", "PIL", "11.3", "13.0.0"),
    KnownPackage("psutil", "psutil", "5.9", "7.2.2"),
    KnownPackage("tqdm", "tqdm", "4.66", "4.70.1"),
    KnownPackage("tyro", "tyro", "0.9", "1.0.17"),
    KnownPackage("torchao", "torchao", "0.9", extra="quant"),
    KnownPackage("bitsandbytes", "bitsandbytes", "0.45", extra="quant"),
    KnownPackage("gguf", "gguf", "0.10", extra="quant"),
    KnownPackage("pyyaml", "yaml", "6", "6.0.3", "train"),
    KnownPackage("pyarrow", "pyarrow", "18", "26.0.1", "train"),
    KnownPackage("datasets", "datasets", "4", "5.2.0", "train"),
    KnownPackage("matplotlib", "matplotlib", "3.9", "3.11.2", "train"),
    KnownPackage("pillow-heif", "pillow_heif", "0.21", extra="images"),
    KnownPackage("pillow-jxl-plugin", "pillow_jxl", "1.3", extra="images"),
    KnownPackage("rapidocr", "rapidocr", "3", "3.10.0", "rl"),
    KnownPackage("onnxruntime", "onnxruntime", "1.20", "1.32.0", "rl"),
    KnownPackage("scipy", "scipy", "1.14", "1.17.1", "rl"),
    KnownPackage("fastapi", "fastapi", "0.115", "0.165.0", "serve"),
    KnownPackage("starlette", "starlette", "0.40", extra="serve"),
    KnownPackage("pydantic", "pydantic", "2.9", "2.14.4", "serve"),
    KnownPackage("uvicorn", "uvicorn", "0.34", "0.54.0", "serve"),
    KnownPackage("python-multipart", "python_multipart", "0.0.20", "0.0.34", "serve"),
    KnownPackage("prometheus-client", "prometheus_client", "0.21", "0.26.0", "serve"),
    KnownPackage("opentelemetry-sdk", "opentelemetry.sdk", "1.30", extra="trace"),
    KnownPackage("opentelemetry-exporter-otlp-proto-http", "opentelemetry.exporter", "1.30", extra="trace"),
    KnownPackage("gradio", "gradio", "5.50", extra="ui"),
    KnownPackage("mcp", "mcp", "2", extra="mcp"),
    KnownPackage("anyio", "anyio", "4", extra="mcp"),
    KnownPackage("c2pa-python", "c2pa", "0.30", extra="c2pa"),
    KnownPackage("tensorboard", "tensorboard", "2.16", "2.21.0", "tensorboard"),
    KnownPackage("trackio", "trackio", extra="trackio"),
    KnownPackage("wandb", "wandb", extra="wandb"),
)
# Nothing here needs them, but the libraries take them up where they are installed, and fail where they are
# broken.
TAKEN_UP = (
    KnownPackage("torchvision", "torchvision"),
    KnownPackage("torchaudio", "torchaudio"),
    KnownPackage("xformers", "xformers"),
    KnownPackage("flash-attn", "flash_attn"),
    KnownPackage("triton", "triton"),
)


@dataclass(frozen=True, kw_only=True)
class PackageFacts:
    """A package as it is here.

    Attributes:
        version: what is installed; None where nothing is.
        least, tested, extra: see `KnownPackage`; `is_used` is False of those in `TAKEN_UP`.
        error: why it cannot be imported; empty where it can, or was not tried.
    """

    name: str
    module: str
    version: str | None
    least: str = ""
    tested: str = ""
    extra: str | None = None
    is_used: bool = True
    error: str = ""

    @property
    def is_old(self) -> bool:
        """Whether it is older than what works."""
        return self.version is not None and bool(self.least) and release(self.version) < release(self.least)


def gather(version_of: Callable[[str], str] = metadata.version) -> list[PackageFacts]:
    """Every known package, what is always needed first."""
    return [
        PackageFacts(
            name=known.name,
            module=known.module,
            version=_version(known.name, version_of),
            least=known.least,
            tested=known.tested,
            extra=known.extra,
            is_used=known in KNOWN,
        )
        for known in (*KNOWN, *TAKEN_UP)
    ]


def _version(name: str, version_of: Callable[[str], str]) -> str | None:
    try:
        return version_of(name)
    except metadata.PackageNotFoundError:
        return None


def release(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: (2, 6) of "2.6.0a0+cu124", without trailing zeros."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match[0].split(".")] if match else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def import_each(modules: Sequence[str], say: Callable[[dict[str, Any]], None]) -> None:
    """Import one after the other, and say of each whether it could be; without PyTorch most cannot, so where
    that fails the others are not tried.
    """
    for module in modules:
        say({"begin": module})
        try:
            importlib.import_module(module)
        except BaseException as error:  # a broken package raises anything, SystemExit included
            if isinstance(error, KeyboardInterrupt):
                raise
            text = " ".join(str(error).split())[:300]
            say({"imported": module, "error": f"{type(error).__name__}: {text}"})
            if module == "torch":
                return
        else:
            say({"imported": module, "error": ""})
