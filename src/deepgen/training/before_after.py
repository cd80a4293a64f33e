"""The check after a run: the same prompts and seeds drawn by the model it began with and by what it became.

On one sheet stand captions of the run's own data, each with the picture it is said of, and prompts of the
model's own world, which show what is kept. The model is loaded once: what it became is put into what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from deepgen.data.example import Example, RowError, Size
from deepgen.data.example_images import load_image, ruled_sizes
from deepgen.data.images import ImageError
from deepgen.data.mixture import Mixture
from deepgen.data.png import ImageRecord, read_records, save_png
from deepgen.pipeline import DeepGenPipeline
from deepgen.training.export import Trained, merge_adapters
from deepgen.training.parallel import Processes
from deepgen.training.supervised_settings import BeforeAfterConfig
from deepgen.worlds import SHAPES, STORYBOOK, introduce

FILE = "before_after.png"
_TILE, _GAP, _LINE = 192, 10, 18
_INK, _FAINT, _PAPER = (32, 34, 40), (120, 124, 134), (255, 255, 255)


@dataclass(kw_only=True)
class ComparedPrompt:
    """A row of the sheet.

    Attributes:
        text: the prompt.
        origin: where it is from, in words.
        references: of an edit.
        target: the picture the text is said of, where there is one.
        size: (height, width) to draw; None: the model's own, or an edit's source's.
        before, after: what was drawn.
    """

    text: str
    origin: str
    references: tuple[Image.Image, ...] = ()
    target: Image.Image | None = None
    size: Size | None = None
    before: Image.Image | None = None
    after: Image.Image | None = None


@dataclass(kw_only=True)
class BeforeAfter:
    """All rows, drawn."""

    rows: list[ComparedPrompt] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the sheet as a PNG, with the record of every picture drawn."""
        records: list[ImageRecord] = []
        for row in self.rows:
            for image in (row.before, row.after):
                records += read_records(image) if image is not None else []
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(sheet(self.rows), path, records)


def compare(
    trained: Trained,
    config: BeforeAfterConfig,
    device: torch.device,
    prompts: Sequence[str] = (),
) -> BeforeAfter:
    """Draw by the model a run began with, then by what it became.

    Args:
        trained: the run.
        config: which prompts.
        device: where it is drawn.
        prompts: further ones.

    Raises:
        ValueError, OSError: there is nothing to draw, or the run or its data cannot be read.
    """
    dtype = trained.config.dtype(device)
    pipe, mixture = _opened(trained, config, device)
    rows = [ComparedPrompt(text=text, origin="given") for text in prompts]
    if mixture is not None:
        rows += _captions(mixture, config.num_captions)
    examples = introduce(pipe.config.get("world"))["example_prompts"] if pipe.config.get("world") else []
    rows += [ComparedPrompt(text=text, origin="the model's own") for text in examples[: config.num_examples]]
    if not rows:
        raise ValueError(f"{trained.run_dir} has no data to take captions from; give --prompt TEXT")
    pipe.set_progress_bar_config(disable=True)
    pipe.to(device)
    for row, image in zip(rows, _drawn(pipe, rows, config), strict=True):
        row.before = image
    name = pipe.model_name
    merge_adapters(trained.become(pipe))
    for part in (pipe.vlm, pipe.connector, pipe.transformer):
        for parameter in part.parameters():
            parameter.data = parameter.data.to(device, dtype)  # what was trained came in float32
    pipe.model_name = f"{name} trained in {trained.run_dir}"
    for part in (pipe.vlm, pipe.connector, pipe.transformer):
        part.eval()
    for row, image in zip(rows, _drawn(pipe, rows, config), strict=True):
        row.after = image
    return BeforeAfter(rows=rows)


def _opened(
    trained: Trained, config: BeforeAfterConfig, device: torch.device
) -> tuple[DeepGenPipeline, Mixture | None]:
    """The model the run began with, and its data where captions of it are wanted."""
    run = trained.config
    if config.num_captions and run.data is not None:
        return replace(run, cache=None).opened(Processes(run.device))  # pictures are shown, not encoded
    return run.start.load(run.dtype(device)), None


