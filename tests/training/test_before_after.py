"""The sheet of prompts before and after: both columns are what `generate` draws, and no run is lost by it."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.data.png import read_records
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import compare_run, export, recipe_of, run
from deepgen.shapes.entries import scene_entry
from deepgen.shapes.render import render
from deepgen.training.before_after import ComparedPrompt, compare, sheet
from deepgen.training.export import Trained
from deepgen.training.supervised_settings import BeforeAfterConfig
from small_runs import small


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures upright as a phone's, two of one caption."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, caption in enumerate(["a red circle", "a red circle", "a blue star"]):
        wide = render(scene_entry(4, number)).resize((128, 96))
        exif = Image.Exif()
        exif[0x0112] = 6
        wide.save(folder / f"{number}.jpg", exif=exif)
        (folder / f"{number}.txt").write_text(caption)
    return folder


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of a LoRA at a rate that shows at once, ended with a sheet of one caption."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    changes = small(pictures, global_batch_size="2")
    del changes["before_after"]
    changes |= {"optim.lr": "0.05", "before_after.num_captions": "1", "before_after.num_examples": "0"}
    changes |= {"before_after.preset": "fast"}
    run("lora", folder, overrides=changes)
    return folder


def difference(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def test_a_run_ends_with_a_sheet_that_remembers_how_it_was_drawn(finished: Path) -> None:
    with Image.open(finished / "before_after.png") as image:
        assert image.width > 3 * 192
    before, after = read_records(finished / "before_after.png")
    assert before.prompt == after.prompt == "a red circle"
    assert (before.height, before.width) == (128, 96), "as the picture is trained on, turned by its EXIF data"
    assert before.seed == after.seed
    assert before.model == "shapes"
    assert str(finished) in after.model


def test_before_is_the_model_alone_and_after_is_what_an_export_draws(finished: Path, tmp_path: Path) -> None:
    trained = Trained(recipe_of(finished), finished)
    config = BeforeAfterConfig(num_captions=2, num_examples=0, preset="fast", seed=3)
    rows = compare(trained, config, torch.device("cpu"), prompts=["a green cross"]).rows
    assert [row.text for row in rows] == ["a green cross", "a red circle", "a blue star"]

    row = rows[1]
    export(finished, tmp_path / "lora", what="lora")
    pipe = DeepGenPipeline.from_pretrained("shapes", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    drawn = {"height": 128, "width": 96, "seed": 4, "preset": "fast"}
    alone = pipe("a red circle", **drawn).images[0]
    pipe.load_lora_weights(tmp_path / "lora")
    with_lora = pipe("a red circle", **drawn).images[0]
    assert row.before is not None
    assert row.after is not None
    assert difference(alone, with_lora) > 20, "the run changed something"
    assert difference(row.before, alone) == 0
    assert difference(row.after, with_lora) <= 2  # merged weights round otherwise


def test_a_run_that_cannot_be_drawn_is_complete_all_the_same(
    finished: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the data is gone, or the disk full."""
    config = recipe_of(finished)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("deepgen.training.before_after.compare", full)
    caplog.set_level(logging.WARNING)
    changes = small(Path(str(config.data)), global_batch_size="2", **{"optim.lr": "0.05"})
    del changes["before_after"]
    run("lora", finished, resume=True, overrides=changes)
    assert "the run is complete and saved" in caplog.text
    assert f"deepgen train compare {finished}" in caplog.text


def test_a_run_whose_data_is_gone_says_so(finished: Path, tmp_path: Path, pictures: Path) -> None:
    moved = pictures.with_name("elsewhere")
    pictures.rename(moved)
    try:
        with pytest.raises((FileNotFoundError, ValueError), match=str(pictures)):
            compare_run(finished, tmp_path / "sheet.png")
    finally:
        moved.rename(pictures)


def test_a_sheet_has_a_column_for_every_reference_and_long_prompts_are_cut(image: Image.Image) -> None:
    plain = ComparedPrompt(text="a cat", origin="given", before=image, after=image)
    edit = ComparedPrompt(
        text="words " * 100,
        origin="trained on",
        references=(image, image),
        target=image,
        before=image,
        after=image,
    )
    assert sheet([plain]).width < sheet([plain, edit]).width
