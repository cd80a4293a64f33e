"""Sizes: what a model can draw, what a call draws, and how large references are read.

An edit comes back in the geometry of its source: it is drawn at the nearest size the model has, and brought
back afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from deepgen.data.pixels import to_pixels
from deepgen.data.resize import nearest_valid_sizes, reference_size
from deepgen.models.vlm import PIXELS_PER_TOKEN

References = Sequence[Sequence[Image.Image]]  # per prompt, its pictures
Size = tuple[int, int]  # (height, width), pixels


@dataclass(frozen=True)
class SizeRules:
    """The sizes of one model.

    Attributes:
        unit: heights and widths are multiples of this.
        longest: side the model has positions for.
        height, width: of what is drawn where nothing is said.
    """

    unit: int
    longest: int
    height: int
    width: int

    def check(self, height: int, width: int) -> None:
        """ValueError unless the model can draw this size."""
        if height < self.unit or width < self.unit or height % self.unit or width % self.unit:
            nearest = " or ".join(f"{w}x{h}" for h, w in nearest_valid_sizes(height, width, self.unit))
            raise ValueError(
                f"size {width}x{height} (width x height) is not a multiple of {self.unit} on both sides; "
                f"try {nearest}"
            )
        if max(height, width) > self.longest:
            raise ValueError(
                f"size {width}x{height} is too large: this model's positions end at {self.longest} pixels "
                "a side"
            )

    def drawn(
        self, references: References | None, count: int, height: int | None, width: int | None
    ) -> tuple[list[Size], list[Size | None]]:
        """Per prompt, the size that is drawn and the one it is brought back to (None: as drawn).

        Args:
            references: per prompt, its pictures; None for text to image.
            count: prompts.
            height: pixels; default the model's own, or for an edit its first reference's.
            width: as `height`.
        """
        if references is None or height is not None or width is not None:
            size = (height or self.height, width or self.width)
            self.check(*size)
            return [size] * count, [None] * count
        sources = [(row[0].height, row[0].width) for row in references]
        sizes = [reference_size(source, max(self.height, self.width), PIXELS_PER_TOKEN) for source in sources]
        for size in sizes:
            self.check(*size)
        back = [None if size == source else source for size, source in zip(sizes, sources, strict=True)]
        return sizes, back

    def read(self, references: References, height: int | None, width: int | None) -> list[list[Tensor]]:
        """References as the model sees them: (3, H, W) in [-1, 1], sides multiples of 32, nothing cropped.

        A picture that several prompts share is one tensor. Arguments as for `drawn`.
        """
        longest = max(height or self.height, width or self.width)
        known: dict[int, Tensor] = {}
        for picture in (picture for row in references for picture in row):
            if id(picture) not in known:
                size = reference_size((picture.height, picture.width), longest, PIXELS_PER_TOKEN)
                self.check(*size)
                known[id(picture)] = to_pixels(picture, size)
        return [[known[id(picture)] for picture in row] for row in references]
