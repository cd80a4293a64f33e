from __future__ import annotations

import collections
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import deepgen
from checkpoint_files import GOLDENS
from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.layouts import detect, weight_files
from deepgen.checkpoints.tensors import CheckpointError, LazyTensor, open_file, open_files
from deepgen.checkpoints.weights import load_components
from deepgen.checkpoints.writer import parse_size, write_file, write_shards
from deepgen.models.vlm import DeepGenVLM
from deepgen.pipeline import DeepGenPipeline


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_native_to_ours_and_back_is_bit_equal(native_layout, native, options, tmp_path):
    write, _ = native_layout
    convert(write(tmp_path, native), tmp_path / "ours", **options, progress=False)
    convert(tmp_path / "ours", tmp_path / "back", layout="native", progress=False)
    back = open_files(detect(tmp_path / "back").files)
    assert set(back) == set(native)
    assert all(torch.equal(back[name].read(), value) for name, value in native.items())


def test_our_folder_loads_with_diffusers_and_equals_the_direct_load(ours, options, native, tmp_path):
    torch.save(native, tmp_path / "model.pt")
    direct = load_components(tmp_path / "model.pt", **options)
    pipe = DeepGenPipeline.from_pretrained(ours)
    for name in ("vlm", "connector", "transformer", "vae"):
        expected, found = direct[name].state_dict(), getattr(pipe, name).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert pipe.scheduler.config.shift == direct["scheduler"].config.shift
    assert pipe.tokenizer("a red circle") == direct["tokenizer"]("a red circle")


def test_saving_the_pipeline_writes_the_same_folder(ours, tmp_path):
    DeepGenPipeline.from_pretrained(ours).save_pretrained(tmp_path / "saved")
    theirs, mine = (json.loads((p / "model_index.json").read_text()) for p in (tmp_path / "saved", ours))
    assert {key: theirs[key] for key in mine} == mine
    for part in ("vlm", "connector", "transformer", "vae"):
        first, second = (open_files(weight_files(folder / part)) for folder in (tmp_path / "saved", ours))
        assert set(first) == set(second)
        assert all(torch.equal(first[name].read(), second[name].read()) for name in first)


def test_the_published_folder_becomes_ours(published, ours, tmp_path):
    convert(published, tmp_path / "converted", progress=False)
    weights = [name for name in contents(ours) if name.endswith(".safetensors")]
    assert {name: contents(tmp_path / "converted")[name] for name in weights} == {
        name: contents(ours)[name] for name in weights
    }


def test_a_native_folder_remembers_its_sizes(ours, bases, native, tmp_path):
    convert(ours, tmp_path / "back", layout="native", progress=False)
    loaded = load_components(tmp_path / "back", **bases)
    assert loaded["connector"].config.num_attention_heads == 4
    assert torch.equal(loaded["connector"].think_tokens.weight, native["meta_queries"])


def test_the_settings_a_model_was_tuned_for_are_kept(ours, bases, tmp_path):
    index = json.loads((ours / "model_index.json").read_text())
    defaults = {"height": 96, "width": 96, "num_inference_steps": 16, "guidance_scale": 2.5}
    (ours / "model_index.json").write_text(json.dumps({**index, "defaults": defaults}))
    convert(ours, tmp_path / "again", progress=False)
    convert(tmp_path / "again", tmp_path / "native", layout="native", progress=False)
    assert DeepGenPipeline.from_pretrained(tmp_path / "again").config.defaults == defaults
    assert DeepGenPipeline.from_pretrained(tmp_path / "native", **bases).config.defaults == defaults


