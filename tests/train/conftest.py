"""A mixture of the tiny world."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import MIXTURE

from storybook_model import write_storybook_model


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    (tmp_path / "mixture.yaml").write_text(MIXTURE)
    return tmp_path / "mixture.yaml"


@pytest.fixture(scope="session")
def storybook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storybook's architecture with random weights, as a pipeline folder; do not write to it."""
    return write_storybook_model(tmp_path_factory.mktemp("storybook") / "model")
