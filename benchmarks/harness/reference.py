"""The original's way to a picture, rendered from its specification on our weights.

What is computed is the same, so the pictures are the same; how is as the specification says (model 2 to 5
and 8):

- one VLM pass over prompts and negatives, references repeated for the negatives and read image by image;
  every layer, the final norm, all hidden states kept, a dense mask (the original's kernel of variable
  lengths is an accelerator's);
- every image of every sample patched by itself, references again at each step; context projected at each
  step; the blocks are diffusers' own, with a dense boolean mask made and used in every attention call,
  although nothing is padded;
- the picture decoded in the memory format the weights were loaded in, and references read in that format;
- patches embedded by a convolution, and a feed-forward of the vision tower in its four operations.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from diffusers.models.attention import JointTransformerBlock
from einops import rearrange
from original_training import OriginalObjective, OriginalTransformer
from torch import Tensor, nn
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionPatchEmbed, Qwen2_5_VLMLP

from deepgen.models import vae as latent_space
from deepgen.models.vision_tower import GatedFeedForward, PatchProduct
from deepgen.pipeline import DeepGenPipeline, GuidanceBatching
from deepgen.sampling.guidance import guide
from deepgen.sampling.presets import PRESETS, Preset
from deepgen.sampling.schedule import set_timesteps
from deepgen.training.objective import TrainingBatch
from deepgen.types import Condition

# B samples, S image tokens, L context tokens, K keys, H heads, E head width


class StockProcessor:
    """diffusers' joint attention, operation by operation, with a mask over pairs made in every call."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        is_real: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend; shapes (B, S, D) and (B, L, D); `is_real` is boolean (B, S)."""
        assert is_real is not None
        joint = [
            _heads(attn, layer(hidden_states), norm)
            for layer, norm in ((attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k), (attn.to_v, None))
        ]
        seen = is_real
        if encoder_hidden_states is not None:
            added = [
                _heads(attn, layer(encoder_hidden_states), norm)
                for layer, norm in (
                    (attn.add_q_proj, attn.norm_added_q),
                    (attn.add_k_proj, attn.norm_added_k),
                    (attn.add_v_proj, None),
                )
            ]
            joint = [torch.cat(pair, dim=2) for pair in zip(joint, added, strict=True)]
            seen = torch.cat([is_real, is_real.new_ones(encoder_hidden_states.shape[:2])], dim=1)
        own = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
        pairs = ((seen[:, :, None] & seen[:, None, :]) | own)[:, None]  # (B, 1, K, K)
        attended = F.scaled_dot_product_attention(*joint, attn_mask=pairs)
        attended = rearrange(attended, "b h k e -> b k (h e)").to(hidden_states.dtype)
        if encoder_hidden_states is None:
            return attn.to_out[1](attn.to_out[0](attended))
        image, context = attended.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1)
        image = attn.to_out[1](attn.to_out[0](image))
        return image, context if attn.context_pre_only else attn.to_add_out(context)


def _heads(attn: Any, x: Tensor, norm: nn.Module | None) -> Tensor:
    x = rearrange(x, "b k (h e) -> b h k e", h=attn.heads)
    return x if norm is None else norm(x)


