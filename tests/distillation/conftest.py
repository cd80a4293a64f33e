"""Prompts of distillation."""

from __future__ import annotations

from pathlib import Path

import pytest

PROMPTS = """
datasets:
  - {name: captions, shapes: generate, rows: 6, sample_weight: 1}
  - {name: edits, shapes: edit, rows: 6, sample_weight: 1}
"""


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A mix of captions and edits."""
    file = tmp_path / "prompts.yaml"
    file.write_text(PROMPTS)
    return file
