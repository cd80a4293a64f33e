"""Plans of one picture: exact arithmetic, times that follow from it, and the table in the documentation."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from deepgen.checkpoints.memory import MemoryPlan, part_bytes
from deepgen.cli import main, planned
from deepgen.planning.accelerators import ACCELERATORS
from deepgen.planning.drawing import (
    ARITHMETIC_SHARE,
    BANDWIDTH_SHARE,
    LINK_SHARE,
    DrawingConfig,
    Phase,
    plan_drawing,
    said_seconds,
)
from planned import frozen

ROOT = Path(__file__).parents[2]
CARD = ACCELERATORS["rtx-4060"]


def test_a_phase_takes_as_long_as_the_slower_of_arithmetic_and_reading() -> None:
    computing, reading = 30.2e12 * ARITHMETIC_SHARE, 272e9 * BANDWIDTH_SHARE
    assert Phase(name="", flops=2 * computing, bytes_read=reading).seconds(CARD) == pytest.approx(2)
    assert Phase(name="", flops=computing, bytes_read=3 * reading).seconds(CARD) == pytest.approx(3)


def test_moved_weights_are_waited_for_unless_they_come_ahead_of_time() -> None:
    phase = Phase(name="", flops=30.2e12 * ARITHMETIC_SHARE, bytes_read=0, bytes_moved=16e9 * LINK_SHARE * 2)
    assert phase.seconds(CARD) == pytest.approx(3)
    assert replace(phase, is_overlapped=True).seconds(CARD) == pytest.approx(2)
    assert phase.seconds(ACCELERATORS["m2"]) == pytest.approx(30.2 / 3.6)  # one memory: nothing moves


def test_passes_and_branches_are_counted() -> None:
    models = frozen("deepgen-1.0")
    guided = plan_drawing(models, DrawingConfig(num_calls=17, num_guided=15), CARD)
    plain = plan_drawing(models, DrawingConfig(num_calls=17, num_guided=0), CARD)
    dit, plain_dit = guided.phases[2], plain.phases[2]
    assert dit.flops / plain_dit.flops == pytest.approx(32 / 17)
    assert (
        dit.bytes_read
        == plain_dit.bytes_read
        == 17 * part_bytes("transformer", models["transformer"], "none")
    )
    split = plan_drawing(models, DrawingConfig(num_calls=17, num_guided=15, is_split=True), CARD)
    assert split.phases[2].bytes_read == pytest.approx(32 / 17 * dit.bytes_read)
    assert split.needed.device <= guided.needed.device


def test_references_and_size_cost_more_and_fewer_bits_less_memory() -> None:
    models = frozen("deepgen-1.0")
    usual = plan_drawing(models, DrawingConfig(), CARD)
    edit = plan_drawing(models, DrawingConfig(references=1), CARD)
    large = plan_drawing(models, DrawingConfig(height=1024, width=1024), CARD)
    narrow = plan_drawing(models, DrawingConfig(memory=MemoryPlan(quantize="int8")), CARD)
    assert edit.phases[2].flops > 2 * usual.phases[2].flops
    assert large.seconds > 4 * usual.seconds
    assert large.needed.device > usual.needed.device > narrow.needed.device


def test_layer_by_layer_brings_the_dit_at_every_call() -> None:
    models, memory = frozen("deepgen-1.0"), MemoryPlan(offload="group", has_tiles=True)
    ahead = plan_drawing(models, DrawingConfig(memory=memory, moving="group"), CARD)
    waiting = plan_drawing(models, DrawingConfig(memory=memory, moving="sequential"), CARD)
    parts = plan_drawing(models, DrawingConfig(memory=MemoryPlan(offload="model"), moving="model"), CARD)
    assert ahead.phases[2].bytes_moved == waiting.phases[2].bytes_moved == 50 * parts.phases[2].bytes_moved
    assert parts.seconds < ahead.seconds < waiting.seconds


def test_the_processor_of_the_measured_machine_is_planned_within_a_factor_of_two() -> None:
    """docs/hardware.md: 68 s a step and 45 s for the VAE, measured on two cores, 512x512, guidance 1."""
    cores = replace(ACCELERATORS["cpu"], tflops=0.056)
    config = DrawingConfig(num_calls=1, num_guided=0)
    references, _, step, decoding = plan_drawing(frozen("deepgen-1.0"), config, cores).phases
    assert references.seconds(cores) == 0
    assert 34 < step.seconds(cores) < 136
    assert 22 < decoding.seconds(cores) < 91


@pytest.mark.parametrize(("seconds", "said"), [(0.04, "0.0"), (9.94, "9.9"), (59.6, "60"), (660, "11 min")])
def test_seconds_are_said_with_as_many_digits_as_they_deserve(seconds: float, said: str) -> None:
    assert said_seconds(seconds) == said


# --- the command line


def test_a_plan_says_memory_seconds_and_that_nothing_was_measured(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "--plan", "--card", "rtx-4060"]) == 0
    said = capsys.readouterr().out
    assert "deepgen-1.0, the published 5B model (tiny runs anywhere" in said
    assert "picture: 512x512, preset exact: 50 calls of the DiT, 50 with both branches" in said
    assert "4.8 of 8 GB, 7.8 GB wait in main memory: it fits" in said
    assert "planned, not measured: assumes 40% of 30.2 TFLOP/s" in said
    assert "so draw with --memory auto" in said
    assert not list(tmp_path.iterdir())


def test_what_is_asked_for_is_what_is_planned(tmp_path, capsys) -> None:
    gguf = tmp_path / "dit.gguf"
    gguf.write_bytes(bytes(1000))
    arguments = ["--plan", "--card", "rtx-4060", "--size", "1024x768", "--preset", "balanced", "-n", "3"]
    assert main(["generate", *arguments, "--guidance", "1", "--offload", "sequential"]) == 0
    said = capsys.readouterr().out
    assert "picture: 1024x768, preset balanced: 17 calls of the DiT, 0 with both branches" in said
    assert "16 bits, layer by layer on the device" in said
    assert "3 pictures:" in said
    photo = tmp_path / "photo.png"
    Image.new("RGB", (1200, 800)).save(photo)
    assert main(["edit", "x", "--image", str(photo), "--image", str(photo), *arguments]) == 0
    assert "picture: 1024x768, 2 given" in capsys.readouterr().out
    assert main(["edit", "x", "--image", str(photo), "--plan", "--card", "h100"]) == 0
    assert "picture: 512x352, 1 given" in capsys.readouterr().out  # the photo's shape, as it is drawn
    needs = []
    for option in ([], ["--transformer-gguf", str(gguf)]):
        assert main(["generate", "--plan", "--card", "h100", *option]) == 0
        (found,) = re.findall(r"  ([\d.]+) of 80 GB", capsys.readouterr().out)
        needs.append(float(found))
    assert needs[0] - needs[1] == pytest.approx(4.94, abs=0.11)  # the DiT's own weights, in GB


def test_what_does_not_fit_is_told_what_does(capsys) -> None:
    assert main(["generate", "--plan", "--card", "rtx-4060", "--quantize", "int8"]) == 0
    said = capsys.readouterr().out
    assert "of 8 GB: it does not fit" in said
    assert "what fits: --memory auto (8 bits (int8), one part at a time" in said


def test_a_local_model_is_planned_by_its_own_sizes(capsys) -> None:
    folder = ROOT / "src/deepgen/assets/tiny"
    assert main(["generate", "--plan", "--card", "t4", "--model", str(folder), "--size", "96x96"]) == 0
    assert capsys.readouterr().out.startswith(f"{folder} on t4")


def test_a_hub_name_is_not_looked_up(capsys) -> None:
    assert main(["generate", "--plan", "--card", "h100", "--model", "someone/model"]) == 0
    assert "deepgen-1.0 (the sizes of someone/model are not looked up) on h100" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--plan", "--card", "rtx-4061"], "did you mean rtx-4060"),
        (["--card", "rtx-4060"], "--card rtx-4060 is for --plan"),
        (["--plan", "--card", "m2", "--offload", "model"], "m2 has one memory"),
        (["--plan", "--card", "h100", "--memory", "8", "--quantize", "int8"], "not both"),
        (["--plan", "--card", "m1-8gb"], "this model needs at least 9.1 GB"),
        (["--plan", "--card", "h100", "--size", "500x500"], "try 496x496"),
        (["--plan", "--device", "cuda"], "name the card that is meant with --card"),
    ],
)
def test_what_cannot_be_planned_is_one_line(arguments, said, monkeypatch, capsys) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["generate", "a star", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_without_a_card_this_machine_is_planned(monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA GeForce RTX 4070 Ti SUPER")
    assert planned.this_accelerator("auto").name == "rtx-4070-ti-super"
    assert planned.this_accelerator("cpu").name == "cpu"
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "NVIDIA Something")
    with pytest.raises(
        ValueError, match="NVIDIA Something is not in the table; name one like it with --card"
    ):
        planned.this_accelerator("auto")


def test_the_table_in_the_documentation_is_what_the_tool_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    sys.modules.pop("drawing_plan", None)
    from drawing_plan import table

    assert table() in (ROOT / "docs/hardware.md").read_text()
