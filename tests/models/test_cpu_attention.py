"""The ways a CPU with bfloat16 instructions may choose its attention from, on any CPU.

oneDNN multiplies bfloat16 only where the processor does. Elsewhere the product that needs it is computed in
float64 and rounded, which is what it gives.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepgen.models import cpu_attention
from deepgen.models.attention import JointAttentionProcessor
from deepgen.models.blocks import FinalJointBlock, JointBlock


def exact(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return cpu_attention.pytorch(query.double(), key.double(), value.double())


def inputs(
    dtype: torch.dtype, rows: int = 70, keys: int = 90, size: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised queries and keys of (2, rows or keys, 3, 32), as the DiT's are, times `size`."""
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, count, 3, 32) for count in (rows, keys, keys))
    query, key = (F.rms_norm(x, (32,)) * size for x in (query, key))
    return query.to(dtype), key.to(dtype), value.to(dtype)


def error(ours: Tensor, expected: Tensor) -> float:
    return float((ours - expected).norm() / expected.norm())


@pytest.fixture
def rounded_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logistic product as a processor with bfloat16 gives it."""

    def product(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.sigmoid(x.double() @ weight.double().T + bias.double()).to(x.dtype)

    monkeypatch.setattr(cpu_attention, "logistic_product", product)


@pytest.fixture
def choices(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[int, ...], cpu_attention.Attention]:
    """What was chosen, on a processor said to multiply bfloat16."""
    monkeypatch.setattr(cpu_attention, "has_kernel", lambda dtype: True)
    monkeypatch.setattr(cpu_attention, "_fastest", chosen := {})
    return chosen


@pytest.mark.parametrize("size", [0.3, 1.0, 2.2])
@torch.no_grad()
def test_two_products_are_the_softmax_attention(size: float) -> None:
    tensors = inputs(torch.float32, size=size)
    ours = cpu_attention.two_products(*tensors)
    assert ours.shape == tensors[0].shape
    assert ours.is_contiguous()
    assert error(ours, exact(*tensors)) < 2e-6


@torch.no_grad()
def test_in_bfloat16_the_error_is_about_that_of_pytorchs(rounded_products: None) -> None:
    tensors = inputs(torch.bfloat16, rows=300, keys=700)
    expected = exact(*tensors)
    ours = cpu_attention.two_products(*tensors)
    assert ours.dtype == torch.bfloat16
    assert error(ours, expected) < 1.5 * error(cpu_attention.pytorch(*tensors), expected)


@torch.no_grad()
def test_parts_of_the_queries_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = inputs(torch.float32)
    monkeypatch.setattr(cpu_attention, "_WEIGHTS_AT_ONCE", 7 * 90)  # of 70 queries 7 at once
    assert error(cpu_attention.two_products(*tensors), exact(*tensors)) < 2e-6


@pytest.mark.parametrize(
    ("rows", "most", "expected"), [(70, 33, [24, 24, 22]), (5, 100, [5]), (3, 0, [1, 1, 1])]
)
def test_rows_are_parted_evenly(rows: int, most: int, expected: list[int]) -> None:
    numbers = list(range(rows))
    assert [len(numbers[part]) for part in cpu_attention._parts(rows, most)] == expected


@torch.no_grad()
def test_scores_too_large_for_their_exponentials_are_left_to_pytorch(
    choices: dict[tuple[int, ...], cpu_attention.Attention],
) -> None:
    tensors = inputs(torch.bfloat16, size=4.0)
    for way in (cpu_attention.attend, cpu_attention.two_products):
        assert torch.equal(way(*tensors), cpu_attention.pytorch(*tensors))
    assert not choices


@torch.no_grad()
def test_what_is_no_number_stays_none(choices: dict[tuple[int, ...], cpu_attention.Attention]) -> None:
    query, key, value = inputs(torch.bfloat16)
    query[0, 3] = float("nan")
    for way in (cpu_attention.attend, cpu_attention.two_products):
        assert way(query, key, value)[0, 3].isnan().all()


@torch.no_grad()
def test_the_fastest_way_is_measured_once_a_shape_and_kept(
    choices: dict[tuple[int, ...], cpu_attention.Attention], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, calls = [0.0], []

    def taking(seconds: float, name: str) -> cpu_attention.Attention:
        def way(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
            clock[0] += seconds
            calls.append(name)
            return cpu_attention.pytorch(query, key, value)

        return way

    stock, fast, slow = taking(1.0, "stock"), taking(0.9, "fast"), taking(1.1, "slow")
    monkeypatch.setattr(cpu_attention.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(cpu_attention, "WAYS", (stock, fast, slow))
    tensors = inputs(torch.bfloat16)
    cpu_attention.attend(*tensors)
    compared = len(calls)
    cpu_attention.attend(*tensors)
    assert choices == {(70, 90, 3, 32): fast}
    assert calls[compared - 1 :] == ["fast", "fast"]

    def missing(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        raise RuntimeError("could not create a primitive descriptor")

    def wrong(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return 1.1 * cpu_attention.pytorch(query, key, value)

    others = (taking(0.97, "hardly faster"), missing, wrong)
    monkeypatch.setattr(cpu_attention, "WAYS", (stock, *others))
    cpu_attention.attend(*inputs(torch.bfloat16, rows=8))
    assert choices[(8, 90, 3, 32)] is stock


def block_inputs(dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    image, context = torch.randn(2, 24, 64, dtype=dtype), torch.randn(2, 5, 64, dtype=dtype)
    return {"hidden_states": image, "encoder_hidden_states": context}


def make_block(is_final: bool, dtype: torch.dtype) -> JointBlock:
    torch.manual_seed(0)
    block = (FinalJointBlock if is_final else JointBlock)(
        dim=64,
        num_attention_heads=2,
        attention_head_dim=32,
        context_pre_only=is_final,
        qk_norm="rms_norm",
        use_dual_attention=True,
    )
    for module in (block.attn, block.attn2):
        module.set_processor(JointAttentionProcessor())
    return block.to(dtype)


@pytest.mark.parametrize("is_final", [False, True])
@torch.no_grad()
def test_a_block_that_draws_gives_the_same_with_two_products(
    is_final: bool,
    choices: dict[tuple[int, ...], cpu_attention.Attention],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    block, inputs = make_block(is_final, torch.float32), block_inputs(torch.float32)
    vectors = block.modulation(torch.randn(2, 64))
    context, image = block(**inputs, temb=vectors)
    assert not choices  # float32 has no choice

    monkeypatch.setattr(cpu_attention, "has_choice", lambda query: True)
    monkeypatch.setattr(cpu_attention, "_choose", lambda *tensors: cpu_attention.two_products)
    kwargs = {"may_fuse": True, **({"num_targets": 10} if is_final else {})}
    chosen_context, chosen = block(**inputs, temb=vectors, joint_attention_kwargs=kwargs)
    queries = (10, 10) if is_final else (29, 24)
    assert list(choices) == [(queries[0], 29, 2, 32), (queries[1], 24, 2, 32)]
    count = 10 if is_final else 24
    assert error(chosen[:, :count], image[:, :count]) < 2e-6
    assert error(chosen_context, context) < 2e-6


@pytest.mark.parametrize(
    "case", ["drawn", "scored", "with gradient", "masked", "backend asked for", "float32", "no kernel"]
)
def test_only_a_picture_that_is_drawn_without_a_mask_has_a_choice(
    case: str, choices: dict[tuple[int, ...], cpu_attention.Attention], monkeypatch: pytest.MonkeyPatch
) -> None:
    dtype = torch.float32 if case == "float32" else torch.bfloat16
    block, inputs = make_block(False, dtype), block_inputs(dtype)
    embedding = torch.randn(2, 64, dtype=dtype)
    if case == "masked":
        mask = torch.ones(2, 1, 1, 29, dtype=torch.bool)
        inputs["joint_attention_kwargs"] = {"attention_mask": mask, "image_mask": mask[..., :24]}
    if case != "scored":
        inputs["joint_attention_kwargs"] = {**inputs.get("joint_attention_kwargs", {}), "may_fuse": True}
    if case == "backend asked for":
        for module in (block.attn, block.attn2):
            module.processor._attention_backend = "native"
    if case == "no kernel":
        monkeypatch.setattr(cpu_attention, "has_kernel", lambda dtype: False)
    monkeypatch.setattr("deepgen.models.blocks.feed_forward", lambda mlp, x: mlp(x))  # needs the processor
    monkeypatch.setattr(cpu_attention, "WAYS", (cpu_attention.pytorch,))
    with torch.set_grad_enabled(case == "with gradient"):
        block(**inputs, temb=block.modulation(embedding))
    assert bool(choices) == (case == "drawn")
