"""Parquet, tars and Hugging Face data sets: pictures inside other files, reached at random."""

from __future__ import annotations

import json
import pickle
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from deepgen.data.example import RowError
from deepgen.data.example_images import image_size, load_image
from deepgen.data.sources import make_source
from images_on_disk import image_bytes, write_image

# --- parquet ---

pa = pytest.importorskip("pyarrow")


def write_parquet(path: Path, columns: dict, row_group_size: int = 2) -> str:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.table(columns), path, row_group_size=row_group_size)
    return str(path)


def test_parquet_rows_are_reached_across_files_and_row_groups(tmp_path) -> None:
    for name, first in (("a", 0), ("b", 5)):
        rows = range(first, first + 5)
        write_parquet(
            tmp_path / f"{name}.parquet",
            {"text": [f"text {row}" for row in rows], "image": [image_bytes(row) for row in rows]},
        )
    source = make_source("parquet", path=str(tmp_path))
    assert [source[row].text for row in range(len(source))] == [f"text {row}" for row in range(10)]
    for row in (9, 0, 4, 5):
        assert source[row].target == image_bytes(row)
    assert source[7].key == f"{tmp_path / 'b.parquet'}:2"
    assert pickle.loads(pickle.dumps(source))[7].text == "text 7"


def test_parquet_columns_are_named_and_hold_paths_structs_or_lists(tmp_path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet",
        {
            "edit_instruction": ["redder"],
            "source": [[{"bytes": image_bytes(0), "path": None}, {"bytes": None, "path": "b.png"}]],
            "mask": ["m.png"],
            "edited": [{"bytes": image_bytes(1), "path": "ignored.png"}],
        },
    )
    source = make_source(
        "parquet", path=path, text="edit_instruction", target="edited", references=["source", "mask"]
    )
    example = source[0]
    assert (source.task, example.text) == ("edit", "redder")
    assert example.references == (image_bytes(0), tmp_path / "b.png", tmp_path / "m.png")
    assert example.target == image_bytes(1)


def test_missing_columns_are_refused_with_those_found(tmp_path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"caption": ["a"], "image": ["a.png"]})
    with pytest.raises(ValueError, match="expected the columns text, image, found: caption, image"):
        make_source("parquet", path=path)


def test_an_empty_cell_is_a_bad_row(tmp_path) -> None:
    path = write_parquet(tmp_path / "a.parquet", {"text": ["a", "b"], "image": ["a.png", None]})
    with pytest.raises(RowError, match=r"a.parquet:1: expected a picture .* found nothing"):
        make_source("parquet", path=path)[1]


def test_an_empty_table_is_refused(tmp_path) -> None:
    path = write_parquet(
        tmp_path / "a.parquet", {"text": pa.array([], pa.string()), "image": pa.array([], pa.string())}
    )
    with pytest.raises(ValueError, match="holds no rows"):
        make_source("parquet", path=path)


# --- tars ---


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    return str(path)


def tar_source(folder: Path, path: str, **options):
    return make_source("webdataset", path=path, cache_dir=str(folder / "cache"), **options)


def test_tars_of_pictures_and_texts_are_read_at_random(tmp_path) -> None:
    (tmp_path / "tars").mkdir()
    for shard in range(2):
        members = {}
        for row in range(3):
            members[f"sub.dir/{shard}{row}.jpg"] = image_bytes(10 * shard + row, format="JPEG")
            members[f"sub.dir/{shard}{row}.txt"] = f"text {shard}{row}\n".encode()
        write_tar(tmp_path / "tars" / f"{shard}.tar", members)
    source = tar_source(tmp_path, str(tmp_path / "tars"))
    assert len(source) == 6
    assert [source[row].text for row in (5, 0, 3)] == ["text 12", "text 00", "text 10"]
    assert source[4].key == f"{tmp_path / 'tars' / '1.tar'}!sub.dir/11"
    assert source[4].target.read() == image_bytes(11, format="JPEG")
    assert image_size(source[4].target) == (96, 96)
    assert len(list((tmp_path / "cache").glob("*.jsonl"))) == 2
    assert pickle.loads(pickle.dumps(source))[4].text == "text 11"


