"""Records are found by their bytes, whatever the file's size, language and layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from deepgen.data import records
from deepgen.data.example import RowError
from deepgen.data.records import RecordFile, Records

ROWS = [{"text": f'Kätzchen 小猫 {{[,\\"{i}', "nested": {"list": [i, [i]]}} for i in range(50)]


def write_array(path: Path, rows=ROWS, **options) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False, **options), encoding="utf-8")
    return path


def write_lines(path: Path, rows=ROWS) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [7, 64, 1000, 2**24])
def test_every_record_of_an_array_is_found_whatever_the_chunk(tmp_path, monkeypatch, indent, chunk) -> None:
    monkeypatch.setattr(records, "_CHUNK", chunk)
    file = RecordFile(write_array(tmp_path / "a.json", indent=indent))
    assert [file[row] for row in range(len(file))] == ROWS


@pytest.mark.parametrize("chunk", [7, 2**24])
def test_every_line_is_a_record_and_empty_ones_are_not(tmp_path, monkeypatch, chunk) -> None:
    monkeypatch.setattr(records, "_CHUNK", chunk)
    path = write_lines(tmp_path / "a.jsonl")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\n").rstrip())
    file = RecordFile(path)
    assert [file[row] for row in range(len(file))] == ROWS


def test_a_byte_order_mark_is_no_part_of_the_array(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8-sig")
    assert RecordFile(path)[3] == ROWS[3]


def test_a_folder_stands_for_its_files_in_the_order_of_their_names(tmp_path) -> None:
    write_array(tmp_path / "b.json", ROWS[20:])
    write_array(tmp_path / "a.json", ROWS[:20])
    (tmp_path / "notes.txt").write_text("no manifest")
    both = Records(tmp_path)
    assert [both[row] for row in range(len(both))] == ROWS
    assert both.key(20) == f"{tmp_path / 'b.json'}:0"
    with pytest.raises(IndexError, match=r"\[0, 50\)"):
        both[50]


def test_a_large_files_index_is_cached_mapped_and_sent_by_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(records, "CACHED_FROM_BYTES", 0)
    path = write_lines(tmp_path / "a.jsonl")
    file = RecordFile(path, cache_dir=tmp_path / "cache")
    assert [cached.suffix for cached in (tmp_path / "cache").iterdir()] == [".npy"]
    monkeypatch.setattr(records, "_find_spans", None)  # from here on the cache must do
    again = RecordFile(path, cache_dir=tmp_path / "cache")
    sent = pickle.loads(pickle.dumps(file))
    assert file[7] == again[7] == sent[7] == ROWS[7]


def test_a_changed_file_is_indexed_anew(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(records, "CACHED_FROM_BYTES", 0)
    path = write_lines(tmp_path / "a.jsonl", ROWS[:3])
    assert len(RecordFile(path, cache_dir=tmp_path / "cache")) == 3
    assert len(RecordFile(write_lines(path), cache_dir=tmp_path / "cache")) == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1}', "expected one JSON array"),
        ("", "expected one JSON array"),
        ('[{"a": 1}', "cut short"),
        ('[{"a": 1}, {"a"', "cut short"),
        ('[{"a": 1} {"a": 2}]', "expected a comma"),
        ("[1, 2]", "expected an object at byte 1"),
        ("[]", "holds no records"),
    ],
)
def test_a_manifest_that_is_no_array_of_objects_is_refused_by_name(tmp_path, content, message) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        Records(path)
    assert "broken.json" in str(error.value)


def test_a_broken_line_is_a_bad_row_and_no_more(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[2]\n{"a": 4}\n')
    file = RecordFile(path)
    assert (file[0], file[3]) == ({"a": 1}, {"a": 4})
    with pytest.raises(RowError, match=r"a.jsonl:1: not valid JSON"):
        file[1]
    with pytest.raises(RowError, match=r"a.jsonl:2: expected an object"):
        file[2]


def test_a_missing_or_wrong_file_is_refused(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing at .*gone.json; expected a .json file or a folder"):
        Records(tmp_path / "gone.json")
    with pytest.raises(FileNotFoundError, match=r"holds no .json file"):
        Records(tmp_path)
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(ValueError, match=r"expected a .json file"):
        Records(tmp_path / "a.csv")
