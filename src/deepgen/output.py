"""What a call of the pipeline returns: the pictures, and how each was made.

The record of a picture is the one that the command line and the server write. It goes along with the picture:
in `records`, and of Pillow pictures also in their `info`. `save` writes it into the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from deepgen.data.image_files import kind_of, numbered_paths, save_image
from deepgen.data.png import ImageRecord, attach_record
from deepgen.generation import ResolvedSettings
from deepgen.prompt_text import PromptCut


@dataclass
class DeepGenPipelineOutput(BaseOutput):
    """Pictures, in the order of the prompts, and the seed that makes each of them alone (None where none was
    used).

    `drawn_sizes` are the (height, width) in pixels at which the model drew each: an edit of a large picture
    is drawn smaller and enlarged to the size of its source. `prompt_cuts` says what was left
    out of each prompt that was too long to be read whole. `records` are the settings of each picture; None
    where embeddings were given instead of prompts.
    """

    images: list[Image.Image] | list[np.ndarray] | list[Tensor] | np.ndarray | Tensor
    seeds: list[int] | None = None
    drawn_sizes: list[tuple[int, int]] | None = None
    prompt_cuts: list[PromptCut] = field(default_factory=list)
    records: list[ImageRecord] | None = None

    def save(self, path: str | Path, *, metadata: bool = True, quality: int | None = None) -> list[Path]:
        """Write the pictures, each with its record, in the format that the name says.

        Args:
            path: `out.png`, `.jpg` or `.webp`; several pictures become `out-0.png`, `out-1.png`, ...
            metadata: False leaves the record out.
            quality: of JPEG and WebP, 0 to 100; default 95.

        Returns:
            The files. `deepgen info FILE` prints the record of one.

        Raises:
            ValueError: the name has another suffix, or the pictures are arrays or tensors.
        """
        path = Path(path)
        kind_of(path, "path")
        images: Any = self.images
        if not all(isinstance(image, Image.Image) for image in images):
            raise ValueError("only Pillow pictures can be saved; call the pipeline with output_type='pil'")
        paths = numbered_paths(path, len(images))
        path.parent.mkdir(parents=True, exist_ok=True)
        records = self.records if metadata and self.records else [None] * len(images)
        for image, target, record in zip(images, paths, records, strict=True):
            save_image(image, target, record, quality)
        return paths


def make_records(
    settings: ResolvedSettings,
    prompts: Sequence[str],
    seeds: Sequence[int | None],
    *,
    model: str,
    solver: str,
    names: Sequence[Sequence[str]],
    mask: str | None,
    sizes: Sequence[tuple[int, int]],
    drawn_sizes: Sequence[tuple[int, int]],
    prompt_cuts: Sequence[PromptCut],
    rows: Sequence[int],
) -> list[ImageRecord]:
    """The record of each sample of a call.

    Args:
        settings: of the call; a list of negative prompts has one for each prompt.
        prompts: as they were given.
        seeds: of each sample.
        model: its name.
        solver: the pipeline's.
        names: per prompt, of its references, where they have names.
        mask: its name.
        sizes: (height, width) of each sample's file, pixels.
        drawn_sizes: (height, width) the model drew of each.
        prompt_cuts: of all prompts of the call.
        rows: the prompt of each sample.
    """
    records = []
    for sample, row in enumerate(rows):
        negative = settings.negative_prompt
        if negative is not None and not isinstance(negative, str):
            negative = list(negative)[row]
        called = {f"{name} {row}" for name in ("prompt", "negative_prompt")}
        called |= {"negative_prompt", *(("prompt",) if len(prompts) == 1 else ())}
        records.append(
            replace(settings, negative_prompt=negative).record(
                prompt=prompts[row],
                seed=seeds[sample],
                model=model,
                solver=solver,
                image=names[row] if names else (),
                mask=mask,
                size=sizes[sample],
                drawn_size=drawn_sizes[sample],
                prompt_cuts=[cut for cut in prompt_cuts if cut.name in called],
            )
        )
    return records


def attach_records(images: Any, records: Sequence[ImageRecord] | None) -> None:
    """Lets Pillow pictures carry their records; arrays and tensors cannot."""
    for image, record in zip(images, records or (), strict=False):
        if isinstance(image, Image.Image):
            attach_record(image, record)


def source_name(source: Any) -> str | None:
    """The file's name of a picture that was given by its path, or opened from one."""
    path = source if isinstance(source, str | Path) else getattr(source, "filename", None)
    return Path(path).name if path and isinstance(path, str | Path) else None


def source_names(image: Any, count: int) -> list[list[str]]:
    """Per prompt, the names of those of its references that have one; as `read_references` reads `image`."""
    if not isinstance(image, list | tuple):
        rows = [[image]] * count
    elif count == 1 and not any(isinstance(row, list | tuple) for row in image):
        rows = [list(image)]
    else:
        rows = [list(row) if isinstance(row, list | tuple) else [row] for row in image]
    return [[name for one in row if (name := source_name(one))] for row in rows]
