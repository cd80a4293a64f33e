"""Plans: exact on the small model, close to spec/training.md (sections 1 and 3) on the published one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deepgen.models.config import DEEPGEN_SHAPES
from deepgen.planning.accelerators import ACCELERATORS, Accelerator, accelerator
from deepgen.training.adapters import LoraSettings
from deepgen.training.plan import Counts, PlanConfig, _models, _weights, plan, plan_of_recipe
from deepgen.training.stages.sft import SFTConfig
from planned import STAGE_1, STAGE_2, frozen, stage

GB = 1e9
ROOT = Path(__file__).parents[2]
TINY = PlanConfig(
    architecture=DEEPGEN_SHAPES, image_size=96, compute_dtype="float32", edit_share=0.5, global_batch_size=8
)


def parameters(part: str) -> int:
    return sum(p.numel() for p in frozen("deepgen-shapes")[part].parameters())


def test_tiny_in_float32_is_exact() -> None:
    rows = plan(replace(TINY, has_ema=True), ACCELERATORS["cpu"]).weights
    trained = parameters("connector")
    table = frozen("deepgen-shapes")["transformer"].pos_embed.pos_embed.numel()  # stored, not trained
    others = sum(parameters(part) for part in ("vlm", "transformer", "vae"))
    assert rows == {
        "frozen weights": 4 * (others + table),
        "trained weights": 4 * trained,
        "casts of them": 0,
        "gathered layers": 0,
        "gradients": 4 * trained,
        "master weights": 0,
        "optimizer moments": 8 * trained,
        "moving average": 4 * trained,
    }


@pytest.mark.parametrize(
    ("scheme", "is_8bit", "nbytes"),
    [
        ("mixed", False, 4 + 2 + 4 + 8),
        ("engine", False, 2 + 2 + 4 + 8),
        ("pure", False, 2 + 2 + 4),
        ("pure", True, 2 + 2 + 2 + 2 * 4 / 256),
    ],
)
def test_bytes_of_a_trained_parameter(scheme: str, is_8bit: bool, nbytes: float) -> None:
    config = replace(TINY, compute_dtype="bfloat16", scheme=scheme, is_8bit=is_8bit)
    rows = plan(config, ACCELERATORS["cpu"]).weights
    assert sum(rows.values()) - rows["frozen weights"] == pytest.approx(nbytes * parameters("connector"))


def test_a_lora_counts_its_factors() -> None:
    rank = 4
    config = replace(TINY, trains_connector=False, vlm_lora=LoraSettings(rank=rank))
    layer = (128, 128), (128, 64), (128, 64), (128, 128), (128, 256), (128, 256), (256, 128)
    expected = 5 * rank * sum(a + b for a, b in layer)
    assert plan(config, ACCELERATORS["cpu"]).trained == {
        "vlm": expected,
        "connector": 0,
        "transformer": 0,
        "vae": 0,
    }


def test_gradients_and_activations_take_turns_without_accumulation() -> None:
    once = plan(replace(TINY, global_batch_size=4), ACCELERATORS["cpu"])
    often = plan(replace(TINY, global_batch_size=8), ACCELERATORS["cpu"])
    fullest = max(sum(parts.values()) for parts in once.activations.values())
    assert often.peak - once.peak == min(once.weights["gradients"], fullest)


def test_the_precise_size_of_what_is_trained() -> None:
    counts = {name: sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in stage(2).items()}
    assert counts["connector"] == 432_449_532  # spec/training_defaults.json
    lora = 119_734_272 + 9_854_976 + 45_719_552  # the original's head, which is not built here, has the rest
    assert counts["vlm"] == lora


@pytest.mark.parametrize(
    ("number", "changes", "expected"),
    [
        (1, {"scheme": "engine"}, 19.0),
        (2, {"scheme": "engine"}, 53.4),
        (2, {"scheme": "engine", "num_processes": 8, "sharding": "zero2"}, 18.4),
        (2, {"scheme": "pure", "is_8bit": True}, 25.0),
    ],
)
def test_static_memory_of_the_specification(number: int, changes: dict, expected: float) -> None:
    config = replace(STAGE_1 if number == 1 else STAGE_2, **changes)
    assert sum(_weights(config, stage(number)).values()) / GB == pytest.approx(expected, rel=0.05)


def test_lora_everywhere_of_the_specification() -> None:
    lora = LoraSettings()
    both = PlanConfig(vlm_lora=lora, transformer_lora=lora, scheme="engine")
    for config, expected in ((both, 22), (replace(both, trains_connector=False), 16)):
        assert sum(_weights(config, _models(config)).values()) / GB == pytest.approx(expected, rel=0.1)


def test_hours_of_the_specification() -> None:
    """64 H100 at 35 %, 512 pixels, as the original computes it: 7.7 h and 20 h."""
    pool = {"num_processes": 64, "scheme": "engine", "sharding": "zero2"}
    counts = Counts()
    first = replace(STAGE_1, **pool, is_prompt_split=False)
    second = replace(STAGE_2, **pool)
    result = plan(first, accelerator("h100"), 50_000, 2.5, counts)
    assert result.hours == pytest.approx(7.7, rel=0.03)
    assert result.cost == pytest.approx(result.hours * 64 * 2.5)
    assert result.flops_per_sample / 1e12 == pytest.approx(12.05, rel=0.01)
    result = plan(second, accelerator("h100"), 133_333, counts=counts)
    assert result.hours == pytest.approx(20, rel=0.05)
    assert result.flops_per_sample / 1e12 == pytest.approx(15.87, rel=0.01)


# --- advice


def test_the_first_remedy_that_is_enough_is_named() -> None:
    usual = plan(TINY, ACCELERATORS["cpu"])
    fullest = max(sum(parts.values()) for parts in usual.activations.values())
    tight = replace(ACCELERATORS["cpu"], memory_gb=(usual.peak - fullest / 2) / GB)
    result = plan(TINY, tight)
    assert not result.fits
    assert len(result.remedies) == 1
    assert "micro_batch_size=1" in result.remedies[0]
    assert result.remedies[0] in str(result)


def test_what_no_switch_can_help_is_said() -> None:
    result = plan(TINY, Accelerator(name="toy", memory_gb=0.001, tflops=1.0, bandwidth=1.0))
    assert result.remedies == ()
    assert "take a larger card" in str(result)


def test_the_table_can_be_read() -> None:
    text = str(plan(TINY, replace(ACCELERATORS["cpu"], memory_gb=8.0), 100, 2.0))
    for part in (
        "frozen weights",
        "activations, 4 x edit",
        "peak",
        "it fits",
        "transformer",
        "samples/s",
        "cost",
    ):
        assert part in text


# --- what is refused, and what recipes say


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trains_connector": False}, "nothing to train"),
        ({"trains_transformer": True, "transformer_lora": LoraSettings()}, "not both"),
        ({"image_size": 500}, "try 480"),
        ({"micro_batch_size": 0}, "at least 1"),
        ({"edit_share": 1.5}, r"in \[0, 1\]"),
        ({"sharding": "fsdp"}, "several processes"),
        ({"shards_frozen": True}, "fsdp alone"),
    ],
)
def test_impossible_plans_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlanConfig(**changes)


def test_an_unknown_card_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'gtx'; known: .*h100.*cpu"):
        accelerator("gtx")


def test_a_recipe_becomes_a_plan() -> None:
    config = plan_of_recipe(SFTConfig(), DEEPGEN_SHAPES, accelerator("h100"), image_size=96, num_processes=8)
    assert (config.trains_transformer, config.vlm_lora, config.has_ema) == (True, LoraSettings(), True)
    assert (config.compute_dtype, config.global_batch_size, config.num_processes) == ("bfloat16", 768, 8)
    assert plan_of_recipe(SFTConfig(), DEEPGEN_SHAPES, ACCELERATORS["cpu"]).compute_dtype == "float32"


@pytest.mark.slow
def test_the_documents_table_is_what_the_tool_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sys.modules.pop("training_plan", None)
    from training_plan import table

    assert table() in (ROOT / "docs" / "training_plan.md").read_text()
