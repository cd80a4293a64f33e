"""The command line: what it writes, what it refuses before anything is loaded, and its exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from deepgen.cli import drawing, loading, main
from deepgen.cli.options import ModelOptions
from deepgen.cli.outputs import check_output
from deepgen.data.png import read_record
from deepgen.models.precision import is_widened as is_widened_layer
from deepgen.pipeline import DeepGenPipeline
from deepgen.prompt_text import PromptCut
from deepgen.sampling.solvers import NAMES, make_scheduler


class FakePipeline:
    """Answers every call with a picture whose grey is the seed, and remembers what it was asked."""

    def __init__(self) -> None:
        self.defaults = {
            "height": 96,
            "width": 96,
            "num_inference_steps": 16,
            "guidance_scale": 2.5,
            "edit_guidance_scale": 1.5,
        }
        self.calls: list[dict[str, Any]] = []
        self.fails_at: tuple[int, BaseException] | None = None
        self.cuts: list[PromptCut] = []

    def set_progress_bar_config(self, **options: Any) -> None:
        """As diffusers has it."""

    def prompt_warnings(self, prompt: str, images: Sequence[Image.Image] = ()) -> list[str]:
        return []

    def __call__(self, prompt: str, **arguments: Any) -> SimpleNamespace:
        if self.fails_at is not None and len(self.calls) == self.fails_at[0]:
            raise self.fails_at[1]
        self.calls.append({"prompt": prompt, **arguments})
        size = (arguments.get("width", 96), arguments.get("height", 96))
        image = Image.new("RGB", size, (arguments["seed"] % 256,) * 3)
        return SimpleNamespace(images=[image], drawn_sizes=[size[::-1]], prompt_cuts=self.cuts)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePipeline:
    pipeline = FakePipeline()
    monkeypatch.setattr(drawing, "load_pipeline", lambda options: pipeline)
    monkeypatch.setattr(drawing, "read_sizes", lambda model: None)
    return pipeline


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "load_pipeline", lambda options: pytest.fail("the model was loaded"))


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPGEN_MODEL", raising=False)
    monkeypatch.delenv("DEEPGEN_DEBUG", raising=False)
    return tmp_path


# --- pictures ---


def test_generate_writes_one_picture_and_says_where(fake: FakePipeline, capsys) -> None:
    assert main(["generate", "a red star", "-o", "new/folder/star.png", "--seed", "7"]) == 0
    assert capsys.readouterr().out.startswith("new/folder/star.png  96x96, seed 7, ")
    record = read_record(Path("new/folder/star.png"))
    assert record is not None
    assert (record.prompt, record.seed, record.num_inference_steps, record.guidance_scale) == (
        "a red star",
        7,
        16,
        2.5,
    )
    assert (record.model, record.solver, record.width) == ("tiny", "euler", 96)


def test_every_option_reaches_the_pipeline(fake: FakePipeline) -> None:
    options = ["--size", "768x512", "--steps", "5", "--guidance", "3.5", "--negative", "fog", "--seed", "1"]
    assert main(["generate", "a lake", *options]) == 0
    assert fake.calls == [
        {
            "prompt": "a lake",
            "image": None,
            "negative_prompt": "fog",
            "height": 512,
            "width": 768,
            "preset": "exact",
            "num_inference_steps": 5,
            "guidance_scale": 3.5,
            "seed": 1,
        }
    ]


def test_a_preset_chooses_solver_and_steps_and_stands_in_the_record(fake: FakePipeline) -> None:
    assert main(["generate", "a star", "--preset", "balanced", "--seed", "1"]) == 0
    assert (fake.calls[0]["preset"], fake.calls[0]["num_inference_steps"]) == (
        "balanced",
        16,
    )
    record = read_record(Path("out.png"))
    assert (record.preset, record.solver, record.num_inference_steps) == ("balanced", "unipc", 16)
    assert main(["generate", "a star", "--preset", "fast", "--steps", "9", "--seed", "1"]) == 0
    assert fake.calls[1]["num_inference_steps"] == 9


@pytest.mark.usefixtures("nothing_loads")
def test_a_preset_and_another_solver_exclude_each_other(capsys) -> None:
    assert main(["generate", "a star", "--preset", "fast", "--scheduler", "heun"]) == 2
    assert "--preset fast chooses the solver; leave out --solver heun" in capsys.readouterr().err


def test_several_pictures_have_seeds_in_turn_and_a_grid(fake: FakePipeline) -> None:
    assert main(["generate", "a star", "-n", "3", "--seed", "40", "-o", "s.png"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["s-0.png", "s-1.png", "s-2.png", "s-grid.png"]
    assert [read_record(Path(f"s-{index}.png")).seed for index in range(3)] == [40, 41, 42]
    assert Image.open("s-grid.png").size == (196, 196)


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "webp"])
def test_pictures_are_written_in_the_format_of_their_name(suffix: str, fake: FakePipeline) -> None:
    assert main(["generate", "a stár", "-n", "2", "--seed", "4", "-o", f"s.{suffix}"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == [f"s-{k}.{suffix}" for k in (0, 1, "grid")]
    record = read_record(Path(f"s-1.{suffix}"))
    assert (record.prompt, record.seed, record.num_inference_steps) == ("a stár", 5, 16)
    assert Image.open(f"s-0.{suffix}").format == {"webp": "WEBP"}.get(suffix, "JPEG")
    assert main(["generate", "a secret", "--no-metadata", "--quality", "30", "-o", f"t.{suffix}"]) == 0
    assert read_record(Path(f"t.{suffix}")) is None


def test_without_a_seed_each_run_draws_another_and_records_it(fake: FakePipeline) -> None:
    main(["generate", "a star"])
    main(["generate", "a star", "-o", "again.png"])
    seeds = [call["seed"] for call in fake.calls]
    assert seeds[0] != seeds[1]
    assert read_record(Path("out.png")).seed == seeds[0]


def test_metadata_can_be_left_out(fake: FakePipeline) -> None:
    main(["generate", "a secret", "--no-metadata"])
    assert b"secret" not in Path("out.png").read_bytes()


def test_edit_hands_over_its_pictures_and_takes_the_edit_s_own_guidance(fake: FakePipeline) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGBA", (30, 20), (0, 0, 0, 0)).save(name)
    assert main(["edit", "join them", "--image", "a.png", "--image", "b.png"]) == 0
    call = fake.calls[0]
    assert [(image.mode, image.size) for image in call["image"]] == [("RGB", (30, 20))] * 2
    assert call["guidance_scale"] == 1.5
    assert read_record(Path("out.png")).image == ("a.png", "b.png")


def test_ctrl_c_keeps_the_finished_pictures_and_exits_with_130(fake: FakePipeline, capsys) -> None:
    fake.fails_at = (2, KeyboardInterrupt())
    assert main(["generate", "a star", "-n", "4"]) == 130
    assert sorted(path.name for path in Path().iterdir()) == ["out-0.png", "out-1.png"]
    assert "2 of 4 pictures are kept" in capsys.readouterr().err


@pytest.mark.parametrize("prompt", ["", "  "])
@pytest.mark.parametrize("command", [["generate"], ["edit", "--image", "a.png"]])
def test_an_empty_prompt_given_on_purpose_draws(fake: FakePipeline, command: list[str], prompt: str) -> None:
    Image.new("RGB", (32, 32)).save("a.png")
    assert main([command[0], prompt, *command[1:]]) == 0
    assert fake.calls[0]["prompt"] == prompt


def test_what_was_cut_of_a_prompt_is_said_once_and_kept_in_the_picture(fake: FakePipeline, capsys) -> None:
    fake.cuts = [
        PromptCut(
            name="prompt",
            num_tokens=9,
            num_kept=2,
            limit="max_prompt_tokens",
            limit_tokens=2,
            kept="a red",
            left_out=" star on a tree",
        )
    ]
    assert main(["generate", "a red star on a tree", "-n", "2"]) == 0
    said = capsys.readouterr().err
    assert said.count("deepgen: prompt has 9 tokens and max_prompt_tokens is 2: only its first 2 tokens") == 1
    record = read_record(Path("out-1.png"))
    assert record is not None
    assert record.prompt == "a red star on a tree"
    assert record.prompt_cut == str(fake.cuts[0])


# --- refusals ---

REFUSED = [
    (["generate"], "the prompt is missing"),
    (["generate", "x", "--max-prompt-tokens", "0"], "--max-prompt-tokens must be at least 1"),
    (["generate", "bad \udcff bytes"], "the prompt is not valid text at character 4"),
    (["generate", "x", "--negative", "\udcff"], "--negative-prompt is not valid text"),
    (["generate", "x", "--size", "512"], "--size '512' is not WIDTHxHEIGHT in pixels, such as 96x96"),
    (["generate", "x", "--size", "axb"], "is not WIDTHxHEIGHT"),
    (["generate", "x", "--size", "100x96"], "not a multiple of 32 on both sides; try 96x96 or 128x96"),
    (["generate", "x", "--size", "0x96"], "not a multiple of 32 on both sides; try 32x96"),
    (["generate", "x", "--size", "512x300"], "positions end at 384 pixels a side; try 384x224"),
    (["edit", "x", "--image", "picture.png", "--size", "20x20"], "on both sides; try 32x32"),
    (["generate", "x", "--steps", "0"], "--num-inference-steps must be a whole number of at least 1, got 0"),
    (
        ["edit", "x", "--image", "picture.png", "--steps", "-3"],
        "--num-inference-steps must be a whole number of at least 1, got -3",
    ),
    (["generate", "x", "--guidance", "nan"], "--guidance-scale must be a finite number, 0 or more, got nan"),
    (["generate", "x", "--guidance", "-1"], "--guidance-scale must be a finite number, 0 or more, got -1.0"),
    (
        ["generate", "--file", "prompts.jsonl", "--steps", "0"],
        "--num-inference-steps must be a whole number of at least 1, got 0",
    ),
    (
        ["generate", "--file", "prompts.jsonl", "--guidance", "inf"],
        "--guidance-scale must be a finite number",
    ),
    (["eval", "shapes", "--steps", "0"], "--num-inference-steps must be a whole number of at least 1, got 0"),
    (["eval", "shapes", "--limit", "0"], "--limit must be at least 1, got 0"),
    (
        ["eval", "run", "shapes", "--steps", "0"],
        "--num-inference-steps must be a whole number of at least 1, got 0",
    ),
    (["eval", "run", "shapes", "--guidance", "nan"], "--guidance-scale must be a finite number"),
    (["eval", "run", "shapes", "--size", "100"], "on both sides; try 96x96"),
    (["eval", "run", "shapes", "--size", "512"], "positions end at 384 pixels a side; try 384x384"),
    (
        ["rewards", "guidance", "tiny", "--prompts", "p.yaml", "--steps", "0"],
        "--num-inference-steps must be a whole",
    ),
    (["generate", "x", "-n", "0"], "--num-images must be at least 1, got 0"),
    (["generate", "x", "--seed", "-1"], "--seed must be between 0"),
    (["generate", "x", "--seed", str(2**63)], "--seed must be between 0"),
    (
        ["generate", "x", "-o", "a.gif"],
        "written as .png, .jpg, .jpeg, .webp, and .gif is none of them; try a.png",
    ),
    (["generate", "x", "-o", "a"], "the name has no suffix; try a.png"),
    (["generate", "x", "-o", "a.jpg", "--quality", "0"], "--quality must be between 1 and 100, got 0"),
    (["generate", "x", "--quality", "90"], "--quality is for .jpg and .webp, and out.png loses nothing"),
    (["generate", "x" * 40_000, "-o", "a.jpg"], "too long to be kept in a JPEG file"),
    (["generate", "x", "-o", "a.webp", "--size", "16400x64"], "too large for a webp file"),
    (["generate", "x", "--format", "jpg"], "--format is for --file; name the picture: -o out.jpg"),
    (["generate", "x", "-o", "folder.png"], "--output folder.png is a folder"),
    (["generate", "x", "-o", "file/a.png"], "cannot write pictures to"),
    (["edit", "x"], "nothing to edit"),
    (["edit", "x", "--image", "nope.png"], "there is no picture at nope.png"),
    (["edit", "x", "--image", "file"], "file is not a picture we can read"),
    (["edit", "x", "--image", "https://host/a.png"], "addresses are not fetched"),
    (["train", "sft", "--set", "steps"], "--set 'steps' is not FIELD=VALUE"),
]


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_bad_input_is_one_clear_line_and_exit_code_2(arguments: list[str], message: str, capsys) -> None:
    Path("folder.png").mkdir()
    Path("file").write_text("no picture")
    Path("prompts.jsonl").write_text('{"prompt": "a star"}')
    Image.new("RGB", (96, 96)).save("picture.png")
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepgen: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["draw"],
        ["edit"],
        ["generate", "x", "--steps", "many"],
        ["generate", "x", "--scheduler", "magic"],
        ["generate", "x", "--colour"],
        ["eval", "nothing"],
    ],
)
def test_what_the_parser_refuses_also_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.usefixtures("nothing_loads")
def test_a_full_disk_is_noticed_before_the_model_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000_000))
    assert main(["generate", "x", "-n", "4"]) == 2
    assert "has 10.0 MB left, the pictures may need 26.2 MB" in capsys.readouterr().err


def test_room_for_one_small_picture_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20 + 96 * 96 * 3))
    check_output(tmp_path / "a.png", 1, 96 * 96)
    with pytest.raises(OSError, match="left"):
        check_output(tmp_path / "a.png", 1, 96 * 97)


def test_a_disk_that_fills_while_drawing_is_one_line_too(fake: FakePipeline, capsys) -> None:
    fake.fails_at = (1, OSError(28, "No space left on device"))
    assert main(["generate", "x", "-n", "2"]) == 2
    assert "No space left" in capsys.readouterr().err
    assert Path("out-0.png").exists()


def test_too_little_memory_says_what_to_try(fake: FakePipeline, capsys) -> None:
    fake.fails_at = (0, torch.OutOfMemoryError("CUDA out of memory."))
    assert main(["generate", "x"]) == 2
    assert "try --offload model" in capsys.readouterr().err


def test_bugs_and_debugging_keep_their_traceback(fake: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.fails_at = (0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes"):
        main(["generate", "x"])
    monkeypatch.setenv("DEEPGEN_DEBUG", "1")
    with pytest.raises(ValueError, match="prompt is missing"):
        main(["generate"])


# --- the model ---


def test_the_default_model_is_tiny_unless_the_environment_says_otherwise(
    fake: FakePipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["generate", "x"])
    assert read_record(Path("out.png")).model == "tiny"
    monkeypatch.setenv("DEEPGEN_MODEL", "some/folder")
    main(["generate", "x"])
    assert read_record(Path("out.png")).model == "some/folder"
    main(["generate", "x", "--model", "tiny"])
    assert read_record(Path("out.png")).model == "tiny"


@pytest.mark.parametrize("scheduler", NAMES)
def test_every_solver_draws_from_the_command_line(
    scheduler: str, pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(DeepGenPipeline, "from_pretrained", lambda *arguments, **options: pipe)
    assert main(["generate", "a star", "--seed", "1", "--steps", "3", "--scheduler", scheduler]) == 0
    assert "a storybook" in capsys.readouterr().err
    assert np.asarray(Image.open("out.png")).std() > 0
    assert read_record(Path("out.png")).solver == scheduler


def test_a_size_the_model_cannot_draw_names_the_nearest(
    pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(DeepGenPipeline, "from_pretrained", lambda *arguments, **options: pipe)
    assert main(["generate", "a star", "--size", "70x64"]) == 2
    assert "64x64" in capsys.readouterr().err


def test_dynamic_shift_is_followed_by_euler_alone() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert make_scheduler("euler", scheduler) is scheduler
    with pytest.raises(ValueError, match="use euler"):
        make_scheduler("heun", scheduler)
    with pytest.raises(ValueError, match="known: euler, heun, dpm"):
        make_scheduler("magic", scheduler)


def test_solvers_share_the_model_s_shift() -> None:
    euler = FlowMatchEulerDiscreteScheduler(shift=1.5)
    for name in NAMES:
        scheduler = make_scheduler(name, euler)
        assert scheduler.config.get("flow_shift", scheduler.config.get("shift")) == 1.5


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert loading.choose_device("auto") == "cpu"
    with pytest.raises(ValueError, match="--device cuda: PyTorch finds none here; there is: cpu"):
        loading.choose_device("cuda")
    with pytest.raises(ValueError, match="--offload model moves parts off an accelerator"):
        loading.check_offload("model", "cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert loading.choose_device("auto") == "mps"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert loading.choose_device("auto") == "cuda"


@pytest.mark.parametrize(
    ("asked", "device", "is_large", "expected"),
    [
        ("auto", "cpu", False, torch.float32),
        ("auto", "cpu", True, torch.bfloat16),
        ("auto", "mps", True, torch.bfloat16),
        ("auto", "cuda", False, torch.bfloat16),
        ("float16", "cuda", True, torch.float16),
        ("float32", "cpu", True, torch.float32),
    ],
)
def test_the_number_format_follows_device_and_size(
    asked, device: str, is_large: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert loading.choose_dtype(asked, device, is_large) == expected


@pytest.mark.parametrize(
    ("dtype", "has_instructions", "is_widened"),
    [
        ("bfloat16", False, True),
        ("bfloat16", True, False),
        ("float16", True, True),
        ("float32", False, False),
    ],
)
def test_a_cpu_computes_in_the_numbers_it_multiplies_faster(
    dtype, has_instructions: bool, is_widened: bool, pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_instructions)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    pipe.save_pretrained("model")
    loaded = loading.load_pipeline(ModelOptions(model="model", device="cpu", dtype=dtype))
    blocks = loaded.transformer.transformer_blocks
    assert is_widened_layer(blocks[0].attn.to_q) == is_widened
    assert blocks[0].attn.to_q.weight.dtype == getattr(torch, dtype)
    assert blocks[0].attn.norm_q.weight.dtype == (torch.float32 if is_widened else getattr(torch, dtype))


@pytest.mark.parametrize(
    ("options", "device_map"), [({}, "mps"), ({"offload": "model"}, None), ({"device": "cpu"}, None)]
)
def test_weights_are_read_straight_onto_an_accelerator_that_holds_them_all(
    options: dict[str, Any], device_map: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def from_pretrained(source: str, **settings: Any) -> None:
        asked.append(settings.get("device_map"))
        raise InterruptedError

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(DeepGenPipeline, "from_pretrained", from_pretrained)
    with pytest.raises(InterruptedError):
        loading.load_pipeline(ModelOptions(**{"model": "tiny", "device": "mps", **options}))
    assert asked == [device_map]


def test_a_model_is_large_from_two_billion_parameters_on(tmp_path: Path) -> None:
    assert not loading.is_large("tiny")
    assert loading.is_large("deepgenteam/DeepGen-1.0-diffusers")
    (tmp_path / "vlm").mkdir()
    with (tmp_path / "vlm" / "model.safetensors").open("wb") as file:
        assert not loading.is_large(str(tmp_path))
        file.truncate(5 * 10**9)  # a hole: takes no room
    assert loading.is_large(str(tmp_path))
    assert loading.is_large(str(tmp_path / "vlm" / "model.safetensors"))


# --- checkpoints ---


def test_convert_verify_and_info_agree_on_a_checkpoint(pipe: DeepGenPipeline, capsys) -> None:
    pipe.save_pretrained("original")
    assert main(["convert", "original", "copy", "--dtype", "bfloat16"]) == 0
    assert capsys.readouterr().out.startswith(str(Path("copy").absolute()))
    assert main(["verify", "copy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"]
    assert main(["info", "copy", "--json"]) == 0
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert {"bfloat16"} <= {kind for part in parts for kind in part["dtypes"]}


def test_verify_exits_with_1_when_something_is_wrong(pipe: DeepGenPipeline, capsys) -> None:
    pipe.save_pretrained("broken")
    weights = Path("broken/transformer/diffusion_pytorch_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert main(["verify", "broken"]) == 1
    assert "error" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["info", "a.safetensors"], ["convert", "a.safetensors", "x"]])
def test_a_checkpoint_that_cannot_be_used_is_one_line_and_exit_code_1(command: list[str], capsys) -> None:
    Path("a.safetensors").write_bytes(b"no weights")
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("deepgen: error: ")
    assert "a.safetensors" in error
    assert error.count("\n") == 1
    assert not Path("x").exists()


@pytest.mark.parametrize("command", [["verify", "nowhere"], ["info", "nowhere"], ["convert", "nowhere", "x"]])
def test_a_checkpoint_that_is_not_there_is_one_line(command: list[str], capsys) -> None:
    assert main(command) == 2
    assert "nowhere" in capsys.readouterr().err


def test_the_version_is_printed(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("deepgen 0.")


@pytest.mark.parametrize("arguments", [["info", "tiny", "--json"], ["eval", "storybook", "--help"]])
def test_a_reader_that_ends_early_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "deepgen", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0
