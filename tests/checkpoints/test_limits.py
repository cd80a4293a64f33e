"""Absurd configs end in one line, quickly and in little memory, at every door."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deepgen.checkpoints.convert import convert
from deepgen.checkpoints.info import info
from deepgen.checkpoints.limits import check_config, check_layers
from deepgen.checkpoints.tensors import CheckpointError
from deepgen.checkpoints.verify import verify
from deepgen.checkpoints.weights import load_components

DOORS: dict[str, Callable[[Path], Any]] = {
    "load": load_components,
    "info": info,
    "convert": lambda folder: convert(folder, folder.parent / "converted", progress=False),
}
ABSURD = {
    ("transformer", "num_layers"): (10**6, 500, -1, 0, "24", 2.0, True, [24], {"a": 1}),
    ("transformer", "attention_head_dim"): (10**9,),
    ("transformer", "pos_embed_max_size"): (10**6,),
    ("transformer", "dual_attention_layers"): ([10**9], [-1], ["0"]),
    ("connector", "num_hidden_layers"): (10**6, -3),
    ("connector", "vlm_num_layers"): (10**9,),
    ("vae", "block_out_channels"): ([64] * 5000, [0], [-64, 64], "64"),
    ("vae", "layers_per_block"): (10**7, 60),
    ("vae", "scaling_factor"): ("1.5", float("nan"), 10**400),
    ("vlm", "text_config.num_hidden_layers"): (10**6, 400, -1),
    ("vlm", "text_config.hidden_size"): (10**12, "2048"),
    ("vlm", "vision_config.depth"): (10**6,),
}


def change(folder: Path, part: str, place: str, value: Any) -> None:
    file = folder / part / "config.json"
    content = json.loads(file.read_text())
    inner = content
    *path, key = place.split(".")
    for name in path:
        inner = inner[name]
    inner[key] = value
    file.write_text(json.dumps(content))


@pytest.fixture(scope="module")
def imported(_ours: Path) -> None:
    """The libraries are imported, and what the whole model takes is in the peak."""
    load_components(_ours)


def peak_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize(("part", "place"), ABSURD, ids=lambda value: value)
def test_an_absurd_config_is_refused_in_little_time_and_memory(
    part: str, place: str, ours: Path, imported: None
) -> None:
    config = (ours / part / "config.json").read_text()
    before = peak_kilobytes()
    for number, value in enumerate(ABSURD[part, place]):
        change(ours, part, place, value)
        for name, door in list(DOORS.items())[number % 3 :][:1]:
            started = time.perf_counter()
            with pytest.raises(CheckpointError, match=place.rpartition(".")[2]) as raised:
                door(ours)
            assert time.perf_counter() - started < 2, name
            assert part in str(raised.value)
            assert len(str(raised.value)) < 600
        (ours / part / "config.json").write_text(config)
    assert peak_kilobytes() - before < 200_000


def test_verify_reports_an_absurd_config_as_a_finding(ours: Path, imported: None) -> None:
    change(ours, "transformer", "num_layers", 10**6)
    started = time.perf_counter()
    report = verify(ours, hashes=False)
    assert time.perf_counter() - started < 2
    assert any("num_layers is 1000000; expected 1 to 512" in problem.message for problem in report.problems)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
        ("scheduler/scheduler_config.json", {"shift": "3"}),
        ("model_index.json", {"defaults": {"height": 10**9}}),
        ("model_index.json", {"defaults": [512]}),
        ("model_index.json", {"max_prompt_tokens": -5}),
    ],
)
def test_schedulers_and_defaults_have_limits_too(file: str, content: dict[str, Any], ours: Path) -> None:
    whole = json.loads((ours / file).read_text())
    (ours / file).write_text(json.dumps(whole | content))
    with pytest.raises(CheckpointError, match=str(next(iter(content)))):
        load_components(ours)


def test_configs_that_nest_or_grow_without_end_are_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(50):
        deep = {"a": deep}
    with pytest.raises(CheckpointError, match="levels deep"):
        check_config(deep, "config.json")
    with pytest.raises(CheckpointError, match="more than 20000 values"):
        check_config({str(number): 1 for number in range(20_001)}, "config.json")
    with pytest.raises(CheckpointError, match="holds a list, expected an object"):
        check_config([], "config.json")


def test_a_json_file_that_nests_without_end_is_refused(ours: Path) -> None:
    (ours / "vae" / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(CheckpointError, match=r"vae/config\.json is nested too deeply"):
        load_components(ours)


def test_a_few_layers_too_many_are_left_to_the_comparison_of_keys(ours: Path) -> None:
    names = [f"transformer_blocks.{number}.x" for number in range(24)]
    check_layers("transformer", {"num_layers": 30}, dict.fromkeys(names), "config.json")
    with pytest.raises(CheckpointError, match="asks for 57 as num_layers, and its file holds 24"):
        check_layers("transformer", {"num_layers": 57}, dict.fromkeys(names), "config.json")
