"""The command line: `app.py` is the table of commands, and each command is one file.

A command's file says what it takes (a dataclass) and what it then does (`run`). Libraries that take seconds
to import are imported inside `run`, so that `deepgen --help` stays quick.
"""

from __future__ import annotations

from collections.abc import Sequence

from deepgen.moved import renamed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code; `deepgen` in a terminal calls this.

    Without `arguments` they are those of the process, and a resident process may run the command.
    """
    if arguments is None:
        import sys

        from deepgen.resident import run_there

        code = run_there(sys.argv[1:])
        if code is not None:
            return code
    from deepgen.cli.app import main as run  # here: a module that needs one command loads no other

    return run(arguments)


__getattr__ = renamed(
    __name__, {"Command": "deepgen.cli.app.Command", "DESCRIPTION": "deepgen.cli.app.DESCRIPTION"}
)
