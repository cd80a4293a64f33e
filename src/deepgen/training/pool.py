"""A pool of drawn scenes and edits whose latents are computed once; captions and instructions are drawn at
every use.

Scenes are cheap to draw and dear to encode, so only latents are stored; entry i of a pool is a pure function
of the pool's seed and i.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from deepgen.shapes.render import render_array
from deepgen.shapes.scene import ShapesScene
from deepgen.shapes.vocabulary import write_tokenizer
from deepgen.training.checkpoint_folders import USE_OLDER, whole_checkpoint
from deepgen.training.finite import require_finite


def to_pixels(scenes: list[ShapesScene]) -> Tensor:
    """Drawn scenes as float32 (N, 3, 96, 96) in [-1, 1]."""
    arrays = np.stack([render_array(scene) for scene in scenes])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).float() / 127.5 - 1


def encode_scenes(
    encode: Callable[[Tensor], Tensor], scenes: list[ShapesScene], batch_size: int = 64
) -> Tensor:
    """Latents of drawn scenes, float16 (N, C, h, w)."""
    pieces = [encode(to_pixels(scenes[i : i + batch_size])).half() for i in range(0, len(scenes), batch_size)]
    return torch.cat(pieces).contiguous()


def encode_pool(
    encode: Callable[[Tensor], Tensor], pool: Mapping[str, list[ShapesScene]], file: Path | None = None
) -> dict[str, Tensor]:
    """Latents of several lists of scenes, kept in a safetensors file if one is named.

    Raises:
        ValueError: the file holds the latents of other scenes or of another encoder.
    """
    if file is None or not file.exists():
        latents = {name: encode_scenes(encode, scenes) for name, scenes in pool.items()}
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file(latents, file)
        return latents
    latents = load_file(file)
    for name, scenes in pool.items():
        # All of them would take minutes; the last ones tell another pool, another seed and another encoder.
        last, kept = encode_scenes(encode, scenes[-4:]).float(), latents.get(name, torch.empty(0))
        if len(kept) != len(scenes) or not torch.allclose(kept[-4:].float(), last, atol=0.02):
            raise ValueError(
                f"{file} holds the latents of another pool or VAE; name another pool_file, or remove it"
            )
    return latents


def load_weights(module: torch.nn.Module, source: Path, prefix: str = "") -> None:
    """Weights of a part from a run's newest checkpoint (its averages) or from a diffusers folder, strictly.

    Args:
        module: the part.
        source: output folder of a run, or the part's own folder.
        prefix: where the part's keys begin in the run.
    """
    if (source / "diffusion_pytorch_model.safetensors").is_file():
        values = load_file(source / "diffusion_pytorch_model.safetensors")
    else:
        newest = whole_checkpoint(source, advice=USE_OLDER)
        values = load_file(newest / "ema.safetensors")
        require_finite("averages", values, f"{source} had diverged; move the folder {newest.name} away")
        values = {name[len(prefix) :]: value for name, value in values.items() if name.startswith(prefix)}
    fixed = {name for name, _ in module.named_buffers()}  # position tables and the like are not trained
    report = module.load_state_dict({name: value.float() for name, value in values.items()}, strict=False)
    missing = set(report.missing_keys) - fixed
    if missing or report.unexpected_keys:
        first = ", ".join([*sorted(missing), *report.unexpected_keys][:4])
        raise ValueError(
            f"{source} does not fit {type(module).__name__}: {len(missing)} parameters are missing and "
            f"{len(report.unexpected_keys)} foreign: {first}"
        )


def load_tokenizer() -> Any:
    """The tokenizer of the world's words."""
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return AutoTokenizer.from_pretrained(folder)
