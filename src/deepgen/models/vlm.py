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
from deepgen.models.graphs import entered_plainly, of_any_size, outside_graphs, traces_next
from deepgen.models.multimodal_positions import multimodal_positions
from deepgen.models.vision_tower import compute_faster
from deepgen.models.windows import WindowAttention, vision_layout
from deepgen.transfer import to_device

# diffusers finds out how to load a part by looking for PreTrainedModel in the module of its class.
__all__ = ["DeepGenVLM", "PreTrainedModel", "multimodal_positions", "vision_patches"]

# B rows, L prompt tokens with padding, Q think tokens, D width, N image tokens of one reference

Taps = tuple[int, ...] | tuple[str, ...] | None  # numbers of layers, or these as text

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
    mean, std = to_device(torch.tensor([CLIP_MEAN, CLIP_STD]), resized.device)[..., None, None]
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
    return patches, to_device(torch.tensor([1, rows, columns]), pixels.device)


# transformers renames checkpoint keys by class name: ours read and write Qwen's folders like their own class.
register_checkpoint_conversion_mapping("DeepGenVLM", get_checkpoint_conversion_mapping("Qwen2_5_VLModel"))


class DeepGenVLM(OwnFolderMixin, Qwen2_5_VLModel):
    """Qwen2.5-VL's body with a forward that returns tapped hidden states. Loads Qwen's own folders."""

    _keys_to_ignore_on_load_unexpected = [r"^lm_head\."]

    def __init__(self, config: Qwen2_5_VLConfig) -> None:
        super().__init__(config)
        for number, block in enumerate(self.visual.blocks):
            block.attn.__class__ = WindowAttention  # the same weights, as they were initialised
            block.attn.is_whole = number in self.visual.fullatt_block_indexes
        compute_faster(self.visual)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> DeepGenVLM:
        """As transformers', except for `dtype=None`, which diffusers says for a pipeline's parts where it is
        asked for none: float32 then, as its own models have it, so that all parts are alike.
        """
        if "dtype" in kwargs and kwargs["dtype"] is None:
            kwargs["dtype"] = torch.float32
        return super().from_pretrained(*args, **kwargs)

    @entered_plainly
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

        Prompts and masks may be in the host's memory while the model is on a device: what they tell of pads
        and places is then known without waiting for the device.

        Args:
            input_ids: left-padded prompts, (B, L).
            attention_mask: (B, L), nonzero at real tokens.
            think_tokens: (Q, D), appended to every row, on the model's device.
            taps: layers whose output is kept; None for the final normed state.
            pixel_values: the distinct reference images, each (3, H, W) in [-1, 1], sides multiples of 32.
            image_index: per row, which of `pixel_values` it shows, in order; rows may share images.
            image_features: vision features of `pixel_values` (N, D) where known; the tower is then not run.
            max_positions: keep only the last so many of the L + Q positions (training; positions are not
                renumbered).
            is_prompt_constant: nothing the prompt passes through is trained. It is then read first and
                without gradient, and only the think tokens, which no prompt token sees, keep activations.
                Values and the think tokens' gradients are those of one pass.

        Returns:
            (B, L + Q, len(taps) * D), taps stacked on channels; (B, L + Q, D) without taps.
        """
        is_compiled = traces_next()
        if len(pixel_values) and image_features is None:
            image_features = self.image_features(pixel_values)
        inputs = self._packed(
            input_ids, attention_mask, think_tokens, pixel_values, image_index, image_features, max_positions
        )
        if is_compiled:
            inputs = _of_any_sizes(*inputs)
        # By name, as a graph takes numbers that it is given for symbols.
        named = None if taps is None else tuple(map(str, taps))
        if is_prompt_constant:
            return self._split_states(*inputs, named, think_tokens)
        return self._states(*inputs, named)

    @outside_graphs
    def _packed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        think_tokens: Tensor,
        pixel_values: Sequence[Tensor],
        image_index: Sequence[Sequence[int]] | None,
        image_features: Sequence[Tensor] | None,
        max_positions: int | None,
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Embeddings (B, L + Q, D), which positions are real (B, L + Q), None if all are, and rotary
        positions (3, B, L + Q).
        """
        batch, queries, device = input_ids.shape[0], think_tokens.shape[0], think_tokens.device
        index = [[] for _ in range(batch)] if image_index is None else image_index
        grids = [_merged_grid(pixels) for pixels in pixel_values]

        ids = to_device(input_ids, device)
        embeds = self.language_model.embed_tokens(ids)  # (B, L, D)
        if image_features is not None and len(pixel_values):
            shown = torch.cat([image_features[k] for row in index for k in row]).to(embeds)  # (all N, D)
            _check_placeholders(input_ids == self.config.image_token_id, len(shown))
            embeds = embeds.masked_scatter((ids == self.config.image_token_id)[..., None], shown)
        embeds = torch.cat([embeds, think_tokens.to(embeds).expand(batch, -1, -1)], dim=1)  # (B, L + Q, D)

        real = F.pad(attention_mask.bool(), (0, queries), value=True)  # (B, L + Q)
        positions = multimodal_positions(
            F.pad(input_ids, (0, queries), value=0),
            real,
            self.config.image_token_id,
            [[grids[k] for k in row] for row in index],
        )
        positions = to_device(positions, device)  # (3, B, L + Q)
        if max_positions is not None:
            embeds, real, positions = (
                embeds[:, -max_positions:],
                real[:, -max_positions:],
                positions[..., -max_positions:],
            )
        # In a graph that is exported nothing is known of the mask. A mask on a device is waited for.
        is_padded = torch.compiler.is_compiling() or not bool(real.all())
        return embeds, to_device(real, device) if is_padded else None, positions

    @entered_plainly
    def image_features(self, pixel_values: Sequence[Tensor]) -> list[Tensor]:
        """Merged vision tokens of each image, (H / 32 * W / 32, D). The tower is never trained, hence no
        gradient.
        """
        with torch.no_grad():
            patches, given, lengths = self._packed_images(pixel_values)
            merged = self.visual(patches, **given).pooler_output  # (all N, D)
        return list(merged.split(lengths))

    @outside_graphs
    def _packed_images(self, pixel_values: Sequence[Tensor]) -> tuple[Tensor, dict[str, Any], list[int]]:
        """Patches of all images, what the tower is told of their sizes, and the merged tokens of each."""
        config = self.config.vision_config
        merge = config.spatial_merge_size
        patches, grids = zip(
            *(vision_patches(x, config.patch_size, config.temporal_patch_size, merge) for x in pixel_values),
            strict=True,
        )
        sizes = [tuple(merge * side for side in _merged_grid(x)) for x in pixel_values]
        layout = vision_layout(tuple(sizes), merge, config.window_size, config.patch_size)
        packed = torch.cat(patches).to(self.visual.dtype)
        given = {"grid_thw": torch.stack(grids), **layout.arguments(packed.device)}
        return packed, given, [length // merge**2 for length in layout.images]

    def _states(self, embeds: Tensor, real: Tensor | None, positions: Tensor, taps: Taps) -> Tensor:
        """One pass over every position."""
        rotary = self.language_model.rotary_emb(embeds, positions)
        return self._run_layers(embeds, self._attention_mask(real), rotary, taps)

    def _split_states(
        self,
        embeds: Tensor,
        real: Tensor | None,
        positions: Tensor,
        taps: Taps,
        think_tokens: Tensor,
    ) -> Tensor:
        """A pass over the prompt without gradient, then one over the think tokens against its keys and
        values.
        """
        queries = think_tokens.shape[0]
        length = embeds.shape[1] - queries
        cosine, sine = self.language_model.rotary_emb(embeds, positions)  # (B, L + Q, E)
        cache = DynamicCache()
        with torch.no_grad():
            rotary = (cosine[:, :length], sine[:, :length])
            mask = self._attention_mask(None if real is None else real[:, :length])
            prompt = self._run_layers(embeds[:, :length], mask, rotary, taps, cache)
        if queries == 0:
            return prompt
        rotary = (cosine[:, length:], sine[:, length:])
        mask = self._think_mask(real, queries, embeds)
        think = self._run_layers(embeds[:, length:], mask, rotary, taps, cache)
        return torch.cat([prompt, think], dim=1)  # (B, L + Q, len(taps) * D)

    def _run_layers(
        self,
        states: Tensor,
        mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        taps: Taps,
        cache: Cache | None = None,
    ) -> Tensor:
        """The decoder layers up to the deepest tap; taps come deepest first, as asked."""
        model = self.language_model
        kept = {}
        depth = len(model.layers) if taps is None else max(map(int, taps))
        named = () if taps is None else tuple(map(str, taps))
        for number, layer in enumerate(model.layers[:depth], start=1):
            states = layer(
                states,
                attention_mask=mask,
                position_embeddings=rotary,
                past_key_values=cache,
                use_cache=cache is not None,
            )
            if str(number) in named:
                kept[str(number)] = states
        if taps is None:
            return model.norm(states)  # (B, K, D), K positions of this pass
        return torch.cat([kept[name] for name in named], dim=-1)  # (B, K, len(taps) * D)

    def _think_mask(self, real: Tensor | None, queries: int, embeds: Tensor) -> Tensor | None:
        """What think tokens see: every real prompt token and their predecessors, (B or 1, 1, Q, L + Q)
        boolean.
        """
        if "flash" in (self.config._attn_implementation or ""):
            return real
        keys = embeds.shape[1]
        causal = torch.ones(queries, keys, dtype=torch.bool, device=embeds.device).tril(keys - queries)
        return causal[None, None] if real is None else causal & real[:, None, None, :]

    def _attention_mask(self, real: Tensor | None) -> Tensor | None:
        """Causal and unpadded, (B, 1, K, K) boolean; None where nothing is padded, so that fused kernels
        apply.

        Rows of pads attend to nothing, and SDPA then gives zero, as the original's variable-length kernel
        does.
        """
        if real is None or "flash" in (self.config._attn_implementation or ""):
            return real
        length = real.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
        return causal & real[:, None, None, :] & real[:, None, :, None]


def _merged_grid(pixels: Tensor) -> tuple[int, int]:
    return pixels.shape[-2] // PIXELS_PER_TOKEN, pixels.shape[-1] // PIXELS_PER_TOKEN


def _check_placeholders(is_image: Tensor, num_features: int) -> None:
    """ValueError where prompts and images do not fit together; waits for a device that holds the prompts."""
    if torch.compiler.is_compiling():
        return
    if (count := int(is_image.sum())) != num_features:
        raise ValueError(f"prompts hold {count} image placeholders but the images give {num_features}")


@outside_graphs
def _of_any_sizes(
    embeds: Tensor, real: Tensor | None, positions: Tensor
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The arguments of a graph for any batch of two or more, and one row has its own, and any length.

    transformers' attention computes a shape from the others, so the batch cannot be open as the DiT's is.
    """
    return (
        of_any_size(embeds, None, (0, 1)),
        None if real is None else of_any_size(real, None, (0, 1)),
        of_any_size(positions, None, (1, 2)),
    )
