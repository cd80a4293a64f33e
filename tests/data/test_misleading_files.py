"""Manifests that name files elsewhere, and files that are cut, empty, or replaced while they are in use."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from deepgen.data.batches import Batches
from deepgen.data.example import RowError
from deepgen.data.file_stamp import DataChangedError
from deepgen.data.loader import micro_batches
from deepgen.data.mixture import open_mixture, single_source
from deepgen.data.mixture_config import ImageRule
from deepgen.data.opening import open_data
from deepgen.data.prompts import open_prompts
from deepgen.data.sources import make_source
from images_on_disk import image_bytes, write_image


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(rows) if path.suffix == ".json" else "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text)
    return path


# --- names of files elsewhere


def manifest(folder: Path, source: str, image: str) -> dict[str, Any]:
    """Options of a source whose second row names a picture; the first is good."""
    write_image(folder / "good.png", 0)
    (folder / "good.json").write_text('{"caption": "a"}')
    names = ("good.png", image)
    if source == "folder":
        write_rows(folder / "metadata.jsonl", [{"file_name": name, "text": "a"} for name in names])
        return {"path": str(folder)}
    if source == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": ["a"] * 2, "image": names}), folder / "a.parquet")
        return {"path": str(folder / "a.parquet")}
    place = {"image_dir": str(folder)}
    if source == "jsonl":
        rows = [{"task": "generate", "text": "a", "target": name} for name in names]
        return {"path": str(write_rows(folder / "a.jsonl", rows))}
    if source == "t2i_sft":
        rows = [{"txt": "a", "image_path": name} for name in names]
    elif source == "edit":
        rows = [
            {"input_image": ["good.png", n], "output_image": "good.png", "instruction": ""} for n in names
        ]
    else:
        rows = [{"image": name, "annotation": "good.json"} for name in names]
        place |= {"caption_dir": str(folder), "caption_key": "caption"}
    return {"path": str(write_rows(folder / "a.json", rows)), **place}


@pytest.mark.parametrize("source", ["folder", "jsonl", "t2i_sft", "edit", "caption_pair", "parquet"])
@pytest.mark.parametrize("name", ["../private.png", "/etc/private.png", "sub/../../private.png"])
def test_a_manifest_that_points_outside_its_folder_is_refused_by_name(tmp_path, source, name) -> None:
    options = manifest(tmp_path / "set", source, name)
    opened = make_source(source, **options)
    assert opened[0].text in ("a", "")
    with pytest.raises(
        RowError, match=f"names '{name}', which lies outside of .*/set; it is not opened"
    ) as error:
        opened[1]
    assert ":1" in str(error.value)
    assert make_source(source, **options, outside=True)[1].text in ("a", "")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0.png", "no file can have the name"),
        ("half\ud800.png", "no file can have the name"),
        ("x" * 5000, "File name too long"),
    ],
)
def test_a_name_no_file_can_have_is_a_bad_row(tmp_path, name, message) -> None:
    from deepgen.data.example_images import image_size

    source = make_source("folder", **manifest(tmp_path, "folder", name))
    with pytest.raises(ValueError, match=message):
        image_size(source[1].target)


def test_names_inside_the_folder_may_take_any_way(tmp_path) -> None:
    for name in ("sub/../good.png", "./good.png", str(tmp_path / "good.png"), "good..png"):
        assert make_source("folder", **manifest(tmp_path, "folder", name))[1].target == tmp_path / name
    (tmp_path / "link").symlink_to("/tmp")  # links are the user's own work
    assert make_source("folder", **manifest(tmp_path, "folder", "link/a.png"))[1].target


def test_a_text_with_half_a_surrogate_pair_is_a_bad_row(tmp_path) -> None:
    rows = [{"task": "generate", "text": text, "target": "a.png"} for text in ("a", "b\ud800")]
    source = make_source("jsonl", path=str(write_rows(tmp_path / "a.jsonl", rows)))
    with pytest.raises(RowError, match="'text' has half of a surrogate pair at character 1"):
        source[1]


def test_prompts_of_a_mix_name_pictures_below_their_file_or_the_root(tmp_path) -> None:
    pytest.importorskip("yaml")
    write_image(tmp_path / "pictures" / "a.png", 0)
    write_rows(tmp_path / "sets" / "p.jsonl", [{"prompt": "x", "references": ["../pictures/a.png"]}])
    with pytest.raises(ValueError, match=r"1 of 1 prompts cannot be used: .*names '../pictures/a.png'"):
        open_prompts(tmp_path / "sets" / "p.jsonl", {"ocr": 1.0})
    (tmp_path / "mix.yaml").write_text("datasets: [{name: p, path: sets/p.jsonl, rewards: {ocr: 1}}]")
    assert open_prompts(tmp_path / "mix.yaml").draw(0, 0).references[0].size == (96, 96)


def test_prompts_that_cannot_be_used_are_named_when_the_file_is_opened(tmp_path) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes("\ufeffa star\r\n\ncafé\na\u2028b\n".encode().replace("é".encode(), b"\xe9"))
    with pytest.raises(ValueError, match=r"1 of 3 prompts .*p.txt:2: not UTF-8 .* \(line 3 of the file\)"):
        open_prompts(path, {"ocr": 1.0})
    path.write_bytes("\ufeffa star\r\n\na\u2028b".encode())
    mix = open_prompts(path, {"ocr": 1.0})
    assert {mix.draw(0, number).text for number in range(20)} == {"a star", "a\u2028b"}
    write_rows(
        tmp_path / "p.jsonl", [{"prompt": "a"}, {"text": "b"}, {"prompt": "c", "references": ["no.png"]}]
    )
    with pytest.raises(
        ValueError, match=r"2 of 3 .*p.jsonl:1: expected text .*p.jsonl:2: there is no picture at"
    ):
        open_prompts(tmp_path / "p.jsonl", {"ocr": 1.0})


def test_a_prompt_file_with_one_row_is_drawn_from_for_ever(tmp_path) -> None:
    (tmp_path / "p.txt").write_text("a star")
    mix = open_prompts(tmp_path / "p.txt", {"ocr": 1.0})
    assert {mix.draw(seed, number).text for seed in range(2) for number in range(10)} == {"a star"}


# --- cut and empty files


def test_a_parquet_file_that_is_cut_is_named(tmp_path) -> None:
    options = manifest(tmp_path, "parquet", "good.png")
    path = Path(options["path"])
    whole = path.read_bytes()
    for end in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        message = rf"a.parquet \({end:,} bytes\) is no whole parquet file; it was cut short or is damaged"
        with pytest.raises(ValueError, match=message):
            make_source("parquet", **options)
    with pytest.raises(ValueError, match="is no whole parquet file"):
        open_prompts(path, {"ocr": 1.0})


def test_a_damaged_row_group_is_a_bad_row_and_the_others_are_read(tmp_path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = [image_bytes(row, (32, 32)) for row in range(4)]
    table = pyarrow.table({"text": [f"t{row}" for row in range(4)], "image": images})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path, row_group_size=2, compression="zstd")
    content = bytearray(path.read_bytes())
    start = parquet.read_metadata(path).row_group(1).column(1).data_page_offset
    content[start : start + 200] = os.urandom(200)
    path.write_bytes(content)
    source = make_source("parquet", path=str(path))
    assert source[1].text == "t1"
    with pytest.raises(RowError, match=r"a.parquet:3: row group 1 is damaged"):
        source[3]


@pytest.mark.parametrize("source", ["jsonl", "t2i_sft", "parquet", "webdataset", "folder"])
def test_a_mixture_of_which_one_source_is_empty_is_refused_by_its_name(tmp_path, source) -> None:
    import tarfile

    good = write_rows(tmp_path / "good.json", [{"txt": "a", "image_path": "a.png"}])
    empty = tmp_path / "empty"
    empty.mkdir()
    if source == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": [], "image": []}), empty / "a.parquet")
    elif source == "webdataset":
        tarfile.open(empty / "a.tar", "w").close()
    elif source == "folder":
        (empty / "metadata.jsonl").write_text("\n")
    else:
        write_rows(empty / ("a.json" if source == "t2i_sft" else "a.jsonl"), [])
    (tmp_path / "m.yaml").write_text(
        "tasks: {generate: {sources: {full: {source: t2i_sft, path: good.json}, "
        f"bare: {{source: {source}, path: empty}}}}}}}}"
    )
    assert good.exists()
    with pytest.raises(ValueError, match=r"cannot be opened \(1\):\n  - bare: .*(holds no|names its task)"):
        open_mixture(tmp_path / "m.yaml")


# --- files that are replaced under a running job


def replace_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """As editors and downloads do: a new file under the old name."""
    write_rows(path.with_name("new.jsonl"), rows).replace(path)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_manifest_replaced_under_a_running_job_stops_it_in_one_line(tmp_path, change, num_workers) -> None:
    for row in range(4):
        write_image(tmp_path / f"{row}.png", row)
    rows = [{"task": "generate", "text": f"t{row}", "target": f"{row}.png"} for row in range(4)]
    path = write_rows(tmp_path / "a.jsonl", rows)
    mixture = single_source("a", "jsonl", {"path": str(path)}, ImageRule(image_size=64))
    steps = micro_batches(Batches(mixture, 2, 2), 0, 50, num_workers=num_workers, prefetch=1)
    assert next(steps)[0].texts
    if change == "removed":
        path.unlink()
    else:
        replace_rows(path, [{**row, "text": row["text"].upper()} for row in rows])
    with pytest.raises(DataChangedError, match=rf"a.jsonl was {change} while it was in use") as error:
        list(steps)
    assert "\n" not in str(error.value)
    assert "put the earlier file back and resume, or start anew with the present one" in str(error.value)


def test_a_table_that_was_replaced_is_not_read_by_the_old_plan(tmp_path) -> None:
    options = manifest(tmp_path, "parquet", "good.png")
    source = make_source("parquet", **options)
    source._tables.clear()  # as after some other row groups
    manifest(tmp_path, "parquet", "other name.png")
    with pytest.raises(DataChangedError, match=r"a.parquet was replaced"):
        source[0]


def test_a_caption_that_changes_is_read_as_it_is(tmp_path) -> None:
    """Nothing is kept of it, so what a step holds is what lies there."""
    write_image(tmp_path / "a.png", 0)
    (tmp_path / "a.txt").write_text("old")
    (source,) = open_data(tmp_path).sources.values()
    (tmp_path / "a.txt").write_text("new")
    assert source[0].text == "new"
    (tmp_path / "a.txt").unlink()
    with pytest.raises(RowError, match=r"its caption .*a.txt is gone"):
        source[0]
