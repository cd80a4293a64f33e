"""The VLM as a reader: Qwen2.5-VL without its head, returning the hidden states the connector taps.

One forward takes left-padded prompts and the pixels of their reference images, appends the think tokens, and
stops after the deepest tapped layer: with 36 layers the last one and the final norm feed nothing, and only
six states are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedModel, Qwen2_5_VLConfig
from transformers.cache_utils import Cache, DynamicCache
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

from deepgen.models.containment import OwnFolderMixin
from deepgen.models.vision_tower import compute_faster
from deepgen.models.windows import WindowAttention

# diffusers finds out how to load a part by looking for PreTrainedModel in the module of its class.
__all__ = ["DeepGenVLM", "PreTrainedModel", "multimodal_positions", "vision_patches"]

# B rows, L prompt tokens with padding, Q think tokens, D width, N image tokens of one reference

# Pixels per merged vision token, before and after the resize that feeds the tower (two patches of 14).
PIXELS_PER_TOKEN = 32
VISION_SCALE = 28 / 32
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def vision_patches(
    pixels: Tensor, patch: int = 14, temporal: int = 2, merge: int = 2
) -> tuple[Tensor, Tensor]:
    """Flattened patches of one image, as the vision tower takes them.

    Args:
        pixels: (3, H, W) in [-1, 1], both sides multiples of 32.
        patch: patch side after the resize.
        temporal: how often a still image is repeated in time.
        merge: patches per side of a merged token; patches are ordered token by token.

    Returns:
        Patches (rows * columns, 3 * temporal * patch * patch) and the grid (1, rows, columns), in patches.
    """
    height, width = pixels.shape[-2:]
    if height % PIXELS_PER_TOKEN or width % PIXELS_PER_TOKEN:
        raise ValueError(
            f"reference images need sides that are multiples of {PIXELS_PER_TOKEN}, got {height}x{width}"
        )
    # The scale is passed on, not recomputed from the sizes, as in the original.
    resized = F.interpolate(
        pixels[None].float(), scale_factor=VISION_SCALE, mode="bilinear", align_corners=False
    )[0]
    mean, std = (resized.new_tensor(x)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
    normed = ((resized + 1) / 2 - mean) / std  # (3, h, w)
    rows, columns = (side // patch for side in resized.shape[-2:])
    patches = rearrange(
        normed.expand(temporal, -1, -1, -1),
        "t c (h a p) (w b q) -> (h w a b) (c t p q)",
        a=merge,
        b=merge,
        p=patch,
        q=patch,
    )
    return patches, torch.tensor([1, rows, columns], device=pixels.device)


def multimodal_positions(
    input_ids: Tensor, attention_mask: Tensor, image_token_id: int, grids: Sequence[Sequence[tuple[int, int]]]
) -> Tensor:
    """Rotary positions of text and image tokens (Qwen2.5-VL's multimodal RoPE for still images).

    Text advances time, row and column together. The tokens of an image of h x w merged tokens that starts at
    s sit at (s, s + row, s + column), and the next text token at s + max(h, w). Padding gets 1.

    Args:
        input_ids: (B, L), think tokens included.
        attention_mask: (B, L), True at real tokens.
        image_token_id: id of the image placeholder.
        grids: per row, the merged grid (h, w) of each of its images, in order.

    Returns:
        (3, B, L) int64.
    """
    positions = torch.ones(3, *input_ids.shape, dtype=torch.long)  # (3, B, L)
    is_image = (input_ids == image_token_id).cpu()  # (B, L)
    mask = attention_mask.bool().cpu()
    for row, row_grids in enumerate(grids):
        kept = is_image[row][mask[row]].tolist()
        pieces, start, index = [], 0, 0
        for height, width in row_grids:
            text = kept.index(True, index) - index
            pieces.append((start + torch.arange(text)).expand(3, -1))
            start, index = start + text, index + text
            rows = start + torch.arange(height).repeat_interleave(width)
            columns = start + torch.arange(width).repeat(height)
            pieces.append(torch.stack([torch.full_like(rows, start), rows, columns]))
            start, index = start + max(height, width), index + height * width
        pieces.append((start + torch.arange(len(kept) - index)).expand(3, -1))
        positions[:, row, mask[row]] = torch.cat(pieces, dim=1)
    return positions.to(input_ids.device)


# transformers renames checkpoint keys by class name: ours read and write Qwen's folders like their own class.
register_checkpoint_conversion_mapping("DeepGenVLM", get_checkpoint_conversion_mapping("Qwen2_5_VLModel"))


class DeepGenVLM(OwnFolderMixin, Qwen2_5_VLModel):
    """Qwen2.5-VL's body with a forward that returns tapped hidden states. Loads Qwen's own folders."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: Qwen2_5_VLConfig) -> None:
        super().__init__(config)
        for block in self.visual.blocks:
            block.attn.__class__ = WindowAttention  # the same weights, as they were initialised
        compute_faster(self.visual)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> DeepGenVLM:
        """As transformers', except for `dtype=None`, which diffusers says for a pipeline's parts where it is
        asked for none: float32 then, as its own models have it, so that all parts are alike.
        """
        if "dtype" in kwargs and kwargs["dtype"] is None:
            kwargs["dtype"] = torch.float32
        return super().from_pretrained(*args, **kwargs)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        think_tokens: Tensor,
        taps: tuple[int, ...] | None,
        pixel_values: Sequence[Tensor] = (),
        image_index: Sequence[Sequence[int]] | None = None,
        image_features: Sequence[Tensor] | None = None,
        max_positions: int | None = None,
        is_prompt_constant: bool = False,
    ) -> Tensor:
        """Hidden states at every position, think tokens last.

        Args:
            input_ids: left-padded prompts, (B, L).
            attention_mask: (B, L), nonzero at real tokens.
            think_tokens: (Q, D), appended to every row.
            taps: layers whose output is kept; None for the final normed state.
            pixel_values: the distinct reference images, each (3, H, W) in [-1, 1], sides multiples of 32.
            image_index: per row, which of `pixel_values` it shows, in order; rows may share images.
            image_features: vision features of `pixel_values` (N, D) where known; the tower is then not run.
            max_positions: keep only the last so many of the L + Q positions (training; positions are not
                renumbered).
            is_prompt_constant: nothing the prompt passes through is trained. It is then read first and
            without
                gradient, and only the think tokens, which no prompt token sees, keep activations. Values
                and the think tokens' gradients are those of one pass.

        Returns:
            (B, L + Q, len(taps) * D), taps stacked on channels; (B, L + Q, D) without taps.
        """
        batch, queries = input_ids.shape[0], think_tokens.shape[0]
        index = [[] for _ in range(batch)] if image_index is None else image_index
        grids = [_merged_grid(pixels) for pixels in pixel_values]

        embeds = self.language_model.embed_tokens(input_ids)  # (B, L, D)
        if len(pixel_values):
            features = self.image_features(pixel_values) if image_features is None else image_features
            shown = torch.cat([features[k] for row in index for k in row]).to(embeds)  # (all N, D)
            embeds = _place(embeds, input_ids == self.config.image_token_id, shown)
        embeds = torch.cat([embeds, think_tokens.to(embeds).expand(batch, -1, -1)], dim=1)  # (B, L + Q, D)

        real = F.pad(attention_mask.bool(), (0, queries), value=True)  # (B, L + Q)
        positions = multimodal_positions(
            F.pad(input_ids, (0, queries), value=0),
            real,
            self.config.image_token_id,
            [[grids[k] for k in row] for row in index],
        )  # (3, B, L + Q)
        if max_positions is not None:
            embeds, real, positions = (
                embeds[:, -max_positions:],
                real[:, -max_positions:],
                positions[..., -max_positions:],
            )
        if is_prompt_constant:
            return self._split_states(embeds, real, positions, taps, queries)
        return self._states(embeds, real, positions, taps)

    @torch.no_grad()
    def image_features(self, pixel_values: Sequence[Tensor]) -> list[Tensor]:
        """Merged vision tokens of each image, (H / 32 * W / 32, D). The tower is never trained, hence no
        gradient.
        """
        config = self.config.vision_config
        patches, grids = zip(
            *(
                vision_patches(x, config.patch_size, config.temporal_patch_size, config.spatial_merge_size)
                for x in pixel_values
            ),
            strict=True,
        )
        merged = self.visual(
            torch.cat(patches).to(self.visual.dtype), grid_thw=torch.stack(grids)
        ).pooler_output  # (all N, D)
        return list(merged.split([int(grid.prod()) // config.spatial_merge_size**2 for grid in grids]))

    def _states(
        self, embeds: Tensor, real: Tensor, positions: Tensor, taps: tuple[int, ...] | None
    ) -> Tensor:
        """One pass over every position."""
        rotary = self.language_model.rotary_emb(embeds, positions)
        return self._run_layers(embeds, self._attention_mask(real), rotary, taps)

    def _split_states(
        self, embeds: Tensor, real: Tensor, positions: Tensor, taps: tuple[int, ...] | None, queries: int
    ) -> Tensor:
        """A pass over the prompt without gradient, then one over the think tokens against its keys and
        values.
        """
        length = embeds.shape[1] - queries
        cosine, sine = self.language_model.rotary_emb(embeds, positions)  # (B, L + Q, E)
        cache = DynamicCache()
        with torch.no_grad():
            rotary = (cosine[:, :length], sine[:, :length])
            mask = self._attention_mask(real[:, :length])
            prompt = self._run_layers(embeds[:, :length], mask, rotary, taps, cache)
        if queries == 0:
            return prompt
        rotary = (cosine[:, length:], sine[:, length:])
        think = self._run_layers(embeds[:, length:], self._think_mask(real, queries), rotary, taps, cache)
        return torch.cat([prompt, think], dim=1)  # (B, L + Q, len(taps) * D)

    def _run_layers(
        self,
        states: Tensor,
        mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        taps: tuple[int, ...] | None,
        cache: Cache | None = None,
    ) -> Tensor:
        """The decoder layers up to the deepest tap; taps come deepest first, as asked."""
        model = self.language_model
        kept = {}
        depth = len(model.layers) if taps is None else max(taps)
        for number, layer in enumerate(model.layers[:depth], start=1):
            states = layer(
                states,
                attention_mask=mask,
                position_embeddings=rotary,
                past_key_values=cache,
                use_cache=cache is not None,
            )
            if taps is not None and number in taps:
                kept[number] = states
        if taps is None:
            return model.norm(states)  # (B, K, D), K positions of this pass
        return torch.cat([kept[number] for number in taps], dim=-1)  # (B, K, len(taps) * D)

    def _think_mask(self, real: Tensor, queries: int) -> Tensor | None:
        """What think tokens see: every real prompt token and their predecessors, (B or 1, 1, Q, L + Q)
        boolean.
        """
        if "flash" in (self.config._attn_implementation or ""):
            return None if real.all() else real
        keys = real.shape[1]
        causal = torch.ones(queries, keys, dtype=torch.bool, device=real.device).tril(keys - queries)
        return causal[None, None] if real.all() else causal & real[:, None, None, :]

    def _attention_mask(self, real: Tensor) -> Tensor | None:
        """Causal and unpadded, (B, 1, K, K) boolean; None where nothing is padded, so that fused kernels
        apply.

        Rows of pads attend to nothing, and SDPA then gives zero, as the original's variable-length kernel
        does.
        """
        if real.all():
            return None
        if "flash" in (self.config._attn_implementation or ""):
            return real
        length = real.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
        return causal & real[:, None, None, :] & real[:, None, :, None]


def _merged_grid(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[-2] // PIXELS_PER_TOKEN, pixels.shape[-1] // PIXELS_PER_TOKEN


def _place(embeds: Tensor, is_image: Tensor, features: Tensor) -> Tensor:
    """Write vision features over the image placeholders, row by row."""
    if int(is_image.sum()) != len(features):
        raise ValueError(
            f"prompts hold {int(is_image.sum())} image placeholders but the images give {len(features)}"
        )
    return embeds.masked_scatter(is_image[..., None], features)
