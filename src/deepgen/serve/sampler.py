"""One step for many pictures at once, each at its own place in its own schedule.

The pipeline draws a batch from first to last step. Here the batch may be another at every step: a sample
carries its latents, its schedule and how far it is, so samples of 20 and of 50 steps, begun at different
times, share a forward, whatever solver each follows. The arithmetic of each is that of
`DeepGenPipeline.denoise` with its preset, in the same order; what may differ is the rounding of matrix
products of another batch size.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from deepgen.arguments import usual_guidance
from deepgen.data.pixels import resize_pixels, to_output
from deepgen.diffusion.guidance import Guidance
from deepgen.diffusion.presets import Preset, get_preset
from deepgen.diffusion.schedule import check_guidance, check_num_steps
from deepgen.masking import KeptLatents, KeptPixels
from deepgen.models import vae as latent_space
from deepgen.models.vlm import PIXELS_PER_TOKEN
from deepgen.pipeline import DeepGenPipeline
from deepgen.prompt_text import check_prompt
from deepgen.serve.adapters import LoraShelf
from deepgen.serve.jobs import DrawRequest, JobFacts, ModelFacts
from deepgen.types import Condition

# B samples of a batch, C latent channels, h w latent size

BatchKey = tuple[Any, ...]

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
        lora: the name of the adapter it is drawn with; None: without.
        kept: with a mask, what the result keeps of the first reference.
        facts: what the one who asked is told.
    """

    prompt: str
    negative_prompt: str
    size: tuple[int, int]
    final_size: tuple[int, int] | None
    pixels: list[Tensor]
    num_steps: int
    guidance_scale: float
    preset: Preset
    kept: KeptPixels | None
    facts: JobFacts
    lora: str | None = None

    @property
    def is_guided(self) -> bool:
        """Whether there is a negative branch."""
        return self.guidance_scale > 1


@dataclass(frozen=True)
class Conditions:
    """What the models made of a request, once for all its pictures; rows are 1."""

    positive: Condition
    negative: Condition | None
    kept: KeptLatents | None


@dataclass(frozen=True)
class Schedule:
    """The way from noise to a picture, for all pictures of a preset, a size and a number of steps.

    Attributes:
        timesteps: 1000 * sigma of each step, float32 (num_steps,).
        sigmas: the same and the last 0, float32 (num_steps + 1,).
        has_both: whether the negative branch runs at a step, where there is one.
        solver: one with memory, before its first step; None: Euler's.
    """

    timesteps: Tensor
    sigmas: Tensor
    has_both: list[bool]
    solver: Any | None


