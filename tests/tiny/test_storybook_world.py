"""The storybook world's drawings, scenes and sampler."""

from __future__ import annotations

import numpy as np
import pytest

from deepgen.tiny.nouns import DRAWN_FACING_RIGHT, FACING_NOUNS, NOUNS
from deepgen.tiny.render import CANVAS, GROUND_COLORS, ground_array, render, render_array
from deepgen.tiny.sample import sample_scene
from deepgen.tiny.scene import CELL, GROUNDS, SIDES, SIZES, STYLES, Scene, Thing, Word
from deepgen.tiny.sprites import LETTERS, letter, sprite


def things() -> list[Thing]:
    return [
        Thing(noun=noun, cell=(1, 1), style=style, size=size)
        for noun in NOUNS
        for style in STYLES
        for size in SIZES
    ]


def on_ground(thing: Thing, color: tuple[int, int, int]) -> np.ndarray:
    drawing = sprite(thing.noun, thing.style, thing.size, thing.facing)
    return drawing[..., :3] - drawing[..., 3:] * np.array(color, np.float32)


def test_there_are_enough_nouns_and_each_is_named_once() -> None:
    assert len(NOUNS) >= 78
    assert len(set(NOUNS)) == len(NOUNS)
    assert set(NOUNS) >= FACING_NOUNS >= DRAWN_FACING_RIGHT


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", SIZES)
def test_every_drawing_fills_its_size_in_the_middle_of_its_cell(style: str, size: str) -> None:
    for noun in NOUNS:
        alpha = sprite(noun, style, size, "left")[..., 3]  # type: ignore[arg-type]
        rows, columns = (np.flatnonzero((alpha > 0.04).any(axis)) for axis in (1, 0))
        extents = [int(found[-1] - found[0]) + 1 for found in (rows, columns)]
        assert abs(max(extents) - SIDES[size]) <= 2, noun  # type: ignore[index]
        for found in (rows, columns):
            assert abs(int(found[0] + found[-1]) - (CELL - 1)) <= 2, f"{noun} is off its middle"


def test_drawings_are_premultiplied_with_nothing_under_the_transparent() -> None:
    for thing in things():
        drawing = sprite(thing.noun, thing.style, thing.size, thing.facing)
        alpha = drawing[..., 3]
        colors = drawing[..., :3] / np.maximum(alpha, 1e-6)[..., None]
        assert colors.max() <= 255.5
        assert drawing[alpha == 0].max() == 0, thing


def test_every_thing_is_seen_on_every_ground() -> None:
    for thing in things():
        for ground, colors in GROUND_COLORS.items():
            for color in colors:
                contrast = np.linalg.norm(on_ground(thing, color), axis=-1)
                assert np.sort(contrast.ravel())[-40:].min() > 25, f"{thing} vanishes on {ground}"


def test_things_differ_from_each_other_more_than_a_reconstruction_errs() -> None:
    """Of two nouns or two styles; the nearest are the two bears."""
    color = GROUND_COLORS["white"][0]
    for size in SIZES:
        chosen = [thing for thing in things() if thing.size == size]
        pixels = np.stack([on_ground(thing, color).ravel() for thing in chosen])
        norms = (pixels**2).sum(1)
        distances = norms[:, None] + norms - 2 * pixels @ pixels.T
        shares = np.sqrt(np.maximum(distances, 0) / np.minimum(norms[:, None], norms))
        np.fill_diagonal(shares, 9)
        first, second = np.unravel_index(shares.argmin(), shares.shape)
        assert shares.min() > 0.25, f"{chosen[first]} and {chosen[second]} look alike"


def test_a_thing_that_faces_right_is_the_mirror_of_one_that_faces_left() -> None:
    for noun in FACING_NOUNS:
        left, right = (
            render_array(Scene(things=(Thing(noun=noun, cell=(1, 1), facing=facing),)))
            for facing in ("left", "right")
        )
        assert np.array_equal(left[:, ::-1], right)
        assert np.abs(left.astype(int) - right).mean() > 1, noun


def test_what_has_no_side_is_equal_whichever_way_it_is_said_to_face() -> None:
    assert Thing(noun="sun", cell=(0, 0), facing="right") == Thing(noun="sun", cell=(0, 0), facing="left")
    assert Thing(noun="cat", cell=(0, 0), facing="right") != Thing(noun="cat", cell=(0, 0), facing="left")


def test_a_thing_stays_in_its_cell_and_looks_the_same_in_every_cell() -> None:
    empty = ground_array("white")
    first = None
    for row in range(3):
        for column in range(3):
            image = render_array(Scene(things=(Thing(noun="crab", cell=(row, column)),)))
            window = (slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
            first = image[window] if first is None else first
            assert np.array_equal(image[window], first)
            rest = image.copy()
            rest[window] = empty[window]
            assert np.array_equal(rest, empty)


@pytest.mark.parametrize("ground", GROUNDS)
def test_grounds_change_on_cell_borders_only(ground: str) -> None:
    blocks = ground_array(ground).reshape(3, CELL, CANVAS, 3)  # type: ignore[arg-type]
    assert (blocks == blocks[:, :1, :1]).all()


def test_grounds_are_told_apart() -> None:
    colors = np.array(list(GROUND_COLORS.values()), dtype=float)  # (9, 3, 3)
    distances = np.linalg.norm(colors[:, None] - colors, axis=-1).max(-1)
    assert distances[~np.eye(len(colors), dtype=bool)].min() > 50


@pytest.mark.parametrize("text", ["I", "GO", "CAT", "WMWM"])
def test_a_word_stands_in_the_middle_of_its_row(text: str) -> None:
    image = render_array(Scene(ground="white", word=Word(text=text, row=2))).astype(int)
    is_ink = np.abs(image - ground_array("white")).sum(-1) > 60
    rows, columns = (np.flatnonzero(is_ink.any(axis)) for axis in (1, 0))
    assert rows[0] >= 64
    assert abs(int(rows[0] + rows[-1]) - (64 + 95)) <= 2
    assert abs(int(columns[0] + columns[-1]) - 95) <= 3


@pytest.mark.parametrize("ground", GROUNDS)
def test_letters_are_readable_on_every_ground(ground: str) -> None:
    for row in range(3):
        image = render_array(Scene(ground=ground, word=Word(text="HOW", row=row))).astype(int)  # type: ignore[arg-type]
        assert np.abs(image - ground_array(ground)).sum(-1).max() > 240  # type: ignore[arg-type]


def test_no_letter_is_cut_off() -> None:
    for name in LETTERS:
        coverage = letter(name)
        assert coverage[0].max() == coverage[-1].max() == 0
        assert max(coverage[:, 0].max(), coverage[:, -1].max()) < 0.5, name


def test_random_scenes_repeat_with_the_seed_and_reach_everything() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(2000)]
    again = np.random.default_rng(0)
    assert scenes[:20] == [sample_scene(again) for _ in range(20)]
    stood = [thing for scene in scenes for thing in scene.things]
    assert {thing.noun for thing in stood} == set(NOUNS)
    assert {(thing.style, thing.size, thing.cell) for thing in stood} >= {
        (style, size, (row, column))
        for style in STYLES
        for size in SIZES
        for row in range(3)
        for column in range(3)
    }
    assert {scene.ground for scene in scenes} == set(GROUNDS)
    assert {len(scene.things) for scene in scenes} == {0, 1, 2, 3, 4}
    assert {len(scene.word.text) for scene in scenes if scene.word} == {1, 2, 3, 4}


def test_a_picture_is_an_rgb_image() -> None:
    image = render(sample_scene(np.random.default_rng(3)))
    assert (image.mode, image.size) == ("RGB", (96, 96))
