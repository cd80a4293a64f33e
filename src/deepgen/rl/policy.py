"""The model as a policy: velocities under a condition, for the rollout and for the loss alike.

Both go through the same function with the same numbers, so a step scored again before the first update has
the log-prob it was drawn with. Conditions are made once a rollout and kept, unless something that makes them
is trained; a rollout also keeps what its steps share, in a way that changes no bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepgen.data.prompts import Prompt
from deepgen.generation import GenerationSettings
from deepgen.models import vae as latent_space
from deepgen.sampling.few_steps import KEY, read_few_steps
from deepgen.sampling.guided_inputs import GuidedInputs, guided_condition
from deepgen.sampling.schedule import set_timesteps
from deepgen.sampling.step_cache import StepCache, may_keep
from deepgen.sampling.velocity import guided_velocity
from deepgen.training.trained_pipeline import TrainedPipeline
from deepgen.transfer import to_device
from deepgen.types import Condition

# B images, T steps; C, h, w latent channels and sides


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt, ready for the DiT.

    Attributes:
        prompt: its text, references and rewards.
        size: (height, width) of what is drawn, pixels.
        pixels: its references for the VLM, (3, H, W) in [-1, 1] each; None for text to image.
        references: their clean latents (C, h, w).
        positive, negative: its condition, one row each; the negative is None without guidance.
    """

    prompt: Prompt
    size: tuple[int, int]
    pixels: list[Tensor] | None
    references: list[Tensor]
    positive: Condition
    negative: Condition | None


