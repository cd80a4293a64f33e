from __future__ import annotations

import threading
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from deepgen.checkpoints import tensors as tensors_module
from deepgen.checkpoints.names import connector_name, native_name, split, strip_wrappers, vlm_name
from deepgen.checkpoints.tensors import CheckpointError, LazyTensor, open_file, open_files, read_ahead


def example() -> dict[str, torch.Tensor]:
    return {
        "a": torch.randn(3, 5),
        "b": torch.randn(4, 2).bfloat16(),
        "c": torch.arange(7),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "flag": torch.tensor([True, False]),
    }


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tensors_are_read_bit_equal_and_known_without_reading(suffix, tmp_path):
    state, path = example(), tmp_path / f"x.{suffix}"
    torch.save(state, path) if suffix == "pt" else save_file(state, path)
    opened = open_file(path)
    assert set(opened) == set(state)
    for name, value in state.items():
        assert (opened[name].shape, opened[name].dtype) == (tuple(value.shape), value.dtype)
        assert torch.equal(opened[name].read(), value)


def test_views_and_shared_storage_of_a_torch_file_are_read_as_they_were(tmp_path):
    base = torch.randn(6, 8)
    state = {"whole": base, "transposed": base.T, "part": base[2:4], "column": base[:, 3]}
    torch.save(state, tmp_path / "x.pt")
    for name, tensor in open_file(tmp_path / "x.pt").items():
        assert torch.equal(tensor.read(), state[name])


def test_files_of_old_torch_are_read(tmp_path):
    state = example()
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=False)
    for name, tensor in open_file(tmp_path / "x.pth").items():
        assert torch.equal(tensor.read(), state[name])


@pytest.mark.parametrize("key", ["module", "state_dict", "model"])
def test_a_nested_state_dict_is_unwrapped(key, tmp_path):
    torch.save({key: OrderedDict(a=torch.ones(2)), "epoch": 3}, tmp_path / "x.pth")
    assert list(open_file(tmp_path / "x.pth")) == ["a"]


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_truncated_files_are_refused(suffix, tmp_path):
    path = tmp_path / f"x.{suffix}"
    state = {"a": torch.randn(100, 100)}
    torch.save(state, path) if suffix == "pt" else save_file(state, path)
    content = path.read_bytes()
    for size in (0, 4, 20, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="truncated"):
            open_file(path)


def test_bytes_after_the_data_are_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "x.safetensors")
    with (tmp_path / "x.safetensors").open("ab") as file:
        file.write(b"more")
    with pytest.raises(CheckpointError, match="foreign bytes"):
        open_file(tmp_path / "x.safetensors")


def test_a_git_lfs_pointer_is_named(tmp_path):
    (tmp_path / "model.pt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        open_file(tmp_path / "model.pt")


def test_a_file_without_tensors_says_what_it_holds(tmp_path):
    torch.save({"epoch": 1, "loss": 0.5}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no tensors; its entries are: epoch, loss"):
        open_file(tmp_path / "x.pt")
    torch.save([torch.ones(1)], tmp_path / "y.pt")
    with pytest.raises(CheckpointError, match="expected a dictionary of tensors, the file holds a list"):
        open_file(tmp_path / "y.pt")


def test_a_name_in_two_shards_is_an_error(tmp_path):
    for number in range(2):
        save_file({"a": torch.ones(1)}, tmp_path / f"{number}.safetensors")
    with pytest.raises(CheckpointError, match="a is both in"):
        open_files([tmp_path / "0.safetensors", tmp_path / "1.safetensors"])


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("model.visual.blocks.3.attn.qkv.weight", "visual.blocks.3.attn.qkv.weight"),
        ("visual.blocks.3.attn.qkv.weight", "visual.blocks.3.attn.qkv.weight"),
        ("model.language_model.norm.weight", "language_model.norm.weight"),
        ("model.norm.weight", "language_model.norm.weight"),
        ("language_model.norm.weight", "language_model.norm.weight"),
        ("model.layers.0.self_attn.q_proj.base_layer.bias", "language_model.layers.0.self_attn.q_proj.bias"),
        ("base_model.model.model.visual.merger.ln_q.weight", "visual.merger.ln_q.weight"),
        ("lm_head.weight", "lm_head.weight"),
    ],
)
def test_both_generations_of_vlm_names_become_ours(theirs, ours):
    assert vlm_name(theirs) == ours