def test_tars_written_by_the_webdataset_package_are_read(tmp_path) -> None:
    webdataset = pytest.importorskip("webdataset")
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        for row in range(3):
            writer.write({"__key__": f"{row:04d}", "png": image_bytes(row), "json": {"prompt": f"p{row}"}})
    source = tar_source(tmp_path, str(tmp_path / "a.tar"), text="json", text_key="prompt")
    assert [source[row].text for row in range(3)] == ["p0", "p1", "p2"]
    assert source[2].target.read() == image_bytes(2)


def test_a_tar_of_edits_names_its_members(tmp_path) -> None:
    members = {
        "1.input.jpg": image_bytes(0),
        "1.output.jpg": image_bytes(1),
        "1.json": json.dumps({"instruction": "redder"}).encode(),
    }
    source = tar_source(
        tmp_path,
        write_tar(tmp_path / "a.tar", members),
        target="output.jpg",
        references=["input.jpg"],
        text="json",
        text_key="instruction",
    )
    example = source[0]
    assert (source.task, example.text) == ("edit", "redder")
    assert load_image(example.references[0]).tobytes() != load_image(example.target).tobytes()


@pytest.mark.parametrize(
    ("members", "options", "message"),
    [
        ({"1.jpg": b"x"}, {}, "expected a member txt, found: jpg"),
        ({"1.txt": b"x"}, {}, "expected a member that is a picture, found: txt"),
        ({"1.jpg": b"x", "1.json": b"{"}, {"text": "json", "text_key": "a"}, "cannot read its text"),
        ({"1.jpg": b"x", "1.json": b'{"b": 1}'}, {"text": "json", "text_key": "a"}, "found the fields: b"),
        ({"1.jpg": b"x", "1.json": b"{}"}, {"text": "json"}, "say with text_key"),
        ({}, {}, "holds no rows"),
    ],
)
def test_tars_without_what_is_asked_are_refused(tmp_path, members, options, message) -> None:
    path = write_tar(tmp_path / "a.tar", members)
    with pytest.raises(ValueError, match=message):
        tar_source(tmp_path, path, **options)


def test_a_compressed_tar_is_refused_with_what_to_do(tmp_path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz"):
        pass
    with pytest.raises(ValueError, match=r"must be unpacked to a plain .tar"):
        tar_source(tmp_path, str(tmp_path / "a.tar"))


# --- Hugging Face ---


def test_a_saved_data_set_is_read_without_decoding(tmp_path) -> None:
    datasets = pytest.importorskip("datasets")
    image = write_image(tmp_path / "a.png", 7)
    rows = datasets.Dataset.from_dict(
        {"prompt": ["a", "b"], "image": [str(image)] * 2, "inputs": [[str(image)] * 2] * 2}
    )
    rows = rows.cast_column("image", datasets.Image())
    rows = rows.cast_column("inputs", datasets.List(datasets.Image()))
    datasets.DatasetDict(train=rows).save_to_disk(str(tmp_path / "set"))
    source = make_source("huggingface", path=str(tmp_path / "set"), text="prompt", references=["inputs"])
    example = source[1]
    assert (len(source), source.task, example.text) == (2, "edit", "b")
    assert len(example.references) == 2
    assert load_image(example.references[1]).tobytes() == load_image(example.target).tobytes()
    assert pickle.loads(pickle.dumps(source))[0].text == "a"
    with pytest.raises(ValueError, match="expected the columns caption, image, found: prompt, image, inputs"):
        make_source("huggingface", path=str(tmp_path / "set"), text="caption")
    with pytest.raises(ValueError, match="no split 'test'; known: train"):
        make_source("huggingface", path=str(tmp_path / "set"), text="prompt", split="test")


def test_a_data_set_has_one_place() -> None:
    with pytest.raises(ValueError, match="either path"):
        make_source("huggingface")
