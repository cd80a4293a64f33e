"""A small model of the storybook's architecture."""

from __future__ import annotations

from pathlib import Path

import pytest

from storybook_model import write_storybook_model


@pytest.fixture(scope="session")
def storybook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storybook's architecture with random weights, as a pipeline folder; do not write to it."""
    return write_storybook_model(tmp_path_factory.mktemp("storybook") / "model")
