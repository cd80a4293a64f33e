"""Errors that several layers raise, in a file of its own so that every one of them can."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is; the message says which file and what to do."""

    exit_code = 1  # of the command line: a file that cannot be used, where 2 is a command that cannot


class NotFiniteError(ValueError):
    """A number is NaN or infinite where training or export needs a finite one; the message names the part.

    Attributes:
        weights_step: of the update that left weights with which no finite loss could be computed, where the
            weights are at fault.
        is_everywhere: every process of the run raises it, and none waits for this one.
    """

    def __init__(self, message: str, weights_step: int | None = None, *, is_everywhere: bool = True) -> None:
        super().__init__(message)
        self.weights_step, self.is_everywhere = weights_step, is_everywhere
