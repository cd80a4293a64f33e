"""Choosing a model's guidance by rewards."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from deepgen.cli.app import main
from deepgen.data.prompts import Prompt
from deepgen.pipeline import DeepGenPipeline
from deepgen.rewards.ensemble import RewardEnsemble
from deepgen.rewards.reward import EachAlone, RewardResult
from deepgen.rl.guidance_search import GuidanceResult, best_scales, try_scales, write_scales


class Red(EachAlone):
    """The red of a picture's first pixel; nothing to say of white ones."""

    version = "red-1"

    def judge(self, candidate) -> RewardResult:
        red, green, _ = candidate.image.getpixel((0, 0))
        return RewardResult(None, "too bright") if green == 255 else RewardResult(red / 255)


class Painter:
    """A pipeline whose pictures are reddest at guidance 1.5, its edits at 1."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def __call__(self, texts: list[str], **options: Any) -> SimpleNamespace:
        self.calls.append({"texts": texts, **options})
        scale = options["guidance_scale"]
        best = 1.5 if options["image"] is None else 1.0
        red = round(200 - 80 * abs(scale - best))
        colors = [(255, 255, 255) if text == "snow" else (red, 0, 0) for text in texts]
        return SimpleNamespace(images=[Image.new("RGB", (4, 4), color) for color in colors])


def prompt(text: str, *, is_edit: bool = False) -> Prompt:
    references = (Image.new("RGB", (4, 4)),) if is_edit else ()
    return Prompt(text=text, key=text, dataset="set", weights={"red": 1.0}, references=references)


PROMPTS = [prompt("one"), prompt("make it red", is_edit=True), prompt("two"), prompt("snow")]


def test_captions_and_edits_each_get_the_scale_they_are_worth_most_with() -> None:
    results = list(try_scales(Painter(), PROMPTS, RewardEnsemble({"red": Red()}), [1.0, 1.5, 2.0]))
    assert best_scales(results) == {"guidance_scale": 1.5, "edit_guidance_scale": 1.0}
    assert [(one.is_edit, one.scale) for one in results[:2]] == [(False, 1.0), (True, 1.0)]
    assert results[2].reward == pytest.approx(200 / 255)


def test_every_scale_draws_the_same_prompts_with_the_same_noise() -> None:
    painter = Painter()
    list(try_scales(painter, PROMPTS, RewardEnsemble({"red": Red()}), [1.0, 2.0], batch_size=2))
    drawn = [[(call["texts"], call["seed"]) for call in painter.calls if call["guidance_scale"] == scale]
             for scale in (1.0, 2.0)]  # fmt: skip
    assert drawn[0] == drawn[1] == [(["one", "two"], [0, 2]), (["snow"], [3]), (["make it red"], [1])]


def test_a_picture_without_a_verdict_counts_for_nothing() -> None:
    captions, edits = try_scales(Painter(), PROMPTS, RewardEnsemble({"red": Red()}), [1.5])
    assert (captions.num_judged, edits.num_judged) == (2, 1)
    assert captions.error == 0


def test_no_verdict_at_all_is_an_error_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"none of 1 pictures with guidance 2 got a verdict: too bright"):
        list(try_scales(Painter(), [prompt("snow")], RewardEnsemble({"red": Red()}), [2.0]))


@pytest.mark.parametrize("scales", [[], [0.5], [1.0, float("nan")], [float("inf")]])
def test_a_scale_that_is_no_guidance_is_refused_before_anything_is_drawn(scales: list[float]) -> None:
    painter = Painter()
    with pytest.raises(ValueError, match="at least 1"):
        list(try_scales(painter, PROMPTS, RewardEnsemble({"red": Red()}), scales))
    assert not painter.calls


def test_of_equal_scales_the_smaller_is_chosen() -> None:
    results = [
        GuidanceResult(is_edit=False, scale=scale, reward=0.5, error=0.1, num_judged=9)
        for scale in (2.0, 1.25, 1.75)
    ]
    assert best_scales(results) == {"guidance_scale": 1.25}


@pytest.mark.parametrize(("own", "chosen"), [(1.75, 1.75), (1.5, 1.25)])
def test_the_models_own_scale_is_kept_where_no_other_is_worth_more(own: float, chosen: float) -> None:
    rewards = {1.0: 0.4, 1.25: 0.5, 1.75: 0.5, own: 0.5 if own == 1.75 else 0.45}
    for is_edit, name in ((False, "guidance_scale"), (True, "edit_guidance_scale")):
        results = [
            GuidanceResult(is_edit=is_edit, scale=scale, reward=reward, error=0.1, num_judged=9)
            for scale, reward in rewards.items()
        ]
        assert best_scales(results, {"guidance_scale": 9.0, name: own}) == {name: chosen}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    DeepGenPipeline.from_pretrained("shapes").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_written_scale_is_what_the_model_then_draws_with(folder: Path) -> None:
    write_scales(folder, {"guidance_scale": 1.25})
    asked = {"seed": 3, "num_inference_steps": 2, "output_type": "pt"}
    before, after = (
        DeepGenPipeline.from_pretrained(name, torch_dtype=torch.float32) for name in ("shapes", folder)
    )
    chosen = before("a red circle", guidance_scale=1.25, **asked).images
    assert torch.equal(after("a red circle", **asked).images, chosen)
    assert not torch.equal(before("a red circle", **asked).images, chosen)


def test_edits_keep_their_scale_where_that_of_captions_is_written(folder: Path) -> None:
    index = folder / "model_index.json"
    about = json.loads(index.read_text())
    del about["defaults"]["edit_guidance_scale"]  # edits follow captions, as in DeepGen 1.0
    index.write_text(json.dumps(about))
    write_scales(folder, {"guidance_scale": 1.25})
    pipe = DeepGenPipeline.from_pretrained(folder)
    expected = {**about["defaults"], "guidance_scale": 1.25, "edit_guidance_scale": 1.75}
    assert pipe.defaults == {**expected, "distilled": pipe.defaults["distilled"]}  # with the file's place


def test_a_folder_without_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="export the run"):
        write_scales(tmp_path, {"guidance_scale": 1.25})


def test_the_command_judges_prints_and_writes(folder: Path, tmp_path: Path, capsys) -> None:
    mix = tmp_path / "prompts.yaml"
    mix.write_text(
        "rewards: {right: {scorer: shapes}}\n"
        "datasets:\n"
        "  - {name: captions, shapes: generate, rows: 8, rewards: {right: 1}}\n"
        "  - {name: edits, shapes: edit, rows: 8, rewards: {right: 1}}\n"
    )
    asked = ["--prompts", str(mix), "--num-prompts", "4", "--steps", "1", "--scales", "1", "1.5"]
    assert main(["rewards", "guidance", str(folder), *asked, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {(row["is_edit"], row["scale"]) for row in said["results"]} == {
        (False, 1.0), (True, 1.0), (False, 1.5), (True, 1.5)
    }  # fmt: skip
    assert main(["rewards", "guidance", str(folder), *asked, "--write"]) == 0
    assert "written: guidance_scale" in capsys.readouterr().out
    assert json.loads((folder / "model_index.json").read_text())["defaults"].items() >= said["best"].items()


def test_what_cannot_be_written_is_said_before_the_model_is_loaded(tmp_path: Path, capsys) -> None:
    mix = tmp_path / "prompts.txt"
    mix.write_text("a red circle\n")
    asked = ["rewards", "guidance", "shapes", "--prompts", str(mix), "--rewards", "shapes=1", "--write"]
    assert main(asked) == 2
    said = capsys.readouterr().err
    assert "model_index.json" in said
    assert "loaded" not in said
