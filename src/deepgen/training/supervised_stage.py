"""What alignment, joint SFT and fine-tuning share: data in, random numbers drawn, a flow-matching loss out.

They differ in what they train, which a stage says by its config; everything here is the same for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from deepgen.data.bad_rows import BadRowTracker
from deepgen.data.batches import Batches, MicroBatch
from deepgen.data.cache import Cache
from deepgen.data.loader import micro_batches
from deepgen.data.mixture import Mixture
from deepgen.data.mixture_config import ImageRule
from deepgen.data.pixels import bytes_to_pixels
from deepgen.models import vae as latent_space
from deepgen.models.precision import compute_in_float32
from deepgen.models.prompts import Tokens, editing_prompt, generation_prompt, image_tokens, tokenize
from deepgen.models.vlm import PIXELS_PER_TOKEN
from deepgen.planning.flops import SampleShape, sample_flops
from deepgen.training.adapters import adapt_transformer, adapt_vlm
from deepgen.training.cache import latent_moments, open_cache
from deepgen.training.config import StageLoss
from deepgen.training.noise_levels import noise_levels
from deepgen.training.objective import FlowMatchingObjective, TrainingBatch
from deepgen.training.parallel import Processes
from deepgen.training.randomness import generator, is_dropped, normal
from deepgen.training.sharding import is_sharded, shard
from deepgen.training.supervised_settings import SupervisedSettings
from deepgen.training.trained_pipeline import TrainedPipeline
from deepgen.training.validation import Validation
from deepgen.transfer import to_device

# Edges of the noise levels whose losses are logged apart.
_SIGMA_BINS = (0.0, 0.25, 0.5, 0.75, 1.0)


class SupervisedStage:
    """Batches and losses of a supervised stage.

    Args:
        config: the recipe.
        processes: this process among the others.
        pipe: the model; its parts are changed in place.
        mixture: the data; None where only `loss` is used.
    """

    def __init__(
        self, config: SupervisedSettings, processes: Processes, pipe: TrainedPipeline, mixture: Mixture | None
    ):
        self.config, self.processes, self.pipe, self.mixture = config, processes, pipe, mixture
        self.device, self.dtype = processes.device, config.dtype(processes.device)
        pipe.vae.requires_grad_(False).eval().to(self.device)
        # Before adapters are put on the vision tower, which have no part in its features.
        cache = None if config.cache is None or mixture is None else open_cache(config.cache, mixture, pipe)
        self.objective = prepare_parts(config, pipe)
        if self.device.type == "cpu" and self.dtype != torch.float32 and config.sharding == "none":
            self.dtype = torch.float32
            pipe.vae.float()
            for part in (pipe.vlm, pipe.connector, pipe.transformer):
                compute_in_float32(part)
        self.is_autocast_on_cpu = self.device.type == "cpu" and config.is_autocast_on_cpu
        if self.is_autocast_on_cpu:
            pipe.vae.to(memory_format=torch.channels_last)  # its convolutions are faster so in 16 bits
        # Divided before it is moved: the whole model need not fit the device.
        shard(
            self.objective,
            processes,
            config.sharding,
            dtype=self.dtype,
            shards_frozen=config.shards_frozen,
            whole=(pipe.vlm.visual, pipe.connector.think_tokens),  # captions pass the vision tower by
        )
        self.objective.to(self.device)
        self.modules: nn.Module = self.objective
        self._data = None if mixture is None else _batches(config, mixture, cache)
        self.observers: list[Any] = [*_observers(config, self)]
        if config.benchmarks.names:
            from deepgen.training.benchmark_validation import (
                benchmark_observers,  # here: it loads the evaluation
            )

            self.observers += benchmark_observers(config.benchmarks, self)
        self._stream: Iterator[list[MicroBatch]] = iter(())
        self._next_step = -1
        self._flops: dict[SampleShape, float] = {}  # of the sizes met so far

    # --- data -----------------------------------------------------------------------------------------------

    def batches(self, step: int) -> Iterator[TrainingBatch]:
        """This process's micro-batches of a step."""
        if step != self._next_step:
            self._stream = self._open_stream(step)
        self._next_step = step + 1
        for batch in next(self._stream):
            yield self.prepare(batch.to(self.device))

    def _open_stream(self, step: int) -> Iterator[list[MicroBatch]]:
        if self._data is None:
            raise ValueError("this stage was made without data")
        return micro_batches(
            self._data,
            step,
            self.config.num_steps - step,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            num_workers=self.config.num_workers,
            pin_memory=self.device.type == "cuda",
            bad_rows=BadRowTracker(self._data.mixture.config.bad_share_limit),
        )

    def prepare(self, batch: MicroBatch, *, is_training: bool = True) -> TrainingBatch:
        """A micro-batch of pictures as the objective takes it: prompts, latents and everything random.

        Conditions are dropped in training only.
        """
        texts, is_edit = list(batch.texts), batch.task == "edit"
        kept = [True] * len(texts)  # whether a sample keeps its references
        for index, sample in enumerate(batch.samples):
            drop_text, drop_references = self._dropped(sample, is_edit) if is_training else (False, False)
            kept[index] = not drop_references
            if drop_text:
                texts[index] = ""
        target = bytes_to_pixels(batch.target)
        shown = [bytes_to_pixels(pixels) for pixels in batch.references]
        pixels = [[image[index] for image in shown] if kept[index] else [] for index in range(len(texts))]
        moments = batch.moments or self._moments([target, *shown])
        clean = self._latents(moments[0], batch.samples, "target")
        slots = [self._latents(pair, batch.samples, f"reference {n}") for n, pair in enumerate(moments[1:])]
        references = [
            [latents[index] for latents in slots] if kept[index] else [] for index in range(len(texts))
        ]
        features = [
            slot[index] for index in range(len(texts)) if kept[index] for slot in batch.features
        ]  # sample by sample
        noise = torch.stack([normal(self.config.seed, "noise", n, clean.shape[1:]) for n in batch.samples])
        patch = self.pipe.transformer.config.patch_size
        tokens = self._tokens(texts, pixels if is_edit else None)
        levels = noise_levels(
            self.config.levels,
            self.pipe.scheduler,
            self.config.seed,
            batch.samples,
            self.config.global_batch_size,
            [clean.shape[-2] * clean.shape[-1] // patch**2] * len(texts),
        )
        return TrainingBatch(
            tokens=tokens,  # on the host, which then knows of pads and images without asking the device
            clean=clean,
            noise=to_device(noise, self.device),
            sigma=to_device(levels.sigma, self.device),
            timestep=to_device(levels.timestep, self.device),
            weights=to_device(levels.weights, self.device),
            pixels=pixels if is_edit else None,
            references=references if is_edit else None,
            image_features=features if batch.features else None,
            max_positions=self._max_positions(tokens, pixels),
            samples=batch.samples,
            levels=levels.sigma.tolist(),
        )

    def _dropped(self, sample: int, is_edit: bool) -> tuple[bool, bool]:
        """Whether a sample loses its text, and whether its references."""
        dropout, seed = self.config.dropout, self.config.seed
        if not is_edit:
            return is_dropped(seed, "drop text", sample, dropout.text), False
        draw = generator(seed, "drop edit", sample).random()
        everything = draw < dropout.edit_everything
        return everything or draw < dropout.edit_everything + dropout.edit_text, everything

    def _tokens(self, texts: Sequence[str], pixels: Sequence[Sequence[Tensor]] | None) -> Tokens:
        """Prompts in their template, whole: what is too long is cut by position (`_max_positions`)."""
        if pixels is None:
            return tokenize(self.pipe.tokenizer, [generation_prompt(text) for text in texts])
        prompts = [
            editing_prompt(text, count) if count else generation_prompt(text)
            for text, count in zip(texts, image_tokens(pixels), strict=True)
        ]
        return tokenize(self.pipe.tokenizer, prompts)

    def _max_positions(self, tokens: Tokens, pixels: Sequence[Sequence[Tensor]]) -> int | None:
        """How many positions, think tokens included, a micro-batch keeps; None where nothing is longer.

        The original's rule: the last `max_prompt_tokens` of a templated prompt, and in a batch with
        references as many more as its largest number of references and its largest reference come to. What is
        cut is the beginning.
        """
        limit = self.config.max_prompt_tokens
        if limit is None:
            return None
        counts = image_tokens(pixels)
        limit += max(map(len, counts), default=0) * max((n for row in counts for n in row), default=0)
        if max(tokens.lengths) <= limit:
            return None
        return limit + self.pipe.connector.config.num_think_tokens

    def _moments(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Of the posteriors of each image (B, 3, H, W); the VAE is narrowed on a CPU only."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.is_autocast_on_cpu):
            return [latent_moments(self.pipe.vae, image) for image in images]

    def _latents(self, moments: Tensor, samples: Sequence[int], purpose: str) -> Tensor:
        """Latents (B, C, h, w) float32, drawn from posteriors (B, 2, C, h, w) with each sample's noise."""
        mean, deviation = moments.float().unbind(1)
        shape = mean.shape[1:]
        noise = torch.stack([normal(self.config.seed, f"posterior of {purpose}", n, shape) for n in samples])
        drawn = mean + deviation * to_device(noise, mean.device)
        return (drawn - latent_space.shift(self.pipe.vae)) * self.pipe.vae.config.scaling_factor

    # --- loss -----------------------------------------------------------------------------------------------

    def loss(self, batch: TrainingBatch) -> StageLoss:
        """The sum over samples, divided by the size of the global batch: every sample weighs the same."""
        with self.autocast():
            losses = self.losses(batch)
        task = "generate" if batch.pixels is None else "edit"
        metrics: dict[str, tuple[float | Tensor, float]] = {
            "loss": _total(losses),
            f"loss/{task}": _total(losses),
        }
        for low, high in pairwise(_SIGMA_BINS):
            levels = enumerate(batch.host_levels)
            inside = [losses[n] for n, level in levels if low <= level and (level < high or high == 1.0)]
            if inside:
                metrics[f"loss/sigma {low:g}-{high:g}"] = _total(torch.stack(inside))
        if batch.max_positions is not None:
            room = batch.max_positions - self.pipe.connector.config.num_think_tokens
            num_cut = sum(length > room for length in batch.tokens.lengths)
            metrics["prompts cut"] = (float(num_cut), 1.0)
        shown = [latents for row in batch.references or () for latents in row]
        watched = {"latents of the targets": _total_of(batch.clean)}
        watched |= {"latents of the references": _total_of(shown)} if shown else {}
        loss = losses.sum() / self.config.global_batch_size
        return StageLoss(loss, metrics, self.flops(batch), watched)

    def flops(self, batch: TrainingBatch) -> float:
        """Arithmetic of a micro-batch, by the formulas of `--plan`; a picture counts as a square of its area.

        A sample that lost its references counts as if it had them.
        """
        height, width = batch.clean[0].shape[-2:]
        side = round(math.sqrt(height * width)) * 2 ** (len(self.pipe.vae.config.block_out_channels) - 1)
        references = max(map(len, batch.references)) if batch.references else 0
        features = references * ((side // PIXELS_PER_TOKEN) ** 2 + 2)
        length = batch.tokens.input_ids.shape[1]
        if batch.max_positions is not None:
            length = min(length, batch.max_positions - self.pipe.connector.config.num_think_tokens)
        prompt = max(1, length - features)
        sample = SampleShape(image_size=side, prompt_tokens=prompt, references=references)
        if sample not in self._flops:
            self._flops[sample] = sum(
                work.training
                for work in sample_flops(
                    {name: getattr(self.pipe, name) for name in ("vlm", "connector", "transformer", "vae")},
                    sample,
                    is_prompt_split=self.config.is_prompt_split,
                    is_checkpointing=self.config.is_checkpointing_activations,
                ).values()
            )
        return len(batch.clean) * self._flops[sample]

    def losses(self, batch: TrainingBatch) -> Tensor:
        """Of every sample, float32 (B,)."""
        return self.objective(batch)

    def autocast(self) -> AbstractContextManager:
        """Arithmetic in the stage's type, while what is trained stays in float32."""
        if self.is_autocast_on_cpu:
            return _narrow_on_cpu()
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)


@contextmanager
def _narrow_on_cpu() -> Iterator[None]:
    """Products in bfloat16, attention in plain products: the fused one is slower backwards in 16 bits."""
    with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
        yield


def prepare_parts(config: SupervisedSettings, pipe: TrainedPipeline) -> FlowMatchingObjective:
    """The parts, with gradients where the config asks for them, and float32 where there is a gradient."""
    trained = {"vlm": False, "connector": config.trains_connector, "transformer": config.trains_transformer}
    for name, is_trained in trained.items():
        getattr(pipe, name).requires_grad_(is_trained).train(is_trained)
    if config.vlm_lora is not None:
        adapt_vlm(pipe.vlm, config.vlm_lora, pipe.connector.taps)
        pipe.vlm.language_model.train()
    if config.transformer_lora is not None:
        adapt_transformer(pipe.transformer, config.transformer_lora)
        pipe.transformer.train()
    for part in (pipe.vlm, pipe.connector, pipe.transformer):
        for parameter in part.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if config.is_checkpointing_activations:
        pipe.connector.enable_gradient_checkpointing()
        pipe.transformer.enable_gradient_checkpointing()
        if config.vlm_lora is not None:
            pipe.vlm.language_model.gradient_checkpointing_enable({"use_reentrant": False})
    if config.is_compiled:
        from deepgen.models.compiled import compile_blocks

        compile_blocks(pipe.transformer)
    return FlowMatchingObjective(
        pipe.vlm,
        pipe.connector,
        pipe.transformer,
        padding=config.padding,
        is_prompt_constant=config.is_prompt_split and config.vlm_lora is None,
    )


def _observers(config: SupervisedSettings, stage: SupervisedStage) -> list[Validation]:
    # A sharded model takes all processes to look at.
    if config.validation.data is None or not (stage.processes.is_main or is_sharded(stage.objective)):
        return []
    return [Validation(config.validation, stage, open_validation_data(config, own_image_rule(stage.pipe)))]


def open_validation_data(config: SupervisedSettings, image: ImageRule | None = None) -> Mixture:
    """The examples that are kept for looking; `image` is the size rule where they are no mixture."""
    from deepgen.data.opening import open_data, recognise  # here: a stage is given its other data opened

    assert config.validation.data is not None
    if recognise(config.validation.data).kind == "mixture":
        return open_data(config.validation.data, root=config.data_root)
    return open_data(config.validation.data, image=image)


def own_image_rule(pipe: TrainedPipeline) -> ImageRule:
    """The size rule where no mixture gives one: pictures as large as the model draws."""
    return ImageRule(image_size=round(math.sqrt(pipe.defaults["height"] * pipe.defaults["width"])))


def _batches(config: SupervisedSettings, mixture: Mixture, cache: Cache | None) -> Batches:
    blocks = len(mixture.cycle) if config.is_step_mixed else 1
    sizes = (config.global_batch_size, config.micro_batch_size)
    return Batches(mixture, *sizes, blocks_per_step=blocks, cache=cache)


def _total_of(latents: Tensor | Sequence[Tensor]) -> Tensor:
    """One number that is not finite where some of the latents are not; nothing waits for it."""
    pieces = [latents] if isinstance(latents, Tensor) else list(latents)
    return torch.stack([piece.detach().float().sum() for piece in pieces]).sum()


def _total(losses: Tensor) -> tuple[Tensor, float]:
    return losses.detach().sum(), float(len(losses))
