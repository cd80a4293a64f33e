"""`deepgen verify`: are these weights whole?

A download that was cut short or filled with zeros can load without complaint, and then draws noise.
"""

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check a checkpoint: files, sizes, missing and foreign keys, zeros and NaN."""

    path: Positional[str]
    """A folder, a checkpoint file or a Hub name."""

    def run(self) -> int:
        """Exit code 0 when nothing is wrong, 1 otherwise."""
        from deepgen.models.verify import verify

        report = verify(self.path)
        print(report)
        return 0 if report.ok else 1
