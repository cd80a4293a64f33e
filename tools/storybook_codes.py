"""How well a run of storybook-dit draws from perfect codes: shares of right pictures by kind, and a sheet.

python tools/storybook_codes.py RUN --vae FOLDER -n 24 --sheet sheet.png
"""

from __future__ import annotations

import argparse
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from deepgen.models import vae as latent_space
from deepgen.models.config import DEEPGEN_TINY
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.tiny.claims import EditClaim, holds
from deepgen.tiny.codes import to_array, write_code
from deepgen.tiny.example import StorybookExample
from deepgen.tiny.read import read
from deepgen.tiny.splits import SAMPLERS, sample
from deepgen.tiny.stages.dit import encode_scenes, load_vae
from deepgen.tiny.stages.drawn import draw
from deepgen.training.pool import load_weights

_SILENT = 16  # positions of a short prompt
_KINDS = [*SAMPLERS["caption"][0], *SAMPLERS["edit"][0], *SAMPLERS["reasoning edit"][0]]


@torch.no_grad()
def draw_examples(
    dit: DeepGenTransformer2DModel,
    examples: list[StorybookExample],
    references: Tensor | None,
    args: argparse.Namespace,
    seed: int,
) -> Tensor:
    """Latents (N, C, h, w) from noise."""
    codes = torch.from_numpy(to_array([write_code(example) for example in examples]))
    noise = torch.randn(len(codes), 8, 12, 12, generator=torch.Generator().manual_seed(seed))
    steps = torch.linspace(1, 0, args.steps + 1)
    steps = args.shift * steps / (1 + (args.shift - 1) * steps)
    scale = args.guidance if references is None else args.edit_guidance
    with torch.autocast("cpu", torch.bfloat16, enabled=not args.float32):
        return draw(dit, noise, torch.ones(len(codes)), codes, references, steps, scale, _SILENT)


@torch.no_grad()
def main() -> None:
    """Draw, read, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("-n", type=int, default=24)
    parser.add_argument("--kinds", nargs="*", default=_KINDS)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--shift", type=float, default=2.0)
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--edit-guidance", type=float, default=1.25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    vae = load_vae(args.vae)
    dit = DeepGenTransformer2DModel(**DEEPGEN_TINY.transformer).eval()
    load_weights(dit, args.run)
    rows = []
    for kind in args.kinds:
        rng = np.random.default_rng((args.seed, zlib.crc32(kind.encode())))
        examples = [sample(rng, kind) for _ in range(args.n)]
        sources = [example.source for example in examples if example.source is not None]
        references = encode_scenes(vae, sources).float() if sources else None
        latents = draw_examples(dit, examples, references, args, args.seed)
        pixels = latent_space.decode(vae, latents).clamp(-1, 1)
        images = ((pixels + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        print(_line(kind, examples, images), flush=True)
        rows.append(np.concatenate(list(images[:12]), 1))
    if args.sheet is not None:
        Image.fromarray(np.concatenate(rows, 0)).save(args.sheet)


def _line(kind: str, examples: list[StorybookExample], images: np.ndarray) -> str:
    right, unread, kept = 0, 0, []
    for example, image in zip(examples, images, strict=True):
        reading = read(image)
        unread += reading.scene is None
        right += reading.scene is not None and holds(example.claim, reading.scene).is_right
        if isinstance(example.claim, EditClaim):
            found = {thing.cell: thing for thing in reading.things}
            before = {thing.cell: thing for thing in example.claim.source.things}
            kept += [found.get(cell) == before.get(cell) for cell in example.claim.untouched]
    text = f"{kind:20} right {right / len(examples):.2f}  unread {unread / len(examples):.2f}"
    return text + (f"  untouched kept {np.mean(kept):.2f}" if kept else "")


if __name__ == "__main__":
    main()
