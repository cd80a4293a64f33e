"""A mixture of the tiny world."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import MIXTURE


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    (tmp_path / "mixture.yaml").write_text(MIXTURE)
    return tmp_path / "mixture.yaml"
