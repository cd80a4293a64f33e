"""Folders of other generators are scored: the layout of each official script, gaps, doubles, strangers.

`WRITERS` follow shared/spec/benchmarks.md, which describes the layouts from reading the official scripts.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from deepgen.cli.app import main
from deepgen.evaluation.benchmark import CannotDraw, Item
from deepgen.evaluation.benchmarks import load_benchmark
from deepgen.evaluation.image_folder import ImageFolder
from deepgen.evaluation.published import PUBLISHED
from evaluation.benchmark_files import image, write_all, write_gedit
from evaluation.stub_scorers import stub_scorers
from rewards.reward_server import serving

Write = Callable[[Path, Item, int], None]


def drawn(item: str, sample: int) -> Image.Image:
    """A picture that tells which one it is."""
    rng = np.random.default_rng(zlib.crc32(f"{item} {sample}".encode()))
    return Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))


def save(path: Path, item: Item, sample: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn(item.id, sample).save(path)


# --- what each official generator writes ---


def geneval(padding: int) -> Write:
    def write(out: Path, item: Item, count: int) -> None:
        folder = out / item.id
        for sample in range(count):
            save(folder / "samples" / f"{sample:0{padding}d}.png", item, sample)
        (folder / "metadata.jsonl").write_text(json.dumps(dict(item.metadata)))
        image(folder / "grid.png")

    return write


def dpg(out: Path, item: Item, count: int) -> None:
    """Four samples on one sheet, the first two on top."""
    sheet = Image.new("RGB", (32, 32))
    for sample in range(count):
        sheet.paste(drawn(item.id, sample), (16 * (sample % 2), 16 * (sample // 2)))
    sheet.save(out / f"{item.id}.png")


def unigenbench(mark: str) -> Write:
    def write(out: Path, item: Item, count: int) -> None:
        for sample in range(count):
            save(out / f"{item.id}{mark}{sample}.png", item, sample)

    return write


def wise(out: Path, item: Item, count: int) -> None:
    save(out / f"{item.id}.png", item)


def corebench(out: Path, item: Item, count: int) -> None:
    for sample in range(count):
        save(out / item.id[:4] / f"{item.id}-{sample}.png", item, sample)


def cvtg2k(out: Path, item: Item, count: int) -> None:
    folder = str(item.metadata["folder"]).replace("style", "Style")
    save(out / folder / str(item.metadata["area"]) / f"{item.metadata['index']}.png", item)


def gedit(out: Path, item: Item, count: int) -> None:
    folder = out / "fullset" / item.category / "en"
    save(folder / f"{item.id}.png", item)
    image(folder / f"{item.id}_SRCIMG.png")


def risebench(suffix: str) -> Write:
    def write(out: Path, item: Item, count: int) -> None:
        save(out / "images" / item.category / f"{item.id}{suffix}", item)

    return write


def unireditbench(out: Path, item: Item, count: int) -> None:
    save(out / item.category / f"{item.metadata['index']}.png", item)


WRITERS: dict[str, tuple[str, Write]] = {
    "GenEval's own": ("geneval", geneval(5)),
    "GenEval by DeepGen": ("geneval", geneval(4)),
    "DPG-Bench": ("dpg", dpg),
    "UniGenBench": ("unigenbench:en", unigenbench("_")),
    "UniGenBench by deepgen_rl": ("unigenbench:en", unigenbench(".")),
    "WISE": ("wise:legacy", wise),
    "T2I-CoReBench": ("corebench:reasoning", corebench),
    "CVTG-2K": ("cvtg2k", cvtg2k),
    "GEdit-Bench": ("gedit:en", gedit),
    "ImgEdit-Bench": ("imgedit", wise),
    "RISEBench": ("risebench:64", risebench(".png")),
    "UniREditBench": ("unireditbench", unireditbench),
}


def test_the_layout_of_every_published_benchmark_is_written_here() -> None:
    written = {name.partition(":")[0] for name, _ in WRITERS.values()}
    assert written == {label.partition("-")[0] for label in PUBLISHED}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_all(tmp_path_factory.mktemp("data"))
    write_gedit(folder)
    return folder


@pytest.fixture(scope="module")
def scorers():
    with serving(stub_scorers()) as server:
        yield server


def write_folder(out: Path, name: str, write: Write, data: Path) -> tuple[Any, list[Item], int]:
    benchmark = load_benchmark(name)
    items, count = benchmark.items(data, allow_altered=True), benchmark.settings.num_samples
    out.mkdir(parents=True)
    for item in items:
        write(out, item, count)
    return benchmark, items, count


@pytest.mark.parametrize("layout", WRITERS)
def test_a_folder_of_the_official_generator_is_scored(
    layout: str, data: Path, scorers, tmp_path: Path, capsys
) -> None:
    name, write = WRITERS[layout]
    benchmark, items, count = write_folder(tmp_path / "theirs", name, write, data)
    options = ["--data", str(data), "--allow-altered-data", "--negative", "", "-o", str(tmp_path / "run")]
    options += ["--ocr", scorers.url, "--detector", scorers.url]
    options += ["--judge-url", f"{scorers.url}/v1", "--judge-model", "stub"]
    assert main(["eval", "run", name, "--model", f"images:{tmp_path / 'theirs'}", *options]) == 0
    result = json.loads((tmp_path / "run" / benchmark.label / "result.json").read_text())
    assert result["coverage"] == 1
    assert result["problems"] == []
    for item in items:
        for sample in range(count):
            path = tmp_path / "run" / benchmark.label / benchmark.image_path(item, sample)
            assert Image.open(path).tobytes() == drawn(item.id, sample).tobytes(), (item.id, sample)
    said = capsys.readouterr().err
    assert f"{len(items) * count} of {len(items) * count} pictures found in {tmp_path / 'theirs'}" in said
    assert "of no item" not in said, "what official scripts write beside samples is known"


def test_other_file_formats_and_a_folder_further_up_are_found_and_named(data: Path, tmp_path: Path) -> None:
    write = risebench(".jpg")
    benchmark, items, _ = write_folder(tmp_path / "outputs" / "model", "risebench:64", write, data)
    match = ImageFolder("theirs", tmp_path).match(benchmark, items, 1)
    assert match.root == tmp_path / "outputs" / "model"
    assert len(match.found) == len(items)


def test_several_models_in_one_folder_are_named_and_none_is_guessed(data: Path, tmp_path: Path) -> None:
    for model in ("first", "second"):
        benchmark, items, _ = write_folder(tmp_path / model, "wise:legacy", wise, data)
    with pytest.raises(ValueError, match="lie in several folders: first, second; name one"):
        ImageFolder("theirs", tmp_path).match(benchmark, items, 1)


def test_pictures_of_nothing_are_refused_with_what_is_there_and_what_was_expected(
    data: Path, tmp_path: Path, capsys
) -> None:
    for name in ("cat.png", "dog.png"):
        image(tmp_path / "theirs" / name)
    options = ["--data", str(data), "--allow-altered-data", "--draw-only", "-o", str(tmp_path / "run")]
    assert main(["eval", "run", "geneval", "--model", f"images:{tmp_path / 'theirs'}", *options]) == 2
    said = capsys.readouterr().err
    assert "none of 2 pictures is of geneval; they are cat.png, dog.png" in said
    assert "would be one of images/00000/samples/0000, 00000/samples/0000, 00000_0" in said
    assert not (tmp_path / "run" / "geneval").exists(), "a refused run leaves no manifest"


def test_gaps_doubles_and_broken_files_are_findings_of_their_samples(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "theirs"
    benchmark, items, count = write_folder(out, "geneval", geneval(5), data)
    (out / "00000/samples/00001.png").unlink()
    (out / "00001/samples/00002.jpg").write_bytes((out / "00001/samples/00002.png").read_bytes())
    (out / "00002/samples/00000.png").write_bytes(b"\x89PNG no picture")
    image(out / "notes" / "sketch.png")
    image(out / "00003" / "samples" / "._00000.png")
    match = ImageFolder("theirs", out).match(benchmark, items, count)
    assert "is missing" in match.problems["00000", 1]
    assert "are both of this sample; keep one" in match.problems["00001", 2]
    assert match.unused == ["00001/samples/00002.jpg", "00001/samples/00002.png", "notes/sketch.png"]
    with pytest.raises(CannotDraw, match="no whole picture"):
        match.take("00002", 0)
    assert match.take("00003", 0).tobytes() == drawn("00003", 0).tobytes()


def test_a_gap_leaves_the_other_samples_of_its_item(data: Path, scorers, tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", "geneval", geneval(5), data)
    (tmp_path / "theirs/00000/samples/00001.png").unlink()
    options = ["--data", str(data), "--allow-altered-data", "--allow-partial", "-o", str(tmp_path / "run")]
    options += ["--detector", scorers.url, "--model", f"images:{tmp_path / 'theirs'}"]
    assert main(["eval", "run", "geneval", *options]) == 0
    result = json.loads((tmp_path / "run/geneval/result.json").read_text())
    assert (result["num_judged"], result["num_expected"]) == (15, 16)
    assert len(result["problems"]) == 1
    assert "is missing" in result["problems"][0]


def test_padding_never_makes_one_file_the_picture_of_two_items(tmp_path: Path) -> None:
    class Numbers(type(load_benchmark("wise:legacy"))):
        pass

    items = [Item(id=name, category="", prompt="x") for name in ("1", "01", "2")]
    for name in ("001.png", "2.png"):
        save(tmp_path / name, items[0])
    match = ImageFolder("theirs", tmp_path).match(Numbers(), items, 1)
    assert set(match.found) == {("2", 0)}
    assert "fits 1 sample 0, 01 sample 0; which is not certain" in match.problems["1", 0]


# --- a flat folder with a file of prompts ---


def test_a_file_of_prompts_says_which_picture_is_which(data: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark("wise:legacy")
    items = benchmark.items(data, allow_altered=True)
    rows = []
    for number, item in enumerate(reversed(items)):
        save(tmp_path / "json" / f"x{number}.png", item)
        rows.append({"file_name": f"x{number}.png", "text": item.prompt})
    (tmp_path / "json/metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for number, item in enumerate(items):
        save(tmp_path / "text" / f"{number + 1}.png", item)
    (tmp_path / "text/prompts.txt").write_text("\n".join(item.prompt for item in items))
    for kind in ("json", "text"):
        match = ImageFolder(kind, tmp_path / kind).match(benchmark, items, 1)
        assert match.problems == {}
        for item in items:
            assert match.take(item.id, 0).tobytes() == drawn(item.id, 0).tobytes()


def test_a_file_of_prompts_that_does_not_fit_is_refused(data: Path, tmp_path: Path) -> None:
    benchmark = load_benchmark("wise:legacy")
    items = benchmark.items(data, allow_altered=True)
    save(tmp_path / "1.png", items[0])
    for content, message in (
        ("one\ntwo", "has 2 prompts for 1 pictures"),
        ("other", "none of its 1 prompts"),
    ):
        (tmp_path / "prompts.txt").write_text(content)
        with pytest.raises(ValueError, match=message):
            ImageFolder("theirs", tmp_path).match(benchmark, items, 1)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png"}')
    with pytest.raises(ValueError, match=r"line 1 is no .*file_name"):
        ImageFolder("theirs", tmp_path).match(benchmark, items, 1)
