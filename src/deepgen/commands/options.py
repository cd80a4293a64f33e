"""What `generate`, `edit` and `eval` can be asked about the model and the pictures."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

Scheduler = Literal["euler", "heun", "dpm++", "unipc"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Device = Literal["auto", "cuda", "mps", "cpu"]
Offload = Literal["none", "model", "sequential", "group"]
Quantize = Literal["none", "int8", "fp8", "nf4"]
Memory = Literal["none", "auto", "24", "16", "12", "8", "6"]
GuidanceBatching = Literal["auto", "batched", "split"]
Parallel = Literal["none", "guidance", "context", "both"]
Preset = Literal["exact", "balanced", "fast"]


def default_model() -> str:
    """$DEEPGEN_MODEL, or the small model inside this package."""
    return os.environ.get("DEEPGEN_MODEL") or "tiny"


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model, and how it is placed in memory."""

    model: Annotated[str, arg(metavar="NAME|PATH")] = field(default_factory=default_model)
    """`tiny` (inside this package), a folder, a checkpoint file or a Hub name. Default: $DEEPGEN_MODEL."""
    scheduler: Scheduler = "euler"
    """The solver that walks from noise to the picture."""
    dtype: Dtype = "auto"
    """Number format. auto: bfloat16 where the device has it, float32 for small models on a CPU."""
    device: Device = "auto"
    """Where to compute. auto: cuda, then mps, then cpu."""
    offload: Offload = "none"
    """Keep parts in main memory until they are needed: slower, and fits smaller accelerators."""
    quantize: Quantize = "none"
    """Store the VLM and the DiT in fewer bits; needs `pip install deepgen[quant]`."""
    transformer_gguf: Annotated[Path | None, arg(metavar="FILE.gguf")] = None
    """The DiT from a GGUF file, ours or another program's, instead of the model's own."""
    memory: Memory = "none"
    """Choose offload, quantize and VAE tiles for so many GB; auto: for the memory that is free."""
    guidance_batching: GuidanceBatching = "auto"
    """Both branches of guidance in one pass, or one by one in less memory. auto: one pass where it fits."""
    max_prompt_tokens: Annotated[int | None, arg(metavar="INT")] = None
    """Read so many tokens of a prompt at most. Default: the model's own limit, or all its VLM can read."""
    lora: Annotated[str | None, arg(metavar="PATH")] = None
    """LoRA weights to apply: a file, a folder or a Hub name."""
    compile: bool = False
    """Compile the DiT's blocks; the first picture waits for it, in later runs it is read from disk."""

    def check_prompt_limit(self) -> None:
        """ValueError for a limit that leaves nothing to read."""
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ValueError(f"--max-prompt-tokens must be at least 1, got {self.max_prompt_tokens}")


@dataclass(frozen=True, kw_only=True)
class PictureOptions(ModelOptions):
    """How the pictures are drawn and where they go."""

    output: Annotated[Path, arg(aliases=["-o"], metavar="FILE.png")] = Path("out.png")
    """The picture's file; several become FILE-0.png, ... and FILE-grid.png. Existing files are replaced."""
    size: Annotated[str | None, arg(metavar="WxH")] = None
    """Width x height, such as 768x512. Default: the model's own; for an edit, its first picture's."""
    preset: Preset | Literal["auto"] = "exact"
    """balanced, fast: fewer steps for about the same picture. auto: exact, with --memory auto."""
    steps: Annotated[int | None, arg(metavar="INT")] = None
    """Solver steps; default the preset's, or the model's own."""
    guidance: Annotated[float | None, arg(metavar="FLOAT")] = None
    """Weight of the prompt (classifier-free guidance); default the model's own."""
    negative: Annotated[str | None, arg(metavar="TEXT")] = None
    """What to steer away from."""
    seed: Annotated[int | None, arg(metavar="INT")] = None
    """Picture k is drawn with seed + k, whatever else is drawn. Default: a random one, which is printed."""
    parallel: Parallel = "none"
    """Under torchrun, all processes draw a picture: a branch of guidance each, tokens divided, or both."""
    num_images: Annotated[int, arg(aliases=["-n"])] = 1
    """How many pictures."""
    metadata: bool = True
    """Write prompt, seed and settings into the picture."""

    @property
    def solver_preset(self) -> str:
        """The preset of solver and steps; `auto` is about memory only."""
        return "exact" if self.preset == "auto" else self.preset

    @property
    def has_folder(self) -> bool:
        """Whether --output names a folder instead of a picture."""
        return False

    def check(self) -> None:
        """ValueError for what no model can do; not at construction, where tyro would frame the message."""
        self.height_and_width()
        self.check_prompt_limit()
        if self.solver_preset != "exact" and self.scheduler != "euler":
            raise ValueError(
                f"--preset {self.preset} chooses the solver; leave out --scheduler {self.scheduler}"
            )
        if self.num_images < 1:
            raise ValueError(f"--num-images must be at least 1, got {self.num_images}")
        if self.seed is not None and not 0 <= self.seed <= 2**63 - self.num_images:
            raise ValueError(f"--seed must be between 0 and 2^63 - {self.num_images}, got {self.seed}")
        if not self.has_folder and self.output.suffix.lower() != ".png":
            raise ValueError(
                f"--output {self.output}: pictures are written as PNG; try {self.output.stem}.png"
            )

    def height_and_width(self) -> tuple[int, int] | None:
        """The asked size as (height, width), or None where the model chooses."""
        return parse_size(self.size)


def parse_size(size: str | None, name: str = "--size") -> tuple[int, int] | None:
    """(height, width) of WIDTHxHEIGHT, or None where none is given; ValueError for anything else."""
    if size is None:
        return None
    match = re.fullmatch(r"(\d{1,5})[xX×](\d{1,5})", size.strip())
    if not match:
        raise ValueError(f"{name} {size!r} is not WIDTHxHEIGHT; try 768x512")
    return int(match[2]), int(match[1])


def check_text(name: str, text: str | None) -> None:
    """ValueError unless it can be written as UTF-8; broken bytes in an argument arrive as lone surrogates."""
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is not valid text at character {error.start}; give it as UTF-8") from error
