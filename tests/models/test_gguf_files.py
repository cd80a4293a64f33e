"""GGUF files: what is written is read back, quantised, and draws nearly the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepgen.models.gguf_files import Kind, read_gguf, write_gguf
from deepgen.models.tensors import CheckpointError
from deepgen.pipeline import DeepGenPipeline

pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def tiny() -> DeepGenPipeline:
    pipe = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe: DeepGenPipeline) -> torch.Tensor:
    pictures = pipe(
        "a red circle on a white background", seed=1, output_type="pt", num_inference_steps=8
    ).images
    return torch.as_tensor(pictures)


# One scale for 32 weights: 8 bits are off by at most 1/254 of a block's largest, 5 by 1/32, 4 by 1/16.
@pytest.mark.parametrize(("kind", "tolerance"), [("Q8_0", 0.02), ("Q5_0", 0.1), ("Q4_0", 0.2)])
def test_a_dit_in_few_bits_draws_nearly_the_same(
    kind: Kind, tolerance: float, tiny: DeepGenPipeline, tmp_path: Path
) -> None:
    expected = draw(tiny)
    write_gguf(tiny.transformer, tmp_path / "dit.gguf", kind)
    weights = sum(4 * tensor.numel() for tensor in tiny.transformer.state_dict().values())
    assert (tmp_path / "dit.gguf").stat().st_size < 0.4 * weights
    other = DeepGenPipeline.from_pretrained("tiny", dtype=torch.float32)
    other.set_progress_bar_config(disable=True)
    read_gguf(other.transformer, tmp_path / "dit.gguf")
    layer = other.transformer.transformer_blocks[0].attn.to_q
    assert type(layer).__name__ == "GGUFLinear"
    assert layer.weight.dtype in (torch.int8, torch.uint8)
    assert 0 < (draw(other) - expected).abs().mean() < tolerance


def test_a_file_of_another_part_is_refused_by_key(tiny: DeepGenPipeline, tmp_path: Path) -> None:
    write_gguf(tiny.connector, tmp_path / "connector.gguf")
    before = draw(tiny)
    with pytest.raises(
        CheckpointError, match=r"keys differ\); it was not written from a DeepGenTransformer2DModel"
    ):
        read_gguf(tiny.transformer, tmp_path / "connector.gguf")
    assert torch.equal(draw(tiny), before), "a refused file must change nothing"


def test_a_missing_file_is_named(tiny: DeepGenPipeline, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.gguf"):
        read_gguf(tiny.transformer, tmp_path / "nowhere.gguf")
