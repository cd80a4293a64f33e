"""Names of Stability AI's own code for SD3: checked against diffusers' converter of whole checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from torch import Tensor

from deepgen.checkpoints.lora_files import read_lora
from deepgen.checkpoints.lora_fit import fit
from deepgen.checkpoints.lora_names import LoraTargetTable
from deepgen.checkpoints.lora_settings import LoraError
from deepgen.models.dit import DeepGenTransformer2DModel

State = dict[str, Tensor]

DEPTH, WIDTH, RANK, ALPHA = 3, 16, 2, 6.0


@pytest.fixture(scope="module")
def transformer() -> DeepGenTransformer2DModel:
    """Two attentions in the first block, and a last block that only reads its context."""
    torch.manual_seed(0)
    return DeepGenTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_layers=DEPTH,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=WIDTH,
        pooled_projection_dim=10,
        pos_embed_max_size=8,
        dual_attention_layers=(0,),
    ).eval()


def layers() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every layer of that model by Stability AI's name, with the shape of its weight."""
    d = WIDTH
    yield "x_embedder.proj", (d, 4, 2, 2)
    yield "context_embedder", (d, 12)
    yield from (("t_embedder.mlp.0", (d, 256)), ("t_embedder.mlp.2", (d, d)))
    yield from (("y_embedder.mlp.0", (d, 10)), ("y_embedder.mlp.2", (d, d)))
    yield from (("final_layer.linear", (16, d)), ("final_layer.adaLN_modulation.1", (2 * d, d)))
    for number in range(DEPTH):
        for side in ("x_block", "context_block"):
            name, is_read = f"joint_blocks.{number}.{side}", side == "context_block" and number == DEPTH - 1
            chunks = 9 if (side, number) == ("x_block", 0) else 2 if is_read else 6
            yield f"{name}.attn.qkv", (3 * d, d)
            yield f"{name}.adaLN_modulation.1", (chunks * d, d)
            if chunks == 9:
                yield from ((f"{name}.attn2.qkv", (3 * d, d)), (f"{name}.attn2.proj", (d, d)))
            if not is_read:
                yield f"{name}.attn.proj", (d, d)
                yield from ((f"{name}.mlp.fc1", (4 * d, d)), (f"{name}.mlp.fc2", (d, 4 * d)))


def factors() -> dict[str, tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return {
        name: (torch.randn(RANK, *shape[1:]), torch.randn(shape[0], RANK, *(len(shape) - 2) * (1,)))
        for name, shape in layers()
    }


def converted(pairs: dict[str, tuple[Tensor, Tensor]]) -> State:
    """What the updates are in diffusers' model, by diffusers' own converter."""
    checkpoint = {"pos_embed": torch.zeros(1, 64, WIDTH)}
    for name, (a, b) in pairs.items():
        checkpoint[f"{name}.weight"] = (ALPHA / RANK) * torch.einsum("or,r...->o...", b.flatten(1), a)
        checkpoint[f"{name}.bias"] = torch.zeros(b.shape[0])
    return convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)


def dotted(pairs: dict[str, tuple[Tensor, Tensor]]) -> State:
    """As ai-toolkit writes it."""
    return {
        f"diffusion_model.{name}.{leaf}": value
        for name, (a, b) in pairs.items()
        for leaf, value in zip(
            ("lora_A.weight", "lora_B.weight", "alpha"), (a, b, torch.tensor(ALPHA)), strict=True
        )
    }


def flattened(pairs: dict[str, tuple[Tensor, Tensor]]) -> State:
    """As kohya writes it."""
    return {
        f"lora_unet_{name.replace('.', '_')}.{leaf}": value
        for name, (a, b) in pairs.items()
        for leaf, value in zip(
            ("lora_down.weight", "lora_up.weight", "alpha"), (a, b, torch.tensor(ALPHA)), strict=True
        )
    }


def numbered(pairs: dict[str, tuple[Tensor, Tensor]]) -> State:
    """As OneTrainer writes it: query, key and value apart, numbered."""
    apart = {}
    for name, (a, b) in pairs.items():
        if name.endswith("qkv"):
            apart |= {f"{name}.{number}": (a, rows) for number, rows in enumerate(b.chunk(3))}
        else:
            apart[name] = a, b
    return {key.replace("lora_unet_", "lora_transformer_"): v for key, v in flattened(apart).items()}


