"""Plan of a training run before it starts: memory, arithmetic, hours and money.

Nothing is loaded. The parts are built on the meta device with what is trained marked as the run marks it, and
counted: weights and optimizer state in closed form, activations in activations.py, arithmetic in flops.py.
Bytes of one trained parameter, with AdamW:

    scheme      weight  cast  gradient  master  moments
    mixed            4     2         4               8    our loop: float32 weights, autocast to bfloat16
    engine           2               2       4       8    DeepSpeed's bf16: float32 copies in the optimizer
    pure             2               2               4    bfloat16 alone, rounded stochastically

8-bit moments take 2 instead, and one float32 scale for every 256 of them. Frozen weights take 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import nn

from deepgen.checkpoints.parts import WEIGHTED, build, named_config
from deepgen.models.config import DEEPGEN_1_0, Architecture
from deepgen.planning.accelerators import ACCELERATORS, Accelerator, accelerator
from deepgen.planning.flops import SampleShape, Work, is_trained, positions, sample_flops
from deepgen.training.activations import Arithmetic, Kept, sample_activations, vae_working_bytes
from deepgen.training.adapters import LoraSettings, adapt_transformer, adapt_vlm
from deepgen.training.sharding import Sharding

__all__ = ["ACCELERATORS", "Counts", "PlanConfig", "TrainingPlan", "accelerator", "plan", "plan_of_recipe"]

Scheme = Literal["mixed", "engine", "pure"]
Task = Literal["generate", "edit"]
Dtype = Literal["bfloat16", "float16", "float32"]

_SCALES = 4 / 256  # bytes of bitsandbytes' scales for each moment


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """A way of training: what is trained, in which types, from which data, on how many processes.

    The defaults are stage 1 as our loop runs it on one card.
    """

    architecture: Architecture = DEEPGEN_1_0
    starts_from: str = ""  # shown in the plan, where it is known
    trains_connector: bool = True
    trains_transformer: bool = False
    vlm_lora: LoraSettings | None = None
    transformer_lora: LoraSettings | None = None
    compute_dtype: Dtype = "bfloat16"
    frozen_dtype: Dtype | None = None  # in which frozen weights are kept, where it is not `compute_dtype`
    scheme: Scheme = "mixed"
    is_8bit: bool = False
    has_ema: bool = False
    is_checkpointing_activations: bool = False
    is_prompt_split: bool = True
    has_cached_latents: bool = False
    has_cached_vision: bool = False
    image_size: int = 512
    prompt_tokens: int = 80  # of a caption, template included
    edit_prompt_tokens: int = 40  # without its references
    references: int = 1  # of an edit
    edit_share: float = 0.25
    micro_batch_size: int = 4
    global_batch_size: int = 64
    num_processes: int = 1
    sharding: Sharding = "none"
    shards_frozen: bool = False
    sums_once: bool = False  # sharded gradients stay whole until a step's last micro-batch

    def __post_init__(self) -> None:
        """Refuse what cannot be trained or divided."""
        if not any((self.trains_connector, self.trains_transformer, self.vlm_lora, self.transformer_lora)):
            raise ValueError("nothing to train: switch on connector, transformer or a LoRA")
        if self.trains_transformer and self.transformer_lora:
            raise ValueError("train the transformer or a LoRA of it, not both")
        counts = (self.micro_batch_size, self.global_batch_size, self.num_processes, self.image_size)
        if min(counts) < 1 or min(self.prompt_tokens, self.edit_prompt_tokens, self.references) < 0:
            raise ValueError("batches, processes and image_size must be at least 1, tokens at least 0")
        if self.image_size % 32:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of 32; try {self.image_size // 32 * 32}"
            )
        if not 0 <= self.edit_share <= 1:
            raise ValueError(f"edit_share must be in [0, 1], got {self.edit_share}")
        if self.sharding != "none" and self.num_processes == 1:
            raise ValueError(f"sharding {self.sharding!r} needs several processes")
        if self.shards_frozen and self.sharding != "fsdp":
            raise ValueError("frozen weights can be divided under fsdp alone")

    @property
    def arithmetic(self) -> Arithmetic:
        """Types of weights and products."""
        compute = getattr(torch, self.compute_dtype)
        return Arithmetic(compute=compute, trained=torch.float32 if self.scheme == "mixed" else compute)

    @property
    def samples(self) -> dict[Task, SampleShape]:
        """One example of each task that occurs."""
        caption = SampleShape(image_size=self.image_size, prompt_tokens=self.prompt_tokens)
        edit = SampleShape(
            image_size=self.image_size, prompt_tokens=self.edit_prompt_tokens, references=self.references
        )
        shares: dict[Task, tuple[float, SampleShape]] = {
            "generate": (1 - self.edit_share, caption),
            "edit": (self.edit_share, edit),
        }
        return {task: sample for task, (share, sample) in shares.items() if share > 0}

    @property
    def accumulates(self) -> bool:
        """Whether a step has several micro-batches, between which gradients are kept."""
        return self.global_batch_size > self.micro_batch_size * self.num_processes


@dataclass(frozen=True)
class TrainingPlan:
    """What a run needs, on every process. Memory is in bytes, arithmetic in FLOP.

    Attributes:
        weights: memory of weights and training state, by row.
        activations: of a micro-batch, by task and part.
        peak: memory at the fullest moment.
        flops: of one sample, by task and part.
        trained: parameters trained, by part.
        remedies: what to switch on if it does not fit, the first first; empty if it fits or nothing helps.
        price_per_hour: of one card.
    """

    config: PlanConfig
    accelerator: Accelerator
    num_steps: int
    weights: dict[str, float]
    activations: dict[Task, dict[str, float]]
    peak: float
    flops: dict[Task, dict[str, Work]]
    trained: dict[str, int]
    remedies: tuple[str, ...] = ()
    price_per_hour: float | None = None

    @property
    def fits(self) -> bool:
        """Whether the fullest moment fits the card."""
        return self.peak <= self.accelerator.memory_gb * 1e9

    @property
    def flops_per_sample(self) -> float:
        """Mean over the tasks."""
        share = {"generate": 1 - self.config.edit_share, "edit": self.config.edit_share}
        return sum(
            share[task] * sum(work.training for work in parts.values()) for task, parts in self.flops.items()
        )

    @property
    def samples_per_second(self) -> float:
        """Of all processes together, at the card's assumed utilisation."""
        reached = self.config.num_processes * self.accelerator.tflops * 1e12 * self.accelerator.mfu
        return reached / self.flops_per_sample

    @property
    def hours(self) -> float:
        """For `num_steps`."""
        return self.num_steps * self.config.global_batch_size / self.samples_per_second / 3600

    @property
    def cost(self) -> float | None:
        """Of all cards, in the currency of the price."""
        if self.price_per_hour is None:
            return None
        return self.hours * self.config.num_processes * self.price_per_hour

    def __str__(self) -> str:
        return "\n".join([*self.memory_lines(), "", *self._flop_lines(), "", *self._time_lines()])

    def lines_of_tasks(self, work: str, hours: Mapping[Task, float], num_processes: int) -> list[str]:
        """How long `work` takes on the cards, and what it costs, where all samples are of one task."""
        card = self.accelerator
        times = ", ".join(f"{duration(value)} if all are {task}" for task, value in hours.items())
        lines = [
            f"{work} on {num_processes} x {card.name} at {card.mfu:.0%} of {card.tflops:g} TFLOP/s: {times}"
        ]
        if self.price_per_hour is not None:
            each = num_processes * self.price_per_hour
            costs = ", ".join(f"{value * each:,.2f} if all are {task}" for task, value in hours.items())
            lines.append(f"cost {costs}, at {self.price_per_hour:g} an hour and card")
        return lines

    def memory_lines(self) -> list[str]:
        """What is trained, every row of memory, and whether it fits."""
        trained = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in self.trained.items() if count)
        lines = [f"{self.config.architecture.name} on {self.config.num_processes} x {self.accelerator.name}"]
        if self.config.starts_from:
            lines.append(f"starts from: {self.config.starts_from}")
        lines += [f"trained: {trained}", "", "memory of each process"]
        lines += [_row(name, nbytes) for name, nbytes in self.weights.items() if nbytes]
        for task, parts in self.activations.items():
            total = sum(parts.values())
            detail = ", ".join(f"{name} {nbytes / 1e9:.2f}" for name, nbytes in parts.items() if nbytes)
            size = self.config.micro_batch_size
            lines.append(f"{_row(f'activations, {size} x {task}', total)}  ({detail})")
        lines.append(f"{_row('peak', self.peak)} of {self.accelerator.memory_gb:.0f} GB")
        if self.fits:
            return [*lines, "it fits"]
        if len(self.remedies) == 1:
            return [*lines, f"it does not fit; {self.remedies[0]}"]
        if self.remedies:
            return [*lines, "it does not fit; all of this together would, in this order:"] + [
                f"  - {remedy}" for remedy in self.remedies
            ]
        return [*lines, "it does not fit, whatever is switched on; take a larger card or more of them"]

    def _flop_lines(self) -> list[str]:
        tasks = list(self.flops)
        lines = [f"{'TFLOP of one sample':28}" + "".join(f"{task:>12}" for task in tasks)]
        for part in self.flops[tasks[0]]:
            numbers = [self.flops[task][part].training / 1e12 for task in tasks]
            lines.append(f"  {part:26}" + "".join(f"{number:>12.3f}" for number in numbers))
        totals = [sum(work.training for work in self.flops[task].values()) / 1e12 for task in tasks]
        return [*lines, f"  {'total':26}" + "".join(f"{total:>12.3f}" for total in totals)]

    def _time_lines(self) -> list[str]:
        samples = self.num_steps * self.config.global_batch_size
        lines = [
            f"{self.samples_per_second:.3g} samples/s at {self.accelerator.mfu:.0%} of "
            f"{self.accelerator.tflops:g} TFLOP/s",
            f"{self.num_steps:,} steps, {samples:,} samples: {duration(self.hours)}",
        ]
        if self.cost is not None:
            lines.append(f"cost {self.cost:,.2f} at {self.price_per_hour:g} an hour and card")
        return lines