@dataclass(eq=False)
class Sample:
    """A picture that is being drawn."""

    plan: Plan
    conditions: Conditions
    latents: Tensor  # (C, h, w)
    noise: Tensor  # what it began as, (C, h, w)
    references: list[Tensor]  # (C, h, w) each
    schedule: Schedule
    solver: Any | None  # its own, with what it remembers
    guidance: Guidance | None  # with the last difference of both branches
    step: int = 0
    expected: Tensor | None = field(default=None, repr=False)  # the clean latents its last velocity points at

    @property
    def is_done(self) -> bool:
        """Whether every step is taken."""
        return self.step == self.plan.num_steps

    @property
    def runs_both(self) -> bool:
        """Whether its next step takes both branches of guidance."""
        return self.plan.is_guided and not self.is_done and self.schedule.has_both[self.step]

    @property
    def batch_key(self) -> BatchKey:
        """Samples that agree in this can share a forward."""
        height, width = self.latents.shape[-2:]
        return height, width, len(self.references), self.runs_both, self.plan.lora

    @property
    def exact_key(self) -> BatchKey:
        """Samples that agree in this can share a forward whose shapes do not tell one from another."""
        shapes = tuple(tuple(reference.shape) for reference in self.references)
        return *self.batch_key, shapes, self.text_length

    @property
    def text_length(self) -> int:
        """What the condition is padded to in an exact batch, tokens: longer than it is, in coarse steps."""
        both = [self.conditions.positive, self.conditions.negative]
        longest = max(c.prompt_embeds.shape[1] for c in both if c is not None)
        return (longest // _TEXT_UNIT + 1) * _TEXT_UNIT


class Sampler:
    """The pipeline's parts, called by the step. Only `plan` may be called from several threads.

    Args:
        pipe: a pipeline that nobody else uses.
        loras: name -> adapters that requests may ask for.
        preset: of requests that name none.

    Raises:
        ValueError: the preset is unknown, the solver is not Euler, or the DiT keeps a cache from step to
            step, which a batch that changes between steps would mix up.
    """

    def __init__(
        self, pipe: DeepGenPipeline, loras: Mapping[str, str] | None = None, preset: str = "exact"
    ) -> None:
        scheduler = pipe.scheduler
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler) or scheduler.config.stochastic_sampling:
            raise ValueError(
                f"serving needs the deterministic euler solver, got {type(scheduler).__name__}; "
                "leave out --scheduler"
            )
        if pipe.transformer.is_cache_enabled:
            raise ValueError("serving changes the batch between steps; disable the DiT's cache first")
        self.pipe, self._preset = pipe, get_preset(preset)
        self.loras = LoraShelf(pipe, loras or {})
        self._scheduler = copy.deepcopy(scheduler)
        # A copy with a lock: a fast tokenizer that is used by two threads at once raises an error.
        self._tokenizer, self._counting = copy.deepcopy(pipe.tokenizer), threading.Lock()
        self._schedules: dict[tuple[str, int, int], Schedule] = {}

    @property
    def facts(self) -> ModelFacts:
        """What is told about the model."""
        unit = self.pipe.size_unit
        side = self.pipe.transformer.config.pos_embed_max_size * unit
        return ModelFacts(
            defaults=self.pipe.defaults,
            size_unit=unit,
            max_side=side,
            loras=tuple(self.loras.names),
            preset=self._preset.name,
        )

    def plan(self, request: DrawRequest) -> Plan:
        """Make every choice and check every value; ValueError names what is wrong. No model runs."""
        check_prompt(request.prompt, "prompt")
        self.loras.check(request.lora)
        defaults = self.pipe.defaults
        preset = self._preset if request.preset is None else get_preset(request.preset)
        num_steps = request.num_steps
        if num_steps is None:
            num_steps = self.facts.usual_steps(preset.name)
        guidance_scale = request.guidance_scale
        if guidance_scale is None:
            guidance_scale = usual_guidance(defaults, is_edit=bool(request.images))
        check_num_steps(num_steps)
        check_guidance(guidance_scale)
        references = [list(request.images)] if request.images else None
        sizes, pixels = self.pipe.plan(references, 1, request.height, request.width)
        final_size = None
        if references is not None and request.height is None and request.width is None:
            source = (request.images[0].height, request.images[0].width)
            final_size = None if source == sizes[0] else source
        with self._counting:
            (prompt,), cuts = self.pipe.fit_prompts([request.prompt], pixels, tokenizer=self._tokenizer)
            (negative,), more = self.pipe.fit_prompts(
                [request.negative_prompt], pixels, "negative_prompt", self._tokenizer
            )
            num_text_tokens = len(self._tokenizer(prompt).input_ids)
        unit = self.pipe.size_unit
        facts = JobFacts(
            size=final_size or sizes[0],
            drawn_size=sizes[0],
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            preset=preset.name,
            num_text_tokens=num_text_tokens,
            num_reference_tokens=sum(
                (x.shape[-2] // PIXELS_PER_TOKEN) * (x.shape[-1] // PIXELS_PER_TOKEN)
                for x in (pixels[0] if pixels else [])
            ),
            num_picture_tokens=(sizes[0][0] // unit) * (sizes[0][1] // unit),
            prompt_cuts=(*cuts, *(more if guidance_scale > 1 else ())),
            world_warnings=tuple(self.pipe.prompt_warnings(request.prompt, is_edit=bool(request.images))),
        )
        return Plan(
            prompt=prompt,
            negative_prompt=negative,
            size=sizes[0],
            final_size=final_size,
            pixels=[] if pixels is None else pixels[0],
            num_steps=num_steps,
            guidance_scale=guidance_scale,
            preset=preset,
            kept=None if request.mask is None else _kept_pixels(request, final_size or sizes[0]),
            facts=facts,
            lora=request.lora,
        )

    @torch.no_grad()
    def encode(self, plan: Plan) -> Conditions:
        """Run the VLM and the connector on a request, and the VAE on what a mask keeps."""
        self.loras.use(plan.lora)
        pixels = [plan.pixels] if plan.pixels else None
        positive, negative = self.pipe.encode_prompt(
            plan.prompt, plan.negative_prompt, pixels, guided=plan.is_guided
        )
        dtype, kept = self.pipe.transformer.dtype, None
        if plan.kept is not None:
            kept = plan.kept.latents(self.pipe.vae, plan.size, dtype, self.pipe._execution_device)
        return Conditions(positive, negative, kept)

    @torch.no_grad()
    def begin(self, plan: Plan, conditions: Conditions, seed: int) -> Sample:
        """A picture before its first step; noise and references depend on the seed alone, as in the
        pipeline.
        """
        generator = torch.Generator().manual_seed(seed)
        dtype, device = self.pipe.transformer.dtype, self.pipe._execution_device
        noise = self.pipe.prepare_latents(*plan.size, [generator], dtype, device)[0]
        references = []
        if plan.pixels:
            references = self.pipe.prepare_references([plan.pixels], [generator], dtype)[0]
        schedule = self._schedule(plan.preset, plan.num_steps, noise)
        solver = copy.deepcopy(schedule.solver)
        latents = noise if solver is None else noise.float()  # solvers with memory compute in what they get
        guidance = Guidance(plan.guidance_scale) if plan.is_guided else None
        return Sample(plan, conditions, latents, noise, references, schedule, solver, guidance)

    def _schedule(self, preset: Preset, num_steps: int, latents: Tensor) -> Schedule:
        patches = latents.shape[-2] * latents.shape[-1] // self.pipe.transformer.config.patch_size**2
        key = preset.name, num_steps, patches
        if key not in self._schedules:
            if len(self._schedules) > 256:  # sizes and steps are the clients' choice, and they have many
                self._schedules.clear()
            solver, timesteps = preset.prepare(self._scheduler, num_steps, latents.device, patches)
            self._schedules[key] = Schedule(
                timesteps,
                solver.sigmas.to(latents.device, torch.float32),
                preset.guided(timesteps),
                None if preset.solver is None else solver,
            )
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
        velocities = self._velocities(samples, exact_batch)
        moved = [self._moved(sample, rows) for sample, rows in zip(samples, velocities, strict=True)]
        for sample, (latents, expected, solver, guidance) in zip(samples, moved, strict=True):
            sample.latents, sample.expected = latents, expected
            sample.solver, sample.guidance = solver, guidance
            sample.step += 1

    def _velocities(self, samples: list[Sample], exact_batch: int | None) -> list[Tensor]:
        """Of each sample, (branches, C, h, w)."""
        count = len(samples)
        text_length = None if exact_batch is None else samples[0].text_length
        if exact_batch is not None:
            samples = samples + samples[:1] * (exact_batch - count)
        runs_both, transformer = samples[0].runs_both, self.pipe.transformer
        self.loras.use(samples[0].plan.lora)
        positive = [sample.conditions.positive for sample in samples]
        negative = [
            sample.conditions.negative for sample in samples if sample.conditions.negative is not None
        ]
        condition = Condition.cat([*negative, *positive] if runs_both else positive).to(transformer.dtype)
        if text_length is not None:
            condition = _padded(condition, text_length)
        branches = 2 if runs_both else 1
        timestep = torch.stack([sample.schedule.timesteps[sample.step] for sample in samples])
        references = [sample.references for sample in samples] if samples[0].references else None
        velocities = transformer(
            hidden_states=torch.stack([x.latents.to(transformer.dtype) for x in samples] * branches),
            encoder_hidden_states=condition.prompt_embeds,
            pooled_projections=condition.pooled_prompt_embeds,
            timestep=torch.cat([timestep] * branches),
            reference_latents=None if references is None else references * branches,
            encoder_attention_mask=condition.mask,
            return_dict=False,
        )[0]  # (branches * B, C, h, w)
        return [velocities[index :: len(samples)] for index in range(count)]

    def _moved(self, sample: Sample, rows: Tensor) -> tuple[Tensor, Tensor, Any | None, Guidance | None]:
        """Latents after a step with these velocities, the clean latents they point at, and what the solver
        and guidance then remember.
        """
        solver, guidance = _copied(sample.solver), copy.copy(sample.guidance)
        if guidance is not None:
            rows = guidance(rows) if sample.runs_both else guidance.extend(rows)
        velocity = rows[0]
        sigma, sigma_next = sample.schedule.sigmas[sample.step], sample.schedule.sigmas[sample.step + 1]
        noisy = sample.latents.float()
        if solver is None:
            latents = (noisy + (sigma_next - sigma) * velocity).to(velocity.dtype)
        else:
            timestep = solver.timesteps[sample.step]
            latents = solver.step(velocity[None].float(), timestep, noisy[None], return_dict=False)[0][0]
        if sample.conditions.kept is not None:
            latents = sample.conditions.kept.keep(latents, sample.noise, sigma_next)
        return latents, noisy - sigma * velocity.float(), solver, guidance

    @torch.no_grad()
    def finish(self, sample: Sample) -> Image.Image:
        """The picture of a sample whose steps are all taken."""
        plan = sample.plan
        latents = sample.latents.to(self.pipe.transformer.dtype)
        pixels = latent_space.decode(self.pipe.vae, latents[None]).float()[0]
        if plan.final_size is not None:
            pixels = resize_pixels(pixels, plan.final_size)
        if plan.kept is not None:
            pixels = plan.kept.paste(pixels)
        return to_output([pixels], "pil")[0]


def _copied(solver: Any | None) -> Any | None:
    """A solver that can go on without moving the one it was; it replaces tensors and never writes into them.

    A deep copy would do, and take a tenth of a small model's step.
    """
    twin = copy.copy(solver)
    if twin is not None:
        vars(twin).update(
            {name: list(value) for name, value in vars(twin).items() if isinstance(value, list)}
        )
    return twin


def _padded(condition: Condition, length: int) -> Condition:
    """Rows of this many tokens, with a mask."""
    missing = length - condition.prompt_embeds.shape[1]
    mask = condition.mask
    if mask is None:
        mask = torch.ones(condition.prompt_embeds.shape[:2], dtype=torch.bool, device=condition.device)
    embeds = F.pad(condition.prompt_embeds, (0, 0, 0, missing))
    return Condition(embeds, condition.pooled_prompt_embeds, F.pad(mask, (0, missing)))


def _kept_pixels(request: DrawRequest, size: tuple[int, int]) -> KeptPixels:
    """What the result, of this size, keeps of the first reference."""
    if not request.images:
        raise ValueError("mask marks what may change in a picture; give the picture as well")
    assert request.mask is not None
    return KeptPixels.of(request.images[0], request.mask, size)