def test_a_native_destination_can_be_one_file(ours, native, tmp_path):
    convert(ours, tmp_path / "model.safetensors", layout="native", progress=False)
    assert load_file(tmp_path / "model.safetensors").keys() == native.keys()
    with pytest.raises(ValueError, match="larger shard_size"):
        convert(ours, tmp_path / "x.safetensors", layout="native", shard_size="300KB", progress=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["SHA256SUMS", "model.safetensors", "ours"]


def test_a_type_is_cast_on_the_way(ours, tmp_path):
    convert(ours, tmp_path / "half", dtype="bfloat16", progress=False)
    for part in ("vlm", "connector", "transformer", "vae"):
        half = open_files(weight_files(tmp_path / "half" / part))
        full = open_files(weight_files(ours / part))
        assert all(torch.equal(half[name].read(), full[name].read().bfloat16()) for name in full)
    assert json.loads((tmp_path / "half/vlm/config.json").read_text())["dtype"] == "bfloat16"


def test_shards_hold_no_more_than_asked_and_load(ours, tmp_path):
    convert(ours, tmp_path / "cut", shard_size="100KB", progress=False)
    files = weight_files(tmp_path / "cut" / "transformer")
    assert len(files) > 3
    assert all(
        sum(t.nbytes for t in open_file(file).values()) <= 100_000 or len(open_file(file)) == 1
        for file in files
    )
    pipe = DeepGenPipeline.from_pretrained(tmp_path / "cut")
    assert torch.equal(
        pipe.transformer.proj_out.weight,
        open_files(weight_files(ours / "transformer"))["proj_out.weight"].read(),
    )


def test_files_are_listed_with_their_hashes(ours):
    result = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=ours, capture_output=True, text=True, check=True
    )
    assert result.stdout.count(": OK") == 14  # configs, scheduler and tokenizer too


def test_lora_becomes_an_adapter_transformers_loads(native, lora, options, tmp_path):
    torch.save({**native, **lora}, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "kept", **options, lora="adapter", progress=False)
    convert(tmp_path / "model.pt", tmp_path / "merged", **options, lora="merge", progress=False)
    vlm = DeepGenVLM.from_pretrained(tmp_path / "kept" / "vlm")
    vlm.load_adapter(str(tmp_path / "kept" / "vlm_lora"))
    state = vlm.state_dict()
    head = "lmm.model."
    for name, value in lora.items():
        if "lm_head" not in name:
            assert torch.equal(state[name.removeprefix(head)], value), name
    from_adapter = load_components(tmp_path / "kept", lora="merge")["vlm"].state_dict()
    merged = DeepGenVLM.from_pretrained(tmp_path / "merged" / "vlm").state_dict()
    assert all(torch.equal(from_adapter[name], merged[name]) for name in merged)
    plain = load_file(GOLDENS / "vlm" / "model.safetensors")
    assert not torch.equal(merged["language_model.embed_tokens.weight"], plain["model.embed_tokens.weight"])


def test_lora_survives_the_way_back_to_native(native, lora, options, tmp_path):
    torch.save({**native, **lora}, tmp_path / "model.pt")
    convert(tmp_path / "model.pt", tmp_path / "kept", **options, lora="adapter", progress=False)
    convert(tmp_path / "kept", tmp_path / "back", layout="native", progress=False)
    back = load_file(tmp_path / "back" / "model.safetensors")
    expected = {**native, **{name: value for name, value in lora.items() if "lm_head" not in name}}
    assert back.keys() == expected.keys()
    assert all(torch.equal(back[name], value) for name, value in expected.items())


def test_ignored_lora_is_in_no_native_file(native, lora, options, tmp_path):
    torch.save({**native, **lora}, tmp_path / "model.pt")
    convert(
        tmp_path / "model.pt", tmp_path / "out", **options, layout="native", lora="ignore", progress=False
    )
    assert load_file(tmp_path / "out" / "model.safetensors").keys() == native.keys()


