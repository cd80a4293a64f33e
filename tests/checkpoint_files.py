"""A native state dict in every layout it is found in, and the base models of the tiny one in goldens/."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

GOLDENS = Path(__file__).parent / "goldens"
BASES: dict[str, Any] = {
    "vlm": GOLDENS / "vlm",
    "transformer": GOLDENS / "transformer",
    "vae": GOLDENS,
    "tokenizer": GOLDENS / "tokenizer",
    "scheduler": GOLDENS,
}
HEADS = {"num_attention_heads": 4}

State = dict[str, Tensor]


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
        "param_shapes": [{name: value.shape for name, value in state.items()}],
        "ds_version": "0.16",
        "meta": {"iter": 400_000, "time": torch.tensor(1.0)},
    }
    torch.save(states, path / "mp_rank_00_model_states.pt")
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
