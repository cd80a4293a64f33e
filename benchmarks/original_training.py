"""Our rendering of how the original takes a training step, to measure ours against in train_path.py.

Same classes for the layers, same data, same random numbers; what differs is the path, as the specification of
the original describes it (training 1 and 5, model 2 to 6):

- VLM: the whole prompt with gradient, every decoder layer and the final norm, all hidden states kept, and a
  dense boolean mask in every attention call. (The original calls a variable-length kernel there, which a CPU
  does not have.)
- DiT: images embedded one by one and padded; in each attention call a dense boolean mask, built anew, even
  where nothing is padded.
- VAE and vision tower image by image; pads visible to connector and DiT; stage 2 adapts every linear layer
  and embedding of the VLM.
- Gradients flattened and reduced after every micro-batch (ZeRO-2), AdamW not fused, on one flat float32 copy
  for each rate of decay.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn.utils.rnn import pad_sequence

from deepgen.data.batches import MicroBatch
from deepgen.models.attention import JointAttentionProcessor
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.vlm import PIXELS_PER_TOKEN, multimodal_positions
from deepgen.training.objective import FlowMatchingObjective, TrainingBatch
from deepgen.training.optim import OptimConfig, lr_factor
from deepgen.training.supervised_stage import SupervisedStage

# B samples, L prompt tokens with pads, Q think tokens, S image tokens, K keys, D width


class DenseMaskProcessor(JointAttentionProcessor):
    """Joint attention whose mask over pairs is built in every call."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        is_real: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Attend; `is_real` is boolean (B, S), the context counts as real throughout."""
        seen = is_real
        if encoder_hidden_states is not None:
            context = is_real.new_ones(encoder_hidden_states.shape[:2])
            seen = torch.cat([is_real, context], dim=1)
        own = torch.eye(seen.shape[1], dtype=torch.bool, device=seen.device)
        pairs = ((seen[:, :, None] & seen[:, None, :]) | own)[:, None]  # (B, 1, K, K)
        return super().__call__(attn, hidden_states, encoder_hidden_states, pairs, pairs)


