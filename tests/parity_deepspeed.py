"""A checkpoint folder of the original's own trainer: its tensors, and what the original draws with them.

The recorded pictures were drawn with the float16 tensors of `expected.safetensors`. Measured: with the
float32 weights of the folder the latents, of up to 18.8, differ by 1.2e-2, with the rounded ones by
3e-5. So what was trained is rounded to float16 here too, before drawing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from deepgen.checkpoints.checkpoint import open_native
from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.layouts import detect
from deepgen.checkpoints.verify import verify
from deepgen.models import vae as latent_space
from deepgen.pipeline import DeepGenPipeline

if TYPE_CHECKING:
    from parity import Section

DRAWN = (2e-4, 0.0)
TENSORS = 776
# The negative prompt of the original's edits.
NEGATIVE = (
    "blurry, low quality, low resolution, distorted, deformed, broken content, missing parts, damaged "
    "details, artifacts, glitch, noise, pixelated, grainy, compression artifacts, bad composition, "
    "wrong proportion, incomplete editing, unfinished, unedited areas."
)
CASES: dict[str, dict[str, Any]] = {
    "t2i_en": {
        "prompt": "a photo of a blue pizza and a yellow baseball glove",
        "height": 64,
        "width": 64,
        "num_inference_steps": 4,
    },
    "t2i_zh_wide": {
        "prompt": "一只戴着红色围巾的狐狸坐在雪地里，背景是远山，水墨画风格",
        "height": 96,
        "width": 160,
        "num_inference_steps": 6,
    },
    "edit_one": {
        "prompt": "replace the sky by a starry night",
        "negative_prompt": NEGATIVE,
        "height": 96,
        "width": 128,
        "num_inference_steps": 5,
    },
}
SEEDS = {"t2i_en": 11, "t2i_zh_wide": 12, "edit_one": 20}


def run_deepspeed(folder: Path) -> Iterator[Section]:
    """Tensors, then pictures drawn after loading the folder directly and after converting it both ways."""
    from parity import Section

    source, base = folder / "sft" / "iter_9.pth", folder / "base"
    bases = {"vlm": base / "qwen", "transformer": base / "sd3", "vae": base / "sd3"}
    section = Section("ds tensors")
    check_tensors(section, source, folder / "sft" / "expected.safetensors")
    yield section
    golden = load_file(folder / "sft" / "generate.safetensors")
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("direct", "folder", "native"):
            place, options = source, dict(bases)
            if name != "direct":
                place = Path(scratch) / name
                layout = "deepgen" if name == "folder" else "native"
                convert(source, place, layout=layout, lora="adapter", **bases, progress=False)
            if name == "folder":
                options = {}
            pipe = DeepGenPipeline.from_pretrained(
                place, torch_dtype=torch.float32, lora="adapter", **options
            )
            round_trained(pipe)
            section = Section(f"ds {name}")
            check_images(section, pipe, golden)
            yield section


def check_tensors(section: Section, source: Path, expected: Path) -> None:
    """Every tensor of the original's loader, in float16 as it was recorded; `verify` finds no fault."""
    found, golden = open_native(detect(source))[0], load_file(expected)
    if set(found) != set(golden) or len(golden) != TENSORS:
        section.failed.append(f"names differ: {sorted(set(found) ^ set(golden))[:5]}")
    for name in set(found) & set(golden):
        section.check(name, found[name].read().half(), golden[name], (0.0, 0.0))
    section.failed += [str(problem) for problem in verify(source).problems]


def round_trained(pipe: DeepGenPipeline) -> None:
    """Round to float16 what the run trained: connector, DiT, and the factors of the VLM's LoRA."""
    factors = [value for name, value in pipe.vlm.named_parameters() if ".lora_" in name]
    parts: list[nn.Module] = [pipe.connector, pipe.transformer]
    for value in [*factors, *(value for part in parts for value in part.parameters())]:
        value.data = value.data.half().float()


def check_images(section: Section, pipe: DeepGenPipeline, golden: dict[str, Tensor]) -> None:
    """Final latents and pixels of each case."""
    pipe.set_progress_bar_config(disable=True)
    for name, case in CASES.items():
        size = (1, 16, case["height"] // 8, case["width"] // 8)
        noise = torch.randn(size, generator=torch.Generator().manual_seed(SEEDS[name]))
        image = golden.get(f"{name}.reference")
        shown = {} if image is None else {"image": Image.fromarray(image.numpy())}
        answer: Any = pipe(
            **case,
            **shown,
            latents=noise,
            guidance_scale=4.0,
            reference_posterior="mode",
            output_type="latent",
        )
        latents = torch.stack(list(answer.images))
        section.check(f"{name}.latents", latents, golden[f"{name}.latents"], DRAWN)
        section.check(f"{name}.image", latent_space.decode(pipe.vae, latents), golden[f"{name}.image"], DRAWN)