def plan(
    config: PlanConfig,
    accelerator: Accelerator = ACCELERATORS["h100"],
    num_steps: int = 1000,
    price_per_hour: float | None = None,
    counts: Counts | None = None,
    adjusted: Callable[[TrainingPlan], TrainingPlan] = lambda found: found,
) -> TrainingPlan:
    """Count what `num_steps` optimizer steps need on such cards. Takes a few seconds.

    Args:
        config: the way of training.
        accelerator: one for every process.
        num_steps: optimizer steps of `config.global_batch_size` samples.
        price_per_hour: of one card, in any currency.
        counts: what other plans have counted, to be shared by many of them.
        adjusted: puts into a plan, and into each that is tried as a remedy, what else a stage holds.
    """
    counts = Counts() if counts is None else counts
    result = adjusted(replace(_plan(config, accelerator, num_steps, counts), price_per_hour=price_per_hour))
    if result.fits:
        return result

    def fits(changed: PlanConfig) -> bool:
        return adjusted(_plan(changed, accelerator, num_steps, counts)).fits

    return replace(result, remedies=_remedies(config, fits))


def plan_of_recipe(
    recipe: Any, architecture: Architecture, accelerator: Accelerator, **changes: Any
) -> PlanConfig:
    """The plan's config of a supervised recipe (training/supervised.py) on such cards.

    Args:
        recipe: a `SupervisedConfig`.
        architecture: of the model it starts from.
        accelerator: decides what precision "auto" means.
        changes: what the recipe does not say, such as `image_size`, `edit_share` and `num_processes`.
    """
    frozen = recipe.precision
    if frozen == "auto":
        frozen = "bfloat16" if accelerator.is_cuda else "float32"
    compute = frozen if accelerator.is_cuda else "float32"  # as SupervisedStage computes on a CPU
    same = ("trains_connector", "trains_transformer", "vlm_lora", "transformer_lora", "is_prompt_split")
    same += ("is_checkpointing_activations", "micro_batch_size", "global_batch_size")
    known = {name: getattr(recipe, name) for name in same}
    known |= {"compute_dtype": compute, "frozen_dtype": frozen, "is_8bit": recipe.optim.is_8bit}
    known |= {"has_ema": recipe.ema_decay is not None, "architecture": architecture}
    known |= {"has_cached_latents": recipe.cache is not None, "starts_from": str(recipe.start)}
    if changes.get("num_processes", 1) > 1:
        known |= {"sharding": recipe.sharding, "shards_frozen": recipe.shards_frozen}
        known |= {"sums_once": recipe.sums_once and recipe.sharding != "none"}
    return PlanConfig(**(known | changes))


