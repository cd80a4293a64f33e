"""Put a distilled LoRA into a model's folder, so that preset "turbo" works with the model alone.

    python tools/add_distilled_lora.py LORA.safetensors src/deepgen/assets/shapes
    python tools/add_distilled_lora.py LORA.safetensors FOLDER --then RL.safetensors --rank 32

The file is stored in bfloat16 as distilled_lora.safetensors, named in the defaults of model_index.json with
the noise levels it was trained for, and added to SHA256SUMS. `--rank` keeps that many singular directions
of each update, the largest. `--then` adds a LoRA that was learnt on the student, by reinforcement.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tyro.conf import Positional, arg

from deepgen.checkpoints.lora_files import DISTILLED, read_lora
from deepgen.checkpoints.saving import DISTILLED_FILE
from deepgen.checkpoints.sums import write_sums
from deepgen.sampling.few_steps import KEY, read_few_steps


@dataclass(frozen=True, kw_only=True)
class AddDistilledLora:
    """Store it, name it, sum it."""

    lora: Positional[Annotated[Path, arg(metavar="FILE")]]
    folder: Positional[Annotated[Path, arg(metavar="FOLDER")]]
    rank: int | None = None
    """Of each update; default as trained."""
    then: tuple[Path, ...] = ()
    """LoRAs of the DiT that were learnt on top of it, one after the other; needs --rank."""

    def run(self) -> None:
        """Write the three files."""
        made_for = read_few_steps(read_lora(self.lora).distilled, str(self.lora))
        if made_for is None:
            raise SystemExit(f"{self.lora} does not say that it was distilled; export it from a distill run")
        with safe_open(self.lora, framework="pt") as opened:
            metadata = dict(opened.metadata())
        tensors = load_file(self.lora)
        if self.then and self.rank is None:
            raise SystemExit("--then sums updates, whose rank grows; say with --rank how much of it to keep")
        for file in self.then:
            tensors = summed(tensors, strength(metadata), load_file(file), file)
        if self.rank is not None:
            tensors, metadata = truncated(tensors, metadata, self.rank)
        target = self.folder / DISTILLED_FILE
        save_file({name: value.bfloat16() for name, value in tensors.items()}, target, metadata=metadata)
        index_path = self.folder / "model_index.json"
        index = json.loads(index_path.read_text(encoding="utf-8"))
        index["defaults"][KEY] = {**made_for.to_json(), "lora": DISTILLED_FILE}
        index_path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_sums(self.folder, ["model_index.json", DISTILLED_FILE])
        print(f"{target}: {target.stat().st_size / 1e6:.2f} MB, steps {sorted(made_for.schedules)}")


def strength(metadata: Mapping[str, str]) -> float:
    """alpha / rank of a file whose layers all have the same."""
    settings = json.loads(metadata["lora_adapter_metadata"])
    if settings["transformer.rank_pattern"] or settings["transformer.alpha_pattern"]:
        raise SystemExit("layers of different rank or alpha cannot be summed here")
    return settings["transformer.lora_alpha"] / settings["transformer.r"]


def summed(
    tensors: dict[str, Tensor], scale: float, others: dict[str, Tensor], file: Path
) -> dict[str, Tensor]:
    """Both updates as one, at the strength of the first: their factors side by side."""
    with safe_open(file, framework="pt") as opened:
        ratio = strength(opened.metadata()) / scale
    if unknown := sorted(others.keys() - tensors.keys()):
        raise SystemExit(f"{file} changes layers that the first LoRA leaves alone, such as {unknown[0]}")
    found = dict(tensors)
    for name, added in others.items():
        is_a = "lora_A" in name
        found[name] = torch.cat([tensors[name], added if is_a else ratio * added], 0 if is_a else 1)
    return found


def truncated(
    tensors: dict[str, Tensor], metadata: dict[str, str], rank: int
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The nearest updates of another rank; alpha follows the rank, so that the strength stays."""
    found: dict[str, Tensor] = {}
    for name, a in tensors.items():
        if "lora_A" not in name:
            continue
        other = name.replace("lora_A", "lora_B")
        q_b, r_b = torch.linalg.qr(tensors[other].double())
        q_a, r_a = torch.linalg.qr(a.double().T)
        u, s, vh = torch.linalg.svd(r_b @ r_a.T)
        root, kept = s[:rank].sqrt(), min(rank, len(s))
        b_new, a_new = tensors[other].new_zeros(len(q_b), rank), a.new_zeros(rank, len(q_a))
        b_new[:, :kept] = q_b @ u[:, :kept] * root
        a_new[:kept] = root[:, None] * (vh[:kept] @ q_a.T)
        found[other], found[name] = b_new, a_new
    settings = json.loads(metadata["lora_adapter_metadata"])
    for key in [key for key in settings if key.endswith(".r")]:
        alpha = key.removesuffix(".r") + ".lora_alpha"
        settings[alpha], settings[key] = settings[alpha] * rank / settings[key], rank
    assert DISTILLED in metadata
    return found, {**metadata, "lora_adapter_metadata": json.dumps(settings, indent=2, sort_keys=True)}


if __name__ == "__main__":
    tyro.cli(AddDistilledLora).run()
