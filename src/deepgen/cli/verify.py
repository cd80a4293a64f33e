"""`deepgen verify`: are these weights whole?

A download that was cut short or filled with zeros can load without complaint, and then draws noise. Nothing
in a broken checkpoint makes this end in a traceback: it ends in a report and exit code 1.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import Positional, arg

from deepgen.cli.options import needed_model
from deepgen.cli.outputs import print_report
from deepgen.embedded import model_source


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check a checkpoint: can every file be opened, do configs, tokenizer and keys fit the model, are weights
    numbers without blocks of zeros, and is every file's sha256 the known one (of SHA256SUMS, which everything
    we save carries, of the Hub, or of the published files). Exit code 0 when nothing is wrong, 1 otherwise.
    """

    path: Positional[Annotated[str | None, arg(metavar="NAME|PATH")]] = None
    """`tiny`, `shapes`, a folder, a checkpoint file or a Hub name."""
    model: Annotated[str | None, arg(metavar="NAME|PATH")] = None
    """Another way to name it."""
    scan: bool = True
    """Read every tensor for blocks of zeros, NaN and infinity."""
    hashes: bool = True
    """Compute sha256 where the right one is known."""
    json: bool = False
    """Print JSON, for programs."""

    def run(self) -> int:
        """Exit code 0 when nothing is wrong, 1 otherwise."""
        from deepgen.checkpoints.verify import verify

        source = model_source(needed_model(self.path, self.model, "verify"))
        report = verify(source, scan=self.scan, hashes=self.hashes, progress=sys.stderr.isatty())
        print_report(report, as_json=self.json)
        return 0 if report.ok else 1
