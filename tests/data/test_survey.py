"""What a survey finds in folders with known contents."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deepgen.data.example import Example, RowError
from deepgen.data.mixture import Mixture, single_source
from deepgen.data.mixture_config import ImageRule, MixtureConfig, SourceEntry
from deepgen.data.survey import SourceSurvey, survey_source
from deepgen.shapes.entries import scene_entry
from deepgen.shapes.render import render


def photograph(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Smooth colours with noise, as a camera gives."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse) + rng.normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def survey(folder: Path, **settings: float) -> SourceSurvey:
    mixture = single_source("photos", "folder", {"path": str(folder)}, ImageRule(image_size=96))
    return survey_source(mixture, "photos", **{"num_rows": 1000, "seconds": 60, **settings})  # pyright: ignore


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six different photographs with captions."""
    for number in range(6):
        photograph(number).save(tmp_path / f"{number}.jpg", quality=92)
        (tmp_path / f"{number}.txt").write_text(f"photograph {number % 3}\n")
    return tmp_path


def names(groups: list[list[str]]) -> list[list[str]]:
    return [[Path(key).name for key in group] for group in groups]


def test_captions_and_sizes_are_counted_once_a_picture(photos: Path) -> None:
    found = survey(photos)
    assert (found.num_rows, found.num_looked_at, found.num_images) == (6, 6, 6)
    assert found.captions == {"photograph 0": 2, "photograph 1": 2, "photograph 2": 2}
    assert found.sizes == {((240, 320), (96, 128)): 6}
    assert not found.copies
    assert not found.look_alikes


def test_a_copied_file_is_a_copy_and_one_saved_again_looks_alike(photos: Path) -> None:
    shutil.copy(photos / "0.jpg", photos / "0 (1).jpg")
    (photos / "0 (1).txt").write_text("again")
    Image.open(photos / "1.jpg").resize((160, 120)).save(photos / "sent.jpg", quality=50)
    (photos / "sent.txt").write_text("as a messenger sends it")
    Image.open(photos / "2.jpg").save(photos / "3b.png")
    (photos / "3b.txt").write_text("in another format")
    found = survey(photos)
    assert names(found.copies) == [["0 (1).jpg", "0.jpg"]]
    assert sorted(map(sorted, names(found.look_alikes))) == [["1.jpg", "sent.jpg"], ["2.jpg", "3b.png"]]


def test_flat_shapes_that_differ_are_no_duplicates(tmp_path: Path) -> None:
    """Plain grounds with one small shape are as alike as different pictures get."""
    for number in range(60):
        render(scene_entry(4, number)).save(tmp_path / f"{number:02}.png")
        (tmp_path / f"{number:02}.txt").write_text("a shape")
    found = survey(tmp_path)
    assert found.num_images == 60
    assert not found.copies
    assert not found.look_alikes


def test_rows_that_cannot_be_used_are_counted_with_their_reasons(photos: Path) -> None:
    (photos / "0.jpg").write_bytes(b"no picture")
    (photos / "1.txt").write_bytes(b"\xff\xfe\xff")
    found = survey(photos)
    assert found.num_images == 4
    assert sum(found.bad.values()) == 2
    assert any("0.jpg" in reason for reason in found.bad)
    assert any("1.txt" in reason for reason in found.bad)


def test_a_large_source_is_sampled_and_a_slow_one_cut_short(photos: Path) -> None:
    assert survey(photos, num_rows=4).num_looked_at == 4
    assert survey(photos, seconds=0).num_looked_at == 1


class Repeats:
    """Rows that name one file ten times, as kohya's folders do, or hand out bytes."""

    task = "generate"

    def __init__(self, examples: list[Example]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        if index >= len(self.examples):
            raise RowError("no such row")
        return self.examples[index]


def survey_rows(examples: list[Example]) -> SourceSurvey:
    entry = SourceEntry(name="rows", source="folder", task="generate", options={})
    config = MixtureConfig(sources=(entry,), ratios={"generate": 1}, image=ImageRule(image_size=96))
    return survey_source(Mixture(config, {"rows": Repeats(examples)}), "rows", num_rows=100, seconds=60)  # pyright: ignore


def test_a_file_that_rows_name_several_times_is_one_picture_and_no_copy(photos: Path) -> None:
    example = Example(task="generate", text="a photograph", target=photos / "0.jpg", key="0.jpg")
    found = survey_rows([example] * 10)
    assert (found.num_rows, found.num_images) == (10, 1)
    assert found.captions == {"a photograph": 1}
    assert not found.copies


def test_equal_bytes_in_several_rows_are_copies(photos: Path) -> None:
    content = (photos / "0.jpg").read_bytes()
    example = Example(task="generate", text="a photograph", target=content, key="row 0")
    found = survey_rows([example, replace(example, key="row 1")])
    assert found.copies == [["row 0", "row 1"]]