@pytest.mark.parametrize("layout", ["deepgen", "native"])
def test_weights_that_are_no_numbers_are_named_and_nothing_is_written(
    native, lora, options, layout, tmp_path
):
    name = next(name for name in lora if "lm_head" not in name)
    broken = lora[name].clone()
    broken.view(-1)[-1] = float("nan")
    torch.save({**native, **lora, name: broken}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="holds NaN or infinite numbers"):
        convert(tmp_path / "model.pt", tmp_path / "out", **options, layout=layout, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_numbers_beyond_a_type_are_not_written_as_infinite(native, options, tmp_path):
    large = {**native, "meta_queries": torch.full_like(native["meta_queries"], 1e6)}
    torch.save(large, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"meta_queries .* becomes so in float16"):
        convert(tmp_path / "model.pt", tmp_path / "out", **options, dtype="float16", progress=False)


def test_a_taken_destination_is_left_alone(ours, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("keep")
    with pytest.raises(FileExistsError, match="choose another destination"):
        convert(ours, tmp_path / "taken", progress=False)
    assert contents(tmp_path / "taken") == {"mine.txt": b"keep"}


def test_an_interrupted_conversion_leaves_nothing(ours, tmp_path, monkeypatch):
    calls = []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write_file(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("deepgen.checkpoints.writer.write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(ours, tmp_path / "out", progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["ours"]


def test_a_misfit_is_found_before_anything_is_written(native, options, tmp_path):
    torch.save({**native, "foreign.weight": torch.ones(1)}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"unexpected: foreign\.weight"):
        convert(tmp_path / "model.pt", tmp_path / "out", **options, progress=False)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


def test_a_full_disk_is_said_before_writing(ours, tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 1000))
    with pytest.raises(OSError, match=r"0\.0 GB free and the result takes 0\.1 GB"):
        convert(ours, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_sizes_are_read_as_people_write_them():
    assert [parse_size(x) for x in ("4GB", "500 MB", "1GiB", 100)] == [4 * 10**9, 5 * 10**8, 2**30, 100]
    for wrong in ("", "GB", "4XB", "0"):
        with pytest.raises(ValueError, match="write it like 4GB"):
            parse_size(wrong)


def test_what_is_written_is_what_the_safetensors_library_reads(tmp_path):
    state = {"a": torch.randn(3, 4), "b": torch.arange(5), "c": torch.randn(2).half(), "d": torch.tensor(1.0)}
    save_file(state, tmp_path / "in.safetensors")
    lazy = open_file(tmp_path / "in.safetensors")
    write_shards(tmp_path, "out", lazy, shard_size=10**6)
    assert all(
        torch.equal(value, state[name]) for name, value in load_file(tmp_path / "out.safetensors").items()
    )
    scalar = LazyTensor("x", (), torch.float32, "", lambda: torch.tensor(3.0))
    write_file(tmp_path / "cast.safetensors", {"x": scalar}, dtype=torch.bfloat16)
    assert load_file(tmp_path / "cast.safetensors")["x"] == torch.tensor(3.0, dtype=torch.bfloat16)


# Not getrusage: its peak is inherited from the process that runs the tests.
MEASURE = """
import re, sys
from pathlib import Path
from deepgen.checkpoints.tensors import open_file
from deepgen.checkpoints.writer import write_shards
def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text()).group(1)) // 1024
before = memory("VmRSS")
write_shards(Path(sys.argv[2]), "out", open_file(Path(sys.argv[1])), shard_size=10**8)
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads its memory from Linux's /proc")
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_600_megabytes_are_converted_in_less_than_200(suffix, tmp_path):
    state = {f"layer.{i}": torch.zeros(5_000_000) for i in range(30)}
    path = tmp_path / f"large.{suffix}"
    torch.save(state, path) if suffix == "pt" else save_file(state, path)
    assert path.stat().st_size >= 600_000_000
    del state
    command = [sys.executable, "-c", MEASURE, str(path), str(tmp_path)]
    path_of_ours = {"PYTHONPATH": str(Path(deepgen.__file__).parents[1])}
    result = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **path_of_ours}
    )
    grown = int(result.stdout)
    assert grown < 200, f"grew by {grown} MB"
