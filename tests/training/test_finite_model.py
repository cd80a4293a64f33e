"""The whole model: what is not finite is named in training, refused by an export, and said in drawing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepgen.checkpoints.sums import SUMS, hash_file, write_sums
from deepgen.models.errors import NotFiniteError
from deepgen.pipeline import DeepGenPipeline
from deepgen.recipes import export, run
from deepgen.training.checkpoint_folders import STATE, checkpoints, latest_checkpoint
from deepgen.training.supervised_stage import SupervisedStage
from small_runs import small


def spoil(folder: Path, part: str) -> str:
    """One number of a checkpoint becomes NaN, with sums that say so: as a version without checks saved it."""
    file = folder / f"{part}.safetensors"
    tensors = load_file(file)
    name = sorted(tensors)[0]
    tensors[name].flatten()[0] = float("nan")
    save_file(tensors, file)
    state = json.loads((folder / STATE).read_text())
    state["sha256"][file.name] = hash_file(file)
    (folder / STATE).write_text(json.dumps(state))
    (folder / SUMS).unlink()
    write_sums(folder)
    return name


def test_latents_that_are_nan_are_named_with_their_samples_and_the_last_checkpoint_is_exported(
    mixture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = SupervisedStage._latents

    def latents(self: SupervisedStage, moments: torch.Tensor, samples: Any, purpose: str) -> torch.Tensor:
        found = real(self, moments, samples, purpose)
        return found * float("nan") if purpose == "target" and 6 in samples else found

    monkeypatch.setattr(SupervisedStage, "_latents", latents)
    changes = small(mixture, num_steps="3", save_every="1", ema_decay="0.5")
    with pytest.raises(
        NotFiniteError, match=r"step 2 is not finite: latents of the targets of micro-batch \d"
    ) as no:
        run("alignment", tmp_path / "run", overrides=changes)
    assert "(samples " in str(no.value)
    assert [folder.name for folder in checkpoints(tmp_path / "run")] == ["step-00000001"]
    export(tmp_path / "run", tmp_path / "out", what="native")
    folder = latest_checkpoint(tmp_path / "run")
    name = spoil(folder, "ema")
    for what in ("native", "folder"):
        with pytest.raises(
            NotFiniteError, match=rf"the averages of {name} hold NaN or infinity; .* had diverged"
        ):
            export(tmp_path / "run", tmp_path / what, what=what)  # type: ignore[arg-type]
        assert not (tmp_path / what).exists()


def test_drawing_with_weights_that_are_nan_says_what_is_wrong(
    fresh_pipe: DeepGenPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_pipe.set_progress_bar_config(disable=True)
    options: Any = {"num_inference_steps": 1, "seed": 0, "height": 32, "width": 32}
    fresh_pipe("a red circle", **options)
    assert caplog.text == ""
    with torch.no_grad():
        fresh_pipe.transformer.proj_out.bias.fill_(float("nan"))
    for output_type in ("pil", "latent"):
        caplog.clear()
        fresh_pipe("a red circle", output_type=output_type, **options)
        assert "the latents of 1 of 1 pictures hold NaN or infinity" in caplog.text
        assert "the model's weights are damaged or its training diverged" in caplog.text
