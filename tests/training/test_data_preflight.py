"""The look at the data before a run: each finding on data that has it, and nothing on data that has not."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from deepgen.cli import main
from deepgen.data.mixture import open_mixture, single_source
from deepgen.data.mixture_config import ImageRule
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import recipe, run
from deepgen.shapes.entries import scene_entry
from deepgen.shapes.render import render
from deepgen.tiny.tokenizer import write_tokenizer
from deepgen.training.overrides import override
from deepgen.training.parallel import Processes
from deepgen.training.preflight import CheckedModel, PlannedRun, Preflight, preflight
from deepgen.training.reproduction import psnr
from deepgen.training.supervised_settings import PreflightConfig
from deepgen.training.unknown_words import UnknownWord, unknown_words, unread_words, vocabulary
from small_runs import small


@pytest.fixture(scope="module")
def tiny() -> DeepGenPipeline:
    return DeepGenPipeline.from_pretrained("shapes", dtype=torch.float32)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """Eight pictures of the model's own world with captions it can read, in a folder of files."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    for number in range(8):
        render(scene_entry(4, number)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"{('a', 'one', 'the', 'two')[number % 4]} red circle\n")
    return folder


def looked_at(
    tiny: DeepGenPipeline, folder: Path, rule: ImageRule | None = None, **planned: Any
) -> Preflight:
    mixture = single_source("mine", "folder", {"path": str(folder)}, rule or ImageRule(image_size=96))
    model = CheckedModel(tokenizer=tiny.tokenizer, vae=tiny.vae, size=(96, 96), world="shapes")
    plan = PlannedRun(**{"num_steps": 2, "global_batch_size": 4, **planned})
    return preflight(mixture, model, PreflightConfig(num_images=1, seconds=60), plan)


# --- words --------------------------------------------------------------------------------------------------


def test_words_outside_a_closed_vocabulary_are_found_in_any_case_and_beside_signs(
    tiny: DeepGenPipeline,
) -> None:
    assert unread_words(tiny.tokenizer, "A red Mug, on (the) table.") == ["mug", "(", ")", "table"]
    assert unread_words(tiny.tokenizer, "a large red circle above two stars, please") == []


def test_unknown_words_are_counted_by_picture_with_the_word_they_may_be_meant_for(
    tiny: DeepGenPipeline,
) -> None:
    found = unknown_words(tiny.tokenizer, "shapes", {"a red circel": 3, "a zebra": 1, "a star": 5})
    assert found == [UnknownWord("circel", 3, "circle"), UnknownWord("zebra", 1)]


def test_a_tokenizer_that_reads_words_in_pieces_has_no_unknown_ones(pipe: DeepGenPipeline) -> None:
    """The goldens' tokenizer is of the 5B model's kind, bytes joined to pieces."""
    assert unknown_words(pipe.tokenizer, None, {"a zebra, ein Zebra, シマウマ 🦓": 1}) == []
    assert vocabulary(pipe.tokenizer) == []


def test_the_storybook_names_the_words_its_world_does_not_have(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    write_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    found = unknown_words(tokenizer, "storybook", {"a zebra in a meadow": 2, "a cat": 1})
    assert found == [UnknownWord("zebra", 2, "horse")]


# --- pictures -----------------------------------------------------------------------------------------------


def test_psnr_of_a_known_difference() -> None:
    """10 log10(255^2 / 5^2) = 34.15 dB."""
    flat = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert psnr(flat, flat + 5) == pytest.approx(34.1514, abs=1e-3)
    assert psnr(flat, flat) == float("inf")


def test_data_of_the_models_own_kind_gives_no_warning(tiny: DeepGenPipeline, shapes: Path) -> None:
    found = looked_at(tiny, shapes)
    assert found.warnings == []
    assert found.own_psnr == pytest.approx(found.sources[0].psnr, abs=4)
    text = str(found)
    assert "mine: 8 rows of 8 pictures; each row is seen about 1 times in 2 steps" in text
    assert "4 different, 2 pictures to each" in text
    assert "all known to the model" in text
    assert "96x96, trained at 96x96 (8); the model draws 96x96" in text
    assert "duplicates  none" in text
    assert json.loads(json.dumps(found.to_dict()))["sources"][0]["pictures"] == 8


def test_what_the_vae_cannot_reproduce_is_warned_of_with_its_own_pictures_as_reference(
    tiny: DeepGenPipeline, shapes: Path
) -> None:
    rng = np.random.default_rng(0)
    for file in shapes.glob("*.png"):
        Image.fromarray(rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(file)
    found = looked_at(tiny, shapes)
    assert found.sources[0].psnr < 15
    assert found.own_psnr is not None
    assert found.own_psnr > 30
    assert any("the VAE alone already loses much" in text for text in found.warnings)


def test_a_model_without_a_world_is_compared_with_what_its_vae_decoded(
    tiny: DeepGenPipeline, shapes: Path
) -> None:
    mixture = single_source("mine", "folder", {"path": str(shapes)}, ImageRule(image_size=96))
    model = CheckedModel(tokenizer=tiny.tokenizer, vae=tiny.vae, size=(96, 96))
    found = preflight(
        mixture, model, PreflightConfig(num_images=1), PlannedRun(num_steps=1, global_batch_size=1)
    )
    assert found.own_pictures == "what it has decoded once, a second time"
    assert found.own_psnr is not None
    assert found.own_psnr > found.sources[0].psnr


# --- warnings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a mug", '"mug" (8 captions)'),
        ("a red circle", "8 of 8 pictures have the same caption"),
        ("", "8 of 8 captions are empty"),
    ],
)
def test_captions_that_teach_nothing_are_warned_of(
    tiny: DeepGenPipeline, shapes: Path, caption: str, words: str
) -> None:
    for file in shapes.glob("*.txt"):
        file.write_text(caption)
    assert any(words in text for text in looked_at(tiny, shapes).warnings)


