"""One step for many images at once, each at its own place in its own schedule.

The pipeline draws a batch from first to last step. Here the batch may be another at every step: each image is
a run of its own (`sampling/ode.py`), so images of 20 and of 50 steps, begun at different times, share a call
of the DiT, whatever solver each follows. The arithmetic of each is that of `DeepGenPipeline.denoise` with its
preset, by the same functions; what may differ is the rounding of matrix products of another batch size.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from deepgen.data.pixels import pixels_to_bytes, resize_pixels, to_bytes
from deepgen.generation import GenerationSettings, ResolvedSettings
from deepgen.masking import Blend, KeptLatents, KeptPixels, UnchangedPixels
from deepgen.models import vae as latent_space
from deepgen.models.vlm import PIXELS_PER_TOKEN
from deepgen.pipeline import DeepGenPipeline
from deepgen.prompt_text import check_prompt
from deepgen.sampling import ode
from deepgen.sampling.guidance import Guidance
from deepgen.sampling.guided_inputs import GuidedInputs, guided_condition
from deepgen.sampling.presets import get_preset
from deepgen.sampling.solvers import choose_solver, num_model_calls
from deepgen.sampling.step_cache import MODULATION_BYTES, StepCache, may_keep
from deepgen.sampling.velocity import GuidedVelocity
from deepgen.serving.adapters import LoraAdapters
from deepgen.serving.encoding_cache import MAX_BYTES, EncodingCache, digest
from deepgen.serving.jobs import GenerationRequest, JobInfo, ModelInfo
from deepgen.transfer import to_device, to_host
from deepgen.types import Condition

# C latent channels, h w latent size

BatchKey = tuple[Any, ...]

# What the steps of all running images may keep of the DiT's modulation, divided among them.
CACHE_BYTES = 512 * 2**20

# Exact batches have one length of text for each so many tokens, and a padded place in every row.
_TEXT_UNIT = 32


@dataclass(frozen=True)
class Plan:
    """A request with every choice made, before a model has run.

    Attributes:
        prompt: as much of it as is read; the negative one likewise.
        size: (height, width) that is drawn.
        final_size: (height, width) it is brought to afterwards; None: as drawn.
        pixels: references as the model reads them, (3, H, W) in [-1, 1].
        image_digests: of the references, see `encoding_cache.digest`.
        lora: the name of the adapter that was asked for, with which prompts are read; None: without.
        dit_loras: the adapters the DiT draws with.
        kept: with a mask, what the result keeps of the first reference.
        source: first reference in uint8, (3, H, W), in the size of the result, where the edit is to leave
            alone what it does not change.
        info: what was decided, for the client.
    """

    prompt: str
    negative_prompt: str
    size: tuple[int, int]
    final_size: tuple[int, int] | None
    pixels: list[Tensor]
    settings: ResolvedSettings
    kept: KeptPixels | None
    info: JobInfo
    source: Tensor | None = None
    image_digests: tuple[bytes, ...] = ()
    lora: str | None = None
    dit_loras: tuple[str, ...] = ()

    @property
    def is_guided(self) -> bool:
        """Whether there is a negative branch."""
        return self.settings.is_guided

    @property
    def num_steps(self) -> int:
        """Calls of the model, each a step of the engine: the solver's steps, and with heun one less than two
        for each.
        """
        return self.info.num_steps


@dataclass(frozen=True)
class Conditions:
    """What the models made of a request, once for all its pictures; rows are 1."""

    positive: Condition
    negative: Condition | None
    kept: KeptLatents | None
    unchanged: UnchangedPixels | None = None


@dataclass(frozen=True)
class Schedule:
    """The way from noise to an image, for all images of a preset, a size and a number of steps.

    Attributes:
        solver: before its first step.
        timesteps: 1000 * sigma of each step, float32 (num_steps,).
        has_both: whether the negative branch runs at a step, where there is one.
    """

    solver: Any
    timesteps: Tensor
    has_both: list[bool]


@dataclass(eq=False, kw_only=True)
class Sample(ode.SamplingState):
    """An image that is being drawn: a run of one sample."""

    plan: Plan
    references: list[Tensor]  # (C, h, w) each
    text_length: int  # what its context is padded to in an exact batch, tokens: longer than it is
    unchanged: UnchangedPixels | None = None  # what the result keeps where the edit changes nothing
    forward_group: str | None = None  # see `LoraAdapters.forward_group`

    @property
    def batch_key(self) -> BatchKey:
        """Samples that agree in this can share a forward."""
        height, width = self.latents.shape[-2:]
        runs_both = not self.is_done and self.runs_both
        return height, width, len(self.references), runs_both, self.forward_group

    @property
    def exact_key(self) -> BatchKey:
        """Samples that agree in this can share a forward whose shapes do not tell one from another."""
        shapes = tuple(tuple(reference.shape) for reference in self.references)
        return *self.batch_key, shapes, self.text_length, self.plan.dit_loras


class Sampler:
    """The pipeline's parts, called by the step. Only `plan` may be called from several threads.

    Args:
        pipe: a pipeline that nothing else uses.
        loras: name -> adapters that requests may ask for.
        preset: of requests that name none.
        max_running: images begun and not finished, which divide `CACHE_BYTES` among them.
        max_encoding_bytes: what encoded prompts and references that are kept may take.

    Raises:
        ValueError: the preset is unknown or not for this model, the solver is not Euler, or the DiT keeps a
            cache from step to step, which a batch that changes between steps would mix up.
    """

    def __init__(
        self,
        pipe: DeepGenPipeline,
        loras: Mapping[str, str] | None = None,
        preset: str = "exact",
        max_running: int = 1,
        max_encoding_bytes: int = MAX_BYTES,
    ) -> None:
        scheduler = pipe.scheduler
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.stochastic_sampling:
            raise ValueError(
                f"serving needs the deterministic euler solver, got {type(scheduler).__name__}; "
                "leave out --solver"
            )
        if pipe.transformer.is_cache_enabled:
            raise ValueError("serving changes the batch between steps; disable the DiT's cache first")
        self.pipe, self._preset = pipe, get_preset(preset)
        GenerationSettings(preset=preset).resolve(pipe.defaults)  # refused now rather than with every request
        self.loras = LoraAdapters(pipe, loras or {})
        self.encodings = EncodingCache(max_encoding_bytes)
        self._scheduler = copy.deepcopy(scheduler)
        self._cache_bytes = min(CACHE_BYTES // max_running, MODULATION_BYTES)
        self._velocity = GuidedVelocity(pipe.transformer)
        # A copy with a lock: a fast tokenizer that is used by two threads at once raises an error.
        self._tokenizer, self._counting = copy.deepcopy(pipe.tokenizer), threading.Lock()
        self._schedules: dict[tuple[Any, ...], Schedule] = {}

    @property
    def model_info(self) -> ModelInfo:
        """Facts about the model."""
        unit = self.pipe.size_unit
        side = self.pipe.transformer.config.pos_embed_max_size * unit
        return ModelInfo(
            defaults=self.loras.defaults(None),
            size_unit=unit,
            max_side=side,
            loras=tuple(self.loras.names),
            preset=self._preset.name,
            world=self.pipe.world,
        )

    def plan(self, request: GenerationRequest) -> Plan:
        """Make every choice and check every value; ValueError names what is wrong. No model runs."""
        check_prompt(request.prompt, "prompt")
        self.loras.check(request.lora)
        model = replace(self.model_info, defaults=self.loras.defaults(request.lora))
        settings = model.resolve(request.settings, is_edit=bool(request.images))
        references = [list(request.images)] if request.images else None
        sizes, pixels = self.pipe.plan(references, 1, request.height, request.width)
        final_size = request.final_size
        if references is not None and request.height is None and request.width is None:
            source = request.source_size or (request.images[0].height, request.images[0].width)
            final_size = None if source == sizes[0] else source
        with self._counting:
            (prompt,), cuts = self.pipe.fit_prompts([request.prompt], pixels, tokenizer=self._tokenizer)
            (negative,), more = self.pipe.fit_prompts(
                [request.negative_prompt], pixels, "negative_prompt", self._tokenizer
            )
            num_text_tokens = len(self._tokenizer(prompt).input_ids)
        unit = self.pipe.size_unit
        info = JobInfo(
            size=final_size or sizes[0],
            drawn_size=sizes[0],
            settings=settings,
            num_steps=num_model_calls(settings.solver, settings.num_inference_steps),
            num_text_tokens=num_text_tokens,
            num_reference_tokens=sum(
                (x.shape[-2] // PIXELS_PER_TOKEN) * (x.shape[-1] // PIXELS_PER_TOKEN)
                for x in (pixels[0] if pixels else [])
            ),
            num_image_tokens=(sizes[0][0] // unit) * (sizes[0][1] // unit),
            prompt_cuts=(*cuts, *(more if settings.is_guided else ())),
            world_warnings=tuple(self.pipe.prompt_warnings(request.prompt, request.images)),
        )
        return Plan(
            prompt=prompt,
            negative_prompt=negative,
            size=sizes[0],
            final_size=final_size,
            pixels=[] if pixels is None else pixels[0],
            image_digests=tuple(digest(x) for x in pixels[0]) if pixels else (),
            settings=settings,
            kept=None if request.mask is None else _kept_pixels(request, final_size or sizes[0]),
            info=info,
            source=to_bytes(request.images[0], final_size or sizes[0]) if settings.keep_unchanged else None,
            lora=request.lora,
            dit_loras=self.loras.of_dit(request.lora, settings),
        )

    @torch.no_grad()
    def encode(self, plan: Plan) -> Conditions:
        """Run the VLM and the connector on a request, and the VAE on what the result keeps, where that was
        not done before.
        """
        reader, images = self.loras.reader(plan.lora), plan.image_digests

        def read_images(pixels: Sequence[Tensor]) -> Sequence[Tensor]:
            return self.encodings.features(images, reader, lambda: self.pipe.vlm.image_features(pixels))

        def read() -> tuple[Condition, Condition | None]:
            self.loras.use(*(() if plan.lora is None else (plan.lora,)))
            pixels = [plan.pixels] if plan.pixels else None
            return self.pipe.encode_prompt(*prompts, pixels, guided=plan.is_guided, read_images=read_images)

        prompts = plan.prompt, plan.negative_prompt
        positive, negative = self.encodings.conditions(prompts, plan.is_guided, images, reader, read)
        where = self.pipe.vae, plan.size, self.pipe.transformer.dtype, self.pipe._execution_device
        kept = None if plan.kept is None else plan.kept.latents(*where, self._posterior)
        unchanged = None if plan.source is None else UnchangedPixels.of(plan.source, *where, self._posterior)
        return Conditions(positive, negative, kept, unchanged)

    def _posterior(self, pixels: Tensor, image: bytes | None = None) -> Any:
        """The VAE's posterior of an image (3, H, W); `image` is its digest where it is known."""
        key = digest(pixels) if image is None else image
        return self.encodings.posterior(key, lambda: self.pipe.encode_reference(pixels))

    @torch.no_grad()
    def begin(self, plan: Plan, conditions: Conditions, seed: int) -> Sample:
        """An image before its first step; noise and references depend on the seed alone, as in the
        pipeline.
        """
        generator = torch.Generator().manual_seed(seed)
        transformer, device = self.pipe.transformer, self.pipe._execution_device
        dtype = transformer.dtype
        noise = self.pipe.prepare_latents(*plan.size, [generator], dtype, device)  # (1, C, h, w)
        references = []
        if plan.pixels:
            digests = {id(x): key for x, key in zip(plan.pixels, plan.image_digests, strict=True)}
            references = self.pipe.prepare_references(
                [plan.pixels], [generator], dtype, encode=lambda x: self._posterior(x, digests[id(x)])
            )[0]
        schedule = self._schedule(plan.settings, noise)
        condition = guided_condition(conditions.positive, conditions.negative, dtype)
        make_cache = None
        if may_keep(transformer):
            make_cache = partial(StepCache, schedule.timesteps, max_bytes=self._cache_bytes)
        return Sample(
            latents=noise,
            timesteps=schedule.timesteps,
            solver=copy.deepcopy(schedule.solver),
            inputs=GuidedInputs(condition, [references] if references else None, len(condition), make_cache),
            guidance=Guidance(plan.settings.guidance_scale),
            has_both=schedule.has_both,
            is_float32=plan.settings.chosen_preset.solver is not None,
            kept=None if conditions.kept is None else [conditions.kept],
            plan=plan,
            unchanged=conditions.unchanged,
            references=references,
            text_length=(condition.prompt_embeds.shape[1] // _TEXT_UNIT + 1) * _TEXT_UNIT,
            forward_group=self.loras.forward_group(plan.dit_loras),
        )

    def _schedule(self, settings: ResolvedSettings, latents: Tensor) -> Schedule:
        patches = latents.shape[-2] * latents.shape[-1] // self.pipe.transformer.config.patch_size**2
        key = settings.preset, settings.schedule, settings.solver, settings.num_inference_steps, patches
        if key not in self._schedules:
            if len(self._schedules) > 256:  # sizes and steps are the clients' choice, and they have many
                self._schedules.clear()
            preset = settings.chosen_preset
            scheduler = choose_solver(settings.solver, copy.deepcopy(self._scheduler))
            solver, levels = preset.prepare(scheduler, settings.num_inference_steps, None, patches)
            timesteps = to_device(levels, latents.device)
            self._schedules[key] = Schedule(solver, timesteps, preset.guided(levels))
        return self._schedules[key]

    @torch.no_grad()
    def step(self, samples: list[Sample], exact_batch: int | None = None) -> None:
        """One solver step of every sample; all of one `batch_key`. An error leaves every sample as it was.

        Args:
            samples: what is moved.
            exact_batch: rows the forward has, however few samples there are. At a fixed shape the rounding
                of a row does not depend on the others, so a sample is bit for bit what it is alone; all must
                be of one `exact_key`.
        """
        text_length = None if exact_batch is None else samples[0].text_length
        velocity = partial(self._velocity, num_samples=exact_batch, text_length=text_length)
        moved = [sample.copy() for sample in samples]
        if len({sample.plan.dit_loras for sample in samples}) == 1:
            self.loras.use(*samples[0].plan.dit_loras)
            ode.step(moved, velocity)
        else:
            for sample in moved:  # the vectors of a sample's own steps are made with its own adapter
                self._prepare_modulation(sample)
            branches = 2 if moved[0].runs_both else 1  # rows are all negatives, then all positives
            with self.loras.rows([sample.plan.dit_loras for sample in moved] * branches):
                ode.step(moved, velocity)
        for sample, state in zip(samples, moved, strict=True):
            vars(sample).update(vars(state))
        if any(sample.is_done for sample in samples):
            self._velocity.forget()

    def _prepare_modulation(self, sample: Sample) -> None:
        """Have the sample's own step cache hold what this step needs, as far as it keeps such things."""
        assert sample.inputs is not None
        inputs = sample.inputs.positive if sample.skip_uncond else sample.inputs
        given = inputs.arguments([sample.step])
        if "step_cache" in given and not given["step_cache"].has_modulation(given["pooled_projections"]):
            self.loras.use(*sample.plan.dit_loras)
            given["step_cache"].modulations(self.pipe.transformer, given["pooled_projections"])

    @torch.no_grad()
    def finish(self, sample: Sample) -> Image.Image:
        """The image of a sample whose steps are all taken."""
        plan = sample.plan
        latents = sample.latents.to(self.pipe.transformer.dtype)  # (1, C, h, w)
        pixels = latent_space.decode(self.pipe.vae, latents, is_checked=False)  # (1, 3, H, W)
        finite = latent_space.are_finite(latents, pixels)  # (1, 2)
        # One channel after the other: what an edit comes back as may be far larger than what is drawn.
        drawn = pixels[0].float()
        blend = None if sample.unchanged is None else sample.unchanged.blend(drawn)
        channels = [self._channel(plan, drawn, blend, index) for index in range(3)]
        *channels, finite = to_host([*channels, finite])  # the host waits once
        latent_space.warn_of_not_finite(finite, latents.dtype, pixels.dtype)
        return Image.merge("RGB", [Image.fromarray(channel.numpy()) for channel in channels])

    @staticmethod
    def _channel(plan: Plan, pixels: Tensor, blend: Blend | None, index: int) -> Tensor:
        """A channel of the result in uint8, (H, W), brought to its final size, with what it keeps."""
        only = slice(index, index + 1)
        channel = pixels[only]  # (1, H, W)
        if plan.final_size is not None:
            channel = resize_pixels(channel, plan.final_size)
        if blend is not None:
            channel = blend.paste(channel, only)
        if plan.kept is not None:
            channel = plan.kept.paste(channel, only)
        return pixels_to_bytes(channel)[0]


def _kept_pixels(request: GenerationRequest, size: tuple[int, int]) -> KeptPixels:
    """What the result, of this size, keeps of the first reference."""
    if not request.images:
        raise ValueError("mask marks what may change in a picture; give the picture as well")
    assert request.mask is not None
    return KeptPixels.of(request.images[0], request.mask, size)


# --- previews -----------------------------------------------------------------------------------------------

_SIDE = 64  # of the made-up images, pixels
_COUNT = 24
_ENLARGE = 4  # pixels of a preview per latent


class LatentPreview:
    """What latents look like, for the price of one small matrix.

    A latent's channels are nearly linear in the colours of the patch they stand for. The map is fitted once,
    when the engine starts, on made-up images that the model's own VAE encodes, so every VAE gets the one that
    suits it. `weight` is (C + 1, 3): channels and a constant, to [-1, 1].
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    @staticmethod
    @torch.no_grad()
    def fit(vae: AutoencoderKL, device: torch.device | str = "cpu") -> LatentPreview:
        """Least squares from latents to the mean colour of their patches."""
        images = _made_up_images()  # (B, 3, H, W)
        latents = (
            latent_space.draw(vae, latent_space.encode(vae, to_device(images, device)), "mode").float().cpu()
        )
        colours = F.interpolate(images, size=latents.shape[-2:], mode="area")
        rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        rows = torch.cat([rows, torch.ones(len(rows), 1)], dim=1)
        targets = colours.permute(0, 2, 3, 1).reshape(-1, 3)
        # A ridge keeps the map finite where a VAE's channels are copies of each other.
        gram = rows.T @ rows + 1e-3 * len(rows) * torch.eye(rows.shape[1])
        return LatentPreview(torch.linalg.solve(gram, rows.T @ targets))

    def __call__(self, latents: Tensor) -> Image.Image:
        """A picture of latents (C, h, w), 4 h high and 4 w wide: half the size of what is drawn."""
        values = latents.detach().float().cpu()
        colours = torch.einsum("chw,ck->hwk", values, self.weight[:-1]) + self.weight[-1]
        pixels = (127.5 * colours + 128).nan_to_num(128).clamp(0, 255).to(torch.uint8).numpy()
        size = (pixels.shape[1] * _ENLARGE, pixels.shape[0] * _ENLARGE)
        return Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)


def _made_up_images() -> Tensor:
    """Smooth random colours, half of them with a hard-edged box: (B, 3, H, W) in [-1, 1], always the same."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(_COUNT, 3, 4, 4, generator=generator) * 2 - 1
    images = F.interpolate(coarse, size=(_SIDE, _SIDE), mode="bilinear", align_corners=True)
    boxes = torch.rand(_COUNT, 3, 1, 1, generator=generator) * 2 - 1
    images[: _COUNT // 2, :, _SIDE // 4 : _SIDE // 2, _SIDE // 4 : 3 * _SIDE // 4] = boxes[: _COUNT // 2]
    return images