@pytest.mark.parametrize("prefix", ["", "connector.", "connector_module.", "llm2dit.", "a.b."])
def test_connector_names_are_found_under_any_prefix(prefix):
    leaf = "layers.0.self_attn.q_proj.weight"
    assert connector_name(prefix + leaf) == leaf
    assert connector_name(prefix + "projector_1.bias") == "tap_projector.bias"
    assert connector_name(prefix + "context_projector.bias") == "context_projector.bias"
    assert connector_name(prefix + "meta_queries") == "think_tokens.weight"
    assert connector_name(prefix + "projector_4.bias") is None


def test_wrappers_are_stripped_once_and_in_order():
    assert strip_wrappers("module.model.lmm.model.visual.x") == "lmm.model.visual.x"
    assert strip_wrappers("model.module.x") == "module.x"


def test_native_names_go_both_ways(native):
    lazy = {name: LazyTensor(name, (), torch.float32, "", torch.Tensor) for name in native}
    parts, unknown = split(lazy)
    assert unknown == []
    back = {native_name(part, name) for part, tensors in parts.items() for name in tensors}
    assert back == set(native)


def test_two_spellings_of_one_tensor_are_an_error():
    names = ("lmm.visual.x.weight", "lmm.model.visual.x.weight")
    with pytest.raises(CheckpointError, match=r"lmm\.model\.visual\.x\.weight and lmm\.visual\.x\.weight"):
        split({name: LazyTensor(name, (), torch.float32, "", torch.Tensor) for name in names})


def lazy(name: str, read, size: int = 256) -> LazyTensor:
    return LazyTensor(name, (size,), torch.uint8, "nowhere", read)


def test_tensors_read_ahead_come_in_order_and_bit_equal(tmp_path):
    state = {f"{number:03}": torch.randn(100, 100) for number in range(100)}
    save_file(state, tmp_path / "x.safetensors")
    taken = dict(read_ahead(open_file(tmp_path / "x.safetensors")))
    assert list(taken) == sorted(state)
    assert all(torch.equal(taken[name], value) for name, value in state.items())
    assert list(read_ahead({})) == []


def test_several_threads_read_but_no_further_ahead_than_memory_allows(monkeypatch):
    monkeypatch.setattr(tensors_module, "READ_AHEAD", 4 * 256)
    monkeypatch.setattr(tensors_module.os, "cpu_count", lambda: 2)
    begun, both = [], threading.Barrier(2, timeout=60)

    def read(number: int) -> torch.Tensor:
        begun.append(number)
        if number < 2:
            both.wait()  # only where two are read at the same time
        return torch.tensor(number)

    many = {str(number): lazy(str(number), lambda number=number: read(number)) for number in range(50)}
    reading = read_ahead(many)
    for taken in range(50):
        assert next(reading)[1] == taken
        assert len(begun) <= taken + 5
    assert next(reading, None) is None


def test_a_tensor_that_cannot_be_read_is_raised_in_its_place_and_ends_the_threads():
    def fail() -> torch.Tensor:
        raise CheckpointError("the file ended")

    good = lazy("good", lambda: torch.zeros(2))
    reading = read_ahead({"good": good, "bad": lazy("bad", fail), "next": good})
    assert next(reading)[0] == "good"
    with pytest.raises(CheckpointError, match="the file ended"):
        next(reading)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("read weights")]


def test_for_an_accelerator_tensors_are_read_into_page_locked_memory(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    some = {"a": lazy("a", lambda: torch.zeros(2)), "b": lazy("b", lambda: torch.ones(2))}
    assert len(dict(read_ahead(some))) == 2
    assert not pinned
    assert len(dict(read_ahead(some, is_pinned=True))) == len(pinned) == 2
