"""The command line: the table of commands, and how their errors become exit codes.

An error one can expect (a missing file, a bad size, a full disk) is one line on stderr and exit code 2, or 1
where a checkpoint or a LoRA cannot be used; DEEPGEN_DEBUG=1 shows where it came from. Ctrl-C ends with 130,
as shells expect. An error in a Python file of the user's own is one line that begins with file and line.
Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

from tyro.conf import subcommand

from deepgen._version import __version__
from deepgen.cli.convert import Convert
from deepgen.cli.data import Data
from deepgen.cli.doctor import Doctor
from deepgen.cli.download import Download
from deepgen.cli.edit import Edit
from deepgen.cli.eval import Eval
from deepgen.cli.generate import Generate
from deepgen.cli.info import Info
from deepgen.cli.mcp import Mcp
from deepgen.cli.parsing import parse
from deepgen.cli.resident import Resident
from deepgen.cli.rewards import Rewards
from deepgen.cli.serve import Serve
from deepgen.cli.several_processes import check_processes
from deepgen.cli.train import Train
from deepgen.cli.ui import Ui
from deepgen.cli.verify import Verify
from deepgen.progress import hide_bars_of_libraries
from deepgen.user_files import allow, described, line_of

Command = (
    Annotated[Generate, subcommand("generate")]
    | Annotated[Edit, subcommand("edit")]
    | Annotated[Download, subcommand("download")]
    | Annotated[Convert, subcommand("convert")]
    | Annotated[Verify, subcommand("verify")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Train, subcommand("train")]
    | Annotated[Eval, subcommand("eval")]
    | Annotated[Rewards, subcommand("rewards")]
    | Annotated[Serve, subcommand("serve")]
    | Annotated[Mcp, subcommand("mcp")]
    | Annotated[Ui, subcommand("ui")]
    | Annotated[Resident, subcommand("resident")]
)

DESCRIPTION = f"DeepGen {__version__}: draw and edit pictures, and look after the model that does it."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments == ["--version"]:
        print(f"deepgen {__version__}")
        return 0
    hide_bars_of_libraries()
    allow(arguments)
    try:
        command = parse(Command, arguments, DESCRIPTION)  # prints long helps, whose reader may end, too
        check_processes(command)
        code = command.run()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the program that read the output ended, as in `deepgen info tiny | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at its end
        return 0
    except Exception as error:  # whatever a file of the user's own raises; every other kind is told apart
        if os.environ.get("DEEPGEN_DEBUG") == "1" or _is_bug(error):
            raise
        print(f"deepgen: error: {_one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 2)


def _is_bug(error: Exception) -> bool:
    if line_of(error) is not None or _is_out_of_memory(error):
        return False
    return not isinstance(error, ValueError | OSError | ImportError | MemoryError)


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")  # not imported for the question: what never ran cannot have raised
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if line_of(error) is not None:
        text = described(error)
    if _is_out_of_memory(error):
        return f"too little memory; try --offload model, --quantize nf4 or a smaller --size ({text})"
    return text
