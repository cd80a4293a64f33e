"""Which commands divide their work among the processes of torchrun, and a refusal of the others.

A command that does not divide would do its whole work in every process, at the same time and into the same
files. Those that only read, or fetch, may be run on every machine of a cluster and are let through.
"""

from __future__ import annotations

from typing import Any

from deepgen.processes import require_one

# They join the processes themselves, or refuse with a reason of their own.
DIVIDED = ("Generate", "Edit", "TrainRun", "EvalRun", "EvalStorybook", "CacheData")
# Each process may do it: nothing is written, or the same is fetched.
IN_EACH = (
    *("Info", "Verify", "Download", "EvalFetch"),
    *("EvalList", "EvalCompare", "Inspect", "Stats", "ListRewards", "ServeRewards", "TrainPlan", "TrainGate"),
    "TrainPreflight",
)
# What to do instead, where something else divides.
_INSTEAD = {
    "EvalShapes": "`deepgen eval run shapes` divides its pictures among them",
    "Serve": "it has processes of its own, see --workers",
    "Ui": "it has processes of its own, see --workers",
}


def check_processes(command: Any) -> None:
    """ValueError where several processes were started of a command that does not divide its work."""
    leaf = leaf_of(command)
    names = [kind.__name__ for kind in type(leaf).__mro__]
    if any(name in (*DIVIDED, *IN_EACH) for name in names):
        return
    advice = _INSTEAD.get(names[0], "start it without torchrun")
    require_one("this command", advice)


def leaf_of(command: Any) -> Any:
    """The command itself, below the groups it lies in."""
    while (inner := getattr(command, "command", None) or getattr(command, "action", None)) is not None:
        command = inner
    return command
