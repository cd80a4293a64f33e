"""One tiny random model, written in every layout checkpoints come in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from deepgen.models.convert import convert

GOLDENS = Path(__file__).parents[1] / "goldens"
BASES: dict[str, Any] = {
    "vlm": GOLDENS / "vlm",
    "transformer": GOLDENS / "transformer",
    "vae": GOLDENS,
    "tokenizer": GOLDENS / "tokenizer",
    "scheduler": GOLDENS,
}
HEADS = {"num_attention_heads": 4}

State = dict[str, Tensor]


@pytest.fixture(scope="session")
def bases() -> dict[str, Any]:
    """Base models for a native checkpoint."""
    return BASES


@pytest.fixture(scope="session")
def options() -> dict[str, Any]:
    """What a native checkpoint of this size needs to be loaded."""
    return {**BASES, "connector_config": HEADS}


@pytest.fixture
def native() -> State:
    """The flat state dict of the original, connector and transformer."""
    return load_file(GOLDENS / "connector.safetensors")


@pytest.fixture(scope="session")
def lora() -> State:
    """A LoRA on every linear and embedding of the VLM, in the spelling of today's transformers."""
    return load_file(GOLDENS / "lora_weights.safetensors")


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


def write_flat_pt(folder: Path, state: State) -> Path:
    torch.save(state, folder / "model.pt")
    return folder / "model.pt"


def write_nested_pth(folder: Path, state: State) -> Path:
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, folder / "iter_1.pth")
    return folder / "iter_1.pth"


def write_safetensors(folder: Path, state: State) -> Path:
    save_file(state, folder / "model_only.safetensors")
    return folder / "model_only.safetensors"


def write_deepspeed(folder: Path, state: State) -> Path:
    path = folder / "iter_400000.pth"
    path.mkdir()
    states = {
        "module": state,
        "optimizer": None,
        "param_shapes": [{"a": torch.Size([1, 2])}],
        "ds_version": "0.16",
        "meta": {"iter": 400_000, "time": torch.tensor(1.0)},
    }
    torch.save(states, path / "mp_rank_00_model_states.pt")
    (path / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"never opened")
    return path


def write_rl(folder: Path, state: State) -> Path:
    path = folder / "checkpoint-100"
    (path / "global_step100").mkdir(parents=True)
    save_file({f"module.{name}": value for name, value in state.items()}, path / "model.safetensors")
    return path


def write_rl_shards(folder: Path, state: State) -> Path:
    path = folder / "checkpoint-200"
    path.mkdir()
    names = sorted(state)
    weight_map = {}
    for number, half in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: state[name] for name in half}, path / file)
        weight_map |= dict.fromkeys(half, file)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return path


def write_hub_repo(folder: Path, state: State) -> Path:
    path = folder / "DeepGen-1.0"
    path.mkdir()
    torch.save(state, path / "model.pt")
    (path / "config.json").write_text(json.dumps({"_class_name": "DeepGen-1.0"}))
    (path / "README.md").write_text("# DeepGen")
    return path


WRITERS: dict[str, tuple[Callable[[Path, State], Path], str]] = {
    "flat pt": (write_flat_pt, "native-file"),
    "nested pth": (write_nested_pth, "native-file"),
    "safetensors": (write_safetensors, "native-file"),
    "deepspeed": (write_deepspeed, "deepspeed-dir"),
    "rl": (write_rl, "rl-dir"),
    "rl shards": (write_rl_shards, "rl-dir"),
    "hub repo": (write_hub_repo, "native-file"),
}


@pytest.fixture(params=list(WRITERS))
def native_layout(request: pytest.FixtureRequest) -> tuple[Callable[[Path, State], Path], str]:
    """Every way a native state dict is stored: (write(folder, state) -> path, kind)."""
    return WRITERS[request.param]
