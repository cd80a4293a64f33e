"""A linear layer and its GELU in one: the same numbers, and only where nothing stands between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from deepgen.models import fused
from deepgen.models.fused import feed_forward
from deepgen.models.precision import compute_in_float32

pytestmark = pytest.mark.skipif(
    not fused.has_kernel(torch.float32), reason="PyTorch without oneDNN has nothing to fuse with"
)


def make(dtype: torch.dtype = torch.float32) -> tuple[FeedForward, Tensor]:
    torch.manual_seed(0)
    mlp = FeedForward(dim=48, dim_out=48, activation_fn="gelu-approximate").to(dtype).eval()
    return mlp, torch.randn(2, 7, 48).to(dtype)


def counted_gelus(mlp: FeedForward) -> list[int]:
    """Grows by one whenever diffusers' own GELU runs."""
    calls: list[int] = []
    plain = mlp.net[0].gelu
    mlp.net[0].gelu = lambda gate: (calls.append(1), plain(gate))[1]
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_fused_is_no_further_from_the_truth_than_plain(dtype: torch.dtype) -> None:
    if not fused.has_kernel(dtype):
        pytest.skip("no bfloat16 instructions here")
    mlp, x = make(dtype)
    plain, calls = mlp(x), counted_gelus(mlp)
    ours = feed_forward(mlp, x)
    assert not calls, "it was not fused"
    assert ours.dtype == dtype
    truth = mlp.double()(x.double())
    errors = [float((one.double() - truth).norm() / truth.norm()) for one in (ours, plain)]
    assert errors[0] <= 2 * errors[1] + 1e-7


@torch.no_grad()
def test_narrow_weights_are_widened_as_their_layer_does() -> None:
    mlp, x = make(torch.bfloat16)
    compute_in_float32(mlp)
    plain, calls = mlp(x.float()), counted_gelus(mlp)
    ours = feed_forward(mlp, x.float())
    assert not calls, "it was not fused"
    assert (ours - plain).norm() <= 1e-6 * plain.norm()


def with_hook(mlp: FeedForward) -> None:
    mlp.net[0].proj.register_forward_hook(lambda module, args, output: output * 2)


def with_forward_of_its_own(mlp: FeedForward) -> None:
    plain = mlp.net[0].proj.forward
    mlp.net[0].proj.forward = lambda x: plain(x) * 2  # as offload hooks and layerwise casting do


def with_adapter(mlp: FeedForward) -> None:
    class Adapted(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    adapted = Adapted(48, 192)
    adapted.load_state_dict(mlp.net[0].proj.state_dict())
    mlp.net[0].proj = adapted


def with_other_weights(mlp: FeedForward) -> None:
    class Quantised(nn.Parameter):
        pass

    mlp.net[0].proj.weight = Quantised(mlp.net[0].proj.weight.detach())


@pytest.mark.parametrize(
    "change", [with_hook, with_forward_of_its_own, with_adapter, with_other_weights], ids=lambda f: f.__name__
)
@torch.no_grad()
def test_what_stands_between_is_heeded(change: Callable[[FeedForward], None]) -> None:
    mlp, x = make()
    change(mlp)
    calls = counted_gelus(mlp)
    assert torch.equal(feed_forward(mlp, x), mlp(x))
    assert len(calls) == 2


def test_gradients_take_the_plain_way() -> None:
    mlp, x = make()
    assert torch.equal(feed_forward(mlp, x), mlp(x))