# --- counting


@dataclass
class Counts:
    """Models and activations already counted, since remedies are tried one by one."""

    models: dict[Any, dict[str, Any]] = field(default_factory=dict)
    kept: dict[Any, dict[str, Kept]] = field(default_factory=dict)

    def models_of(self, config: PlanConfig) -> dict[str, Any]:
        """The parts on the meta device, gradients required where the config trains."""
        loras = (config.vlm_lora, config.transformer_lora)
        key = (repr(config.architecture), config.trains_connector, config.trains_transformer, *loras)
        if key not in self.models:
            self.models[key] = _models(config)
        return self.models[key]

    def activations(self, config: PlanConfig, sample: SampleShape, is_cuda: bool) -> dict[str, Kept]:
        """Of one sample."""
        models = self.models_of(config)
        arithmetic = replace(config.arithmetic, is_cuda=is_cuda)
        is_checkpointing = config.is_checkpointing_activations
        key = (id(models), sample, arithmetic, config.is_prompt_split, is_checkpointing)
        if key not in self.kept:
            self.kept[key] = sample_activations(
                models,
                positions(models, sample),
                arithmetic,
                is_prompt_split=config.is_prompt_split,
                is_checkpointing=is_checkpointing,
            )
        return self.kept[key]


def _models(config: PlanConfig) -> dict[str, Any]:
    models: dict[str, Any] = {name: build(name, named_config(name, config.architecture)) for name in WEIGHTED}
    for model in models.values():
        model.requires_grad_(False)
    if config.vlm_lora is not None:
        adapt_vlm(models["vlm"], config.vlm_lora, models["connector"].taps)
    if config.transformer_lora is not None:
        adapt_transformer(models["transformer"], config.transformer_lora)
    models["connector"].requires_grad_(config.trains_connector)
    if config.trains_transformer:
        models["transformer"].requires_grad_(True)
    return models


