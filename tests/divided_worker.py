"""Started by torchrun: draws alone and divided, and says how far the pictures are apart."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image

from deepgen.pipeline import DeepGenPipeline


def main(how: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    torch.accelerator.device_count = lambda: (
        1
    )  # diffusers divides tokens among accelerators; gloo can as well
    pipe = DeepGenPipeline.from_pretrained("tiny", torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    # 16 tokens, as gloo gathers equal shares only
    shown = Image.fromarray(np.linspace(0, 255, 128 * 128 * 3, dtype=np.uint8).reshape(128, 128, 3))
    calls = {
        "picture": {"prompt": "a red circle", "height": 128, "width": 128, "seed": 3},
        "edit": {"prompt": "make the circle blue", "image": shown, "seed": 4, "height": 128, "width": 128},
        "balanced": {"prompt": "a star", "height": 128, "width": 128, "seed": 5, "preset": "balanced"},
    }
    tokens: list[int] = []
    pipe.transformer.transformer_blocks[1].register_forward_pre_hook(
        lambda block, args, kwargs: tokens.append(kwargs["hidden_states"].shape[:2].numel()), with_kwargs=True
    )

    def draw() -> dict[str, tuple[np.ndarray, int]]:
        drawn = {}
        for name, call in calls.items():
            tokens.clear()
            drawn[name] = pipe(output_type="np", **call).images[0], sum(tokens)
        return drawn

    alone = draw()
    pipe.divide(how)
    divided = draw()
    found = {
        name: {
            "apart": float(np.abs(alone[name][0] - divided[name][0]).max()),
            "share of tokens": divided[name][1] / alone[name][1],
        }
        for name in calls
    }
    everyone: list[dict] = [{}] * dist.get_world_size()
    dist.all_gather_object(everyone, found)
    if dist.get_rank() == 0:
        print(json.dumps(everyone), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
