"""From noise to clean latents: the loop of a pipeline's call, and what diffusers' callbacks see of it.

What a callback or a caching technique asks of a pipeline (`current_timestep`, `guidance_scale`,
`num_timesteps`, `interrupt`, ...) are properties of the run under way, kept here as diffusers' own pipelines
keep them, so its official callbacks may set `_guidance_scale` and `_interrupt`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from deepgen.diffusion.guidance import Guidance
from deepgen.diffusion.presets import PRESETS, Preset
from deepgen.masking import KeptLatents
from deepgen.models import caches
from deepgen.models.adapter_scale import read_scale, scaled
from deepgen.models.branches import Branches, Rows
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.models.memory import dit_values, free_bytes
from deepgen.models.trajectory import may_keep
from deepgen.types import Condition

if TYPE_CHECKING:
    from deepgen.models.parallel import GuidanceExchange, Parallel

GuidanceBatching = Literal["auto", "batched", "split"]
Callback = Callable[..., dict[str, Any] | None]
_CACHE_CONTEXTS: dict[Rows, str] = {"both": "guided", "negative": "negative", "positive": "positive"}

# B samples, C latent channels, h w latent size


class Interrupt(int):
    """Whether a run was asked to stop: a truth value, as in diffusers, that still answers when it is called
    as the method it once was.
    """

    def __new__(cls, pipe: DenoisingMixin) -> Interrupt:
        flag = super().__new__(cls, pipe._interrupt)
        flag._stop = pipe.stop
        return flag

    def __call__(self) -> None:
        warnings.warn(
            "pipe.interrupt is a property, as in diffusers: call pipe.stop(), or set pipe._interrupt = True",
            FutureWarning,
            stacklevel=2,
        )
        self._stop()

    def __repr__(self) -> str:
        return repr(bool(self))


class DenoisingMixin:
    """The solver loop, guidance and callbacks of a pipeline with `transformer` and `scheduler`."""

    _callback_tensor_inputs = ["latents", "prompt_embeds", "pooled_prompt_embeds"]

    transformer: DeepGenTransformer2DModel
    scheduler: Any
    progress_bar: Callable[..., AbstractContextManager[Any]]
    _kept_memory: Callable[[], AbstractContextManager[None]]

    _interrupt: bool = False
    _guidance_scale: float = 1.0
    _num_timesteps: int = 0
    _current_timestep: Tensor | None = None
    _joint_attention_kwargs: dict[str, Any] | None = None
    _exchange: GuidanceExchange | None = None

    # --- the run under way ----------------------------------------------------------------------------------

    @property
    def guidance_scale(self) -> float:
        """Weight of the positive branch over the negative, of the run under way or the last one."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the next step is guided."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Model calls of the run under way or the last one; 0 before the first."""
        return self._num_timesteps

    @property
    def current_timestep(self) -> Tensor | None:
        """1000 * sigma of the step under way; None between runs."""
        return self._current_timestep

    @property
    def joint_attention_kwargs(self) -> dict[str, Any] | None:
        """What the call under way was given under this name; None between calls."""
        return self._joint_attention_kwargs

    @property
    def interrupt(self) -> bool:
        """Whether the run was asked to stop after its current step, by `stop()` or `_interrupt = True`."""
        return Interrupt(self)  # pyright: ignore[reportReturnType]

    def stop(self) -> None:
        """Stop after the current step; the call returns the pictures it has begun, with their seeds.

        Safe from a callback or another thread.
        """
        self._interrupt = True

    # --- the loop -------------------------------------------------------------------------------------------

    def denoise(
        self,
        latents: Tensor,
        positive: Condition,
        negative: Condition | None = None,
        reference_latents: Sequence[Sequence[Tensor]] | None = None,
        *,
        num_inference_steps: int = 50,
        guidance_scale: float = 4.0,
        preset: Preset = PRESETS["exact"],
        sigmas: Sequence[float] | None = None,
        guidance_batching: GuidanceBatching = "auto",
        joint_attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        kept: Sequence[KeptLatents] | None = None,
    ) -> Tensor:
        """Follow the flow from noise to clean latents, (B, C, h, w) both.

        Args:
            latents: noise.
            positive: condition of every sample.
            negative: condition of the unguided branch; None runs one branch only.
            reference_latents: per sample, its references.
            num_inference_steps: solver steps.
            guidance_scale: weight of the positive branch over the negative.
            preset: solver, spacing of its steps, and where the negative branch may rest.
            sigmas: noise levels of the steps before the scheduler's shift, falling, in (0, 1].
            guidance_batching: "batched" runs both branches in one call of the DiT, "split" one after the
                other, in about half the working memory; "auto" splits where both do not fit into the memory
                that is free as the run begins.
            joint_attention_kwargs: `{"scale": s}` runs the DiT with its LoRAs at s times their strength.
            callback_on_step_end: called as `callback(pipeline, step, timestep, tensors)` after each step; the
                tensors it returns replace the loop's. It may set `_guidance_scale` and `_interrupt`.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it is given, unless it has
                `tensor_inputs` of its own.
            kept: of each sample, what a mask keeps of its source.
        """
        patches = (latents.shape[-2] * latents.shape[-1]) // self.transformer.config.patch_size**2
        scheduler, timesteps = preset.prepare(
            self.scheduler, num_inference_steps, latents.device, patches, sigmas
        )
        self._guidance_scale = guidance_scale if negative is not None else min(guidance_scale, 1.0)
        self._num_timesteps = len(timesteps)
        has_both, dtype, noise = preset.guided(timesteps), latents.dtype, latents
        if caches.without_contexts(self.transformer) is not None:
            has_both = [True] * len(timesteps)
        if preset.solver is not None:
            latents = latents.float()  # solvers with memory compute in what they are given; Euler in float32
        condition = positive if negative is None else Condition.cat([negative, positive])
        condition = condition.to(self.transformer.dtype)  # parts may differ, one quantised and one not
        is_split = self._is_split(guidance_batching, latents, condition, reference_latents, negative is None)
        branches = Branches(
            condition,
            reference_latents,
            count=1 if negative is None else 2,
            timesteps=timesteps if may_keep(self.transformer) else None,
        )
        guidance = Guidance(guidance_scale)
        self._reset_caches()  # of a run that an error ended
        self._joint_attention_kwargs = joint_attention_kwargs
        adapters = scaled([self.transformer], read_scale(joint_attention_kwargs))
        try:
            with adapters, self._kept_memory(), self.progress_bar(total=len(timesteps)) as progress:
                for step, timestep in enumerate(timesteps):
                    if self._interrupt:
                        break
                    self._current_timestep = timestep
                    is_guided = self._check_guidance(branches)
                    needs_both = is_guided and (has_both[step] or not guidance.has_difference)
                    rests = branches.count == 2 and not needs_both
                    velocity = self._velocity(latents, timestep, branches, step, rests, is_split)
                    if is_guided:
                        guidance.guidance_scale = self._guidance_scale
                        velocity = guidance.extend(velocity) if rests else guidance(velocity)
                    if preset.solver is not None:
                        velocity = velocity.float()
                    (latents,) = scheduler.step(
                        velocity, scheduler.timesteps[step], latents, return_dict=False
                    )[:1]
                    if kept is not None:
                        sigma, rows = scheduler.sigmas[step + 1], zip(kept, latents, noise, strict=True)
                        latents = torch.stack([one.keep(after, before, sigma) for one, after, before in rows])
                    if callback_on_step_end is not None:
                        latents = self._call_back(
                            callback_on_step_end,
                            callback_on_step_end_tensor_inputs,
                            (step, timestep, latents),
                            branches,
                        )
                    progress.update()
        finally:
            self._current_timestep = self._joint_attention_kwargs = None
            self._reset_caches()
        return latents if preset.solver is None else latents.to(dtype)

    def _is_split(
        self,
        guidance_batching: GuidanceBatching,
        latents: Tensor,
        condition: Condition,
        references: Sequence[Sequence[Tensor]] | None,
        is_alone: bool,
    ) -> bool:
        """Whether the branches run one after the other; checks whether they may."""
        if self._exchange is not None and is_alone:
            raise ValueError("guidance is divided among processes and this call has none; guide it above 1")
        if guidance_batching not in ("auto", "batched", "split"):
            raise ValueError(f"unknown guidance_batching {guidance_batching!r}; known: auto, batched, split")
        if is_alone:
            return False
        if technique := caches.without_contexts(self.transformer):
            if guidance_batching == "split" or (self._exchange is not None and technique == "FasterCache"):
                raise ValueError(
                    f"{technique} reads both branches of guidance in one call, and they are split; "
                    "give guidance_batching='batched' on one process, or transformer.disable_cache()"
                )
            return False
        if guidance_batching == "auto":
            return not self._fits(latents, condition, references)
        return guidance_batching == "split"

    def _check_guidance(self, branches: Branches) -> bool:
        """Whether this step is guided, which a callback may have changed. ValueError where it cannot be."""
        is_guided = self.do_classifier_free_guidance
        if is_guided and branches.count == 1:
            raise ValueError(
                f"guidance_scale became {self._guidance_scale} and there is no negative branch: begin with "
                "guidance above 1, and let a callback that drops the negative rows set _guidance_scale to 0"
            )
        caches.check_run(self.transformer, is_guided)
        return is_guided

    def _call_back(
        self,
        callback: Callback,
        names: Sequence[str],
        state: tuple[int, Tensor, Tensor],
        branches: Branches,
    ) -> Tensor:
        """Let a callback see and replace tensors after a step; the latents to go on with."""
        step, timestep, latents = state
        was_guided = self.do_classifier_free_guidance
        known = {"latents": latents, **branches.embeds}
        given = {name: known[name] for name in getattr(callback, "tensor_inputs", names)}
        known.update(callback(self, step, timestep, given) or {})
        branches.replace(known["prompt_embeds"], known["pooled_prompt_embeds"])
        if was_guided != self.do_classifier_free_guidance and caches.without_contexts(self.transformer):
            self._reset_caches()  # what was kept is of another number of rows
        return known["latents"]

    def _velocity(
        self,
        latents: Tensor,
        timestep: Tensor,
        branches: Branches,
        step: int,
        rests: bool,
        is_split: bool,
    ) -> Tensor:
        """Velocities of all rows at a step, or of the positive ones where the negative branch rests."""
        exchange = None if rests or branches.count == 1 else self._exchange
        passes: tuple[Rows, ...] = ("both",)  # without guidance these are the positive rows
        if rests or (is_split and branches.count == 2):
            passes = ("positive",) if rests else ("negative", "positive")
        if exchange is not None:
            passes = (exchange.rows,)
        velocities = []
        for rows in passes:
            noisy = torch.cat([latents] * (branches.count if rows == "both" else 1))
            given = {name: value for name, value in branches.inputs(step, rows).items() if value is not None}
            with self.transformer.cache_context(_CACHE_CONTEXTS[rows]):
                velocities += self.transformer(
                    hidden_states=noisy.to(branches.embeds["prompt_embeds"].dtype),
                    timestep=timestep.expand(len(noisy)),
                    return_dict=False,
                    **given,
                )
        velocity = torch.cat(velocities)
        return velocity if exchange is None else exchange(velocity)

    def _fits(
        self, latents: Tensor, condition: Condition, references: Sequence[Sequence[Tensor]] | None
    ) -> bool:
        """Whether what the DiT computes with for both branches fits into the memory that is free."""
        pictures = [latents[0], *(max(references, key=len) if references else [])]
        patches = sum(x.shape[-2] * x.shape[-1] for x in pictures) // self.transformer.config.patch_size**2
        values = dit_values(self.transformer, len(condition) * (patches + condition.prompt_embeds.shape[1]))
        return values * condition.prompt_embeds.element_size() <= free_bytes(latents.device.type)

    def _reset_caches(self) -> None:
        """Forget what caching hooks kept of a run."""
        if self.transformer.is_cache_enabled or caches.without_contexts(self.transformer):
            self.transformer._reset_stateful_cache()

    # --- several processes ----------------------------------------------------------------------------------

    def divide(self, how: Parallel) -> None:
        """Draw every picture from now on with all processes `torchrun` started, each of which makes the same
        calls with the same seeds and ends with the same pictures.

        Args:
            how: "guidance" gives its two branches to two processes; "context" divides the DiT's tokens among
                all; "both" does both, with four or more.

        Raises:
            ValueError: the number of processes does not fit, or the pictures are divided already.
        """
        from deepgen.models.parallel import divide

        if self.is_divided:
            raise ValueError("pictures are divided already; how cannot be changed in the same process")
        self._exchange = divide(self.transformer, how)

    @property
    def is_divided(self) -> bool:
        """Whether several processes draw a picture together."""
        return self._exchange is not None or self.transformer._parallel_config is not None
