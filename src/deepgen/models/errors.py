"""The one error of broken or unfit checkpoints, in a file of its own so that every reader can raise it."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as it is; the message says which file and what to do."""

    exit_code = 1  # of the command line: a file that cannot be used, where 2 is a command that cannot