class Policy:
    """Velocities of the DiT.

    Args:
        pipe: the model.
        guidance_scale: above 1 runs the negative branch too, in rollout and loss; None is the model's own.
        is_condition_trained: connector or VLM learn, so a loss has to read the prompt again.
        has_reference: a reference is needed. It is the model with its adapters off where only adapters
            are trained, and otherwise a frozen copy of the DiT.
        device: where it computes.
    """

    def __init__(
        self,
        pipe: TrainedPipeline,
        *,
        guidance_scale: float | None,
        is_condition_trained: bool,
        has_reference: bool,
        device: torch.device,
    ) -> None:
        self.pipe, self.device = pipe, device
        self._guidance_scale = guidance_scale
        self.is_condition_trained = is_condition_trained
        self._reference: nn.Module | None = None
        is_adapted = bool(getattr(pipe.transformer, "peft_config", None))
        if has_reference and not is_adapted:
            self._reference = copy.deepcopy(pipe.transformer).requires_grad_(False).eval()

    def guidance_scale(self, is_edit: bool) -> float:
        """Weight of the prompt over the negative branch."""
        settings = GenerationSettings(guidance_scale=self._guidance_scale)
        return settings.resolve(self.pipe.defaults, is_edit).guidance_scale

    def encode(
        self,
        prompts: Sequence[Prompt],
        generators: Sequence[torch.Generator],
        height: int | None,
        width: int | None,
    ) -> list[EncodedPrompt]:
        """Sizes, conditions and reference latents of prompts.

        Args:
            prompts: any number, captions and instructions mixed.
            generators: one a prompt, for the posterior of its references.
            height: of what is drawn, pixels; default the model's own, or an edit's source's.
            width: as `height`.
        """
        encoded: dict[int, EncodedPrompt] = {}
        for is_edit in (False, True):
            rows = [n for n, prompt in enumerate(prompts) if bool(prompt.references) == is_edit]
            if not rows:
                continue
            shown = [list(prompts[n].references) for n in rows] if is_edit else None
            sizes, pixels = self.pipe.plan(shown, len(rows), height, width)
            texts = [prompts[n].text for n in rows]
            guided = self.guidance_scale(is_edit) > 1
            positive, negative = self.pipe.encode_prompt(texts, pixels=pixels, guided=guided)
            latents: list[list[Tensor]] = [[] for _ in rows]
            if pixels is not None:
                own = [generators[n] for n in rows]
                latents = self.pipe.prepare_references(pixels, own, self.pipe.transformer.dtype)
            for place, n in enumerate(rows):
                encoded[n] = EncodedPrompt(
                    prompts[n],
                    sizes[place],
                    None if pixels is None else pixels[place],
                    latents[place],
                    positive.select([place]),
                    None if negative is None else negative.select([place]),
                )
        return [encoded[n] for n in range(len(prompts))]

    def encode_again(self, prompts: Sequence[EncodedPrompt]) -> list[EncodedPrompt]:
        """The same prompts with conditions that carry gradient."""
        first = prompts[0]
        pixels = None if first.pixels is None else [one.pixels or [] for one in prompts]
        texts = [one.prompt.text for one in prompts]
        guided = self.guidance_scale(is_edit=pixels is not None) > 1
        positive, negative = self.pipe.encode_prompt(texts, pixels=pixels, guided=guided)
        return [
            replace(
                one,
                positive=positive.select([n]),
                negative=None if negative is None else negative.select([n]),
            )
            for n, one in enumerate(prompts)
        ]

    def velocity(
        self,
        prompts: Sequence[EncodedPrompt],
        rows: Sequence[int],
        noisy: Tensor,
        sigma: Tensor,
        *,
        by_reference: bool = False,
        network: Any = None,
    ) -> Tensor:
        """Velocities (B, C, h, w) of B images, image k being of `prompts[rows[k]]`.

        Args:
            prompts: all with references or all without.
            rows: which prompt each image is of.
            noisy: latents (B, C, h, w).
            sigma: their noise levels, (B,).
            by_reference: of the frozen reference instead of the policy.
            network: of this DiT instead.
        """
        if network is not None:
            return self._guided(network, prompts, self._inputs(prompts, rows), noisy, sigma, 0)
        with self._network(by_reference) as own:
            return self._guided(own, prompts, self._inputs(prompts, rows), noisy, sigma, 0)

    def rollout_velocity(
        self, prompts: Sequence[EncodedPrompt], rows: Sequence[int], sigmas: Tensor
    ) -> Callable[[Tensor, Tensor], Tensor]:
        """The velocity of a rollout, bit for bit that of `velocity`, which keeps what its steps share.

        Args:
            prompts: see `velocity`.
            rows: see `velocity`.
            sigmas: noise levels of the steps in their order, float32 (T + 1,).

        Returns:
            (noisy (B, C, h, w), sigma (B,)) to velocities (B, C, h, w), to be called once a step.
        """
        timesteps = to_device(sigmas[:-1] * self._num_train_timesteps, self.device)  # (T,)
        inputs, steps = self._inputs(prompts, rows, timesteps), count()

        def velocity(noisy: Tensor, sigma: Tensor) -> Tensor:
            return self._guided(self.pipe.transformer, prompts, inputs, noisy, sigma, next(steps))

        return velocity

    def _inputs(
        self, prompts: Sequence[EncodedPrompt], rows: Sequence[int], timesteps: Tensor | None = None
    ) -> GuidedInputs:
        """What the DiT is given besides latents; with the timesteps (T,) of a run, a cache for its steps."""
        positive = Condition.cat([one.positive for one in prompts]).select(rows)
        negatives = [one.negative for one in prompts if one.negative is not None]
        negative = Condition.cat(negatives).select(rows) if negatives else None
        make_cache = None
        if timesteps is not None and may_keep(self.pipe.transformer, is_exact=True):
            make_cache = partial(StepCache, timesteps, is_exact=True)
        return GuidedInputs(
            guided_condition(positive, negative, self.pipe.transformer.dtype),
            [prompts[row].references for row in rows] if prompts[0].references else None,
            1 if negative is None else 2,
            make_cache,
        )

    def _guided(
        self,
        network: Any,
        prompts: Sequence[EncodedPrompt],
        inputs: GuidedInputs,
        noisy: Tensor,
        sigma: Tensor,
        step: int,
    ) -> Tensor:
        guidance_scale = self.guidance_scale(is_edit=bool(prompts[0].references))
        timestep = sigma * self._num_train_timesteps  # (B,)
        return guided_velocity(network, inputs, noisy, timestep, guidance_scale, step)

    @property
    def _num_train_timesteps(self) -> int:
        return self.pipe.scheduler.config.num_train_timesteps

    @contextmanager
    def _network(self, by_reference: bool) -> Iterator[Any]:
        """The DiT, or its reference."""
        if not by_reference:
            yield self.pipe.transformer
        elif self._reference is not None:
            yield self._reference
        else:
            self.pipe.transformer.disable_adapters()
            try:
                yield self.pipe.transformer
            finally:
                self.pipe.transformer.enable_adapters()

    def sigmas(self, num_steps: int, latent_size: tuple[int, int]) -> Tensor:
        """Noise levels of a rollout, float32 (num_steps + 1,), from 1 to 0, on the host; of a distilled model
        its own.

        Raises:
            ValueError: the model was distilled, and not for so many steps.
        """
        tokens = latent_size[0] * latent_size[1] // self.pipe.transformer.config.patch_size**2
        levels, made_for = None, read_few_steps(self.pipe.defaults.get(KEY), "the model's defaults")
        if made_for is not None and made_for.lora is None:
            schedule = made_for.schedule(num_steps)
            if schedule.timestep_offset:
                raise ValueError(
                    f"a rollout of a distilled model takes {made_for.usual_steps} steps, got {num_steps}"
                )
            levels = np.array(schedule.sigmas, np.float32)
        set_timesteps(self.pipe.scheduler, num_steps, num_tokens=tokens, sigmas=levels)
        return self.pipe.scheduler.sigmas.to("cpu", torch.float32)

    def decode(self, clean: Tensor) -> Tensor:
        """Pixels (B, 3, H, W), nominally in [-1, 1]."""
        return latent_space.decode(self.pipe.vae, clean).float()
