"""What can be said of a LoRA file without a model: found, read, refused in one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from deepgen.checkpoints.layouts import HubOptions
from deepgen.checkpoints.lora_files import read_lora
from deepgen.checkpoints.lora_settings import LoraError
from deepgen.checkpoints.tensors import CheckpointError

MODULE = "transformer_blocks.0.attn.to_q"


def state(
    a: tuple[int, ...] = (2, 8), b: tuple[int, ...] = (8, 2), module: str = MODULE
) -> dict[str, Tensor]:
    return {f"{module}.lora_A.weight": torch.ones(a), f"{module}.lora_B.weight": torch.ones(b)}


def message(source: Any, kind: type[Exception] = LoraError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        read_lora(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Small(nn.Module):
    """Something for PEFT to wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.to_k(self.to_q(x))


# --- methods that are not LoRA ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (LoKrConfig(r=2, target_modules=["to_q"]), "LoKr"),
        (LoHaConfig(r=2, target_modules=["to_q"]), "LoHa"),
        (OFTConfig(r=2, oft_block_size=0, target_modules=["to_q"]), "OFT"),
        (LoraConfig(r=2, target_modules=["to_q"], use_dora=True), "DoRA"),
        (LoraConfig(r=2, target_modules=["to_q"], lora_bias=True), "LoRA with biases"),
        (VeraConfig(r=2, target_modules=["to_q"]), "VeRA"),
        (IA3Config(target_modules=["to_q"], feedforward_modules=[]), "IA3"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_adapter_of_another_method_is_refused_by_its_name(config: Any, name: str, tmp_path: Path) -> None:
    get_peft_model(Small(), config).save_pretrained(tmp_path)  # type: ignore[arg-type]
    assert name.upper() in message(tmp_path).upper()
    (tmp_path / "adapter_config.json").unlink()  # the keys alone tell it too
    assert name.upper() in message(tmp_path).upper()


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("lora_unet_x.hada_w1_a", "LoHa"),
        ("lora_unet_x.lokr_w1", "LoKr"),
        ("lora_unet_x.oft_blocks", "OFT"),
        ("lora_unet_x.diff", "full difference"),
        ("lora_unet_x.dora_scale", "DoRA"),
        ("lora_unet_x.a1.weight", "GLoRA"),
        ("lora_unet_x.lora_mid.weight", "LoCon with a Tucker decomposition"),
    ],
)
def test_a_file_of_kohya_or_lycoris_in_another_method_is_refused_by_its_name(key: str, name: str) -> None:
    found = {key: torch.ones(2, 2), "lora_unet_x.alpha": torch.tensor(1.0)}
    assert f"is a {name}" in message(found)
    if name in ("DoRA", "LoCon with a Tucker decomposition"):  # their factors look like LoRA's
        assert f"is a {name}" in message(found | state())


@pytest.mark.parametrize("beginning", ["pissa", "olora"])
def test_an_adapter_that_changed_the_models_weights_is_refused(beginning: Any, tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=beginning)
    get_peft_model(Small(), config).save_pretrained(tmp_path)  # type: ignore[arg-type]
    assert "path_initial_model_for_weight_conversion" in message(tmp_path)