@pytest.mark.parametrize("form", [dotted, flattened, numbered])
def test_every_layer_gets_the_rows_that_the_converter_gives_it(
    form: Callable[[Any], State], transformer: DeepGenTransformer2DModel
) -> None:
    pairs = factors()
    expected = converted(pairs)
    fitted = fit(read_lora(form(pairs)), {"transformer": transformer})
    assert not fitted.left_out
    names = {update.module for update in fitted.updates}
    assert names == {key.removesuffix(".weight") for key in expected if key.endswith(".weight")}
    for update in fitted.updates:
        product = torch.einsum("or,r...->o...", update.b.flatten(1), update.a)
        torch.testing.assert_close(update.scale * product, expected[f"{update.module}.weight"])


def test_a_fused_file_computes_what_the_changed_weights_compute(
    transformer: DeepGenTransformer2DModel,
) -> None:
    import copy

    pairs = {name: (a * 0.1, b * 0.1) for name, (a, b) in factors().items()}
    changed, adapted = copy.deepcopy(transformer), copy.deepcopy(transformer)
    state = changed.state_dict()
    for key, value in converted(pairs).items():
        if key.endswith(".weight"):
            state[key] += value
    fitted = fit(read_lora(flattened(pairs)), {"transformer": adapted})
    from deepgen.checkpoints.lora_fit import peft_settings
    from deepgen.lora import _state

    updates = list(fitted.updates)
    adapted.load_lora_adapter(_state(updates), prefix=None, adapter_name="x", metadata=peft_settings(updates))
    inputs = {
        "hidden_states": torch.randn(1, 4, 8, 8),
        "encoder_hidden_states": torch.randn(1, 5, 12),
        "pooled_projections": torch.randn(1, 10),
        "timestep": torch.tensor([500.0]),
    }
    with torch.no_grad():
        plain, one, other = (
            model(**inputs, return_dict=False)[0] for model in (transformer, changed, adapted)
        )
    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert (one - plain).abs().max() > 0.01, "the adapter must matter"


def test_a_flattened_name_is_never_ambiguous_in_our_models(transformer: DeepGenTransformer2DModel) -> None:
    table = LoraTargetTable({"transformer": transformer})
    assert all(len(found) == 1 for found in table._flat.values())


@pytest.mark.parametrize(
    "key",
    [
        "joint_blocks.2.context_block.mlp.fc1",  # the last block drops its context
        "joint_blocks.1.x_block.attn2.qkv",  # one attention there
        "joint_blocks.3.x_block.attn.qkv",  # a deeper model
        "joint_blocks.0.x_block.attn.ln_q",  # no layer that has factors
    ],
)
def test_what_this_model_does_not_have_is_named(key: str, transformer: DeepGenTransformer2DModel) -> None:
    for form in (dotted, flattened):
        state = form({key: (torch.ones(2, WIDTH), torch.ones(WIDTH, 2))})
        with pytest.raises(LoraError) as caught:
            fit(read_lora(state), {"transformer": transformer})
        assert next(iter(state)) in str(caught.value)
        assert "no such layer" in str(caught.value)


def test_a_fused_factor_of_another_width_is_refused(transformer: DeepGenTransformer2DModel) -> None:
    key = "joint_blocks.0.x_block.attn.qkv"
    for rows in (WIDTH, 2 * WIDTH, 3 * WIDTH + 3):
        state = dotted({key: (torch.ones(2, WIDTH), torch.ones(rows, 2))})
        with pytest.raises(LoraError, match=f"the layer has {WIDTH} in and {3 * WIDTH} out"):
            fit(read_lora(state), {"transformer": transformer})


def test_linear_factors_written_as_convolutions_load(transformer: DeepGenTransformer2DModel) -> None:
    name = "transformer_blocks.0.attn.to_q"
    a, b = torch.randn(2, WIDTH), torch.randn(WIDTH, 2)
    state = dotted({name: (a[:, :, None, None], b[:, :, None, None])})
    (update,) = fit(read_lora(state), {"transformer": transformer}).updates
    assert torch.equal(update.a, a)
    assert torch.equal(update.b, b)
