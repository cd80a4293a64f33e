"""`generate --file`: rows, resuming, refusals by line, and two processes that draw what one draws."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deepgen.cli import main, prompt_file
from deepgen.cli.prompt_file import read_rows
from deepgen.data.png import read_record
from deepgen.pipeline import DeepGenPipeline

CASES = Path(__file__).parent / "prompts"  # files as users' editors wrote them


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEEPGEN_MODEL", raising=False)


@pytest.fixture
def drawn(pipe: DeepGenPipeline, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that were really drawn."""
    prompts, call = [], DeepGenPipeline.__call__

    def counted(self: DeepGenPipeline, prompt: str, **options: Any) -> Any:
        prompts.append(prompt)
        return call(self, prompt, **options)

    monkeypatch.setattr(DeepGenPipeline, "__call__", counted)
    monkeypatch.setattr(prompt_file, "load_pipeline", lambda options: pipe)
    return prompts


def write(rows: Sequence[dict[str, Any] | str], path: Path = Path("prompts.jsonl")) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def files(folder: str) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*.*"))}


def test_every_row_is_drawn_as_it_says(drawn: list[str]) -> None:
    Image.new("RGB", (64, 48), "red").save("red.png")
    rows = [
        {"prompt": "a cat"},
        {"prompt": "make it blue", "references": ["red.png"], "seed": 7, "name": "edits/blue.png"},
        {"prompt": "a dog", "size": "96x32", "negative": "fog"},
    ]
    assert main(["generate", "--file", write(rows), "-o", "out", "--seed", "40"]) == 0
    assert sorted(files("out")) == ["000001.png", "000003.png", "edits/blue.png"]
    assert read_record(Path("out/000001.png")).seed == 40
    assert read_record(Path("out/edits/blue.png")).image == ("red.png",)
    record = read_record(Path("out/000003.png"))
    assert (record.seed, record.width, record.height, record.negative_prompt) == (42, 96, 32, "fog")
    assert Image.open("out/edits/blue.png").size == (64, 48)


def test_a_second_run_draws_only_what_is_missing_broken_or_was_asked_anew(drawn: list[str]) -> None:
    rows = [{"prompt": word} for word in ("one", "two", "three", "four")]
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    before = files("out")
    drawn.clear()
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    assert drawn == []
    Path("out/000001.png").unlink()
    Path("out/000002.png").write_bytes(before["000002.png"][:-40])  # half written
    rows[2] = {"prompt": "three", "seed": 99}
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    assert drawn == ["one", "two", "three"]
    after = files("out")
    assert [name for name in before if after[name] != before[name]] == ["000003.png"]


def test_bad_rows_are_named_with_their_line_and_the_others_are_drawn(drawn: list[str], capsys) -> None:
    rows = [
        {"prompt": "a cat"},
        "{broken",
        {"seed": 1},
        {"prompt": "x", "sede": 1},
        {"prompt": "x", "seed": "1"},
        {"prompt": "x", "references": ["nowhere.png"]},
        {"prompt": "x", "name": "../x.png"},
        {"prompt": "x", "name": "000001.png"},
        {"prompt": "x", "size": "63x64"},
        "",
        {"prompt": "a dog"},
    ]
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 1
    said = capsys.readouterr().err
    for line, reason in (
        (2, "not JSON"),
        (3, "the prompt is missing"),
        (4, "unknown field 'sede'; did you mean seed?"),
        (5, "seed must be int, got '1'"),
        (6, "no such picture: nowhere.png"),
        (7, "name '../x.png' must lie below the output folder"),
        (8, "name '000001.png' was given to an earlier line"),
        (9, "size 63x64 (width x height) is not a multiple of"),
    ):
        assert f"prompts.jsonl, line {line}: {reason}" in said
    assert sorted(files("out")) == ["000001.png", "000011.png"]


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_a_row(drawn: list[str]) -> None:
    assert main(["generate", "--file", str(CASES / "bom_crlf.jsonl"), "-o", "out"]) == 0
    assert drawn == ["two blue stars", "a red circle"]
    assert sorted(files("out")) == ["000001.png", "b.png"]


