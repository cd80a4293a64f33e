"""LoRAs that were learnt one after the other, as one of a given rank."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deepgen.checkpoints.lora_files import DISTILLED
from loaded_scripts import load_script

NAMES = ("transformer.x.lora_A.weight", "transformer.x.lora_B.weight")


@pytest.fixture(scope="module")
def tool() -> Any:
    return load_script("tools/add_distilled_lora.py")


def update(seed: int, rank: int, alpha: int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    draws = torch.Generator().manual_seed(seed)
    factors = torch.randn(rank, 6, generator=draws), torch.randn(5, rank, generator=draws)
    settings = {"r": rank, "lora_alpha": alpha, "rank_pattern": {}, "alpha_pattern": {}}
    said = json.dumps({f"transformer.{key}": value for key, value in settings.items()})
    return dict(zip(NAMES, factors, strict=True)), {"lora_adapter_metadata": said, DISTILLED: "{}"}


def whole(tool: Any, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> torch.Tensor:
    return tool.strength(metadata) * tensors[NAMES[1]] @ tensors[NAMES[0]]


@pytest.mark.parametrize("rank", [4, 7])  # as much as the sum needs, and more than there is
def test_the_sum_of_two_updates_is_that_of_both_at_their_own_strengths(
    tool: Any, tmp_path: Path, rank: int
) -> None:
    (first, said), (second, other) = update(0, 2, 2), update(1, 2, 6)
    file = tmp_path / "second.safetensors"
    save_file(second, file, metadata=other)
    both, metadata = tool.truncated(tool.summed(first, tool.strength(said), second, file), said, rank)
    assert both[NAMES[0]].shape == (rank, 6)
    expected = whole(tool, first, said) + whole(tool, second, other)
    torch.testing.assert_close(whole(tool, both, metadata), expected)


def test_a_layer_that_the_first_leaves_alone_is_named(tool: Any, tmp_path: Path) -> None:
    (first, said), (second, other) = update(0, 2, 2), update(1, 2, 6)
    second = {name.replace(".x.", ".y."): value for name, value in second.items()}
    save_file(second, tmp_path / "second.safetensors", metadata=other)
    with pytest.raises(SystemExit, match=r"such as transformer\.y\.lora_A"):
        tool.summed(first, tool.strength(said), second, tmp_path / "second.safetensors")
