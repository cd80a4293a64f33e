"""Arithmetic: against torch's own counter on the small model, and against spec/training.md, section 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from deepgen.models import vision_tower as vision_tower_layers
from deepgen.planning.flops import (
    Positions,
    SampleShape,
    bridge,
    dit,
    language_model,
    positions,
    positions_of,
    sample_flops,
    vae_decoder,
    vae_encoder,
    vision_tower,
)
from planned import frozen, stage, tiny

CAPTION, EDIT = SampleShape(prompt_tokens=80), SampleShape(prompt_tokens=40, references=1)
aten = torch.ops.aten


def counted(call: Callable[[], Any], backward: bool = False) -> int:
    """What torch counts, with the CPU's attention kernels, which its own table leaves out."""

    def attention(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def attention_backward(
        grad: Any, query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any
    ) -> int:
        return sdpa_backward_flop_count(grad, query, key, value)

    kernels = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=kernels) as counter:
        output = call()
        if backward:
            sum(x.float().sum() for x in output if x is not None).backward()
    return counter.get_total_flops()


def tiny_positions(references: int = 1) -> Positions:
    return Positions(
        image=9 * (1 + references), image_of_one=9, prompt=20, think=8, patches=36 * references,
        references=references,
    )  # fmt: skip


def run_dit(transformer: Any, p: Positions, requires_grad: bool = False) -> tuple[torch.Tensor, ...]:
    latents = torch.randn(1, 4, 12, 12)
    return transformer(
        hidden_states=latents,
        encoder_hidden_states=torch.randn(1, p.context, 128, requires_grad=requires_grad),
        pooled_projections=torch.randn(1, 128, requires_grad=requires_grad),
        timestep=torch.tensor([500.0]),
        reference_latents=[[latents[0]] * p.references],
        return_dict=False,
    )


@pytest.mark.parametrize("references", [0, 2])
def test_the_dits_forward_is_what_torch_counts(references: int) -> None:
    transformer, p = tiny("transformer"), tiny_positions(references)
    with torch.no_grad():
        assert counted(lambda: run_dit(transformer, p)) == dit(transformer, p, False).forward


def test_the_dits_training_is_what_torch_counts() -> None:
    p = tiny_positions()
    for is_trained in (False, True):
        transformer = tiny("transformer").requires_grad_(is_trained)
        measured = counted(lambda model=transformer: run_dit(model, p, requires_grad=True), backward=True)
        # what nothing flows back into, such as patches and the time, is in the formula
        assert dit(transformer, p, True).training == pytest.approx(measured, rel=0.02)


def test_the_connectors_training_is_what_torch_counts() -> None:
    connector, p = tiny("connector").requires_grad_(True), tiny_positions()
    states = torch.randn(1, p.context, 3 * 128, requires_grad=True)
    work = bridge(connector, p, True)
    assert counted(lambda: connector(states)) == work.forward
    assert counted(lambda: connector(states), backward=True) == work.training


@pytest.mark.parametrize("is_prompt_split", [False, True])
def test_the_language_models_linears_are_what_torch_counts(is_prompt_split: bool) -> None:
    vlm, connector, p = tiny("vlm"), tiny("connector"), tiny_positions(0)
    ids, think = torch.full((1, p.prompt), 10), torch.randn(p.think, 128)
    with torch.no_grad():
        measured = counted(
            lambda: vlm(ids, torch.ones_like(ids), think, connector.taps, is_prompt_constant=is_prompt_split)
        )
    work = language_model(vlm, connector, p, False, is_prompt_split).forward
    causal = 4 * p.context**2 / 2 * 5 * 128  # torch counts masked pairs too
    if is_prompt_split:
        causal = 4 * (p.prompt**2 / 2 + p.think**2 / 2) * 5 * 128
    assert measured == work + causal


def test_the_vision_tower_and_the_vae_are_what_torch_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        vision_tower_layers, "has_kernel", lambda dtype: False
    )  # torch does not count oneDNN's
    vlm, vae, p = tiny("vlm"), tiny("vae"), tiny_positions()
    with torch.no_grad():
        measured = counted(lambda: vlm.image_features([torch.zeros(3, 96, 96)]))
        assert vision_tower(vlm, p).forward == pytest.approx(measured, rel=0.02)
        measured = counted(lambda: vae.encode(torch.zeros(1, 3, 96, 96)))
    assert vae_encoder(vae, 96).forward == pytest.approx(measured, rel=0.001)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 160)])
def test_the_vaes_decoder_is_what_torch_counts(height: int, width: int) -> None:
    vae: Any = tiny("vae")
    with torch.no_grad():
        measured = counted(lambda: vae.decode(torch.zeros(1, 4, height // 8, width // 8)))
    assert vae_decoder(vae, height, width) == pytest.approx(measured, rel=0.001)


def test_a_wide_picture_has_the_positions_of_its_area() -> None:
    models = frozen("deepgen-1.0")
    square, wide = (
        positions_of(models, *size, prompt_tokens=80, references=1) for size in ((512, 512), (256, 1024))
    )
    assert square == wide == positions(models, SampleShape(references=1))


# --- spec/training.md, section 2: TFLOP of one sample of the published model


def test_positions_are_those_of_the_specification() -> None:
    caption, edit = positions(stage(1), CAPTION), positions(stage(1), EDIT)
    assert (caption.context, caption.image) == (208, 1024)
    assert (edit.context, edit.image) == (426, 2048)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (CAPTION, {"vae": 1.12, "vision": 0.0, "vlm": 1.16, "connector": 0.18, "transformer": 2.23}),
        (EDIT, {"vae": 2.24, "vision": 1.34, "vlm": 2.39, "connector": 0.37, "transformer": 5.09}),
    ],
)
def test_forward_of_every_part(sample: SampleShape, expected: dict[str, float]) -> None:
    work = sample_flops(stage(1), sample)
    # the original also runs the VLM's last layer, which feeds nothing: 1 of 36
    ours = {part: amount.forward / 1e12 for part, amount in work.items()}
    ours["vlm"] *= 36 / 35
    assert ours == pytest.approx(expected, rel=0.01, abs=0.005)


@pytest.mark.parametrize(
    ("number", "options", "caption", "edit"),
    [
        (1, {"is_prompt_split": False}, 8.90, 21.52),
        (1, {}, 8.45, 19.85),
        (1, {"has_cached_latents": True}, 7.33, 17.62),
        (1, {"has_cached_latents": True, "has_cached_vision": True}, 7.33, 16.27),
        (2, {}, 10.97, 25.68),
        (2, {"has_cached_latents": True}, 9.85, 23.44),
        (2, {"has_cached_latents": True, "has_cached_vision": True}, 9.85, 22.10),
    ],
)
def test_training(number: int, options: dict[str, bool], caption: float, edit: float) -> None:
    for sample, expected in ((CAPTION, caption), (EDIT, edit)):
        work = sample_flops(stage(number), sample, **options)
        assert sum(amount.training for amount in work.values()) / 1e12 == pytest.approx(expected, rel=0.01)


def test_checkpointing_costs_a_forward_of_what_is_checkpointed() -> None:
    plain, again = (sample_flops(stage(2), EDIT, is_checkpointing=on) for on in (False, True))
    extra = sum(again[part].training - plain[part].training for part in plain)
    assert extra == sum(plain[part].forward for part in ("vlm", "connector", "transformer"))
