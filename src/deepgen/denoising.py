"""The denoising loop of a pipeline's call, and its callbacks as in diffusers.

What a callback or a caching technique asks of a pipeline (`current_timestep`, `guidance_scale`,
`num_timesteps`, `interrupt`, ...) are properties of the run under way, kept here as diffusers' own pipelines
keep them, so its official callbacks may set `_guidance_scale` and `_interrupt`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from deepgen.checkpoints.memory import dit_values, free_bytes
from deepgen.masking import KeptLatents
from deepgen.models import caches
from deepgen.models.adapter_scale import read_scale, scaled
from deepgen.models.dit import DeepGenTransformer2DModel
from deepgen.sampling import ode
from deepgen.sampling.guidance import Guidance
from deepgen.sampling.guided_inputs import GuidedInputs, guided_condition
from deepgen.sampling.ode import SamplingState
from deepgen.sampling.presets import PRESETS, Preset
from deepgen.sampling.solvers import choose_solver
from deepgen.sampling.step_cache import StepCache, may_keep
from deepgen.sampling.velocity import GuidedVelocity
from deepgen.transfer import to_device
from deepgen.types import Condition

if TYPE_CHECKING:
    from deepgen.sampling.parallel import GuidanceExchange, Parallel

GuidanceBatching = Literal["auto", "batched", "split"]
Callback = Callable[..., dict[str, Any] | None]

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
    _distilled_adapters: Any
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
        solver: str | None = None,
    ) -> Tensor:
        """Follow the flow from noise to clean latents, (B, C, h, w) both.

        Args:
            latents: noise.
            positive: condition of every sample.
            negative: condition of the unguided branch; None runs one branch only.
            reference_latents: per sample, its references.
            num_inference_steps: solver steps.
            guidance_scale: weight of the positive branch over the negative.
            preset: solver, spacing of its steps, and where the negative branch may be skipped.
            sigmas: noise levels of the steps before the scheduler's shift, falling, in (0, 1].
            guidance_batching: "batched" runs both branches in one call of the DiT, "split" one after the
                other, in about half the working memory; "auto" splits where both do not fit into the memory
                that is free as the run begins.
            joint_attention_kwargs: `{"scale": s}` runs the DiT with its LoRAs at s times their strength, but
                for a student of few steps.
            callback_on_step_end: called as `callback(pipeline, step, timestep, tensors)` after each step; the
                tensors it returns replace the loop's. It may set `_guidance_scale` and `_interrupt`.
            callback_on_step_end_tensor_inputs: which of `_callback_tensor_inputs` it is given, unless it has
                `tensor_inputs` of its own.
            kept: of each sample, what a mask keeps of its source.
            solver: name of a solver instead of the pipeline's scheduler, where the preset chooses none.
        """
        guidance_scale = guidance_scale if negative is not None else min(guidance_scale, 1.0)
        condition = guided_condition(positive, negative, self.transformer.dtype)
        is_split = self._is_split(guidance_batching, latents, condition, reference_latents, negative is None)
        state, timesteps = self._begin(
            latents, condition, reference_latents, preset, num_inference_steps, sigmas, guidance_scale, solver
        )
        state.kept = kept
        velocity = GuidedVelocity(self.transformer, is_split=is_split, exchange=self._exchange)
        self._guidance_scale, self._num_timesteps = guidance_scale, len(state.timesteps)
        self._reset_caches()  # of a run that an error ended
        self._joint_attention_kwargs = joint_attention_kwargs
        scale, students = read_scale(joint_attention_kwargs), self._distilled_adapters
        adapters = scaled([self.transformer], scale, kept=students)
        try:
            with adapters, self._kept_memory(), self.progress_bar(total=len(state.timesteps)) as progress:
                while not state.is_done and not self._interrupt:
                    step = state.step
                    self._current_timestep = timesteps[step]
                    self._check_guidance(state)
                    ode.step([state], velocity)
                    if callback_on_step_end is not None:
                        self._call_back(callback_on_step_end, callback_on_step_end_tensor_inputs, step, state)
                    progress.update()
        finally:
            self._current_timestep = self._joint_attention_kwargs = None
            self._reset_caches()
        return state.latents.to(latents.dtype) if state.is_float32 else state.latents  # (B, C, h, w)

    def _begin(
        self,
        latents: Tensor,
        condition: Condition,
        references: Sequence[Sequence[Tensor]] | None,
        preset: Preset,
        num_inference_steps: int,
        sigmas: Sequence[float] | None,
        guidance_scale: float,
        solver_name: str | None,
    ) -> tuple[SamplingState, Tensor]:
        """A run of all samples before its first step, and its timesteps on the host, where callbacks
        and caches compare them; condition rows are [negative, positive] or positive.
        """
        patches = (latents.shape[-2] * latents.shape[-1]) // self.transformer.config.patch_size**2
        scheduler = choose_solver(solver_name, self.scheduler)
        solver, levels = preset.prepare(scheduler, num_inference_steps, None, patches, sigmas)
        has_both, timesteps = preset.guided(levels), to_device(levels, latents.device)
        if caches.without_contexts(self.transformer) is not None:
            has_both = [True] * len(timesteps)
        make_cache = partial(StepCache, timesteps) if may_keep(self.transformer) else None
        state = SamplingState(
            latents=latents,
            timesteps=timesteps,
            solver=solver,
            inputs=GuidedInputs(condition, references, len(condition) // len(latents), make_cache),
            guidance=Guidance(guidance_scale),
            has_both=has_both,
            is_float32=preset.solver is not None,
        )
        return state, levels

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

    def _check_guidance(self, state: SamplingState) -> None:
        """Take over guidance for the next step, which a callback may have changed. ValueError where it
        cannot be.
        """
        assert state.inputs is not None
        assert state.guidance is not None
        state.guidance.guidance_scale = self._guidance_scale
        if state.is_guided and state.inputs.num_branches == 1:
            raise ValueError(
                f"guidance_scale became {self._guidance_scale} and there is no negative branch: begin with "
                "guidance above 1, and let a callback that drops the negative rows set _guidance_scale to 0"
            )
        caches.check_run(self.transformer, state.is_guided)

    def _call_back(self, callback: Callback, names: Sequence[str], step: int, state: SamplingState) -> None:
        """Let a callback see and replace tensors after a step."""
        assert state.inputs is not None
        was_guided = self.do_classifier_free_guidance
        known = {"latents": state.latents, **state.inputs.embeds}
        given = {name: known[name] for name in getattr(callback, "tensor_inputs", names)}
        known.update(callback(self, step, self._current_timestep, given) or {})
        state.inputs.replace(known["prompt_embeds"], known["pooled_prompt_embeds"])
        state.latents = known["latents"]
        if was_guided != self.do_classifier_free_guidance and caches.without_contexts(self.transformer):
            self._reset_caches()  # what was kept is of another number of rows

    def _fits(
        self, latents: Tensor, condition: Condition, references: Sequence[Sequence[Tensor]] | None
    ) -> bool:
        """Whether what the DiT computes with for both branches fits into the memory that is free."""
        images = [latents[0], *(max(references, key=len) if references else [])]
        patches = sum(x.shape[-2] * x.shape[-1] for x in images) // self.transformer.config.patch_size**2
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
        from deepgen.sampling.parallel import divide

        if self.is_divided:
            raise ValueError("pictures are divided already; how cannot be changed in the same process")
        self._exchange = divide(self.transformer, how)

    @property
    def is_divided(self) -> bool:
        """Whether several processes draw a picture together."""
        return self._exchange is not None or self.transformer._parallel_config is not None
