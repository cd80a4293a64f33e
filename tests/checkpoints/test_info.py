from __future__ import annotations

import json

import pytest
import torch

from deepgen.checkpoints.info import PartInfo, info, lora_parameters
from deepgen.checkpoints.parts import build, named_config
from deepgen.models.config import DEEPGEN_1_0, DEEPGEN_1_0_LAST_HIDDEN, DEEPGEN_SHAPES


def by_name(result) -> dict[str, PartInfo]:
    return {part.name: part for part in result.parts}


def test_the_published_model_has_the_counts_of_its_files():
    result = info("deepgen-1.0")
    counts = {part.name: (part.tensors, part.parameters, part.buffers) for part in result.parts}
    assert counts == {
        "vlm": (824, 3_754_622_976, 0),
        "connector": (103, 394_430_460 + 25_167_872 + 4_196_352 + 8_392_704 + 262_144, 0),
        "transformer": (909, 2_243_171_520, 226_492_416),
        "vae": (244, 83_819_683, 0),
    }
    total = result.to_dict()["total"]
    assert round((total["parameters"] + total["buffers"]) / 1e9, 2) == 6.74
    assert counts["transformer"][0] + counts["connector"][0] == 1012


def test_the_parts_of_the_connector_have_their_published_sizes():
    for architecture, taps in ((DEEPGEN_1_0, 25_167_872), (DEEPGEN_1_0_LAST_HIDDEN, 4_196_352)):
        connector = build("connector", named_config("connector", architecture))
        sizes = {
            name: sum(p.numel() for p in child.parameters()) for name, child in connector.named_children()
        }
        assert sizes == {
            "think_tokens": 262_144,
            "tap_projector": taps,
            "layers": 394_430_460,
            "pooled_projector": 4_196_352,
            "context_projector": 8_392_704,
        }


def test_memory_of_the_published_model_agrees_with_the_training_notes():
    memory = {mode: round(nbytes / 1e9, 1) for mode, nbytes in info("deepgen-1.0").memory.items()}
    assert memory["bfloat16 or float16 on the device"] == 13.5
    assert memory["float32 on the device"] == 27.0
    assert memory["model offload (largest part, 16 bit)"] == 7.5
    assert memory["training stage 1 (connector)"] == pytest.approx(19, abs=1)
    assert memory["training stage 2 (connector, DiT, LoRA)"] == pytest.approx(53, abs=1)
    assert memory["nf4 vlm, connector and transformer"] < memory["int8 vlm, connector and transformer"] < 8


def test_lora_counts_every_linear_and_embedding_but_the_head():
    vlm = build("vlm", named_config("vlm", DEEPGEN_1_0))
    assert lora_parameters(vlm) == 185_163_776 - 64 * (2048 + 151_936)


def test_a_folder_is_counted_from_its_headers(ours):
    result = info(ours)
    parts = by_name(result)
    assert list(parts) == ["vlm", "connector", "transformer", "vae"]
    assert parts["transformer"].dtypes.keys() == {"float32"}
    assert parts["transformer"].buffers > 0
    assert parts["transformer"].nbytes == 4 * (parts["transformer"].parameters + parts["transformer"].buffers)
    assert result.memory["float32 on the device"] == sum(part.nbytes or 0 for part in result.parts)
    assert json.loads(json.dumps(result.to_dict()))["kind"] == "deepgen"


def test_a_native_checkpoint_says_what_comes_from_base_models(native, lora, tmp_path):
    torch.save({**native, **lora}, tmp_path / "model.pt")
    result = info(tmp_path / "model.pt")
    assert list(by_name(result)) == ["connector", "transformer", "vlm_lora"]
    assert result.memory == {}
    text = str(result)
    assert "vlm: from a base model" in text
    assert "LoRA of rank 2" in text


def test_a_named_architecture_prints_a_table():
    text = str(info(DEEPGEN_SHAPES.name))
    assert text.startswith("deepgen-shapes (architecture)")
    assert "training stage 2" in text


def test_an_unknown_name_is_told_the_named_architectures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no such file or folder.*deepgen-1\.0, deepgen-1\.0-last-hidden"
    ):
        info("deepgen-2.0")
