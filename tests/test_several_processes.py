"""Two processes without an accelerator do half the work each, counted, with the results of one.

No command here names a device: on such a machine accelerate would report one process unless told otherwise.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin, get_type_hints

import psutil
import pytest
import torch
from PIL import Image

import counted_worker
from deepgen.cli.app import Command, main
from deepgen.cli.several_processes import DIVIDED, IN_EACH
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.runner import RunConfig, run
from deepgen.evaluation.scorers import Scorers
from deepgen.processes import Launch, join, launched
from deepgen.training.checkpoints import checkpoints
from launched_runs import losses, weights
from serve_process import free_port

HERE = Path(__file__).parent
MIXTURE = """
seed: 3
image: {rule: fix_pixels, image_size: 96, unit: 32}
tasks:
  edit: {ratio: 1, sources: {edits: {source: shapes, rows: 8, task: edit}}}
  generate: {ratio: 2, sources: {captions: {source: shapes, rows: 8}}}
"""
PROMPTS = """
rewards: {right: {scorer: shapes, credit: partial}}
datasets:
  - {name: counting, shapes: generate, kinds: [counting], rows: 8, rewards: {right: 1}}
  - {name: recolor, shapes: edit, kinds: [recolor], rows: 8, rewards: {right: 1}}
"""
TRAIN = {
    "model": "shapes",
    "new_connector": "false",
    "num_workers": "0",
    "micro_batch_size": "2",
    "optim.warmup_steps": "1",
    "optim.decay_share": "0",
    "optim.eps": "1e-5",  # far above the gradients, so that Adam does not amplify their rounding
    "log_every": "1",
}
KINDS = ("supervised", "reinforcement", "prompt file", "one picture", "cache")


class Work(NamedTuple):
    """What one process or two did, command by command, and where it is."""

    folder: Path
    of_processes: list[dict[str, dict[str, Any]]]
    printed: str = ""

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [done[kind] for done in self.of_processes]


def commands(folder: Path, num_processes: int) -> list[list[str]]:
    """One of each kind; `folder` gets their files."""
    folder.mkdir()
    mixture, prompts, rows = (folder / name for name in ("mixture.yaml", "prompts.yaml", "rows.txt"))
    mixture.write_text(MIXTURE)
    prompts.write_text(PROMPTS)
    rows.write_text("a red circle\na blue star\na green square\na pink star\n")
    settings = [f"{name}={value}" for name, value in TRAIN.items()]
    supervised = ["--set", *settings, f"data={mixture}", "global_batch_size=6", "num_steps=2"]
    rl = [f"prompts={prompts}", "prompts_per_rollout=4", "group_size=2", "num_inference_steps=3"]
    rl += ["window.kind=fixed", "window.size=1", "sheet_every=0", "num_steps=2", "flat_groups=keep"]
    drawn = ["--seed", "3", "--steps", "2"]
    parallel = ["--parallel", "guidance"] if num_processes > 1 else []
    return [
        ["train", "alignment", "-o", str(folder / "supervised"), *supervised],
        ["train", "rl-shapes", "-o", str(folder / "rl"), "--set", *settings, *rl],
        ["generate", "--file", str(rows), *drawn, "-o", str(folder / "pictures")],
        ["generate", "a red circle", *drawn, *parallel, "-o", str(folder / "one.png")],
        [
            "data",
            "cache",
            str(mixture),
            "-o",
            str(folder / "cache"),
            "--shard-size",
            "4",
            "--num-workers",
            "0",
        ],
    ]


def environment(**changes: str) -> dict[str, str]:
    source = os.pathsep.join([str(HERE.parent / "src"), str(HERE)])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, "CUDA_VISIBLE_DEVICES": "", **changes}


def together(
    num_processes: int, *words: str, check: bool = True, **changes: str
) -> subprocess.CompletedProcess:
    """What torchrun starts, and what it prints."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    found = subprocess.run(
        [*launch, str(num_processes), *words],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert not check or found.returncode == 0, found.stderr[-3000:].encode("ascii", "replace").decode()
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("alone") / "files"
    found = counted_worker.run(commands(folder, 1))
    return Work(folder, [dict(zip(KINDS, found, strict=True))])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Work:
    folder = tmp_path_factory.mktemp("two")
    (folder / "commands.json").write_text(json.dumps(commands(folder / "files", 2)))
    started = together(2, str(HERE / "counted_worker.py"), str(folder / "commands.json"), str(folder))
    found = [json.loads((folder / f"counts-{rank}.json").read_text()) for rank in range(2)]
    done = [dict(zip(KINDS, counts, strict=True)) for counts in found]
    return Work(folder / "files", done, started.stdout)


