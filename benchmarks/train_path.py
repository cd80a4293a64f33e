"""Samples per second and FLOP of a training step: the original's path against ours, for both stages.

    python benchmarks/train_path.py [--sizes shapes small] [--rounds 7] [--output result.json]

Both paths run in this process on the same weights, pictures, prompts, noise and noise levels, one optimizer
step each in turn, so that a busy machine slows both. A step is one cycle of the published mixture: stage 1
accumulates three micro-batches of captions and one of edits, stage 2 two and one, four samples in each.
Moving averages, which the original's recipes leave off, are off.

"cached" leaves out what is constant: moments of the VAE and features of the vision tower come from memory.
Before anything is timed, losses and gradients of the paths are compared where they have to agree: on
prompts of equal length, where the original pads nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from original_training import OriginalStage, OriginalTransformer, OriginalUpdate, original_step
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, Qwen2_5_VLConfig

from deepgen.data.batches import MicroBatch, micro_batch_parts
from deepgen.data.pixels import bytes_to_pixels
from deepgen.embedded import embedded_folder
from deepgen.models.config import DEEPGEN_SHAPES, Architecture
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import DeepGenVLM
from deepgen.pipeline import DeepGenPipeline
from deepgen.training.adapters import LoraSettings
from deepgen.training.cache import latent_moments
from deepgen.training.parallel import Processes
from deepgen.training.stages.alignment import AlignmentConfig
from deepgen.training.stages.sft import SFTConfig
from deepgen.training.state import TrainState
from deepgen.training.supervised import SupervisedConfig
from deepgen.training.supervised_stage import SupervisedStage

RESULT = Path(__file__).parent / "results" / "train_path.json"
MICRO_BATCH = 4
TARGETS = {("stage 1", "cached"): 1.5, ("stage 2", "ours"): 1.25}

# The stored VLM of flat shapes ends at its deepest tap; the original runs one layer more.
FLAT = replace(
    DEEPGEN_SHAPES,
    vlm={**DEEPGEN_SHAPES.vlm, "text_config": {**DEEPGEN_SHAPES.vlm["text_config"], "num_hidden_layers": 6}},
)

# DeepGen 1.0 with widths divided by eight, depths by three and sequences by four, so that every part keeps
# about its share of the cost: VAE 1, VLM 1, connector 0.2, DiT 2 for a caption.
SMALL = Architecture(
    name="deepgen-small",
    connector={
        "hidden_size": 256,
        "intermediate_size": 1493,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_think_tokens": 32,
        "vlm_hidden_size": 256,
        "vlm_num_layers": 12,
        "tap_stride": 2,
        "pooled_projection_dim": 256,
        "joint_attention_dim": 512,
        "variant": "scb",
    },
    transformer={
        "sample_size": 32,
        "patch_size": 2,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 8,
        "attention_head_dim": 64,
        "num_attention_heads": 3,
        "joint_attention_dim": 512,
        "caption_projection_dim": 192,
        "pooled_projection_dim": 256,
        "pos_embed_max_size": 96,
        "dual_attention_layers": (0, 1, 2, 3),
        "qk_norm": "rms_norm",
    },
    vae={
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 16,
        "block_out_channels": (8, 16, 32, 32),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "layers_per_block": 2,
        "norm_num_groups": 8,
        "sample_size": 256,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    vlm={
        "text_config": {
            **DEEPGEN_SHAPES.vlm["text_config"],
            "hidden_size": 256,
            "intermediate_size": 1376,
            "num_hidden_layers": 12,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [8, 12, 12],
            },
        },
        "vision_config": {
            **DEEPGEN_SHAPES.vlm["vision_config"],
            "depth": 11,
            "hidden_size": 160,
            "intermediate_size": 428,
            "num_heads": 2,
            "out_hidden_size": 256,
            "fullatt_block_indexes": [7],
        },
        **{key: value for key, value in DEEPGEN_SHAPES.vlm.items() if not key.endswith("_config")},
    },
    scheduler={"num_train_timesteps": 1000, "shift": 3.0},
)


@dataclass(frozen=True)
class Size:
    """A model, the side of its pictures, and the fewest and most words of captions and instructions."""

    architecture: Architecture
    image_size: int
    caption: tuple[int, int]
    instruction: tuple[int, int]
    lora_rank: int  # in the proportion of 64 to 2048


SIZES = {
    "shapes": Size(FLAT, 96, (5, 30), (3, 12), 4),
    "small": Size(SMALL, 256, (5, 30), (3, 12), 8),
}


def remembered(stage: SupervisedStage, batch: MicroBatch) -> MicroBatch:
    """The micro-batch as a cache gives it: with what no training changes, kept in memory."""
    shown = [bytes_to_pixels(images) for images in batch.references]
    moments = [latent_moments(stage.pipe.vae, x) for x in (bytes_to_pixels(batch.target), *shown)]
    features = [torch.stack(stage.pipe.vlm.image_features(list(x))) for x in shown]
    return replace(batch, moments=[x.detach() for x in moments], features=[x.detach() for x in features])


# --- what is compared ---------------------------------------------------------------------------------------


def build_pipeline(architecture: Architecture, transformer: type[DeepGenTransformer2DModel]) -> Any:
    """Random weights, the same in every call."""
    torch.manual_seed(0)
    connector = StackedChannelBridge.from_config(architecture.connector)
    for projector in (connector.pooled_projector, connector.context_projector):
        torch.nn.init.normal_(projector.weight, std=0.02)  # from zero, the prompt would not reach the loss
    return DeepGenPipeline(
        vlm=DeepGenVLM._from_config(Qwen2_5_VLConfig(**architecture.vlm), attn_implementation="sdpa"),
        connector=connector,
        transformer=transformer.from_config(architecture.transformer),
        vae=AutoencoderKL.from_config(architecture.vae),
        scheduler=FlowMatchEulerDiscreteScheduler(**architecture.scheduler),
        tokenizer=AutoTokenizer.from_pretrained(embedded_folder("shapes") / "tokenizer"),
    )


def build_paths(stage: str, size: Size) -> dict[str, SupervisedStage]:
    """The three stages to measure, on models of equal weights."""
    lora = LoraSettings(rank=size.lora_rank, alpha=2 * size.lora_rank)
    config: SupervisedConfig = AlignmentConfig() if stage == "stage 1" else SFTConfig(vlm_lora=lora)
    blocks = 4 if stage == "stage 1" else 3
    config = replace(
        config,
        global_batch_size=blocks * MICRO_BATCH,
        micro_batch_size=MICRO_BATCH,
        ema_decay=None,
        device="cpu",
    )
    processes = Processes("cpu")
    original = replace(
        config,
        padding="visible",
        is_prompt_split=False,
        vlm_lora=config.vlm_lora and replace(config.vlm_lora, targets="upstream"),
    )
    ours = DeepGenTransformer2DModel
    return {
        "original": OriginalStage(
            original, processes, build_pipeline(size.architecture, OriginalTransformer), None
        ),
        "ours": SupervisedStage(config, processes, build_pipeline(size.architecture, ours), None),
        "cached": SupervisedStage(config, processes, build_pipeline(size.architecture, ours), None),
    }


def draw_batches(stage: str, size: Size, tokenizer: Any, is_even: bool = False) -> list[MicroBatch]:
    """One cycle of the mixture, in the order of the data; `is_even` gives every prompt the same length."""
    rng = np.random.default_rng(0)
    words = [word for word in tokenizer.get_vocab() if word.isalpha()]
    batches = []
    for block in range(4 if stage == "stage 1" else 3):
        task = "edit" if block == 0 else "generate"
        low, high = size.instruction if task == "edit" else size.caption
        lengths = [high if is_even else rng.integers(low, high + 1) for _ in range(MICRO_BATCH)]
        texts = [" ".join(rng.choice(words, length)) for length in lengths]
        shape = (MICRO_BATCH, 3, size.image_size, size.image_size)
        images = [torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8)) for _ in range(2)]
        samples = list(range(MICRO_BATCH * block, MICRO_BATCH * (block + 1)))
        keys = [f"row {n}" for n in samples]
        batches.append(
            MicroBatch(task, texts, images[0], images[1:] if task == "edit" else [], samples, keys)
        )
    return batches


def regroup(batches: Sequence[MicroBatch]) -> list[MicroBatch]:
    """The same samples in the micro-batches that our data layer makes of them."""
    regrouped = []
    for task in ("edit", "generate"):
        own = [batch for batch in batches if batch.task == task]
        rows = {n: (batch, index) for batch in own for index, n in enumerate(batch.samples)}
        length = {n: len(batch.texts[index]) for n, (batch, index) in rows.items()}
        for part in micro_batch_parts(list(rows), length, MICRO_BATCH):
            found = [rows[n] for n in part]
            regrouped.append(
                MicroBatch(
                    task,
                    [batch.texts[index] for batch, index in found],
                    torch.stack([batch.target[index] for batch, index in found]),
                    [torch.stack([batch.references[0][i] for batch, i in found])] if task == "edit" else [],
                    list(part),
                    [batch.keys[index] for batch, index in found],
                )
            )
    return regrouped


# --- measuring ----------------------------------------------------------------------------------------------


def agreement(
    paths: Mapping[str, SupervisedStage], batches: Mapping[str, Sequence[MicroBatch]]
) -> tuple[float, float]:
    """Largest relative difference of a loss, and of the connector's gradient as a share of its largest."""
    losses, gradients = {}, {}
    for name, stage in paths.items():
        found = []
        for batch in batches[name]:
            sample_losses = stage.losses(stage.prepare(batch, is_training=False))  # no caption dropped
            sample_losses.sum().backward()
            found.append(sample_losses.detach())
        losses[name] = torch.cat(found)
        connector = stage.pipe.connector.parameters()
        gradients[name] = torch.cat([p.grad.flatten() for p in connector if p.grad is not None])
        stage.modules.zero_grad()
    loss, gradient = losses["original"], gradients["original"]
    return (
        max(float(((other - loss).abs() / loss).max()) for other in losses.values()),
        max(float((other - gradient).abs().max() / gradient.abs().max()) for other in gradients.values()),
    )


def our_step(stage: SupervisedStage, state: TrainState, micro_batches: Sequence[MicroBatch]) -> float:
    """What the training loop does in a step; the sum of the losses over its samples."""
    total = 0.0
    for batch in micro_batches:
        result = stage.loss(stage.prepare(batch))
        result.loss.backward()
        total += result.metrics["loss"][0]
    state.update()
    return total


def measure(stage: str, size: Size, rounds: int) -> dict[str, Any]:
    """Medians of one stage at one size."""
    paths = build_paths(stage, size)
    tokenizer = paths["ours"].pipe.tokenizer
    even, batches = draw_batches(stage, size, tokenizer, True), draw_batches(stage, size, tokenizer)

    def as_cached(given: Sequence[MicroBatch]) -> list[MicroBatch]:
        with torch.no_grad():
            return [remembered(paths["cached"], batch) for batch in given]

    evens = {"original": even, "ours": even, "cached": as_cached(even)}
    loss_difference, gradient_difference = agreement(paths, evens)
    given = {"original": batches, "ours": regroup(batches), "cached": as_cached(regroup(batches))}

    updates = {
        name: OriginalUpdate(path.modules, path.config.optim, path.config.num_steps)
        if name == "original"
        else TrainState(path.modules, path.config.optim, path.config.num_steps, None)
        for name, path in paths.items()
    }

    def step(name: str) -> float:
        run = original_step if name == "original" else our_step
        return run(paths[name], updates[name], given[name])

    flops, seconds = {}, {name: [] for name in paths}
    for name in paths:  # the first step also makes the optimizer's state
        counter: Any = FlopCounterMode(display=False, custom_mapping=_CPU_ATTENTION)
        counter.mod_tracker = _NoModules()
        with counter:
            step(name)
        flops[name] = counter.get_total_flops()
    for _ in range(rounds):
        for name in paths:
            started = time.perf_counter()
            step(name)
            seconds[name].append(time.perf_counter() - started)
    samples = sum(len(batch.samples) for batch in batches)
    return {
        "stage": stage,
        "size": size.architecture.name,
        "samples": samples,
        "loss_difference": loss_difference,
        "gradient_difference": gradient_difference,
        "paths": {
            name: {
                "samples_per_second": round(samples / median(seconds[name]), 3),
                "speed_ratio": round(median(_ratios(seconds["original"], seconds[name])), 3),
                "speed_ratio_range": [
                    round(f(_ratios(seconds["original"], seconds[name])), 3) for f in (min, max)
                ],
                "gflop_per_sample": round(flops[name] / samples / 1e9, 3),
                "flop_ratio": round(flops["original"] / flops[name], 3),
                "target": TARGETS.get((stage, name)),
            }
            for name in paths
        },
    }


def _ratios(baseline: Sequence[float], times: Sequence[float]) -> list[float]:
    """Round by round, so that what slows the machine for a minute slows both."""
    return [one / other for one, other in zip(baseline, times, strict=True)]


class _NoModules:
    """Replaces the counter's tracking by module, which fails where a layer runs without gradient."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _attention_flop(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    batch, heads, queries, width = query
    return 4 * batch * heads * queries * key[2] * width


def _attention_backward_flop(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return 5 * _attention_flop(query, key, value) // 2  # scores once more, and four gradients


# The counter knows the kernels of other devices. Masked scores count in both paths, causal ones too.
_CPU_ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward_flop,
}


# --- reporting ----------------------------------------------------------------------------------------------


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| model | stage | path | samples/s | faster | GFLOP a sample | FLOP saved | target |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        for name, row in result["paths"].items():
            low, high = row["speed_ratio_range"]
            faster = "1" if name == "original" else f"{row['speed_ratio']:.2f} ({low:.2f}-{high:.2f})"
            lines.append(
                f"| {result['size'].removeprefix('deepgen-')} | {result['stage']} | {name} "
                f"| {row['samples_per_second']:.2f} | {faster} | {row['gflop_per_sample']:.3g} "
                f"| {row['flop_ratio']:.2f} | {row['target'] or ''} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    results = []
    for size in arguments.sizes:
        for stage in ("stage 1", "stage 2"):
            results.append(measure(stage, SIZES[size], arguments.rounds))
            print(
                f"{size}, {stage}: on prompts of equal length the paths differ by "
                f"{results[-1]['loss_difference']:.1e} in a loss and "
                f"{results[-1]['gradient_difference']:.1e} in the connector's gradient",
                flush=True,
            )
    print(table(results))
    report = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": f"{_processor()}, 1 thread, float32",
        "versions": {m.__name__: m.__version__ for m in (torch, diffusers, transformers)},
        "rounds": arguments.rounds,
        "results": results,
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