class FinalStockBlock(JointTransformerBlock):
    """diffusers' last block, for a loop that expects a context back."""

    def forward(self, **inputs: Any) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Context as it came, and image tokens."""
        _, image = super().forward(**inputs)
        return inputs["encoder_hidden_states"], image


class ReferencePipeline(DeepGenPipeline):
    """Draws what `DeepGenPipeline` draws for one prompt, the original's way; made by `reference_of`."""

    def encode_prompt(  # type: ignore[override]
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        pixels: Sequence[Sequence[Tensor]] | None = None,
        **options: Any,
    ) -> tuple[Condition, Condition]:
        """Both conditions, the negative one whether or not it is used."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        negatives = (
            [negative_prompt] * len(prompts) if isinstance(negative_prompt, str) else list(negative_prompt)
        )
        rows = None if pixels is None else [*pixels, *pixels]
        device = self._execution_device
        tokens = self._tokenize(prompts + negatives, rows).to(device)
        sizes = torch.zeros(len(tokens.input_ids), device=device)
        on_device = None if rows is None else [[x.to(device) for x in row] for row in rows]
        batch = TrainingBatch(tokens, sizes, sizes, sizes, sizes, sizes, pixels=on_device)
        hidden = OriginalObjective(self.vlm, self.connector, self.transformer).hidden_states(batch)
        taps = self.connector.taps
        states = hidden[-1] if taps is None else torch.cat([hidden[tap] for tap in taps], dim=-1)
        condition = Condition(*self.connector(states))
        count = len(prompts)
        return condition.select(range(count)), condition.select(range(count, 2 * count))

    def denoise(  # type: ignore[override]
        self,
        latents: Tensor,
        positive: Condition,
        negative: Condition | None = None,
        reference_latents: Sequence[Sequence[Tensor]] | None = None,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        preset: Preset = PRESETS["exact"],
        guidance_batching: GuidanceBatching = "auto",
        callback_on_step_end: Any = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (),
        **others: Any,
    ) -> Tensor:
        """The loop of the specification: every step starts from latents, references and conditions."""
        if asked := sorted(name for name, value in others.items() if value is not None):
            raise ValueError(f"the original's path knows no {', '.join(asked)}")
        if preset.name != "exact":
            raise ValueError(f"the original's path knows the preset 'exact' only, got {preset.name!r}")
        if guidance_batching == "split":
            raise ValueError("the original's path runs both branches in one call")
        timesteps = set_timesteps(self.scheduler, num_inference_steps, latents.device)
        condition = positive if negative is None else Condition.cat([negative, positive])
        condition = condition.to(self.transformer.dtype)
        branches = 1 if negative is None else 2
        references = None if reference_latents is None else list(reference_latents) * branches
        for step, timestep in enumerate(timesteps):
            noisy = torch.cat([latents] * branches)
            velocity = self.transformer(
                hidden_states=noisy.to(condition.prompt_embeds.dtype),
                encoder_hidden_states=condition.prompt_embeds,
                pooled_projections=condition.pooled_prompt_embeds,
                timestep=timestep.expand(len(noisy)),
                reference_latents=references,
                return_dict=False,
            )[0]
            velocity = velocity if negative is None else guide(velocity, guidance_scale)
            latents = self.scheduler.step(
                velocity, self.scheduler.timesteps[step], latents, return_dict=False
            )[0]
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, timestep, {})
        return latents

    def encode_reference(self, pixels: Tensor) -> Any:
        """By the VAE as it was loaded."""
        with as_loaded():
            return super().encode_reference(pixels)

    def _draw(self, *arguments: Any, **options: Any) -> tuple[list[Tensor], Tensor]:
        """Decoded by the VAE as it was loaded."""
        with as_loaded():
            return super()._draw(*arguments, **options)

    def _kept_memory(self) -> AbstractContextManager[None]:
        """The C library's own way with freed memory."""
        return nullcontext()


def decoded(pipe: DeepGenPipeline, latents: Tensor) -> Tensor:
    """Pixels of clean latents (B, C, h, w), in [-1, 1], the way of that pipeline."""
    with as_loaded() if isinstance(pipe, ReferencePipeline) else nullcontext(), pipe._kept_memory():
        return latent_space.decode(pipe.vae, latents, is_checked=False).float()


def as_loaded() -> Any:
    """While it is entered, no VAE's weights are brought into another order."""
    return mock.patch.object(latent_space, "lay_out", return_value=None)


def reference_of(pipe: DeepGenPipeline) -> ReferencePipeline:
    """The same weights on the original's path; both pipelines stay usable."""
    reference = ReferencePipeline(**pipe.components, defaults=dict(pipe.config.defaults))
    transformer = _view(pipe.transformer, OriginalTransformer)
    views = {id(block): _stock_block(block) for block in pipe.transformer.transformer_blocks}
    transformer.transformer_blocks = nn.ModuleList(
        views[id(block)] for block in pipe.transformer.transformer_blocks
    )
    vae: Any = copy.deepcopy(pipe.vae).to(memory_format=torch.contiguous_format)
    reference.register_modules(transformer=transformer, vae=vae, vlm=_with_stock_tower(pipe.vlm))
    reference.set_progress_bar_config(disable=True)
    return reference


def _with_stock_tower(vlm: Any) -> Any:
    """The same weights, with the library's own parts in the vision tower; attention by windows stays."""
    shared = {id(tensor): tensor for tensor in (*vlm.visual.parameters(), *vlm.visual.buffers())}
    tower = copy.deepcopy(vlm.visual, shared)
    stock = {PatchProduct: Qwen2_5_VisionPatchEmbed, GatedFeedForward: Qwen2_5_VLMLP}
    for layer in tower.modules():
        layer.__class__ = stock.get(type(layer), type(layer))
    view = _view(vlm, type(vlm))
    view._modules["visual"] = tower
    return view


def _stock_block(block: Any) -> nn.Module:
    view = _view(block, FinalStockBlock if block.context_pre_only else JointTransformerBlock)
    for name in ("attn", "attn2"):
        if getattr(block, name) is not None:
            attention = _view(getattr(block, name), type(getattr(block, name)))
            attention.processor = StockProcessor()
            setattr(view, name, attention)
    return view


def _view(module: nn.Module, kind: type) -> Any:
    """The same parameters and submodules under another class."""
    view = copy.copy(module)
    view.__class__ = kind
    view._modules = dict(module._modules)
    return view