# --- damaged ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({}, "holds no tensors"),
        (
            {"a.weight": torch.ones(2)},
            "is not a LoRA file for this model: 1 keys, none of them a LoRA factor",
        ),
        ({f"{MODULE}.lora_A.weight": torch.ones(2, 8)}, "has no factor B beside it"),
        ({f"{MODULE}.lora_B.weight": torch.ones(8, 2)}, "has no factor A beside it"),
        (state(b=(8, 3)), r"need shapes (rank, in) and (out, rank), found"),
        (state(a=(2,)), "need shapes"),
        (state(a=(0, 8), b=(8, 0)), "need shapes"),
        (state() | {f"{MODULE}.lora_A.weight": torch.ones(2, 8, dtype=torch.int8)}, "holds int8, expected"),
        (
            state() | {f"{MODULE}.lora_B.weight": torch.full((8, 2), torch.inf)},
            "16 NaN or infinite numbers of 16",
        ),
        (state() | {f"{MODULE}.alpha": torch.ones(2)}, "expected one number"),
        (state() | {f"{MODULE}.alpha": torch.tensor(torch.nan)}, "alpha is nan, expected a finite number"),
        (state() | {f"{MODULE}.alpha": torch.tensor(0.0)}, "changes nothing"),
        ({k: v * 0 for k, v in state().items()}, "changes nothing"),
        ({"lora_te1_x.lora_down.weight": torch.ones(2, 2)}, "all of them of a text encoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_damaged_or_foreign_file_is_one_line(
    tensors: dict[str, Tensor], expected: str, tmp_path: Path
) -> None:
    save_file(tensors, tmp_path / "a.safetensors")
    error = message(tmp_path / "a.safetensors")
    assert expected in error
    assert error.startswith(str(tmp_path / "a.safetensors"))


def test_nan_in_any_float_format_is_found() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2):
        found = state()
        found[f"{MODULE}.lora_A.weight"] = torch.full((2, 8), torch.nan).to(dtype)
        assert "NaN" in message(found)


def test_a_truncated_file_and_a_pointer_of_git_lfs_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(state(), path)
    content = path.read_bytes()
    for size in (0, 4, 60, len(content) - 1):
        path.write_bytes(content[:size])
        assert str(path) in message(path, CheckpointError)
    path.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git lfs pull" in message(path, CheckpointError)


# --- where it is --------------------------------------------------------------------------------------------


def in_folder(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            save_file(state(), folder / name)

    return make


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (in_folder(), "holds no .safetensors file; it holds no files"),
        (
            in_folder("a.safetensors", "b.safetensors"),
            "holds 2 LoRA files; name one of them: a.safetensors, b",
        ),
        (lambda folder: (folder / "notes.txt").write_text("x"), "it holds notes.txt"),
        (
            lambda folder: torch.save(state(), folder / "adapter_model.bin"),
            "is a pickle, which is not opened",
        ),
    ],
)
def test_a_folder_without_one_clear_file_is_one_line(make: Any, expected: str, tmp_path: Path) -> None:
    make(tmp_path)
    assert expected in message(tmp_path)


def test_the_file_of_a_folder_is_found(tmp_path: Path) -> None:
    in_folder("style-000010.safetensors", "style.safetensors")(tmp_path)
    found = read_lora(tmp_path, weight_name="style.safetensors")
    assert found.origin == str(tmp_path / "style.safetensors")
    with pytest.raises(FileNotFoundError, match=r"has no other\.safetensors; it holds style-000010"):
        read_lora(tmp_path, weight_name="other.safetensors")
    in_folder("pytorch_lora_weights.safetensors")(tmp_path)
    assert read_lora(tmp_path).origin == str(tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "sub").mkdir()
    in_folder("only.safetensors")(tmp_path / "sub")
    assert read_lora(tmp_path, subfolder="sub").origin == str(tmp_path / "sub" / "only.safetensors")
    shutil.copy(tmp_path / "style.safetensors", tmp_path / "0a1b2c")  # as the hub's cache names files
    assert len(read_lora(tmp_path / "0a1b2c").pairs) == 1
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_lora(tmp_path / "nowhere.safetensors")


def test_of_a_hub_repository_only_the_lora_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[Any] = []
    there = ["README.md", "adapter_config.json", "adapter_model.safetensors", "checkpoint-5/a.safetensors"]
    save_file(state(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings())

    def resolve(name: str, hub: Any, allow: Any) -> Path:
        fetched.append((name, allow))
        return tmp_path

    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name, **options: there)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("deepgen.checkpoints.lora_files.resolve", resolve)
    assert read_lora("some/style").pairs[0].scale == 4.0
    assert fetched == [("some/style", ["adapter_model.safetensors", "adapter_config.json"])]
    there += ["b.safetensors"]
    there.remove("adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "b.safetensors")
    read_lora("some/style", hub=HubOptions(local_files_only=True))  # nothing is asked: what is there, is
    assert fetched[-1] == ("some/style", None)
    there += ["c.safetensors"]
    assert "some/style holds 2 LoRA files" in message("some/style")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_lora("loras/typo.safetensors")
    assert len(fetched) == 2


# --- strength -----------------------------------------------------------------------------------------------


def settings(**changed: Any) -> str:
    return json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8} | changed)


