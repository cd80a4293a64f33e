"""How well a run of storybook-vlm writes the codes of prompts: shares right, by kind.

python tools/storybook_reading.py RUN -n 64
"""

from __future__ import annotations

import argparse
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import torch

from deepgen.models.prompts import editing_prompt, generation_prompt, tokenize
from deepgen.tiny.claims import CELLS
from deepgen.tiny.codes import NUM_SLOTS, WIDTH, to_array, write_code
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.splits import SAMPLERS, levels_with, sample
from deepgen.tiny.stages.vlm import StorybookVLM, StorybookVLMConfig, to_pixels


def main() -> None:
    """Write, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("-n", type=int, default=64, help="prompts of a kind")
    parser.add_argument("--held-out", action="store_true", help="every level, not only trained")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    stage = StorybookVLM(StorybookVLMConfig(start=args.run))
    stage.modules.eval()
    for ability, (samplers, *_) in SAMPLERS.items():
        for kind in samplers:
            for level in levels_with(kind) if args.held_out else ("trained",):
                rng = np.random.default_rng((0, zlib.crc32(kind.encode())))
                whole, wrong = read(stage, [sample(rng, kind, level) for _ in range(args.n)])
                told = "  ".join(f"{name} {count / args.n:.2f}" for name, count in wrong.most_common())
                name = f"{ability:15} {kind:24} {level:16}"
                print(f"{name} right {whole / args.n:.2f}  wrong: {told or 'none'}", flush=True)


@torch.no_grad()
def read(stage: StorybookVLM, examples: list[StorybookExample]) -> tuple[int, Counter[str]]:
    """How many codes are right as a whole, and in how many each group of attributes is wrong."""
    whole, wrong = 0, Counter[str]()
    by_length = defaultdict(list)  # as prompts arrive: without pads
    for example in examples:
        by_length[len(stage.tokenizer(example.text)["input_ids"])].append(example)
    for alike in by_length.values():
        codes = torch.from_numpy(to_array([write_code(example) for example in alike]))
        sources = [example.source for example in alike if example.source is not None]
        prompts = [
            editing_prompt(example.text, [len(CELLS)]) if sources else generation_prompt(example.text)
            for example in alike
        ]
        pixels = to_pixels(sources) if sources else None
        states, _ = stage.read(tokenize(stage.tokenizer, prompts), pixels)
        written = stage.connector(states)[0][:, -NUM_SLOTS:]
        is_right = torch.ones(len(alike), dtype=torch.bool)
        for name, rows in stage.groups.items():
            wanted, said = ((4 / WIDTH) * code @ rows.T for code in (codes, written))
            is_wrong = ((wanted.amax(-1) > 0.5) & (said.argmax(-1) != wanted.argmax(-1))).any(1)
            wrong[name] += int(is_wrong.sum())
            is_right &= ~is_wrong
        whole += int(is_right.sum())
    return whole, +wrong


if __name__ == "__main__":
    main()
