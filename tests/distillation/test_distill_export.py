"""What a distill run leaves: a LoRA file and a folder that say what they were distilled for, and draw so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from deepgen.checkpoints.lora_files import read_lora
from deepgen.checkpoints.saving import DISTILLED_FILE, LORA_FILE
from deepgen.cli import main
from deepgen.pipeline import DeepGenPipeline
from deepgen.sampling.few_steps import KEY, read_few_steps
from deepgen.sampling.presets import PRESETS
from deepgen.serving.sampler import Sampler

CHANGES = (
    *("--num-inference-steps", "2", "--teacher-steps", "2", "--paths-per-round", "2", "--num-steps", "2"),
    *("--passes-per-round", "1", "--updates-per-pass", "2", "--log-every", "1"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill") / "run"
    assert main(["train", "distill-shapes", "-o", str(folder), *CHANGES]) == 0
    return folder


def test_the_small_model_is_distilled_too(tmp_path: Path) -> None:
    assert main(["train", "distill-tiny", "-o", str(tmp_path / "run"), *CHANGES]) == 0
    assert main(["train", "export", str(tmp_path / "run"), "--lora-file", "-o", str(tmp_path / "lora")]) == 0
    pipe = DeepGenPipeline.from_pretrained("tiny", torch_dtype=torch.float32)
    pipe.load_lora_weights(str(tmp_path / "lora"))
    assert picture(pipe).shape == (96, 96, 3)


def picture(pipe: DeepGenPipeline) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return np.asarray(pipe("a red circle", preset="turbo", seed=1).images[0]).astype(int)


def test_a_lora_file_and_a_folder_draw_the_same_in_the_steps_they_learnt(run: Path, tmp_path: Path) -> None:
    assert main(["train", "export", str(run), "--lora-file", "-o", str(tmp_path / "lora")]) == 0
    assert main(["train", "export", str(run), "-o", str(tmp_path / "folder")]) == 0
    made_for = read_few_steps(read_lora(tmp_path / "lora" / LORA_FILE).distilled, "the file")
    assert made_for is not None
    assert list(made_for.schedules) == [2]
    defaults = json.loads((tmp_path / "folder" / "model_index.json").read_text())["defaults"]
    assert defaults[KEY] == made_for.to_json(), "distilled itself, without a LoRA beside it"
    assert (defaults["guidance_scale"], defaults["edit_guidance_scale"]) == (1.0, 1.0)
    assert not (tmp_path / "folder" / DISTILLED_FILE).exists()
    adapted = DeepGenPipeline.from_pretrained("shapes", torch_dtype=torch.float32)
    adapted.load_lora_weights(str(tmp_path / "lora"))
    whole = DeepGenPipeline.from_pretrained(tmp_path / "folder", torch_dtype=torch.float32)
    # the folder is stored in bfloat16
    assert np.abs(picture(adapted) - picture(whole)).mean() < 2
    for pipe in (adapted, whole):
        with pytest.raises(ValueError, match="distilled for, 2; got 4"):
            pipe("a red circle", preset="turbo", num_inference_steps=4)
        drawn = pipe("a red circle", seed=1).images[0]
        assert np.array_equal(np.asarray(drawn), picture(pipe)), "its default is the way it was made for"
        with pytest.raises(ValueError, match="leave out preset 'balanced'"):
            pipe("a red circle", preset="balanced")
        with pytest.raises(ValueError, match="leave out preset 'balanced'"):
            Sampler(pipe, preset="balanced")
        can_use = Sampler(pipe).model_info.can_use
        assert [name for name in PRESETS if can_use(name)] == ["exact", "turbo"]


@pytest.mark.slow
def test_a_student_is_not_distilled_again(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "export", str(run), "-o", str(tmp_path / "folder")]) == 0
    again = ["train", "distill-shapes", "--model", str(tmp_path / "folder"), "-o", str(tmp_path / "again")]
    assert main([*again, *CHANGES]) == 2
    assert "was distilled already" in capsys.readouterr().err
