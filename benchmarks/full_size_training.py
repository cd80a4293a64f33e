"""One training step of the 5B model with random weights, in the peak memory of the process and in seconds.

    python benchmarks/full_size_training.py alignment [--size 256] [--output result.json]

`alignment` is stage 1, `sft-24gb` stage 2 with a LoRA of the DiT. The peak is compared with what
`deepgen train plan RECIPE` says of the same step. Weights are kept in bfloat16 and multiplied in float32
(models/precision.py), because this is meant for processors without 16-bit arithmetic.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from full_size import peak_gb

from deepgen.checkpoints.parts import WEIGHTED, Part, build, materialize, named_config
from deepgen.data.mixture import open_mixture
from deepgen.models.config import DEEPGEN_1_0
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import recipe
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from deepgen.training.plan import accelerator, plan, plan_of_recipe
from deepgen.training.pool import load_tokenizer
from deepgen.training.state import TrainState
from deepgen.training.supervised import SupervisedConfig
from deepgen.training.supervised_stage import SupervisedStage

_MIXTURE = """
seed: 0
image: {{rule: fix_pixels, image_size: {size}, unit: 32}}
tasks:
  generate:
    ratio: 1
    sources:
      captions: {{source: shapes, rows: 100}}
"""


def main() -> None:
    """Build, step, report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=("alignment", "sft-24gb"))
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--ema", action="store_true", help="keep the moving average as the recipe does")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="as for deepgen train")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()

    changes = dict(change.split("=", 1) for change in arguments.set)
    config = override(recipe(arguments.recipe), changes)
    assert isinstance(config, SupervisedConfig)
    config = replace(
        config,
        precision="bfloat16",
        is_checkpointing_activations=True,
        micro_batch_size=1,
        global_batch_size=1,
        num_workers=0,
        num_steps=1,
        device="cpu",
        ema_decay=config.ema_decay if arguments.ema else None,
    )
    started = time.perf_counter()
    pipe = random_pipeline()
    built = time.perf_counter()
    print(f"built in {built - started:.0f} s, peak {peak_gb():.1f} GB", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "mixture.yaml")
        file.write_text(_MIXTURE.format(size=arguments.size))
        stage = SupervisedStage(config, Processes("cpu"), pipe, open_mixture(file))
        state = TrainState(stage.modules, config.optim, config.num_steps, config.ema_decay)
        (batch,) = stage.batches(0)
        print(f"prepared, peak {peak_gb():.1f} GB", flush=True)
        ready = time.perf_counter()
        loss = stage.loss(batch).loss
        forward = time.perf_counter()
        print(f"forward {forward - ready:.0f} s, peak {peak_gb():.1f} GB", flush=True)
        loss.backward()
        backward = time.perf_counter()
        print(f"backward {backward - forward:.0f} s, peak {peak_gb():.1f} GB", flush=True)
        norm = state.update()["grad_norm"]
    done = time.perf_counter()
    measured = peak_gb()
    this = accelerator("cpu")
    tokens = batch.tokens.input_ids.shape[1]
    work: dict[str, Any] = {"image_size": arguments.size, "edit_share": 0.0, "prompt_tokens": tokens}
    planned = plan(plan_of_recipe(config, DEEPGEN_1_0, this, **work), this, 1)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "hardware": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "recipe": arguments.recipe,
        "changes": changes,
        "size": arguments.size,
        "prompt_tokens": tokens,
        "has_ema": arguments.ema,
        "trained_parameters": sum(p.numel() for p in state.parameters.values()),
        "loss": loss.item(),
        "grad_norm": norm,
        "seconds_forward": round(forward - ready, 1),
        "seconds_backward": round(backward - forward, 1),
        "seconds_update": round(done - backward, 1),
        "peak_memory_gb": round(measured, 2),
        "planned_memory_gb": round(planned.peak / 1e9, 2),
        "measured_to_planned": round(measured * 1e9 / planned.peak, 3),
    }
    print(json.dumps(result, indent=1))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=1) + "\n")


@dataclass
class _RandomTensor:
    """Stands for a tensor of a file; made when it is read."""

    shape: torch.Size
    dtype: torch.dtype

    def read(self) -> torch.Tensor:
        """Small numbers around 0; around 1 in one dimension, where norms have their scales."""
        tensor = torch.empty(self.shape, dtype=self.dtype).uniform_(-0.03, 0.03)
        return tensor + 1 if len(self.shape) == 1 else tensor


def random_pipeline() -> DeepGenPipeline:
    """DeepGen 1.0 with random bfloat16 weights, and the tokenizer of `shapes`."""
    parts: dict[str, Any] = {}
    for name in WEIGHTED:
        config = named_config(name, DEEPGEN_1_0)
        shapes = build(name, config, torch.bfloat16).state_dict()
        tensors: Any = {key: _RandomTensor(value.shape, torch.bfloat16) for key, value in shapes.items()}
        parts[name] = materialize(Part(name, tensors, config, "random"), torch.bfloat16)
    return DeepGenPipeline(
        **parts,
        scheduler=FlowMatchEulerDiscreteScheduler(**DEEPGEN_1_0.scheduler),
        tokenizer=load_tokenizer(),
        defaults=DEEPGEN_1_0.defaults,
    )


if __name__ == "__main__":
    main()
