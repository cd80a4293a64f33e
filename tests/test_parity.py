"""The library reproduces the tensors recorded from the original."""

from __future__ import annotations

import pytest
import torch

from parity import CHECKS, Goldens, Section


@pytest.mark.parametrize("name", CHECKS)
def test_section_agrees_with_the_original(goldens: Goldens, name: str) -> None:
    variant = "last_hidden" if name == "last_hidden" else "scb"
    section = Section(name)
    with torch.no_grad():
        CHECKS[name](goldens, goldens.pipeline(variant), section)
    assert section.compared > 0
    assert not section.failed, section.failed


def test_the_harness_notices_a_wrong_tensor() -> None:
    section = Section("any")
    section.check("off", torch.zeros(2), torch.tensor([0.0, 1e-2]))
    section.check("shape", torch.zeros(2), torch.zeros(3))
    assert len(section.failed) == 2
    assert section.worst == pytest.approx(1e-2)
