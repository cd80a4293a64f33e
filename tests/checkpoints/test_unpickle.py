from __future__ import annotations

import builtins
import collections
import copyreg
import io
import os
import pickle
import struct
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepgen.checkpoints.pickle_names import Inert, PickleError
from deepgen.checkpoints.tensors import CheckpointError, open_file
from deepgen.checkpoints.torch_files import StoredTensor, open_tree
from deepgen.checkpoints.unpickle import unpickle


def load(data: bytes) -> Any:
    return unpickle(io.BytesIO(data), len(data))


class Call:
    """Pickled as a call of any function, with state, items and elements handed to the result."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple:
        return self.parts


class Named:
    """Takes a class's place in what is pickled: NEWOBJ and NEWOBJ_EX of it."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def __getnewargs_ex__(self) -> tuple:
        return (1, 2), {"key": 3}


class OnlyPosition:
    def __getnewargs__(self) -> tuple:
        return ("a",)

    def __new__(cls, *args: Any) -> OnlyPosition:
        return super().__new__(cls)


def evil(marker: Path) -> dict[str, Any]:
    """Ways to run code, each of which creates the marker where pickles are obeyed."""
    code = f"open({str(marker)!r}, 'w').close()"
    torch_load = torch.load
    return {
        "os.system": Call(os.system, (f"touch {marker}",)),
        "exec": Call(builtins.exec, (code,)),
        "eval": Call(builtins.eval, (code,)),
        "getattr": Call(getattr, (Call(builtins.__import__, ("antigravity",)), "webbrowser")),
        "call of a getattr": Call(builtins.map, (builtins.exec, [code])),
        "in the state of an object": Call(
            collections.Counter, (), {"a": Call(os.system, (f"touch {marker}",))}
        ),
        "as an element": Call(collections.deque, (), None, iter([Call(builtins.exec, (code,))])),
        "as an item": Call(
            collections.defaultdict, (), None, None, iter([("a", Call(builtins.exec, (code,)))])
        ),
        "as a key": {Call(builtins.exec, (code,)): 1},
        "as state of a known container": Call(
            collections.OrderedDict, (), Call(os.system, (f"touch {marker}",))
        ),
        "through torch's own functions": Call(
            torch._utils._rebuild_parameter, (Call(os.system, (f"touch {marker}",)), False, {})
        ),
        "as the function torch is told to call": Call(
            torch._tensor._rebuild_from_type_v2, (os.system, torch.Tensor, (f"touch {marker}",), None)
        ),
        "another torch file": Call(torch_load, (str(marker),)),
        "a path": Call(Path.touch, (marker,)),
        "import": Call(builtins.__import__, ("antigravity",)),
    }


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def test_the_evil_objects_do_run_where_pickles_are_obeyed(marker):
    for name in ("os.system", "exec", "in the state of an object", "as an element", "a path"):
        pickle.loads(pickle.dumps(evil(marker)[name]))
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_no_pickle_in_a_torch_file_runs_code(zipped, protocol, marker, tmp_path):
    before = set(sys.modules)
    for number, (name, thing) in enumerate(evil(marker).items()):
        path = tmp_path / f"{number}.pt"
        state = {"module": {"a": torch.ones(2)}, "beside": thing}
        torch.save(state, path, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
        assert torch.equal(open_file(path)["a"].read(), torch.ones(2)), name
        assert not marker.exists(), name
    assert "antigravity" not in set(sys.modules) - before


def test_a_chain_of_attributes_and_calls_runs_only_where_pickles_are_obeyed(marker):
    data = b"cbuiltins\ngetattr\n(cbuiltins\n__import__\n(S'os'\ntRS'system'\ntR(S'touch %b'\ntR."
    data %= str(marker).encode()
    assert load(data).name == "builtins.getattr"
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists()


def test_a_file_of_nothing_but_calls_has_no_tensors(marker, tmp_path):
    torch.save({"a": Call(os.system, (f"touch {marker}",))}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no tensors; its entries are: a"):
        open_file(tmp_path / "x.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Call(os.system, (f"touch {marker}",))))
    with pytest.raises(CheckpointError, match="a pickle, but not one of torch"):
        open_file(tmp_path / "plain.pt")
    assert not marker.exists()


def test_a_whole_module_is_told_to_be_saved_as_a_state_dict(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"an object of torch\.nn\.modules\.linear\.Linear.*state_dict"):
        open_file(tmp_path / "x.pt")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_are_read_as_they_were(protocol):
    value = {
        "numbers": [0, -1, 255, 65_536, -(2**40), 2**100, 1.5, float("inf"), True, False, None],
        "text": ["", "a", "ünï", "x" * 300],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "sets": {1, 2, 3},
        "ordered": collections.OrderedDict(a=1, b=2),
        (1, "a"): "a tuple as key",
    }
    assert load(pickle.dumps(value, protocol)) == value


def test_bytes_and_buffers_are_read_as_they_were():
    assert load(pickle.dumps([b"ab", bytearray(b"c"), b"x" * 300], 5)) == [b"ab", b"c", b"x" * 300]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_objects_of_any_class_become_inert_and_keep_what_they_were_given(protocol):
    found = load(pickle.dumps({"a": Named(width=3), "b": OnlyPosition(), "c": np.float64(2.5)}, protocol))
    assert all(isinstance(value, Inert) for value in found.values())
    assert found["a"].state == {"width": 3}
    array = load(pickle.dumps({"x": np.arange(6.0), "y": [np.zeros((2, 3))]}, protocol))
    assert isinstance(array["x"], Inert)


def test_every_instruction_leaves_an_inert_object_usable():
    # written by hand: no library writes INST, OBJ, extension codes, outside buffers and persistent ids all
    assert load(b"(S'a'\nios\nsystem\n.").name == "os.system"
    assert load(b"(cos\nsystem\nS'a'\no.").args == ("a",)
    for code in (b"\x82\x01.", b"\x83\x01\x00.", b"\x84\x01\x00\x00\x00."):
        assert load(code).name == "extension 1"
    assert load(b"\x97\x98.").name == "an outside buffer"
    assert load(b"Pabc\n.").name == "an outside object"
    assert load(b"(S'a'\nlQ.").name == "an outside object"
    key = load(b"}cos\nsystem\nK\x01s.")  # a name as key of a dictionary
    assert [inert.name for inert in key] == ["os.system"]
    grown = load(b"cos\nsystem\n(K\x01K\x02u(K\x03eK\x04aK\x05K\x06s.")
    assert (grown.items, grown.elements) == ({1: 2, 5: 6}, [3, 4])
    called_twice = load(b"cos\nsystem\n)R)R.")  # what a call gave is called
    assert called_twice.name == "os.system"


def test_a_registered_extension_code_is_not_looked_up(marker):
    copyreg.add_extension("os", "system", 77)
    try:
        assert load(b"\x82M.").name == "extension 77"
    finally:
        copyreg.remove_extension("os", "system", 77)


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x80\x04K\x01r\xff\xff\xff\xff.",  # a memo entry far away: a list would take 32 GB
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",  # bytes of a length that is not there
        b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x04\x96" + struct.pack("<Q", 2**50) + b"x.",
        b"\x80\x04T" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"\x01.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"(" * 100_000,
        b"K\x01t.",
        b"h\x05.",
        b"a.",
        b"K\x01K\x02s.",
        b"K\x01)a.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**63) + b"N",
        b"",
        b"no pickle at all",
    ],
)
def test_bombs_and_rubbish_end_in_an_error(bomb):
    if bomb.startswith(b"\x80\x04K\x01r"):
        assert load(bomb) == 1
        return
    with pytest.raises(PickleError):
        load(bomb)


def test_a_nest_of_shared_tuples_is_no_trap():
    # 2^200 leaves by reference: hashing, comparing or printing it would never end
    nest = b"K\x01" + b"2\x86" * 200
    inner = load(b"}" + nest + b"K\x05s.")
    assert list(inner.values()) == [5]
    assert len(load(b"\x8f(" + nest + b"\x90.")) == 1
    deep = load(b"]" * 20_000 + b"a" * 19_999 + b".")
    while deep:
        deep = deep[0]


def test_one_list_copied_a_million_times_is_refused():
    values = b"(" + b"N" * 100_000 + b"l" + b"r\0\0\0\0"
    for known in (b"ctorch\nSize\n", b"cbuiltins\nset\n", b"ccollections\nOrderedDict\n"):
        calls = (known + b"j\0\0\0\0\x85R") * 100
        with pytest.raises(PickleError, match=r"copies more than|is broken at REDUCE"):
            load(values + b"(" + calls + b"l.")


def test_names_of_any_length_do_not_multiply():
    long = b"X" + struct.pack("<I", 1_000_000) + b"m" * 1_000_000
    inert = load(b"\x80\x04" + long + b"X\1\0\0\0n\x93.")
    assert inert.name == "an unnamed object"


def test_a_nest_in_the_place_of_a_function_is_not_printed():
    nest = b"K\x01" + b"2\x86" * 60
    found = load(b"ctorch._tensor\n_rebuild_from_type_v2\n(" + nest + b"NN}tR.")
    assert found.name == "torch._tensor._rebuild_from_type_v2"


@pytest.mark.parametrize(
    "key",
    [
        b"\x8a\x10" + (7 * (2**61 - 1)).to_bytes(16, "little"),  # every multiple hashes like 0
        b"J\xff\xff\xff\xffJ\xfe\xff\xff\xff\x86",  # -1 and -2 hash alike, so such tuples collide
        b"X" + struct.pack("<I", 5000) + b"a" * 5000,  # compared again with every use
    ],
)
def test_keys_that_are_slow_to_find_become_inert(key):
    (found,) = load(b"}" + key + b"Ns.")
    assert isinstance(found, Inert)


def test_a_tensor_of_a_million_dimensions_is_refused_at_once(tmp_path):
    torch.save({"a": torch.ones(1).expand(3, 5)}, tmp_path / "x.pt")
    many = b"(" + b"\x8a\x08" + b"\xff" * 7 + b"\x1f" + b"2" * 400_000 + b"t"
    path = rewritten(tmp_path / "x.pt", lambda data: data.replace(b"K\x03K\x05\x86", many))
    with pytest.raises(CheckpointError, match="more than 64 dimensions") as error:
        open_file(path)
    assert len(str(error.value)) < 500


def test_tensors_that_share_few_numbers_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("deepgen.checkpoints.torch_files.REPEATS_SLACK", 0)
    torch.save({str(number): torch.ones(1).expand(10_000) for number in range(50)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="repeat the numbers of the file"):
        open_file(tmp_path / "x.pt")


def test_members_that_are_double_encrypted_or_bombs_are_refused(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    for compression in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "bomb.pt", "w") as archive:
            for name, data in members.items():
                archive.writestr(name, bytes(10**7) if name.endswith("byteorder") else data, compression)
        with pytest.raises(CheckpointError, match="is compressed"):
            open_file(tmp_path / "bomb.pt")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/data.pkl", members["x/data.pkl"])
    with pytest.raises(CheckpointError, match="two members of one name"):
        open_file(tmp_path / "x.pt")


def test_an_old_file_s_list_of_storages_holds_names(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    data = (tmp_path / "x.pt").read_bytes()
    at = data.rindex(b"\x80\x02]")
    (tmp_path / "x.pt").write_bytes(data[:at] + b"\x80\x02](]e." + struct.pack("<q", 2) + bytes(8))
    with pytest.raises(CheckpointError, match="holds what is no name"):
        open_file(tmp_path / "x.pt")


def test_instructions_are_counted(monkeypatch):
    monkeypatch.setattr("deepgen.checkpoints.unpickle.MOST_INSTRUCTIONS", 1000)
    with pytest.raises(PickleError, match="more than 1000 instructions"):
        load(b"N" * 2000 + b".")


def rewritten(path: Path, edit: Any) -> Path:
    """The torch file with its pickle changed."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, edit(data) if name.endswith("data.pkl") else data)
    return path


def test_a_tensor_that_ends_beyond_its_storage_is_refused(tmp_path):
    torch.save({"a": torch.zeros(3, 5)}, tmp_path / "x.pt")
    path = rewritten(tmp_path / "x.pt", lambda data: data.replace(b"K\x03K\x05", b"K\x04K\x05"))
    with pytest.raises(CheckpointError, match=r"shape \(4, 5\) that ends beyond the 15 numbers"):
        open_file(path)


def test_a_tensor_of_no_memory_and_endless_size_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1).expand(3, 5)}, tmp_path / "x.pt")
    assert open_file(tmp_path / "x.pt")["a"].read().shape == (3, 5)
    huge = b"\x8a\x06\x00\x00\x00\x00\x00\x01"
    path = rewritten(tmp_path / "x.pt", lambda data: data.replace(b"K\x03K\x05", huge + huge))
    with pytest.raises(CheckpointError, match="made of 1 numbers"):
        open_file(path)


def test_compressed_missing_and_foreign_members_are_named(tmp_path):
    torch.save({"a": torch.zeros(300)}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(tmp_path / "small.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with zipfile.ZipFile(tmp_path / "absent.pt", "w") as archive:
        for name, data in members.items():
            if not name.endswith("data/0"):
                archive.writestr(name, data)
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name, message in {"small": "compressed", "absent": "no storage '0'", "other": "0 members"}.items():
        with pytest.raises(CheckpointError, match=rf"{name}\.pt .*{message}"):
            open_file(tmp_path / f"{name}.pt")


def test_subclasses_and_parameters_are_read_as_their_numbers(tmp_path):
    parameter = torch.nn.Parameter(torch.randn(3))
    parameter.note = "kept by torch beside the numbers"  # type: ignore[attr-defined]
    buffer = torch.nn.Buffer(torch.randn(2)) if hasattr(torch.nn, "Buffer") else torch.randn(2)
    torch.save({"p": parameter, "b": buffer}, tmp_path / "x.pt")
    opened = open_file(tmp_path / "x.pt")
    assert torch.equal(opened["p"].read(), parameter.data)
    assert torch.equal(opened["b"].read(), buffer)


@pytest.mark.parametrize("zipped", [True, False])
def test_views_lie_where_torch_says(zipped, tmp_path):
    base = torch.randn(6, 8)
    state = {"whole": base, "turned": base.T, "part": base[2:4], "column": base[:, 3], "one": base[5, 7]}
    torch.save({"state_dict": state}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    for name, tensor in open_file(tmp_path / "x.pt").items():
        assert torch.equal(tensor.read(), state[name])
    tree = open_tree(tmp_path / "x.pt")
    assert isinstance(tree["state_dict"]["part"], StoredTensor)
