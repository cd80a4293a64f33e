"""Picture sizes: which a model can draw, which a call draws, and how large references are read.

An edit comes back in the geometry of its source: it is drawn at the nearest size the model has, and brought
back afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from deepgen.checkpoints.checkpoint import read_checkpoint
from deepgen.checkpoints.layouts import detect, read_json, resolve
from deepgen.data.pixels import to_pixels
from deepgen.data.resize import nearest_valid_sizes, reference_size
from deepgen.generation import FALLBACK_DEFAULTS
from deepgen.models.vlm import PIXELS_PER_TOKEN

_CONFIGS = ("model_index.json", "transformer/config.json", "vae/config.json")
References = Sequence[Sequence[Image.Image]]  # per prompt, its pictures
Size = tuple[int, int]  # (height, width), pixels
_SHAPE = log(9 / 8)  # how far the shape of what is drawn may lie from what was asked for


@dataclass(frozen=True)
class SizeRules:
    """The sizes of one model.

    Attributes:
        unit: heights and widths are multiples of this.
        longest: side the model has positions for.
        height, width: of what is drawn where nothing is said.
        most_pixels: of a picture, where the server limits them; only hints ask for it.
    """

    unit: int
    longest: int
    height: int
    width: int
    most_pixels: int | None = None

    def check(self, height: int, width: int) -> None:
        """ValueError unless the model can draw this size."""
        if not (hasattr(height, "__index__") and hasattr(width, "__index__")):  # NumPy's integers are ones
            raise ValueError(f"height and width must be whole numbers, got {height!r} and {width!r}")
        if max(height, width) > self.longest:
            fitting = self._scaled_down(height, width)
            raise ValueError(
                f"size {width}x{height} is too large: this model's positions end at {self.longest} pixels "
                f"a side; try {fitting[1]}x{fitting[0]}"
            )
        if height < self.unit or width < self.unit or height % self.unit or width % self.unit:
            nearest = " or ".join(f"{w}x{h}" for h, w in self._nearest(height, width))
            raise ValueError(
                f"size {width}x{height} (width x height) is not a multiple of {self.unit} on both sides; "
                f"try {nearest}"
            )

    def can_draw(self, height: int, width: int) -> bool:
        """Whether `check` accepts this size."""
        try:
            self.check(height, width)
        except ValueError:
            return False
        return True

    def fit(self, height: int, width: int) -> Size:
        """The (height, width) at which a picture of another size is drawn best, to be resized afterwards.

        The shape is kept within an eighth and the number of pixels as near as it can be; a size that the
        model has no positions for is drawn with about as many pixels as its own.

        Raises:
            ValueError: the model has no such shape; the message names a size it can draw.
        """
        if self.can_draw(height, width):
            return height, width
        area = height * width if max(height, width) <= self.longest else self.height * self.width
        shape = width / height
        fitting = [
            (one, other)
            for one in range(self.unit, self.longest + 1, self.unit)
            for other in self._sides_around(one * shape)
            if self._is_allowed((one, other)) and abs(log(other / one / shape)) < _SHAPE
        ]
        if not fitting:
            self.check(height, width)
        return min(fitting, key=lambda one: (abs(log(one[0] * one[1] / area)), abs(one[1] - shape * one[0])))

    def _sides_around(self, side: float) -> list[int]:
        """The multiples of the unit next to a side, of those the model has."""
        below = int(side) // self.unit * self.unit
        return [one for one in (below, below + self.unit) if self.unit <= one <= self.longest]

    def _asked(self, height: int | None, width: int | None) -> Size:
        """The model's own side where none is asked for; 0 is asked for, and wrong."""
        return self.height if height is None else height, self.width if width is None else width

    def _nearest(self, height: int, width: int) -> list[Size]:
        """Sizes around one that the model draws, the nearest first."""
        around = nearest_valid_sizes(height, width, self.unit)
        fitting = [size for size in around if max(size) <= self.longest and self._is_allowed(size)]
        return fitting or [self._scaled_down(height, width)]

    def _scaled_down(self, height: int, width: int) -> Size:
        """About the same shape, as large as asked for or as the model draws."""
        longest = min(self.longest, max(height, width))
        while True:
            sides = [
                max(self.unit, side * longest // max(height, width) // self.unit * self.unit)
                for side in (height, width)
            ]
            if self._is_allowed((sides[0], sides[1])) or longest <= self.unit:
                return sides[0], sides[1]
            longest -= self.unit

    def _is_allowed(self, size: Size) -> bool:
        return self.most_pixels is None or size[0] * size[1] <= self.most_pixels

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
            size = self._asked(height, width)
            self.check(*size)
            return [size] * count, [None] * count
        sources = [(row[0].height, row[0].width) for row in references]
        sizes = [reference_size(source, max(self.height, self.width), PIXELS_PER_TOKEN) for source in sources]
        for size in sizes:
            self.check(*size)
        back = [None if size == source else source for size, source in zip(sizes, sources, strict=True)]
        return sizes, back

    def reference(self, size: Size, height: int | None, width: int | None) -> Size:
        """How large the model reads a reference of this size; `height` and `width` as for `drawn`."""
        return reference_size(size, max(self._asked(height, width)), PIXELS_PER_TOKEN)

    def read(self, references: References, height: int | None, width: int | None) -> list[list[Tensor]]:
        """References as the model sees them: (3, H, W) in [-1, 1], sides multiples of 32, nothing cropped.

        A picture that several prompts share is one tensor. Arguments as for `drawn`.
        """
        known: dict[int, Tensor] = {}
        for image in (image for row in references for image in row):
            if id(image) not in known:
                size = self.reference((image.height, image.width), height, width)
                self.check(*size)
                known[id(image)] = to_pixels(image, size)
        return [[known[id(image)] for image in row] for row in references]


def read_size_rules(source: str | Path) -> SizeRules | None:
    """The sizes of a model that is not loaded, from its configs; None where the files do not tell.

    Of a Hub name only the configs are fetched, or taken from the cache.

    Raises:
        FileNotFoundError, CheckpointError: as loading the model would.
    """
    if not Path(source).expanduser().exists():
        folder = resolve(source, allow=_CONFIGS)
        if not all((folder / name).is_file() for name in _CONFIGS[:2]):
            return None
        return _rules_of_folder(folder)
    layout = detect(source)
    if not layout.is_native:
        return _rules_of_folder(layout.path)
    checkpoint = read_checkpoint(layout, shapes_only=True)
    if "transformer" not in checkpoint.parts:
        return None
    return size_rules(checkpoint.parts["transformer"].config, {}, checkpoint.pipeline_defaults())


def _rules_of_folder(folder: Path) -> SizeRules | None:
    vae = folder / "vae" / "config.json"
    return size_rules(
        read_json(folder / "transformer" / "config.json"),
        read_json(vae) if vae.is_file() else {},
        read_json(folder / "model_index.json").get("defaults") or {},
    )


def size_rules(
    transformer: Mapping[str, Any], vae: Mapping[str, Any], defaults: Mapping[str, Any]
) -> SizeRules | None:
    """As `DeepGenPipeline.sizes`, from what configs say, or None where they do not; SD3's VAE, which native
    files leave out, halves three times.
    """
    positions, patch = transformer.get("pos_embed_max_size"), transformer.get("patch_size")
    if not isinstance(positions, int) or not isinstance(patch, int):
        return None
    unit = 2 ** (len(vae.get("block_out_channels") or range(4)) - 1) * patch
    usual = {**FALLBACK_DEFAULTS, **defaults}
    return SizeRules(unit, positions * unit, usual["height"], usual["width"])
