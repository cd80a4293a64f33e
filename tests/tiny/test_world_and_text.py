"""Text and pictures are of one world: what is claimed is read from the picture drawn for it."""

from __future__ import annotations

import numpy as np
import pytest

from deepgen.tiny.captions import CAPTION_KINDS, sample_caption
from deepgen.tiny.claims import holds
from deepgen.tiny.edits import EDIT_KINDS, sample_edit
from deepgen.tiny.read import read
from deepgen.tiny.reasoning import REASONING_KINDS, sample_reasoning
from deepgen.tiny.reasoning_edits import REASONING_EDIT_KINDS, sample_reasoning_edit
from deepgen.tiny.render import render_array

SAMPLERS = {
    **dict.fromkeys(CAPTION_KINDS, sample_caption),
    **dict.fromkeys(EDIT_KINDS, sample_edit),
    **dict.fromkeys(REASONING_KINDS, sample_reasoning),
    **dict.fromkeys(REASONING_EDIT_KINDS, sample_reasoning_edit),
}


@pytest.mark.parametrize("kind", SAMPLERS)
def test_what_is_claimed_is_read_from_its_picture(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        example = SAMPLERS[kind](rng, kind)
        reading = read(render_array(example.target))
        assert reading.scene is not None, (example, reading)
        assert set(reading.scene.things) == set(example.target.things)
        assert (reading.scene.ground, reading.scene.word) == (example.target.ground, example.target.word)
        assert holds(example.claim, reading.scene).is_right