def test_a_row_that_is_no_utf_8_is_refused_with_file_and_line_and_the_others_drawn(
    drawn: list[str], capsys
) -> None:
    assert main(["generate", "--file", str(CASES / "latin1.jsonl"), "-o", "out"]) == 1
    assert drawn == ["a red circle"]
    error = capsys.readouterr().err
    assert f"{CASES / 'latin1.jsonl'}, line 1: not UTF-8 at byte 15 (b'\\xe9'); save it as UTF-8" in error


def test_only_ends_of_lines_divide_rows() -> None:
    content = '{"prompt": "a\u2028b"}\n{"prompt": "c\u0085d"}\r\n\r\n{"prompt": "e\x0cf"}'
    path = Path("p.jsonl")
    path.write_bytes(content.replace("\x0c", "\\f").encode())
    rows, problems = read_rows(path)
    assert [(row.line, row.prompt) for row in rows] == [(1, "a\u2028b"), (2, "c\x85d"), (4, "e\x0cf")]
    assert problems == []
    path = Path("p.txt")
    path.write_bytes("a\u2028b\nc\x0cd\n".encode())
    assert [row.prompt for row in read_rows(path)[0]] == ["a\u2028b", "c\x0cd"]
    path.write_bytes(b"a star\ra circle\r")
    with pytest.raises(ValueError, match="end with carriage returns alone; save it with line feeds"):
        read_rows(path)


def test_a_text_file_is_a_prompt_a_line(drawn: list[str]) -> None:
    text = "\ufeff# stars\r\n\r\n  two blue stars  \r\n\\#1 in gold\r\n# circles\r\na red circle, #2"
    Path("p.txt").write_bytes(text.encode())
    assert main(["generate", "--file", "p.txt", "-o", "out", "--seed", "10", "--format", "jpg"]) == 0
    assert drawn == ["two blue stars", "#1 in gold", "a red circle, #2"]
    assert sorted(files("out")) == ["000003.jpg", "000004.jpg", "000006.jpg"]
    assert read_record(Path("out/000006.jpg")).seed == 15
    drawn.clear()
    assert main(["generate", "--file", "p.txt", "-o", "out", "--seed", "10", "--format", "jpg"]) == 0
    assert drawn == []


def test_text_in_another_encoding_is_named_with_its_line() -> None:
    Path("p.txt").write_bytes("café\n".encode("latin-1") + b"a star\n")
    rows, problems = read_rows(Path("p.txt"))
    assert [row.prompt for row in rows] == ["a star"]
    assert "p.txt, line 1: not UTF-8 at byte 3" in problems[0]
    Path("p.txt").write_bytes("a star\n".encode("utf-16"))
    with pytest.raises(ValueError, match="UTF-16; save it as UTF-8"):
        read_rows(Path("p.txt"))


def test_a_row_may_ask_for_several_pictures_and_its_own_preset(drawn: list[str]) -> None:
    rows = [
        {"prompt": "a cat", "n": 3, "seed": 5, "name": "cats/c.webp", "preset": "fast"},
        {"prompt": "a dog", "steps": 3, "guidance": 1, "n": None},
    ]
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    assert sorted(files("out")) == ["000002.png", *(f"cats/c-{k}.webp" for k in range(3))]
    records = [read_record(Path(f"out/cats/c-{k}.webp")) for k in range(3)]
    assert [(record.seed, record.preset, record.num_inference_steps) for record in records] == [
        (k, "fast", 2)  # the model's own, which are fewer
        for k in (5, 6, 7)
    ]
    dog = read_record(Path("out/000002.png"))
    assert (dog.num_inference_steps, dog.guidance_scale, dog.preset, dog.seed) == (3, 1, "exact", 1)
    before = files("out")
    Path("out/cats/c-1.webp").unlink()
    drawn.clear()
    assert main(["generate", "--file", write(rows), "-o", "out"]) == 0
    assert drawn == ["a cat"]
    assert files("out") == before


def test_the_command_line_says_how_many_pictures_rows_have_that_do_not() -> None:
    rows, _ = read_rows(Path(write([{"prompt": "a"}, {"prompt": "b", "n": 1}])), num_images=2)
    assert [(row.name, row.seed) for row in rows] == [
        ("000001-0.png", 0),
        ("000001-1.png", 1),
        ("000002.png", 1),
    ]


