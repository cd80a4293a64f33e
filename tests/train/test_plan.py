"""What a run is said to need agrees with the measured table of the original's costs, and with counters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from deepgen.models.config import DEEPGEN_TINY
from deepgen.models.parts import build, named_config
from deepgen.train.adapters import LoraSettings
from deepgen.train.cards import CARDS, card
from deepgen.train.flops import bridge, positions, vae_encoder
from deepgen.train.plan import PlanConfig, plan

# spec/training.md, section 2: TFLOP of a forward at 512 x 512, 80-token captions and 40-token edits.
FORWARD = {
    "vae": (1.12, 2.24),
    "vision": (0.0, 1.34),
    "vlm": (1.16, 2.39),
    "connector": (0.18, 0.37),
    "transformer": (1.92 + 0.31, 3.85 + 1.24),
}
UPSTREAM = LoraSettings(targets="upstream")
# The same section: TFLOP of a training sample, and the mean of the stage's mixture.
TRAINING = {
    "stage 1 as the original computes it": (PlanConfig(is_prompt_split=False), (8.90, 21.52, 12.05)),
    "prompt without gradient": (PlanConfig(), (8.45, 19.85, 11.30)),
    "latents cached": (PlanConfig(has_cached_latents=True), (7.33, 17.62, 9.90)),
    "latents and vision features cached": (
        PlanConfig(has_cached_latents=True, has_cached_vision=True),
        (7.33, 16.27, 9.57),
    ),
    "stage 2": (
        PlanConfig(trains_transformer=True, vlm_lora=UPSTREAM, edit_share=1 / 3),
        (10.97, 25.68, 15.87),
    ),
}


@pytest.fixture(scope="module")
def stage_1():
    return plan(PlanConfig())


@pytest.mark.parametrize("part", FORWARD)
def test_the_forward_of_each_part_costs_what_was_measured(part, stage_1) -> None:
    for task, expected in zip(("generate", "edit"), FORWARD[part], strict=True):
        assert stage_1.flops[task][part].forward / 1e12 == pytest.approx(expected, rel=0.03, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINING)
def test_a_training_sample_costs_what_was_measured(name) -> None:
    config, (caption, edit, mean) = TRAINING[name]
    result = plan(config)
    for task, expected in (("generate", caption), ("edit", edit)):
        total = sum(work.training for work in result.flops[task].values()) / 1e12
        assert total == pytest.approx(expected, rel=0.05)
    assert result.flops_per_sample / 1e12 == pytest.approx(mean, rel=0.05)


def test_weights_and_optimizer_of_the_tiny_model_are_counted_to_the_byte() -> None:
    result = plan(PlanConfig(architecture=DEEPGEN_TINY, image_size=96, has_ema=True))
    connector = build("connector", named_config("connector", DEEPGEN_TINY))
    size = sum(p.numel() for p in connector.parameters())
    assert result.trained["connector"] == size
    assert result.weights["trained weights"] == 4 * size
    assert result.weights["gradients"] == 4 * size
    assert result.weights["optimizer moments"] == 8 * size
    assert result.weights["moving average"] == 4 * size


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """PyTorch's counter, which on a CPU sees attention only as plain products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def test_layers_are_counted_as_pytorch_counts_them() -> None:
    models = {
        name: build(name, named_config(name, DEEPGEN_TINY))
        for name in ("vlm", "connector", "transformer", "vae")
    }
    config = PlanConfig(architecture=DEEPGEN_TINY, image_size=96)
    p = positions(models, config.samples["generate"])
    connector = models["connector"].to_empty(device="cpu")
    states = torch.empty(1, p.context, connector.tap_projector.in_features)
    with torch.no_grad(), counting() as counter:
        connector(states)
    assert bridge(connector, p, True).forward == pytest.approx(counter.get_total_flops(), rel=0.01)
    vae = models["vae"].to_empty(device="cpu")
    with torch.no_grad(), counting() as counter:
        vae.encode(torch.empty(1, 3, 96, 96))
    assert vae_encoder(vae, 96).forward == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_what_does_not_fit_comes_with_what_helps(stage_1) -> None:
    assert stage_1.fits
    assert "it fits" in str(stage_1)
    whole = PlanConfig(trains_transformer=True, vlm_lora=LoraSettings(), edit_share=1 / 3)
    small = plan(whole, card("rtx-4090"))
    assert not small.fits
    assert small.remedies
    assert "it does not fit" in str(small)


def test_time_and_cost_follow_from_the_card(stage_1) -> None:
    result = replace(stage_1, price_per_hour=2.0, num_steps=1000)
    samples = 1000 * result.config.global_batch_size
    seconds = samples * result.flops_per_sample / (CARDS["h100"].tflops * 1e12 * CARDS["h100"].mfu)
    assert result.hours == pytest.approx(seconds / 3600)
    assert result.cost == pytest.approx(2 * result.hours)


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown card 'gtx'; known: l4"):
        card("gtx")
    with pytest.raises(ValueError, match="nothing to train"):
        PlanConfig(trains_connector=False)
    with pytest.raises(ValueError, match="image_size 500 is not a multiple of 32; try 480"):
        PlanConfig(image_size=500)
    with pytest.raises(ValueError, match="needs several processes"):
        PlanConfig(sharding="fsdp")
