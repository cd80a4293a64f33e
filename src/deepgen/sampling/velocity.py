"""The guided velocity: the one place that calls the DiT for drawing.

Rows of a call are [negative, positive]: what both branches of guidance share, latents, references and noise
level, is repeated for each, and they run in one call, because a DiT is faster on a batch of two than twice on
one. They may also run one after the other (less memory), on two processes, or the positive one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from deepgen.sampling.guidance import guide
from deepgen.sampling.guided_inputs import GuidedInputs, JoinedInputs, Rows
from deepgen.sampling.ode import SamplingState

if TYPE_CHECKING:
    from deepgen.sampling.parallel import GuidanceExchange

# B samples, R rows of a call; C latent channels, h w latent size

# diffusers' caching techniques keep what they remember apart for each of these.
_CACHE_CONTEXTS: dict[Rows, str] = {"both": "guided", "negative": "negative", "positive": "positive"}


def branch_velocities(
    transformer: Any,
    inputs: GuidedInputs,
    latents: Tensor,
    timestep: Tensor,
    *,
    steps: Sequence[int] = (0,),
    skip_uncond: bool = False,
    is_split: bool = False,
    exchange: GuidanceExchange | None = None,
) -> Tensor:
    """Velocities before guidance, (R, C, h, w): rows [negative, positive], or the positive ones.

    Args:
        transformer: the DiT.
        inputs: what it is given besides latents.
        latents: noisy, (B, C, h, w).
        timestep: 1000 * sigma of every sample, (B,).
        steps: numbers of the model call, see `GuidedInputs.arguments`.
        skip_uncond: compute the positive rows alone.
        is_split: both branches run one after the other.
        exchange: computes one branch here and brings the other from another process.
    """
    has_both = inputs.num_branches == 2 and not skip_uncond
    passes: tuple[Rows, ...] = ("both",)  # without guidance these are the positive rows
    if skip_uncond:
        passes = ("positive",)
    elif has_both and exchange is not None:
        passes = (exchange.rows,)
    elif has_both and is_split:
        passes = ("negative", "positive")
    velocities = []
    for rows in passes:
        repeats = inputs.num_branches if rows == "both" else 1
        given = inputs.arguments(steps, rows)
        noisy = torch.cat([latents] * repeats)  # (R, C, h, w)
        with transformer.cache_context(_CACHE_CONTEXTS[rows]):
            velocities += transformer(
                hidden_states=noisy.to(given["encoder_hidden_states"].dtype),
                timestep=torch.cat([timestep] * repeats),  # (R,)
                return_dict=False,
                **given,
            )
    velocity = torch.cat(velocities)  # (R, C, h, w)
    return velocity if exchange is None or not has_both else exchange(velocity)


def guided_velocity(
    transformer: Any,
    inputs: GuidedInputs,
    latents: Tensor,
    timestep: Tensor,
    guidance_scale: float,
    step: int = 0,
) -> Tensor:
    """Velocities (B, C, h, w) of samples at any noise levels, with gradient where it is wanted.

    Args:
        transformer: the DiT.
        inputs: what it is given besides latents.
        latents: noisy, (B, C, h, w).
        timestep: 1000 * sigma of every sample, (B,).
        guidance_scale: weight of the positive branch, where there are two.
        step: number of the model call, where the inputs keep what steps share.
    """
    velocity = branch_velocities(transformer, inputs, latents, timestep, steps=(step,))  # (R, C, h, w)
    return velocity if inputs.num_branches == 1 else guide(velocity, guidance_scale)


class GuidedVelocity:
    """The DiT's guided velocities of one or several runs, in one call.

    Args:
        transformer: the DiT.
        is_split: both branches run one after the other.
        exchange: brings the branches of two processes together.
    """

    def __init__(
        self, transformer: Any, *, is_split: bool = False, exchange: GuidanceExchange | None = None
    ) -> None:
        self.transformer, self._is_split, self._exchange = transformer, is_split, exchange
        self._dtype = transformer.dtype  # diffusers walks through all layers for it, too much for every step
        self._joined: tuple[int | None, JoinedInputs] | None = None

    def __call__(
        self,
        states: Sequence[SamplingState],
        *,
        num_samples: int | None = None,
        text_length: int | None = None,
    ) -> list[Tensor]:
        """Of each run its velocities, (B_i, C, h, w); a run's guidance remembers the difference.

        Args:
            states: runs with inputs, of one latent size, that all compute a negative branch or all do not.
            num_samples: samples of the call, however few there are: the first run is repeated, and must be
                of one sample. At a fixed shape the rounding of a row does not depend on the others.
            text_length: context tokens every row is padded to.

        Raises:
            ValueError: some runs compute a negative branch and some do not.
        """
        count, states = len(states), list(states)
        if len({state.runs_both for state in states}) > 1:
            raise ValueError("runs with and without a negative branch cannot share a call of the DiT")
        if num_samples is not None:
            states += states[:1] * (num_samples - count)
        sizes = [len(state.latents) for state in states]
        inputs = self._inputs(states, text_length)
        velocity = branch_velocities(
            self.transformer,
            inputs,
            torch.cat([state.latents.to(self._dtype) for state in states]),  # (B, C, h, w)
            torch.cat([state.timestep for state in states]),  # (B,)
            steps=[state.step for state in states],
            skip_uncond=states[0].skip_uncond and inputs.num_branches == 2,
            is_split=self._is_split,
            exchange=self._exchange,
        )  # (R, C, h, w)
        branches = [branch.split(sizes) for branch in velocity.chunk(len(velocity) // sum(sizes))]
        rows = [torch.cat(own) for own in zip(*branches, strict=True)]  # (R_i, C, h, w) of each run
        return [_guided(state, own) for state, own in zip(states[:count], rows[:count], strict=True)]

    def forget(self) -> None:
        """Let go of the runs that shared the last call."""
        self._joined = None

    def _inputs(self, states: Sequence[SamplingState], text_length: int | None) -> GuidedInputs:
        """What the call is given besides latents: of one run its own, otherwise the branches all compute."""
        parts = [state.inputs for state in states if state.inputs is not None]
        if len(parts) == 1 and text_length is None:
            return parts[0]
        if any(state.skip_uncond for state in states):
            parts = [part.positive for part in parts]
        if self._joined is None or self._joined[0] != text_length or not self._joined[1].is_of(parts):
            self._joined = text_length, JoinedInputs(parts, text_length)
        return self._joined[1]


def _guided(state: SamplingState, rows: Tensor) -> Tensor:
    """Velocities (B, C, h, w) of a run from its rows (R, C, h, w)."""
    if state.guidance is None or not state.is_guided:
        return rows
    return state.guidance.extend(rows) if state.skip_uncond else state.guidance(rows)
