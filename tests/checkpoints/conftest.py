"""One tiny random model, written in every layout checkpoints come in."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from checkpoint_files import BASES, GOLDENS, HEADS, WRITERS, State
from deepgen.checkpoints.convert import convert


@pytest.fixture(scope="session")
def bases() -> dict[str, Any]:
    """Base models for a native checkpoint."""
    return BASES


@pytest.fixture(scope="session")
def options() -> dict[str, Any]:
    """What a native checkpoint of this size needs to be loaded."""
    return {**BASES, "connector_config": HEADS}


@pytest.fixture(scope="session")
def deepspeed_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints that DeepSpeed wrote; see tools/deepspeed_checkpoints.py. To be copied, not changed."""
    folder = tmp_path_factory.mktemp("written-by-deepspeed")
    with tarfile.open(GOLDENS / "deepspeed.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "deepspeed"


@pytest.fixture
def native() -> State:
    """The flat state dict of the original, connector and transformer."""
    return load_file(GOLDENS / "connector.safetensors")


@pytest.fixture(scope="session")
def lora() -> State:
    """A LoRA on linears and embeddings of the VLM (of the layers only the first), in today's spelling."""
    everything = load_file(GOLDENS / "lora_weights.safetensors")
    return {
        name: value for name, value in everything.items() if not re.search(r"(layers|blocks)\.[1-9]", name)
    }


@pytest.fixture(scope="session")
def _ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("converted") / "ours"
    convert(GOLDENS / "connector.safetensors", folder, **BASES, progress=False)
    return folder


@pytest.fixture
def ours(_ours: Path, tmp_path: Path) -> Path:
    """Our folder, a copy to be spoilt."""
    return shutil.copytree(_ours, tmp_path / "ours")


@pytest.fixture
def published(tmp_path: Path, native: State) -> Path:
    """The diffusers folder as published: a list for a class, vlm and connector not registered."""
    folder = tmp_path / "published"
    for part in ("vlm", "vae", "tokenizer", "scheduler"):
        shutil.copytree(GOLDENS / part, folder / part)
    (folder / "transformer").mkdir()
    shutil.copy(GOLDENS / "transformer" / "config.json", folder / "transformer")
    head = "transformer."
    transformer = {name.removeprefix(head): value for name, value in native.items() if name.startswith(head)}
    save_file(transformer, folder / "transformer" / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    (folder / "connector").mkdir()
    connector = {name: value for name, value in native.items() if not name.startswith(head)}
    save_file(connector, folder / "connector" / "model.safetensors", {"format": "pt"})
    (folder / "connector" / "config.json").write_text(
        json.dumps({**HEADS, "hidden_act": "gelu_pytorch_tanh"})
    )
    index = {
        "_class_name": ["deepgen_pipeline", "DeepGenPipeline"],
        "_diffusers_version": "0.35.2",
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "deepgen_pipeline.py").write_text("raise SystemExit('remote code ran')")
    return folder


@pytest.fixture(params=list(WRITERS))
def native_layout(request: pytest.FixtureRequest) -> tuple[Callable[[Path, State], Path], str]:
    """Every way a native state dict is stored: (write(folder, state) -> path, kind)."""
    return WRITERS[request.param]