def test_copies_small_pictures_and_bad_rows_are_warned_of(tiny: DeepGenPipeline, shapes: Path) -> None:
    (shapes / "1.png").write_bytes((shapes / "0.png").read_bytes())
    Image.open(shapes / "2.png").resize((40, 40)).save(shapes / "2.png")
    (shapes / "3.png").write_bytes(b"")
    warnings = looked_at(tiny, shapes).warnings
    assert any("1 of 7 pictures are there already (0.png = 1.png)" in text for text in warnings)
    assert any("enlarged, such as 40x40 to 96x96" in text for text in warnings)
    assert any("1 of 8 rows cannot be used" in text and "3.png" in text for text in warnings)


def test_a_mixture_of_another_size_than_the_models_is_warned_of(tiny: DeepGenPipeline, shapes: Path) -> None:
    """A mixture without `image:` means 512, and the small model draws 96."""
    warnings = looked_at(tiny, shapes, ImageRule(image_size=160)).warnings
    assert any("the mixture's size is 160" in text and "image_size: 96" in text for text in warnings)


def test_encoding_again_and_again_is_warned_of_unless_it_is_cached(
    tiny: DeepGenPipeline, shapes: Path
) -> None:
    planned = {"num_steps": 10**6, "global_batch_size": 8}
    assert any("deepgen data cache" in text for text in looked_at(tiny, shapes, **planned).warnings)
    assert looked_at(tiny, shapes, **planned, has_cache=True).warnings == []


def test_rows_of_the_models_own_world_are_taken_as_they_are(tiny: DeepGenPipeline, mixture: Path) -> None:
    model = CheckedModel(tokenizer=tiny.tokenizer, vae=tiny.vae, size=(96, 96), world="shapes")
    found = preflight(
        open_mixture(mixture), model, PreflightConfig(), PlannedRun(num_steps=1, global_batch_size=3)
    )
    assert found.warnings == []
    assert [source.is_world for source in found.sources] == [True, True]
    assert "rows of the model's own world" in str(found)


# --- in a run -----------------------------------------------------------------------------------------------


@pytest.fixture
def mugs(shapes: Path) -> Path:
    """The same pictures under a word the model cannot read."""
    for file in shapes.glob("*.txt"):
        file.write_text(file.read_text().replace("circle", "mug"))
    return shapes


def with_preflight(data: Path, **changes: str) -> dict[str, str]:
    """A run's settings, without the switch that keeps other tests fast."""
    settings = small(data)
    del settings["preflight"]
    return {**settings, **changes}


def test_a_run_says_it_before_its_first_step(
    mugs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    changes = with_preflight(mugs, num_steps="1", log_every="1")
    run("lora", tmp_path / "run", overrides=changes)
    texts = [record.getMessage() for record in caplog.records]
    said = next(n for n, text in enumerate(texts) if '"mug" (8 captions)' in text)
    stepped = next(n for n, text in enumerate(texts) if "step 1 of 1" in text)
    assert said < stepped
    assert caplog.records[said].levelno == logging.WARNING


@pytest.mark.parametrize(("change", "is_main"), [({"preflight": "none"}, True), ({}, False)])
def test_it_is_left_out_by_an_option_and_on_every_process_but_the_main_one(
    mugs: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, str],
    is_main: bool,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Processes, "is_main", is_main)
    override(recipe("lora"), with_preflight(mugs, **change)).build(Processes("cpu"))
    assert "mug" not in caplog.text


def test_the_command_prints_it_with_a_sheet_and_ends_with_1_where_it_warns(
    mugs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["train", "preflight", "lora", "--model", "shapes", "--data", str(mugs), "--device", "cpu"]
    words += ["--num-steps", "1", "--preflight.num_images", "2"]
    assert main([*words, "-o", str(sheet)]) == 1
    assert 'warning: the model cannot read "mug" (8 captions)' in capsys.readouterr().out
    with Image.open(sheet) as image:
        assert image.width > 2 * 96
    for file in mugs.glob("*.txt"):
        file.write_text(file.read_text().replace("mug", "star"))
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == []
