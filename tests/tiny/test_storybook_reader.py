"""The storybook reader: right on what the world draws, and refusing what a person would call wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from deepgen.tiny.nouns import NOUNS
from deepgen.tiny.read import Reading, read
from deepgen.tiny.render import ground_array, render_array
from deepgen.tiny.sample import sample_scene
from deepgen.tiny.scene import CELL, GROUNDS, PLACES, SIZES, STYLES, Scene, Thing, Word
from deepgen.tiny.sprites import LETTERS

MIDDLE = slice(CELL, 2 * CELL)


def contents(scene: Scene | None) -> tuple | None:
    return None if scene is None else (scene.ground, frozenset(scene.things), scene.word)


def random_thing(rng: np.random.Generator, noun: str | None = None) -> Scene:
    """One thing in the middle of any ground."""
    thing = Thing(
        noun=noun or str(rng.choice(NOUNS)),
        cell=(1, 1),
        style=str(rng.choice(STYLES)),  # type: ignore[arg-type]
        size=str(rng.choice(SIZES)),  # type: ignore[arg-type]
        facing=str(rng.choice(["left", "right"])),  # type: ignore[arg-type]
    )
    return Scene(ground=str(rng.choice(GROUNDS)), things=(thing,))  # type: ignore[arg-type]


def random_word(rng: np.random.Generator) -> Scene:
    return Scene(
        ground=str(rng.choice(GROUNDS)),  # type: ignore[arg-type]
        word=Word(text="".join(rng.choice(list(LETTERS), 3)), row=1),
    )


def blurred(image: np.ndarray, sigma: float) -> np.ndarray:
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)))


def foreground(scene: Scene) -> np.ndarray:
    """Where anything is drawn: (96, 96, 1)."""
    return (render_array(scene) != ground_array(scene.ground)).any(-1, keepdims=True)


def accepted(images: list[np.ndarray]) -> float:
    assert len(images) >= 25
    return float(np.mean([read(image).scene is not None for image in images]))


def test_clean_scenes_are_read_as_they_are() -> None:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng) for _ in range(300)]
    right = [contents(read(render_array(scene)).scene) == contents(scene) for scene in scenes]
    assert np.mean(right) > 0.99


def test_every_thing_is_read_on_the_ground_where_it_is_faintest() -> None:
    for noun, ground in (("cloud", "winter"), ("cloud", "white"), ("rabbit", "pink"), ("snowflake", "sea")):
        for style in STYLES:
            for size in SIZES:
                things = tuple(Thing(noun=noun, cell=(row, 0), style=style, size=size) for row in range(3))
                scene = Scene(ground=ground, things=things)  # type: ignore[arg-type]
                assert contents(read(render_array(scene)).scene) == contents(scene)


def test_a_good_reconstruction_is_still_read() -> None:
    """Slight smoothing and grain, as a VAE leaves (about 34 dB)."""
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng) for _ in range(60)]
    right = []
    for scene in scenes:
        image = blurred(render_array(scene), 0.5) + rng.normal(0, 5, (96, 96, 3))
        reading = read(np.clip(image, 0, 255).astype(np.uint8))
        right.append(contents(reading.scene) == contents(scene))
    assert np.mean(right) >= 0.98


@pytest.mark.parametrize("make", [random_thing, random_word])
def test_blur_is_refused(make: Callable[[np.random.Generator], Scene]) -> None:
    rng = np.random.default_rng(2)
    assert accepted([blurred(render_array(make(rng)), 1.5) for _ in range(40)]) == 0


@pytest.mark.parametrize("share", [0.5, 0.6])
def test_a_blend_of_two_things_is_refused(share: float) -> None:
    rng = np.random.default_rng(3)
    images = []
    for _ in range(60):
        first = random_thing(rng)
        second = random_thing(rng, noun=NOUNS[NOUNS.index(first.things[0].noun) - 1])
        second = Scene(ground=first.ground, things=second.things)
        images.append((share * render_array(first) + (1 - share) * render_array(second)).astype(np.uint8))
    assert accepted(images) == 0


def test_half_of_one_thing_and_half_of_another_is_refused() -> None:
    rng = np.random.default_rng(4)
    images = []
    for _ in range(40):
        first = random_thing(rng)
        second = random_thing(rng, noun=NOUNS[NOUNS.index(first.things[0].noun) - 1])
        image = render_array(first).copy()
        image[:, 48:] = render_array(Scene(ground=first.ground, things=second.things))[:, 48:]
        images.append(image)
    assert accepted(images) == 0


@pytest.mark.parametrize("make", [random_thing, random_word])
@pytest.mark.parametrize("side", ["upper", "lower"])
def test_half_of_a_thing_or_of_letters_is_refused(
    make: Callable[[np.random.Generator], Scene], side: str
) -> None:
    rng = np.random.default_rng(5)
    rows = slice(CELL, 48) if side == "upper" else slice(48, 2 * CELL)
    images = []
    for _ in range(40):
        scene = make(rng)
        image = render_array(scene).copy()
        image[rows] = ground_array(scene.ground)[rows]
        images.append(image)
    assert accepted(images) <= 0.03  # an umbrella without the end of its stick


@pytest.mark.parametrize("radius", [2.5, 4.0, 8.0])
def test_a_blot_is_refused_where_it_is(radius: float) -> None:
    rng = np.random.default_rng(6)
    rows, columns = np.mgrid[:96, :96]
    refused = []
    for _ in range(60):
        scene = sample_scene(rng)
        image = render_array(scene).copy()
        cell = list(PLACES)[int(rng.integers(9))]
        row, column = (CELL * at + rng.integers(10, 22) for at in cell)
        blot = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
        color = rng.integers(0, 256, 3)
        if np.sqrt(((image[blot] - color.astype(float)) ** 2).mean()) < 80:
            continue  # too like what is there to be called a blot
        image[blot] = color
        refused.append(cell in read(image).unknown_cells)
    assert len(refused) > 30
    assert np.mean(refused) == 1


@pytest.mark.parametrize("noun", ["crab", "banana", "frog", "whale", "car", "pig", "carrot", "sun"])
@pytest.mark.parametrize("order", [(1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_wrong_colors_are_refused(noun: str, order: tuple[int, int, int]) -> None:
    for style in STYLES:
        scene = Scene(things=(Thing(noun=noun, cell=(1, 1), style=style),))
        image = render_array(scene)
        assert read(np.where(foreground(scene), image[..., list(order)], image)).scene is None


def test_letters_of_another_color_are_refused() -> None:
    rng = np.random.default_rng(7)
    scenes = [random_word(rng) for _ in range(30)]
    red = np.array([220, 30, 40], np.uint8)
    assert accepted([np.where(foreground(s), red, render_array(s)).astype(np.uint8) for s in scenes]) == 0


def test_a_small_extra_thing_beside_the_others_is_refused() -> None:
    rng = np.random.default_rng(8)
    images = []
    for _ in range(40):
        scene, extra = random_thing(rng), random_thing(rng)
        extra = Scene(ground=scene.ground, things=extra.things)
        image = render_array(scene).copy()
        tiny = Image.fromarray(render_array(extra)[MIDDLE, MIDDLE]).resize((12, 12), Image.Resampling.BOX)
        image[52:64, 0:12] = np.asarray(tiny)
        images.append(image)
    assert accepted(images) == 0


@pytest.mark.parametrize("pixels", [4, 7, 16])
@pytest.mark.parametrize("axis", [0, 1])
def test_what_stands_beside_its_place_is_refused(pixels: int, axis: int) -> None:
    """16 pixels is in the middle of two cells."""
    rng = np.random.default_rng(9)
    images = []
    for _ in range(40):
        scene = random_thing(rng)
        scene = Scene(ground="mint", things=scene.things)
        images.append(np.roll(render_array(scene), pixels, axis))
    assert accepted(images) == 0


@pytest.mark.parametrize("strength", [0.4, 0.6])
def test_what_is_too_faint_is_refused(strength: float) -> None:
    rng = np.random.default_rng(10)
    images = []
    for _ in range(40):
        scene = random_thing(rng)
        ground = ground_array(scene.ground).astype(float)
        drawn = ground + strength * (render_array(scene) - ground)
        images.append(np.clip(drawn, 0, 255).astype(np.uint8))
    assert accepted(images) == 0


def test_noise_and_unknown_grounds_are_refused() -> None:
    rng = np.random.default_rng(11)
    assert accepted([rng.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(25)]) == 0
    grey = read(np.full((96, 96, 3), 128, np.uint8))
    assert grey.ground is None
    assert len(grey.unknown_cells) == 9
    scene = sample_scene(rng)
    noisy = np.clip(render_array(scene) + rng.normal(0, 45, (96, 96, 3)), 0, 255).astype(np.uint8)
    assert read(noisy).scene is None


def test_two_words_and_five_things_are_no_scene() -> None:
    both = render_array(Scene(word=Word(text="GO", row=0))).copy()
    both[64:] = render_array(Scene(word=Word(text="UP", row=2)))[64:]
    assert read(both).scene is None
    many = render_array(Scene(things=tuple(Thing(noun="star", cell=(0, c)) for c in range(3)))).copy()
    many[64:] = render_array(Scene(things=tuple(Thing(noun="star", cell=(2, c)) for c in range(3))))[64:]
    reading = read(many)
    assert len(reading.things) == 6
    assert reading.scene is None


def test_an_unknown_cell_leaves_the_others_read_and_says_how_large_the_error_is() -> None:
    things = (Thing(noun="cat", cell=(0, 0)), Thing(noun="key", cell=(2, 2)))
    image = render_array(Scene(things=things)).copy()
    image[70:90, 70:90] = (255, 0, 255)
    reading = read(image)
    assert reading == Reading(
        ground="white", things=things[:1], unknown_cells=((2, 2),), residuals=reading.residuals
    )
    assert reading.residuals[8] > 100 > 1 > max(reading.residuals[:8])


def test_a_picture_of_another_size_is_refused_by_its_shape() -> None:
    with pytest.raises(ValueError, match=r"96x96 RGB, got an array of shape \(64, 64, 3\)"):
        read(np.zeros((64, 64, 3), np.uint8))
