"""Activations: layer counts on fake tensors against what a whole forward of the small model saves."""

from __future__ import annotations

import pytest
import torch

from deepgen.planning.flops import Positions, SampleShape, positions
from deepgen.training.activations import Arithmetic, sample_activations, saved_bytes
from planned import stage, tiny

FLOAT32 = Arithmetic(compute=torch.float32, trained=torch.float32, is_cuda=False)
MIXED = Arithmetic(compute=torch.bfloat16, trained=torch.float32, is_cuda=False)
ENGINE = Arithmetic(compute=torch.bfloat16, trained=torch.bfloat16)
P = Positions(image=18, image_of_one=9, prompt=56, think=8, patches=36, references=1)


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("arithmetic", [FLOAT32, MIXED], ids=["float32", "mixed"])
def test_the_dit_saves_what_its_blocks_save(is_trained: bool, arithmetic: Arithmetic) -> None:
    transformer = tiny("transformer").requires_grad_(is_trained)
    if not is_trained:
        transformer.to(arithmetic.compute)
    dtype = torch.float32 if is_trained else arithmetic.compute
    latents = torch.randn(1, 4, 12, 12, dtype=dtype)

    def call() -> torch.Tensor:
        return transformer(
            hidden_states=latents,
            encoder_hidden_states=torch.randn(1, P.context, 128, dtype=dtype, requires_grad=True),
            pooled_projections=torch.randn(1, 128, dtype=dtype, requires_grad=True),
            timestep=torch.tensor([500.0]),
            reference_latents=[[latents[0]]],
            return_dict=False,
        )[0]

    measured = saved_bytes(call, transformer, arithmetic)
    models = {"vlm": tiny("vlm"), "connector": tiny("connector"), "transformer": transformer}
    models["connector"].requires_grad_(True)
    counted = sample_activations(models, P, arithmetic, is_prompt_split=True, is_checkpointing=False)
    assert counted["transformer"].saved == pytest.approx(measured, rel=0.08)


@pytest.mark.parametrize("is_prompt_split", [False, True])
def test_vlm_and_connector_save_what_their_layers_save(is_prompt_split: bool) -> None:
    vlm, connector = tiny("vlm"), tiny("connector").requires_grad_(True)
    ids = torch.full((1, P.prompt), 10)
    models = {"vlm": vlm, "connector": connector, "transformer": tiny("transformer")}

    def call() -> tuple[torch.Tensor, torch.Tensor]:
        states = vlm(
            ids,
            torch.ones_like(ids),
            connector.think_tokens(),
            connector.taps,
            is_prompt_constant=is_prompt_split,
        )
        return connector(states)

    both = torch.nn.ModuleList([vlm, connector])
    measured = saved_bytes(call, both, FLOAT32)
    counted = sample_activations(models, P, FLOAT32, is_prompt_split=is_prompt_split, is_checkpointing=False)
    assert counted["vlm"].saved + counted["connector"].saved == pytest.approx(measured, rel=0.08)


def test_checkpointing_keeps_inputs_and_works_on_one_layer() -> None:
    p = positions(stage(2), SampleShape())
    kept = sample_activations(stage(2), p, ENGINE, is_prompt_split=False, is_checkpointing=True)
    assert kept["transformer"].saved == 24 * (p.image + p.context) * 1536 * 2
    assert sum(part.saved + part.working for part in kept.values()) < 0.5e9  # spec, section 3


@pytest.mark.parametrize(
    ("sample", "expected"),
    [(SampleShape(prompt_tokens=80), 1.2), (SampleShape(prompt_tokens=40, references=1), 2.5)],
)
def test_the_adapted_language_model_of_the_specification(sample: SampleShape, expected: float) -> None:
    p = positions(stage(2), sample)
    kept = sample_activations(stage(2), p, ENGINE, is_prompt_split=False, is_checkpointing=False)
    assert kept["vlm"].saved / 1e9 == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("sample", "expected"),
    [(SampleShape(prompt_tokens=80), 2.3), (SampleShape(prompt_tokens=40, references=1), 4.7)],
)
def test_the_dit_of_the_specification_had_fused_norms(sample: SampleShape, expected: float) -> None:
    """The specification derives them; diffusers' RMSNorm also keeps float32 copies of queries and keys,
    and their rounded ones.
    """
    p = positions(stage(2), sample)
    kept = sample_activations(stage(2), p, ENGINE, is_prompt_split=False, is_checkpointing=False)
    normed = 24 * (p.image + p.context) + 13 * p.image  # positions whose query and key are normed
    unfused = 2 * normed * 1536 * (4 + 2)
    assert (kept["transformer"].saved - unfused) / 1e9 == pytest.approx(expected, rel=0.05)
