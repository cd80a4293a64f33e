"""Reading a scene back from pixels, without a model, and refusing what is none of the world's.

The ground is recognised by the lines along the cell borders that no thing reaches. Every cell is then
compared with every thing on that ground by least squares, and every row with every word. The residual of the
best match decides: a patch of a wrong color, a missing or an extra part leaves an error that remains under a
5x5 average; blur, a faint drawing and a blend of two are recognised by whether blurring the drawing,
weakening it or mixing another one in would explain the pixels better. A cell that fails is unknown, never
guessed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from deepgen.tiny.render import CANVAS, GROUND_COLORS, ground_array, ink, letter_left
from deepgen.tiny.scene import (
    CELL,
    COLUMNS,
    MOST_LETTERS,
    MOST_THINGS,
    PLACES,
    ROWS,
    Cell,
    Ground,
    Scene,
    Thing,
    Word,
)
from deepgen.tiny.sprites import LETTER_SIDE, LETTERS, letter
from deepgen.tiny.templates import Name, Templates, blur, world_templates

MOST_PATCH_ERROR = 34.0  # of a 5x5 average, root of the mean square over channels, in 0..255
MOST_ERROR = 30.0  # of single pixels of a cell, root mean square
_MOST_GROUND_ERROR = 30.0  # distance in RGB of a row's border from the color of the ground
_LEAST_PATCH = 10.0  # of the strongest 5x5 average in a cell, as above, from which on something stands there
_GAINS = (0.72, 1.3)  # how strong a drawing may be, 1 = as drawn
_MOST_MIXED = 0.3  # share of another drawing that may be mixed in
_NEAR = 0.1  # share of a drawing's squared norm; nearer than this, it is not looked for at other places
_SHORTLIST = 4
_REACH = 1  # pixels that a thing may be off


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was found: ground (None if it is none of the world's), things, word, and the cells not understood.

    `residuals` is the largest patch error of each of the nine cells, row by row, in 0..255.
    """

    ground: Ground | None
    things: tuple[Thing, ...] = ()
    word: Word | None = None
    unknown_cells: tuple[Cell, ...] = ()
    residuals: tuple[float, ...] = (0.0,) * (ROWS * COLUMNS)

    @property
    def scene(self) -> Scene | None:
        """The scene, if everything in the picture was understood and the world allows it."""
        if self.ground is None or self.unknown_cells or len(self.things) > MOST_THINGS:
            return None
        return Scene(ground=self.ground, things=self.things, word=self.word)


def read(image: Image.Image | np.ndarray, templates: Templates | None = None) -> Reading:
    """Read one picture of the world, 96x96 RGB (a PIL image or uint8 (96, 96, 3)).

    `templates` are what things are compared with, where they are more than the world's.
    """
    templates = world_templates() if templates is None else templates
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image).astype(np.float32)
    if pixels.shape != (CANVAS, CANVAS, 3):
        raise ValueError(
            f"pictures of this world are {CANVAS}x{CANVAS} RGB, got an array of shape {pixels.shape}"
        )
    ground = _read_ground(pixels)
    if ground is None:
        return Reading(ground=None, unknown_cells=tuple(PLACES), residuals=(255.0,) * (ROWS * COLUMNS))
    rest = pixels - ground_array(ground)  # (96, 96, 3), what stands on the ground
    strength = _patches(_cells(rest)).max((1, 2)).reshape(ROWS, COLUMNS)
    things: list[Thing] = []
    words: list[Word] = []
    unknown: set[Cell] = set()
    explained = np.zeros_like(rest)
    for row in range(ROWS):
        band = slice(row * CELL, (row + 1) * CELL)
        occupied = [column for column in range(COLUMNS) if strength[row, column] > _LEAST_PATCH]
        if not occupied:
            continue
        color = np.array(GROUND_COLORS[ground][row], dtype=np.float32)
        found = {column: _read_cell(rest[band, _span(column)], color, templates) for column in occupied}
        word = _read_word(rest[band], color)
        if word.error < sum(_error_of(rest[band, _span(column)], match) for column, match in found.items()):
            explained[band] = word.pixels
            words.append(Word(text=word.text, row=row))
            if not word.is_sure:
                unknown.update((row, column) for column in range(COLUMNS))
            continue
        for column, match in found.items():
            explained[band, _span(column)] = match.pixels
            noun, style, size, facing = match.name
            things.append(Thing(noun=noun, cell=(row, column), style=style, size=size, facing=facing))
            if not match.is_sure:
                unknown.add((row, column))
    return _judged(ground, things, words, unknown, rest - explained)