def test_a_row_may_have_a_mask_and_an_edit_drawn_smaller_is_said(drawn: list[str], capsys) -> None:
    source = Image.effect_noise((200, 100), 80).convert("RGB")
    source.save("a.png")
    mask = source.convert("RGBA")
    mask.paste((0, 0, 0, 0), (0, 0, 100, 100))
    mask.save("m.png")
    row = {"prompt": "red", "references": ["a.png"], "mask": "m.png", "name": "a.png"}
    assert main(["generate", "--file", write([row]), "-o", "out"]) == 0
    made = Image.open("out/a.png")
    assert made.crop((100, 0, 200, 100)).tobytes() == source.crop((100, 0, 200, 100)).tobytes()
    assert made.crop((0, 0, 100, 100)).tobytes() != source.crop((0, 0, 100, 100)).tobytes()
    assert "drawn at 64x32, enlarged to 200x100" in capsys.readouterr().out
    drawn.clear()
    assert main(["generate", "--file", write([row]), "-o", "out"]) == 0
    assert drawn == []


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"n": 0}, "n must be between 1 and 10000, got 0"),
        ({"n": 2.5}, "n must be int, got 2.5"),
        ({"n": True}, "n must be int, got True"),
        ({"preset": "balance"}, "preset 'balance' is unknown; did you mean balanced?"),
        ({"steps": "5"}, "num_inference_steps must be int"),
        ({"guidance": "high"}, "guidance_scale must be float"),
        ({"num_inference_step": 3}, "unknown field 'num_inference_step'; did you mean num_inference_steps?"),
        ({"refrences": []}, "unknown field 'refrences'; did you mean image?"),
        ({"references": [3]}, "no such picture"),
        ({"mask": "m.png"}, "mask marks what may change in a picture; name the picture under image"),
        ({"name": "a.gif"}, ".gif is none of them; try a.png"),
        ({"name": "/a.png"}, "must lie below the output folder"),
        ({"seed": 2**63 - 1, "n": 2}, "seed must be between 0 and 2^63 - 2"),
    ],
)
def test_a_wrong_field_is_named(row: dict[str, Any], reason: str) -> None:
    rows, problems = read_rows(Path(write([{"prompt": "x", **row}])))
    assert rows == []
    assert len(problems) == 1
    assert reason in problems[0]


def test_names_of_several_pictures_must_not_meet_another_row() -> None:
    rows, problems = read_rows(
        Path(write([{"prompt": "a", "name": "x-1.png"}, {"prompt": "b", "name": "x.png", "n": 2}]))
    )
    assert [row.name for row in rows] == ["x-1.png"]
    assert "name 'x-1.png' was given to an earlier line" in problems[0]


def test_seeds_go_by_line_so_a_bad_row_moves_none() -> None:
    rows, problems = read_rows(Path(write(["{", {"prompt": "a"}, {"prompt": "b", "seed": 3}])), first_seed=10)
    assert [row.seed for row in rows] == [11, 3]
    assert len(problems) == 1


def test_a_file_and_a_prompt_exclude_each_other(capsys) -> None:
    assert main(["generate", "a cat", "--file", write([{"prompt": "x"}])]) == 2
    assert "--file brings its own prompts" in capsys.readouterr().err


def test_generate_without_a_prompt_or_a_file_asks_for_one(capsys) -> None:
    assert main(["generate"]) == 2
    assert "the prompt is missing; say what to draw" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_draw_what_one_draws_picture_for_picture(tmp_path: Path) -> None:
    rows = [{"prompt": f"a {color} star"} for color in ("red", "blue", "green", "pink", "yellow")]
    command = ["-m", "deepgen", "generate", "--file", write(rows), "--steps", "3", "--device", "cpu"]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for words, folder in ((command, "one"), ([*launch, *command], "two")):
        subprocess.run([sys.executable, *words, "-o", folder], check=True, env=environment, timeout=900)
    assert len(files("one")) == 5
    assert files("two") == files("one")


def test_json_nested_without_end_is_a_problem_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "deep.jsonl"
    path.write_text("[" * 100_000 + '\n{"prompt": "a"}\n')
    rows, problems = read_rows(path)
    assert [row.prompt for row in rows] == ["a"]
    assert len(problems) == 1
    assert "line 1: not a row: JSON nested too deeply" in problems[0]
