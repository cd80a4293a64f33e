"""schemathesis against a server of `tiny`: every check, on what its own OpenAPI document says.

    pip install schemathesis          # in an environment of its own; it shares nothing with ours
    python tools/check_api.py --schemathesis PATH/TO/schemathesis

Exit code 0 where no check failed. The answers are on trial and not the pictures, so these are small: 2 steps,
64 x 64 pixels.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIMITS = ("--max-steps", "2", "--max-pixels", "4096", "--max-images", "2", "--max-waiting", "8")


@contextmanager
def server(arguments: tuple[str, ...] = LIMITS) -> Iterator[str]:
    """The address of a fresh `deepgen serve tiny`, in a process of its own."""
    command = [sys.executable, "-m", "deepgen", "serve", "tiny", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            lines: list[str] = []
            for line in process.stderr:
                lines.append(line)
                if match := re.search(r"serving on (http://\S+)", line):
                    threading.Thread(target=process.stderr.read, daemon=True).start()  # never blocks it
                    yield match[1]
                    break
            else:
                raise RuntimeError(f"the server did not start:\n{''.join(lines[-20:])}")
        finally:
            process.terminate()
            process.wait(60)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schemathesis", default="schemathesis", help="the program, or a path to it")
    parser.add_argument("--examples", type=int, default=40, help="requests for each route and phase")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    program = shutil.which(asked.schemathesis)
    if program is None:
        print(
            f"no {asked.schemathesis} here: pip install schemathesis in a fresh environment", file=sys.stderr
        )
        return 2
    hooks = Path(__file__).with_name("check_api_hooks.py")
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": hooks.stem, "PYTHONPATH": str(hooks.parent)}
    with server() as url:
        command = [program, "run", f"{url}/openapi.json", "--checks", "all", "--seed", str(asked.seed)]
        command += ["--max-examples", str(asked.examples), "--request-timeout", "300"]
        command += ["--max-response-time", "300", "--suppress-health-check", "all"]
        return subprocess.run(command, check=False, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
