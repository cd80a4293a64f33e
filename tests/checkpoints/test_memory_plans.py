"""Memory plans: needs computed from the real sizes, and the first plan that fits."""

from __future__ import annotations

import pytest
from torch import nn

from deepgen.checkpoints.memory import GB, PLANS, MemoryPlan, choose, meta_models, need, part_bytes
from deepgen.pipeline import TINY_DIR, DeepGenPipeline

BUDGETS = (24, 16, 12, 8, 6)  # GB, of the cards people have


@pytest.fixture(scope="module")
def full_size() -> dict[str, nn.Module]:
    return meta_models("deepgen-1.0")


def test_every_common_card_has_a_plan_that_fits(full_size: dict[str, nn.Module]) -> None:
    chosen = {budget: choose(full_size, budget * GB) for budget in BUDGETS}
    assert all(need(full_size, plan).device <= budget * GB for budget, plan in chosen.items())
    assert chosen[24] == MemoryPlan()
    assert chosen[12] == MemoryPlan(offload="model")
    assert [plan.quantize for plan in chosen.values()] == ["none", "none", "none", "int8", "int8"]


def test_without_a_memory_of_its_own_a_device_offloads_nothing(full_size: dict[str, nn.Module]) -> None:
    assert choose(full_size, 12 * GB, can_offload=False) == MemoryPlan(quantize="int8", has_tiles=True)
    with pytest.raises(ValueError, match=r"needs at least \d+\.\d GB here \(8 bits"):
        choose(full_size, 6 * GB, can_offload=False)


def test_what_no_plan_can_hold_is_refused_with_the_least_need(full_size: dict[str, nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"needs at least 1\.\d GB here \(16 bits, layer by layer"):
        choose(full_size, GB)


def test_each_way_to_save_saves(full_size: dict[str, nn.Module]) -> None:
    device = {plan: need(full_size, plan).device for plan in PLANS}
    assert device[MemoryPlan(offload="model")] < device[MemoryPlan()]
    assert device[MemoryPlan(has_tiles=True)] < device[MemoryPlan()]
    assert min(device, key=device.__getitem__) == MemoryPlan(offload="group", has_tiles=True)
    widths = [part_bytes("vlm", full_size["vlm"], kind) for kind in ("none", "int8", "nf4")]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == 3


def test_the_sizes_of_a_folder_are_those_of_its_parts() -> None:
    models, pipe = meta_models(TINY_DIR), DeepGenPipeline.from_pretrained("tiny")
    for name, model in models.items():
        stored = getattr(pipe, name).state_dict().values()
        assert part_bytes(name, model, "none") == 2 * sum(tensor.numel() for tensor in stored)
