"""Shared fixtures: a random tiny model with DeepGen's structure, from the committed goldens."""

from __future__ import annotations

import copy
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from deepgen.pipeline import DeepGenPipeline
from parity import Goldens
from small_runs import MIXTURE

# What a shell starts in the background ignores Ctrl-C, and so would every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)  # tests run side by side, and tiny tensors gain nothing from threads

GOLDENS = Path(__file__).parent / "goldens"


@pytest.fixture(scope="session")
def goldens() -> Goldens:
    """The committed goldens folder."""
    return Goldens(GOLDENS)


@pytest.fixture(scope="session")
def _components(goldens: Goldens) -> dict[str, Any]:
    """Parts to copy from; building them takes longer than using them."""
    return goldens.pipeline().components


@pytest.fixture
def pipe(_components: dict[str, Any]) -> DeepGenPipeline:
    """A fresh pipeline of random weights: 64 x 64 by default, 2 steps."""
    return _copy(_components)


@pytest.fixture
def fresh_pipe(_components: dict[str, Any]) -> DeepGenPipeline:
    """A second one, for tests that change the first."""
    return _copy(_components)


def _copy(components: dict[str, Any]) -> DeepGenPipeline:
    defaults = {"height": 64, "width": 64, "num_inference_steps": 2, "guidance_scale": 4.0}
    pipe = DeepGenPipeline(**copy.deepcopy(components), defaults=defaults)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def mixture(tmp_path: Path) -> Path:
    """A mixture of the shapes world."""
    (tmp_path / "mixture.yaml").write_text(MIXTURE)
    return tmp_path / "mixture.yaml"


@pytest.fixture
def image() -> Image.Image:
    """A photograph stand-in whose sides are no multiples of anything: 90 x 70 (width x height)."""
    ramp = torch.linspace(0, 255, 90).expand(70, 90)
    return Image.fromarray(torch.stack([ramp, ramp.flip(1), ramp / 2], dim=-1).to(torch.uint8).numpy())
