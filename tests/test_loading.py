"""One door for every layout: `DeepGenPipeline.from_pretrained`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepgen.checkpoints.convert import convert
from deepgen.pipeline import DeepGenPipeline
from parity import Goldens


@pytest.fixture
def native(goldens: Goldens, tmp_path: Path) -> Path:
    """A native checkpoint with a VLM LoRA."""
    weights = {**goldens.native, **load_file(goldens.folder / goldens.files["lora"])}
    torch.save(weights, tmp_path / "model.pt")
    return tmp_path / "model.pt"


@pytest.fixture
def bases(goldens: Goldens) -> dict:
    """Where the base models are, and what tensor shapes do not tell."""
    parts = {name: goldens.folder / goldens.files[name] for name in ("vlm", "tokenizer", "vae", "scheduler")}
    heads = goldens.config["connector"]["num_attention_heads"]
    folder = goldens.folder / goldens.files["transformer"]
    return {**parts, "transformer": folder, "connector_config": {"num_attention_heads": heads}}


def condition(pipe: DeepGenPipeline) -> torch.Tensor:
    pipe.vlm.eval()
    with torch.no_grad():
        return pipe.encode_prompt("a red apple", guided=False)[0].prompt_embeds


def test_a_native_file_a_converted_folder_and_a_kept_adapter_say_the_same(
    native: Path, bases: dict, pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    del bases["transformer"]
    bases["transformer"] = pipe.transformer
    merged = condition(DeepGenPipeline.from_pretrained(native, **bases))
    assert not torch.allclose(merged, condition(pipe), atol=1e-3), "the LoRA must matter"
    del bases["transformer"]
    convert(native, tmp_path / "ours", lora="adapter", progress=False, **bases)
    kept = DeepGenPipeline.from_pretrained(tmp_path / "ours")
    assert kept.vlm.active_adapters() == ["default"]
    assert torch.allclose(condition(kept), merged, atol=1e-4)
    ignored = DeepGenPipeline.from_pretrained(tmp_path / "ours", lora="ignore")
    assert torch.allclose(condition(ignored), condition(pipe), atol=1e-4)


def test_an_own_folder_that_lacks_a_tensor_is_refused_by_name(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "model")
    file = tmp_path / "model" / "connector" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    del weights["pooled_projector.bias"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"pooled_projector\.bias"):
        DeepGenPipeline.from_pretrained(tmp_path / "model")


def test_an_unknown_model_says_what_was_looked_for_and_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        DeepGenPipeline.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises((FileNotFoundError, ValueError), match=r"model_index\.json"):
        DeepGenPipeline.from_pretrained(tmp_path / "empty")