def _judged(
    ground: Ground, things: list[Thing], words: list[Word], unknown: set[Cell], left: np.ndarray
) -> Reading:
    """Drops what leaves too much unexplained. `left` is (96, 96, 3)."""
    cells = _cells(left)  # (9, 32, 32, 3)
    residuals = tuple(_patches(cells).max((1, 2)).tolist())
    errors = np.sqrt((cells**2).mean((1, 2, 3)))
    for cell, residual, error in zip(PLACES, residuals, errors, strict=True):
        if residual > MOST_PATCH_ERROR or error > MOST_ERROR:
            unknown.add(cell)
    if len(words) > 1:
        unknown.update((word.row, column) for word in words[1:] for column in range(COLUMNS))
    word = words[0] if words else None
    if word is not None and any(cell[0] == word.row for cell in unknown):
        unknown.update((word.row, column) for column in range(COLUMNS))
        word = None
    return Reading(
        ground=ground,
        things=tuple(thing for thing in things if thing.cell not in unknown),
        word=word,
        unknown_cells=tuple(sorted(unknown)),
        residuals=residuals,
    )


def _span(column: int) -> slice:
    return slice(column * CELL, (column + 1) * CELL)


def _read_ground(pixels: np.ndarray) -> Ground | None:
    """By the upper and lower line of each row of cells: nothing is drawn there."""
    rows = pixels.reshape(ROWS, CELL, CANVAS, 3)[:, [0, -1]].reshape(ROWS, -1, 3)
    seen = np.median(rows, axis=1)  # (3, 3): row, channel
    errors = {
        ground: float(np.linalg.norm(seen - np.array(colors), axis=-1).max())
        for ground, colors in GROUND_COLORS.items()
    }
    best = min(GROUND_COLORS, key=errors.__getitem__)
    return best if errors[best] < _MOST_GROUND_ERROR else None


def _cells(pixels: np.ndarray) -> np.ndarray:
    """(96, 96, 3) cut into its cells, row by row: (9, 32, 32, 3)."""
    blocks = pixels.reshape(ROWS, CELL, COLUMNS, CELL, 3).swapaxes(1, 2)
    return blocks.reshape(ROWS * COLUMNS, CELL, CELL, 3)


def _patches(errors: np.ndarray) -> np.ndarray:
    """Of cells (N, 32, 32, 3), the 5x5 averages inside: root mean square of channels, (N, 28, 28)."""
    sums = np.zeros((len(errors), CELL + 1, CELL + 1, 3), dtype=np.float64)
    sums[:, 1:, 1:] = errors.cumsum(1).cumsum(2)
    averages = (sums[:, 5:, 5:] - sums[:, :-5, 5:] - sums[:, 5:, :-5] + sums[:, :-5, :-5]) / 25
    return np.sqrt((averages**2).mean(-1))


@dataclass(frozen=True)
class _Match:
    name: Name
    pixels: np.ndarray  # (32, 32, 3), on top of the ground
    is_sure: bool


@dataclass(frozen=True)
class _WordMatch:
    text: str
    pixels: np.ndarray  # (32, 96, 3)
    error: float
    is_sure: bool


def _read_cell(window: np.ndarray, color: np.ndarray, templates: Templates) -> _Match:
    """The thing nearest to a window (32, 32, 3) that the ground was taken from."""
    paper = tuple(color.tolist())
    products = templates.products(window, color)
    distances = templates.norms(paper) - 2 * products
    best, shift = int(np.argmin(distances)), (0, 0)
    least = float(((window - templates.on(best, color)) ** 2).sum())
    if least > _NEAR * templates.norms(paper)[best]:  # worth looking whether it is a pixel off
        for index in np.argpartition(distances, _SHORTLIST)[:_SHORTLIST]:
            drawing = templates.on(int(index), color)
            for moved in _shifts():
                distance = float(((window - np.roll(drawing, moved, (0, 1))) ** 2).sum())
                if distance < least:
                    best, shift, least = int(index), moved, distance
    centred = np.roll(window, (-shift[0], -shift[1]), (0, 1))
    if shift != (0, 0):
        products = templates.products(centred, color)
    drawing = templates.on(best, color)
    is_sharp = _is_sharp(centred, drawing, templates.blurred_on(best, color))
    is_sure = is_sharp and _is_alone(products, best, paper, templates)
    return _Match(templates.names[best], np.roll(drawing, shift, (0, 1)), is_sure)


