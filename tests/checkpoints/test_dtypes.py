"""One number format for all parts, whatever they are loaded from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checkpoint_files import BASES, HEADS
from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.parts import WEIGHTED
from deepgen.pipeline import DeepGenPipeline
from parity import Goldens

PARTS = dict.fromkeys(WEIGHTED, torch.float32)


def formats(pipe: DeepGenPipeline) -> dict[str, torch.dtype]:
    """The type of every part; a part that mixes several fails here."""
    found = {}
    for name in WEIGHTED:
        kinds = {value.dtype for value in getattr(pipe, name).parameters()}
        assert len(kinds) == 1, (name, kinds)
        found[name] = kinds.pop()
    return found


def save(pipe: DeepGenPipeline, folder: Path, **dtypes: torch.dtype) -> Path:
    """The pipeline as a folder whose parts are stored as said, the others in bfloat16."""
    for name in WEIGHTED:
        getattr(pipe, name).to(dtypes.get(name, torch.bfloat16))
    pipe.save_pretrained(folder)
    return folder


def saved(pipe: DeepGenPipeline, folder: Path) -> dict[str, Any]:
    return {"pretrained_model_name_or_path": save(pipe, folder / "saved")}


def converted(pipe: DeepGenPipeline, folder: Path) -> dict[str, Any]:
    convert(save(pipe, folder / "saved"), folder / "converted", progress=False)
    return {"pretrained_model_name_or_path": folder / "converted"}


def with_a_kept_adapter(pipe: DeepGenPipeline, folder: Path) -> dict[str, Any]:
    goldens = Goldens(Path(__file__).parents[1] / "goldens")
    weights = {**goldens.native, **load_file(goldens.folder / goldens.files["lora"])}
    torch.save({name: value.bfloat16() for name, value in weights.items()}, folder / "model.pt")
    bases = {**BASES, "connector_config": HEADS}
    convert(folder / "model.pt", folder / "kept", dtype="bfloat16", lora="adapter", progress=False, **bases)
    return {"pretrained_model_name_or_path": folder / "kept"}


def cached(pipe: DeepGenPipeline, folder: Path) -> dict[str, Any]:
    """The layout of huggingface_hub's cache, read without a network."""
    home = folder / "cache" / "models--somebody--small"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    save(pipe, home / "snapshots" / ("0" * 40))
    options = {"cache_dir": folder / "cache", "local_files_only": True}
    return {"pretrained_model_name_or_path": "somebody/small", **options}


def native(pipe: DeepGenPipeline, folder: Path) -> dict[str, Any]:
    """A flat file in bfloat16, whose base models are stored in float32 and are the smaller share."""
    goldens = Goldens(Path(__file__).parents[1] / "goldens")
    torch.save({name: value.bfloat16() for name, value in goldens.native.items()}, folder / "model.pt")
    vlm = {"vlm": pipe.vlm.bfloat16()}
    return {
        "pretrained_model_name_or_path": folder / "model.pt",
        **BASES,
        **vlm,
        "connector_config": HEADS,
    }


SOURCES = (saved, converted, with_a_kept_adapter, cached, native)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_source_gives_one_type_and_draws_and_edits(
    source: Callable[[DeepGenPipeline, Path], dict[str, Any]], pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    loaded = DeepGenPipeline.from_pretrained(**source(pipe, tmp_path))
    assert formats(loaded) == dict.fromkeys(WEIGHTED, torch.bfloat16)
    settings = {"num_inference_steps": 1, "height": 32, "width": 32, "seed": 1}
    drawn = loaded("a red apple", **settings).images[0]
    assert loaded("make it blue", image=drawn, **settings).images[0].size == (32, 32)


def test_the_model_in_the_package_loads_as_it_is_stored() -> None:
    assert formats(DeepGenPipeline.from_pretrained("tiny")) == dict.fromkeys(WEIGHTED, torch.bfloat16)


def test_parts_stored_in_several_types_load_in_that_of_most_weights(
    pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    few = save(pipe, tmp_path / "few", connector=torch.float32)
    assert formats(DeepGenPipeline.from_pretrained(few)) == dict.fromkeys(WEIGHTED, torch.bfloat16)
    many = save(pipe, tmp_path / "many", vlm=torch.float32, transformer=torch.float32)
    assert formats(DeepGenPipeline.from_pretrained(many)) == dict.fromkeys(WEIGHTED, torch.float32)


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("asked", [torch.float32, "float32"], ids=str)
def test_a_type_that_is_asked_for_is_that_of_all_parts(
    name: str, asked: Any, pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    folder = save(pipe, tmp_path / "model")
    assert formats(DeepGenPipeline.from_pretrained(folder, **{name: asked})) == PARTS
    assert formats(DeepGenPipeline.from_pretrained("tiny", **{name: asked})) == PARTS


def test_auto_is_as_stored_and_a_dictionary_names_parts(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    folder = save(pipe, tmp_path / "model")
    auto = DeepGenPipeline.from_pretrained(folder, torch_dtype="auto")
    assert formats(auto) == dict.fromkeys(WEIGHTED, torch.bfloat16)
    asked = {"default": "bfloat16", "vae": torch.float32, "connector": "float32"}
    for source in (folder, "tiny"):
        mixed = DeepGenPipeline.from_pretrained(source, torch_dtype=asked)
        wanted = {"vae": torch.float32, "connector": torch.float32}
        assert formats(mixed) == {**dict.fromkeys(WEIGHTED, torch.bfloat16), **wanted}
        mixed("a red apple", num_inference_steps=1, height=32, width=32)


def test_parts_that_are_given_loaded_decide_for_the_others(pipe: DeepGenPipeline, tmp_path: Path) -> None:
    folder = save(pipe, tmp_path / "model")
    given = DeepGenPipeline.from_pretrained(folder, dtype="float32").transformer
    assert formats(DeepGenPipeline.from_pretrained(folder, transformer=given)) == PARTS


def test_parts_of_several_types_pass_what_they_make_to_each_other(pipe: DeepGenPipeline) -> None:
    pipe.vlm.bfloat16()  # as diffusers' own DiffusionPipeline.from_pretrained leaves a folder in bfloat16
    pipe.vae.bfloat16()
    drawn = pipe("a red apple", num_inference_steps=1, height=32, width=32, seed=1).images[0]
    pipe("make it blue", image=drawn, num_inference_steps=1, seed=1)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"dtype": "bf16"}, "unknown dtype 'bf16'; known: float32, bfloat16, float16"),
        ({"torch_dtype": torch.int8}, "unknown dtype torch.int8; known: float32"),
        ({"torch_dtype": {"unet": "float16"}}, "names 'unet', which holds no weights; known: vlm, connector"),
        ({"torch_dtype": {"vae": "half"}}, "unknown dtype of vae 'half'"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "say the same thing; give one"),
    ],
)
def test_a_type_that_is_none_is_refused_before_files_are_read(asked: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DeepGenPipeline.from_pretrained("/nowhere", **asked)


def test_a_deleted_part_is_said_by_name_before_its_type_is_asked_for(
    pipe: DeepGenPipeline, tmp_path: Path
) -> None:
    folder = save(pipe, tmp_path / "model")
    shutil.rmtree(folder / "vae")
    with pytest.raises(FileNotFoundError, match="vae"):
        DeepGenPipeline.from_pretrained(folder)
