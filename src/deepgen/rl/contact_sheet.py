"""A contact sheet of a rollout: each group in a row, each image with its reward and its advantage.

The file keeps the settings of its images. Noise comes from the run's seed and the number of the image, not
from a seed of its own, so a record says none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from deepgen.data.png import ImageRecord, save_png
from deepgen.data.prompts import Prompt

_TILE, _LINE, _MARGIN = 128, 12, 4
_GOOD, _BAD, _PLAIN = (0, 140, 0), (190, 0, 0), (90, 90, 90)


class ContactSheet:
    """Writes `samples/step-NNNNNNNN.png` from the last rollout.

    Args:
        stage: a stage of reinforcement learning.
        every: optimizer steps between two sheets.
        num_groups: rows.
    """

    def __init__(self, stage: Any, every: int, num_groups: int) -> None:
        self.stage, self.every, self.num_groups = stage, every, num_groups

    def __call__(self, step: int, output_dir: Path) -> dict[str, tuple[float, float]]:
        """Draw; nothing to log."""
        records: list[ImageRecord] = []
        rows = self._rows(records)
        if rows:
            folder = output_dir / "samples"
            folder.mkdir(exist_ok=True)
            save_png(_stacked(rows), folder / f"step-{step:08d}.png", records)
        return {}

    def _record(self, prompt: Prompt, image: Image.Image) -> ImageRecord:
        config, policy = self.stage.config, self.stage.policy
        return ImageRecord(
            prompt=prompt.text,
            seed=None,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=policy.guidance_scale(is_edit=bool(prompt.references)),
            width=image.width,
            height=image.height,
            solver=config.sampler,
            model=policy.pipe.model_name,
        )

    def _rows(self, records: list[ImageRecord]) -> list[Image.Image]:
        """A picture of each group; adds the records of its images."""
        buffer, count = self.stage.buffer, self.stage.config.group_size
        rewards, worth = buffer.rewards, buffer.advantages.values.tolist()
        place = {number: n for n, number in enumerate(rewards.numbers.tolist())}
        rows = []
        for rollout in buffer.rollouts:
            for begin in range(0, len(rollout.images), count):
                if len(rows) == self.num_groups:
                    return rows
                if rollout.numbers[begin] not in place:  # a flat group, replaced by another
                    continue
                prompt = rollout.prompts[rollout.rows[begin]].prompt
                tiles = [_tile(image, "reference", _PLAIN) for image in prompt.references]
                for n in range(begin, begin + count):
                    at = place[rollout.numbers[n]]
                    records.append(self._record(prompt, rollout.images[n]))
                    told = " ".join(
                        f"{name} {rewards.rewards[at, column]:.2f}"
                        for column, name in enumerate(rewards.names)
                        if rewards.valid[at, column]
                    )
                    advantage = worth[at]
                    color = _GOOD if advantage > 0 else _BAD if advantage < 0 else _PLAIN
                    tiles.append(_tile(rollout.images[n], f"{advantage:+.2f}  {told or 'no score'}", color))
                rows.append(_row(prompt.text, tiles))
        return rows


def _tile(image: Image.Image, words: str, color: tuple[int, int, int]) -> Image.Image:
    shown = image.copy()
    shown.thumbnail((_TILE, _TILE))
    left, top = (_TILE - shown.width) // 2 + _MARGIN, (_TILE - shown.height) // 2 + _MARGIN
    tile = Image.new("RGB", (_TILE + 2 * _MARGIN, _TILE + _LINE + 2 * _MARGIN), "white")
    draw = ImageDraw.Draw(tile)
    right, bottom = left + shown.width + _MARGIN - 1, top + shown.height + _MARGIN - 1
    draw.rectangle((left - _MARGIN, top - _MARGIN, right, bottom), fill=color)
    tile.paste(shown, (left, top))
    draw.text((2, _TILE + 2 * _MARGIN), words[:24], fill=color)
    return tile


def _row(words: str, tiles: list[Image.Image]) -> Image.Image:
    row = Image.new("RGB", (sum(tile.width for tile in tiles), tiles[0].height + _LINE + 2), "white")
    ImageDraw.Draw(row).text((2, 0), words[: row.width // 6], fill="black")
    left = 0
    for tile in tiles:
        row.paste(tile, (left, _LINE + 2))
        left += tile.width
    return row


def _stacked(rows: list[Image.Image]) -> Image.Image:
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet
