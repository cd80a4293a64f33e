"""The MM-DiT: SD3.5-Medium with reference images as extra tokens.

A sample's image tokens are [target, reference 1, reference 2, ...]. Every image takes its own centred crop of
the position table, references are not marked in any way and pass through every block with the target's
modulation; only the target's tokens are read out. Blocks, embeddings and weights are those of diffusers'
SD3Transformer2DModel.

Samples of one call may differ in size and in number of references. Shorter sequences are then padded on the
right and a mask over keys keeps the padding invisible; where nothing is padded there is no mask, so fused
kernels apply. What the steps of a run share is kept in a step cache (`sampling/step_cache.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.cache_utils import CacheMixin
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from einops import rearrange
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from deepgen.models.adapter_scale import read_scale, scaled
from deepgen.models.attention import JointAttentionProcessor
from deepgen.models.blocks import FinalJointBlock, as_joint_block
from deepgen.models.caches import FASTER_CACHE, check_config, own_hooks, remove_hooks
from deepgen.models.containment import OwnFolderMixin
from deepgen.models.dit_inputs import (
    count,
    key_masks,
    masks_of_any_size,
    of_any_sizes,
    real_positions,
    vectors_of_any_batch,
)
from deepgen.models.graphs import are_compiled, entered_plainly, of_any_size, outside_graphs, traces_next

__all__ = [
    "DeepGenTransformer2DModel",
    "ModelMixin",
]  # diffusers finds the loader through ModelMixin in this module

# B batch, C latent channels, h w latent size, S image tokens, N of the target, L context tokens, D width


class StepCacheLike(Protocol):
    """What the DiT asks of a step cache.

    Attributes:
        is_exact: velocities are bit for bit those without a cache.
    """

    is_exact: bool

    def once(self, name: Any, source: Any, compute: Callable[[Any], Tensor]) -> Tensor:
        """`compute(source)`, computed once as long as the source, a tensor or several, is the same."""
        ...

    def modulations(self, transformer: Any, pooled: Tensor) -> list[tuple[Tensor, Tensor]] | None:
        """Every block's modulation vectors at this step; None where blocks compute them."""
        ...


class DeepGenTransformer2DModel(OwnFolderMixin, SD3Transformer2DModel, CacheMixin):
    """SD3.5's transformer that also reads reference latents. Loads any SD3Transformer2DModel folder
    unchanged.
    """

    _repeated_blocks = ["JointBlock", "FinalJointBlock"]
    _no_split_modules = ["JointBlock", "FinalJointBlock"]

    @register_to_config
    def __init__(
        self,
        sample_size: int = 128,
        patch_size: int = 2,
        in_channels: int = 16,
        num_layers: int = 24,
        attention_head_dim: int = 64,
        num_attention_heads: int = 24,
        joint_attention_dim: int = 4096,
        caption_projection_dim: int = 1536,
        pooled_projection_dim: int = 2048,
        out_channels: int = 16,
        pos_embed_max_size: int = 384,
        dual_attention_layers: tuple[int, ...] = (),
        qk_norm: str | None = "rms_norm",
    ) -> None:
        super().__init__(
            sample_size=sample_size,
            patch_size=patch_size,
            in_channels=in_channels,
            num_layers=num_layers,
            attention_head_dim=attention_head_dim,
            num_attention_heads=num_attention_heads,
            joint_attention_dim=joint_attention_dim,
            caption_projection_dim=caption_projection_dim,
            pooled_projection_dim=pooled_projection_dim,
            out_channels=out_channels,
            pos_embed_max_size=pos_embed_max_size,
            dual_attention_layers=dual_attention_layers,
            qk_norm=qk_norm,
        )
        for block in self.transformer_blocks:
            as_joint_block(block)
        self.transformer_blocks[-1] = FinalJointBlock(
            dim=self.inner_dim,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            context_pre_only=True,
            qk_norm=qk_norm,
            use_dual_attention=num_layers - 1 in dual_attention_layers,
        )
        self.set_attn_processor(JointAttentionProcessor())

    def fuse_qkv_projections(self) -> None:
        """One product for query, key and value: fewer kernels on an accelerator, and those weights twice in
        memory. Before LoRAs and before `compute_in_float32`; our processor stays, and with it the masks.
        """
        for module in self.modules():
            if isinstance(module, Attention):
                module.fuse_projections(fuse=True)

    def unfuse_qkv_projections(self) -> None:
        """Back to three products, whose weights were kept."""
        for module in self.modules():
            if isinstance(module, Attention) and module.fused_projections:
                module.fuse_projections(fuse=False)
                for name in ("to_qkv", "to_added_qkv"):
                    module._modules.pop(name, None)

    def enable_cache(self, config: Any) -> None:
        """As diffusers' own, for the techniques that fit this model (`models/caches.py`).

        Raises:
            ValueError: another technique, one is at work already, or the config lacks what it needs.
        """
        check_config(config)
        super().enable_cache(config)

    def enable_group_offload(self, onload_device: torch.device, *args: Any, **kwargs: Any) -> None:
        """As in diffusers, but the embedding of images (small) stays on the device.

        It is called once for each image, and what is loaded ahead is put away after the first call.
        """
        super().enable_group_offload(onload_device, *args, **kwargs)
        for part in self.pos_embed.modules():
            remove_hooks(part)
        self.pos_embed.to(onload_device)

    @entered_plainly
    def forward(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        reference_latents: Tensor | Sequence[Sequence[Tensor]] | None = None,
        encoder_attention_mask: Tensor | None = None,
        joint_attention_kwargs: dict[str, Any] | None = None,
        return_dict: bool = True,
        step_cache: StepCacheLike | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor | list[Tensor]]:
        """Velocity of every sample.

        Args:
            hidden_states: noisy latents, (B, C, h, w), or B tensors (C, h_i, w_i) whose sizes may differ.
            encoder_hidden_states: context, (B, L, joint_attention_dim).
            pooled_projections: pooled condition, (B, pooled_projection_dim).
            timestep: 1000 * sigma, (B,).
            reference_latents: per sample, the clean latents (C, h, w) of its references; lists may be empty.
                References of one size may be one tensor, (B, references, C, h, w).
            encoder_attention_mask: boolean (B, L), True at real context positions; None if all are.
            joint_attention_kwargs: only `scale` (of a LoRA) is read.
            return_dict: wrap the result as diffusers does.
            step_cache: of the run this step belongs to; what its steps share is then computed once, and what
                no later step reads is left out, unless the cache is exact. Not for training.

        Returns:
            Velocities shaped like `hidden_states`: one tensor if all sizes agree, otherwise a list.
        """
        is_compiled = traces_next()
        with scaled([self], read_scale(joint_attention_kwargs)):
            tensors, sizes = self._packed(
                hidden_states,
                encoder_hidden_states,
                pooled_projections,
                timestep,
                reference_latents,
                encoder_attention_mask,
                step_cache,
                is_compiled,
            )
            patches = self.predict(**tensors)
        return self._unpacked(patches, sizes, return_dict)

    @outside_graphs
    def _packed(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        reference_latents: Tensor | Sequence[Sequence[Tensor]] | None,
        encoder_attention_mask: Tensor | None,
        step_cache: StepCacheLike | None,
        is_compiled: bool,
    ) -> tuple[dict[str, Any], list[tuple[int, int]]]:
        """Arguments of `predict`, and the sizes of the samples, one if they are alike."""
        rows = count(hidden_states)
        if FASTER_CACHE in own_hooks(self):
            # Where it leaves out the negative rows, which come first, it does not know of these arguments.
            pooled_projections = pooled_projections[-rows:]
            reference_latents = None if reference_latents is None else reference_latents[-rows:]
        if reference_latents is not None and (given := count(reference_latents)) != rows:
            raise ValueError(f"{rows} samples but reference_latents for {given}")
        if isinstance(hidden_states, Tensor) and not isinstance(reference_latents, Sequence):
            sizes = [(hidden_states.shape[-2], hidden_states.shape[-1])]
            references = () if reference_latents is None else reference_latents.unbind(1)
            image, image_mask = self._embed_alike(hidden_states, references, step_cache), None
        else:
            samples = [
                [own, *references]
                for own, references in zip(hidden_states, reference_latents or [()] * rows, strict=True)
            ]
            sizes = [(sample[0].shape[-2], sample[0].shape[-1]) for sample in samples]
            image, image_mask = self.embed_images(samples, step_cache)  # (B, S, D), (B, S) or None
        context = self._once("context", encoder_hidden_states, self.context_embedder, step_cache)  # (B, L, D)
        if is_compiled and encoder_attention_mask is not None and image_mask is None:
            image_mask = image.new_ones(
                image.shape[:2], dtype=torch.bool
            )  # the graph of padded images serves
        tensors = {
            "image": image,
            "context": context,
            "pooled": pooled_projections,
            "timestep": timestep,
            "masks": key_masks(image_mask, encoder_attention_mask, image, context),
            "vectors": None if step_cache is None else step_cache.modulations(self, pooled_projections),
            "num_targets": None  # a slice whose length may be the whole would be a second graph
            if is_compiled
            else max(height * width for height, width in sizes) // self.config.patch_size**2,
            # With an exact cache a call rounds as without one, and as with gradient: a policy is scored on
            # what it drew.
            "is_exact": step_cache is None or step_cache.is_exact,
        }
        return of_any_sizes(tensors) if is_compiled else tensors, sizes

    def predict(
        self,
        image: Tensor,
        context: Tensor,
        pooled: Tensor,
        timestep: Tensor,
        masks: dict[str, Tensor],
        vectors: Sequence[tuple[Tensor, Tensor]] | None,
        num_targets: int | None,
        is_exact: bool,
    ) -> Tensor:
        """The network itself, all tensors: one graph for all sizes, or two, one of them with masks.

        Args:
            image: image tokens, (B, S, D), the target's first.
            context: projected context, (B, L, D).
            pooled: pooled condition, (B, P).
            timestep: 1000 * sigma, (B,).
            masks: see `key_masks`.
            vectors: every block's modulation, where it is known.
            num_targets: tokens of the largest target, N, which alone are asked for; None: of all images.
            is_exact: leave nothing out and fuse nothing.

        Returns:
            Velocities of patches, (B, N or S, p p C) of patch size p.
        """
        modulation = self.time_text_embed(timestep, pooled)  # (B, D)
        kwargs: dict[str, Any] = dict(masks)
        is_divided = self._parallel_config is not None  # among processes, from the first block to proj_out
        if is_divided and kwargs:
            raise ValueError(
                "a padded batch cannot be divided among processes; draw samples of one size, one number of "
                "references and equally long prompts together"
            )
        if not is_exact:
            if not is_divided and isinstance(self.transformer_blocks[-1], FinalJointBlock):
                kwargs["num_targets"] = num_targets
            if vectors is not None:
                kwargs["may_fuse"] = True
        has_own_graphs = are_compiled(self.transformer_blocks)
        if has_own_graphs:
            kwargs |= masks_of_any_size(masks)
            modulation, vectors = of_any_size(modulation, 0, is_own=True), vectors_of_any_batch(vectors)
        for index, block in enumerate(self.transformer_blocks):
            if has_own_graphs:
                image, context = (of_any_size(x, 0, (1,), is_own=True) for x in (image, context))
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                context, image = self._gradient_checkpointing_func(block, image, context, modulation, kwargs)
            else:
                context, image = block(
                    hidden_states=image,
                    encoder_hidden_states=context,
                    temb=modulation if vectors is None else vectors[index],
                    joint_attention_kwargs=kwargs,
                )  # (B, L, D), (B, S, D)
        image = image if is_divided else image[:, :num_targets]  # (B, N, D) unless divided
        return self.proj_out(self.norm_out(image, modulation))[:, :num_targets]  # (B, N or S, p p C)

    @outside_graphs
    def _unpacked(
        self, patches: Tensor, sizes: Sequence[tuple[int, int]], return_dict: bool
    ) -> Transformer2DModelOutput | tuple[Tensor | list[Tensor]]:
        """What `forward` returns, of patches (B, N or S, p p C)."""
        output = self.unpatchify(patches, sizes)  # (B, C, h, w), or a list of (C, h_i, w_i)
        return Transformer2DModelOutput(sample=output) if return_dict else (output,)

    def _embed_alike(
        self,
        targets: Tensor,
        references: Sequence[Tensor | Sequence[Tensor]],
        step_cache: StepCacheLike | None,
    ) -> Tensor:
        """Tokens (B, S, D) of targets (B, C, h, w) and of one reference of every sample each."""
        columns = [self.pos_embed(targets)]  # one image of every sample each, (B, S_i, D)
        for place, images in enumerate(references):
            columns.append(self._once(("reference", place), images, self._embed_column, step_cache))
        return torch.cat(columns, dim=1)  # (B, S, D)

    def _embed_column(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Tokens (B, S_i, D) of one image of every sample, stacked (B, C, h, w) or not."""
        return self.pos_embed(images if isinstance(images, Tensor) else torch.stack(list(images)))

    def embed_images(
        self, samples: Sequence[Sequence[Tensor]], step_cache: StepCacheLike | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens of every sample's images, right-padded to the longest, and the mask of real ones (None: no
        pads). With a step cache, those of references (all images but the first) are kept in it.
        """
        has_references = any(len(sample) > 1 for sample in samples)
        if has_references and step_cache is not None and not step_cache.is_exact:
            tokens = [self._kept_tokens(sample, step_cache) for sample in samples]
        else:
            shapes = {tuple(latents.shape[-2:] for latents in sample) for sample in samples}
            if len(shapes) == 1:
                targets, *references = zip(*samples, strict=True)
                return self._embed_alike(torch.stack(targets), references, step_cache), None  # (B, S, D)
            tokens = [self._kept_tokens(sample, step_cache) for sample in samples]  # (S_i, D) each
        lengths = [len(x) for x in tokens]
        if len(set(lengths)) == 1:
            return torch.stack(tokens), None  # (B, S, D)
        padded = pad_sequence(tokens, batch_first=True)  # (B, S, D)
        return padded, real_positions(lengths, padded.device)

    def _kept_tokens(self, sample: Sequence[Tensor], step_cache: StepCacheLike | None) -> Tensor:
        """Tokens of one sample's images, (S, D), references from the cache."""
        target, *references = sample
        kept = [
            self._once(("reference", id(latents)), latents, lambda x: self.pos_embed(x[None])[0], step_cache)
            for latents in references
        ]
        return torch.cat([self.pos_embed(target[None])[0], *kept])

    @staticmethod
    def _once(
        name: Any, source: Any, compute: Callable[[Any], Tensor], step_cache: StepCacheLike | None
    ) -> Tensor:
        """`compute(source)`, from the cache where there is one."""
        return compute(source) if step_cache is None else step_cache.once(name, source, compute)

    def unpatchify(self, patches: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor | list[Tensor]:
        """Target tokens back to latents; each token's values are ordered (row, column, channel)."""
        patch = self.config.patch_size
        if len(sizes) == 1 or len(set(sizes)) == 1:
            height, width = sizes[0]
            target = patches[:, : (height // patch) * (width // patch)]  # (B, N, p p C), patch size p
            return rearrange(
                target, "b (h w) (p q c) -> b c (h p) (w q)", p=patch, q=patch, h=height // patch
            )
        return [self.unpatchify(row[None], [size])[0] for row, size in zip(patches, sizes, strict=True)]
