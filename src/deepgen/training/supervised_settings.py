"""Settings of the supervised stages.

What reads settings reads `SupervisedSettings`; a recipe is a `SupervisedConfig` (supervised.py), which can
also open the model and the data and build the stage.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from deepgen.data.example import Task
from deepgen.sampling.few_steps import FewSteps
from deepgen.training.adapters import LoraSettings
from deepgen.training.benchmarks import BenchmarksConfig
from deepgen.training.config import TrainConfig
from deepgen.training.noise_levels import NoiseLevelConfig
from deepgen.training.objective import Padding
from deepgen.training.validation import ValidationConfig

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class DropoutConfig:
    """Shares of samples that lose part of their condition. The defaults are the original's.

    An edit can lose its instruction, or instruction and references together; the negative branch of
    guidance is then one that was trained.

    Attributes:
        edit_text: of edits, that lose the instruction.
        edit_everything: of edits, that lose instruction and references.
    """

    text: float = 0.1  # of captions
    edit_text: float = 0.0
    edit_everything: float = 0.0

    def __post_init__(self) -> None:
        """Refuse shares outside [0, 1]."""
        for name, share in vars(self).items():
            if not 0 <= share <= 1:
                raise ValueError(f"dropout of {name} must be in [0, 1], got {share}")
        if self.edit_text + self.edit_everything > 1:
            raise ValueError("the two dropouts of edits add up to more than 1")


@dataclass(frozen=True, kw_only=True)
class PreflightConfig:
    """The look at the data before the first step: words, sizes, duplicates, and what the VAE loses."""

    num_rows: int = 2000  # whose texts and headers are read, over all sources
    num_images: int = 12  # that pass through the VAE
    seconds: float = 10.0  # about when it stops

    def __post_init__(self) -> None:
        """Refuse to look at nothing."""
        if min(self.num_rows, self.num_images) < 1 or not 0 < self.seconds < float("inf"):
            raise ValueError(
                "preflight needs num_rows and num_images of at least 1 and seconds above 0; "
                "preflight=none leaves it out"
            )


@dataclass(frozen=True, kw_only=True)
class BeforeAfterConfig:
    """Prompts drawn by the model a run began with and by what it became, on one sheet when the run ends."""

    num_captions: int = 4  # of the data, with the picture each is said of
    num_examples: int = 2  # of a small model's own world, to see what is kept
    seed: int = 0  # of every picture's noise, the same before and after
    preset: str = "balanced"  # how they are drawn, as in `deepgen generate --preset`

    def __post_init__(self) -> None:
        """Refuse negative counts."""
        if min(self.num_captions, self.num_examples) < 0:
            raise ValueError(
                "before_after needs num_captions and num_examples of at least 0; "
                "before_after=none leaves it out"
            )


@dataclass(frozen=True, kw_only=True)
class SupervisedSettings(TrainConfig):
    """What every supervised stage has.

    Attributes:
        transformer: a base DiT, or an SD3 pipeline that also gives the VAE.
        vae: a base VAE.
        connector_options: in what a fresh connector differs, such as num_think_tokens=64 or taps=6,12,18.
        global_batch_size: samples of an optimizer step, on all processes together.
        micro_batch_size: samples of a forward pass.
        num_workers: processes that read data ahead; 0 reads in this one.
        trains_connector: whether the connector learns.
        trains_transformer: whether all of the DiT learns.
        vlm_lora: an adapter of the VLM that learns; none leaves the VLM frozen.
        transformer_lora: an adapter of the DiT that learns, instead of all of it.
        levels: noise levels of the loss.
        dropout: shares of samples that lose part of their condition.
        padding: hidden: attention does not see pads; visible: it does, as in the original.
        is_checkpointing_activations: compute activations again in the backward pass: less memory, more time.
        is_compiled: run the DiT through torch.compile.
        is_autocast_on_cpu: multiply in bfloat16 on a CPU, which pays where it has instructions for that.
        preflight: a look at the data before the first step; none leaves it out.
        before_after: prompts drawn before and after, on one sheet when the run ends; none draws none.
        validation: a look at held-out examples.
        benchmarks: a few items of benchmarks while training.
    """

    # what to start from: a name, folder or file, as for `deepgen generate --model`; None: base models alone
    model: str | None = "tiny"
    # base models: without a `model`, the published ones by default; beside one, those its file leaves out
    vlm: str | None = None
    transformer: str | None = None
    vae: str | None = None
    new_connector: bool = False  # begin with a fresh connector instead of the model's
    connector_options: tuple[str, ...] = ()
    # a mixture file, a folder of pictures with captions, another source of them, or PATH.py:SOURCE
    data: Path | None = None
    data_task: Task = "generate"  # of a folder; "edit" where its metadata.jsonl names references
    data_options: tuple[str, ...] = ()  # of a source that is no mixture, such as text=caption
    data_root: Path | None = None  # replaces the root folder of the mixture file
    cache: Path | None = None  # a folder of `deepgen data cache`, read instead of encoding pictures
    global_batch_size: int = 64
    micro_batch_size: int = 4
    is_step_mixed: bool = True  # a step holds a whole cycle of the tasks; off: one task a step
    num_workers: int = 2
    trains_connector: bool = True
    trains_transformer: bool = False
    vlm_lora: LoraSettings | None = None
    transformer_lora: LoraSettings | None = None
    levels: NoiseLevelConfig = field(default_factory=NoiseLevelConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    padding: Padding = "hidden"
    max_prompt_tokens: int | None = 1024  # of a caption in its template; longer ones lose their beginning
    # of frozen weights and of arithmetic, on a CPU of frozen weights only; what is trained stays in float32
    precision: Precision = "auto"
    is_checkpointing_activations: bool = False
    is_prompt_split: bool = True  # where the prompt is constant, read it without gradient
    is_compiled: bool = False
    is_autocast_on_cpu: bool = False
    preflight: PreflightConfig | None = field(default_factory=PreflightConfig)
    before_after: BeforeAfterConfig | None = None
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    benchmarks: BenchmarksConfig = field(default_factory=BenchmarksConfig)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        super().__post_init__()
        if min(self.global_batch_size, self.micro_batch_size) < 1 or self.num_workers < 0:
            raise ValueError(
                "global_batch_size and micro_batch_size must be at least 1, num_workers at least 0"
            )
        if self.model is None and not self.new_connector:
            raise ValueError(
                "base models have no connector: set new_connector=true too, or give a model to start from"
            )
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens must be at least 1, or none, got {self.max_prompt_tokens}")
        if wrong := [option for option in self.data_options if "=" not in option]:
            raise ValueError(f"data option {wrong[0]!r} is not name=value; try text=caption")
        if self.connector_options and not self.new_connector:
            raise ValueError("connector_options are those of a fresh connector; set new_connector=true too")
        wrong = [
            option
            for number, option in enumerate(self.connector_options)
            if "=" not in option and (number == 0 or not option.isdigit())  # of taps=6,12,18
        ]
        if wrong:
            raise ValueError(f"connector option {wrong[0]!r} is not name=value; try num_think_tokens=64")
        if not any((self.trains_connector, self.trains_transformer, self.vlm_lora, self.transformer_lora)):
            raise ValueError("nothing to train: switch on connector, transformer or a LoRA")
        if self.trains_transformer and self.transformer_lora:
            raise ValueError("train the transformer or a LoRA of it, not both")

    @property
    def untold(self) -> tuple[str, ...]:
        """How the names of trained parameters begin that are no part of the model, and of no export."""
        return ()

    @property
    def few_steps(self) -> FewSteps | None:
        """What the model is distilled for; None where it is trained at all noise levels."""
        return None

    def dtype(self, device: torch.device) -> torch.dtype:
        """Of frozen weights and of arithmetic."""
        if self.precision == "auto":
            return torch.bfloat16 if device.type == "cuda" else torch.float32
        return getattr(torch, self.precision)
