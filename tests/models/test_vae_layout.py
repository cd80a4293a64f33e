"""The order of the VAE's weights in memory: the fast one where there is one, however they came there."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from deepgen.models import vae as latent_space
from deepgen.models.config import DEEPGEN_SHAPES
from deepgen.pipeline import DeepGenPipeline

LOW_PRECISION = (torch.bfloat16, torch.float16)
# Relative to the norm: sums of 16-bit products in another order, through all layers of the VAE.
ROUNDING = {torch.bfloat16: 2e-2, torch.float16: 3e-3}


@pytest.fixture(scope="module")
def stored() -> AutoencoderKL:
    """The VAE inside the package, in float32 and as its library loads it."""
    return DeepGenPipeline.from_pretrained("shapes", dtype=torch.float32).vae.eval()  # pyright: ignore


def without_posterior() -> AutoencoderTiny:
    torch.manual_seed(0)
    return AutoencoderTiny(
        latent_channels=4,
        encoder_block_out_channels=(16, 16),
        decoder_block_out_channels=(16, 16),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()


def orders(vae: nn.Module) -> set[str]:
    """The orders that occur among weights that have one: those of 1x1 convolutions are in both."""
    found = set()
    for layer in vae.modules():
        if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
            is_last = layer.weight.is_contiguous(memory_format=torch.channels_last)
            found.add("last" if is_last and not layer.weight.is_contiguous() else "first")
    return found


def apart(ours: Tensor, other: Tensor) -> float:
    return float((ours.float() - other.float()).norm() / other.float().norm())


def pixels_and_latents() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 3, 32, 48, generator=generator) * 2 - 1, torch.randn(2, 4, 4, 6, generator=generator)


@pytest.mark.parametrize("dtype", LOW_PRECISION)
@pytest.mark.parametrize("kind", ["posterior", "no posterior"])
def test_16_bit_vaes_encode_and_decode_channels_last_to_the_same_numbers(
    stored: AutoencoderKL, kind: str, dtype: torch.dtype
) -> None:
    vae = copy.deepcopy(stored if kind == "posterior" else without_posterior()).to(dtype)
    before = copy.deepcopy(vae)
    pixels, latents = pixels_and_latents()

    with torch.no_grad():
        drawn = latent_space.decode(vae, latents)
        posterior = latent_space.encode(vae, pixels)
        scaled = latents.to(dtype) / vae.config.scaling_factor + latent_space.shift(vae)
        plain = before.decode(scaled).sample
        encoded = before.encode(pixels.to(dtype))

    assert orders(vae) == {"last"}
    assert orders(before) == {"first"}
    assert drawn.is_contiguous()
    assert posterior.parameters.is_contiguous()
    assert apart(drawn, plain) < ROUNDING[dtype]
    mean = encoded.latent_dist.mean if kind == "posterior" else encoded.latents
    assert apart(posterior.mean, mean) < ROUNDING[dtype]


def test_a_float32_vae_stays_as_it_is_stored_to_the_last_bit(stored: AutoencoderKL) -> None:
    vae, (_, latents) = copy.deepcopy(stored), pixels_and_latents()
    with torch.no_grad():
        drawn = latent_space.decode(vae, latents)
        scaled = latents / stored.config.scaling_factor + latent_space.shift(stored)
        plain = stored.decode(scaled).sample
    assert orders(vae) == {"first"}
    assert torch.equal(drawn, plain)


def test_the_layout_follows_a_change_of_the_number_format_and_leaves_no_trace(stored: AutoencoderKL) -> None:
    vae, (_, latents) = copy.deepcopy(stored), pixels_and_latents()
    rounded = copy.deepcopy(stored).bfloat16().float()
    weights = [id(weight) for weight in vae.parameters()]
    found = []
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            drawn = latent_space.decode(vae.to(dtype), latents)
            found.append(orders(vae))
        fresh = latent_space.decode(rounded, latents)
    assert found == [{"first"}, {"last"}, {"first"}]
    assert torch.equal(drawn, fresh)
    assert [id(weight) for weight in vae.parameters()] == weights  # an optimizer would still find them


def test_a_layout_of_the_callers_own_is_kept(stored: AutoencoderKL) -> None:
    vae = copy.deepcopy(stored).to(memory_format=torch.channels_last)  # pyright: ignore
    with torch.no_grad():
        latent_space.decode(vae, pixels_and_latents()[1])
    assert orders(vae) == {"last"}


def test_it_holds_in_tiles(stored: AutoencoderKL) -> None:
    vae = copy.deepcopy(stored).bfloat16()
    before = copy.deepcopy(vae)
    latents = torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(1))
    for one in (vae, before):
        one.enable_tiling()
        one.tile_sample_min_size, one.tile_latent_min_size = 96, 12
    with torch.no_grad():
        drawn = latent_space.decode(vae, latents)
        scaled = latents.bfloat16() / vae.config.scaling_factor + latent_space.shift(vae)
        plain = before.decode(scaled).sample
    assert orders(vae) == {"last"}
    assert apart(drawn, plain) < ROUNDING[torch.bfloat16]


def test_it_is_trained_with_the_same_gradients(stored: AutoencoderKL) -> None:
    gradients = []
    for is_ours in (True, False):
        vae, (_, latents) = copy.deepcopy(stored).bfloat16(), pixels_and_latents()
        scaled = latents.bfloat16() / vae.config.scaling_factor + latent_space.shift(vae)
        drawn = latent_space.decode(vae, latents) if is_ours else vae.decode(scaled).sample
        drawn.float().square().mean().backward()
        weight = vae.decoder.conv_out.weight
        assert weight.grad is not None
        gradients.append(weight.grad)
        torch.optim.SGD(vae.decoder.parameters(), lr=1e-3).step()
        assert orders(vae.decoder) == {"last" if is_ours else "first"}
    assert apart(gradients[0], gradients[1]) < ROUNDING[torch.bfloat16]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a pipeline in bfloat16, with its weights in that order, saved."""
    path = tmp_path_factory.mktemp("saved")
    pipe = DeepGenPipeline.from_pretrained("shapes", dtype=torch.bfloat16)
    assert orders(pipe.vae) == {"last"}  # pyright: ignore[reportArgumentType]  # one of two VAEs
    pipe.save_pretrained(path)
    return path


