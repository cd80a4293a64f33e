"""`--memory`: what it chooses, what it says, and int8 weights on a CPU for real."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepgen.cli import loading, main
from deepgen.cli.loading import Placement, choose_placement, load_pipeline
from deepgen.cli.options import ImageOptions, ModelOptions


def test_auto_plans_for_what_is_free_and_says_so(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda device: 10 * 10**9)
    options = ModelOptions(model="deepgen-1.0", memory="auto")
    assert choose_placement(options, "cuda") == Placement("none", "model", has_tiles=False)
    assert "10.0 GB free on cuda: 16 bits, one part at a time" in capsys.readouterr().err


def test_preset_auto_is_exact_and_memory_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda device: 30 * 10**9)
    options = ImageOptions(model="deepgen-1.0", preset="auto")
    assert options.solver_preset == "exact"
    assert choose_placement(options, "cuda") == Placement()


def test_a_named_memory_needs_no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "free_memory", lambda device: pytest.fail("the machine was asked"))
    chosen = choose_placement(ModelOptions(model="deepgen-1.0", memory="8"), "cuda")
    assert chosen == Placement("int8", "model", has_tiles=True)


def test_memory_is_not_chosen_twice(capsys) -> None:
    assert main(["generate", "a star", "--memory", "8", "--quantize", "int8"]) == 2
    assert "--memory 8 chooses --offload and --quantize" in capsys.readouterr().err


def test_nf4_on_a_cpu_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    """bitsandbytes runs on CPUs, but diffusers asks for a card and ended in a traceback."""
    assert main(["generate", "a star", "--quantize", "nf4", "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "nf4 weights are made on a CUDA or XPU device, and this would run on cpu" in said
    assert "take --quantize int8" in said


@pytest.mark.slow
@pytest.mark.parametrize("quantize", ["int8", "fp8"])
def test_a_small_model_in_8_bits_draws_nearly_the_same_on_a_cpu(quantize, tmp_path: Path) -> None:
    pytest.importorskip("torchao")
    plain, narrow = (
        load_pipeline(ModelOptions(model="tiny", device="cpu", quantize=kind)) for kind in ("none", quantize)
    )
    weight = narrow.transformer.transformer_blocks[0].attn.to_q.weight
    assert type(weight) is not type(plain.transformer.transformer_blocks[0].attn.to_q.weight)
    images = [
        pipe("a red circle on a white background", seed=1, output_type="pt", num_inference_steps=8).images
        for pipe in (plain, narrow)
    ]
    difference = (torch.as_tensor(images[0]) - torch.as_tensor(images[1])).abs().mean()
    assert 0 < difference < 0.03