@cache
def _shifts() -> list[tuple[int, int]]:
    reach = range(-_REACH, _REACH + 1)
    return [(y, x) for y in reach for x in reach]


def _is_sharp(window: np.ndarray, drawing: np.ndarray, blurred_drawing: np.ndarray) -> bool:
    """Whether the drawing explains the window (32, 32, 3) better than the blurred drawing does."""
    return bool(((window - drawing) ** 2).sum() <= ((window - blurred_drawing) ** 2).sum())


def _is_alone(products: np.ndarray, best: int, color: tuple[float, ...], templates: Templates) -> bool:
    """Whether neither a weaker or stronger drawing nor another one mixed in explains the window much better.

    `products` are the window's with every thing. The share of another one that is mixed in is the
    projection of what the best drawing leaves over onto the difference of the two.
    """
    norms, own = templates.norms(color), templates.own_products(best, color)
    gain = float(products[best] / norms[best])
    if not _GAINS[0] < gain < _GAINS[1]:
        return False
    differences = norms + norms[best] - 2 * own  # squared distances of the others from this one, (T,)
    along = (products - own) - (products[best] - own[best])
    differences[best] = np.inf
    return bool((along / differences).max() < _MOST_MIXED)


def _error_of(window: np.ndarray, match: _Match) -> float:
    return float(((window - match.pixels) ** 2).sum())


@cache
def _letters() -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the capitals, as drawn and blurred: (26, 768) each."""
    drawn = [letter(name) for name in LETTERS]
    blurred = [blur(pixels[..., None]).ravel() for pixels in drawn]
    return np.stack([pixels.ravel() for pixels in drawn]), np.stack(blurred)


def _read_word(band: np.ndarray, color: np.ndarray) -> _WordMatch:
    """The word nearest to a row (32, 96, 3) that the ground was taken from, of one to four letters."""
    axis = np.array(ink(tuple(color.tolist())), dtype=np.float32) - color  # type: ignore[arg-type]
    coverage = band @ axis / (axis @ axis)  # (32, 96)
    matches = []
    for count in range(1, MOST_LETTERS + 1):
        pixels = np.zeros(band.shape[:2], dtype=np.float32)
        text = ""
        is_sure = True
        for place in range(count):
            start = letter_left(count) + place * LETTER_SIDE
            index, letter_is_sure = _read_letter(coverage[:, start : start + LETTER_SIDE])
            text += LETTERS[index]
            is_sure &= letter_is_sure
            pixels[:, start : start + LETTER_SIDE] = letter(LETTERS[index])
        drawn = pixels[..., None] * axis
        matches.append(_WordMatch(text, drawn, float(((band - drawn) ** 2).sum()), is_sure))
    return min(matches, key=lambda match: match.error)


def _read_letter(coverage: np.ndarray) -> tuple[int, bool]:
    """The nearest capital to (32, 24) in 0..1, and whether it is sharp, strong and alone."""
    letters, blurred = _letters()
    window = coverage.ravel()
    distances = (letters**2).sum(1) - 2 * letters @ window
    best = int(np.argmin(distances))
    drawing = letters[best]
    left = window - drawing
    gain = 1 + left @ drawing / (drawing @ drawing)
    differences = ((letters - drawing) ** 2).sum(1)
    differences[best] = np.inf
    shares = (letters - drawing) @ left / differences
    is_sharp = ((window - drawing) ** 2).sum() <= ((window - blurred[best]) ** 2).sum()
    is_sure = is_sharp and _GAINS[0] < gain < _GAINS[1] and shares.max() < _MOST_MIXED
    return best, bool(is_sure)