def _plan(config: PlanConfig, accelerator: Accelerator, num_steps: int, counts: Counts) -> TrainingPlan:
    models = counts.models_of(config)
    trained = {name: _elements(model, True) for name, model in models.items()}
    weights = _weights(config, models)
    micro, compute = config.micro_batch_size, config.arithmetic.compute
    vae = (
        0.0
        if config.has_cached_latents
        else micro * vae_working_bytes(models["vae"], config.image_size, compute)
    )
    activations, fullest = {}, 0.0
    for task, sample in config.samples.items():
        kept = counts.activations(config, sample, accelerator.is_cuda)
        parts = {name: micro * part.saved for name, part in kept.items()}
        parts["layer computed again"] = micro * max(part.working for part in kept.values())
        activations[task] = parts
        fullest = max(fullest, vae, sum(parts.values()))  # the VAE has finished before the others begin
    gradients = weights["gradients"]
    # with one micro-batch a step, gradients appear as activations go
    moving = gradients + fullest if config.accumulates else max(gradients, fullest)
    peak = sum(weights.values()) - gradients + moving + accelerator.overhead_gb * 1e9
    flops = {
        task: sample_flops(
            models,
            sample,
            is_prompt_split=config.is_prompt_split,
            is_checkpointing=config.is_checkpointing_activations,
            has_cached_latents=config.has_cached_latents,
            has_cached_vision=config.has_cached_vision,
        )
        for task, sample in config.samples.items()
    }
    return TrainingPlan(config, accelerator, num_steps, weights, activations, peak, flops, trained)


def _weights(config: PlanConfig, models: Mapping[str, Any]) -> dict[str, float]:
    """Bytes by row; see the table at the top."""
    trained = sum(_elements(model, True) for model in models.values())
    frozen = sum(_elements(model, False) for model in models.values())
    small = config.arithmetic.compute.itemsize
    stored = getattr(torch, config.frozen_dtype or config.compute_dtype).itemsize
    is_mixed = config.scheme == "mixed"
    own = 4 if is_mixed else small
    moment = 1 + _SCALES if config.is_8bit else 2 if config.scheme == "pure" else 4
    divided = config.num_processes if config.sharding != "none" else 1
    whole = divided if config.sharding == "fsdp" else 1
    casts = trained * small if config.arithmetic.is_autocast else 0
    rows = {
        "frozen weights": frozen * stored / (divided if config.shards_frozen else 1),
        "trained weights": trained * own / whole,
        "casts of them": casts if config.sharding != "fsdp" else 0,
        "gathered layers": 2 * small * _largest_layer(models) if config.sharding == "fsdp" else 0,
        "gradients": trained * own / (1 if config.sums_once else divided),
        "master weights": trained * 4 / divided if config.scheme == "engine" else 0,
        "optimizer moments": 2 * moment * trained / divided,
        "moving average": 4 * trained / divided if config.has_ema else 0,
    }
    return {name: float(nbytes) for name, nbytes in rows.items()}


def _elements(model: nn.Module, requires_grad: bool) -> int:
    """Of parameters that are trained, or of the frozen ones with the stored buffers."""
    chosen = [p for p in model.parameters() if p.requires_grad == requires_grad]
    if not requires_grad:
        stored = model.state_dict().keys()
        chosen += [buffer for name, buffer in model.named_buffers() if name in stored]
    return sum(tensor.numel() for tensor in chosen)


def _largest_layer(models: Mapping[str, Any]) -> int:
    layers = [*models["transformer"].transformer_blocks, *models["connector"].layers]
    layers += models["vlm"].language_model.layers
    return max(sum(p.numel() for p in layer.parameters()) for layer in layers if is_trained(layer))


# --- what helps


def _remedies(config: PlanConfig, fits: Callable[[PlanConfig], bool]) -> tuple[str, ...]:
    """The gentlest switch that is enough alone, or the first switches that are enough together.

    Those that change nothing but memory and speed come first, those that change what is learnt last.
    """
    changed: dict[str, dict[str, Any]] = {}
    if not config.is_prompt_split and config.vlm_lora is None and config.trains_connector:
        changed["read the prompt without gradient (is_prompt_split)"] = {"is_prompt_split": True}
    if config.micro_batch_size > 1:
        changed["take micro-batches of one (micro_batch_size=1)"] = {"micro_batch_size": 1}
    if not config.is_checkpointing_activations:
        name = "compute activations again (is_checkpointing_activations)"
        changed[name] = {"is_checkpointing_activations": True}
    if config.num_processes > 1 and config.sharding != "fsdp":
        changed["divide weights and optimizer among the processes (sharding=fsdp, sums_once=false)"] = {
            "sharding": "fsdp"
        }
    if config.num_processes > 1 and not config.shards_frozen:
        name = "divide the frozen weights too (shards_frozen=true)"
        changed[name] = {"sharding": "fsdp", "shards_frozen": True}
    if config.sums_once:
        changed["sum gradients in each micro-batch (sums_once=false)"] = {"sums_once": False}
    if config.has_ema:
        changed["keep no moving average (ema_decay=none)"] = {"has_ema": False}
    if not config.is_8bit:
        changed["keep the optimizer's moments in 8 bits (optim.is_8bit)"] = {"is_8bit": True}
    if config.trains_transformer:
        name = "train a LoRA of the DiT instead of all of it (transformer_lora)"
        changed[name] = {"trains_transformer": False, "transformer_lora": LoraSettings()}
    for name, change in changed.items():
        if fits(replace(config, **change)):
            return (name,)
    names: list[str] = []
    for name, change in changed.items():
        names.append(name)
        config = replace(config, **change)
        if fits(config):
            return tuple(names)
    return ()


# --- writing


def _row(name: str, nbytes: float) -> str:
    return f"  {name:26} {nbytes / 1e9:>9.2f} GB"


def duration(hours: float) -> str:
    """In minutes, hours or days."""
    if hours < 1:
        return f"{math.ceil(hours * 60)} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