class OriginalTransformer(DeepGenTransformer2DModel):
    """The DiT that pads and masks in any case."""

    def embed_images(
        self, samples: Sequence[Sequence[Tensor]], step_cache: None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Tokens (B, S, D), image by image, and which are real (B, S)."""
        tokens = [torch.cat([self.pos_embed(x[None])[0] for x in sample]) for sample in samples]
        padded = pad_sequence(tokens, batch_first=True)
        lengths = torch.tensor([len(x) for x in tokens], device=padded.device)
        return padded, torch.arange(padded.shape[1], device=padded.device) < lengths[:, None]

    def _packed(self, hidden_states: Tensor | Sequence[Tensor], *others: Any) -> Any:
        return super()._packed(list(hidden_states), *others)  # never as one tensor

    def predict(self, *, masks: dict[str, Tensor], **tensors: Any) -> Tensor:  # type: ignore[override]
        """The network with the mask that its processors read."""
        return super().predict(masks={"is_real": masks["image_mask"][:, 0, 0]}, **tensors)


class OriginalObjective(FlowMatchingObjective):
    """The condition as the original computes it; the loss is the same."""

    def condition(self, batch: TrainingBatch) -> tuple[Tensor, Tensor, None]:
        """Context (B, L + Q, C) and pooled (B, P); pads count as positions."""
        hidden = self.hidden_states(batch)
        states = torch.cat([hidden[tap] for tap in self.connector.taps or ()], dim=-1)
        context, pooled = self.connector(states)
        return context, pooled, None

    def hidden_states(self, batch: TrainingBatch) -> list[Tensor]:
        """Embeddings and the output of every layer, the last one normed, each (B, L + Q, D)."""
        vlm, think = self.vlm, self.connector.think_tokens()
        input_ids, rows = batch.tokens.input_ids, batch.pixels or [[] for _ in range(len(batch))]
        embeds = vlm.language_model.embed_tokens(input_ids)
        images = [image for row in rows for image in row]
        if images:
            features = torch.cat([vlm.image_features([image])[0] for image in images])
            is_image = (input_ids == vlm.config.image_token_id)[..., None]
            embeds = embeds.masked_scatter(is_image, features.to(embeds))
        embeds = torch.cat([embeds, think.to(embeds).expand(len(batch), -1, -1)], dim=1)

        unit = PIXELS_PER_TOKEN
        grids = [[(x.shape[-2] // unit, x.shape[-1] // unit) for x in row] for row in rows]
        real = F.pad(batch.tokens.attention_mask.bool(), (0, len(think)), value=True)
        ids = F.pad(input_ids, (0, len(think)), value=0)
        positions = multimodal_positions(ids, real, vlm.config.image_token_id, grids)
        rotary = vlm.language_model.rotary_emb(embeds, positions)
        causal = real.new_ones(embeds.shape[1], embeds.shape[1]).tril()
        mask = (causal & real[:, None, :] & real[:, :, None])[:, None]  # (B, 1, L + Q, L + Q)
        hidden = [embeds]
        for layer in vlm.language_model.layers:
            hidden.append(layer(hidden[-1], attention_mask=mask, position_embeddings=rotary))
        normed, taps = vlm.language_model.norm(hidden[-1]), self.connector.taps
        if taps is None or max(taps) < len(hidden) - 1:  # the file of `shapes` ends at its deepest tap
            hidden[-1] = normed
        return hidden


class OriginalStage(SupervisedStage):
    """A supervised stage on the original's path. The pipeline's DiT has to be an `OriginalTransformer`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pipe.transformer.set_attn_processor(DenseMaskProcessor())
        self.objective = OriginalObjective(self.pipe.vlm, self.pipe.connector, self.pipe.transformer)
        self.modules = self.objective

    def _latents(self, pixels: Tensor, samples: Sequence[int], purpose: str) -> Tensor:
        """One image at a time."""
        latents = []
        for image, sample in zip(pixels, samples, strict=True):
            latents.append(super()._latents(image[None], [sample], purpose))
        return torch.cat(latents)


class OriginalUpdate:
    """Gradients summed in flat buffers, micro-batch by micro-batch; then clipped AdamW on flat copies."""

    def __init__(self, modules: nn.Module, config: OptimConfig, num_steps: int):
        trained = [p for p in modules.parameters() if p.requires_grad]
        groups = [[p for p in trained if p.ndim >= 2], [p for p in trained if p.ndim < 2]]
        self.groups = [group for group in groups if group]
        self.flat = [nn.Parameter(_flatten_dense_tensors([p.detach() for p in g])) for g in self.groups]
        self.sums = [torch.zeros_like(flat) for flat in self.flat]
        decay = [config.weight_decay if group[0].ndim >= 2 else 0.0 for group in self.groups]
        self.optimizer = torch.optim.AdamW(
            [{"params": [flat], "weight_decay": d} for flat, d in zip(self.flat, decay, strict=True)],
            lr=config.lr,
            betas=config.betas,
            eps=config.eps,
            fused=False,
        )
        self.config, self.num_steps, self.step = config, num_steps, 0

    @torch.no_grad()
    def reduce(self) -> None:
        """After each micro-batch."""
        for group, total in zip(self.groups, self.sums, strict=True):
            total += _flatten_dense_tensors(
                [torch.zeros_like(p) if p.grad is None else p.grad for p in group]
            )
            for parameter in group:
                parameter.grad = None

    @torch.no_grad()
    def update(self) -> None:
        """After the last one."""
        for flat, total in zip(self.flat, self.sums, strict=True):
            flat.grad = total
        nn.utils.clip_grad_norm_(self.flat, self.config.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(self.config, self.step, self.num_steps)
        self.optimizer.step()
        self.step += 1
        for group, flat, total in zip(self.groups, self.flat, self.sums, strict=True):
            total.zero_()
            for parameter, value in zip(group, _unflatten_dense_tensors(flat, group), strict=True):
                parameter.copy_(value)


def original_step(stage: OriginalStage, update: OriginalUpdate, micro_batches: Sequence[MicroBatch]) -> float:
    """An optimizer step; the sum of the losses over its samples."""
    total = 0.0
    for batch in micro_batches:
        result = stage.loss(stage.prepare(batch))
        result.loss.backward()
        update.reduce()
        total += result.metrics["loss"][0]
    update.update()
    return total
