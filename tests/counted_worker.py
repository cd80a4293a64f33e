"""Runs commands and counts the work that this process does; torchrun starts it, and tests import `counting`.

    torchrun ... counted_worker.py COMMANDS.json OUTPUT

What is counted lies in the library below the commands, so it does not depend on what they say of themselves.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from deepgen.cli.app import main
from deepgen.data.batches import Batches
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.pipeline import DeepGenPipeline
from deepgen.rl.rollout_sampler import RolloutSampler
from deepgen.training.cache import _Encoder


@contextmanager
def counting() -> Iterator[dict[str, Any]]:
    """What is done inside, by this process.

    `samples`: numbers of the training samples that were read; `images`: of those that reinforcement learning
    drew; `seeds`: of calls of the pipeline; `rows`: of a cache, that were encoded; `forward` and `trained`:
    samples that passed through the DiT without and with a gradient.
    """
    done: dict[str, Any] = {name: [] for name in ("samples", "images", "seeds", "rows")}
    done |= {"forward": 0, "trained": 0}
    load, draw, add = Batches.load, RolloutSampler._draw, _Encoder.add
    call, forward = DeepGenPipeline.__call__, DeepGenTransformer2DModel.forward

    def counted_load(batches: Batches, plan: Any, *rest: Any) -> Any:
        done["samples"] += plan.samples
        return load(batches, plan, *rest)

    def counted_draw(sampler: RolloutSampler, *arguments: Any) -> Any:
        rollout = draw(sampler, *arguments)
        done["images"] += rollout.numbers
        return rollout

    def counted_add(encoder: _Encoder, row: int, pixels: Any) -> None:
        done["rows"].append(row)
        add(encoder, row, pixels)

    def counted_call(pipe: DeepGenPipeline, *arguments: Any, **options: Any) -> Any:
        done["seeds"].append(options.get("seed"))
        return call(pipe, *arguments, **options)

    def counted_forward(
        dit: DeepGenTransformer2DModel, hidden_states: Any, *rest: Any, **options: Any
    ) -> Any:
        done["trained" if torch.is_grad_enabled() else "forward"] += len(hidden_states)
        return forward(dit, hidden_states, *rest, **options)

    with (
        mock.patch.object(Batches, "load", counted_load),
        mock.patch.object(RolloutSampler, "_draw", counted_draw),
        mock.patch.object(_Encoder, "add", counted_add),
        mock.patch.object(DeepGenPipeline, "__call__", counted_call),
        mock.patch.object(DeepGenTransformer2DModel, "forward", counted_forward),
    ):
        yield done


def run(commands: list[list[str]]) -> list[dict[str, Any]]:
    """What this process did of each command."""
    found = []
    for words in commands:
        with counting() as done:
            assert main(words) == 0, words
        found.append(done)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    counts = run(json.loads(Path(sys.argv[1]).read_text()))
    Path(sys.argv[2], f"counts-{os.environ['RANK']}.json").write_text(json.dumps(counts))
