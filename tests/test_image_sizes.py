"""Sizes: told from configs as the loaded model tells them, and hints that would be accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from checkpoint_files import WRITERS
from deepgen.checkpoints.convert import convert
from deepgen.image_sizes import SizeRules, read_size_rules
from deepgen.pipeline import TINY_DIR, DeepGenPipeline
from parity import Goldens


def hint(rules: SizeRules, width: int, height: int) -> list[tuple[int, int]]:
    """(height, width) of every size the refusal proposes."""
    with pytest.raises(ValueError, match="; try ") as refused:
        rules.check(height, width)
    words = str(refused.value).rpartition("; try ")[2].split(" or ")
    return [(int(word.split("x")[1]), int(word.split("x")[0])) for word in words]


@pytest.mark.parametrize("size", [(1, 1), (16, 48), (383, 384), (385, 96), (99999, 1), (500, 3), (40, 40)])
@pytest.mark.parametrize("most_pixels", [None, 384 * 360, 2048])
def test_every_size_a_refusal_proposes_is_accepted(size: tuple[int, int], most_pixels: int | None) -> None:
    rules = SizeRules(32, 384, 96, 96, most_pixels=most_pixels)
    for height, width in hint(rules, *size):
        rules.check(height, width)
        assert most_pixels is None or height * width <= most_pixels


@pytest.mark.parametrize(
    ("asked", "drawn"),
    [
        ((96, 128), (96, 128)),  # the model has it
        ((65, 64), (64, 64)),
        ((512, 512), (96, 96)),  # beyond its positions: as many pixels as its own size
        ((1792, 1024), (160, 96)),
        ((1, 1), (32, 32)),
        ((40, 24), (96, 64)),  # and not 32 x 32, which is nearer and square
    ],
)
def test_a_size_the_model_has_not_is_drawn_at_the_nearest_of_its_shape(
    asked: tuple[int, int], drawn: tuple[int, int]
) -> None:
    rules = SizeRules(32, 384, 96, 96)
    assert rules.fit(*asked) == drawn
    assert rules.fit(*asked[::-1]) == drawn[::-1]


def test_a_shape_the_model_has_not_is_refused_with_a_size_it_has() -> None:
    with pytest.raises(ValueError, match=r"too large.*try 384x32"):
        SizeRules(32, 384, 96, 96).fit(10, 1000)


def test_no_pixels_are_refused_and_do_not_mean_the_model_s_own_size() -> None:
    for height, width in ((0, 96), (96, 0)):
        with pytest.raises(ValueError, match="not a multiple of 32"):
            SizeRules(32, 384, 96, 96).drawn(None, 1, height, width)


def test_configs_tell_what_the_loaded_model_tells(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    assert read_size_rules(TINY_DIR) == DeepGenPipeline.from_pretrained("tiny").sizes
    pipe.save_pretrained(tmp_path / "saved")
    convert(tmp_path / "saved", tmp_path / "converted", progress=False)
    for name in ("saved", "converted"):
        assert read_size_rules(tmp_path / name) == pipe.sizes


@pytest.mark.parametrize("layout", ["flat pt", "rl shards"])
def test_a_native_file_tells_by_its_shapes(
    layout: str, goldens: Goldens, pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    write, _ = WRITERS[layout]
    rules = read_size_rules(write(tmp_path, goldens.native))
    assert rules is not None
    assert (rules.unit, rules.longest) == (pipe.sizes.unit, pipe.sizes.longest)


def test_a_name_that_is_nowhere_is_refused_as_loading_would(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        read_size_rules(tmp_path / "nowhere")


def test_the_smallest_and_the_largest_size_are_drawn() -> None:
    tiny = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)
    for side in (tiny.sizes.unit, tiny.sizes.longest):
        image = tiny("a red circle", height=side, width=side, num_inference_steps=1, seed=1).images[0]
        assert image.size == (side, side)


def test_a_side_that_is_no_whole_number_is_refused_by_name() -> None:
    rules = SizeRules(unit=32, longest=384, height=96, width=96)
    with pytest.raises(ValueError, match=r"height and width must be whole numbers, got 64\.0 and 64"):
        rules.check(64.0, 64)  # pyright: ignore[reportArgumentType]