@pytest.mark.parametrize(
    ("kind", "items", "passes", "total"),
    [
        ("supervised", "samples", "trained", 12),  # two steps of six
        ("reinforcement", "images", "forward", 16),  # two rollouts of four prompts, twice each
        ("prompt file", "seeds", "forward", 4),
        ("cache", "rows", None, 16),
    ],
)
def test_each_of_two_processes_does_half_the_work_and_no_item_is_done_twice(
    kind: str, items: str, passes: str | None, total: int, alone: Work, two: Work
) -> None:
    (whole,) = alone.of(kind)
    halves = two.of(kind)
    assert len(whole[items]) == total
    assert [len(half[items]) for half in halves] == [total // 2, total // 2]
    assert sorted(halves[0][items] + halves[1][items]) == sorted(whole[items])
    if passes is not None:
        assert whole[passes] > 0
        assert [half[passes] for half in halves] == [whole[passes] // 2, whole[passes] // 2]


def test_updates_of_reinforcement_learning_are_divided_too(alone: Work, two: Work) -> None:
    (whole,), halves = alone.of("reinforcement"), two.of("reinforcement")
    assert whole["trained"] == 16  # a recorded step of each image
    assert [half["trained"] for half in halves] == [8, 8]


def test_of_one_picture_each_process_computes_one_branch_of_guidance(alone: Work, two: Work) -> None:
    (whole,), halves = alone.of("one picture"), two.of("one picture")
    assert [half["forward"] for half in halves] == [whole["forward"] // 2, whole["forward"] // 2]
    drawn = [
        torch.tensor(list(Image.open(work.folder / "one.png").convert("RGB").tobytes()))
        for work in (alone, two)
    ]
    assert (drawn[0] - drawn[1]).abs().max() <= 1
    assert two.printed.count("one.png") == 1, "it is written once"


def test_what_two_processes_make_is_what_one_makes(alone: Work, two: Work) -> None:
    for name_of_run in ("supervised", "rl"):
        lines = [
            [json.loads(line) for line in (work.folder / name_of_run / "log.jsonl").read_text().splitlines()]
            for work in (alone, two)
        ]
        assert [line["step"] for line in lines[1]] == [1, 2], "one process writes the log"
        measured = "loss" if name_of_run == "supervised" else "reward"
        assert lines[0][0]["grad_norm"] > 0
        for ours, theirs in zip(*lines, strict=True):
            assert theirs[measured] == pytest.approx(ours[measured], abs=1e-5)
            assert theirs["grad_norm"] == pytest.approx(ours["grad_norm"], rel=1e-3)
        one, other = weights(alone.folder / name_of_run), weights(two.folder / name_of_run)
        assert one.keys() == other.keys()
        for name in (name for name in one if name.startswith("model/")):
            torch.testing.assert_close(other[name], one[name], atol=1e-5, rtol=1e-4, msg=name)
    assert losses(alone.folder / "supervised").keys() == {1, 2}
    for folder, suffix in (("pictures", ".png"), ("cache", ".safetensors")):
        files = [
            {path.name: path.read_bytes() for path in (work.folder / folder).iterdir()}
            for work in (alone, two)
        ]
        assert files[0] == files[1]
        assert any(name.endswith(suffix) for name in files[0])


# --- what the launcher says ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "launch"),
    [
        ({}, Launch()),
        ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, Launch()),
        ({"WORLD_SIZE": "1"}, Launch()),
        ({"WORLD_SIZE": "8", "RANK": "5", "LOCAL_WORLD_SIZE": "4"}, Launch(5, 8, 4)),
        ({"WORLD_SIZE": "2", "RANK": "1", "SLURM_STEP_NUM_TASKS": "8"}, Launch(1, 2)),  # srun torchrun ...
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, Launch()),  # a batch script itself, before any srun
        ({"SLURM_STEP_NUM_TASKS": "1", "PMI_SIZE": "1"}, Launch()),
        ({"LOCAL_RANK": "-1"}, Launch()),  # as older launchers of one process set it
        ({"ACCELERATE_USE_CPU": "True"}, Launch()),  # accelerate launch, one process
        ({"MASTER_ADDR": "node-0", "MASTER_PORT": "29500"}, Launch()),
    ],
)
def test_a_launcher_that_says_who_is_who_is_understood(said: dict[str, str], launch: Launch) -> None:
    assert launched(said) == launch


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE says 2 processes and RANK does not say which this is"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, r"expected RANK in \[0, 2\), as WORLD_SIZE says, got 2"),
        ({"WORLD_SIZE": "two"}, "expected WORLD_SIZE to be a whole number of at least 1, got 'two'"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "expected RANK to be a whole number of at least 0, got '-1'"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is 1 and WORLD_SIZE, which says how many .* is not set"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is 0 and WORLD_SIZE"),
        ({"RANK": "0"}, "RANK is 0 and WORLD_SIZE"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, r"srun started 2 processes \(SLURM_STEP_NUM_TA"),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, "mpirun started 4 processes .* each would do the whole work"),
        ({"PMI_SIZE": "4"}, "mpirun started 4 processes"),
        (
            {"ACCELERATE_USE_CPU": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"},
            "accelerate launch was asked for several processes and starts one on each machine",
        ),
    ],
)
def test_a_launcher_that_leaves_it_open_is_refused(said: dict[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        launched(said)


def test_processes_that_do_not_come_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where a program made accelerate's state before the launcher's variables were set."""
    join()  # this one process
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="MASTER_ADDR and MASTER_PORT does not say where they meet"):
        join()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    with pytest.raises(ValueError, match="process 1 of 2 was started, and accelerate takes it for process 0"):
        join()


@pytest.mark.parametrize(
    ("kind", "num_devices", "reason"),
    [
        ("cuda", 1, "2 processes were started on this machine, which has 1 cuda devices"),
        ("mps", 1, "2 processes were started, and mps is one device for one process"),
    ],
)
def test_processes_without_an_accelerator_each_are_refused(
    kind: str, num_devices: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: num_devices)
    with pytest.raises(ValueError, match=reason):
        join()


# --- commands -----------------------------------------------------------------------------------------------


def commands_below(command: Any) -> set[type]:
    """The classes of all commands, from the types of the groups they lie in."""
    found: set[type] = set()
    for part in get_args(command) if get_origin(command) in (Union, UnionType) else [command]:
        kind = get_args(part)[0] if get_origin(part) is Annotated else part
        inner = get_type_hints(kind, include_extras=True) if isinstance(kind, type) else {}
        group = inner.get("command") or inner.get("action")
        if not isinstance(kind, type):
            found |= commands_below(kind)
        elif group is None:
            found.add(kind)
        else:
            found |= commands_below(group)
    return found


ALONE = {
    *("Convert", "ConvertData", "TrainExport", "TrainCompare", "TrainPlot", "EvalShapes", "EvalReport"),
    *("ScoreImage", "TuneGuidance", "Serve", "Ui", "Mcp", "Doctor", "Resident"),
}


def test_of_every_command_it_is_known_what_it_does_among_several_processes() -> None:
    names = {kind.__name__ for kind in commands_below(Command)}
    assert names == {*DIVIDED, *IN_EACH, *ALONE}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            ["eval", "shapes"],
            "this command works in one process, 2 were started; `deepgen eval run shapes` div",
        ),
        (["serve", "tiny"], "it has processes of its own, see --workers"),
        (["data", "convert", "captions", "x.jsonl"], "2 were started; start it without torchrun"),
        (["train", "export", "runs/a"], "2 were started; start it without torchrun"),
        (["rewards", "score", "shapes", "--image", "a.png"], "2 were started; start it without torchrun"),
    ],
)
def test_a_command_that_does_not_divide_its_work_is_refused(
    words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 2
    assert reason in capsys.readouterr().err


def test_what_only_reads_may_be_asked_in_each_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["eval", "list"]) == 0
    assert "shapes" in capsys.readouterr().out


def test_a_benchmark_run_from_python_without_its_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    config = RunConfig(output_dir=tmp_path, data_dir=tmp_path)
    benchmark = load_benchmark("shapes")
    with pytest.raises(ValueError, match="2 were started; pass team=workers"):
        run(benchmark, object(), benchmark.settings, config, Scorers())
    assert not list(tmp_path.iterdir())


# --- longer ones --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_processes_share_the_storybook_evaluation_and_report_once(tmp_path: Path) -> None:
    words = ["eval", "storybook", "tiny", "--limit", "2", "--abilities", "editing", "--steps", "2"]
    words += ["--batch-size", "1"]
    found = together(2, "-m", "deepgen", *words, "-o", str(tmp_path / "two"))
    assert found.stdout.count("storybook.png") == 1
    assert main([*words, "-o", str(tmp_path / "one")]) == 0
    one, two = (json.loads((tmp_path / name / "storybook.json").read_text()) for name in ("one", "two"))
    for report in (one, two):
        report.pop("seconds_per_image")
    assert two == one
    for folder in (tmp_path / "two/storybook-editing", tmp_path / "two/twelve-edits"):
        if folder.name == "storybook-editing":
            drawn = [len((folder / f"pictures-{n}.jsonl").read_text().splitlines()) for n in range(2)]
            assert min(drawn) > 0
            assert max(drawn) - min(drawn) <= 1


_ENDS_AT_ONCE = """
import sys, torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from deepgen import processes
torch.set_num_threads(1)
if sys.argv[1] == "joined":
    processes.join("cpu")
else:
    dist.init_process_group("gloo")
    processes.leave_at_exit()
    mesh = init_device_mesh("cpu", (2,))
shared = torch.ones(1000)
for _ in range(20):
    dist.all_reduce(shared)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["joined", "own group and mesh"])
def test_a_process_that_ends_right_after_an_exchange_ends_well(how: str, tmp_path: Path) -> None:
    """Without leaving the group, 8 of 10 such launches ended with exit status -6 on a busy machine."""
    script = tmp_path / "script.py"
    script.write_text(_ENDS_AT_ONCE)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for _ in range(4):
        found = subprocess.run([*launch, str(script), how], capture_output=True, text=True, timeout=120)
        assert found.returncode == 0, found.stderr[-2000:]


@pytest.mark.slow
def test_processes_that_were_started_by_hand_divide_as_well(tmp_path: Path) -> None:
    """As under `srun` with the variables set from those of Slurm."""
    (tmp_path / "rows.txt").write_text("a red star\na blue circle\n")
    words = ["generate", "--file", str(tmp_path / "rows.txt"), "--steps", "2", "-o", str(tmp_path / "out")]
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "deepgen", *words],
            env=environment(RANK=str(rank), SLURM_STEP_NUM_TASKS="2", **where),
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [process.communicate(timeout=600)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert [text.count(".png") for text in printed] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["training", "pictures"])
def test_an_interrupt_ends_every_process_and_the_work_goes_on_from_there(what: str, tmp_path: Path) -> None:
    training = what == "training"
    (tmp_path / "mixture.yaml").write_text(MIXTURE)
    (tmp_path / "rows.txt").write_text("a red star\n" * 400)
    output = tmp_path / "out"

    def words(length: int) -> list[str]:
        if not training:
            return ["generate", "--file", str(tmp_path / "rows.txt"), "--steps", "2", "-o", str(output)]
        settings = [f"{name}={value}" for name, value in TRAIN.items()]
        settings += [f"data={tmp_path / 'mixture.yaml'}", "global_batch_size=6", "save_every=2"]
        return ["train", "alignment", "-o", str(output), "--set", *settings, f"num_steps={length}"]

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    process = subprocess.Popen(
        [*launch, "-m", "deepgen", *words(2000)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (training and checkpoints(output)) and not (not training and list(output.glob("*.png"))):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.wait(120) != 0
    assert psutil.wait_procs(family, timeout=30)[1] == []
    if training:
        assert not list(output.glob(".step-*")), "nothing half-written"
        last = int(checkpoints(output)[-1].name.removeprefix("step-"))
        assert main([*words(last + 1), "--resume"]) == 0
        assert max(losses(output)) == last + 1
    else:
        assert 0 < len(list(output.glob("*.png"))) < 400
