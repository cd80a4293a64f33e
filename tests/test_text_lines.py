"""The one reader of text: UTF-8 with or without a mark, lines that end at a line feed, errors by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepgen.data.records import RecordFile
from deepgen.evaluation.text_files import read_jsonl
from deepgen.text_lines import json_value, read_text, shown, text_lines

KEPT = "a\u2028b\x85c\x0bd\x0ce\x1cf\u2029g"  # all of which `str.splitlines` would divide


def test_only_line_feeds_end_lines_and_a_mark_is_no_part_of_them(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"{KEPT}\r\n\ntail".encode())
    assert [(line.number, line.text()) for line in text_lines(path)] == [(1, KEPT), (2, ""), (3, "tail")]
    assert read_text(path) == f"{KEPT}\n\ntail"


def test_every_reader_of_lines_keeps_what_only_looks_like_an_end(tmp_path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('\ufeff{"text": "a\u2028b\x85c"}\r\n\n{"text": "d"}'.encode())
    wanted = [{"text": "a\u2028b\x85c"}, {"text": "d"}]
    assert list(RecordFile(path)) == wanted
    assert read_jsonl(path) == wanted


def test_another_encoding_is_an_error_of_its_line(tmp_path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\ncaf\xe9\n")
    first, _, third = text_lines(path)
    assert first.text() == "fine"
    with pytest.raises(ValueError, match=r"^not UTF-8 at byte 3 \(b'\\xe9'\); save it as UTF-8$"):
        third.text()
    with pytest.raises(ValueError, match=r"a.txt, line 3: not UTF-8 at byte 3"):
        read_text(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\n".encode("utf-16"), "text in UTF-16; save it as UTF-8"),
        (b"a\rb\r", "end with carriage returns alone; save it with line feeds"),
    ],
)
def test_a_file_of_another_kind_is_refused_as_a_whole(tmp_path, content, message) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.jsonl.*{message}"):
        list(text_lines(path))


def test_a_row_says_where_in_the_file_it_stands_whatever_lies_between(tmp_path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\n\r\n\n{"a": "\xe9"}\n{"a": 3}\n' + b"[" * 100_000 + b"\n{\n")
    file = RecordFile(path)
    assert (file[0], file[2]) == ({"a": 1}, {"a": 3})
    for row, words in [
        (1, r"a.jsonl:1: not UTF-8 at byte 7 \(b'\\xe9'\); save it as UTF-8 \(line 4 of the file\)"),
        (3, r"a.jsonl:3: nested too deeply \(line 6 of the file\)"),
        (4, r"a.jsonl:4: not valid JSON: .* \(line 7 of the file\)"),
    ]:
        with pytest.raises(ValueError, match=words):
            file[row]


def test_an_array_that_is_nested_too_deeply_is_named(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": ' + "[" * 100_000)
    with pytest.raises(ValueError, match=r"a.json: the object at byte 1 is nested too deeply"):
        RecordFile(path)
    with pytest.raises(ValueError, match="nested too deeply"):
        json_value(path.read_bytes())


def test_what_is_no_unicode_is_shown_by_its_bytes() -> None:
    assert shown("café \U0001f431") == "café \U0001f431"
    assert shown(b"caf\xe9".decode("utf-8", "surrogateescape")) == "caf\\xe9"
    assert shown("half \ud83d") == "half \\ud83d"
    assert shown(str(Path("a"))) == "a"
