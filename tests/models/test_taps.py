"""Which layers of the VLM a connector reads: every so many, or those that are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from deepgen.checkpoints.checkpoint import read_checkpoint
from deepgen.checkpoints.fresh import changed_connector, fresh_connector
from deepgen.checkpoints.infer_config import connector_config
from deepgen.checkpoints.layouts import detect
from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_SHAPES, tap_indices
from deepgen.models.connector import StackedChannelBridge
from deepgen.models.errors import CheckpointError
from deepgen.pipeline import TINY_DIR, DeepGenPipeline


def test_named_taps_of_a_stride_make_the_same_connector() -> None:
    sizes = DEEPGEN_SHAPES.connector
    by_stride = StackedChannelBridge(**sizes)
    named = StackedChannelBridge(**sizes, taps=tap_indices(sizes["vlm_num_layers"], sizes["tap_stride"]))
    assert named.taps == by_stride.taps
    assert named.tap_projector.weight.shape == by_stride.tap_projector.weight.shape


def test_the_states_that_are_read_are_those_of_the_named_layers() -> None:
    """Against the hidden states that transformers' own model returns."""
    vlm = DeepGenPipeline.from_pretrained(TINY_DIR, torch_dtype=torch.float32).vlm.eval()
    text = vlm.config.text_config
    embeds, real = torch.randn(1, 6, text.hidden_size), torch.ones(1, 6, dtype=torch.bool)
    positions = torch.arange(6).expand(3, 1, 6)
    states: list[torch.Tensor] = []

    def keep(_: Any, given: Any, out: Any) -> None:
        states.append(out[0] if isinstance(out, tuple) else out)

    with torch.no_grad():
        three, one = vlm._states(embeds, real, positions, (3, 1)).chunk(2, -1)
        handles = [layer.register_forward_hook(keep) for layer in vlm.language_model.layers]
        vlm._states(embeds, real, positions, None)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(one, states[0])
    torch.testing.assert_close(three, states[2])


def test_taps_are_kept_by_a_saved_connector(tmp_path: Path) -> None:
    fresh_connector(DEEPGEN_SHAPES.connector, ["taps=1,4"]).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["taps"] == [4, 1]
    assert StackedChannelBridge.from_pretrained(tmp_path).taps == (4, 1)


def test_a_file_without_a_config_beside_it_asks_for_its_taps() -> None:
    connector = StackedChannelBridge(**{**DEEPGEN_SHAPES.connector, "taps": [1, 2, 3, 4]})
    tensors = dict(connector.state_dict())
    with pytest.raises(CheckpointError, match="reads 4 VLM layers, and the config names 2 taps"):
        connector_config(tensors, 5, {"taps": [1, 2], "num_attention_heads": 4})
    found = connector_config(tensors, 5, {"taps": [4, 3, 2, 1], "num_attention_heads": 4})
    assert found["taps"] == [4, 3, 2, 1]


def test_a_stride_after_taps_wins_and_the_published_taps_need_no_name() -> None:
    named = changed_connector({**DEEPGEN_1_0.connector, "tap_stride": 6}, ["taps=6,12", "18"])
    assert named["taps"] == [18, 12, 6]
    assert "taps" not in changed_connector(named, ["tap_stride=6"])
    assert read_checkpoint(detect(TINY_DIR), shapes_only=True).parts["connector"].config.get("taps") is None
