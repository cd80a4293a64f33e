"""What the library computes slowly in Qwen2.5-VL's vision tower, with its parameters and the same numbers.

- A patch is as large as the kernel that embeds it, so the convolution is a product of matrices. As a
  convolution with three channels it takes more than three times as long on a CPU.
- The gate's function and the product with it are applied by oneDNN to the sums of the two products before
  these are written. In float32 that also avoids a slow case, the width of 3,420, which is no multiple of a
  register.
- Rotation by position in half the passes over queries and keys.

Results are equal up to rounding. Attention is in `windows.py`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionPatchEmbed, Qwen2_5_VLMLP

from deepgen.models.fused import has_kernel, is_called_plainly

_SILU = type(ACT2FN["silu"])

# S patches of all images, P numbers of a patch, D width, F width of the feed-forward, H heads, E head width


def compute_faster(tower: nn.Module) -> None:
    """Let the parts of a vision tower compute as below. Parameters, their names and what is saved stay."""
    for layer in tower.modules():
        if type(layer) is Qwen2_5_VisionPatchEmbed:
            layer.__class__ = PatchProduct
        elif type(layer) is Qwen2_5_VLMLP and isinstance(layer.act_fn, _SILU):
            layer.__class__ = GatedFeedForward


class PatchProduct(Qwen2_5_VisionPatchEmbed):
    """The embedding of patches as one product."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Embed flattened patches, (S, P) to (S, D)."""
        proj = self.proj
        if not is_called_plainly(proj) or type(proj) is not nn.Conv3d:
            return super().forward(hidden_states)
        weight = proj.weight.flatten(1)  # (D, P)
        return F.linear(hidden_states.to(weight.dtype).view(-1, weight.shape[1]), weight)


class GatedFeedForward(Qwen2_5_VLMLP):
    """down(silu(gate(x)) * up(x)), with the function and the product inside the products before them."""

    def forward(self, hidden_state: Tensor) -> Tensor:
        """Of (S, D); without gradient on a CPU with such operations, else as the library has it."""
        if not self._is_fusable(hidden_state):
            return super().forward(hidden_state)
        gate, up = self.gate_proj, self.up_proj
        product = torch.ops.mkldnn._linear_pointwise
        gated = product(hidden_state, gate.weight, gate.bias, "swish", [], "")  # (S, F)
        return self.down_proj(product(hidden_state, gated, up.weight, up.bias, "mul"))

    def _is_fusable(self, x: Tensor) -> bool:
        """Whether nothing stands between the weights and the product: no adapter, hook, gradient, quantised
        or widened weight.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling() or x.device.type != "cpu":
            return False
        return all(
            type(layer) is nn.Linear
            and is_called_plainly(layer)
            and all(type(tensor) is nn.Parameter for tensor in (layer.weight, layer.bias))
            and layer.weight.dtype == x.dtype
            for layer in (self.gate_proj, self.up_proj)
        ) and (x.dtype in (torch.float32, torch.bfloat16) and has_kernel(x.dtype))


def rotate(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Queries and keys (S, H, E) turned by their positions, whose cosine and sine are (S, E); in float32, as
    transformers' `apply_rotary_pos_emb_vision`.
    """
    half = sine.shape[-1] // 2
    cosine = cosine.float()[:, None]
    # (-x2, x1) * sine is (x2, x1) * (-sine, sine)
    signed = torch.cat([-sine[:, :half], sine[:, half:]], dim=-1).float()[:, None]
    return _rotated(query, cosine, signed), _rotated(key, cosine, signed)


def _rotated(x: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    wide = x.float()
    first, second = wide.chunk(2, dim=-1)
    return (wide * cosine).addcmul_(torch.cat([second, first], dim=-1), signed_sine).to(x.dtype)