def _drawn(pipe: DeepGenPipeline, rows: Sequence[ComparedPrompt], config: BeforeAfterConfig) -> Iterator[Any]:
    """A picture of each row."""
    for number, row in enumerate(rows):
        height, width = row.size or (None, None)
        if row.references:
            height = width = None
        yield pipe(
            row.text,
            image=list(row.references) or None,
            height=height,
            width=width,
            seed=config.seed + number,
            preset="turbo" if pipe.is_student else config.preset,
        ).images[0]


def _captions(mixture: Mixture, count: int) -> list[ComparedPrompt]:
    """Different captions of the data, its sources in turn; of drawn worlds only where nothing else is."""
    drawn = {entry.name for entry in mixture.config.sources if entry.source in (SHAPES, STORYBOOK)}
    names = [name for name in mixture.sources if name not in drawn] or list(mixture.sources)
    streams = [_different(mixture, name, count) for name in names]
    turns = [
        row for group in zip(*(_padded(stream, count) for stream in streams), strict=True) for row in group
    ]
    return [row for row in turns if row is not None][:count]


def _different(mixture: Mixture, name: str, count: int) -> list[ComparedPrompt]:
    source, said, rows = mixture.sources[name], set[str](), list[ComparedPrompt]()
    for place in range(min(len(source), 50 * count)):
        if len(rows) == count:
            break
        try:
            example = source[place]
            if example.text in said:
                continue
            rows.append(_row(mixture, example))
        except (RowError, ImageError):
            continue  # counted by the training
        said.add(example.text)
    return rows


def _row(mixture: Mixture, example: Example) -> ComparedPrompt:
    size, _ = ruled_sizes(replace(example, size=None, reference_sizes=None), mixture.config.image)
    return ComparedPrompt(
        text=example.text,
        origin="trained on",
        references=tuple(load_image(image) for image in example.references),
        target=load_image(example.target),
        size=size,
    )


def _padded(rows: list[Any], count: int) -> list[Any]:
    return [*rows, *([None] * (count - len(rows)))]


# --- the sheet ----------------------------------------------------------------------------------------------


def sheet(rows: Sequence[ComparedPrompt]) -> Image.Image:
    """Rows of references and target, before, after; the prompt above each."""
    num_given = max(1, *(len(row.references) + (row.target is not None) for row in rows))
    titles = [*[""] * (num_given - 1), "your data", "before", "after"]
    height = _TILE + 2 * _LINE + _GAP
    width = _GAP + len(titles) * (_TILE + _GAP)
    page = Image.new("RGB", (width, 2 * _LINE + len(rows) * height), _PAPER)
    pen = ImageDraw.Draw(page)
    small, large = ImageFont.load_default(12), ImageFont.load_default(15)
    for column, title in enumerate(titles):
        pen.text((_GAP + column * (_TILE + _GAP), _LINE // 2), title, font=large, fill=_INK)
    for number, row in enumerate(rows):
        top = 2 * _LINE + number * height
        pen.text((_GAP, top), _fitted(row.text, small, width - 2 * _GAP), font=small, fill=_INK)
        given = [*row.references, *([row.target] if row.target is not None else [])]
        tiles = [*[None] * (num_given - len(given)), *given, row.before, row.after]
        for column, image in enumerate(tiles):
            left = _GAP + column * (_TILE + _GAP)
            if image is None:
                note = row.origin if column == num_given - 1 else ""
                pen.text((left, top + _LINE), note, font=small, fill=_FAINT)
            else:
                page.paste(_tile(image), (left, top + _LINE))
    return page


def _tile(image: Image.Image) -> Image.Image:
    """As large as fits; a small picture is enlarged so that one sees its pixels."""
    scale = _TILE / max(image.size)
    size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
    return image.convert("RGB").resize(
        size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    )


def _fitted(text: str, font: Any, width: int) -> str:
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