@pytest.mark.parametrize(
    ("text", "scale"),
    [
        (settings(), 4.0),
        (settings(use_rslora=True), 8 / 2**0.5),
        (settings(r=4, rank_pattern={"to_q": 2}), 4.0),
        (settings(alpha_pattern={r"attn\.to_[qk]": 1}), 0.5),
        (settings(alpha_pattern={"o_q": 1, "to_v": 3}), 4.0),  # a pattern matches whole names
    ],
)
def test_the_scale_is_what_peft_makes_of_its_settings(text: str, scale: float, tmp_path: Path) -> None:
    named = {f"base_model.model.{key}": value for key, value in state().items()}
    save_file(named, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    (pair,) = read_lora(tmp_path).pairs
    assert pair.scale == pytest.approx(scale)
    metadata = {f"transformer.{key}": value for key, value in json.loads(text).items()}
    ours = {f"transformer.{key}": value for key, value in state().items()}
    save_file(ours, tmp_path / "b.safetensors", {"lora_adapter_metadata": json.dumps(metadata)})
    (pair,) = read_lora(tmp_path / "b.safetensors").pairs
    assert pair.scale == pytest.approx(scale)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", "no valid JSON"),
        ("[]", "expected PEFT's settings"),
        (settings(r=3), "says rank 3 for transformer_blocks.0.attn.to_q, its factors have rank 2"),
        (settings(r="two"), "ranks must be positive whole numbers"),
        (settings(r=0), "ranks must be positive whole numbers"),
        (settings(lora_alpha=float("nan")), "alphas numbers"),
        (settings(alpha_pattern=["to_q"]), "alphas numbers"),
        (settings(alpha_pattern={"to_(q": 1}), "the pattern 'to_(q' cannot be read"),
        (settings(lora_alpha=0), "changes nothing"),
        (settings(peft_type="PREFIX_TUNING"), "a PREFIX_TUNING adapter"),
        (settings(layer_replication=[[0, 1]]), "layer replication"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(text: str, expected: str, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(text)
    assert expected in message(tmp_path)


def test_an_alpha_beside_settings_must_say_the_same(tmp_path: Path) -> None:
    save_file(state() | {f"{MODULE}.alpha": torch.tensor(8.0)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(settings())
    assert read_lora(tmp_path).pairs[0].scale == 4.0
    (tmp_path / "adapter_config.json").write_text(settings(lora_alpha=2))
    assert "gives the scale 4, and" in message(tmp_path)


def test_a_file_that_says_no_alpha_has_the_scale_1(tmp_path: Path) -> None:
    assert read_lora(state()).pairs[0].scale == 1.0
    assert read_lora(state()).has_strength  # trainers that write such keys have alpha = rank
    named = {f"base_model.model.{key}": value for key, value in state().items()}
    assert not read_lora(named).has_strength  # PEFT's alpha was in adapter_config.json


def test_what_peft_wrote_is_read_in_full(tmp_path: Path) -> None:
    model = get_peft_model(
        Small(), LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "to_k"], init_lora_weights=False)
    )  # type: ignore[arg-type]
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    pairs = {pair.key.module: pair for pair in read_lora(tmp_path).pairs}
    assert set(pairs) == {"to_q", "to_k"}
    for name, pair in pairs.items():
        assert torch.equal(pair.a, stored[f"base_model.model.{name}.lora_A.weight"])
        assert torch.equal(pair.b, stored[f"base_model.model.{name}.lora_B.weight"])
        assert (pair.rank, pair.scale) == (3, 2.0)