def test_a_pipeline_has_it_from_the_start_and_saves_the_same_weights(
    folder: Path, stored: AutoencoderKL
) -> None:
    pipe = DeepGenPipeline.from_pretrained(folder)
    assert orders(pipe.vae) == {"last"}  # pyright: ignore[reportArgumentType]
    expected = stored.state_dict()
    for name, value in pipe.vae.state_dict().items():
        assert torch.equal(value, expected[name].bfloat16()), name


def test_offloading_by_layers_keeps_it(folder: Path) -> None:
    pipe = DeepGenPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    settings = {"seed": 1, "num_inference_steps": 2, "output_type": "pt"}
    plain = pipe("a red circle", **settings).images
    pipe.vae.enable_group_offload(  # pyright: ignore
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    hooked = pipe("a red circle", **settings).images
    assert orders(pipe.vae) == {"last"}  # pyright: ignore[reportArgumentType]
    assert torch.equal(torch.as_tensor(hooked), torch.as_tensor(plain))


def test_weights_that_hooks_bring_and_take_are_left_alone(stored: AutoencoderKL) -> None:
    vae = copy.deepcopy(stored).bfloat16()
    vae.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type="leaf_level"
    )
    with torch.no_grad():
        drawn = latent_space.decode(vae, pixels_and_latents()[1])
    assert orders(vae) == {"first"}
    assert bool(drawn.isfinite().all())
    latent_space.lay_out(copy.deepcopy(stored).bfloat16().to("meta"))  # as sequential offload leaves them


def test_the_rule_is_for_16_bits_where_convolutions_have_such_an_order() -> None:
    rule = latent_space.is_faster_channels_last
    for device in ("cpu", "cuda"):
        assert rule(torch.bfloat16, torch.device(device))
        assert rule(torch.float16, torch.device(device))
        assert not rule(torch.float32, torch.device(device))
    assert not rule(torch.bfloat16, torch.device("mps"))


def test_the_tiny_architecture_has_convolutions_to_lay_out() -> None:
    vae = AutoencoderKL(**DEEPGEN_SHAPES.vae).bfloat16()
    latent_space.lay_out(vae)
    assert orders(vae) == {"last"}
